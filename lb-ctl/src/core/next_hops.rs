//! Where frames for a target go on the wire, as neighbours come, change and go.

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::layout::{Forwarding, NextHop, Target};

use super::{interface::Mac, plan::PlannedTarget};

/// The longest IP packet that an Ethernet interface takes unless it is told otherwise, in bytes.
const ETHERNET_MTU: u16 = 1500;

/// A target whose entry in the target table must be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The target's id.
    pub id: u16,
    /// Its new entry.
    pub target: Target,
}

/// The next hops of all targets on one interface.
#[derive(Clone, Debug)]
pub struct NextHops {
    source: Mac,
    by_address: BTreeMap<IpAddr, Neighbour>,
}

#[derive(Clone, Debug, Default)]
struct Neighbour {
    mac: Option<Mac>,
    targets: Vec<(u16, Forwarding)>,
}

impl NextHops {
    /// Starts with nothing resolved. `source` is our interface's MAC address.
    pub fn new<'a>(source: Mac, targets: impl IntoIterator<Item = &'a PlannedTarget>) -> Self {
        let mut by_address = BTreeMap::<IpAddr, Neighbour>::new();
        for &PlannedTarget {
            id,
            address,
            forwarding,
        } in targets
        {
            by_address
                .entry(address)
                .or_default()
                .targets
                .push((id, forwarding));
        }
        Self { source, by_address }
    }

    /// Takes in what the kernel says about a neighbour. Returns the entries to write; none when nothing changed, or the
    /// address belongs to no backend.
    ///
    /// A neighbour that fails to answer (`mac` is `None`) keeps its last known address: whether a backend is dead is
    /// for health checks to say, and frames for a dead one are lost either way.
    pub fn neighbour(&mut self, address: IpAddr, mac: Option<Mac>) -> Vec<Change> {
        let source = self.source;
        match self.by_address.get_mut(&address) {
            Some(hop) if mac.is_some() && hop.mac != mac => {
                hop.mac = mac;
                hop.changes(address, source).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Takes in our interface's MAC address. Returns the entries to write.
    pub fn source(&mut self, source: Mac) -> Vec<Change> {
        if self.source == source {
            return Vec::new();
        }
        self.source = source;
        self.by_address
            .iter()
            .flat_map(|(&address, hop)| hop.changes(address, source))
            .collect()
    }

    /// Whether a backend has this address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.by_address.contains_key(&address)
    }

    /// The addresses of all backends.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.by_address.keys().copied()
    }

    /// The addresses that have never been resolved.
    pub fn unresolved(&self) -> impl Iterator<Item = IpAddr> {
        self.by_address
            .iter()
            .filter(|(_, hop)| hop.mac.is_none())
            .map(|(&address, _)| address)
    }

    /// The MAC address of a backend, once known.
    pub fn mac(&self, address: IpAddr) -> Option<Mac> {
        self.by_address.get(&address)?.mac
    }
}

impl Neighbour {
    fn changes(&self, address: IpAddr, source: Mac) -> impl Iterator<Item = Change> {
        self.mac.into_iter().flat_map(move |mac| {
            let next_hop = NextHop {
                mac,
                source,
                egress: 0,
                mtu: ETHERNET_MTU,
            };
            self.targets.iter().map(move |&(id, forwarding)| Change {
                id,
                target: Target::new(address.into(), forwarding, Some(next_hop)),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Mac = [2, 0, 0, 0, 0, 1];
    const FIRST: Mac = [2, 0, 0, 0, 0, 10];
    const SECOND: Mac = [2, 0, 0, 0, 0, 11];

    fn address(host: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, host])
    }

    /// The entry that target `id`, on backend `host`, should get.
    fn change(id: u16, host: u8, mac: Mac) -> Change {
        change_from(id, host, mac, OURS)
    }

    fn change_from(id: u16, host: u8, mac: Mac, source: Mac) -> Change {
        let next_hop = NextHop {
            mac,
            source,
            egress: 0,
            mtu: 1500,
        };
        Change {
            id,
            target: Target::new(address(host).into(), Forwarding::Dsr, Some(next_hop)),
        }
    }

    /// Backend .1 serves two services (targets 1 and 3), backend .2 one.
    fn next_hops() -> NextHops {
        let targets = [(1, 1), (2, 2), (3, 1)].map(|(id, host)| PlannedTarget {
            id,
            address: address(host),
            forwarding: Forwarding::Dsr,
        });
        NextHops::new(OURS, &targets)
    }

    #[test]
    fn an_answer_resolves_all_targets_of_the_backend() {
        let mut hops = next_hops();
        assert_eq!(hops.unresolved().count(), 2);
        assert_eq!(
            hops.neighbour(address(1), Some(FIRST)),
            [change(1, 1, FIRST), change(3, 1, FIRST)]
        );
        assert_eq!(hops.unresolved().collect::<Vec<_>>(), [address(2)]);
    }

    #[test]
    fn an_answer_that_says_nothing_new_writes_nothing() {
        let mut hops = next_hops();
        hops.neighbour(address(1), Some(FIRST));
        assert_eq!(hops.neighbour(address(1), Some(FIRST)), []);
    }

    #[test]
    fn a_backend_that_moves_to_another_card_is_followed() {
        let mut hops = next_hops();
        hops.neighbour(address(2), Some(FIRST));
        assert_eq!(hops.neighbour(address(2), Some(SECOND)), [change(2, 2, SECOND)]);
    }

    #[test]
    fn a_neighbour_that_fails_keeps_its_address() {
        let mut hops = next_hops();
        hops.neighbour(address(2), Some(FIRST));
        assert_eq!(hops.neighbour(address(2), None), []);
        assert_eq!(hops.mac(address(2)), Some(FIRST));
    }

    #[test]
    fn strangers_are_ignored() {
        assert_eq!(next_hops().neighbour(address(99), Some(FIRST)), []);
    }

    #[test]
    fn another_source_rewrites_what_is_resolved() {
        let mut hops = next_hops();
        hops.neighbour(address(2), Some(FIRST));
        let changes = hops.source(SECOND);
        assert_eq!(changes, [change_from(2, 2, FIRST, SECOND)]);
        assert_eq!(hops.source(SECOND), []);
    }
}
