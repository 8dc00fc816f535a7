//! How much of the controller's time the peer may take.
//!
//! What a batch makes the controller do is bounded, but not how many batches there are. So that one that sends them without end does not
//! keep the controller from its checks and its operators, it gets a share of the time, and beyond it waits: its batches are taken in later, and
//! it is told so later. All that two balancers have to say when they meet is no reason to wait.

use std::time::Duration;

/// How much may be taken at once: longer than it takes to be told everything by the largest owner.
const AT_ONCE: Duration = Duration::from_secs(5);

/// One part in so many of the time may be taken for ever.
const SHARE: u32 = 4;

/// For how long is waited at most: the peer, which may not say more before it is answered, must not be given up for its silence. So the
/// share holds for batches that take no longer than a third of this: more than nearly all do.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What the peer has taken of the controller's time, as far as it counts. Times are since any moment that stays the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowance {
    taken: Duration,
    as_of: Duration,
}

impl Allowance {
    /// It has taken so much, until now.
    pub fn take(&mut self, time: Duration, now: Duration) {
        self.taken = self.taken_by(now).saturating_add(time);
        self.as_of = now;
    }

    /// How long it has to wait for more.
    pub fn pause(&self, now: Duration) -> Duration {
        let excess = self.taken_by(now).saturating_sub(AT_ONCE);
        // Beginning with the end of what it took last.
        let longest = (self.as_of + LONGEST_PAUSE).saturating_sub(now);
        excess.saturating_mul(SHARE).min(longest)
    }

    fn taken_by(&self, now: Duration) -> Duration {
        self.taken.saturating_sub(now.saturating_sub(self.as_of) / SHARE)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Takes batch after batch, each as soon as it may. Returns how long the peer had the controller, and until when.
    fn spend(batches: &[Duration]) -> (Duration, Duration) {
        let (mut allowance, mut now) = (Allowance::default(), Duration::from_secs(100));
        let begun = now;
        for batch in batches {
            now += allowance.pause(now);
            assert_eq!(allowance.pause(now), Duration::ZERO);
            now += *batch;
            allowance.take(*batch, now);
        }
        (batches.iter().sum(), now.saturating_sub(begun))
    }

    #[test]
    fn who_has_much_to_say_once_does_not_wait() {
        let batches = [Duration::from_millis(50); 100];
        assert_eq!(spend(&batches), (AT_ONCE, AT_ONCE));
    }

    proptest! {
        #[test]
        fn who_never_stops_gets_a_share(batches in prop::collection::vec(1..300_u64, 1..2_000)) {
            let batches: Vec<Duration> = batches.into_iter().map(Duration::from_millis).collect();
            let (taken, passed) = spend(&batches);
            // What it took last is waited for only by the next one.
            let last = Duration::from_millis(300);
            prop_assert!(taken <= AT_ONCE + last + passed / SHARE, "{taken:?} of {passed:?}");
        }

        #[test]
        fn a_pause_ends(times in prop::collection::vec((0..100_000_u64, 0..100_000_u64), 1..20)) {
            let (mut allowance, mut now) = (Allowance::default(), Duration::ZERO);
            for (time, later) in times {
                now += Duration::from_millis(later);
                allowance.take(Duration::from_millis(time), now);
                let pause = allowance.pause(now);
                prop_assert!(pause <= LONGEST_PAUSE);
                prop_assert_eq!(allowance.pause(now + pause), Duration::ZERO);
            }
        }
    }
}
