//! Which parts of the controller's work fail, and for how long.
//!
//! Whatever fails is tried again, by the next event of its kind or when everything is compared anew, every few seconds. A failure that
//! comes once is a hiccup: nobody should put another balancer in charge for that. One that comes again, without a success of the same
//! piece of work in between, is none.
//!
//! Pure: points in time are durations since some fixed moment of the caller's monotonic clock.

use std::{collections::BTreeMap, fmt, time::Duration};

/// For how long a failure counts. What is out of order for longer fails again meanwhile.
const COUNTS: Duration = Duration::from_secs(15);

/// How long after the first failure another one is no part of it: a little less than it takes until everything is compared anew.
const PERSISTS: Duration = Duration::from_secs(4);

/// A part of the controller's work: one for each event that has it begin, since the success of one says nothing about another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// What the kernel says about the network.
    Events,
    /// That the kernel goes on saying it.
    Watch,
    /// Interfaces, VIPs, routes and neighbours, and what operators have decided: all of it, every few seconds.
    Refresh,
    /// The ways to backends, after routes have changed.
    Routes,
    /// Health, when checks have ended.
    Reports,
    /// Health, when time alone changes something.
    Health,
    /// Discovery: who is on the pages, and whether they can be backends.
    Pages,
    /// Discovery: that those on the pages are backends.
    Members,
    /// Discovery: who is shutting down.
    Quiescing,
    /// Deadlines.
    Decisions,
    /// What the other balancer tells, and which services are ours.
    Peer,
    /// The begin of passes over the records.
    Pass,
    /// What follows from passes over the records.
    Records,
}

/// Continues "has failed to".
impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Events => "take in what the kernel says about the network",
            Self::Watch => "listen to what the kernel says about the network",
            Self::Refresh => {
                "compare interfaces, VIPs, routes, neighbours and what operators have decided with what is in the tables"
            }
            Self::Routes => "follow the kernel's routes to backends",
            Self::Reports => "have new connections follow the health of backends",
            Self::Health => "have new connections follow what time changes about the health of backends",
            Self::Pages => "make out whom the pages of the seeds name",
            Self::Members => "follow the pages of the seeds",
            Self::Quiescing => "have new connections follow what the pages of the seeds say of who is shutting down",
            Self::Decisions => "carry out what operators have decided",
            Self::Peer => "take in what the other balancer tells",
            Self::Pass => "begin a pass over the records of connections",
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
    /// The same has succeeded since.
    is_over: bool,
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
        let earlier = self.0.get(&work);
        let earlier = earlier.filter(|earlier| earlier.counts(now) && !earlier.is_over);
        let since = earlier.map_or(now, |earlier| earlier.since);
        let failing = Failing {
            since,
            last: now,
            cause: cause.lines().collect::<Vec<_>>().join("; "),
            is_over: false,
        };
        self.0.insert(work, failing);
    }

    /// Takes in that a part of the work has succeeded: what it failed of before persists no longer.
    pub fn succeeded(&mut self, work: Work) {
        if let Some(failing) = self.0.get_mut(&work) {
            failing.is_over = true;
        }
    }

    /// What has failed not long ago.
    pub fn at(&self, now: Duration) -> impl Iterator<Item = Failure<'_>> {
        let counting = self.0.iter().filter(move |(_, failing)| failing.counts(now));
        counting.map(|(work, failing)| Failure {
            work: *work,
            cause: &failing.cause,
            persists: !failing.is_over && failing.last.saturating_sub(failing.since) >= PERSISTS,
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
        failures.take_in(Work::Refresh, "no memory", seconds(100));
        // A burst of events is one.
        failures.take_in(Work::Refresh, "no buffers\nat all", seconds(101));
        assert_eq!(persisting(&failures, seconds(110)), [(Work::Refresh, false)]);
        assert_eq!(
            failures.at(seconds(110)).next().map(|it| it.cause),
            Some("no buffers; at all")
        );
        failures.take_in(Work::Records, "no memory", seconds(103));
        failures.take_in(Work::Refresh, "no memory", seconds(105));
        let both = [(Work::Refresh, true), (Work::Records, false)];
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

    #[test]
    fn a_success_in_between_makes_two_hiccups_of_two_failures_and_says_nothing_about_other_work() {
        let mut failures = Failures::default();
        for work in [Work::Events, Work::Refresh] {
            failures.take_in(work, "no memory", seconds(100));
        }
        failures.succeeded(Work::Events);
        failures.succeeded(Work::Records);
        let hiccups = [(Work::Events, false), (Work::Refresh, false)];
        assert_eq!(
            persisting(&failures, seconds(101)),
            hiccups,
            "it is shown all the same"
        );
        for work in [Work::Events, Work::Refresh] {
            failures.take_in(work, "no memory", seconds(105));
        }
        let both = [(Work::Events, false), (Work::Refresh, true)];
        assert_eq!(persisting(&failures, seconds(105)), both);
        failures.take_in(Work::Events, "no memory", seconds(109));
        failures.succeeded(Work::Refresh);
        let both = [(Work::Events, true), (Work::Refresh, false)];
        assert_eq!(persisting(&failures, seconds(110)), both);
    }
}
