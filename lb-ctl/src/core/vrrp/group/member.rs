//! What a group keeps for each of its members.

use std::{net::IpAddr, num::NonZeroU8};

use super::{Action, Time, patience::Patience};
use crate::core::vrrp::{acceptance::Heard, interval::Interval, transition::Cause};

/// The priority of the addresses' owner. Nothing lowers it.
pub const OWNER: NonZeroU8 = NonZeroU8::MAX;

/// What is configured for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Who of several is master: the one of the highest.
    pub priority: NonZeroU8,
    /// How often it advertises as master.
    pub interval: Interval,
}

/// What is observed on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// The address that its packets come from. Without one it cannot take part.
    pub source: Option<IpAddr>,
    /// By how much the priority is lowered.
    pub lowered: u8,
    /// What it cannot do without and is missing.
    pub fault: Option<String>,
}

impl Conditions {
    pub(super) fn fault(&self) -> Option<&str> {
        const NO_SOURCE: &str = "the interface has no address to send from";
        let fault = self.fault.as_deref();
        fault.or(self.source.is_none().then_some(NO_SOURCE))
    }
}

#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) settings: Settings,
    pub(super) conditions: Conditions,
    /// Backup: whom it follows.
    pub(super) master: Option<(IpAddr, u8)>,
    /// Backup: the interval of its master; before it has one, its own.
    pub(super) expected: Interval,
    /// Backup: when silence will have lasted too long.
    pub(super) silent_at: Time,
    /// Backup: who has left.
    left: Option<IpAddr>,
    /// Backup: since when it hears masters of lower priority only.
    worse_since: Option<Time>,
    /// Backup: the master of lower priority that it is about to take over from, and when it was heard last.
    preempted: Option<(IpAddr, u8, Time)>,
    /// Master: when the next advertisement is due.
    pub(super) advertise_at: Time,
    /// Master: when the last one went out.
    advertised_at: Option<Time>,
    /// Master: when another master was heard last.
    pub(super) heard_at: Option<Time>,
    /// Master: since when a better one is heard that the group does not follow.
    pub(super) contested_since: Option<Time>,
}

impl Member {
    pub(super) fn new(settings: Settings, conditions: Conditions, now: Time) -> Self {
        Self {
            settings,
            conditions,
            master: None,
            expected: settings.interval,
            silent_at: now,
            left: None,
            worse_since: None,
            preempted: None,
            advertise_at: now,
            advertised_at: None,
            heard_at: None,
            contested_since: None,
        }
    }

    /// The priority, less what is missing.
    pub(super) fn priority(&self) -> NonZeroU8 {
        if self.is_owner() {
            return OWNER;
        }
        let lowered = self
            .settings
            .priority
            .get()
            .saturating_sub(self.conditions.lowered);
        NonZeroU8::new(lowered).unwrap_or(NonZeroU8::MIN)
    }

    pub(super) fn is_owner(&self) -> bool {
        self.settings.priority == OWNER
    }

    /// Becomes backup.
    pub(super) fn begin_listening(&mut self, now: Time) {
        self.master = None;
        self.expected = self.settings.interval;
        self.silent_at = now.saturating_add(self.expected.master_down(self.priority()));
        self.left = None;
        self.worse_since = None;
        self.preempted = None;
    }

    /// Becomes master.
    pub(super) fn begin_talking(&mut self) {
        self.master = None;
        self.heard_at = None;
        self.contested_since = None;
    }

    /// A backup hears a master.
    pub(super) fn listen(&mut self, heard: &Heard, patience: Patience, now: Time) {
        if heard.priority >= self.priority().get() {
            self.worse_since = None;
            self.follow(heard, now);
            return;
        }
        let since = *self.worse_since.get_or_insert(now);
        if patience.lasts(since, now) {
            self.follow(heard, now);
        } else {
            // It goes on until we take over: as long as its timer says, so that it is missed no sooner than a dead one.
            self.preempted = Some((heard.from, heard.priority, now));
        }
    }

    /// A backup takes this one for its master.
    pub(super) fn follow(&mut self, heard: &Heard, now: Time) {
        self.master = Some((heard.from, heard.priority));
        self.expected = heard.interval;
        self.silent_at = now.saturating_add(self.expected.master_down(self.priority()));
        self.left = None;
        self.preempted = None;
    }

    /// A backup hears that somebody who was master leaves.
    pub(super) fn master_leaves(&mut self, from: IpAddr, now: Time) {
        let is_another = self.master.is_some_and(|(master, _)| master != from) && now < self.silent_at;
        // Who says so again does not put the takeover off.
        if is_another || self.left.is_some() {
            return;
        }
        self.left = Some(from);
        self.master = None;
        self.silent_at = now.saturating_add(self.expected.skew(self.priority()));
    }

    /// Why a backup becomes master now.
    pub(super) fn why_silent(&self, now: Time) -> Cause {
        let recent = self.expected.duration() * 4;
        match (self.preempted, self.left) {
            (Some((master, priority, at)), _) if now <= at.saturating_add(recent) => {
                Cause::Preemption { master, priority }
            }
            (_, Some(master)) => Cause::Left { master },
            _ => Cause::Silence {
                master: self.master.map(|(master, _)| master),
            },
        }
    }

    /// A master is to go back for another one of higher priority, or of the same and a higher address.
    pub(super) fn is_worse_than(&self, heard: &Heard) -> bool {
        let ours = (self.priority().get(), self.conditions.source);
        (heard.priority, Some(heard.from)) > ours
    }

    pub(super) fn advertise(&mut self, member: usize, now: Time) -> Action {
        self.advertised_at = Some(now);
        self.advertise_at = now.saturating_add(self.settings.interval.duration());
        Action::Advertise {
            member,
            priority: self.priority().get(),
        }
    }

    /// Advertises because it is time. The next is due an interval after this one was, however late it is, so that lateness does not
    /// add up; but one that comes too late for the next as well makes up for nothing.
    pub(super) fn advertise_in_turn(&mut self, member: usize, now: Time) -> Action {
        let next = self
            .advertise_at
            .saturating_add(self.settings.interval.duration());
        let action = self.advertise(member, now);
        if next > now {
            self.advertise_at = next;
        }
        action
    }

    /// A master tells a rival at once who is, unless it has just done so.
    pub(super) fn assert(&mut self, member: usize, now: Time) -> Option<Action> {
        let pause = self.settings.interval.duration() / 4;
        let is_early = self
            .advertised_at
            .is_some_and(|at| now < at.saturating_add(pause));
        (!is_early).then(|| self.advertise(member, now))
    }

    /// The priority is another one than it was: a backup waits as long as one of the new priority.
    pub(super) fn priority_changed(&mut self, before: NonZeroU8) {
        let (before, now) = (self.expected.skew(before), self.expected.skew(self.priority()));
        self.silent_at = self.silent_at.saturating_add(now).saturating_sub(before);
    }
}
