//! What the tables say about services, and about the host that all of them share.

use core::ops::Range;

/// What the service table says about a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Service {
    /// The seed of the flow hash.
    pub hash_seed: u64,
    /// Index of the service's first slot in the slot table.
    pub first_slot: u32,
    /// How many slots it has. 0 for the entry of a VIP.
    pub slots: u32,
    /// What is special about it: the sum of its [flags](flag). 0 for most services, which then need no further look.
    pub flags: u32,
    /// Names the service in the keys of flows.
    pub id: u16,
    /// The bits of the client's port that the flow hash takes in: all of them, or none, so that all connections of a client
    /// have one slot (`affinity = "client"`).
    pub port_mask: u16,
    /// For how many [ticks](crate::clock::ticks) after its last packet a client keeps its backend. 0 without affinity.
    pub affinity_timeout: u32,
    /// With `balance = "least-connections"`, among how many slots a new connection [chooses](crate::least_connections); else 0.
    pub candidates: u16,
    /// Always 0, which [the choice](crate::least_connections::least) reads.
    pub reserved: u16,
}

impl Service {
    /// The indices of its slots in the slot table.
    pub const fn slot_indices(&self) -> Range<u32> {
        self.first_slot..self.first_slot + self.slots
    }
}

/// What can be special about a service.
pub mod flag {
    /// Packets are translated in both directions (`forward = "nat"`): each needs a record.
    pub const TRANSLATES: u32 = 1;
    /// A client keeps its backend across connections (`affinity = "client"`).
    pub const AFFINE: u32 = 2;
    /// Only clients in certain prefixes are served (`allow`).
    pub const RESTRICTED: u32 = 4;
    /// Who cannot be served is told by an RST (`no_backend = "reset"`).
    pub const RESETS: u32 = 8;
}

/// On how many interfaces the program can run.
pub const MAX_INTERFACES: usize = 8;

/// What the tables say about this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Node {
    /// The MAC addresses of our interfaces, as [`mac_word`] makes them; the unused ones are [`Node::NO_MAC`]. Frames to other
    /// addresses are not for us, though an interface in promiscuous mode lets them in.
    pub macs: [u64; MAX_INTERFACES],
    /// 1 if any service translates, so that packets to other ports of a VIP may be answers of its backends.
    pub translates: u16,
    /// 1 while somebody takes in [news](super::News). It was the upper half of `translates`, always 0, before there were any: tables of that
    /// time need no other layout, and a program of that time takes 1 for what costs it a look for answers that there are not.
    pub listens: u16,
    /// 1 while these tables lack records that an earlier run's tables have, so that what depends on records has to wait.
    pub awaits_records: u32,
}

impl Node {
    /// A word that is no MAC address.
    pub const NO_MAC: u64 = u64::MAX;

    /// A host whose interfaces have these MAC addresses, the first [`MAX_INTERFACES`] of them.
    pub fn new(macs: impl IntoIterator<Item = [u8; 6]>, translates: bool) -> Self {
        let mut node = Self {
            macs: [Self::NO_MAC; MAX_INTERFACES],
            translates: u16::from(translates),
            listens: 0,
            awaits_records: 0,
        };
        for (word, mac) in node.macs.iter_mut().zip(macs) {
            *word = mac_word(mac);
        }
        node
    }

    /// Whether a frame to this MAC address is for us.
    #[inline(always)]
    pub fn has(&self, mac: [u8; 6]) -> bool {
        let word = mac_word(mac);
        self.macs.contains(&word)
    }
}

/// A MAC address as one number that is compared at once: its 6 bytes as on the wire, in the order of the host's memory.
#[inline(always)]
pub const fn mac_word(mac: [u8; 6]) -> u64 {
    let first = u32::from_ne_bytes([mac[0], mac[1], mac[2], mac[3]]);
    let last = u16::from_ne_bytes([mac[4], mac[5]]);
    first as u64 | (last as u64) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_for_any_of_our_interfaces_and_no_other() {
        let node = Node::new([[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]], false);
        assert!(node.has([2, 0, 0, 0, 0, 1]) && node.has([2, 0, 0, 0, 0, 2]));
        assert!(!node.has([2, 0, 0, 0, 0, 3]));
        assert!(
            !node.has([0; 6]) && !node.has([0xff; 6]),
            "unused places match nothing"
        );
    }
}
