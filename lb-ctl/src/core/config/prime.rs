//! Prime numbers, because Maglev needs a prime number of slots.

/// Whether a number is prime, by trial division: cheap enough for the table sizes that a configuration may
/// ask for.
pub(super) fn is_prime(number: u32) -> bool {
    number >= 2 && (2..=number.isqrt()).all(|divisor| !number.is_multiple_of(divisor))
}

/// The nearest prime below a number and the nearest one above it.
pub(super) fn neighbours(number: u32) -> (Option<u32>, Option<u32>) {
    let below = (2..number).rev().find(|candidate| is_prime(*candidate));
    let above = (number.saturating_add(1)..u32::MAX).find(|candidate| is_prime(*candidate));
    (below, above)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primes_up_to_thirty() {
        let primes: Vec<u32> = (0..30).filter(|number| is_prime(*number)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
    }

    #[test]
    fn usual_table_sizes_are_prime() {
        for number in [251, 65_537, 1_048_573] {
            assert!(is_prime(number), "{number}");
        }
    }

    #[test]
    fn neighbours_of_composites_and_of_the_ends() {
        assert_eq!(neighbours(65_536), (Some(65_521), Some(65_537)));
        assert_eq!(neighbours(1_000), (Some(997), Some(1_009)));
        assert_eq!(neighbours(2), (None, Some(3)));
    }
}
