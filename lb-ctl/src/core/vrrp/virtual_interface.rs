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

    /// Whether an interface of this name may be one.
    pub fn is_name(name: &str) -> bool {
        name.starts_with("vrrp4-") || name.starts_with("vrrp6-")
    }
}

/// The last byte but one of a virtual router's MAC address, by family.
const IPV4: u8 = 1;
const IPV6: u8 = 2;

/// The MAC address of the virtual router with this number, on whichever link.
pub const fn virtual_mac(vrid: NonZeroU8, is_ipv4: bool) -> Mac {
    [0, 0, 0x5e, 0, if is_ipv4 { IPV4 } else { IPV6 }, vrid.get()]
}

/// What an interface says by itself about addresses of IPv4 that are not its own: the kernel parameters `arp_ignore` and `arp_announce`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// 0 if it answers for all addresses of the host.
    pub ignore: u32,
    /// Less than 2 if it asks in the name of such addresses.
    pub announce: u32,
}

impl Arp {
    /// Of an interface that speaks for its own addresses only.
    pub const SILENT: Self = Self {
        ignore: 1,
        announce: 2,
    };

    /// The least change after which it does.
    #[must_use]
    pub fn silenced(self) -> Self {
        Self {
            ignore: self.ignore.max(Self::SILENT.ignore),
            announce: self.announce.max(Self::SILENT.announce),
        }
    }
}

/// What has been changed about an interface's [`Arp`] so that it speaks for its own addresses only, and is to be undone: what was there
/// before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Silenced {
    /// `arp_ignore` was 0.
    pub ignore: bool,
    /// `arp_announce` was this, 0 or 1.
    pub announce: Option<u32>,
}

impl Silenced {
    /// What has to be changed of this.
    pub const fn needed(arp: Arp) -> Self {
        Self {
            ignore: arp.ignore == 0,
            announce: if arp.announce < Arp::SILENT.announce {
                Some(arp.announce)
            } else {
                None
            },
        }
    }

    /// Both changes; of two that contradict each other this one.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            ignore: self.ignore || other.ignore,
            announce: self.announce.or(other.announce),
        }
    }

    /// What there was before the changes, as far as what there is now is still the change.
    pub fn undone(self, now: Arp) -> Arp {
        Arp {
            ignore: if self.ignore && now.ignore == Arp::SILENT.ignore {
                0
            } else {
                now.ignore
            },
            announce: match self.announce {
                Some(before) if now.announce == Arp::SILENT.announce => before,
                _ => now.announce,
            },
        }
    }

    /// The command with which an operator undoes it on an interface of this name; `None` if nothing has been changed.
    pub fn remedy(self, interface: &str) -> Option<String> {
        let ignore = self.ignore.then_some(("arp_ignore", 0));
        let announce = self.announce.map(|before| ("arp_announce", before));
        // With slashes, since a VLAN's name has a dot in it.
        let settings = ignore
            .into_iter()
            .chain(announce)
            .map(|(parameter, before)| format!(" net/ipv4/conf/{interface}/{parameter}={before}"));
        (self != Self::default()).then(|| format!("sysctl -w{}", settings.collect::<String>()))
    }

    /// As a number less than 6.
    pub fn number(self) -> u32 {
        let announce = self.announce.map_or(0, |before| 1 + before.min(1));
        u32::from(self.ignore) + 2 * announce
    }

    /// The inverse of [`number`](Self::number).
    pub fn of_number(number: u32) -> Option<Self> {
        (number < 6).then(|| Self {
            ignore: number % 2 == 1,
            announce: (number / 2).checked_sub(1),
        })
    }
}

/// A virtual interface of ours that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Existing {
    /// Whose it is.
    pub of: VirtualInterface,
    /// Its index.
    pub index: u32,
    /// Whether it is up, and everything else about it right.
    pub is_ready: bool,
    /// What has been changed about its parent, for its own sake or a sibling's, and is to be undone once the last one is gone.
    pub silenced: Silenced,
}

impl Existing {
    /// Whether the two have the same parent, which speaks for other addresses or does not: IPv6 has no such thing.
    fn is_sibling(&self, other: VirtualInterface) -> bool {
        self.of.is_ipv4 && other.is_ipv4 && self.of.parent == other.parent && self.of != other
    }
}

/// What has been changed about the parent of a virtual interface for the sake of others.
pub fn silenced_for_others(existing: &[Existing], it: VirtualInterface) -> Silenced {
    let siblings = existing.iter().filter(|other| other.is_sibling(it));
    siblings.fold(Silenced::default(), |all, other| all.and(other.silenced))
}

/// Those that are not wanted, in the order in which they are to be removed, and what is to be undone about their parents then. What
/// is over other parents is somebody else's.
pub fn unwanted(
    existing: &[Existing],
    wanted: &BTreeSet<VirtualInterface>,
    parents: &BTreeSet<u32>,
) -> Vec<(Existing, Silenced)> {
    let mut remaining = existing.to_vec();
    let mut unwanted = Vec::new();
    for it in existing {
        if !wanted.contains(&it.of) && parents.contains(&it.of.parent) {
            remaining.retain(|other| other != it);
            let is_last = silenced_for_others(&remaining, it.of) == Silenced::default();
            unwanted.push((*it, if is_last { it.silenced } else { Silenced::default() }));
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
        let nothing = Silenced::default();
        let changed = Silenced {
            ignore: true,
            announce: Some(1),
        };
        let existing = |vrid, is_ipv4, silenced| Existing {
            of: of(3, vrid, is_ipv4),
            index: 10 + u32::from(vrid),
            is_ready: true,
            silenced,
        };
        let (a, b, six) = (
            existing(1, true, changed),
            existing(2, true, changed),
            existing(1, false, nothing),
        );
        let parents = BTreeSet::from([3]);
        let stays = BTreeSet::from([b.of]);
        assert_eq!(
            unwanted(&[a, six, b], &stays, &parents),
            [(a, nothing), (six, nothing)]
        );
        assert_eq!(
            unwanted(&[b, six], &BTreeSet::new(), &parents),
            [(b, changed), (six, nothing)]
        );
        assert_eq!(
            unwanted(&[a, b], &BTreeSet::new(), &BTreeSet::from([4])),
            [],
            "another node's"
        );
        assert_eq!(silenced_for_others(&[a], b.of), changed);
        assert_eq!(silenced_for_others(&[a], six.of), nothing);
        assert_eq!(silenced_for_others(&[six], b.of), nothing);
    }

    #[test]
    fn what_is_not_undone_an_operator_can_undo() {
        let changed = Silenced {
            ignore: true,
            announce: Some(1),
        };
        assert_eq!(
            changed.remedy("eth0.5").as_deref(),
            Some("sysctl -w net/ipv4/conf/eth0.5/arp_ignore=0 net/ipv4/conf/eth0.5/arp_announce=1")
        );
        assert_eq!(Silenced::default().remedy("eth0"), None);
    }

    #[test]
    fn what_an_operator_has_set_meanwhile_stays() {
        let changed = Silenced::needed(Arp {
            ignore: 0,
            announce: 1,
        });
        assert_eq!(
            changed.undone(Arp::SILENT),
            Arp {
                ignore: 0,
                announce: 1
            }
        );
        let (theirs, mixed) = (
            Arp {
                ignore: 2,
                announce: 0,
            },
            Arp {
                ignore: 8,
                announce: 2,
            },
        );
        assert_eq!(changed.undone(theirs), theirs);
        assert_eq!(
            changed.undone(mixed),
            Arp {
                ignore: 8,
                announce: 1
            }
        );
        assert_eq!(Silenced::needed(mixed), Silenced::default());
        assert_eq!(Silenced::default().undone(Arp::SILENT), Arp::SILENT);
    }

    proptest! {
        #[test]
        fn what_has_been_changed_can_be_read_from_its_number(ignore in 0_u32..3, announce in 0_u32..3) {
            let changed = Silenced::needed(Arp { ignore, announce });
            prop_assert!(changed.number() < 6);
            prop_assert_eq!(Silenced::of_number(changed.number()), Some(changed));
            prop_assert_eq!(Silenced::of_number(6 + ignore), None);
        }

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
            prop_assert!(VirtualInterface::is_name(&name(a)));
        }
    }
}
