//! Where packets for a backend are sent, and how.

use crate::address::Address;

/// How packets reach a backend, as [`Target`] names it.
pub mod forward {
    /// The frame's MAC addresses are rewritten.
    pub const DSR: u32 = 0;
    /// The packet is wrapped into another IP packet.
    pub const IPIP: u32 = 1;
    /// Addresses and ports are translated, in both directions.
    pub const NAT: u32 = 2;
}

/// How packets reach a backend, with what that needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// Direct server return.
    Dsr,
    /// IP in IP.
    Ipip {
        /// The outer packet's source, of the backend's family: its last 16 bits, with IPv6 32, are 0 and filled in by flow.
        source: Address,
    },
    /// Full network address translation.
    Nat {
        /// The backend's port, host byte order.
        port: u16,
    },
}

/// The way to a backend on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The next hop's MAC address.
    pub mac: [u8; 6],
    /// The MAC address of our interface.
    pub source: [u8; 6],
    /// The index of our interface. 0 stands for the one that a packet came in on.
    pub egress: u32,
    /// The longest IP packet that the way takes, in bytes.
    pub mtu: u16,
}

/// An entry of the target table: one cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Target {
    /// Destination and source MAC address, 12 bytes as on the wire; in words, because the kernel program copies
    /// words and not bytes.
    addresses: [u32; 3],
    /// [`Target::RESOLVED`], [`Target::SHEDS`], [`Target::DRAINS`].
    state: u32,
    /// The backend's own address.
    backend: Address,
    /// With `ipip`, the outer source, of the backend's family, to be completed by flow.
    source: Address,
    /// The index of the interface on which packets leave. 0 stands for the one that they came in on.
    egress: u32,
    /// The longest IP packet that the way to the backend takes, in bytes.
    mtu: u16,
    /// With `nat`, the backend's port, host byte order.
    port: u16,
    /// One of [`forward`].
    forward: u32,
    /// With `balance = "least-connections"`, its share of the connections; 0, until it is known, is the smallest.
    weight: u32,
}

impl Target {
    /// In `state`: the next hop's MAC address is known.
    const RESOLVED: u32 = 1;
    /// In `state`: its health lets no new flow to it, nor a SYN again.
    const SHEDS: u32 = 2;
    /// In `state`: it is leaving, or has the weight 0. It is no client's home, but a handshake that has begun there ends there.
    const DRAINS: u32 = 4;

    /// The target for nobody: what unused ids have.
    pub const NONE: Self = Self {
        addresses: [0; 3],
        state: 0,
        backend: Address::UNSPECIFIED,
        source: Address::UNSPECIFIED,
        egress: 0,
        mtu: 0,
        port: 0,
        forward: forward::DSR,
        weight: 0,
    };

    /// The entry of a backend; `next_hop` is `None` while it is not known.
    pub fn new(backend: Address, forwarding: Forwarding, next_hop: Option<NextHop>) -> Self {
        let (forward, source, port) = match forwarding {
            Forwarding::Dsr => (forward::DSR, Address::UNSPECIFIED, 0),
            Forwarding::Ipip { source } => (forward::IPIP, source, 0),
            Forwarding::Nat { port } => (forward::NAT, Address::UNSPECIFIED, port),
        };
        let mut target = Self {
            backend,
            source,
            port,
            forward,
            ..Self::NONE
        };
        if let Some(NextHop {
            mac,
            source,
            egress,
            mtu,
        }) = next_hop
        {
            target.addresses = address_words(mac, source);
            target.egress = egress;
            target.mtu = mtu;
            target.state |= Self::RESOLVED;
        }
        target
    }

    /// The same target, with or without a stop for new flows because of its health.
    #[must_use]
    pub const fn shedding(self, sheds: bool) -> Self {
        self.with(Self::SHEDS, sheds)
    }

    /// The same target, being drained or not.
    #[must_use]
    pub const fn draining(self, drains: bool) -> Self {
        self.with(Self::DRAINS, drains)
    }

    /// The same target, with another share of the connections.
    #[must_use]
    pub const fn weighing(self, weight: u32) -> Self {
        Self { weight, ..self }
    }

    /// The same target, admitting new flows as another entry does.
    #[must_use]
    pub const fn admitting_as(self, other: &Self) -> Self {
        self.shedding(other.sheds())
            .draining(other.drains())
            .weighing(other.weight)
    }

    const fn with(self, bit: u32, is_set: bool) -> Self {
        let state = if is_set {
            self.state | bit
        } else {
            self.state & !bit
        };
        Self { state, ..self }
    }

    /// Whether the next hop's MAC address is known.
    #[inline(always)]
    pub const fn is_resolved(&self) -> bool {
        self.state & Self::RESOLVED != 0
    }

    /// Whether its health lets no new flow to it.
    #[inline(always)]
    pub const fn sheds(&self) -> bool {
        self.state & Self::SHEDS != 0
    }

    /// Whether it is being drained.
    #[inline(always)]
    pub const fn drains(&self) -> bool {
        self.state & Self::DRAINS != 0
    }

    /// Whether packets can be sent to it, and it does not shed them.
    #[inline(always)]
    pub const fn is_alive(&self) -> bool {
        self.state & (Self::RESOLVED | Self::SHEDS) == Self::RESOLVED
    }

    /// Whether new flows may go to it, whatever its slots say: it is alive, and not being drained.
    #[inline(always)]
    pub const fn takes_new_flows(&self) -> bool {
        self.state & (Self::RESOLVED | Self::SHEDS | Self::DRAINS) == Self::RESOLVED
    }

    /// With `balance = "least-connections"`, its share of the connections; 0, until it is known, is the smallest.
    #[inline(always)]
    pub const fn weight(&self) -> u32 {
        self.weight
    }

    /// How packets reach it: one of [`forward`].
    #[inline(always)]
    pub const fn forward(&self) -> u32 {
        self.forward
    }

    /// How packets reach it, with what that needs.
    pub const fn forwarding(&self) -> Forwarding {
        match self.forward {
            forward::IPIP => Forwarding::Ipip { source: self.source },
            forward::NAT => Forwarding::Nat { port: self.port },
            _ => Forwarding::Dsr,
        }
    }

    /// The backend's own address.
    #[inline(always)]
    pub const fn backend(&self) -> Address {
        self.backend
    }

    /// The backend's port, host byte order; 0 unless forwarding is `nat`.
    #[inline(always)]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The outer source, to be completed by flow, with `ipip`.
    #[inline(always)]
    pub const fn source(&self) -> Address {
        self.source
    }

    /// The index of the interface on which packets leave. 0 stands for the one that they came in on.
    #[inline(always)]
    pub const fn egress(&self) -> u32 {
        self.egress
    }

    /// The longest IP packet that the way to the backend takes, in bytes, a tunnel's header included.
    #[inline(always)]
    pub const fn mtu(&self) -> u16 {
        self.mtu
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

impl Default for Target {
    fn default() -> Self {
        Self::NONE
    }
}

/// Destination and source MAC address as words.
pub(super) fn address_words(destination: [u8; 6], source: [u8; 6]) -> [u32; 3] {
    let mut bytes = [0; 12];
    bytes[..6].copy_from_slice(&destination);
    bytes[6..].copy_from_slice(&source);
    let (words, _) = bytes.as_chunks();
    [0, 1, 2].map(|index: usize| u32::from_ne_bytes(words[index]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_says_what_it_was_made_of() {
        let backend = Address::v4([10, 0, 0, 1]);
        let hop = NextHop {
            mac: [2, 0, 0, 0, 0, 1],
            source: [2, 0, 0, 0, 0, 2],
            egress: 7,
            mtu: 1500,
        };
        let target = Target::new(backend, Forwarding::Nat { port: 21050 }, Some(hop));
        assert_eq!(target.addresses(), [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
        assert_eq!((target.egress(), target.mtu(), target.port()), (7, 1500, 21050));
        assert_eq!((target.forward(), target.backend()), (forward::NAT, backend));
        assert_eq!(target.forwarding(), Forwarding::Nat { port: 21050 });
        assert!(target.is_resolved() && !target.sheds());
        assert!(target.shedding(true).sheds() && target.shedding(true).is_resolved());
        assert!(target.takes_new_flows() && !target.shedding(true).takes_new_flows());
        assert!(!Target::NONE.takes_new_flows() && !Target::NONE.is_alive());
        assert!(target.is_alive() && !target.shedding(true).is_alive());
        let draining = target.draining(true);
        assert!(draining.drains() && draining.is_alive() && !draining.takes_new_flows());
        assert_eq!(draining.draining(false), target);
        assert_eq!(target.shedding(true).admitting_as(&draining), draining);
        let weighing = target.weighing(30);
        assert_eq!((weighing.weight(), target.weight()), (30, 0));
        assert_eq!(target.admitting_as(&weighing), weighing);
        assert_eq!(target.shedding(true).shedding(false), target);
    }

    #[test]
    fn without_a_next_hop_it_is_unresolved() {
        let source = Address::v4([172, 16, 0, 0]);
        let target = Target::new(Address::v4([10, 0, 0, 1]), Forwarding::Ipip { source }, None);
        assert_eq!((target.next_hop(), target.source()), (None, source));
        assert_eq!(target.forwarding(), Forwarding::Ipip { source });
        assert!(!Target::NONE.is_resolved());
    }
}
