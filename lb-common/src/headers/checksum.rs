//! The Internet checksum, RFC 1071, of IPv4, TCP and ICMP.

use crate::address::Address;

/// A sum that is not finished yet.
///
/// Adds 32-bit words, where the RFC adds 16-bit ones: what is carried beyond 16 bits is added again at the end, so both
/// come to the same.
#[derive(Clone, Copy, Debug)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// Adds a number whose last 16 bits are aligned with the words that the checksum is over.
    #[inline(always)]
    #[must_use]
    pub const fn plus(self, word: u32) -> Self {
        Self(self.0 + word as u64)
    }

    /// Adds an address as it stands in its own family's header: 4 or 16 bytes.
    #[inline(always)]
    #[must_use]
    pub const fn plus_address(self, address: Address) -> Self {
        if address.is_v4() {
            return self.plus(address.v4_bits());
        }
        let [a, b, c, d] = address.words();
        self.plus(u32::from_be(a))
            .plus(u32::from_be(b))
            .plus(u32::from_be(c))
            .plus(u32::from_be(d))
    }

    /// The checksum: folded into 16 bits, and inverted.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "folded four times, a sum of less than 2^48 fits into 16 bits"
    )]
    pub const fn checksum(self) -> u16 {
        const fn fold(sum: u64) -> u64 {
            (sum >> 16) + (sum & 0xffff)
        }
        !(fold(fold(fold(fold(self.0)))) as u16)
    }
}

/// A header's checksum after one of its 16-bit words has changed (RFC 1624, equation 3). All in host byte order.
#[inline(always)]
pub const fn updated(checksum: u16, before: u16, after: u16) -> u16 {
    Sum::ZERO
        .plus(!checksum as u32)
        .plus(!before as u32)
        .plus(after as u32)
        .checksum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// The RFC's own words: 16 bits at a time, the carry around the end.
    fn by_the_rfc(words: &[u32]) -> u16 {
        let mut sum = 0u32;
        for half in words.iter().flat_map(|word| [word >> 16, word & 0xffff]) {
            sum += half;
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap()
    }

    #[test]
    fn the_example_of_the_rfc() {
        // RFC 1071, section 3: the words 0001, f203, f4f5, f6f7 sum up to ddf2.
        let sum = Sum::ZERO.plus(0x0001_f203).plus(0xf4f5_f6f7);
        assert_eq!(sum.checksum(), !0xddf2);
    }

    #[test]
    fn an_address_counts_as_in_its_header() {
        let v4 = Sum::ZERO.plus_address(Address::v4([192, 0, 2, 10]));
        assert_eq!(v4.checksum(), !(0xc000 + 0x020a));
        let v6 = Sum::ZERO.plus_address(Address::v6([0x20; 16]));
        assert_eq!(v6.checksum(), by_the_rfc(&[0x2020_2020; 4]));
    }

    proptest! {
        #[test]
        fn wide_words_come_to_the_same(words: Vec<u32>) {
            let sum = words.iter().fold(Sum::ZERO, |sum, &word| sum.plus(word));
            prop_assert_eq!(sum.checksum(), by_the_rfc(&words));
        }

        #[test]
        fn any_number_of_words_fits(word: u32, count in 0u64..=0xffff) {
            let sum = Sum(u64::from(word) * count);
            let expected = u64::from(word).wrapping_mul(count) % 0xffff;
            prop_assert_eq!(u64::from(!sum.checksum()) % 0xffff, expected);
        }

        /// The words of a header are never all 0, the only ones for which the two ways could differ.
        #[test]
        fn an_update_comes_to_the_same_as_a_new_sum(before: u16, after: u16, rest in 1u32..) {
            let header = |word: u16| Sum::ZERO.plus(rest).plus(u32::from(word)).checksum();
            prop_assert_eq!(updated(header(before), before, after), header(after));
        }
    }
}
