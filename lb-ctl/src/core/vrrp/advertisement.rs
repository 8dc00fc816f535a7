//! Advertisements as they are on the wire, RFC 9568, section 5.2.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! |version| type  |     VRID      |   priority    |address count  |
//! | reserved  |  interval in cs   |           checksum            |
//! |  the virtual addresses, 4 or 16 bytes each                    |
//! ```
//!
//! # Two checksums
//!
//! Over IPv6 the checksum includes the pseudo-header of RFC 8200, section 8.1. What it includes over IPv4 has been read in two
//! ways. RFC 5798, 5.2.8, said "the entire VRRP message starting with the version field and a pseudo-header as defined in Section 8.1
//! of RFC 2460", without a word about families: keepalived and others put a pseudo-header of IPv4 in, Cisco and others nothing. RFC
//! 9568, 5.2.8, has decided: over IPv4 "the checksum calculation only includes the VRRP message". keepalived still includes a
//! pseudo-header, and since 2.2.8 has `v3_checksum_as_v2` for those who do not; Debian 12 has 2.2.7, which knows but its own. So both are
//! here. A third, which keepalived before 1.3.7 used with unicast peers (the pseudo-header names the multicast group nevertheless),
//! is not.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU8,
};

use lb_common::{address::Address, headers::checksum::Sum};

use super::interval::Interval;

/// The IP protocol number.
pub const PROTOCOL: u8 = 112;

/// The TTL, or hop limit, of every advertisement. A router would have lowered it, so nobody beyond one can forge it.
pub const HOP_LIMIT: u8 = 255;

/// The priority by which a master says that it leaves.
pub const LEAVING: u8 = 0;

const VERSION: u8 = 3;
const ADVERTISEMENT: u8 = 1;
const HEADER: usize = 8;

/// The multicast group to which advertisements of a family go.
pub const fn group_address(is_ipv4: bool) -> IpAddr {
    if is_ipv4 {
        IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18))
    } else {
        IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12))
    }
}

/// What a master says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// The virtual router.
    pub vrid: NonZeroU8,
    /// The sender's priority; [`LEAVING`] if it leaves.
    pub priority: u8,
    /// When to expect the next.
    pub interval: Interval,
    /// The addresses that it holds: 1 to 255, all of the family of the packet.
    pub addresses: Vec<IpAddr>,
}

/// What the checksum of an advertisement over IPv4 is made of. Over IPv6 there is but one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChecksumForm {
    /// The message alone: RFC 9568.
    #[default]
    Message,
    /// The message and a pseudo-header of IPv4: how keepalived has read RFC 5798.
    PseudoHeader,
}

impl ChecksumForm {
    const fn other(self) -> Self {
        match self {
            Self::Message => Self::PseudoHeader,
            Self::PseudoHeader => Self::Message,
        }
    }
}

/// As the configuration spells it.
impl fmt::Display for ChecksumForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Message => "rfc9568",
            Self::PseudoHeader => "rfc5798",
        })
    }
}

/// An advertisement from the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// What it says.
    pub advertisement: Advertisement,
    /// Which of the checksums is in it; the preferred one if both come to the same.
    pub checksum: ChecksumForm,
}

/// Why bytes are no advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not even a header.
    #[error("expected at least {HEADER} bytes, found {found}: the packet is truncated")]
    Truncated {
        /// How many.
        found: usize,
    },
    /// Another version.
    #[error("expected VRRP version 3, found version {found}; set the sender to version 3")]
    Version {
        /// Which.
        found: u8,
    },
    /// Another type.
    #[error("expected an advertisement (type 1), found type {found}")]
    Type {
        /// Which.
        found: u8,
    },
    /// VRID 0.
    #[error("expected a VRID from 1 to 255, found 0")]
    NoVrid,
    /// No address.
    #[error("expected at least one virtual address, found none")]
    NoAddress,
    /// An interval of 0.
    #[error("expected an interval from 10 ms to 40.95 s, found 0")]
    NoInterval,
    /// The addresses that are announced are not there, or something else is.
    #[error("expected {expected} bytes for {count} virtual addresses, found {found}")]
    Length {
        /// How many addresses the header announces.
        count: u8,
        /// How long the packet should be.
        expected: usize,
        /// How long it is.
        found: usize,
    },
    /// The checksum is wrong, by either reading of the standard.
    #[error(
        "expected a right checksum, found {found:#06x}, which is wrong with and without a pseudo-header: damaged, or forged"
    )]
    Checksum {
        /// What the packet says.
        found: u16,
    },
    /// Source and destination are of two families, so there is no pseudo-header of both.
    #[error("expected a source and a destination of one family, found {from} and {to}")]
    Families {
        /// The source.
        from: IpAddr,
        /// The destination.
        to: IpAddr,
    },
}

impl Advertisement {
    /// The packet from one address to another, without the IP header.
    ///
    /// Addresses beyond the 255th, and those of another family than the packet's, have no place in it and are left out; the
    /// configuration has neither.
    pub fn encode(&self, from: IpAddr, to: IpAddr, form: ChecksumForm) -> Vec<u8> {
        let mut bytes = vec![
            VERSION << 4 | ADVERTISEMENT,
            self.vrid.get(),
            self.priority,
            0,
            0,
            0,
            0,
            0,
        ];
        let addresses = self
            .addresses
            .iter()
            .filter(|address| address.is_ipv4() == to.is_ipv4());
        let mut count = 0;
        for address in addresses.take(u8::MAX.into()) {
            count += 1;
            match address {
                IpAddr::V4(address) => bytes.extend(address.octets()),
                IpAddr::V6(address) => bytes.extend(address.octets()),
            }
        }
        bytes[3] = count;
        bytes[4..6].copy_from_slice(&self.interval.centiseconds().to_be_bytes());
        let checksum = sum(&bytes, from, to, form).checksum();
        bytes[6..HEADER].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    /// Reads a packet without its IP header. Either checksum is right: see [`ChecksumForm`].
    pub fn decode(
        bytes: &[u8],
        from: IpAddr,
        to: IpAddr,
        preferred: ChecksumForm,
    ) -> Result<Decoded, DecodeError> {
        let &[kind, vrid, priority, count, high, low, sum_high, sum_low, ..] = bytes else {
            // A packet of another version may be shorter, but not as short as to hide its version.
            return Err(match bytes.first() {
                Some(first) if first >> 4 != VERSION => DecodeError::Version { found: first >> 4 },
                _ => DecodeError::Truncated { found: bytes.len() },
            });
        };
        if kind >> 4 != VERSION {
            return Err(DecodeError::Version { found: kind >> 4 });
        }
        if kind & 0xf != ADVERTISEMENT {
            return Err(DecodeError::Type { found: kind & 0xf });
        }
        if from.is_ipv4() != to.is_ipv4() {
            return Err(DecodeError::Families { from, to });
        }
        let expected = HEADER + usize::from(count) * if to.is_ipv4() { 4 } else { 16 };
        if bytes.len() != expected {
            return Err(DecodeError::Length {
                count,
                expected,
                found: bytes.len(),
            });
        }
        let is_right = |form: &ChecksumForm| sum(bytes, from, to, *form).checksum() == 0;
        let Some(checksum) = [preferred, preferred.other()].into_iter().find(is_right) else {
            return Err(DecodeError::Checksum {
                found: u16::from_be_bytes([sum_high, sum_low]),
            });
        };
        if count == 0 {
            return Err(DecodeError::NoAddress);
        }
        let vrid = NonZeroU8::new(vrid).ok_or(DecodeError::NoVrid)?;
        // The four bits before the interval are reserved: sent as 0, ignored when received.
        let interval = Interval::from_centiseconds(u16::from_be_bytes([high & 0xf, low]));
        let interval = interval.ok_or(DecodeError::NoInterval)?;
        let addresses = &bytes[HEADER..];
        let addresses = if to.is_ipv4() {
            let (addresses, _) = addresses.as_chunks::<4>();
            addresses.iter().map(|octets| IpAddr::from(*octets)).collect()
        } else {
            let (addresses, _) = addresses.as_chunks::<16>();
            addresses.iter().map(|octets| IpAddr::from(*octets)).collect()
        };
        Ok(Decoded {
            advertisement: Self {
                vrid,
                priority,
                interval,
                addresses,
            },
            checksum,
        })
    }
}

/// The sum over a message, which has an even number of bytes, and what else belongs to it.
fn sum(message: &[u8], from: IpAddr, to: IpAddr, form: ChecksumForm) -> Sum {
    let (words, _) = message.as_chunks::<2>();
    let sum = words.iter().fold(Sum::ZERO, |sum, word| {
        sum.plus(u32::from(u16::from_be_bytes(*word)))
    });
    if to.is_ipv4() && form == ChecksumForm::Message {
        return sum;
    }
    // Whether the length is 16 bits of the pseudo-header (IPv4) or 32 makes no difference to the sum.
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    sum.plus_address(Address::from(from))
        .plus_address(Address::from(to))
        .plus(length)
        .plus(PROTOCOL.into())
}

#[cfg(test)]
mod tests;
