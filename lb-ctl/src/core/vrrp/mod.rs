//! The Virtual Router Redundancy Protocol, version 3 (RFC 9568): which of several balancers holds which addresses.
//!
//! Nothing here does I/O or looks at a clock; points in time are durations since some fixed moment of the caller's
//! monotonic clock.
//!
//! - `interval`: how often a master advertises, and what follows from that.
//! - `advertisement`: the one kind of packet, and its checksum.
//! - `acceptance`: which of the packets that arrive an instance takes for an advertisement.
//!
//! Where the RFC says "active" these files say *master*, as most people and keepalived do.

mod acceptance;
mod advertisement;
mod interval;

pub use acceptance::{Acceptor, Audience, Heard, Received, Rejected};
pub use advertisement::{
    Advertisement, ChecksumForm, DecodeError, Decoded, HOP_LIMIT, LEAVING, PROTOCOL, group_address,
};
pub use interval::Interval;
