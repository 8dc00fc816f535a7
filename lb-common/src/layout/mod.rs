//! The layouts of the maps, as the kernel program and the controller both see them.
//!
//! Everything is `repr(C)` without padding that is not named, so that a value can be copied in and out of a map as
//! bytes. Integers are in the byte order of the host unless a field says otherwise; the two sides are always on one
//! host. A change here must raise [`VERSION`], which is part of the path under which maps are pinned.

mod affinity;
mod allowed;
pub mod live;
mod names;
mod news;
mod service;
mod target;
mod translation;

use crate::{address::Address, headers::tcp};

pub use affinity::{AFFINITY_ROOM, Affinity, ClientKey};
pub use allowed::{ALLOWED_ROOM, AllowedKey, MAX_ALLOWED_PREFIXES};
pub use live::Live;
pub use names::{NAME_LENGTH, TargetName};
pub use news::{Changed, NEWS_BYTES, News};
pub use service::{MAX_INTERFACES, Node, Service, flag, mac_word};
pub use target::{Forwarding, NextHop, Target, forward};
pub use translation::{Return, ReturnKey};

/// Version of the layouts in this module.
pub const VERSION: u32 = 5;

/// The id that no target has. An empty slot names it.
pub const NO_TARGET: u16 = 0;

/// Names a service: the key of the service table.
///
/// The key with port 0 and protocol 0 ([`ServiceKey::vip`]) says that the address is a VIP at all; it is asked for
/// packets whose port cannot be read.
///
/// Aligned to 8 bytes because the kernel program builds it on its stack, where the verifier accepts no misaligned store,
/// and the compiler joins stores into 8-byte ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C, align(8))]
pub struct ServiceKey {
    /// The VIP.
    address: Address,
    /// The port in network byte order.
    port: u16,
    /// The IP protocol number.
    protocol: u16,
    reserved: u32,
}

impl ServiceKey {
    /// The key of the TCP service at `vip` and `port`.
    #[inline(always)]
    pub const fn tcp(vip: Address, port: u16) -> Self {
        Self {
            address: vip,
            port: port.to_be(),
            protocol: tcp::PROTOCOL as u16,
            reserved: 0,
        }
    }

    /// The key that tells whether `address` is a VIP.
    #[inline(always)]
    pub const fn vip(address: Address) -> Self {
        Self {
            address,
            port: 0,
            protocol: 0,
            reserved: 0,
        }
    }

    /// The VIP.
    pub const fn address(&self) -> Address {
        self.address
    }

    /// The port, in host byte order.
    pub const fn port(&self) -> u16 {
        u16::from_be(self.port)
    }

    /// Whether it is the key of a service, and not the one that says that its address is a VIP.
    pub const fn is_service(&self) -> bool {
        self.protocol != 0
    }
}

/// One entry of a service's lookup table.
///
/// In the map it is a `u64` ([`Slot::to_bits`]), so that both sides load and store it whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// The target on which the slot's untracked established connections live.
    pub settled: u16,
    /// The target for new connections.
    pub current: u16,
    /// Whether packets of this slot consult the flow table.
    pub tracked: bool,
    /// When the settled path was last used, in [ticks](crate::clock::ticks), modulo 2^16.
    pub settled_seen: u16,
    /// Not 0 during the grace period of a slot of an affine service: for [as long as a client keeps its backend](Service) after the
    /// slot has become tracked, clients of whom nothing is known are [at home](crate::affinity) on `settled`. The controller begins
    /// and ends it, and says here when it began, in its own units; 15 bits.
    pub grace: u16,
}

impl Slot {
    /// The bits that `grace` can have.
    pub const GRACE: u16 = 0x7fff;

    /// A slot whose flows, old and new, are all on `target`.
    pub const fn untracked(target: u16) -> Self {
        Self {
            settled: target,
            current: target,
            tracked: false,
            settled_seen: 0,
            grace: 0,
        }
    }

    /// The form in which the map holds it: `settled` in the lowest 16 bits, then `current`, the
    /// tracked bit, 15 bits of `grace`, `settled_seen`.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        self.settled as u64
            | (self.current as u64) << 16
            | (self.tracked as u64) << 32
            | ((self.grace & Self::GRACE) as u64) << 33
            | (self.settled_seen as u64) << 48
    }

    /// The inverse of [`Slot::to_bits`].
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "each field is cut out of the word that packs them"
    )]
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            settled: bits as u16,
            current: (bits >> 16) as u16,
            tracked: bits >> 32 & 1 != 0,
            settled_seen: (bits >> 48) as u16,
            grace: (bits >> 33) as u16 & Self::GRACE,
        }
    }
}

/// Names a flow: the key of all tables of flows. The service stands for VIP, port and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C, align(8))]
pub struct FlowKey {
    /// The client's address.
    client: Address,
    /// The client's port.
    client_port: u16,
    /// The service's id.
    service: u16,
    reserved: u32,
}

impl FlowKey {
    /// The key of the flow between a client and a service.
    #[inline(always)]
    pub const fn new(client: Address, client_port: u16, service: u16) -> Self {
        Self {
            client,
            client_port,
            service,
            reserved: 0,
        }
    }

    /// The client's address.
    pub const fn client(&self) -> Address {
        self.client
    }

    /// The client's port.
    pub const fn client_port(&self) -> u16 {
        self.client_port
    }

    /// The service's id.
    pub const fn service(&self) -> u16 {
        self.service
    }
}

/// What is known of a connection in a tracked slot: an *established* record.
///
/// Aligned to 8 bytes for the same reason as [`ServiceKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct FlowRecord {
    /// The target on which the connection lives.
    pub target: u16,
    /// Once a FIN or RST has been seen, [when](crate::slot_rule::closing_since); else 0.
    pub closing: u16,
    /// When the last packet came, in [ticks](crate::clock::ticks).
    pub last_seen: u32,
    /// With `nat`, the VIP's port that stands for the client's towards the backend, host byte order; else 0.
    pub port: u16,
    /// Always 0.
    pub reserved: [u16; 3],
}

/// What is known of a connection in a tracked slot of which there has been a SYN only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct HalfOpen {
    /// The target that the SYN was given.
    pub target: u16,
    /// With `nat`, the VIP's port that stands for the client's towards the backend, host byte order; else 0.
    pub port: u16,
    /// The SYN's sequence number.
    pub sequence: u32,
    /// When it came, in [ticks](crate::clock::ticks).
    pub opened: u32,
}

/// What was noted of a connection in a tracked slot that has no record, because it is older than the slot's move.
///
/// For operators to see and count. Never consulted for forwarding, and lost when there are more than the table holds.
///
/// Aligned to 8 bytes for the same reason as [`ServiceKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct SettledFlow {
    /// The target to which the settled path led.
    pub target: u16,
    /// 1 once a FIN or RST has been seen, else 0.
    pub closing: u16,
    /// When a packet came, in [ticks](crate::clock::ticks): the last one, or the one that closes.
    pub last_seen: u32,
}

/// What was forwarded to a target, per CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Traffic {
    /// Packets forwarded.
    pub packets: u64,
    /// Bytes forwarded: whole frames as they came from the client, Ethernet header included.
    pub bytes: u64,
    /// Segments that ask for a new connection, retransmitted ones included.
    pub new_flows: u64,
}

impl Traffic {
    /// Adds what another CPU counted. Wraps, as counters do.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets.wrapping_add(other.packets),
            bytes: self.bytes.wrapping_add(other.bytes),
            new_flows: self.new_flows.wrapping_add(other.new_flows),
        }
    }
}

/// Names of the maps in the program's object file. Also the names of their pins.
pub mod map {
    /// Hash, [`ServiceKey`](super::ServiceKey) to [`Service`](super::Service).
    pub const SERVICES: &str = "SERVICES";
    /// Trie by longest prefix, [`AllowedKey`](super::AllowedKey) to `u32`, which is always 1: from where services with the flag
    /// [`RESTRICTED`](super::flag::RESTRICTED) may be used.
    pub const ALLOWED: &str = "ALLOWED";
    /// Hash, [`FlowKey`](super::FlowKey) to [`FlowRecord`](super::FlowRecord). Never evicts.
    pub const FLOWS: &str = "FLOWS";
    /// Hash that evicts the least recently used, [`FlowKey`](super::FlowKey) to [`HalfOpen`](super::HalfOpen).
    pub const HALF_OPEN: &str = "HALF_OPEN";
    /// Hash that evicts the least recently used, [`FlowKey`](super::FlowKey) to [`SettledFlow`](super::SettledFlow).
    pub const SETTLED_FLOWS: &str = "SETTLED_FLOWS";
    /// Hash that evicts the least recently used, [`ClientKey`](super::ClientKey) to [`Affinity`](super::Affinity): where clients of
    /// affine services are at home, as far as their slots are tracked.
    pub const AFFINITY: &str = "AFFINITY";
    /// Hash, [`ReturnKey`](super::ReturnKey) to [`Return`](super::Return): the way back of translated connections that have
    /// an established record. Never evicts.
    pub const RETURNS: &str = "RETURNS";
    /// Hash that evicts the least recently used, [`ReturnKey`](super::ReturnKey) to [`Return`](super::Return): the way back of
    /// those that have a half-open one.
    pub const HALF_OPEN_RETURNS: &str = "HALF_OPEN_RETURNS";
    /// Array of one [`Node`](super::Node).
    pub const NODE: &str = "NODE";
    /// Hash of devices by interface index: where packets can be sent that do not leave on the interface they came in on.
    pub const DEVICES: &str = "DEVICES";
    /// Array of one `u64`: what the clock showed last. The program's own.
    pub const CLOCK: &str = "CLOCK";
    /// Array of one `u32`: not 0 while records are running short.
    pub const RECORDS_SHORT: &str = "RECORDS_SHORT";
    /// Memory-mapped array of [`Slot::to_bits`](super::Slot::to_bits), each service's slots in one piece.
    pub const SLOTS: &str = "SLOTS";
    /// Array of [`Target`](super::Target), indexed by target id.
    pub const TARGETS: &str = "TARGETS";
    /// Memory-mapped array of [`Live`](super::Live), indexed by target id.
    pub const LIVE: &str = "LIVE";
    /// Per-CPU array of [`Traffic`](super::Traffic), indexed by target id.
    pub const TRAFFIC: &str = "TRAFFIC";
    /// Array of [`TargetName`](super::TargetName), indexed by target id. The controller's own: no program uses it.
    pub const TARGET_NAMES: &str = "TARGET_NAMES";
    /// Per-CPU array of `u64`, indexed by [`Counter`](crate::counter::Counter).
    pub const COUNTERS: &str = "COUNTERS";
    /// Ring buffer of [`News`](super::News). Each loaded program has its own.
    pub const NEWS: &str = "NEWS";
    /// Memory-mapped array of one `u32`: how many news found the ring buffer full. Each loaded program has its own.
    pub const NEWS_LOST: &str = "NEWS_LOST";
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::size_of;
    use proptest::prelude::*;

    #[test]
    fn values_have_no_hidden_padding() {
        assert_eq!(size_of::<ServiceKey>(), 24);
        assert_eq!(size_of::<Service>(), 32);
        assert_eq!(size_of::<AllowedKey>(), 24);
        assert_eq!(size_of::<FlowKey>(), 24);
        assert_eq!(size_of::<FlowRecord>(), 16);
        assert_eq!(size_of::<HalfOpen>(), 12);
        assert_eq!(size_of::<SettledFlow>(), 8);
        assert_eq!(size_of::<ClientKey>(), 24);
        assert_eq!(size_of::<Affinity>(), 8);
        assert_eq!(size_of::<ReturnKey>(), 40);
        assert_eq!(size_of::<Return>(), 40);
        assert_eq!(size_of::<News>(), 24);
        assert_eq!(size_of::<Node>(), 72);
        assert_eq!(size_of::<Target>(), 64);
        assert_eq!(size_of::<Live>(), 8);
        assert_eq!(size_of::<Traffic>(), 24);
    }

    #[test]
    fn a_vip_is_no_service() {
        let vip = Address::v4([10, 0, 0, 1]);
        assert_ne!(ServiceKey::tcp(vip, 0), ServiceKey::vip(vip));
    }

    #[test]
    fn a_zeroed_slot_has_no_target() {
        assert_eq!(Slot::from_bits(0), Slot::untracked(NO_TARGET));
    }

    proptest! {
        #[test]
        fn slots_survive_packing(settled: u16, current: u16, tracked: bool, settled_seen: u16, grace in 0..=Slot::GRACE) {
            let slot = Slot { settled, current, tracked, settled_seen, grace };
            prop_assert_eq!(Slot::from_bits(slot.to_bits()), slot);
        }
    }
}
