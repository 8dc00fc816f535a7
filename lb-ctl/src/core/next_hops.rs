//! Where frames for a target go on the wire, as neighbours come, change and go.

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::layout::{Forwarding, NextHop, Target};

use super::interface::Mac;

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
    targets: BTreeMap<u16, Forwarding>,
}

impl NextHops {
    /// Starts without targets. `source` is our interface's MAC address.
    pub const fn new(source: Mac) -> Self {
        Self {
            source,
            by_address: BTreeMap::new(),
        }
    }

    /// Takes in a target of a backend, or another way of forwarding for it. Returns the entry to write, if the backend's MAC
    /// address is known already.
    pub fn insert(&mut self, id: u16, address: IpAddr, forwarding: Forwarding) -> Option<Change> {
        let source = self.source;
        let hop = self.by_address.entry(address).or_default();
        let earlier = hop.targets.insert(id, forwarding);
        if earlier == Some(forwarding) {
            return None;
        }
        hop.changes(address, source).find(|change| change.id == id)
    }

    /// Takes in where an earlier run has sent a backend's packets: the kernel will correct it, should it be out of date.
    pub fn adopt(&mut self, address: IpAddr, mac: Mac) {
        if let Some(hop) = self.by_address.get_mut(&address) {
            hop.mac = Some(mac);
        }
    }

    /// Forgets a target, and its backend with the last one.
    pub fn remove(&mut self, id: u16) {
        self.by_address.retain(|_, hop| {
            hop.targets.remove(&id);
            !hop.targets.is_empty()
        });
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
        self.entries()
    }

    /// The entries of all targets whose backends are resolved.
    pub fn entries(&self) -> Vec<Change> {
        self.by_address
            .iter()
            .flat_map(|(&address, hop)| hop.changes(address, self.source))
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
            self.targets.iter().map(move |(&id, &forwarding)| Change {
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
        let mut hops = NextHops::new(OURS);
        for (id, host) in [(1, 1), (2, 2), (3, 1)] {
            assert_eq!(hops.insert(id, address(host), Forwarding::Dsr), None);
        }
        hops
    }

    #[test]
    fn a_target_that_comes_later_is_resolved_at_once_where_its_backend_is_known() {
        let mut hops = next_hops();
        hops.neighbour(address(2), Some(FIRST));
        assert_eq!(
            hops.insert(4, address(2), Forwarding::Dsr),
            Some(change(4, 2, FIRST))
        );
        assert_eq!(hops.insert(4, address(2), Forwarding::Dsr), None);
        hops.remove(2);
        assert_eq!(hops.neighbour(address(2), Some(SECOND)), [change(4, 2, SECOND)]);
        hops.remove(4);
        assert!(!hops.contains(address(2)));
    }

    #[test]
    fn what_an_earlier_run_knew_is_used_and_corrected() {
        let mut hops = next_hops();
        hops.adopt(address(2), FIRST);
        assert_eq!(hops.unresolved().collect::<Vec<_>>(), [address(1)]);
        assert_eq!(hops.neighbour(address(2), Some(FIRST)), []);
        assert_eq!(hops.neighbour(address(2), Some(SECOND)), [change(2, 2, SECOND)]);
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
