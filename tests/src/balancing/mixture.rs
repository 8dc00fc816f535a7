//! The mixtures of families that tunnels allow.

use std::net::IpAddr;

use crate::hosts::lab::{Host, Lab};

/// A service in tunnels: the family of its VIP, and that of the addresses at which it knows its backends.
#[derive(Clone, Copy, Debug)]
pub struct Mixture {
    /// Inside and outside, as in `v4-in-v6`. The service is called so.
    pub name: &'static str,
    /// Its VIP in a lab of two.
    pub vip: fn(&Lab) -> IpAddr,
    /// The address at which it knows a backend.
    pub backend: fn(&Host) -> IpAddr,
    /// The longest packet of a client that fits, where links have an MTU of 1500 bytes.
    pub longest_packet: usize,
}

/// All of them: the first VIP in tunnels of its own family, the second in the other's.
pub const MIXTURES: [Mixture; 4] = [
    Mixture {
        name: "v4-in-v4",
        vip: |lab| lab.vips()[0].v4.into(),
        backend: |host| host.v4().into(),
        longest_packet: 1480,
    },
    Mixture {
        name: "v6-in-v6",
        vip: |lab| lab.vips()[0].v6.into(),
        backend: |host| host.v6().into(),
        longest_packet: 1460,
    },
    Mixture {
        name: "v4-in-v6",
        vip: |lab| lab.vips()[1].v4.into(),
        backend: |host| host.v6().into(),
        longest_packet: 1460,
    },
    Mixture {
        name: "v6-in-v4",
        vip: |lab| lab.vips()[1].v6.into(),
        backend: |host| host.v4().into(),
        longest_packet: 1480,
    },
];
