//! The layouts of the decapsulator's maps. They live as long as one attached program; nobody adopts them.

use crate::address::Address;

/// How many addresses can have a role.
pub const MAX_ADDRESSES: u32 = 1024;
/// From how many networks tunnels can be accepted.
pub const MAX_NETWORKS: usize = 8;

/// An address as the key of a map.
///
/// Aligned to 8 bytes because the kernel program builds it on its stack, where the verifier accepts no misaligned store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct AddressKey(pub Address);

/// What a host does with packets to one of its addresses.
pub mod role {
    /// Tunnels to the address end here.
    pub const ENDPOINT: u32 = 1;
    /// Packets to the address may come out of a tunnel.
    pub const VIP: u32 = 2;
}

/// A network, as two words to be compared and two that say which of their bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Network {
    bits: [u64; 2],
    mask: [u64; 2],
}

impl Network {
    /// A network that contains nothing.
    pub const EMPTY: Self = Self {
        bits: [1; 2],
        mask: [0; 2],
    };

    /// The network whose addresses share the first `length` bits of `address`.
    pub const fn new(address: Address, length: u8) -> Self {
        // An IPv4 address is held as the last 32 of 128 bits, behind 96 that say so.
        let length = if address.is_v4() {
            length as u32 + 96
        } else {
            length as u32
        };
        let high = ones(length);
        let low = ones(length.saturating_sub(64));
        let [upper, lower] = address.halves();
        Self {
            bits: [upper & high, lower & low],
            mask: [high, low],
        }
    }

    /// Whether an address is in the network.
    #[inline(always)]
    pub const fn contains(&self, address: Address) -> bool {
        let [upper, lower] = address.halves();
        upper & self.mask[0] == self.bits[0] && lower & self.mask[1] == self.bits[1]
    }
}

/// A word whose first `count` bits are 1; all of them from 64 on.
const fn ones(count: u32) -> u64 {
    if count == 0 {
        0
    } else if count >= 64 {
        u64::MAX
    } else {
        u64::MAX << (64 - count)
    }
}

/// From where tunnels are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Sources {
    networks: [Network; MAX_NETWORKS],
}

impl Sources {
    /// These networks, the first [`MAX_NETWORKS`] of them.
    pub fn new(networks: impl IntoIterator<Item = Network>) -> Self {
        let mut sources = Self {
            networks: [Network::EMPTY; MAX_NETWORKS],
        };
        for (place, network) in sources.networks.iter_mut().zip(networks) {
            *place = network;
        }
        sources
    }

    /// Whether one of the networks contains an address.
    #[inline(always)]
    pub fn contain(&self, address: Address) -> bool {
        self.networks.iter().any(|network| network.contains(address))
    }
}

/// Names of the maps in the program's object file. Also the names of their pins.
pub mod map {
    /// Hash, [`AddressKey`](super::AddressKey) to its [roles](super::role), a `u32`.
    pub const TUNNEL_ADDRESSES: &str = "TUNNEL_ADDRESSES";
    /// Array of one [`Sources`](super::Sources).
    pub const TUNNEL_SOURCES: &str = "TUNNEL_SOURCES";
    /// Per-CPU array of `u64`, indexed by [`Counter`](super::super::Counter).
    pub const TUNNEL_COUNTERS: &str = "TUNNEL_COUNTERS";
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use proptest::prelude::*;

    #[test]
    fn values_have_no_hidden_padding() {
        assert_eq!(size_of::<AddressKey>(), 16);
        assert_eq!(size_of::<Network>(), 32);
        assert_eq!(size_of::<Sources>(), 32 * MAX_NETWORKS);
    }

    #[test]
    fn families_are_apart_and_nothing_is_in_an_empty_network() {
        let all_v4 = Network::new(Address::v4([0; 4]), 0);
        let all_v6 = Network::new(Address::v6([0; 16]), 0);
        let (v4, v6) = (Address::v4([10, 0, 0, 1]), Address::v6([0x20; 16]));
        assert!(all_v4.contains(v4) && !all_v4.contains(v6) && all_v6.contains(v6));
        assert!(!Network::EMPTY.contains(v4) && !Sources::new([]).contain(v6));
    }

    proptest! {
        #[test]
        fn a_network_is_the_addresses_that_begin_alike(one: u128, other: u128, length in 0u8..=128) {
            let shifted = |address: u128| address.checked_shr(128 - u32::from(length)).unwrap_or(0);
            let network = Network::new(IpAddr::from(Ipv6Addr::from_bits(one)).into(), length);
            let near = one ^ other.checked_shr(u32::from(length)).unwrap_or(0);
            for address in [one, other, near] {
                let found = network.contains(IpAddr::from(Ipv6Addr::from_bits(address)).into());
                prop_assert_eq!(found, shifted(address) == shifted(one));
            }
        }

        #[test]
        fn the_same_with_ipv4(one: u32, other: u32, length in 0u8..=32) {
            let shifted = |address: u32| address.checked_shr(32 - u32::from(length)).unwrap_or(0);
            let network = Network::new(IpAddr::from(Ipv4Addr::from_bits(one)).into(), length);
            let near = one ^ other.checked_shr(u32::from(length)).unwrap_or(0);
            for address in [one, other, near] {
                let found = network.contains(IpAddr::from(Ipv4Addr::from_bits(address)).into());
                prop_assert_eq!(found, shifted(address) == shifted(one));
            }
        }
    }
}
