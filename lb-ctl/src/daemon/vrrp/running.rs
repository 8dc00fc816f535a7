//! A group of instances, or one, with its machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Dependencies, Knowledge, Notifier, Snapshot, Tenure, Term,
    hands::{Hands, Id, Part, Surroundings},
    hooks,
    instance::Instance,
};
use crate::{
    adapters::vrrp::Incoming,
    core::{
        config::Vrrp,
        interface::format_mac,
        status::{RejectedStatus, VrrpStatus},
        time::milliseconds,
        vrrp::{Action, Group, LEAVING, NotMaster, Place, State, Subject, Told, Transition, Untold},
    },
};

/// Several instances, or one, and their machine.
pub(super) struct Running {
    group: Group,
    instances: Vec<Instance>,
    transitions: BTreeMap<State, u64>,
    previous: Option<State>,
    notifier: Notifier,
    /// Changes of which hooks are told once the addresses are where they belong.
    untold: Untold,
    /// Addresses are to be put on or taken off.
    needs_hands: bool,
    /// Something has changed that can be told.
    is_news: bool,
}

impl Running {
    /// Begins with these; `None` if there are none.
    pub(super) fn begin(instances: Vec<Instance>, notifier: Notifier, now: Duration) -> Option<Self> {
        let policy = instances.first()?.config.policy;
        let members = instances
            .iter()
            .map(|it| (it.config.settings, it.conditions.clone()));
        Some(Self {
            group: Group::new(policy, members, now),
            instances,
            transitions: BTreeMap::new(),
            previous: None,
            notifier,
            untold: Untold::default(),
            needs_hands: false,
            is_news: true,
        })
    }

    /// Says for how long it leaves masters alone of whose connections the peer tells nothing, if there is one.
    pub(super) fn set_grace(&mut self, grace: Option<Duration>) {
        self.group.set_grace(grace);
    }

    /// The addresses that an operator has handed over, for as long as somebody else is master.
    pub(super) fn yielded(&self) -> impl Iterator<Item = IpAddr> {
        let configs = self.configs().filter(|_| self.group.yields());
        configs.flat_map(|config| config.addresses.iter().copied())
    }

    /// Takes in which addresses had been handed over before it began.
    pub(super) fn take_in_yielded(&mut self, yielded: &BTreeSet<IpAddr>) {
        let is_own = |address: &IpAddr| self.configs().any(|config| config.addresses.contains(address));
        if yielded.iter().any(is_own) {
            self.group.set_yields();
        }
    }

    /// Takes in what the controller knows of connections. Whether a master has to be left alone is a matter of this group's own addresses.
    pub(super) fn take_in_knowledge(&mut self, knowledge: &Knowledge, now: Duration) {
        let own = self.instances.iter().flat_map(|instance| {
            let tenure = self.tenure(instance);
            let addresses = instance.config.addresses.iter();
            addresses.map(move |address| (address, tenure))
        });
        // A controller that takes us for the master still, or for the one before, knows nothing of the one since; nor does one that has not
        // seen us yet of who had the addresses before.
        let told = own
            .map(|(address, tenure)| {
                let known = knowledge.of_vips.get(address);
                known
                    .filter(|_| knowledge.seen.get(address).is_some_and(|seen| seen.is(&tenure)))
                    .copied()
            })
            .collect::<Option<Vec<Told>>>();
        if let Some(told) = told {
            self.group
                .set_told(told.into_iter().max().unwrap_or_default(), now);
        }
    }

    pub(super) fn instances(&self) -> &[Instance] {
        &self.instances
    }

    pub(super) fn instances_mut(&mut self) -> &mut [Instance] {
        &mut self.instances
    }

    pub(super) fn configs(&self) -> impl Iterator<Item = &Vrrp> {
        self.instances.iter().map(|instance| &instance.config)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.configs().map(|config| config.name.as_str())
    }

    /// What its instances need of the host.
    pub(super) fn parts(&self) -> impl Iterator<Item = (Id, Part)> {
        let holds = self.is_master();
        self.instances
            .iter()
            .map(move |instance| (instance.id, instance.part(holds)))
    }

    /// Whether the hands have something to do since it was asked last.
    pub(super) fn hands_are_needed(&mut self) -> bool {
        std::mem::take(&mut self.needs_hands)
    }

    /// The hands do what it needs in this round.
    pub(super) fn hands_work(&mut self, round: u64) {
        self.untold.ordered(round);
    }

    /// Hooks are told of it after they have been told that those before it have left their addresses, which this round does.
    pub(super) fn hold_back_hooks(&mut self, round: u64) {
        self.untold.hold_back(round);
    }

    /// The hands have done what they were to do in this round, as far as they could.
    pub(super) fn hands_are_done(&mut self, round: u64) {
        self.untold.done(round);
        self.tell_hooks();
    }

    /// The hands do nothing any more: hooks are told all the same.
    pub(super) fn hands_are_gone(&mut self) {
        self.untold.give_up();
        self.tell_hooks();
    }

    /// Whether hooks wait for the hands.
    pub(super) fn has_notices(&self) -> bool {
        !self.untold.is_empty()
    }

    fn tell_hooks(&mut self) {
        while let Some(transition) = self.untold.take() {
            for (number, instance) in self.instances.iter().enumerate() {
                let priority = self.group.member(number).map_or(0, |member| member.priority);
                self.notifier.tell(&instance.config, &transition, priority);
            }
        }
    }

    /// Whether something has changed that can be told.
    pub(super) fn is_news(&self) -> bool {
        self.is_news
    }

    /// Whether one of its instances has this address there.
    pub(super) fn has(&self, place: Place) -> bool {
        self.instances.iter().any(|instance| instance.has(place))
    }

    fn is_master(&self) -> bool {
        self.group.state() == State::Master
    }

    /// How it stands with the addresses of an instance.
    fn tenure(&self, instance: &Instance) -> Tenure {
        Tenure {
            term: Term {
                instance: instance.id,
                number: self.transitions.get(&State::Master).copied().unwrap_or(0),
            },
            lasts: self.is_master(),
            is_announced: self.is_master() && instance.is_announced(),
        }
    }

    /// When [`pass`](Self::pass) is to be called next.
    pub(super) fn due(&self) -> Option<Duration> {
        let taking = self.instances.iter().filter_map(|it| it.taking.due());
        self.group.due().into_iter().chain(taking).min()
    }

    /// Time has passed. Returns whether instances may try again to come by their addresses.
    pub(super) fn pass(&mut self, now: Duration) -> bool {
        let actions = self.group.pass(now);
        self.perform(actions);
        let mut recovers = false;
        for instance in &mut self.instances {
            if instance.taking.due().is_some_and(|due| due <= now) {
                instance.taking.pass(now);
                recovers = true;
            }
        }
        recovers
    }

    /// A packet has arrived for an instance.
    pub(super) fn on_packet(&mut self, number: usize, incoming: &Incoming, now: Duration) {
        let Some(heard) = self.instances.get_mut(number).and_then(|it| it.accept(incoming)) else {
            return;
        };
        let view = |group: &Group| {
            let member = group.member(number)?;
            Some((member.master, member.interval))
        };
        let before = view(&self.group);
        let actions = self.group.heard(number, heard, now);
        self.is_news |= before != view(&self.group);
        self.perform(actions);
    }

    /// Takes in what is true of the host now.
    pub(super) fn examine(
        &mut self,
        surroundings: &Surroundings,
        dependencies: &Dependencies,
        shared: &BTreeSet<IpAddr>,
        hands: &Hands,
        now: Duration,
    ) {
        for number in 0..self.instances.len() {
            let instance = &mut self.instances[number];
            let mut conditions = instance.examine(surroundings, dependencies, shared, hands);
            let has_come_back = instance.conditions.source.is_none() && conditions.source.is_some();
            if has_come_back && instance.forget_groups(hands) {
                conditions = instance.examine(surroundings, dependencies, shared, hands);
                self.needs_hands = true;
            }
            if conditions == instance.conditions {
                continue;
            }
            // Whoever comes back has the new source, but who says goodbye because there is none any more has the old one.
            let loses_source = instance.conditions.source.is_some() && conditions.source.is_none();
            if conditions.source.is_some() {
                instance.conditions = conditions.clone();
            }
            let actions = self.group.conditions(number, conditions.clone(), now);
            self.perform(actions);
            let instance = &mut self.instances[number];
            instance.conditions = conditions;
            if loses_source {
                instance.forget_groups(hands);
            }
            self.is_news = true;
        }
    }

    /// Takes in that an address has been put where it belongs.
    pub(super) fn take_in_one(&mut self, place: Place) {
        if self.is_master() {
            let mut instances = self.instances.iter_mut();
            if let Some(instance) = instances.find(|instance| instance.has(place)) {
                instance.take_in_one(place.address);
                // Before, nothing of it shows, and to tell means to copy everything.
                self.is_news |= instance.is_announced();
            }
        }
    }

    /// Takes in what has become of the addresses.
    pub(super) fn settled(
        &mut self,
        there: &BTreeSet<Place>,
        not_added: &BTreeMap<Place, String>,
        not_removed: &BTreeMap<Place, String>,
        now: Duration,
    ) {
        let is_master = self.is_master();
        for instance in &mut self.instances {
            let failure = |failures: &BTreeMap<Place, String>| {
                let mut own = failures.iter().filter(|(place, _)| instance.has(**place));
                own.next().map(|(place, cause)| (place.address, cause.clone()))
            };
            let (not_added, not_removed) = (failure(not_added), failure(not_removed));
            if let Some((address, cause)) = not_removed {
                let what = format!("{address} could not be taken off; it is tried again: {cause}");
                instance.complain("release", &what);
            }
            if !is_master {
                continue;
            }
            instance.take_in(instance.own(there));
            match not_added {
                None => instance.taking.succeeded(),
                Some((address, cause)) => {
                    let interface = &instance.config.interface;
                    let what = format!("{address} cannot be put on {interface}: {cause}");
                    instance.taking.failed(&what, now);
                    instance.complain("take", &what);
                }
            }
        }
    }

    /// Goes on with another configuration of the same virtual routers.
    pub(super) fn reconfigure(&mut self, mut group: Vec<Vrrp>, now: Duration) {
        let places = self.configs().map(|config| {
            let place = group.iter().position(|it| it.name == config.name);
            place.unwrap_or(usize::MAX)
        });
        let places: Vec<usize> = places.collect();
        self.group.reorder(&places);
        let mut instances: Vec<(usize, Instance)> =
            places.into_iter().zip(self.instances.drain(..)).collect();
        instances.sort_by_key(|(place, _)| *place);
        for ((_, mut instance), config) in instances.into_iter().zip(group.drain(..)) {
            // Whoever has the old list does not listen to the new one, and would miss us only when we have been silent for too long.
            if self.is_master() && instance.gives_up_some(&config) {
                instance.advertise(LEAVING);
            }
            instance.reconfigure(config);
            self.instances.push(instance);
        }
        let Some(policy) = self.instances.first().map(|first| first.config.policy) else {
            return;
        };
        let settings: Vec<_> = self.instances.iter().map(|it| it.config.settings).collect();
        let actions = self.group.configure(policy, &settings, now);
        self.perform(actions);
        self.is_news = true;
    }

    /// An operator wants somebody else to be master.
    pub(super) fn hand_over(&mut self, now: Duration) -> Result<(), NotMaster> {
        let actions = self.group.hand_over(now)?;
        self.perform(actions);
        Ok(())
    }

    pub(super) fn stop(&mut self, now: Duration) {
        let actions = self.group.stop(now);
        self.perform(actions);
    }

    /// Gives the sockets back.
    pub(super) fn close(&mut self, hands: &Hands) {
        for instance in &mut self.instances {
            instance.close(hands);
        }
    }

    fn perform(&mut self, actions: Vec<Action>) {
        let moves_addresses = actions
            .iter()
            .any(|action| matches!(action, Action::Take | Action::Release));
        for action in actions {
            match action {
                Action::Advertise { member, priority } => {
                    if let Some(instance) = self.instances.get_mut(member) {
                        instance.advertise(priority);
                    }
                }
                Action::Take => self.needs_hands = true,
                Action::Announce => self.instances.iter_mut().for_each(Instance::announce),
                Action::Release => {
                    self.needs_hands = true;
                    self.instances.iter_mut().for_each(Instance::release);
                }
                Action::Changed(transition) => {
                    self.tell(&transition);
                    self.untold.push(transition, moves_addresses);
                }
            }
        }
        for (number, instance) in self.instances.iter().enumerate() {
            instance
                .timer
                .set(self.group.member(number).and_then(|member| member.due));
        }
        self.tell_hooks();
    }

    fn tell(&mut self, transition: &Transition) {
        let Transition { from, to, cause, .. } = transition;
        *self.transitions.entry(*to).or_default() += 1;
        self.previous = Some(*from);
        let instances = self.names().collect::<Vec<_>>().join(",");
        if *to == State::Fault {
            tracing::warn!(instances, "VRRP: {from} to {to}: {cause}");
        } else {
            tracing::info!(instances, "VRRP: {from} to {to}: {cause}");
        }
        self.is_news = true;
        for instance in &mut self.instances {
            instance.forget_complaints();
        }
    }

    /// What is to be made known of it, which is no news any more then.
    pub(super) fn snapshots(&mut self, epoch: Instant) -> impl Iterator<Item = Snapshot> {
        self.is_news = false;
        let this = &*self;
        this.instances.iter().enumerate().map(move |(number, instance)| {
            let Vrrp {
                name,
                interface,
                vrid,
                addresses,
                group,
                ..
            } = &instance.config;
            let member = this.group.member(number);
            let interval = member.map_or(instance.config.settings.interval, |member| member.interval);
            let priority = member.map_or(0, |member| member.priority);
            let master = member.and_then(|member| member.master);
            let own = this.is_master().then_some(instance.conditions.source).flatten();
            let rejected = instance.rejected.iter().map(|(reason, packets)| RejectedStatus {
                reason: (*reason).to_owned(),
                packets: *packets,
            });
            Snapshot {
                tenure: this.tenure(instance),
                status: VrrpStatus {
                    name: name.clone(),
                    state: this.group.state().to_string(),
                    state_seconds: 0,
                    previous_state: this.previous.map(|state| state.to_string()),
                    cause: this.group.cause().to_string(),
                    priority,
                    configured_priority: instance.config.settings.priority.get(),
                    addresses: addresses.clone(),
                    interface: interface.clone(),
                    vrid: vrid.get(),
                    virtual_mac: instance.config.virtual_mac().map(format_mac),
                    group: group.clone(),
                    master: own.or(master.map(|(master, _)| master)),
                    master_priority: own.map(|_| priority).or(master.map(|(_, priority)| priority)),
                    interval_ms: milliseconds(interval.duration()),
                    master_down_ms: member.map_or(0, |member| milliseconds(member.master_down)),
                    due_ms: None,
                    yields: this.group.yields(),
                    transitions: State::ALL
                        .iter()
                        .map(|state| {
                            (
                                state.to_string(),
                                this.transitions.get(state).copied().unwrap_or(0),
                            )
                        })
                        .collect(),
                    rejected: rejected.collect(),
                    missing: instance.missing.clone(),
                    // Filled in by whoever counts.
                    notifications: hooks::RESULTS
                        .iter()
                        .filter(|_| instance.config.notify.is_some())
                        .map(|result| ((*result).to_owned(), 0))
                        .collect(),
                },
                since: epoch.checked_add(this.group.since()).unwrap_or(epoch),
                epoch,
                timer: instance.timer.clone(),
            }
        })
    }
}

/// The interfaces that an instance has to do with.
pub(super) fn interfaces(instance: &Instance) -> impl Iterator<Item = String> {
    let tracked = instance
        .config
        .track
        .iter()
        .filter_map(|track| match &track.subject {
            Subject::Link(interface) => Some(interface.clone()),
            Subject::Xdp | Subject::Service { .. } | Subject::Script(_) => None,
        });
    tracked.chain([instance.config.interface.clone()])
}

#[cfg(test)]
mod tests;
