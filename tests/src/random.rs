//! Numbers that look random and are the same again for the same seed, so that a failure can be repeated.

use lb_common::flood::random;

/// A generator of such numbers, the one of [`lb_common::flood`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The generator with this seed. Those of neighbouring seeds have nothing in common.
    pub const fn of(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number; each of the 2^64 is as likely.
    pub const fn next(&mut self) -> u64 {
        random(&mut self.state)
    }

    /// The next number below `bound`; 0 if there is none.
    pub fn below(&mut self, bound: usize) -> usize {
        // The upper half of the product: a bound that is small against 2^64 makes no number noticeably more likely.
        let product = u128::from(self.next()) * bound as u128;
        usize::try_from(product >> u64::BITS).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_the_published_one() {
        let mut random = Random::of(1_234_567);
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973];
        assert_eq!([random.next(), random.next()], expected);
    }

    #[test]
    fn numbers_stay_below_the_bound_and_reach_all_of_it() {
        let mut random = Random::of(7);
        let mut seen = [false; 10];
        for _ in 0..1000 {
            seen[random.below(10)] = true;
        }
        assert_eq!(seen, [true; 10]);
        assert_eq!(random.below(1), 0);
        assert_eq!(random.below(0), 0);
    }
}
