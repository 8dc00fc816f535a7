//! Where frames for a target go on the wire, as routes, neighbours and interfaces come, change and go.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::layout::{Forwarding, NextHop, Target};

use super::{interface::Mac, interfaces::Interfaces};

/// A target whose entry in the target table must be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The target's id.
    pub id: u16,
    /// Its new entry.
    pub target: Target,
}

/// Somebody on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// The index of our interface on that link.
    pub interface: u32,
    /// The IP address: a backend's, or a router's.
    pub address: IpAddr,
}

/// The kernel's way to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Who gets the frames: the backend itself, or the router before it.
    pub neighbour: Neighbour,
    /// The longest IP packet that the route takes, in bytes, if that is known.
    pub mtu: Option<u32>,
}

/// The next hops of all targets.
#[derive(Clone, Debug, Default)]
pub struct NextHops {
    /// Where each target's packets go, by id.
    targets: BTreeMap<u16, Destination>,
    backends: BTreeMap<Destination, Backend>,
    /// The MAC addresses of those on the ways to backends, as far as they are known.
    macs: BTreeMap<Neighbour, Mac>,
}

/// A backend as one way of forwarding sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Destination {
    address: IpAddr,
    /// Whether frames must go to the backend itself, because packets keep the VIP as destination, which a router would send
    /// back to us.
    must_be_neighbour: bool,
}

#[derive(Clone, Debug, Default)]
struct Backend {
    targets: BTreeMap<u16, Forwarding>,
    /// The way that it should take.
    way: Option<Way>,
    /// The way that it takes, until who is on the other one is known.
    taken: Option<(Way, Mac)>,
    /// What the entries of its targets say.
    next_hop: Option<NextHop>,
}

impl Destination {
    fn of(address: IpAddr, forwarding: Forwarding) -> Self {
        Self {
            address,
            must_be_neighbour: forwarding == Forwarding::Dsr,
        }
    }
}

impl NextHops {
    /// Takes in a target, or another way of forwarding for it. Returns the entry to write, if the way to its backend is known
    /// already.
    pub fn insert(&mut self, id: u16, address: IpAddr, forwarding: Forwarding) -> Option<Change> {
        let destination = Destination::of(address, forwarding);
        if self
            .targets
            .get(&id)
            .is_some_and(|earlier| *earlier != destination)
        {
            self.remove(id);
        }
        self.targets.insert(id, destination);
        let backend = self.backends.entry(destination).or_default();
        if backend.targets.insert(id, forwarding) == Some(forwarding) {
            return None;
        }
        let next_hop = backend.next_hop?;
        Some(Change {
            id,
            target: Target::new(address.into(), forwarding, Some(next_hop)),
        })
    }

    /// Takes in where an earlier run has sent a target's packets: the kernel will correct it, should it be out of date. The routes
    /// must be known, since an entry does not tell who the neighbour is, and not always the interface.
    pub fn adopt(&mut self, id: u16, target: &Target, interfaces: &Interfaces) {
        let Some(destination) = self.targets.get(&id) else {
            return;
        };
        if let (Some(mac), Some(backend)) = (target.next_hop(), self.backends.get_mut(destination)) {
            let interface = interfaces
                .at(target.egress())
                .map(|interface| interface.index)
                .or(backend.way.map(|way| way.neighbour.interface));
            let Some(interface) = interface else { return };
            let elsewhere = Way {
                neighbour: Neighbour {
                    interface,
                    address: destination.address,
                },
                mtu: Some(target.mtu().into()),
            };
            let way = backend.way.filter(|way| way.neighbour.interface == interface);
            backend.taken = Some((way.unwrap_or(elsewhere), mac));
            // Whoever adopts the table writes all entries of it, once it may.
            let _ = backend
                .changes(destination.address, &self.macs, interfaces)
                .count();
        }
    }

    /// The entries of all targets.
    pub fn entries(&self) -> Vec<Change> {
        self.backends
            .iter()
            .flat_map(|(destination, backend)| backend.entries(destination.address))
            .collect()
    }

    /// Whether there is a target of this backend that packets reach this way, or another one that needs the same of the backend.
    pub fn has(&self, address: IpAddr, forwarding: Forwarding) -> bool {
        self.backends.contains_key(&Destination::of(address, forwarding))
    }

    /// Forgets a target, and its backend with the last one.
    pub fn remove(&mut self, id: u16) {
        let Some(destination) = self.targets.remove(&id) else {
            return;
        };
        if let Some(backend) = self.backends.get_mut(&destination) {
            backend.targets.remove(&id);
            if backend.targets.is_empty() {
                self.backends.remove(&destination);
                self.forget_strangers();
            }
        }
    }

    /// Takes in the kernel's way to a backend. Returns the entries to write.
    ///
    /// Where frames must go to the backend itself, a way through a router is ignored. The way before stays in use until the new
    /// neighbour's MAC address is known.
    pub fn route(&mut self, address: IpAddr, way: Way, interfaces: &Interfaces) -> Vec<Change> {
        let mut changes = Vec::new();
        for must_be_neighbour in [false, true] {
            if must_be_neighbour && way.neighbour.address != address {
                continue;
            }
            let destination = Destination {
                address,
                must_be_neighbour,
            };
            if let Some(backend) = self.backends.get_mut(&destination)
                && backend.way != Some(way)
            {
                backend.way = Some(way);
                changes.extend(backend.changes(address, &self.macs, interfaces));
            }
        }
        self.forget_strangers();
        changes
    }

    /// Takes in what the kernel says about a neighbour. Returns the entries to write; none when nothing changed, or it is on
    /// the way to no backend.
    ///
    /// A neighbour that fails to answer (`mac` is `None`) keeps its last known address: whether a backend is dead is
    /// for health checks to say, and frames for a dead one are lost either way.
    pub fn neighbour(
        &mut self,
        neighbour: Neighbour,
        mac: Option<Mac>,
        interfaces: &Interfaces,
    ) -> Vec<Change> {
        let Some(mac) = mac.filter(|mac| self.macs.get(&neighbour) != Some(mac)) else {
            return Vec::new();
        };
        if !self.contains(neighbour) {
            return Vec::new();
        }
        self.macs.insert(neighbour, mac);
        let changes = self.changes(interfaces, |backend| backend.needs(neighbour));
        self.forget_strangers();
        changes
    }

    /// Takes in changes of our interfaces. Returns the entries to write.
    pub fn interfaces(&mut self, interfaces: &Interfaces) -> Vec<Change> {
        // An interface that comes back has another index; the old one may become anybody's.
        self.macs
            .retain(|neighbour, _| interfaces.at(neighbour.interface).is_some());
        self.changes(interfaces, |_| true)
    }

    /// Whether the neighbour is on the way to a backend.
    pub fn contains(&self, neighbour: Neighbour) -> bool {
        self.backends.values().any(|backend| backend.needs(neighbour))
    }

    /// Those on the ways to backends.
    pub fn neighbours(&self) -> BTreeSet<Neighbour> {
        self.backends.values().flat_map(Backend::neighbours).collect()
    }

    /// The addresses of all backends.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.backends.keys().map(|backend| backend.address).collect()
    }

    /// The addresses of the backends to which there is no way now.
    pub fn unresolved(&self) -> impl Iterator<Item = IpAddr> {
        self.backends
            .iter()
            .filter(|(_, backend)| backend.next_hop.is_none())
            .map(|(destination, _)| destination.address)
    }

    /// The last known MAC address of a neighbour.
    pub fn mac(&self, neighbour: Neighbour) -> Option<Mac> {
        self.macs.get(&neighbour).copied()
    }

    /// The next hop of a target, if there is a way to its backend now.
    pub fn of(&self, id: u16) -> Option<NextHop> {
        self.backends.get(self.targets.get(&id)?)?.next_hop
    }

    /// What is not followed any more must not be taken for known later.
    fn forget_strangers(&mut self) {
        let neighbours = self.neighbours();
        self.macs.retain(|neighbour, _| neighbours.contains(neighbour));
    }

    fn changes(&mut self, interfaces: &Interfaces, concerned: impl Fn(&Backend) -> bool) -> Vec<Change> {
        let macs = &self.macs;
        self.backends
            .iter_mut()
            .filter(|(_, backend)| concerned(backend))
            .flat_map(|(destination, backend)| backend.changes(destination.address, macs, interfaces))
            .collect()
    }
}

impl Backend {
    /// Those on the way that it should take, and on the one that it takes.
    fn neighbours(&self) -> impl Iterator<Item = Neighbour> {
        let taken = self.taken.map(|(way, _)| way);
        self.way.into_iter().chain(taken).map(|way| way.neighbour)
    }

    fn needs(&self, neighbour: Neighbour) -> bool {
        self.neighbours().any(|other| other == neighbour)
    }

    /// Decides anew where frames go. Returns the entries to write.
    fn changes(
        &mut self,
        address: IpAddr,
        macs: &BTreeMap<Neighbour, Mac>,
        interfaces: &Interfaces,
    ) -> impl Iterator<Item = Change> {
        let known = |way: Way| macs.get(&way.neighbour).map(|&mac| (way, mac));
        let earlier = self.taken.and_then(|(way, _)| known(way));
        self.taken = self.way.and_then(known).or(earlier).or(self.taken);
        let before = self.next_hop;
        self.next_hop = self
            .taken
            .and_then(|(way, mac)| interfaces.way_out(way.neighbour.interface, mac, way.mtu));
        let changed = self.next_hop != before;
        self.entries(address).filter(move |_| changed)
    }

    fn entries(&self, address: IpAddr) -> impl Iterator<Item = Change> {
        let next_hop = self.next_hop;
        self.targets.iter().map(move |(&id, &forwarding)| Change {
            id,
            target: Target::new(address.into(), forwarding, next_hop),
        })
    }
}

#[cfg(test)]
mod tests;
