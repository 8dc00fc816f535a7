//! One backend's health, as its checks come in.
//!
//! | from | to | when |
//! | --- | --- | --- |
//! | checking | up | the first success: while a backend has not served, nothing is lost by trying it |
//! | any but up and checking | up | `rise` successes in a row |
//! | up, checking | down | `fall` failures in a row |
//! | saturated, quiescing | down | `fall` failures in a row: a coordinator that has shut down refuses connections |
//! | up, checking | saturated | `fall` checks in a row without a success, not all of them failures. One answer that comes late is no overload, and taking a backend out for it would only load the others |
//! | down | saturated | `rise` checks in a row that found it alive, not all of them successes |
//! | any | quiescing | it says so once: it knows best, and new sessions would fail from that moment |
//!
//! A quiescing backend that does not answer in time stays quiescing: that says nothing about the shutdown. Once its process
//! has been replaced, it counts.

use std::fmt;
use std::time::Duration;

use lb_common::hash;

use super::outcome::{Failure, Outcome, Verdict};
use super::pace::Pace;
use super::selection::Standing;

/// The health of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// Not known yet: it gets no new flows.
    Checking,
    /// It gets new flows.
    Up,
    /// It is alive but does not keep up: no new flows, existing ones stay.
    Saturated,
    /// It is shutting down: no new flows, existing ones stay.
    Quiescing,
    /// It does not serve.
    Down,
}

impl Health {
    /// Every health.
    pub const ALL: [Self; 5] = [
        Self::Checking,
        Self::Up,
        Self::Saturated,
        Self::Quiescing,
        Self::Down,
    ];

    /// The word for it, everywhere an operator reads it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Checking => "checking",
            Self::Up => "up",
            Self::Saturated => "saturated",
            Self::Quiescing => "quiescing",
            Self::Down => "down",
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What is known of a backend before its first check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Nothing, and of no other one either: all begin together, with their whole weight.
    Cold,
    /// Nothing; it joins others that serve already.
    Added,
    /// What an earlier daemon or the other balancer knew. It holds until checks say otherwise.
    Warm(Health),
    /// Likewise, of a backend that was up and served nobody, because its tier did not: it stays the home of clients that have
    /// [affinity](lb_common::affinity) to it.
    Spare,
}

/// What a check has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The health of the backend.
    Changed {
        /// Before.
        from: Health,
        /// Now.
        to: Health,
        /// Why, in a sentence that continues the backend's name.
        cause: String,
    },
    /// It is down as before but for another reason, which can change whether the guard may keep it in use.
    OtherFailure {
        /// Before; `None` if it was not known.
        from: Option<Failure>,
        /// Now.
        to: Failure,
        /// Why, in a sentence that continues the backend's name.
        cause: String,
    },
    /// Another process serves there: sessions, connections and affinity of the old one are void.
    Restarted {
        /// When the old process started, in its words.
        from: String,
        /// When the new one started.
        to: String,
    },
}

/// One backend's health, and when it is checked next.
#[derive(Clone, Debug)]
pub struct Monitor {
    seed: u64,
    pace: Pace,
    health: Health,
    /// Why it is down; `None` also if it is down by hearsay.
    failure: Option<Failure>,
    recent: Recent,
    process_start_time: Option<String>,
    /// The process that was quiescing is not there any more.
    replaced: bool,
    /// Whether its first success makes it start slowly.
    joins: bool,
    up_since: Option<Duration>,
    sequence: u64,
    next_check: Duration,
}

/// How many of the last checks in a row had something in common.
#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    healthy: u32,
    /// Not failed.
    alive: u32,
    /// Failed or saturated.
    unwell: u32,
    failed: u32,
    /// Failed for the same reason as the last one.
    failed_alike: u32,
    last: Option<Verdict>,
}

impl Recent {
    fn count(&mut self, verdict: Verdict) {
        let count = |counter: &mut u32, applies: bool| {
            *counter = if applies { counter.saturating_add(1) } else { 0 };
        };
        let failed = matches!(verdict, Verdict::Failed(_));
        count(&mut self.healthy, verdict == Verdict::Healthy);
        count(&mut self.alive, !failed);
        count(&mut self.unwell, failed || verdict == Verdict::Saturated);
        count(&mut self.failed, failed);
        if self.last != Some(verdict) {
            self.failed_alike = 0;
        }
        count(&mut self.failed_alike, failed);
        self.last = Some(verdict);
    }
}

impl Monitor {
    /// Begins to watch a backend. `name` and `seed` decide when exactly its checks take place: give different balancers
    /// different seeds.
    pub fn new(name: &str, seed: u64, pace: Pace, start: Start, now: Duration) -> Self {
        let seed = hash::name(seed, name);
        Self {
            seed,
            pace,
            health: match start {
                Start::Cold | Start::Added => Health::Checking,
                Start::Warm(health) => health,
                Start::Spare => Health::Up,
            },
            failure: None,
            recent: Recent::default(),
            process_start_time: None,
            replaced: false,
            joins: start != Start::Cold,
            up_since: None,
            sequence: 0,
            next_check: now.saturating_add(pace.first_delay(seed)),
        }
    }

    /// The health.
    pub fn health(&self) -> Health {
        self.health
    }

    /// When the next check is to begin.
    pub fn next_check(&self) -> Duration {
        self.next_check
    }

    /// Since when it has been up, for [`slow_start`](super::slow_start). `None` if it is not up, or was from the start.
    pub fn up_since(&self) -> Option<Duration> {
        self.up_since
    }

    /// What its health means for who serves.
    pub fn standing(&self) -> Standing {
        match (self.health, self.failure) {
            (Health::Checking, _) => Standing::Pending,
            (Health::Up, _) => Standing::Healthy,
            (Health::Saturated, _) => Standing::Saturated,
            (Health::Down, Some(Failure::Failing)) => Standing::Failing,
            (Health::Down, Some(Failure::Silent)) => Standing::Silent,
            (Health::Quiescing | Health::Down, _) => Standing::Unusable,
        }
    }

    /// Goes on at another pace, from the next check on.
    pub fn set_pace(&mut self, pace: Pace, now: Duration) {
        if pace != self.pace {
            self.pace = pace;
            let soon = now.saturating_add(pace.first_delay(self.seed));
            self.next_check = self.next_check.min(soon);
        }
    }

    /// Takes in the outcome of a check that began and ended at these times. Returns what it has changed.
    pub fn observe(&mut self, outcome: &Outcome, began: Duration, ended: Duration) -> Vec<Event> {
        let mut events = Vec::new();
        self.notice_restart(outcome, &mut events);
        self.recent.count(outcome.verdict);
        if let Some(health) = self.next_health() {
            events.push(Event::Changed {
                from: self.health,
                to: health,
                cause: self.cause(health, outcome),
            });
            self.enter(health, ended);
        } else {
            self.notice_other_failure(outcome, &mut events);
        }
        self.postpone(began, ended);
        events
    }

    /// A check that began and ended at these times has found nothing out, for a reason that is not the backend's.
    pub fn postpone(&mut self, began: Duration, ended: Duration) {
        self.sequence = self.sequence.wrapping_add(1);
        self.next_check = self
            .pace
            .next_check(self.is_changing(), self.seed, self.sequence, began, ended);
    }

    fn notice_restart(&mut self, outcome: &Outcome, events: &mut Vec<Event>) {
        let Some(told) = &outcome.process_start_time else {
            return;
        };
        if let Some(known) = self.process_start_time.replace(told.clone())
            && known != *told
        {
            self.replaced = true;
            events.push(Event::Restarted {
                from: known,
                to: told.clone(),
            });
        }
    }

    /// The health that the recent checks amount to, if it is another one.
    fn next_health(&self) -> Option<Health> {
        let (recent, rise, fall) = (self.recent, self.pace.rise.max(1), self.pace.fall.max(1));
        let last = recent.last?;
        let next = match self.health {
            _ if last == Verdict::Quiescing => Health::Quiescing,
            _ if recent.healthy >= rise => Health::Up,
            Health::Checking if last == Verdict::Healthy => Health::Up,
            _ if recent.failed >= fall => Health::Down,
            Health::Checking | Health::Up if recent.unwell >= fall => Health::Saturated,
            Health::Quiescing if self.replaced && recent.unwell >= fall => Health::Saturated,
            Health::Down if recent.alive >= rise => Health::Saturated,
            unchanged => unchanged,
        };
        (next != self.health).then_some(next)
    }

    fn cause(&self, next: Health, outcome: &Outcome) -> String {
        let times = |count: u32| {
            if count == 1 {
                "a check".to_owned()
            } else {
                format!("{count} checks in a row")
            }
        };
        let what = match next {
            Health::Up => format!("has passed {}", times(self.recent.healthy)),
            Health::Down => format!("has failed {}", times(self.recent.failed)),
            Health::Saturated if self.health == Health::Down => {
                "is alive again but does not answer every check in time".to_owned()
            }
            Health::Saturated => format!("has passed none of {}", times(self.recent.unwell)),
            // Nothing leads back to checking.
            Health::Quiescing | Health::Checking => "says that it is shutting down".to_owned(),
        };
        format!("{what}: {}", outcome.detail)
    }

    fn enter(&mut self, health: Health, now: Duration) {
        let slowly = self.joins || self.health != Health::Checking;
        self.up_since = (health == Health::Up && slowly).then_some(now);
        self.failure = match self.recent.last {
            Some(Verdict::Failed(failure)) if health == Health::Down => Some(failure),
            _ => None,
        };
        self.health = health;
        self.replaced = false;
    }

    /// A backend that is down changes its reason only after `fall` checks, too: the guard may have it in use.
    fn notice_other_failure(&mut self, outcome: &Outcome, events: &mut Vec<Event>) {
        let Verdict::Failed(failure) = outcome.verdict else {
            return;
        };
        let believed = self.failure.is_none() || self.recent.failed_alike >= self.pace.fall.max(1);
        if self.health == Health::Down && self.failure != Some(failure) && believed {
            events.push(Event::OtherFailure {
                from: self.failure.replace(failure),
                to: failure,
                cause: format!("fails its checks in another way: {}", outcome.detail),
            });
        }
    }

    /// Whether the last check disagrees with the health, so that the next ones decide.
    fn is_changing(&self) -> bool {
        match (self.health, self.recent.last) {
            (Health::Checking, _)
            | (_, None)
            | (Health::Quiescing, Some(Verdict::Healthy | Verdict::Failed(_))) => true,
            (Health::Up, Some(last)) => last != Verdict::Healthy,
            (Health::Saturated, Some(last)) => last != Verdict::Saturated,
            (Health::Down, Some(last)) => !matches!(last, Verdict::Failed(_)),
            (Health::Quiescing, Some(Verdict::Quiescing)) => false,
            (Health::Quiescing, Some(Verdict::Saturated)) => self.replaced,
        }
    }
}

#[cfg(test)]
mod tests;
