//! Addresses on interfaces, and which of them are ours.
//!
//! An address that we add carries our mark in its protocol attribute (`IFA_PROTO`, Linux 5.18), as routes carry the
//! name of the daemon that added them. So whatever happens to the daemon, its addresses can be told from an operator's,
//! without a file that could be lost or lie.

use std::net::IpAddr;

use futures::TryStreamExt;
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressProtocol, CacheInfo,
};

use super::{Netlink, NetlinkError, error::errno};

/// Our mark on addresses: the letter L. The kernel itself uses 1 to 3.
pub const OWNER: u8 = 0x4c;

/// An address on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface's index.
    pub interface: u32,
    /// The address.
    pub address: IpAddr,
    /// Whether we added it.
    pub ours: bool,
    /// What else the kernel says of it: `IFA_F_…` of its `linux/if_addr.h`.
    pub flags: u32,
    message: AddressMessage,
}

impl Netlink {
    /// All addresses of this host.
    pub async fn addresses(&self) -> Result<Vec<Address>, NetlinkError> {
        let messages: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(NetlinkError::request("listing addresses"))?;
        Ok(messages.into_iter().filter_map(Address::of).collect())
    }

    /// Adds a VIP to an interface, as a host address with our mark. It may be there already.
    pub async fn add_vip(&self, interface: u32, vip: IpAddr) -> Result<(), NetlinkError> {
        let length = if vip.is_ipv4() { 32 } else { 128 };
        let mut request = self.handle.address().add(interface, vip, length);
        if vip.is_ipv6() {
            // Backends hold the same address, though they do not answer for it; and detection would keep the VIP
            // unusable for a second or more (RFC 4862, 5.4).
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            // Deprecated: the kernel answers for it, but prefers any other as the source of connections of its own (RFC 6724,
            // rule 3). To backends, which hold the VIP themselves, they would never be answered. With IPv4 the primary address
            // of the network goes first anyway.
            let mut lifetimes = CacheInfo::default();
            lifetimes.ifa_valid = FOR_EVER;
            lifetimes.ifa_preferred = 0;
            let attributes = &mut request.message_mut().attributes;
            attributes.push(AddressAttribute::CacheInfo(lifetimes));
        }
        request
            .message_mut()
            .attributes
            .push(AddressAttribute::Protocol(AddressProtocol::from(OWNER)));
        match request.execute().await {
            Err(error) if errno(&error) == Some(EEXIST) => Ok(()),
            other => other.map_err(NetlinkError::request(format!("adding the address {vip}"))),
        }
    }

    /// Removes an address. It may have gone already, and its interface too.
    pub async fn remove_address(&self, address: &Address) -> Result<(), NetlinkError> {
        match self.handle.address().del(address.message.clone()).execute().await {
            Err(error) if matches!(errno(&error), Some(EADDRNOTAVAIL | ENODEV)) => Ok(()),
            other => other.map_err(NetlinkError::request(format!(
                "removing the address {}",
                address.address
            ))),
        }
    }
}

/// `INFINITY_LIFE_TIME` of the kernel's net/addrconf.h, in seconds.
const FOR_EVER: u32 = u32::MAX;

const EEXIST: i32 = 17;
const ENODEV: i32 = 19;
const EADDRNOTAVAIL: i32 = 99;

impl Address {
    fn of(message: AddressMessage) -> Option<Self> {
        let mut local = None;
        let mut remote = None;
        let mut ours = false;
        // The header has room for eight of them only, which the attribute has too.
        let mut flags = message.header.flags.bits().into();
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(address) => local = Some(*address),
                AddressAttribute::Address(address) => remote = Some(*address),
                AddressAttribute::Protocol(protocol) => ours = u8::from(*protocol) == OWNER,
                AddressAttribute::Flags(all) => flags = all.bits(),
                _ => {}
            }
        }
        // On point-to-point links the two differ; IPv6 has the second one only.
        let address = local.or(remote)?;
        Some(Self {
            interface: message.header.index,
            address,
            ours,
            flags,
            message,
        })
    }
}
