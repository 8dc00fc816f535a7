//! The hash that picks a flow's slot, and the one that orders backends.
//!
//! Both balancers of a pair, and every version of them, must agree on these functions, or a takeover would move live
//! flows: the golden vectors below hold them in place.

use crate::address::Address;

/// The finaliser of `SplitMix64`: every input bit changes every output bit with probability close to one half.
///
/// Constants from D. Stafford, "Better Bit Mixing" (variant 13).
#[inline(always)]
pub const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The hash of a flow, as far as the client determines it.
///
/// VIP and port are left out on purpose: they are the same for all flows of a service, whose seed stands for them.
#[inline(always)]
pub const fn flow(seed: u64, client: Address, client_port: u16) -> u64 {
    if client.is_v4() {
        mix(seed ^ (client.v4_bits() as u64) << 16 ^ client_port as u64)
    } else {
        let [high, low] = client.halves();
        // The halves must not be exchangeable, nor the port be absorbed by an address: one round after the other.
        mix(mix(mix(seed ^ high) ^ low) ^ client_port as u64)
    }
}

/// The slot that a flow's hash picks among `slots`.
///
/// Multiplies instead of dividing: the upper half of the hash, taken as a fraction of one, times the number of slots. The
/// deviation from an even spread is below `slots` / 2^32.
#[inline(always)]
pub const fn slot(hash: u64, slots: u32) -> u32 {
    (((hash >> 32) * slots as u64) >> 32) as u32
}

/// The hash of a name, for permutations.
pub fn name(seed: u64, name: &str) -> u64 {
    // The length goes in first, so that no name is another one padded with zeros.
    let start = mix(seed ^ name.len() as u64);
    name.as_bytes().chunks(8).fold(start, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(hash ^ u64::from_le_bytes(word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn golden_vectors() {
        // Independently computed from the published SplitMix64 constants; they must never change.
        assert_eq!(mix(0), 0);
        assert_eq!(
            mix(0x9e37_79b9_7f4a_7c15),
            0xe220_a839_7b1d_cdaf,
            "first output of SplitMix64 seeded with 0"
        );
        assert_eq!(flow(0, Address::v4([10, 0, 0, 1]), 40000), 0x424f_e45f_54fd_c8c9);
        assert_eq!(flow(0, Address::v6([0x20; 16]), 40000), 0x471b_53f2_b8f0_3238);
        assert_eq!(name(0, "impala1"), 0x3b68_1282_1004_be35);
        assert_ne!(name(0, "a"), name(0, "a\0"));
    }

    #[test]
    fn slots_cover_their_range() {
        assert_eq!(slot(0, 65537), 0);
        assert_eq!(slot(u64::MAX, 65537), 65536);
        assert_eq!(slot(1 << 63, 65537), 32768);
    }

    #[test]
    fn neighbouring_ports_spread_evenly() {
        // The worst case that is also the usual one: one client, consecutive ports, few slots.
        const SLOTS: u32 = 17;
        let mut hits = vec![0u32; SLOTS as usize];
        for port in 1024..=65535 {
            hits[slot(flow(7, Address::v4([10, 1, 2, 3]), port), SLOTS) as usize] += 1;
        }
        let mean = f64::from(65535 - 1023) / f64::from(SLOTS);
        for (slot, &hit) in hits.iter().enumerate() {
            let deviation = (f64::from(hit) - mean).abs() / mean;
            assert!(deviation < 0.06, "slot {slot} got {hit}, mean {mean}");
        }
    }

    #[test]
    fn another_seed_is_another_spread() {
        let client = Address::v4([10, 1, 2, 3]);
        let same = (1..=10_000u16)
            .filter(|&port| slot(flow(1, client, port), 65537) == slot(flow(2, client, port), 65537))
            .count();
        assert!(same < 10, "{same} of 10000 flows kept their slot");
    }
}
