//! How much of its weight a backend has that has just come up.
//!
//! The weight grows in a few steps, not continuously: each step moves slots, and slots that move are tracked for a while.

use std::time::Duration;

/// The parts that make up a whole weight.
pub const PARTS: u32 = 10;

/// How many of the [`PARTS`] of its weight a backend has, from 1 to all.
///
/// `since_up` is how long it has been up, `slow_start` how long the start takes; with 0 there is none. Whoever uses the
/// result multiplies every backend's weight by its parts, so that also a weight of 1 can grow.
pub fn parts(since_up: Duration, slow_start: Duration) -> u32 {
    (1..PARTS)
        .find(|&parts| since_up < growth(parts, slow_start))
        .unwrap_or(PARTS)
}

/// How long a backend will have been up when its weight grows next. `None` once it is whole.
pub fn next_growth(since_up: Duration, slow_start: Duration) -> Option<Duration> {
    (1..PARTS)
        .map(|parts| growth(parts, slow_start))
        .find(|&growth| since_up < growth)
}

/// How long a backend has been up when it outgrows that many parts.
fn growth(parts: u32, slow_start: Duration) -> Duration {
    // The last step comes when the time is over.
    slow_start / (PARTS - 1) * parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Duration = Duration::from_secs(90);

    #[test]
    fn the_weight_grows_in_ten_steps() {
        let seconds = [0, 9, 10, 19, 20, 45, 80, 89, 90, 1_000];
        let parts = seconds.map(|seconds| parts(Duration::from_secs(seconds), START));
        assert_eq!(parts, [1, 1, 2, 2, 3, 5, 9, 9, 10, 10]);
    }

    #[test]
    fn without_slow_start_the_weight_is_whole_at_once() {
        assert_eq!(parts(Duration::ZERO, Duration::ZERO), PARTS);
        assert_eq!(next_growth(Duration::ZERO, Duration::ZERO), None);
    }

    proptest! {
        #[test]
        fn whoever_wakes_at_each_growth_sees_every_step_and_ends(slow_start in 1_u64..100_000_000, first in 0_u64..1_000) {
            let slow_start = Duration::from_micros(slow_start);
            let mut since_up = slow_start * u32::try_from(first).unwrap() / 1_000;
            let mut before = parts(since_up, slow_start);
            while let Some(growth) = next_growth(since_up, slow_start) {
                prop_assert!(growth > since_up && growth <= slow_start);
                prop_assert_eq!(parts(growth.saturating_sub(Duration::from_nanos(1)), slow_start), before);
                prop_assert!(parts(growth, slow_start) > before);
                (since_up, before) = (growth, parts(growth, slow_start));
            }
            prop_assert_eq!(before, PARTS);
        }
    }
}
