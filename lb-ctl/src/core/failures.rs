//! Which parts of the controller's work fail, and for how long.
//!
//! Whatever fails is tried again, by the next event of its kind or when everything is compared anew, every few seconds. A failure that
//! comes once is a hiccup: nobody should put another balancer in charge for that. One that comes again is none.
//!
//! Pure: points in time are durations since some fixed moment of the caller's monotonic clock.

use std::{collections::BTreeMap, fmt, time::Duration};

/// For how long a failure counts. What is out of order for longer fails again meanwhile.
const COUNTS: Duration = Duration::from_secs(15);

/// How long after the first failure another one is no part of it: a little less than it takes until everything is compared anew.
const PERSISTS: Duration = Duration::from_secs(4);

/// A part of the controller's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Interfaces, VIPs, routes and neighbours, and what operators have decided.
    Network,
    /// Health.
    Checks,
    /// Discovery.
    Pages,
    /// Deadlines.
    Decisions,
    /// Passes over the records.
    Records,
}

/// Continues "has failed to".
impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network => "compare interfaces, VIPs, routes and neighbours with what is in the tables",
            Self::Checks => "have new connections follow the health of backends",
            Self::Pages => "follow the pages of the seeds",
            Self::Decisions => "carry out what operators have decided",
            Self::Records => "pass over the records of connections",
        })
    }
}

/// What fails.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures(BTreeMap<Work, Failing>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Failing {
    since: Duration,
    last: Duration,
    cause: String,
}

/// A part of the work that has failed not long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure<'a> {
    /// Which.
    pub work: Work,
    /// What has gone wrong last, in one line.
    pub cause: &'a str,
    /// It has failed when it was tried again, too.
    pub persists: bool,
}

impl Failures {
    /// Takes in that a part of the work has failed.
    pub fn take_in(&mut self, work: Work, cause: &str, now: Duration) {
        let earlier = self.0.get(&work).filter(|earlier| earlier.counts(now));
        let since = earlier.map_or(now, |earlier| earlier.since);
        let failing = Failing {
            since,
            last: now,
            cause: cause.lines().collect::<Vec<_>>().join("; "),
        };
        self.0.insert(work, failing);
    }

    /// What has failed not long ago.
    pub fn at(&self, now: Duration) -> impl Iterator<Item = Failure<'_>> {
        let counting = self.0.iter().filter(move |(_, failing)| failing.counts(now));
        counting.map(|(work, failing)| Failure {
            work: *work,
            cause: &failing.cause,
            persists: failing.last.saturating_sub(failing.since) >= PERSISTS,
        })
    }
}

impl Failing {
    fn counts(&self, now: Duration) -> bool {
        now.saturating_sub(self.last) < COUNTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn persisting(failures: &Failures, now: Duration) -> Vec<(Work, bool)> {
        failures.at(now).map(|it| (it.work, it.persists)).collect()
    }

    #[test]
    fn a_failure_is_a_hiccup_until_it_comes_again_and_is_forgotten_when_it_does_not() {
        let mut failures = Failures::default();
        failures.take_in(Work::Network, "no memory", seconds(100));
        // A burst of events is one.
        failures.take_in(Work::Network, "no buffers\nat all", seconds(101));
        assert_eq!(persisting(&failures, seconds(110)), [(Work::Network, false)]);
        assert_eq!(
            failures.at(seconds(110)).next().map(|it| it.cause),
            Some("no buffers; at all")
        );
        failures.take_in(Work::Records, "no memory", seconds(103));
        failures.take_in(Work::Network, "no memory", seconds(105));
        let both = [(Work::Network, true), (Work::Records, false)];
        assert_eq!(persisting(&failures, seconds(106)), both);
        // Passes come every ten seconds.
        failures.take_in(Work::Records, "no memory", seconds(113));
        assert_eq!(persisting(&failures, seconds(121)), [(Work::Records, true)]);
        assert_eq!(persisting(&failures, seconds(200)), []);
        failures.take_in(Work::Records, "no memory", seconds(200));
        assert_eq!(
            persisting(&failures, seconds(200)),
            [(Work::Records, false)],
            "what was long ago does not count"
        );
    }
}
