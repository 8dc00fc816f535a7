//! The Internet checksum, RFC 1071.

/// A one's complement sum of 16-bit words that has not been folded yet.
///
/// Takes words of 32 bits, as numbers in host byte order: 2^16 is 1 to the one's complement, so that a 32-bit word counts as
/// its two halves. 64 bits hold the sum of more words than an IP packet has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Nothing added yet.
    pub const ZERO: Self = Self(0);

    /// Adds a word.
    #[inline(always)]
    #[must_use]
    pub const fn plus(self, word: u32) -> Self {
        Self(self.0 + word as u64)
    }

    /// Adds the words of an IPv6 address. Without a loop: Linux 6.1 refuses some of those that compilers make of short ones.
    #[inline(always)]
    #[must_use]
    pub const fn plus_address(self, words: [u32; 4]) -> Self {
        let [a, b, c, d] = words;
        self.plus(a).plus(b).plus(c).plus(d)
    }

    /// The checksum: the complement of the sum, folded into 16 bits, host byte order.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "folded into 16 bits")]
    pub const fn checksum(self) -> u16 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        // At most 33 bits: twice is enough for 18 bits, and once more for each carry.
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        !(sum as u16)
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
    use crate::testing::frame::internet_checksum;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn sum(words: &[u32]) -> Sum {
        words.iter().fold(Sum::ZERO, |sum, &word| sum.plus(word))
    }

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn carries_are_folded_until_none_is_left() {
        for words in [
            &[][..],
            &[u32::MAX; 400],
            &[0xffff_0001, 0x0000_ffff, 0xfffe_ffff],
            &[1, 0xffff_ffff],
        ] {
            assert_eq!(
                sum(words).checksum(),
                internet_checksum(0, &bytes(words)),
                "{words:x?}"
            );
        }
    }

    proptest! {
        #[test]
        fn it_is_that_of_rfc_1071(words in proptest::collection::vec(any::<u32>(), 0..400)) {
            prop_assert_eq!(sum(&words).checksum(), internet_checksum(0, &bytes(&words)));
        }

        /// The words of a header are never all 0, the only ones for which the two ways could differ.
        #[test]
        fn an_update_comes_to_the_same_as_a_new_sum(before: u16, after: u16, rest in 1u32..) {
            let header = |word: u16| sum(&[rest, u32::from(word)]).checksum();
            prop_assert_eq!(updated(header(before), before, after), header(after));
        }
    }
}
