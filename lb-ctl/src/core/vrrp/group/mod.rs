//! The state machine: of one instance, or of several that move together.
//!
//! A group has one state; a group of one is an instance as RFC 9568, section 6, has it. Each member has a virtual router, a priority
//! and timers of its own. A group
//!
//! - becomes master when all members miss a master, since what one member does not hear another one may,
//! - goes back when its *first* member hears a better master. The others' word counts where the first hears nobody: two groups
//!   of which each is better in one member would otherwise go back both, for ever,
//! - is at fault when any member is.
//!
//! Where this differs from the RFC's tables:
//!
//! - *A master that leaves is believed only if it is the one that was heard last.* A packet that is late, of one that has left long
//!   ago, does not call an election.
//! - *Advertisements out of turn,* which answer a rival, are no more than four in an interval: a flood is not answered by one.
//! - *A preemption can be delayed:* for so long a master of lower priority counts as one of a higher. After an operator has handed
//!   over, for as long as there is a master. With a peer, until that has told everything about the connections: but where it tells
//!   nothing, for a grace that counts from when such a master was heard first. So long nor does who owns the addresses begin as master.

mod announcements;
mod member;
mod patience;

use std::{net::IpAddr, time::Duration};

pub use member::{Conditions, OWNER, Settings};
pub use patience::Told;

use super::{
    acceptance::Heard,
    advertisement::LEAVING,
    interval::Interval,
    transition::{Cause, State, Transition},
};
use announcements::Announcements;
use member::Member;
use patience::Patience;

/// A point in time.
type Time = Duration;

/// How a group behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether it takes over from a master of lower priority.
    pub preempt: bool,
    /// For how long it first leaves such a master alone.
    pub preempt_delay: Duration,
    /// How long after its start it takes part.
    pub start_delay: Duration,
    /// How often a master tells the neighbours anew whose the addresses are.
    pub refresh: Duration,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send an advertisement.
    Advertise {
        /// The member, counted from 0.
        member: usize,
        /// The priority to put in.
        priority: u8,
    },
    /// Put the addresses of all members on their interfaces.
    Take,
    /// Tell the neighbours whose the addresses are now.
    Announce,
    /// Take the addresses of all members off.
    Release,
    /// The state has changed.
    Changed(Transition),
}

/// Why a group cannot be handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a master, found the state {0}: hand over where the master is")]
pub struct NotMaster(pub State);

/// What can be told of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// Its priority, lowered by what is missing.
    pub priority: u8,
    /// The master that a backup hears, and its priority.
    pub master: Option<(IpAddr, u8)>,
    /// The interval that counts: the master's, or its own.
    pub interval: Interval,
    /// How long a silence of the master lasts too long.
    pub master_down: Duration,
    /// When the next advertisement goes out (master), or silence has lasted too long (backup).
    pub due: Option<Time>,
}

/// One instance, or several that move together.
#[derive(Clone, Debug)]
pub struct Group {
    policy: Policy,
    members: Vec<Member>,
    state: State,
    since: Time,
    cause: Cause,
    /// When `Init` ends, if ever.
    start_at: Option<Time>,
    /// An operator has handed over: whoever is master stays so.
    yields: bool,
    /// With a peer: for how long a master of lower priority is left alone of whose connections that has told nothing.
    grace: Option<Duration>,
    /// With a peer: what it has told.
    told: Told,
    /// Since when it has told nothing, if so.
    untold_since: Time,
    announcements: Announcements,
}

impl Group {
    /// A group of these members that begins now, with its first [`pass`](Self::pass).
    pub fn new(policy: Policy, members: impl IntoIterator<Item = (Settings, Conditions)>, now: Time) -> Self {
        let member = |(settings, conditions)| Member::new(settings, conditions, now);
        Self {
            policy,
            members: members.into_iter().map(member).collect(),
            state: State::Init,
            since: now,
            cause: Cause::Started,
            start_at: Some(now.saturating_add(policy.start_delay)),
            yields: false,
            grace: None,
            told: Told::Nothing,
            untold_since: now,
            announcements: Announcements::default(),
        }
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Since when it has that state.
    pub fn since(&self) -> Time {
        self.since
    }

    /// Why it has.
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// Whether an operator has handed it over, so that it leaves any master alone.
    pub fn yields(&self) -> bool {
        self.yields
    }

    /// An operator had handed over the group whose addresses it has from now on.
    pub fn set_yields(&mut self) {
        self.yields = true;
    }

    /// Says that there is a peer, and for how long it is waited for while it tells nothing; or that there is none. Nobody is waited for
    /// while no master advertises.
    pub fn set_grace(&mut self, grace: Option<Duration>) {
        self.grace = grace;
    }

    /// Says what the peer has told, by what is known since we were master last, if we were: whoever has been is told nothing from that
    /// moment on, since the next one knows more at once.
    pub fn set_told(&mut self, told: Told, now: Time) {
        if told == Told::Nothing && self.told != told {
            self.untold_since = now;
        }
        self.told = told;
    }

    fn patience(&self) -> Patience {
        let told = self.grace.map(|grace| (self.told, grace));
        Patience {
            always: !self.policy.preempt || self.yields || matches!(told, Some((Told::Part, _))),
            delay: self.policy.preempt_delay,
            untold: told
                .filter(|(told, _)| *told == Told::Nothing)
                .map(|(_, grace)| (self.untold_since, grace)),
        }
    }

    /// Whether it may begin as master: nobody who may be master already is asked.
    fn may_begin_as_master(&self) -> bool {
        let knows_everything = self.grace.is_none() || self.told == Told::Everything;
        self.members.iter().all(Member::is_owner) && knows_everything && !self.yields
    }

    /// What can be told of a member; `None` if there is none of this number.
    pub fn member(&self, member: usize) -> Option<MemberView> {
        let member = self.members.get(member)?;
        let due = match self.state {
            State::Backup => Some(member.silent_at),
            State::Master => Some(member.advertise_at),
            State::Init | State::Fault => None,
        };
        let interval = if self.state == State::Backup {
            member.expected
        } else {
            member.settings.interval
        };
        Some(MemberView {
            priority: member.priority().get(),
            master: member.master,
            interval,
            master_down: interval.master_down(member.priority()),
            due,
        })
    }

    /// When [`pass`](Self::pass) is to be called next, at the latest.
    pub fn due(&self) -> Option<Time> {
        match self.state {
            State::Init => self.start_at,
            State::Backup => self.members.iter().map(|member| member.silent_at).max(),
            State::Master => {
                let advertise = self.members.iter().map(|member| member.advertise_at).min();
                advertise.map(|at| at.min(self.announcements.due()))
            }
            State::Fault => None,
        }
    }

    /// Time has passed. What has arrived before must have been [heard](Self::heard) before.
    pub fn pass(&mut self, now: Time) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.due().is_none_or(|due| now < due) {
            return actions;
        }
        match self.state {
            State::Init => self.begin(Cause::Started, now, &mut actions),
            State::Backup => {
                let cause = self
                    .members
                    .first()
                    .map_or(Cause::Started, |first| first.why_silent(now));
                self.become_master(cause, now, &mut actions);
            }
            State::Master => {
                for (number, member) in self.members.iter_mut().enumerate() {
                    if member.advertise_at <= now {
                        actions.push(member.advertise_in_turn(number, now));
                    }
                }
                if self.announcements.due() <= now {
                    self.announcements.made(now, self.policy.refresh);
                    actions.push(Action::Announce);
                }
            }
            State::Fault => {}
        }
        actions
    }

    /// An advertisement has come in for a member.
    pub fn heard(&mut self, member: usize, heard: Heard, now: Time) -> Vec<Action> {
        let mut actions = Vec::new();
        let patience = self.patience();
        let Some(it) = self.members.get_mut(member) else {
            return actions;
        };
        match self.state {
            State::Init | State::Fault => {}
            State::Backup if heard.priority == LEAVING => it.master_leaves(heard.from, now),
            State::Backup => it.listen(&heard, patience, now),
            State::Master if heard.priority == LEAVING => actions.extend(it.assert(member, now)),
            State::Master => {
                if it.is_worse_than(&heard) {
                    if self.counts(member, now) {
                        self.yield_to(member, &heard, now, &mut actions);
                    }
                } else {
                    it.heard_at = Some(now);
                    it.contested_since = None;
                    actions.extend(it.assert(member, now));
                    // The rival has told the neighbours that the addresses are its own.
                    if self.announcements.begin_again(now, self.policy.refresh) {
                        actions.push(Action::Announce);
                    }
                }
            }
        }
        actions
    }

    /// Something about a member has changed on the host.
    pub fn conditions(&mut self, member: usize, conditions: Conditions, now: Time) -> Vec<Action> {
        let mut actions = Vec::new();
        let Some(it) = self.members.get_mut(member) else {
            return actions;
        };
        let before = it.priority();
        it.conditions = conditions;
        it.priority_changed(before);
        let changed = it.priority() != before;
        let fault = self.fault().map(ToOwned::to_owned);
        match (self.state, fault) {
            (State::Fault, None) => self.begin(Cause::Recovered, now, &mut actions),
            (State::Backup, Some(what)) => self.enter(State::Fault, Cause::Fault(what), now, &mut actions),
            (State::Master, Some(what)) => {
                self.leave(&mut actions);
                self.enter(State::Fault, Cause::Fault(what), now, &mut actions);
            }
            (State::Master, None) if changed => actions.push(self.members[member].advertise(member, now)),
            // No news, or what the next packet says.
            (State::Init, _) | (State::Fault, Some(_)) | (State::Backup | State::Master, None) => {}
        }
        actions
    }

    /// The configuration has changed. As many settings are expected as there are members; a group with others is a new one.
    pub fn configure(&mut self, policy: Policy, settings: &[Settings], now: Time) -> Vec<Action> {
        let mut actions = Vec::new();
        self.policy = policy;
        for (number, (member, &settings)) in self.members.iter_mut().zip(settings).enumerate() {
            if member.settings == settings {
                continue;
            }
            let before = member.priority();
            member.settings = settings;
            member.priority_changed(before);
            if self.state == State::Master {
                actions.push(member.advertise(number, now));
            }
        }
        actions
    }

    /// The members are in another order from now on: `places` says of each where it comes to stand, as those of a sorted list. The first
    /// decides then what the first decides.
    pub fn reorder(&mut self, places: &[usize]) {
        let mut members: Vec<_> = places
            .iter()
            .copied()
            .zip(std::mem::take(&mut self.members))
            .collect();
        members.sort_by_key(|(place, _)| *place);
        self.members = members.into_iter().map(|(_, member)| member).collect();
    }

    /// An operator wants somebody else to be master. Whoever that is will not be preempted by us. If nobody takes over, we
    /// become master again after an interval more than it takes others to miss us.
    pub fn hand_over(&mut self, now: Time) -> Result<Vec<Action>, NotMaster> {
        if self.state != State::Master {
            return Err(NotMaster(self.state));
        }
        let mut actions = Vec::new();
        self.leave(&mut actions);
        self.yields = true;
        self.enter_backup(Cause::HandedOver, now, &mut actions);
        for member in &mut self.members {
            member.silent_at = member
                .silent_at
                .saturating_add(member.settings.interval.duration());
        }
        Ok(actions)
    }

    /// Ends, and lets somebody else take over at once.
    pub fn stop(&mut self, now: Time) -> Vec<Action> {
        let mut actions = Vec::new();
        self.start_at = None;
        if self.state == State::Master {
            self.leave(&mut actions);
        }
        if self.state != State::Init {
            self.enter(State::Init, Cause::Stopped, now, &mut actions);
        }
        actions
    }

    /// What it cannot do without and is missing, if anything.
    pub fn fault(&self) -> Option<&str> {
        self.members.iter().find_map(|member| member.conditions.fault())
    }

    fn begin(&mut self, cause: Cause, now: Time, actions: &mut Vec<Action>) {
        self.start_at = None;
        if let Some(what) = self.fault() {
            let what = Cause::Fault(what.to_owned());
            self.enter(State::Fault, what, now, actions);
        } else if self.may_begin_as_master() {
            self.become_master(Cause::Owner, now, actions);
        } else {
            self.enter_backup(cause, now, actions);
        }
    }

    fn enter_backup(&mut self, cause: Cause, now: Time, actions: &mut Vec<Action>) {
        for member in &mut self.members {
            member.begin_listening(now);
        }
        self.enter(State::Backup, cause, now, actions);
    }

    fn become_master(&mut self, cause: Cause, now: Time, actions: &mut Vec<Action>) {
        for (number, member) in self.members.iter_mut().enumerate() {
            member.begin_talking();
            // Before the addresses are on: the sooner other backups know, the fewer of them try as well.
            actions.push(member.advertise(number, now));
        }
        self.yields = false;
        self.announcements.begin(now, self.policy.refresh);
        actions.extend([Action::Take, Action::Announce]);
        self.enter(State::Master, cause, now, actions);
    }

    /// Stops being master. Others take over while the addresses come off: that they are at two hosts for a moment does less harm
    /// than that they are at none.
    fn leave(&self, actions: &mut Vec<Action>) {
        for member in 0..self.members.len() {
            actions.push(Action::Advertise {
                member,
                priority: LEAVING,
            });
        }
        actions.push(Action::Release);
    }

    /// Whether the group follows what this member hears of a better master: see the head of this file.
    fn counts(&mut self, member: usize, now: Time) -> bool {
        let first_heard_at = self.members.first().and_then(|first| first.heard_at);
        let Some(it) = self.members.get_mut(member) else {
            return false;
        };
        it.heard_at = Some(now);
        if member == 0 {
            return true;
        }
        let since = *it.contested_since.get_or_insert(now);
        if first_heard_at.is_some_and(|heard_at| heard_at >= since) {
            it.contested_since = Some(now);
            return false;
        }
        now >= since.saturating_add(it.settings.interval.master_down(it.priority()))
    }

    fn yield_to(&mut self, member: usize, heard: &Heard, now: Time, actions: &mut Vec<Action>) {
        // The better master of this member takes over the others' addresses the sooner.
        for other in (0..self.members.len()).filter(|other| *other != member) {
            actions.push(Action::Advertise {
                member: other,
                priority: LEAVING,
            });
        }
        actions.push(Action::Release);
        let cause = Cause::Better {
            master: heard.from,
            priority: heard.priority,
        };
        self.enter_backup(cause, now, actions);
        if let Some(it) = self.members.get_mut(member) {
            it.follow(heard, now);
        }
    }

    fn enter(&mut self, state: State, cause: Cause, now: Time, actions: &mut Vec<Action>) {
        actions.push(Action::Changed(Transition {
            from: self.state,
            to: state,
            at: now,
            cause: cause.clone(),
        }));
        if self.state == State::Master {
            (self.told, self.untold_since) = (Told::Nothing, now);
        }
        self.state = state;
        self.since = now;
        self.cause = cause;
    }
}

#[cfg(test)]
mod tests;
