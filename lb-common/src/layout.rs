//! The layouts of the maps, as the kernel program and the controller both see them.
//!
//! Everything is `repr(C)` without padding that is not named, so that a value can be copied in and out of a map as
//! bytes. Integers are in the byte order of the host unless a field says otherwise; the two sides are always on one
//! host. A change here must raise [`VERSION`], which is part of the path under which maps are pinned.

mod names;

pub use names::{NAME_LENGTH, TargetName};

use crate::{address::Address, headers::tcp};

/// Version of the layouts in this module.
pub const VERSION: u32 = 1;

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

    /// Whether it is the key of a service, and not the one that says that its address is a VIP.
    pub const fn is_service(&self) -> bool {
        self.protocol != 0
    }
}

/// What the service table says about a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Service {
    /// The seed of the flow hash.
    pub hash_seed: u64,
    /// Index of the service's first slot in the slot table.
    pub first_slot: u32,
    /// How many slots it has. 0 for the entry of a VIP.
    pub slots: u32,
    /// The MAC address of our interface, as [`mac_word`] makes it. Frames to another one are not for us, though an
    /// interface in promiscuous mode lets them in.
    pub mac: u64,
    /// Names the service in the keys of flows.
    pub id: u16,
    /// Always 0.
    pub reserved: [u16; 3],
}

/// A MAC address as one number that is compared at once: its 6 bytes as on the wire, in the order of the host's memory.
#[inline(always)]
pub const fn mac_word(mac: [u8; 6]) -> u64 {
    let first = u32::from_ne_bytes([mac[0], mac[1], mac[2], mac[3]]);
    let last = u16::from_ne_bytes([mac[4], mac[5]]);
    first as u64 | (last as u64) << 32
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
}

impl Slot {
    /// A slot whose flows, old and new, are all on `target`.
    pub const fn untracked(target: u16) -> Self {
        Self {
            settled: target,
            current: target,
            tracked: false,
            settled_seen: 0,
        }
    }

    /// The form in which the map holds it: `settled` in the lowest 16 bits, then `current`, the flags, `settled_seen`.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        self.settled as u64
            | (self.current as u64) << 16
            | (self.tracked as u64) << 32
            | (self.settled_seen as u64) << 48
    }

    /// The inverse of [`Slot::to_bits`]. Flags that are not known are ignored.
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
        }
    }
}

/// Names a flow: the key of both tables of records. The service stands for VIP, port and protocol.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FlowRecord {
    /// The target on which the connection lives.
    pub target: u16,
    /// 1 once a FIN or RST has been seen, else 0.
    pub closing: u16,
    /// When the last packet came, in [ticks](crate::clock::ticks).
    pub last_seen: u32,
}

/// What is known of a connection in a tracked slot of which there has been a SYN only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct HalfOpen {
    /// The target that the SYN was given.
    pub target: u16,
    /// Always 0.
    pub reserved: u16,
    /// The SYN's sequence number.
    pub sequence: u32,
    /// When it came, in [ticks](crate::clock::ticks).
    pub opened: u32,
}

/// Where packets for a backend are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Target {
    /// Destination and source MAC address, 12 bytes as on the wire; in words, because the kernel program copies
    /// words and not bytes.
    addresses: [u32; 3],
    /// 1 once the next hop's MAC address is known, else 0.
    resolved: u32,
}

impl Target {
    /// A target whose next hop has answered: its MAC address, and the one of our interface.
    pub fn resolved(next_hop: [u8; 6], source: [u8; 6]) -> Self {
        let mut bytes = [0; 12];
        bytes[..6].copy_from_slice(&next_hop);
        bytes[6..].copy_from_slice(&source);
        let (words, _) = bytes.as_chunks();
        Self {
            addresses: [0, 1, 2].map(|index: usize| u32::from_ne_bytes(words[index])),
            resolved: 1,
        }
    }

    /// Whether the next hop's MAC address is known.
    #[inline(always)]
    pub const fn is_resolved(&self) -> bool {
        self.resolved != 0
    }

    /// The first 12 bytes of a frame for this target: the next hop's MAC address, then ours.
    #[inline(always)]
    pub fn addresses(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(self.addresses) {
            *bytes = word.to_ne_bytes();
        }
        bytes
    }

    /// The next hop's MAC address, for `dsr` the backend's own; `None` while it is not known.
    pub fn next_hop(&self) -> Option<[u8; 6]> {
        if self.is_resolved() {
            self.addresses().first_chunk().copied()
        } else {
            None
        }
    }
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
    /// Hash, [`FlowKey`](super::FlowKey) to [`FlowRecord`](super::FlowRecord). Never evicts.
    pub const FLOWS: &str = "FLOWS";
    /// Hash that evicts the least recently used, [`FlowKey`](super::FlowKey) to [`HalfOpen`](super::HalfOpen).
    pub const HALF_OPEN: &str = "HALF_OPEN";
    /// Array of one `u32`: not 0 while records are running short.
    pub const RECORDS_SHORT: &str = "RECORDS_SHORT";
    /// Memory-mapped array of [`Slot::to_bits`](super::Slot::to_bits), each service's slots in one piece.
    pub const SLOTS: &str = "SLOTS";
    /// Array of [`Target`](super::Target), indexed by target id.
    pub const TARGETS: &str = "TARGETS";
    /// Per-CPU array of [`Traffic`](super::Traffic), indexed by target id.
    pub const TRAFFIC: &str = "TRAFFIC";
    /// Array of [`TargetName`](super::TargetName), indexed by target id. The controller's own: no program uses it.
    pub const TARGET_NAMES: &str = "TARGET_NAMES";
    /// Per-CPU array of `u64`, indexed by [`Counter`](crate::counter::Counter).
    pub const COUNTERS: &str = "COUNTERS";
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
        assert_eq!(size_of::<FlowKey>(), 24);
        assert_eq!(size_of::<FlowRecord>(), 8);
        assert_eq!(size_of::<HalfOpen>(), 12);
        assert_eq!(size_of::<Target>(), 16);
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
        fn slots_survive_packing(settled: u16, current: u16, tracked: bool, settled_seen: u16) {
            let slot = Slot { settled, current, tracked, settled_seen };
            prop_assert_eq!(Slot::from_bits(slot.to_bits()), slot);
        }
    }
}
