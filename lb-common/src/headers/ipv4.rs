//! IPv4, RFC 791.

use super::checksum::Sum;
use crate::address::Address;

/// Length of a header without options, in bytes.
pub const MIN_HEADER_LENGTH: usize = 20;

/// Where the checksum is, in bytes from the start of the header.
pub const CHECKSUM_OFFSET: usize = 10;
/// The bits of the field of flags and fragment offset that are the offset.
const OFFSET_MASK: u16 = 0x1fff;

/// The fixed 20 bytes of a header, as on the wire.
#[derive(Clone, Copy, Debug)]
pub struct Header([u8; MIN_HEADER_LENGTH]);

impl Header {
    /// Takes the first 20 bytes of a header, unchecked.
    #[inline(always)]
    pub const fn new(bytes: [u8; MIN_HEADER_LENGTH]) -> Self {
        Self(bytes)
    }

    /// Whether the version is 4 and the header length at least 20 bytes.
    #[inline(always)]
    pub const fn is_well_formed(&self) -> bool {
        // Version and header length share the first byte: 0x45 is version 4 with 5 words.
        self.0[0] >= 0x45 && self.0[0] <= 0x4f
    }

    /// Length of the header with its options, in bytes: at most 60.
    #[inline(always)]
    pub const fn header_length(&self) -> usize {
        ((self.0[0] & 0x0f) as usize) * 4
    }

    /// DSCP and ECN.
    #[inline(always)]
    pub const fn class(&self) -> u8 {
        self.0[1]
    }

    /// Length of the packet from the first byte of this header, in bytes.
    #[inline(always)]
    pub const fn total_length(&self) -> usize {
        u16::from_be_bytes([self.0[2], self.0[3]]) as usize
    }

    /// Whether this is a fragment, the first one included.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        const MORE_FRAGMENTS: u16 = 0x2000;
        u16::from_be_bytes([self.0[6], self.0[7]]) & (MORE_FRAGMENTS | OFFSET_MASK) != 0
    }

    /// Where in its packet this fragment begins, in units of 8 bytes; 0 for the first one, and for what is none.
    #[inline(always)]
    pub const fn fragment_offset(&self) -> u16 {
        u16::from_be_bytes([self.0[6], self.0[7]]) & OFFSET_MASK
    }

    /// The protocol of the payload.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        self.0[9]
    }

    /// The sender.
    #[inline(always)]
    pub const fn source(&self) -> Address {
        Address::v4([self.0[12], self.0[13], self.0[14], self.0[15]])
    }

    /// The receiver.
    #[inline(always)]
    pub const fn destination(&self) -> Address {
        Address::v4([self.0[16], self.0[17], self.0[18], self.0[19]])
    }
}

/// A header of our own, in words of host byte order: without options, not to be fragmented, and therefore without an
/// identification (RFC 6864, 4.1).
///
/// `class` is DSCP and ECN; `length` is that of the whole packet in bytes; addresses are in host byte order.
#[inline(always)]
pub const fn header_words(class: u8, length: u16, protocol: u8, source: u32, destination: u32) -> [u32; 5] {
    const DONT_FRAGMENT: u32 = 0x4000;
    let first = 0x45 << 24 | (class as u32) << 16 | length as u32;
    let third = (super::HOP_LIMIT as u32) << 24 | (protocol as u32) << 16;
    let checksum = Sum::ZERO
        .plus(first)
        .plus(DONT_FRAGMENT)
        .plus(third)
        .plus(source)
        .plus(destination)
        .checksum();
    [first, DONT_FRAGMENT, third | checksum as u32, source, destination]
}
