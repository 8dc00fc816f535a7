//! IPv6, RFC 8200.

use crate::address::Address;

/// Length of the fixed header, in bytes.
pub const HEADER_LENGTH: usize = 40;

/// Values of the next header field that mean an extension header, as assigned by IANA.
pub mod extension {
    /// Hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// Routing.
    pub const ROUTING: u8 = 43;
    /// Fragment.
    pub const FRAGMENT: u8 = 44;
    /// Options for the destination.
    pub const DESTINATION_OPTIONS: u8 = 60;

    /// Whether TCP can follow, now or behind another extension header, when an extension header names this as the next.
    #[inline(always)]
    pub const fn may_precede_tcp(next: u8) -> bool {
        matches!(
            next,
            crate::headers::tcp::PROTOCOL | HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS
        )
    }
}

/// The fixed 40 bytes of a header, as on the wire.
#[derive(Clone, Copy, Debug)]
pub struct Header([u8; HEADER_LENGTH]);

impl Header {
    /// Takes the 40 bytes of a header, unchecked.
    #[inline(always)]
    pub const fn new(bytes: [u8; HEADER_LENGTH]) -> Self {
        Self(bytes)
    }

    /// Whether the version is 6.
    #[inline(always)]
    pub const fn is_well_formed(&self) -> bool {
        self.0[0] >> 4 == 6
    }

    /// DSCP and ECN.
    #[inline(always)]
    pub const fn class(&self) -> u8 {
        self.0[0] << 4 | self.0[1] >> 4
    }

    /// Length of what follows this header, in bytes. 0 in a jumbogram, which TCP over Ethernet does not use.
    #[inline(always)]
    pub const fn payload_length(&self) -> usize {
        u16::from_be_bytes([self.0[4], self.0[5]]) as usize
    }

    /// The protocol of the payload, or the type of the extension header before it.
    #[inline(always)]
    pub const fn next_header(&self) -> u8 {
        self.0[6]
    }

    /// The sender.
    #[inline(always)]
    pub const fn source(&self) -> Address {
        address(&self.0, 8)
    }

    /// The receiver.
    #[inline(always)]
    pub const fn destination(&self) -> Address {
        address(&self.0, 24)
    }
}

/// A header of our own, in words of host byte order.
///
/// `class` is DSCP and ECN; `label` has 20 bits; `length` is that of what follows in bytes; the addresses are words of host
/// byte order.
#[inline(always)]
pub const fn header_words(
    class: u8,
    label: u32,
    length: u16,
    next_header: u8,
    source: [u32; 4],
    destination: [u32; 4],
) -> [u32; 10] {
    let [a, b, c, d] = source;
    let [first, second, third, fourth] = destination;
    [
        6 << 28 | (class as u32) << 20 | label,
        (length as u32) << 16 | (next_header as u32) << 8 | super::HOP_LIMIT as u32,
        a,
        b,
        c,
        d,
        first,
        second,
        third,
        fourth,
    ]
}

/// The 16 bytes at `offset`, at most 24.
#[inline(always)]
const fn address(header: &[u8; HEADER_LENGTH], offset: usize) -> Address {
    let mut octets = [0; 16];
    let mut index = 0;
    while index < 16 {
        octets[index] = header[offset + index];
        index += 1;
    }
    Address::v6(octets)
}
