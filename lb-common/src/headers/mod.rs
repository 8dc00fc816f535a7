//! The headers that stand between the wire and a decision.

pub mod checksum;
pub mod ecn;
pub mod ethernet;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod segment;
pub mod tcp;

pub use segment::{Fault, Parsed, Segment, parse};

/// The hop limit of packets of our own.
const HOP_LIMIT: u8 = 64;

/// The `M` bytes at `offset` of a header.
///
/// Taken as one array, so that the compiler loads a field as one word: from single bytes it does so only if nothing comes in
/// between.
#[inline(always)]
const fn field<const M: usize, const N: usize>(header: &[u8; N], offset: usize) -> [u8; M] {
    let Some(field) = header.split_at(offset).1.first_chunk() else {
        // A field lies within its header.
        unreachable!()
    };
    *field
}
