//! Neighbours: which MAC address an IP address has on a link.

use std::net::IpAddr;

use futures::TryStreamExt;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::{Netlink, NetlinkError};
use crate::core::interface::Mac;

/// What the kernel knows about a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The index of the interface on which it is a neighbour.
    pub interface: u32,
    /// Its IP address.
    pub address: IpAddr,
    /// Its MAC address; `None` while it is being asked for, and after it has failed to answer.
    pub mac: Option<Mac>,
}

impl Netlink {
    /// All neighbours in the kernel's tables.
    pub async fn neighbours(&self) -> Result<Vec<Neighbour>, NetlinkError> {
        let messages: Vec<NeighbourMessage> = self
            .handle
            .neighbours()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(NetlinkError::request("listing neighbours"))?;
        Ok(messages.iter().filter_map(Neighbour::of).collect())
    }

    /// Has the kernel find out, or confirm, a neighbour's MAC address, as if it had a packet to send (`NTF_USE`).
    pub async fn probe_neighbour(&self, interface: u32, address: IpAddr) -> Result<(), NetlinkError> {
        self.handle
            .neighbours()
            .add(interface, address)
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace()
            .execute()
            .await
            .map_err(NetlinkError::request(format!("asking the link for {address}")))
    }
}

impl Neighbour {
    pub(super) fn of(message: &NeighbourMessage) -> Option<Self> {
        let mut address = None;
        let mut mac = None;
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                    address = Some(IpAddr::V4(*v4));
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                    address = Some(IpAddr::V6(*v6));
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
                _ => {}
            }
        }
        // An entry that has failed may still carry its old address.
        let usable = matches!(
            message.header.state,
            NeighbourState::Reachable
                | NeighbourState::Stale
                | NeighbourState::Delay
                | NeighbourState::Probe
                | NeighbourState::Permanent
        );
        Some(Self {
            interface: message.header.ifindex,
            address: address?,
            mac: mac.filter(|_| usable),
        })
    }
}
