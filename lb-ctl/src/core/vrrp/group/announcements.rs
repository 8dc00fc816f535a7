//! When a master tells the neighbours whose the addresses are.

use std::time::Duration;

use super::Time;

/// How long after a takeover it is told again: a switch may have lost the first frames, or its port not have been ready.
const AGAIN: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// A rival of lower priority makes us begin again, but not one that goes on and on.
const BEGIN_AGAIN: Duration = Duration::from_secs(1);

/// When it began, and when it is told next.
#[derive(Clone, Debug, Default)]
pub(super) struct Announcements {
    began: Time,
    due: Time,
}

impl Announcements {
    /// The first is made now.
    pub(super) fn begin(&mut self, now: Time, refresh: Duration) {
        self.began = now;
        self.made(now, refresh);
    }

    /// The same, unless that was only just now. Returns whether it does.
    pub(super) fn begin_again(&mut self, now: Time, refresh: Duration) -> bool {
        let begins = now >= self.began.saturating_add(BEGIN_AGAIN);
        if begins {
            self.begin(now, refresh);
        }
        begins
    }

    /// One has been made. Those that it comes too late for are not made up for.
    pub(super) fn made(&mut self, now: Time, refresh: Duration) {
        let again = AGAIN.map(|after| self.began.saturating_add(after));
        let next = again.into_iter().find(|at| *at > now);
        self.due = next.unwrap_or(now.saturating_add(refresh));
    }

    /// When the next is due.
    pub(super) fn due(&self) -> Time {
        self.due
    }
}
