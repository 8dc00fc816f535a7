//! A virtual router's own interface, for those who want its addresses to have a MAC address that moves with them
//! (RFC 9568, section 7.3): neighbours then need not learn another one at a takeover, only switches where it is.

use std::{collections::BTreeSet, num::NonZeroU8};

use crate::core::interface::Mac;

/// A virtual router's own interface, over the one on which it advertises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VirtualInterface {
    /// The index of the interface on which the virtual router advertises.
    pub parent: u32,
    /// The virtual router's number.
    pub vrid: NonZeroU8,
    /// Of which family its addresses are.
    pub is_ipv4: bool,
}

impl VirtualInterface {
    /// The one that has this MAC address; `None` if it is no virtual router's.
    pub const fn with_mac(parent: u32, mac: Mac) -> Option<Self> {
        let [0, 0, 0x5e, 0, family @ (IPV4 | IPV6), vrid] = mac else {
            return None;
        };
        match NonZeroU8::new(vrid) {
            Some(vrid) => Some(Self {
                parent,
                vrid,
                is_ipv4: family == IPV4,
            }),
            None => None,
        }
    }

    /// Its MAC address.
    pub const fn mac(self) -> Mac {
        virtual_mac(self.vrid, self.is_ipv4)
    }

    /// The name under which the host shows it: family, VRID and the parent's index, since the parent's name may be too long. An
    /// interface's name has 15 characters at most, which is enough for an index of 20 bits.
    pub fn name(self) -> String {
        let family = if self.is_ipv4 { 4 } else { 6 };
        format!("vrrp{family}-{}-{:x}", self.vrid, self.parent)
    }
}

/// The last byte but one of a virtual router's MAC address, by family.
const IPV4: u8 = 1;
const IPV6: u8 = 2;

/// The MAC address of the virtual router with this number, on whichever link.
pub const fn virtual_mac(vrid: NonZeroU8, is_ipv4: bool) -> Mac {
    [0, 0, 0x5e, 0, if is_ipv4 { IPV4 } else { IPV6 }, vrid.get()]
}

/// A virtual interface of ours that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Existing {
    /// Whose it is.
    pub of: VirtualInterface,
    /// Its index.
    pub index: u32,
    /// Whether it is up, which it is once everything else about it is right.
    pub up: bool,
    /// Whether its parent, or a sibling's, was made to answer ARP for its own addresses only, and is to answer for all of the host's again
    /// once the last one is gone.
    pub silences: bool,
}

impl Existing {
    /// Whether the two have the same parent, which answers ARP or does not: IPv6 has no such thing.
    fn is_sibling(&self, other: VirtualInterface) -> bool {
        self.of.is_ipv4 && other.is_ipv4 && self.of.parent == other.parent && self.of != other
    }
}

/// Whether the parent of a new one has been silenced for the sake of one that there is.
pub fn is_silenced(existing: &[Existing], new: VirtualInterface) -> bool {
    existing.iter().any(|it| it.silences && it.is_sibling(new))
}

/// Those that are not wanted, in the order in which they are to be removed, and whether the parent is to answer ARP for all
/// addresses again then. What is over other parents is somebody else's.
pub fn unwanted(
    existing: &[Existing],
    wanted: &BTreeSet<VirtualInterface>,
    parents: &BTreeSet<u32>,
) -> Vec<(Existing, bool)> {
    let mut remaining = existing.to_vec();
    let mut unwanted = Vec::new();
    for it in existing {
        if !wanted.contains(&it.of) && parents.contains(&it.of.parent) {
            remaining.retain(|other| other != it);
            unwanted.push((*it, it.silences && !is_silenced(&remaining, it.of)));
        }
    }
    unwanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(parent: u32, vrid: u8, is_ipv4: bool) -> VirtualInterface {
        VirtualInterface {
            parent,
            vrid: NonZeroU8::new(vrid).unwrap(),
            is_ipv4,
        }
    }

    #[test]
    fn mac_addresses_are_those_of_the_rfc() {
        assert_eq!(of(3, 51, true).mac(), [0, 0, 0x5e, 0, 1, 51]);
        assert_eq!(of(3, 255, false).mac(), [0, 0, 0x5e, 0, 2, 255]);
        for no_router in [
            [0, 0, 0x5e, 0, 1, 0],
            [0, 0, 0x5e, 0, 3, 1],
            [2, 0, 0x5e, 0, 1, 1],
        ] {
            assert_eq!(VirtualInterface::with_mac(3, no_router), None);
        }
    }

    #[test]
    fn the_last_one_to_go_gives_the_parent_its_voice_back() {
        let existing = |vrid, is_ipv4, silences| Existing {
            of: of(3, vrid, is_ipv4),
            index: 10 + u32::from(vrid),
            up: true,
            silences,
        };
        let (a, b, six) = (
            existing(1, true, true),
            existing(2, true, true),
            existing(1, false, false),
        );
        let parents = BTreeSet::from([3]);
        let stays = BTreeSet::from([b.of]);
        assert_eq!(
            unwanted(&[a, six, b], &stays, &parents),
            [(a, false), (six, false)]
        );
        assert_eq!(
            unwanted(&[b, six], &BTreeSet::new(), &parents),
            [(b, true), (six, false)]
        );
        assert_eq!(
            unwanted(&[a, b], &BTreeSet::new(), &BTreeSet::from([4])),
            [],
            "another node's"
        );
        assert!(is_silenced(&[a], b.of) && !is_silenced(&[a], six.of) && !is_silenced(&[six], b.of));
    }

    proptest! {
        #[test]
        fn whose_it_is_can_be_read_from_the_mac_address(parent: u32, vrid in 1_u8.., is_ipv4: bool) {
            let it = of(parent, vrid, is_ipv4);
            prop_assert_eq!(VirtualInterface::with_mac(parent, it.mac()), Some(it));
        }

        #[test]
        fn names_differ_and_fit(a in (1_u32..1 << 20, 1_u8.., any::<bool>()), b in (1_u32..1 << 20, 1_u8.., any::<bool>())) {
            let name = |(parent, vrid, is_ipv4)| of(parent, vrid, is_ipv4).name();
            prop_assert!(name(a).len() <= 15, "{}", name(a));
            prop_assert_eq!(a == b, name(a) == name(b));
        }
    }
}
