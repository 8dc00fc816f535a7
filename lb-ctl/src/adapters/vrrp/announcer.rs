//! Sends frames of our own making: what tells neighbours whose an address is, and whatever comes from a virtual MAC address.

use std::io;

use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

use super::{VrrpError, socket_option};
use crate::core::interface::Mac;

/// A packet socket that only sends.
#[derive(Debug)]
pub struct Announcer {
    socket: Socket,
    address: SockAddr,
    interface: String,
}

impl Announcer {
    /// On this interface. As long as it is open the interface takes in frames to the virtual MAC address, too, if there is one: whoever is
    /// not master, or not any more, forwards what reaches it. May wait for the kernel.
    pub fn open(interface: &str, index: u32, virtual_mac: Option<Mac>) -> Result<Self, VrrpError> {
        // Without a protocol nothing is received.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)
            .map_err(VrrpError::of("opening a packet socket", interface))?;
        socket
            .set_nonblocking(true)
            .map_err(VrrpError::of("opening a packet socket", interface))?;
        if let Some(mac) = virtual_mac {
            take_in(&socket, index, mac).map_err(VrrpError::of(
                "taking in frames to the virtual MAC address",
                interface,
            ))?;
        }
        Ok(Self {
            socket,
            address: link_address(index),
            interface: interface.to_owned(),
        })
    }

    /// One that nobody hears.
    #[cfg(test)]
    pub(crate) fn mute() -> Self {
        Self {
            socket: Socket::new(Domain::UNIX, Type::DGRAM, None).unwrap(),
            address: link_address(1),
            interface: "eth0".into(),
        }
    }

    /// Sends a whole frame, from its Ethernet header on.
    pub fn send(&self, frame: &[u8]) -> Result<(), VrrpError> {
        self.socket
            .send_to(frame, &self.address)
            .map(drop)
            .map_err(VrrpError::of("sending a frame", &self.interface))
    }
}

/// Has an interface take in frames to this MAC address (`PACKET_MR_UNICAST`), until the socket is closed.
fn take_in(socket: &Socket, index: u32, mac: Mac) -> io::Result<()> {
    let mut address = [0; 8];
    address[..mac.len()].copy_from_slice(&mac);
    let request = libc::packet_mreq {
        mr_ifindex: index.cast_signed(),
        mr_type: libc::PACKET_MR_UNICAST.try_into().unwrap_or_default(),
        mr_alen: mac.len().try_into().unwrap_or_default(),
        mr_address: address,
    };
    // SAFETY: the option takes a `packet_mreq`, which has the address itself in it.
    unsafe { socket_option::set(socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request) }
}

/// The address of an interface, for frames that have their header.
fn link_address(index: u32) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is a type of socket address that fits into the storage, and valid if all its bytes are 0.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET.cast_unsigned().try_into().unwrap_or_default();
    link.sll_ifindex = index.cast_signed();
    let length = size_of::<libc::sockaddr_ll>();
    // SAFETY: the storage holds a `sockaddr_ll`, whose family says so, and this is its length.
    unsafe { SockAddr::new(storage, length.try_into().unwrap_or_default()) }
}
