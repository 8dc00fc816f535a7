//! IP addresses as headers and maps hold them.

use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// An IPv4 or IPv6 address in 16 bytes, as on the wire; IPv4 as an IPv4-mapped IPv6 address (RFC 4291, 2.5.5.2).
///
/// In words, because the kernel program builds keys word by word. Each word is in network byte order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Address([u32; 4]);

/// The third word of an IPv4-mapped address.
const MAPPED: u32 = 0xffff_u32.to_be();

impl Address {
    /// The bits of an address, whatever its family.
    pub const BITS: u32 = 128;

    /// `::`, which is nobody's.
    pub const UNSPECIFIED: Self = Self([0; 4]);

    /// An IPv4 address.
    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self([0, 0, MAPPED, u32::from_ne_bytes(octets)])
    }

    /// An IPv6 address.
    #[inline(always)]
    pub const fn v6(octets: [u8; 16]) -> Self {
        let [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3] = octets;
        Self([
            u32::from_ne_bytes([a0, a1, a2, a3]),
            u32::from_ne_bytes([b0, b1, b2, b3]),
            u32::from_ne_bytes([c0, c1, c2, c3]),
            u32::from_ne_bytes([d0, d1, d2, d3]),
        ])
    }

    /// Whether it is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        let [first, second, third, _] = self.0;
        first | second == 0 && third == MAPPED
    }

    /// Whether it can be the address of one host on a network: not unspecified, loopback, multicast or broadcast (RFC 1122,
    /// 3.2.1.3; RFC 4291, 2.4). A packet from any other address has no sender that could be answered.
    #[inline(always)]
    pub const fn is_one_host(self) -> bool {
        if self.is_v4() {
            // 0.0.0.0/8 is "this network", 127.0.0.0/8 loopback, all above 223 multicast, reserved, and broadcast.
            let first = self.v4_bits() >> 24;
            return first != 0 && first != 127 && first < 224;
        }
        let [high, low] = self.halves();
        high >> 56 != 0xff && (high != 0 || low > 1)
    }

    /// The 32 bits of an IPv4 address, in host byte order. Of an IPv6 address its last 32 bits.
    #[inline(always)]
    pub const fn v4_bits(self) -> u32 {
        u32::from_be(self.0[3])
    }

    /// The inverse of [`Address::words`].
    #[inline(always)]
    pub const fn of_words(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// The four words, each in network byte order.
    #[inline(always)]
    pub const fn words(self) -> [u32; 4] {
        self.0
    }

    /// The four words, each in host byte order.
    #[inline(always)]
    pub const fn host_words(self) -> [u32; 4] {
        let [a, b, c, d] = self.0;
        [u32::from_be(a), u32::from_be(b), u32::from_be(c), u32::from_be(d)]
    }

    /// The upper and lower 64 bits, in host byte order.
    #[inline(always)]
    pub const fn halves(self) -> [u64; 2] {
        let [a, b, c, d] = self.0;
        [join(a, b), join(c, d)]
    }
}

/// Two words in network byte order as one number.
#[inline(always)]
const fn join(high: u32, low: u32) -> u64 {
    (u32::from_be(high) as u64) << 32 | u32::from_be(low) as u64
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::v4(address.octets()),
            IpAddr::V6(address) => Self::v6(address.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        if address.is_v4() {
            Self::V4(Ipv4Addr::from_bits(address.v4_bits()))
        } else {
            let [high, low] = address.halves();
            Self::V6(Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)))
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_ipv4_address_and_its_mapped_form_are_one() {
        let mapped = Ipv6Addr::from_bits(0xffff_0a00_0001);
        assert_eq!(Address::from(IpAddr::V6(mapped)), Address::v4([10, 0, 0, 1]));
        assert_eq!(
            IpAddr::from(Address::v4([10, 0, 0, 1])),
            IpAddr::from([10, 0, 0, 1])
        );
    }

    #[test]
    fn words_are_as_on_the_wire() {
        let octets = Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 3, 4, 5, 6).octets();
        let Address(words) = Address::v6(octets);
        let bytes: std::vec::Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(bytes, octets);
    }

    #[test]
    fn one_host_is_neither_none_nor_many() {
        for address in [
            "10.0.0.1",
            "1.0.0.0",
            "223.255.255.255",
            "2001:db8::1",
            "fe80::1",
            "::2",
        ] {
            assert!(
                Address::from(address.parse::<IpAddr>().unwrap()).is_one_host(),
                "{address}"
            );
        }
        let others = [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::1",
        ];
        for address in others {
            assert!(
                !Address::from(address.parse::<IpAddr>().unwrap()).is_one_host(),
                "{address}"
            );
        }
    }

    proptest! {
        #[test]
        fn addresses_survive(address: IpAddr) {
            let canonical = address.to_canonical();
            prop_assert_eq!(IpAddr::from(Address::from(address)), canonical);
        }
    }
}
