//! From where a service may be used.

use crate::address::Address;

/// A prefix from which a service may be used, or one client: the key of the table of allowed prefixes, as the kernel's
/// trie wants it (`struct bpf_lpm_trie_key`): a number of bits, and behind it that many bits that count, the most
/// significant bit of each byte first.
///
/// Aligned to 8 bytes for the same reason as [`ServiceKey`](super::ServiceKey).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C, align(8))]
pub struct AllowedKey {
    bits: u32,
    service: u32,
    address: Address,
}

/// How many prefixes a configuration may have, those of all services together.
pub const MAX_ALLOWED_PREFIXES: u32 = 65_536;

/// How many prefixes the table has room for: those of a configuration, and beside them those of the one that it replaces.
pub const ALLOWED_ROOM: u32 = 2 * MAX_ALLOWED_PREFIXES;

/// The bits of `service`, all of which always count.
const SERVICE_BITS: u32 = u32::BITS;

impl AllowedKey {
    /// The key of a prefix. `bits` of the address count, of the 128 that it has also as an IPv4 address: the prefix
    /// length plus [`AllowedKey::V4_BITS`] then.
    pub const fn prefix(service: u16, address: Address, bits: u32) -> Self {
        Self {
            bits: SERVICE_BITS + bits,
            service: service as u32,
            address,
        }
    }

    /// The key by which a client is looked for.
    #[inline(always)]
    pub const fn client(service: u16, address: Address) -> Self {
        Self::prefix(service, address, Address::BITS)
    }

    /// The bits before those that make an IPv4 address.
    pub const V4_BITS: u32 = Address::BITS - u32::BITS;

    /// A key from its parts, as a map has them. `None` if it cannot be one.
    pub fn of_parts(bits: u32, [service, address @ ..]: [u32; 5]) -> Option<Self> {
        let service = u16::try_from(service).ok()?;
        let bits = bits.checked_sub(SERVICE_BITS)?;
        (bits <= Address::BITS).then(|| Self::prefix(service, Address::of_words(address), bits))
    }

    /// The service's id.
    pub fn service(&self) -> u16 {
        u16::try_from(self.service).unwrap_or(u16::MAX)
    }

    /// How many bits of [`AllowedKey::data`] count.
    pub const fn bits(&self) -> u32 {
        self.bits
    }

    /// The bits that count, and those behind them.
    pub const fn data(&self) -> [u32; 5] {
        let [a, b, c, d] = self.address.words();
        [self.service, a, b, c, d]
    }

    /// Whether all that counts of this key is the same in `other`: what the kernel's trie looks for.
    pub fn covers(&self, other: &Self) -> bool {
        let mut left = self.bits;
        for (one, other) in self.data().into_iter().zip(other.data()) {
            let counting = left.min(u32::BITS);
            let difference = u32::from_be(one ^ other);
            if difference.leading_zeros() < counting {
                return false;
            }
            left -= counting;
        }
        left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;
    use proptest::prelude::*;

    fn key(service: u16, prefix: &str) -> AllowedKey {
        let (address, length) = prefix.split_once('/').unwrap();
        let (address, length): (IpAddr, u32) = (address.parse().unwrap(), length.parse().unwrap());
        let before = if address.is_ipv4() { AllowedKey::V4_BITS } else { 0 };
        AllowedKey::prefix(service, address.into(), before + length)
    }

    fn client(service: u16, address: &str) -> AllowedKey {
        AllowedKey::client(service, address.parse::<IpAddr>().unwrap().into())
    }

    #[test]
    fn a_prefix_covers_what_is_in_it() {
        assert!(key(1, "10.0.0.0/8").covers(&client(1, "10.255.0.1")));
        assert!(!key(1, "10.0.0.0/8").covers(&client(1, "11.0.0.0")));
        assert!(
            !key(1, "10.0.0.0/8").covers(&client(2, "10.0.0.1")),
            "of another service"
        );
        assert!(key(1, "0.0.0.0/0").covers(&client(1, "255.255.255.255")));
        assert!(!key(1, "0.0.0.0/0").covers(&client(1, "2001:db8::1")));
        assert!(key(1, "10.1.2.3/32").covers(&client(1, "10.1.2.3")));
        assert!(!key(1, "10.1.2.3/32").covers(&client(1, "10.1.2.2")));
        assert!(key(1, "2001:db8::/33").covers(&client(1, "2001:db8:7fff::1")));
        assert!(!key(1, "2001:db8::/33").covers(&client(1, "2001:db8:8000::1")));
        assert!(key(1, "::/0").covers(&client(1, "ffff::")));
    }

    #[test]
    fn a_key_is_its_parts() {
        let key = key(7, "10.0.0.0/8");
        assert_eq!(AllowedKey::of_parts(key.bits(), key.data()), Some(key));
        assert_eq!(key.service(), 7);
        let [_, address @ ..] = key.data();
        let [a, b, c, d] = address;
        for (bits, service) in [(31, 7), (161, 7), (40, 0x1_0000)] {
            assert_eq!(AllowedKey::of_parts(bits, [service, a, b, c, d]), None);
        }
    }

    proptest! {
        /// Compared with the arithmetic of the textbook: address and mask.
        #[test]
        fn covering_is_containment(
            prefix: u128, length in 0u32..=128, flipped in 0u32..=128, noise: u128,
            service in 0u16..3, other in 0u16..3,
        ) {
            // Addresses that differ at random differ at once: this one has a difference at a chosen bit.
            let shared = if flipped == 128 { u128::MAX } else { !(u128::MAX >> flipped) };
            let address = prefix & shared | (noise & !shared);
            let mask = if length == 0 { 0 } else { u128::MAX << (128 - length) };
            let expected = service == other && prefix & mask == address & mask;
            let prefix = AllowedKey::prefix(service, Address::v6(prefix.to_be_bytes()), length);
            let client = AllowedKey::client(other, Address::v6(address.to_be_bytes()));
            prop_assert_eq!(prefix.covers(&client), expected);
        }
    }
}
