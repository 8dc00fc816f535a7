//! Neighbours: which MAC address an IP address has on a link.

use std::net::IpAddr;

use futures::TryStreamExt;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::{Netlink, NetlinkError, error::errno};
use crate::core::interface::Mac;

/// What the kernel knows about a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The index of the interface on which it is a neighbour.
    pub interface: u32,
    /// Its IP address.
    pub address: IpAddr,
    /// What is known.
    pub knowledge: Knowledge,
}

/// What the kernel knows about a neighbour's MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knowledge {
    /// It was learned, and can be asked for again.
    Learned(Mac),
    /// An operator has set it.
    Fixed(Mac),
    /// It is being asked for.
    Asking,
    /// Nothing: the neighbour has not answered, or the entry was deleted.
    Nothing,
}

impl Knowledge {
    /// The MAC address, if there is one to send to.
    pub const fn mac(self) -> Option<Mac> {
        match self {
            Self::Learned(mac) | Self::Fixed(mac) => Some(mac),
            Self::Asking | Self::Nothing => None,
        }
    }
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

    /// Has the kernel ask for a neighbour's MAC address that it does not know, as if it had a packet to send
    /// (`NTF_USE`).
    pub async fn resolve_neighbour(&self, interface: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let request = self.handle.neighbours().add(interface, address);
        let request = request
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace();
        request
            .execute()
            .await
            .map_err(NetlinkError::request(format!("asking the link for {address}")))
    }

    /// Has the kernel ask a neighbour that it has learned whether it still has its MAC address (state `NUD_PROBE`). The
    /// entry stays usable meanwhile. Without an answer it fails after a few seconds. No error if it is not known any more.
    pub async fn confirm_neighbour(&self, interface: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let request = self
            .handle
            .neighbours()
            .add(interface, address)
            .state(NeighbourState::Probe)
            .replace();
        match request.execute().await {
            Err(error) if errno(&error) == Some(EINVAL) => Ok(()),
            other => other.map_err(NetlinkError::request(format!(
                "asking {address} for its MAC address"
            ))),
        }
    }
}

/// The kernel's answer to a probe of an entry that has no address to be probed.
const EINVAL: i32 = 22;

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
        let knowledge = match (message.header.state, mac) {
            (
                NeighbourState::Reachable
                | NeighbourState::Stale
                | NeighbourState::Delay
                | NeighbourState::Probe,
                Some(mac),
            ) => Knowledge::Learned(mac),
            (NeighbourState::Permanent, Some(mac)) => Knowledge::Fixed(mac),
            (NeighbourState::Incomplete, _) => Knowledge::Asking,
            // An entry that has failed may still carry its old address.
            _ => Knowledge::Nothing,
        };
        Some(Self {
            interface: message.header.ifindex,
            address: address?,
            knowledge,
        })
    }
}
