//! Interfaces.

use futures::TryStreamExt;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, LinkXdp, XdpAttached as Attached};

use super::{Netlink, NetlinkError, error::errno, virtual_interfaces::arp};
use crate::core::{
    interface::{Interface, Mode, XdpAttached},
    vrrp::Arp,
};

impl Netlink {
    /// Looks an interface up by name.
    pub async fn interface(&self, name: &str) -> Result<Option<Interface>, NetlinkError> {
        Ok(self.link(name).await?.map(|link| link.interface))
    }

    /// Looks an interface up by name, with its link.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let request = self.handle.link().get().match_name(name.to_owned());
        match request.execute().try_next().await {
            Ok(message) => Ok(message.as_ref().map(|message| Link {
                interface: parse(message),
                carrier: message.header.flags.contains(LinkFlags::LowerUp),
                arp: arp(message),
            })),
            // Linux answers ENODEV to an unknown name, EINVAL or ERANGE to one that no interface can have.
            Err(error) if matches!(errno(&error), Some(19 | 22 | 34)) => Ok(None),
            Err(error) => Err(NetlinkError::request(format!("looking up interface {name}"))(
                error,
            )),
        }
    }
}

/// An interface and its link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The interface.
    pub interface: Interface,
    /// Whether anybody is at the other end.
    pub carrier: bool,
    /// What it says by itself of addresses that are not its own; `None` if IPv4 is not on it.
    pub arp: Option<Arp>,
}

/// Takes in the kernel's description of an interface.
pub(super) fn parse(message: &LinkMessage) -> Interface {
    let mut interface = Interface {
        index: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        xdp: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Address(bytes) => interface.mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
            LinkAttribute::Xdp(details) => interface.xdp = xdp(details),
            _ => {}
        }
    }
    interface
}

fn xdp(details: &[LinkXdp]) -> Option<XdpAttached> {
    let mut attached = XdpAttached {
        mode: None,
        program: None,
    };
    for detail in details {
        match detail {
            LinkXdp::Attached(Attached::None) => return None,
            LinkXdp::Attached(Attached::Driver) => attached.mode = Some(Mode::Native),
            LinkXdp::Attached(Attached::SocketBuffer) => attached.mode = Some(Mode::Generic),
            LinkXdp::ProgId(id) => attached.program = Some(*id),
            _ => {}
        }
    }
    Some(attached)
}
