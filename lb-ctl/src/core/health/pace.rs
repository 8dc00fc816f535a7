//! How often a backend is checked, and how many checks it takes to believe a change.

use std::time::Duration;

use lb_common::hash;

/// How often a backend is checked, and how many checks it takes to believe a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// From the begin of one check to the begin of the next, while nothing changes.
    pub interval: Duration,
    /// The same while a change is not yet confirmed.
    pub fast_interval: Duration,
    /// How many checks in a row must succeed until a backend is up again; at least 1.
    pub rise: u32,
    /// How many checks in a row must not succeed until a backend is not up any more; at least 1.
    pub fall: u32,
}

impl Pace {
    /// How long after the begin of the daemon, or of the backend, its first check begins: within one fast interval, spread
    /// by name.
    pub(super) fn first_delay(&self, seed: u64) -> Duration {
        fraction_of(self.fast_interval, hash::mix(seed))
    }

    /// When the check after this one begins.
    ///
    /// Checks begin one interval after another, or up to a tenth earlier, lest those of many backends, or those of two
    /// balancers, fall into step. How much follows from the seed and the check's number alone. After a check that took as long
    /// as that, a tenth of the interval is waited: a backend that answers slowly is not helped by more checks. Not so while a change
    /// is to be confirmed. So whoever dies gets no new connections any more after `fall` intervals and a time limit, if this
    /// is not longer than an interval.
    pub(super) fn next_check(
        &self,
        changing: bool,
        seed: u64,
        sequence: u64,
        began: Duration,
        ended: Duration,
    ) -> Duration {
        let base = if changing {
            self.fast_interval
        } else {
            self.interval
        };
        let tenth = base / 10;
        let jitter = fraction_of(tenth, hash::mix(seed ^ hash::mix(sequence)));
        let regular = began.saturating_add(tenth * 9).saturating_add(jitter);
        let pause = if changing {
            SHORTEST_PAUSE
        } else {
            tenth.max(SHORTEST_PAUSE)
        };
        regular.max(ended.saturating_add(pause))
    }
}

/// Between the end of a check and the begin of the next, however short the interval.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

/// The part of a duration that a hash picks, from none of it to all.
fn fraction_of(whole: Duration, hash: u64) -> Duration {
    let step = whole / (1 << 16);
    // 16 of the bits: finer steps than a 65,536th would not be noticed.
    let steps = u32::try_from(hash >> 48).unwrap_or(0);
    step.saturating_mul(steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pace(interval: u64, fast: u64) -> Pace {
        Pace {
            interval: Duration::from_millis(interval),
            fast_interval: Duration::from_millis(fast),
            rise: 2,
            fall: 3,
        }
    }

    #[test]
    fn the_checks_of_many_backends_spread() {
        let pace = pace(2_000, 500);
        let mut tenths = [0_u32; 10];
        for name in 0..1_000 {
            let delay = pace.first_delay(hash::name(7, &format!("impala{name}")));
            tenths[usize::try_from(delay.as_millis() / 50).unwrap()] += 1;
        }
        assert!(tenths.iter().all(|count| (60..140).contains(count)), "{tenths:?}");
    }

    proptest! {
        #[test]
        fn the_next_check_lies_ahead_and_within_bounds(
            interval in 10_u64..86_400_000,
            fast in 10_u64..86_400_000,
            changing: bool,
            seed: u64,
            sequence: u64,
            began in 0_u64..1 << 40,
            took in 0_u64..100_000,
        ) {
            let pace = pace(interval, fast);
            let began = Duration::from_millis(began);
            let ended = began + Duration::from_millis(took);
            let next = pace.next_check(changing, seed, sequence, began, ended);
            let base = if changing { pace.fast_interval } else { pace.interval };
            prop_assert!(next > ended);
            prop_assert!(next >= began + base * 9 / 10);
            let pause = if changing { Duration::ZERO } else { base / 10 };
            let slow_check = ended + pause.max(SHORTEST_PAUSE);
            prop_assert!(next <= (began + base).max(slow_check));
            prop_assert_eq!(next, pace.next_check(changing, seed, sequence, began, ended));
            prop_assert!(pace.first_delay(seed) <= pace.fast_interval);
        }
    }
}
