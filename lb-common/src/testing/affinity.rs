//! The cases of services with affinity in untracked slots.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::vec::Vec;

use super::{
    cases::{Case, Outcome},
    frame::Frame,
    tables::{AFFINE, AFFINE6},
};
use crate::headers::tcp::Flags;

/// Clients and the targets that [`AFFINE`] gives them. They follow from the hash's definition, computed elsewhere.
const TARGETS: [(u8, u16); 3] = [(7, 1), (8, 3), (9, 2)];

/// Likewise for [`AFFINE6`].
const TARGETS6: [(u16, u16); 3] = [(0x77, 3), (0x78, 2), (0x7b, 1)];

pub(super) fn cases() -> Vec<Case> {
    let clients = TARGETS.map(|(host, id)| (IpAddr::V4(Ipv4Addr::new(198, 51, 100, host)), AFFINE, id));
    let clients6 = TARGETS6.map(|(host, id)| {
        (
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, host)),
            AFFINE6,
            id,
        )
    });
    let mut cases = Vec::new();
    for (client, service, id) in clients.into_iter().chain(clients6) {
        for port in [1, 40_000, 40_001, 65_535] {
            for (sentence, flags, new_flow) in [
                (
                    "a client of a service with affinity has one slot, whatever its ports",
                    Flags::ACK,
                    false,
                ),
                ("so have its new connections", Flags::SYN, true),
            ] {
                cases.push(Case {
                    sentence,
                    frame: Frame::new(SocketAddr::new(client, port), service)
                        .flags(flags)
                        .bytes(),
                    outcome: Outcome::Forward { id, new_flow },
                });
            }
        }
    }
    cases
}
