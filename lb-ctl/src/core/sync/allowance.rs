//! How much of the controller's time the peer may take from others.
//!
//! While the controller has nothing else to do, all of its time is the peer's: what two balancers have to say when they meet is said as
//! fast as it can be taken in. What a batch makes the controller do is bounded, but not how many batches there are. So whatever else waits
//! goes before the next one, for so long that the peer gets a share of the time and no more; then it is one of many, so that it is not
//! kept waiting for ever either.

use std::time::Duration;

/// One part in so many of the time may be taken while something else waits.
const SHARE: u32 = 4;

/// For how long the others go first at most. So the share holds for batches that take no longer than a third of this: more than nearly all do.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// When the peer's turn comes though others wait. Times are since any moment that stays the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowance {
    due: Duration,
}

impl Allowance {
    /// It has taken so much, until now.
    pub fn take(&mut self, time: Duration, now: Duration) {
        self.due = now.saturating_add(time.saturating_mul(SHARE - 1).min(LONGEST_WAIT));
    }

    /// Whether its turn has come, whoever else waits.
    pub fn is_due(&self, now: Duration) -> bool {
        now >= self.due
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn who_never_stops_takes_no_more_than_a_share_from_others(
            batches in prop::collection::vec((1..333_u64, 1..50_u64), 1..200)
        ) {
            let milliseconds = Duration::from_millis;
            let (mut allowance, begun) = (Allowance::default(), milliseconds(100_000));
            let (mut now, mut taken) = (begun, Duration::ZERO);
            for (batch, other) in batches {
                // Something else always waits, and takes that long each time.
                let since = now;
                while !allowance.is_due(now) {
                    now += milliseconds(other);
                    prop_assert!(now.saturating_sub(since) < LONGEST_WAIT + milliseconds(50));
                }
                let last = milliseconds(batch);
                taken += last;
                now += last;
                allowance.take(last, now);
                // What it took last is waited for only by the next one.
                prop_assert!(taken <= last + now.saturating_sub(begun) / SHARE, "{taken:?} until {now:?}");
            }
        }
    }

    #[test]
    fn a_batch_that_has_taken_long_is_waited_for_no_longer_than_a_second() {
        let mut allowance = Allowance::default();
        allowance.take(Duration::MAX, Duration::ZERO);
        assert!(!allowance.is_due(LONGEST_WAIT / 2));
        assert!(allowance.is_due(LONGEST_WAIT));
    }
}
