//! The address that an instance's packets come from.
//!
//! It decides between equal priorities and is what peers know us by, so it must be an address of this host alone that stays: none that is
//! shared, none that the kernel may take off tomorrow, none of which another host may say that it is its own. Once chosen it is kept
//! as long as it exists.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv6Addr},
};

/// `IFA_F_TEMPORARY` of an IPv6 address: by privacy extensions, for a day. The same bit says of an IPv4 address that it is a secondary one.
const TEMPORARY: u32 = 0x01;
/// `IFA_F_DADFAILED`: another host has it.
const DUPLICATE: u32 = 0x08;
/// `IFA_F_DEPRECATED`: it should not be used any more.
const DEPRECATED: u32 = 0x20;
/// `IFA_F_TENTATIVE`: it is not known yet whether another host has it.
const TENTATIVE: u32 = 0x40;

/// An address of the instance's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The address.
    pub address: IpAddr,
    /// What the kernel says of it: `IFA_F_…`.
    pub flags: u32,
    /// Whether we have put it there.
    pub ours: bool,
}

/// What an instance needs of the address.
#[derive(Clone, Copy, Debug)]
pub struct Requirements<'a> {
    /// Whether it is of IPv4.
    pub is_ipv4: bool,
    /// Whether advertisements go to the multicast group: over IPv6 from the link-local address (RFC 9568, 5.1.2.1).
    pub is_multicast: bool,
    /// The one that is configured, which must be it.
    pub configured: Option<IpAddr>,
    /// Addresses that are shared: VIPs of all instances and services.
    pub shared: &'a BTreeSet<IpAddr>,
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSource {
    /// The configured one is not there.
    #[error("the address {0}, the configured source, is not on the interface; add it, or change `source`")]
    Missing(IpAddr),
    /// The configured one cannot be used.
    #[error("the address {0}, the configured source, cannot be used: {1}")]
    Unusable(IpAddr, Unusable),
    /// Nothing fits.
    #[error("the interface lacks {0} of its own to send from{skipped}", skipped = Skipped(.1))]
    None(Kind, Vec<(IpAddr, Unusable)>),
}

/// What kind of address is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of IPv4.
    Ipv4,
    /// Of IPv6, link-local.
    LinkLocal,
    /// Of IPv6, not link-local.
    Global,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "an IPv4 address",
            Self::LinkLocal => "a link-local IPv6 address",
            Self::Global => "an IPv6 address beside the link-local one",
        })
    }
}

/// Why an address is none to send from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Other balancers have it as well.
    Shared,
    /// Another host says that it is its own.
    Duplicate,
    /// It is not known yet whether another host has it.
    Tentative,
    /// It is soon another one.
    Temporary,
    /// The operator, or a router, wants it to be used no more.
    Deprecated,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shared => "shared",
            Self::Duplicate => "another host has it (dadfailed)",
            Self::Tentative => "tentative",
            Self::Temporary => "temporary",
            Self::Deprecated => "deprecated",
        })
    }
}

/// The addresses that would fit but for something.
struct Skipped<'a>(&'a [(IpAddr, Unusable)]);

impl fmt::Display for Skipped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (address, unusable)) in self.0.iter().enumerate() {
            write!(
                f,
                "{}{address}: {unusable}",
                if number == 0 { " (" } else { ", " }
            )?;
        }
        f.write_str(if self.0.is_empty() { "" } else { ")" })
    }
}

impl Requirements<'_> {
    /// Chooses one of the interface's addresses, which are in the kernel's order. `present` is the one that is used now.
    pub fn choose(&self, candidates: &[Candidate], present: Option<IpAddr>) -> Result<IpAddr, NoSource> {
        if let Some(configured) = self.configured {
            let there = candidates.iter().find(|it| it.address == configured);
            // Whoever writes it down may choose a temporary or a deprecated one.
            return match there.map(Candidate::doubtful) {
                None => Err(NoSource::Missing(configured)),
                Some(Some(why)) => Err(NoSource::Unusable(configured, why)),
                Some(None) => Ok(configured),
            };
        }
        let kind = Kind::of_source(self.is_ipv4, self.is_multicast);
        let fitting = || candidates.iter().filter(|it| kind.is_of(it.address));
        let kept = fitting()
            .find(|it| Some(it.address) == present && it.doubtful().is_none() && !self.is_shared(it));
        if let Some(kept) = kept {
            return Ok(kept.address);
        }
        let usable = || fitting().filter(|it| self.why_not(it).is_none());
        // A secondary address of IPv4 goes when its primary one goes.
        let primary = usable().find(|it| it.flags & TEMPORARY == 0);
        primary.or(usable().next()).map(|it| it.address).ok_or_else(|| {
            let skipped = fitting().filter_map(|it| Some((it.address, self.why_not(it)?)));
            NoSource::None(kind, skipped.collect())
        })
    }

    fn is_shared(&self, candidate: &Candidate) -> bool {
        candidate.ours || self.shared.contains(&candidate.address)
    }

    fn why_not(&self, candidate: &Candidate) -> Option<Unusable> {
        if self.is_shared(candidate) {
            return Some(Unusable::Shared);
        }
        candidate.doubtful().or_else(|| candidate.passing())
    }
}

impl Kind {
    /// The kind that packets of this family come from, to the multicast group or to peers.
    pub fn of_source(is_ipv4: bool, is_multicast: bool) -> Self {
        match (is_ipv4, is_multicast) {
            (true, _) => Self::Ipv4,
            (false, true) => Self::LinkLocal,
            (false, false) => Self::Global,
        }
    }

    /// Whether an address is of this kind.
    pub fn is_of(self, address: IpAddr) -> bool {
        let is_link_local = |address: Ipv6Addr| address.is_unicast_link_local();
        match (self, address) {
            (Self::Ipv4, address) => address.is_ipv4(),
            (Self::LinkLocal, IpAddr::V6(address)) => is_link_local(address),
            (Self::Global, IpAddr::V6(address)) => !is_link_local(address),
            (Self::LinkLocal | Self::Global, IpAddr::V4(_)) => false,
        }
    }
}

impl Candidate {
    /// Why it may be another host's.
    fn doubtful(&self) -> Option<Unusable> {
        if self.flags & DUPLICATE != 0 {
            Some(Unusable::Duplicate)
        } else if self.flags & TENTATIVE != 0 {
            Some(Unusable::Tentative)
        } else {
            None
        }
    }

    /// Why it may not be there for long.
    fn passing(&self) -> Option<Unusable> {
        if self.address.is_ipv6() && self.flags & TEMPORARY != 0 {
            Some(Unusable::Temporary)
        } else if self.flags & DEPRECATED != 0 {
            Some(Unusable::Deprecated)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn candidates(texts: &[(&str, u32)]) -> Vec<Candidate> {
        let candidate = |&(text, flags): &(&str, u32)| Candidate {
            address: address(text),
            flags,
            ours: false,
        };
        texts.iter().map(candidate).collect()
    }

    fn requirements(shared: &BTreeSet<IpAddr>) -> Requirements<'_> {
        Requirements {
            is_ipv4: true,
            is_multicast: true,
            configured: None,
            shared,
        }
    }

    #[test]
    fn what_is_shared_tentative_temporary_or_deprecated_is_passed_over() {
        let shared = BTreeSet::from([address("2001:db8::10")]);
        let it = Requirements {
            is_ipv4: false,
            is_multicast: false,
            ..requirements(&shared)
        };
        let mut there = candidates(&[
            ("192.0.2.2", 0),
            ("fe80::2", 0),
            ("2001:db8::10", 0),
            ("2001:db8::3", TENTATIVE),
            ("2001:db8::4", DUPLICATE | TENTATIVE),
            ("2001:db8::5", TEMPORARY),
            ("2001:db8::6", DEPRECATED),
        ]);
        assert_eq!(
            it.choose(&there, None).unwrap_err().to_string(),
            "the interface lacks an IPv6 address beside the link-local one of its own to send from (2001:db8::10: shared, 2001:db8::3: \
             tentative, 2001:db8::4: another host has it (dadfailed), 2001:db8::5: temporary, 2001:db8::6: deprecated)"
        );
        there.extend(candidates(&[("2001:db8::7", 0), ("2001:db8::8", 0)]));
        assert_eq!(it.choose(&there, None), Ok(address("2001:db8::7")));
        there.retain(|it| it.address != address("fe80::2"));
        let multicast = Requirements {
            is_multicast: true,
            ..it
        };
        assert_eq!(
            multicast.choose(&there, None).unwrap_err().to_string(),
            "the interface lacks a link-local IPv6 address of its own to send from"
        );
    }

    #[test]
    fn the_present_one_is_kept_as_long_as_it_exists() {
        let shared = BTreeSet::new();
        let it = requirements(&shared);
        let there = candidates(&[("192.0.2.2", 0), ("192.0.2.3", DEPRECATED), ("192.0.2.4", 0)]);
        for present in ["192.0.2.2", "192.0.2.3", "192.0.2.4"] {
            assert_eq!(it.choose(&there, Some(address(present))), Ok(address(present)));
        }
        assert_eq!(
            it.choose(&there, Some(address("192.0.2.5"))),
            Ok(address("192.0.2.2"))
        );
        let duplicate = candidates(&[("192.0.2.2", DUPLICATE), ("192.0.2.3", 0)]);
        let chosen = it.choose(&duplicate, Some(address("192.0.2.2")));
        assert_eq!(chosen, Ok(address("192.0.2.3")));
    }

    #[test]
    fn secondary_addresses_of_ipv4_come_last() {
        let shared = BTreeSet::new();
        let it = requirements(&shared);
        // The same bit says "temporary" of IPv6 addresses.
        let there = candidates(&[("192.0.2.3", TEMPORARY), ("192.0.2.2", 0)]);
        assert_eq!(it.choose(&there, None), Ok(address("192.0.2.2")));
        assert_eq!(it.choose(&there[..1], None), Ok(address("192.0.2.3")));
    }

    #[test]
    fn the_configured_one_and_no_other() {
        let shared = BTreeSet::new();
        let it = Requirements {
            configured: Some(address("192.0.2.4")),
            ..requirements(&shared)
        };
        let there = candidates(&[("192.0.2.2", 0), ("192.0.2.4", DEPRECATED)]);
        assert_eq!(
            it.choose(&there, Some(address("192.0.2.2"))),
            Ok(address("192.0.2.4"))
        );
        assert_eq!(
            it.choose(&there[..1], None).unwrap_err().to_string(),
            "the address 192.0.2.4, the configured source, is not on the interface; add it, or change `source`"
        );
        let duplicate = candidates(&[("192.0.2.4", DUPLICATE)]);
        assert_eq!(
            it.choose(&duplicate, None).unwrap_err().to_string(),
            "the address 192.0.2.4, the configured source, cannot be used: another host has it (dadfailed)"
        );
    }

    proptest! {
        /// Whatever is chosen is one of them, of the right kind, and neither shared nor doubtful; and it is chosen again.
        #[test]
        fn what_is_chosen_stays(
            there in prop::collection::vec((0_u8..6, any::<bool>(), any::<u8>(), any::<bool>()), 0..8),
            shared in prop::collection::btree_set(0_u8..6, 0..3),
            is_ipv4: bool,
            is_multicast: bool,
            present in prop::option::of(0_u8..6),
        ) {
            let number = |host: u8| -> IpAddr {
                match (is_ipv4, host % 2) {
                    (true, _) => [192, 0, 2, host].into(),
                    (false, 0) => address(&format!("fe80::{host}")),
                    (false, _) => address(&format!("2001:db8::{host}")),
                }
            };
            let there: Vec<Candidate> = there
                .into_iter()
                .map(|(host, is_other, flags, ours)| Candidate {
                    address: if is_other { address("::ffff:9") } else { number(host) },
                    flags: flags.into(),
                    ours,
                })
                .collect();
            let shared = shared.into_iter().map(number).collect();
            let it = Requirements { is_ipv4, is_multicast, configured: None, shared: &shared };
            if let Ok(chosen) = it.choose(&there, present.map(number)) {
                let found = there.iter().any(|it| it.address == chosen && !it.ours && it.doubtful().is_none());
                prop_assert!(found && !shared.contains(&chosen));
                prop_assert!(Kind::of_source(is_ipv4, is_multicast).is_of(chosen));
                prop_assert_eq!(it.choose(&there, Some(chosen)), Ok(chosen));
            }
        }
    }
}
