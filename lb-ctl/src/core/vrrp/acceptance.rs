//! Which of the packets that arrive an instance takes for an advertisement of its virtual router.

use std::{collections::BTreeSet, fmt, net::IpAddr, num::NonZeroU8};

use super::{
    advertisement::{Advertisement, ChecksumForm, DecodeError, HOP_LIMIT, group_address},
    interval::Interval,
};

/// Whom an instance talks to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Everybody on the link.
    Multicast,
    /// Peers, each by a packet of its own.
    Unicast {
        /// Who they are.
        peers: BTreeSet<IpAddr>,
        /// The least TTL, or hop limit, of their packets: [`HOP_LIMIT`] unless they cannot do better.
        hop_limit: u8,
    },
}

/// What an instance expects of advertisements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acceptor {
    /// The virtual router.
    pub vrid: NonZeroU8,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Who may send.
    pub audience: Audience,
    /// The checksum that we send. The other one is taken as well: to be deaf to a master is to become a second one.
    pub checksum: ChecksumForm,
}

/// A packet of protocol 112 that has arrived on the instance's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// Its source.
    pub from: IpAddr,
    /// Its destination.
    pub to: IpAddr,
    /// Its TTL or hop limit.
    pub hop_limit: u8,
    /// What comes after the IP header.
    pub bytes: &'a [u8],
}

impl Received<'_> {
    /// The virtual router that it is about, if it is as long as to have one. The byte is the same in all versions.
    fn vrid(&self) -> Option<NonZeroU8> {
        NonZeroU8::new(*self.bytes.get(1)?)
    }
}

/// An advertisement that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Who has sent it.
    pub from: IpAddr,
    /// The sender's priority.
    pub priority: u8,
    /// When to expect the next.
    pub interval: Interval,
    /// Which checksum the sender uses. One that is deaf to ours becomes a second master.
    pub checksum: ChecksumForm,
}

/// Why a packet does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// It has passed a router, or pretends to come from the link.
    #[error(
        "expected a TTL of {expected}, found {found}: a packet that was forged beyond a router, or a peer that is not on the link or \
         sends so (see unicast_hop_limit)"
    )]
    HopLimit {
        /// The least that counts.
        expected: u8,
        /// Its TTL or hop limit.
        found: u8,
    },
    /// It is no advertisement.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// Another virtual router's.
    #[error("expected VRID {expected}, found {found}")]
    Vrid {
        /// Ours.
        expected: NonZeroU8,
        /// Its.
        found: NonZeroU8,
    },
    /// Our own, come back.
    #[error("it bears our own address, {0}: a loop in the network, or another host with this address")]
    Own(IpAddr),
    /// It comes from none of the peers.
    #[error(
        "expected a packet of a configured peer, found one of {0}; add it to unicast_peers if it belongs there"
    )]
    Stranger(IpAddr),
    /// It is to the group, but we talk to peers; or the other way round.
    #[error(
        "expected a packet to {expected}, found one to {found}; use unicast_peers on all sides or on none"
    )]
    Destination {
        /// To whom it should be.
        expected: &'static str,
        /// To whom it is.
        found: IpAddr,
    },
    /// The virtual router has other addresses there than here.
    #[error(
        "expected the configured addresses, found{}{}; make them alike on all sides",
        List(" without ", missing),
        List(" with ", unexpected)
    )]
    Addresses {
        /// What the sender lacks.
        missing: Vec<IpAddr>,
        /// What it has besides.
        unexpected: Vec<IpAddr>,
    },
}

impl Rejected {
    /// A short name of the reason, for counters.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::HopLimit { .. } => "hop_limit",
            Self::Malformed(error) => match error {
                DecodeError::Truncated { .. } | DecodeError::Length { .. } => "length",
                DecodeError::Version { .. } => "version",
                DecodeError::Type { .. } => "type",
                DecodeError::Checksum { .. } => "checksum",
                DecodeError::NoInterval => "interval",
                DecodeError::NoVrid | DecodeError::NoAddress | DecodeError::Families { .. } => "malformed",
            },
            Self::Vrid { .. } => "vrid",
            Self::Own(_) => "own",
            Self::Stranger(_) => "stranger",
            Self::Destination { .. } => "destination",
            Self::Addresses { .. } => "addresses",
        }
    }
}

impl Acceptor {
    /// Takes a packet for an advertisement, or says why not. `ours` is the address that we send from, if there is one.
    pub fn accept(&self, packet: Received<'_>, ours: Option<IpAddr>) -> Result<Heard, Rejected> {
        // Before anything else: what other routers on the link say to each other, in whatever version, is none of our business.
        if let Some(found) = packet.vrid()
            && found != self.vrid
        {
            return Err(Rejected::Vrid {
                expected: self.vrid,
                found,
            });
        }
        let Received {
            from,
            to,
            hop_limit,
            bytes,
        } = packet;
        let expected = self.audience.hop_limit();
        if hop_limit < expected {
            return Err(Rejected::HopLimit {
                expected,
                found: hop_limit,
            });
        }
        let decoded = Advertisement::decode(bytes, from, to, self.checksum)?;
        let advertisement = decoded.advertisement;
        if ours == Some(from) {
            return Err(Rejected::Own(from));
        }
        self.audience.check(from, to)?;
        let theirs: BTreeSet<IpAddr> = advertisement.addresses.iter().copied().collect();
        if theirs != self.addresses {
            return Err(Rejected::Addresses {
                missing: self.addresses.difference(&theirs).copied().collect(),
                unexpected: theirs.difference(&self.addresses).copied().collect(),
            });
        }
        Ok(Heard {
            from,
            priority: advertisement.priority,
            interval: advertisement.interval,
            checksum: decoded.checksum,
        })
    }
}

impl Audience {
    /// The peers; none if everybody is talked to.
    pub fn peers(&self) -> Option<&BTreeSet<IpAddr>> {
        match self {
            Self::Multicast => None,
            Self::Unicast { peers, .. } => Some(peers),
        }
    }

    /// The least TTL, or hop limit, of packets that count.
    pub fn hop_limit(&self) -> u8 {
        match self {
            Self::Multicast => HOP_LIMIT,
            Self::Unicast { hop_limit, .. } => *hop_limit,
        }
    }

    fn check(&self, from: IpAddr, to: IpAddr) -> Result<(), Rejected> {
        match self {
            Self::Multicast if to == group_address(to.is_ipv4()) => Ok(()),
            Self::Multicast => Err(Rejected::Destination {
                expected: "the multicast group",
                found: to,
            }),
            Self::Unicast { .. } if to.is_multicast() => Err(Rejected::Destination {
                expected: "us alone",
                found: to,
            }),
            Self::Unicast { peers, .. } if peers.contains(&from) => Ok(()),
            Self::Unicast { .. } => Err(Rejected::Stranger(from)),
        }
    }
}

/// Addresses after a word; nothing if there are none.
struct List<'a>(&'static str, &'a [IpAddr]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, address) in self.1.iter().enumerate() {
            write!(f, "{}{address}", if index == 0 { self.0 } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "192.0.2.3";
    const OURS: &str = "192.0.2.2";
    const GROUP: &str = "224.0.0.18";

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| address(text)).collect()
    }

    fn acceptor(audience: Audience) -> Acceptor {
        Acceptor {
            vrid: NonZeroU8::new(7).unwrap(),
            addresses: addresses(&["192.0.2.10", "192.0.2.11"]),
            audience,
            checksum: ChecksumForm::Message,
        }
    }

    fn advertisement(vips: &[&str]) -> Advertisement {
        Advertisement {
            vrid: NonZeroU8::new(7).unwrap(),
            priority: 100,
            interval: Interval::from_centiseconds(10).unwrap(),
            addresses: vips.iter().map(|text| address(text)).collect(),
        }
    }

    fn accept(
        acceptor: &Acceptor,
        advertisement: &Advertisement,
        (from, to): (&str, &str),
        hop_limit: u8,
    ) -> Result<Heard, Rejected> {
        let (from, to) = (address(from), address(to));
        let bytes = advertisement.encode(from, to, ChecksumForm::Message);
        let packet = Received {
            from,
            to,
            hop_limit,
            bytes: &bytes,
        };
        acceptor.accept(packet, Some(address(OURS)))
    }

    #[test]
    fn the_order_of_addresses_makes_no_difference() {
        let acceptor = acceptor(Audience::Multicast);
        let advertisement = advertisement(&["192.0.2.11", "192.0.2.10", "192.0.2.11"]);
        let heard = accept(&acceptor, &advertisement, (PEER, GROUP), 255).unwrap();
        assert_eq!((heard.from, heard.priority), (address(PEER), 100));
        assert_eq!(heard.interval.centiseconds(), 10);
    }

    #[test]
    fn only_255_is_a_hop_limit_of_the_link() {
        let acceptor = acceptor(Audience::Multicast);
        let advertisement = advertisement(&["192.0.2.10", "192.0.2.11"]);
        for found in 0..=254 {
            assert_eq!(
                accept(&acceptor, &advertisement, (PEER, GROUP), found),
                Err(Rejected::HopLimit { expected: 255, found })
            );
        }
        assert!(accept(&acceptor, &advertisement, (PEER, GROUP), 255).is_ok());
    }

    #[test]
    fn peers_that_cannot_do_better_may_send_with_less() {
        let acceptor = acceptor(Audience::Unicast {
            peers: addresses(&[PEER]),
            hop_limit: 64,
        });
        let advertisement = advertisement(&["192.0.2.10", "192.0.2.11"]);
        let accept = |hop_limit| accept(&acceptor, &advertisement, (PEER, OURS), hop_limit).is_ok();
        assert!(accept(64) && accept(255) && !accept(63));
    }

    #[test]
    fn another_virtual_router_or_other_addresses_do_not_count() {
        let acceptor = acceptor(Audience::Multicast);
        let mut other = advertisement(&["192.0.2.10", "192.0.2.11"]);
        other.vrid = NonZeroU8::new(8).unwrap();
        let rejected = accept(&acceptor, &other, (PEER, GROUP), 255).unwrap_err();
        assert_eq!(rejected.to_string(), "expected VRID 7, found 8");
        let differ = |vips: &[&str]| {
            accept(&acceptor, &advertisement(vips), (PEER, GROUP), 255)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            differ(&["192.0.2.10"]),
            "expected the configured addresses, found without 192.0.2.11; make them alike on all sides"
        );
        assert_eq!(
            differ(&["192.0.2.11", "192.0.2.12", "192.0.2.13"]),
            "expected the configured addresses, found without 192.0.2.10 with 192.0.2.12, 192.0.2.13; make them alike on all \
             sides"
        );
    }

    #[test]
    fn what_another_virtual_router_says_is_its_own_business_however_it_says_it() {
        let acceptor = acceptor(Audience::Multicast);
        // The begin of an advertisement of version 2, with VRID 8.
        for bytes in [&[0x21, 8, 100, 1, 0, 1, 0, 0][..], &[0x21, 8]] {
            let packet = Received {
                from: address(PEER),
                to: address(GROUP),
                hop_limit: 255,
                bytes,
            };
            let rejected = acceptor.accept(packet, None);
            assert!(matches!(rejected, Err(Rejected::Vrid { .. })), "{rejected:?}");
        }
    }

    #[test]
    fn what_comes_back_is_not_a_rival() {
        let acceptor = acceptor(Audience::Multicast);
        let advertisement = advertisement(&["192.0.2.10", "192.0.2.11"]);
        assert_eq!(
            accept(&acceptor, &advertisement, (OURS, GROUP), 255),
            Err(Rejected::Own(address(OURS)))
        );
    }

    #[test]
    fn with_peers_only_they_count_and_without_only_the_group() {
        let advertisement = advertisement(&["192.0.2.10", "192.0.2.11"]);
        let unicast = acceptor(Audience::Unicast {
            peers: addresses(&[PEER]),
            hop_limit: 255,
        });
        let accept = |acceptor, from, to| accept(acceptor, &advertisement, (from, to), 255);
        assert!(accept(&unicast, PEER, OURS).is_ok());
        assert_eq!(
            accept(&unicast, "192.0.2.4", OURS),
            Err(Rejected::Stranger(address("192.0.2.4")))
        );
        assert!(matches!(
            accept(&unicast, PEER, GROUP),
            Err(Rejected::Destination { .. })
        ));
        let multicast = acceptor(Audience::Multicast);
        assert!(matches!(
            accept(&multicast, PEER, OURS),
            Err(Rejected::Destination { .. })
        ));
    }

    #[test]
    fn the_other_checksum_is_taken_and_told() {
        let acceptor = acceptor(Audience::Multicast);
        let (from, to) = (address(PEER), address(GROUP));
        let advertisement = advertisement(&["192.0.2.10", "192.0.2.11"]);
        let bytes = advertisement.encode(from, to, ChecksumForm::PseudoHeader);
        let packet = Received {
            from,
            to,
            hop_limit: 255,
            bytes: &bytes,
        };
        assert_eq!(
            acceptor.accept(packet, None).unwrap().checksum,
            ChecksumForm::PseudoHeader
        );
    }
}
