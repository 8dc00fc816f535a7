//! The Virtual Router Redundancy Protocol, version 3 (RFC 9568): which of several balancers holds which addresses.
//!
//! Nothing here does I/O or looks at a clock; points in time are durations since some fixed moment of the caller's
//! monotonic clock.
//!
//! - `interval`: how often a master advertises, and what follows from that.
//! - `advertisement`: the one kind of packet, and its checksum.
//! - `acceptance`: which of the packets that arrive an instance takes for an advertisement.
//! - `packet`: the IP header around it.
//! - `group`: the protocol's state machine, of one instance or of several that move together.
//! - `announcement`: the frames that tell neighbours of a takeover.
//! - `transition`: what it tells of its changes; `untold`: which of them wait for the addresses to follow.
//! - `tracking`: how what is observed on the host lowers the priority, or forbids to be master.
//! - `script`: what the operator's own programs say of that.
//! - `notice`: what the operator's own programs are told.
//! - `source`: the address that packets come from.
//! - `holdings`: which addresses belong on which interfaces; `taking`: what follows when they cannot be put there.
//! - `virtual_interface`: the MAC address that moves with the addresses, as an option, and the interface that has it.
//!
//! Where the RFC says "active" these files say *master*, as most people and keepalived do.

mod acceptance;
mod advertisement;
mod announcement;
mod group;
mod holdings;
mod interval;
mod notice;
mod packet;
mod script;
mod source;
mod taking;
mod tracking;
mod transition;
mod untold;
mod virtual_interface;

pub use acceptance::{Acceptor, Audience, Heard, Received, Rejected};
pub use advertisement::{
    Advertisement, ChecksumForm, DecodeError, Decoded, HOP_LIMIT, LEAVING, PROTOCOL, group_address,
};
pub use announcement::announcement;
pub use group::{Action, Conditions, Group, MemberView, NotMaster, OWNER, Policy, Settings, Told};
pub use holdings::{Duties, Holdings, Place, Present};
pub use interval::Interval;
pub use notice::{Hook, Notice, Outbox, Posted};
pub use packet::{multicast_frame, of_ipv4, with_ip_header};
pub use script::{Script, Standing};
pub use source::{Candidate, Kind, NoSource, Requirements, Unusable};
pub use taking::Taking;
pub use tracking::{Effect, Shortage, Subject, Track, is_share};
pub use transition::{Cause, State, Transition};
pub use untold::Untold;
pub use virtual_interface::{
    Arp, Existing, Silenced, VirtualInterface, silenced_for_others, unwanted, virtual_mac,
};

#[cfg(test)]
mod simulation;
