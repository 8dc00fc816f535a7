//! What follows when addresses cannot be put on an interface: one failure is a hiccup, but a master that does not come by its
//! addresses lets somebody else have them.

use std::time::Duration;

/// A point in time.
type Time = Duration;

/// For how long it is tried.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long after it has been given up it may be tried again, at first.
const FIRST_PAUSE: Duration = Duration::from_mins(1);

/// How often the pause doubles, at most: to a little more than an hour.
const MOST_DOUBLINGS: u32 = 6;

/// Whether an instance comes by its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taking {
    failing_since: Option<Time>,
    given_up: Option<GivenUp>,
    /// How often it has been given up since it last succeeded.
    times: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct GivenUp {
    cause: String,
    until: Time,
}

impl Taking {
    /// It has been tried, and something has failed.
    pub fn failed(&mut self, cause: &str, now: Time) {
        let since = *self.failing_since.get_or_insert(now);
        if self.given_up.is_none() && now >= since.saturating_add(PATIENCE) {
            let pause = FIRST_PAUSE * 2_u32.pow(self.times.min(MOST_DOUBLINGS));
            self.times = self.times.saturating_add(1);
            self.given_up = Some(GivenUp {
                cause: cause.to_owned(),
                until: now.saturating_add(pause),
            });
        }
    }

    /// All are where they belong.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// It is not wanted any more.
    pub fn ended(&mut self) {
        self.failing_since = None;
    }

    /// Time has passed.
    pub fn pass(&mut self, now: Time) {
        if self.given_up.as_ref().is_some_and(|it| it.until <= now) {
            self.given_up = None;
            self.failing_since = None;
        }
    }

    /// When [`pass`](Self::pass) changes something.
    pub fn due(&self) -> Option<Time> {
        self.given_up.as_ref().map(|it| it.until)
    }

    /// Why it has been given up.
    pub fn fault(&self) -> Option<&str> {
        self.given_up.as_ref().map(|it| it.cause.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAUSE: &str = "no memory";

    #[test]
    fn what_fails_for_a_moment_is_no_fault() {
        let mut taking = Taking::default();
        taking.failed(CAUSE, Duration::from_millis(10));
        taking.failed(CAUSE, Duration::from_millis(500));
        assert_eq!((taking.fault(), taking.due()), (None, None));
        taking.succeeded();
        taking.failed(CAUSE, Duration::from_millis(1500));
        assert_eq!(taking.fault(), None, "it begins anew");
        // Another master has been met meanwhile.
        taking.ended();
        taking.failed(CAUSE, Duration::from_secs(5));
        assert_eq!(taking.fault(), None);
    }

    #[test]
    fn what_goes_on_failing_is_and_is_tried_again_more_and_more_seldom() {
        let mut taking = Taking::default();
        let mut now = Duration::ZERO;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            taking.failed(CAUSE, now);
            now += PATIENCE;
            taking.failed(CAUSE, now);
            assert_eq!(taking.fault(), Some(CAUSE));
            taking.ended();
            let due = taking.due().unwrap();
            pauses.push(due.saturating_sub(now).as_secs() / 60);
            taking.pass(due.saturating_sub(Duration::from_millis(1)));
            assert_eq!(taking.fault(), Some(CAUSE));
            taking.pass(due);
            assert_eq!(taking.fault(), None);
            now = due;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
    }
}
