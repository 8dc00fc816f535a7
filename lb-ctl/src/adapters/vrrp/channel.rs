//! The sockets of an instance.
//!
//! One sends, one receives. The sender is a socket of `IPPROTO_RAW`, which takes packets with their IP header and receives nothing; the
//! receiver one of VRRP's own protocol, to which the kernel gives packets of the instance's virtual router only. Both are bound to the
//! interface.
//!
//! To join the multicast group, and to leave it, the kernel takes the lock of its whole network configuration (RTNL), for which it may
//! have to wait. So [`Sockets`] are opened and dropped where waiting does no harm; what is done with a [`Channel`] waits for nothing.

use std::{
    io,
    mem::MaybeUninit,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
    num::NonZeroU8,
    slice,
};

use socket2::{
    Domain, InterfaceIndexOrAddress, MaybeUninitSlice, MsgHdrMut, Protocol, SockAddr, SockFilter, Socket,
    Type,
};
use tokio::io::unix::AsyncFd;

use super::{VrrpError, socket_option};
use crate::core::vrrp::{PROTOCOL, Received, group_address, of_ipv4, with_ip_header};

/// The longest packet that can be an advertisement: 255 IPv6 addresses, and an IPv4 header with options.
const LONGEST: usize = 60 + 8 + 255 * 16;

/// Which packets an instance sends and receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The virtual router.
    pub vrid: NonZeroU8,
    /// Of which family its packets are.
    pub is_ipv4: bool,
    /// Whether it listens to the multicast group.
    pub is_multicast: bool,
}

/// The sockets of an instance that does not listen yet, or no more.
#[derive(Debug)]
pub struct Sockets {
    interface: String,
    index: u32,
    is_ipv4: bool,
    receiver: Socket,
    sender: Socket,
}

/// Sends and receives for one instance.
#[derive(Debug)]
pub struct Channel {
    interface: String,
    index: u32,
    is_ipv4: bool,
    receiver: AsyncFd<Socket>,
    sender: Socket,
}

/// A packet that has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    from: IpAddr,
    to: IpAddr,
    hop_limit: u8,
    bytes: Vec<u8>,
}

impl Incoming {
    /// As the core takes it.
    pub fn received(&self) -> Received<'_> {
        Received {
            from: self.from,
            to: self.to,
            hop_limit: self.hop_limit,
            bytes: &self.bytes,
        }
    }
}

impl Sockets {
    /// Opens them on this interface. May wait for the kernel.
    pub fn open(interface: &str, index: u32, endpoint: Endpoint) -> Result<Self, VrrpError> {
        let is_ipv4 = endpoint.is_ipv4;
        let receiver =
            receiver(interface, index, endpoint).map_err(VrrpError::of("receiving VRRP", interface))?;
        let sender = sender(interface, index, is_ipv4).map_err(VrrpError::of("sending VRRP", interface))?;
        Ok(Self {
            interface: interface.to_owned(),
            index,
            is_ipv4,
            receiver,
            sender,
        })
    }
}

#[cfg(test)]
impl Sockets {
    /// Such that nobody can listen to them: a file is always ready, so there is nothing to wait for.
    pub(crate) fn of_a_file() -> Self {
        let file = || Socket::from(std::os::fd::OwnedFd::from(tempfile::tempfile().unwrap()));
        Self {
            interface: "eth0".into(),
            index: 1,
            is_ipv4: true,
            receiver: file(),
            sender: file(),
        }
    }

    /// Such that nothing ever arrives at them, and nothing can be sent.
    pub(crate) fn of_a_pair() -> Self {
        let (receiver, sender) = Socket::pair(Domain::UNIX, Type::DGRAM, None).unwrap();
        Self {
            receiver,
            sender,
            ..Self::of_a_file()
        }
    }
}

impl Channel {
    /// Listens. Must be called within a tokio runtime.
    pub fn listen(sockets: Sockets) -> Result<Self, VrrpError> {
        let Sockets {
            interface,
            index,
            is_ipv4,
            receiver,
            sender,
        } = sockets;
        let registered =
            // SAFETY: the socket's descriptor stays the same and open until it is dropped, which the registration is first.
            unsafe { AsyncFd::register_with_interest(receiver, tokio::io::Interest::READABLE) };
        let receiver =
            registered.map_err(|error| VrrpError::of("receiving VRRP", &interface)(error.into()))?;
        Ok(Self {
            interface,
            index,
            is_ipv4,
            receiver,
            sender,
        })
    }

    /// Listens no more. To drop the sockets may wait for the kernel.
    pub fn into_sockets(self) -> Sockets {
        Sockets {
            interface: self.interface,
            index: self.index,
            is_ipv4: self.is_ipv4,
            receiver: self.receiver.into_inner(),
            sender: self.sender,
        }
    }

    /// Sends a payload from one address to another.
    pub fn send(&self, from: IpAddr, to: IpAddr, payload: &[u8]) -> Result<(), VrrpError> {
        let address = match to {
            IpAddr::V4(to) => SocketAddr::from((to, 0)),
            IpAddr::V6(to) => SocketAddrV6::new(to, 0, 0, self.index).into(),
        };
        self.sender
            .send_to(&with_ip_header(from, to, payload), &address.into())
            .map(drop)
            .map_err(VrrpError::of("sending an advertisement", &self.interface))
    }

    /// The next packet. Can be cancelled without losing one.
    pub async fn receive(&self) -> Result<Incoming, VrrpError> {
        loop {
            let mut guard = self
                .receiver
                .readable()
                .await
                .map_err(VrrpError::of("receiving VRRP", &self.interface))?;
            match guard.try_io(|receiver| self.take(receiver.get_ref())) {
                Ok(Ok(Some(packet))) => return Ok(packet),
                // Not even an IP header.
                Ok(Ok(None)) | Err(_) => {}
                Ok(Err(error)) => return Err(VrrpError::of("receiving VRRP", &self.interface)(error)),
            }
        }
    }

    /// A packet that has arrived already, if there is one.
    pub fn arrived(&self) -> Option<Incoming> {
        loop {
            match self.take(self.receiver.get_ref()) {
                Ok(Some(packet)) => return Some(packet),
                Ok(None) => {}
                // Whatever it is, `receive` will meet it too.
                Err(_) => return None,
            }
        }
    }

    fn take(&self, receiver: &Socket) -> io::Result<Option<Incoming>> {
        let mut bytes = [MaybeUninit::<u8>::uninit(); LONGEST + 1];
        let mut control = [MaybeUninit::<u8>::uninit(); 256];
        // Room for the sender's: the kernel writes no more of an address than there is.
        let mut from = SockAddr::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0));
        let (length, control_length) = {
            let mut buffers = [MaybeUninitSlice::new(&mut bytes)];
            let mut message = MsgHdrMut::new()
                .with_addr(&mut from)
                .with_buffers(&mut buffers)
                .with_control(&mut control);
            let length = receiver.recvmsg(&mut message, 0)?;
            (length, message.control_len())
        };
        let bytes = initialised(&bytes, length);
        if self.is_ipv4 {
            let packet = of_ipv4(bytes);
            return Ok(packet.map(|packet| Incoming {
                from: packet.from,
                to: packet.to,
                hop_limit: packet.hop_limit,
                bytes: packet.bytes.to_vec(),
            }));
        }
        let Ancillary { to, hop_limit } = Ancillary::of(initialised(&control, control_length));
        let from = from.as_socket_ipv6().map(|from| IpAddr::V6(*from.ip()));
        Ok(from
            .zip(to)
            .zip(hop_limit)
            .map(|((from, to), hop_limit)| Incoming {
                from,
                to: to.into(),
                hop_limit,
                bytes: bytes.to_vec(),
            }))
    }
}

/// The first bytes of a buffer, which the kernel has written.
fn initialised(buffer: &[MaybeUninit<u8>], length: usize) -> &[u8] {
    let length = length.min(buffer.len());
    // SAFETY: `recvmsg` has said that it has written so many bytes, which are within the buffer; bytes need no alignment.
    unsafe { slice::from_raw_parts(buffer.as_ptr().cast(), length) }
}

fn bound(interface: &str, is_ipv4: bool, protocol: u8) -> io::Result<Socket> {
    let domain = if is_ipv4 { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(protocol))))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_nonblocking(true)?;
    // TC_PRIO_CONTROL: queues of the host let it pass.
    socket.set_priority(7)?;
    Ok(socket)
}

fn sender(interface: &str, index: u32, is_ipv4: bool) -> io::Result<Socket> {
    let socket = bound(
        interface,
        is_ipv4,
        libc::IPPROTO_RAW.cast_unsigned().try_into().unwrap_or(u8::MAX),
    )?;
    if is_ipv4 {
        socket.set_multicast_loop_v4(false)?;
    } else {
        socket.set_multicast_loop_v6(false)?;
        socket.set_multicast_if_v6(index)?;
    }
    Ok(socket)
}

fn receiver(interface: &str, index: u32, endpoint: Endpoint) -> io::Result<Socket> {
    let socket = bound(interface, endpoint.is_ipv4, PROTOCOL)?;
    socket.attach_filter(&only(endpoint.vrid, endpoint.is_ipv4))?;
    if !endpoint.is_ipv4 {
        socket.set_recv_hoplimit_v6(true)?;
        receive_packet_info(&socket)?;
    }
    if endpoint.is_multicast {
        match group_address(endpoint.is_ipv4) {
            IpAddr::V4(group) => {
                socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(index))?;
            }
            IpAddr::V6(group) => socket.join_multicast_v6(&group, index)?,
        }
    }
    Ok(socket)
}

/// The classic BPF program that lets packets of this virtual router in, whatever else is wrong with them, since that is worth
/// knowing: other routers' packets, and what has no VRID at all, must not fill the socket's buffer. A raw socket of IPv4 sees packets from their IP
/// header on, one of IPv6 from what comes after it.
fn only(vrid: NonZeroU8, is_ipv4: bool) -> [SockFilter; 5] {
    const LENGTH_OF_IPV4_HEADER: u32 = libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH;
    const NO_HEADER: u32 = libc::BPF_LDX | libc::BPF_W | libc::BPF_IMM;
    let code = |code: u32| u16::try_from(code).unwrap_or_default();
    let statement = |operation, operand| SockFilter::new(code(operation), 0, 0, operand);
    [
        // x = 4 * (byte 0 & 0xf), or 0.
        statement(if is_ipv4 { LENGTH_OF_IPV4_HEADER } else { NO_HEADER }, 0),
        // Byte x + 1. Where there is none the packet does not get in.
        statement(libc::BPF_LD | libc::BPF_B | libc::BPF_IND, 1),
        SockFilter::new(
            code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K),
            0,
            1,
            u32::from(vrid.get()),
        ),
        statement(libc::BPF_RET | libc::BPF_K, u32::MAX),
        statement(libc::BPF_RET | libc::BPF_K, 0),
    ]
}

/// Has the kernel say to which address a packet came (`IPV6_RECVPKTINFO`).
fn receive_packet_info(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option takes an int.
    unsafe { socket_option::set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, &on) }
}

/// What the kernel says of an IPv6 packet beside its payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ancillary {
    to: Option<Ipv6Addr>,
    hop_limit: Option<u8>,
}

impl Ancillary {
    /// Reads control messages: a length, a level and a type each, then their data; each begins on a word boundary.
    fn of(mut control: &[u8]) -> Self {
        const WORD: usize = size_of::<usize>();
        const HEADER: usize = WORD + 8;
        let mut it = Self::default();
        while let Some((length, rest)) = control.split_first_chunk::<WORD>() {
            let length = usize::from_ne_bytes(*length);
            let Some((&[l0, l1, l2, l3, t0, t1, t2, t3], _)) = rest.split_first_chunk::<8>() else {
                break;
            };
            let Some(data) = control.get(HEADER..length) else {
                break;
            };
            let level = i32::from_ne_bytes([l0, l1, l2, l3]);
            let kind = i32::from_ne_bytes([t0, t1, t2, t3]);
            match (level, kind) {
                (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                    let value = data.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
                    it.hop_limit = value.and_then(|value| value.try_into().ok());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    it.to = data.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets));
                }
                _ => {}
            }
            control = control.get(length.next_multiple_of(WORD)..).unwrap_or_default();
        }
        it
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The kernel's own opinion of the filter, on a pair of sockets that give it what a raw socket would.
    #[test]
    fn packets_of_other_virtual_routers_do_not_get_in_whatever_the_family() {
        let advertisement = |vrid: u8| vec![0x31, vrid, 100, 1, 0, 25, 0, 0];
        let with_header = |words: u8, payload: &[u8]| {
            let mut packet = vec![0_u8; usize::from(words) * 4];
            packet[0] = 0x40 | words;
            packet.extend(payload);
            packet
        };
        for is_ipv4 in [true, false] {
            let wrap = |words: u8, payload: &[u8]| {
                if is_ipv4 {
                    with_header(words, payload)
                } else {
                    payload.to_vec()
                }
            };
            let (sender, receiver) = Socket::pair(Domain::UNIX, Type::DGRAM, None).unwrap();
            receiver
                .attach_filter(&only(NonZeroU8::new(51).unwrap(), is_ipv4))
                .unwrap();
            receiver.set_nonblocking(true).unwrap();
            let gets_in = |packet: &[u8]| {
                sender.send(packet).unwrap();
                let mut buffer = [MaybeUninit::uninit(); 128];
                receiver.recv(&mut buffer).is_ok()
            };
            // With IP options or without, and of whatever version: it is counted.
            for words in [5, 6, 15] {
                assert!(gets_in(&wrap(words, &advertisement(51))));
                assert!(gets_in(&wrap(words, &[0x21, 51])));
                for vrid in [0, 1, 50, 52, 255] {
                    assert!(!gets_in(&wrap(words, &advertisement(vrid))), "VRID {vrid}");
                }
                assert!(!gets_in(&wrap(words, &[0x31])), "too short for a VRID");
            }
        }
    }

    fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = (16 + data.len()).to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn destination_and_hop_limit_are_found_among_others() {
        let to: Ipv6Addr = "ff02::12".parse().unwrap();
        let mut info = to.octets().to_vec();
        info.extend(7_u32.to_ne_bytes());
        let control = [
            message(1, 2, b"other"),
            message(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info),
            message(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, &255_i32.to_ne_bytes()),
        ]
        .concat();
        let expected = Ancillary {
            to: Some(to),
            hop_limit: Some(255),
        };
        assert_eq!(Ancillary::of(&control), expected);
        assert_eq!(Ancillary::of(&control[..control.len() - 9]).hop_limit, None);
    }

    proptest! {
        #[test]
        fn no_control_messages_make_it_panic(bytes: Vec<u8>, lengths: Vec<u8>) {
            Ancillary::of(&bytes);
            // Lengths that are nearly right.
            let control: Vec<u8> = lengths
                .iter()
                .flat_map(|length| [usize::from(*length).to_ne_bytes().to_vec(), bytes.clone()].concat())
                .collect();
            Ancillary::of(&control);
        }
    }
}
