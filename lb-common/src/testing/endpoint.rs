//! A backend that opens the tunnels of the fixture, and what arrives there.

use core::{cell::RefCell, net::IpAddr};
use std::{collections::BTreeMap, vec::Vec};

use super::{
    Frame, HostTables,
    cases::{CLIENT, CLIENT6},
    tables::{
        JUMBO_TUNNEL_TARGET, ONE, ONE6, TUNNEL_V4_BACKEND, TUNNEL_V4_SOURCE, TUNNEL_V4_TARGET,
        TUNNEL_V6_BACKEND, TUNNEL_V6_SOURCE, TUNNEL_V6_TARGET, VIP, VIP6,
    },
};
use crate::{
    address::Address,
    decapsulate::{Counter, Endpoint, Network, Sources, role},
    forward::ipip::wrap,
    layout::Target,
};

/// The networks from which [`HostEndpoint`] accepts tunnels: address and length.
pub const SOURCES: [(IpAddr, u8); 2] = [
    (IpAddr::V4(TUNNEL_V4_SOURCE), 16),
    (IpAddr::V6(TUNNEL_V6_SOURCE), 64),
];
/// Where tunnels of [`HostEndpoint`] end.
pub const ENDPOINTS: [IpAddr; 2] = [IpAddr::V4(TUNNEL_V4_BACKEND), IpAddr::V6(TUNNEL_V6_BACKEND)];
/// To whom the packets may be that [`HostEndpoint`] takes out of tunnels.
pub const VIPS: [IpAddr; 2] = [VIP, VIP6];

/// Both targets of the fixture's tunnels in one host.
#[derive(Clone, Debug, Default)]
pub struct HostEndpoint {
    counters: RefCell<BTreeMap<u32, u64>>,
}

impl HostEndpoint {
    /// What was counted under a counter.
    pub fn counted(&self, counter: Counter) -> u64 {
        let counters = self.counters.borrow();
        counters.get(&(counter as u32)).copied().unwrap_or_default()
    }
}

impl Endpoint for HostEndpoint {
    fn role(&self, address: Address) -> u32 {
        match IpAddr::from(address) {
            address if VIPS.contains(&address) => role::VIP,
            address if ENDPOINTS.contains(&address) => role::ENDPOINT,
            _ => 0,
        }
    }

    fn accepts(&self, source: Address) -> bool {
        Sources::new(SOURCES.map(|(address, length)| Network::new(address.into(), length))).contain(source)
    }

    fn count(&self, counter: Counter) {
        *self.counters.borrow_mut().entry(counter as u32).or_default() += 1;
    }
}

/// The targets of the fixture's tunnels: IPv4, IPv6.
pub fn targets() -> [Target; 2] {
    let tables = HostTables::fixture();
    [TUNNEL_V4_TARGET, TUNNEL_V6_TARGET].map(|id| tables.targets[usize::from(id)])
}

/// The target of the fixture's tunnel over links with an MTU of 9000 bytes.
pub fn jumbo_target() -> Target {
    HostTables::fixture().targets[usize::from(JUMBO_TUNNEL_TARGET)]
}

/// A client's packets to a VIP: IPv4, IPv6.
pub fn packets() -> [Frame; 2] {
    [Frame::new(CLIENT, ONE), Frame::new(CLIENT6, ONE6)]
}

/// A frame as the balancer sends it to a target.
pub fn wrapped(frame: &[u8], target: &Target) -> Vec<u8> {
    let mut frame = frame.to_vec();
    assert_eq!(wrap(&mut frame, target, 0x1234_5678_9abc_def0), Ok(()));
    frame
}
