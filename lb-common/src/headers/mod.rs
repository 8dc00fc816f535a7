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
