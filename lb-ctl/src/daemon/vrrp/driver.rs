//! The thread's loop: packets, time, the kernel's news and the controller's orders go into the machines, and what comes out is done.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{FutureExt, Stream, StreamExt, future::select_all};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::{
    Board, Dependencies, Notifier, Order, Snapshot, hooks,
    instance::{Instance, Surroundings},
    milliseconds,
};
use crate::{
    adapters::{
        api::server::Refusal,
        netlink::{Event, Netlink, NetlinkError, Watch},
        vrrp::{Channel, Incoming, VrrpError},
    },
    core::{
        cause::chain,
        config::Vrrp,
        status::{RejectedStatus, VrrpStatus},
        vrrp::{Action, Group, Script, State, Subject, Transition},
    },
    daemon::controller::{REFRESH, until},
};

/// How long after the kernel's news the host is looked at: news come in bursts.
const NEWS_SETTLE: Duration = Duration::from_millis(5);

/// How many packets that have arrived are read before a timer counts. A flood must not keep it from counting.
const ARRIVALS: usize = 64;

/// Several instances, or one, and their machine.
struct Running {
    group: Group,
    instances: Vec<Instance>,
    transitions: BTreeMap<State, u64>,
    previous: Option<State>,
    notifier: Notifier,
}

pub(super) struct Driver {
    netlink: Netlink,
    events: Box<dyn Stream<Item = Event> + Unpin>,
    /// The zero of the machines' time.
    epoch: Instant,
    groups: Vec<Running>,
    /// The names of the instances in the order of the configuration.
    order: Vec<String>,
    dependencies: Dependencies,
    notifier: Notifier,
    examine_due: Option<Instant>,
    board: Board,
}

impl Driver {
    /// Works until it is told to stop.
    pub(super) async fn run(
        mut orders: mpsc::UnboundedReceiver<Order>,
        board: Board,
        dependencies: Dependencies,
        notifier: Notifier,
    ) {
        let mut driver = match Self::new(board, dependencies, notifier) {
            Ok(driver) => driver,
            Err(error) => {
                tracing::error!("VRRP cannot begin: {}", chain(&error));
                return;
            }
        };
        let mut refresh = interval(REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = driver.due();
            let examine_due = driver.examine_due;
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Stop) | None => break,
                    Some(order) => driver.obey(order).await,
                },
                event = driver.events.next() => driver.on_news(event).await,
                arrival = next_arrival(&driver.groups) => driver.on_arrival(arrival).await,
                () = until(due) => driver.pass().await,
                () = until(examine_due) => driver.examine().await,
                _ = refresh.tick() => driver.refresh().await,
            }
        }
        driver.stop().await;
    }

    fn new(board: Board, dependencies: Dependencies, notifier: Notifier) -> Result<Self, NetlinkError> {
        Ok(Self {
            netlink: Netlink::connect()?,
            events: Box::new(Watch::start()?.events()),
            epoch: Instant::now(),
            groups: Vec::new(),
            order: Vec::new(),
            dependencies,
            notifier,
            examine_due: None,
            board,
        })
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn due(&self) -> Option<Instant> {
        let due = self
            .groups
            .iter()
            .filter_map(|running| running.group.due())
            .min()?;
        self.epoch.checked_add(due)
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Follow(instances, done) => {
                self.follow(instances).await;
                // Whoever asked may have gone.
                let _ = done.send(());
            }
            Order::HandOver(instance, answer) => {
                let handed_over = self.hand_over(instance.as_deref()).await;
                let _ = answer.send(handed_over);
            }
            Order::Healthy(healthy) => {
                self.dependencies.healthy = healthy;
                self.examine().await;
            }
            Order::Script(script, verdict) => {
                self.dependencies.scripts.insert(script, verdict);
                self.examine().await;
            }
            Order::Stop => {}
        }
        self.publish();
    }

    async fn follow(&mut self, configured: Vec<Vrrp>) {
        self.order = configured.iter().map(|instance| instance.name.clone()).collect();
        let mut groups: Vec<Vec<Vrrp>> = Vec::new();
        for instance in configured {
            let with = |group: &&mut Vec<Vrrp>| {
                group
                    .iter()
                    .any(|it| it.group.is_some() && it.group == instance.group)
            };
            match groups.iter_mut().find(with) {
                Some(group) => group.push(instance),
                None => groups.push(vec![instance]),
            }
        }
        let is_tracked = |script: &Script| {
            let mut tracks = groups.iter().flatten().flat_map(|instance| &instance.track);
            tracks.any(|track| matches!(&track.subject, Subject::Script(it) if it == script))
        };
        self.dependencies.scripts.retain(|script, _| is_tracked(script));
        let now = self.now();
        for mut running in std::mem::take(&mut self.groups) {
            match groups.iter().position(|group| running.is(group)) {
                Some(place) => {
                    let group = groups.swap_remove(place);
                    running.reconfigure(group, &self.netlink, now).await;
                    self.groups.push(running);
                }
                None => running.stop(&self.netlink, now).await,
            }
        }
        for group in groups {
            let mut instances: Vec<Instance> = group.into_iter().map(Instance::new).collect();
            for instance in &mut instances {
                // An earlier run may have been killed as master.
                instance.release(&self.netlink).await;
            }
            self.begin(instances).await;
        }
        self.examine().await;
    }

    async fn begin(&mut self, mut instances: Vec<Instance>) {
        let interfaces = instances.iter().flat_map(interfaces).collect();
        match Surroundings::of(&self.netlink, interfaces).await {
            Ok(surroundings) => {
                for instance in &mut instances {
                    instance.conditions = instance.examine(&surroundings, &self.dependencies);
                }
            }
            // It begins without an address to send from: at fault.
            Err(error) => tracing::error!("{}", chain(&error)),
        }
        let Some(policy) = instances.first().map(|first| first.config.policy) else {
            return;
        };
        let members = instances
            .iter()
            .map(|it| (it.config.settings, it.conditions.clone()));
        self.groups.push(Running {
            group: Group::new(policy, members, self.now()),
            instances,
            transitions: BTreeMap::new(),
            previous: None,
            notifier: self.notifier.clone(),
        });
    }

    async fn hand_over(&mut self, wanted: Option<&str>) -> Result<Vec<String>, Refusal> {
        let now = self.now();
        let mut handed_over = Vec::new();
        let mut states = Vec::new();
        for running in &mut self.groups {
            let names: Vec<String> = running.names().map(ToOwned::to_owned).collect();
            if wanted.is_some_and(|wanted| names.iter().all(|name| name != wanted)) {
                continue;
            }
            match running.group.hand_over(now) {
                Ok(actions) => {
                    running.perform(actions, &self.netlink).await;
                    handed_over.extend(names);
                }
                Err(not_master) => states.push(not_master),
            }
        }
        match (wanted, states.first()) {
            _ if !handed_over.is_empty() => Ok(handed_over),
            (Some(wanted), None) => Err(Refusal::Usage(format!(
                "expected the name of an instance, found {wanted:?}; `lb-ctl vrrp` lists them"
            ))),
            (_, Some(not_master)) => Err(Refusal::Declined(not_master.to_string())),
            (None, None) => Err(Refusal::Usage(
                "there is nothing to hand over: no [[vrrp]] is configured".into(),
            )),
        }
    }

    async fn on_news(&mut self, event: Option<Event>) {
        match event {
            Some(Event::Interface(interface) | Event::InterfaceGone(interface)) => {
                // A link that is lost is lost now.
                if self.interfaces().contains(&interface.name) {
                    self.examine().await;
                }
            }
            // Addresses come and go with their routes.
            Some(Event::Routes | Event::Overrun) => {
                self.examine_due
                    .get_or_insert_with(|| Instant::now() + NEWS_SETTLE);
            }
            Some(Event::Neighbour(_)) => {}
            None => {
                // Not at once again, if that should go on.
                sleep(NEWS_SETTLE).await;
                match Watch::start() {
                    Ok(watch) => self.events = Box::new(watch.events()),
                    Err(error) => tracing::error!("{}", chain(&error)),
                }
                self.examine().await;
            }
        }
    }

    fn interfaces(&self) -> BTreeSet<String> {
        let instances = self.groups.iter().flat_map(|running| &running.instances);
        instances.flat_map(interfaces).collect()
    }

    /// Takes in what is true of the host now.
    async fn examine(&mut self) {
        self.examine_due = None;
        let surroundings = match Surroundings::of(&self.netlink, self.interfaces()).await {
            Ok(surroundings) => surroundings,
            Err(error) => {
                tracing::error!("{}", chain(&error));
                return;
            }
        };
        let now = self.now();
        for running in &mut self.groups {
            for number in 0..running.instances.len() {
                let instance = &mut running.instances[number];
                let conditions = instance.examine(&surroundings, &self.dependencies);
                if conditions == instance.conditions {
                    continue;
                }
                // Whoever comes back has the new source, but who says goodbye because there is none any more has the old one.
                if conditions.source.is_some() {
                    instance.conditions = conditions.clone();
                }
                let actions = running.group.conditions(number, conditions.clone(), now);
                running.perform(actions, &self.netlink).await;
                running.instances[number].conditions = conditions;
            }
        }
        self.publish();
    }

    /// Compares everything anew, and puts back what somebody has taken off.
    async fn refresh(&mut self) {
        self.examine().await;
        for running in &mut self.groups {
            if running.group.state() == State::Master {
                running.take(&self.netlink).await;
            }
        }
    }

    async fn on_arrival(&mut self, (place, number, arrival): (usize, usize, Result<Incoming, VrrpError>)) {
        match arrival {
            Ok(incoming) => self.on_packet(place, number, &incoming).await,
            // The interface is down, or gone: the kernel tells of that too.
            Err(error) => {
                tracing::debug!("{}", chain(&error));
                sleep(NEWS_SETTLE).await;
                self.examine().await;
            }
        }
    }

    async fn on_packet(&mut self, place: usize, number: usize, incoming: &Incoming) {
        let now = self.now();
        let Some(running) = self.groups.get_mut(place) else {
            return;
        };
        let Some(heard) = running
            .instances
            .get_mut(number)
            .and_then(|it| it.accept(incoming))
        else {
            return;
        };
        let before = running.group.member(number).map(|member| member.master);
        let actions = running.group.heard(number, heard, now);
        let after = running.group.member(number).map(|member| member.master);
        let is_news = before != after || !actions.is_empty();
        running.perform(actions, &self.netlink).await;
        if is_news {
            self.publish();
        } else {
            self.publish_due(place, number);
        }
    }

    /// Time has passed. What has arrived meanwhile comes first: a thread that could not run for a while must not take its master for
    /// dead whose advertisements it has not read.
    async fn pass(&mut self) {
        for place in 0..self.groups.len() {
            for number in 0..self.groups[place].instances.len() {
                for _ in 0..ARRIVALS {
                    let arrived = self.groups[place].instances[number]
                        .channel()
                        .and_then(Channel::arrived);
                    let Some(incoming) = arrived else { break };
                    self.on_packet(place, number, &incoming).await;
                }
            }
        }
        let now = self.now();
        for running in &mut self.groups {
            let actions = running.group.pass(now);
            running.perform(actions, &self.netlink).await;
        }
        self.publish();
    }

    async fn stop(&mut self) {
        let now = self.now();
        for running in &mut self.groups {
            running.stop(&self.netlink, now).await;
        }
        self.publish();
    }

    fn publish(&self) {
        let mut snapshots: Vec<Snapshot> = self
            .groups
            .iter()
            .flat_map(|running| running.snapshots(self.epoch))
            .collect();
        let place = |name: &str| self.order.iter().position(|it| it == name);
        snapshots.sort_by_key(|snapshot| place(&snapshot.status.name));
        *self.board.lock() = snapshots;
    }

    /// The same of an instance's timer only, which each advertisement sets anew.
    fn publish_due(&self, place: usize, number: usize) {
        let running = self.groups.get(place);
        let Some((running, instance)) = running.and_then(|it| Some((it, it.instances.get(number)?))) else {
            return;
        };
        let due = running.due(number, self.epoch);
        let mut board = self.board.lock();
        let of_instance = |snapshot: &&mut Snapshot| snapshot.status.name == instance.config.name;
        if let Some(snapshot) = board.iter_mut().find(of_instance) {
            snapshot.due = due;
        }
    }
}

impl Running {
    fn names(&self) -> impl Iterator<Item = &str> {
        self.instances
            .iter()
            .map(|instance| instance.config.name.as_str())
    }

    /// Whether these are the same virtual routers, whatever their priorities.
    fn is(&self, group: &[Vrrp]) -> bool {
        let same = |(ours, theirs): (&Instance, &Vrrp)| {
            let like_ours = Vrrp {
                settings: ours.config.settings,
                policy: ours.config.policy,
                track: ours.config.track.clone(),
                notify: ours.config.notify.clone(),
                ..theirs.clone()
            };
            ours.config == like_ours
        };
        self.instances.len() == group.len() && self.instances.iter().zip(group).all(same)
    }

    async fn reconfigure(&mut self, group: Vec<Vrrp>, netlink: &Netlink, now: Duration) {
        for (instance, config) in self.instances.iter_mut().zip(group) {
            instance.config = config;
            instance.forget_complaints();
        }
        let Some(policy) = self.instances.first().map(|first| first.config.policy) else {
            return;
        };
        let settings: Vec<_> = self.instances.iter().map(|it| it.config.settings).collect();
        let actions = self.group.configure(policy, &settings, now);
        self.perform(actions, netlink).await;
    }

    async fn stop(&mut self, netlink: &Netlink, now: Duration) {
        let actions = self.group.stop(now);
        self.perform(actions, netlink).await;
    }

    async fn perform(&mut self, actions: Vec<Action>, netlink: &Netlink) {
        for action in actions {
            match action {
                Action::Advertise { member, priority } => {
                    if let Some(instance) = self.instances.get_mut(member) {
                        instance.advertise(priority);
                    }
                }
                Action::Take => self.take(netlink).await,
                Action::Announce => self.instances.iter_mut().for_each(Instance::announce),
                Action::Release => {
                    for instance in &mut self.instances {
                        instance.release(netlink).await;
                    }
                }
                Action::Changed(transition) => self.tell(&transition),
            }
        }
    }

    async fn take(&mut self, netlink: &Netlink) {
        for instance in &mut self.instances {
            instance.take(netlink).await;
        }
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
        for (number, instance) in self.instances.iter_mut().enumerate() {
            instance.forget_complaints();
            let priority = self.group.member(number).map_or(0, |member| member.priority);
            self.notifier.tell(&instance.config, transition, priority);
        }
    }

    /// When the timer of an instance is up.
    fn due(&self, number: usize, epoch: Instant) -> Option<Instant> {
        epoch.checked_add(self.group.member(number)?.due?)
    }

    fn snapshots(&self, epoch: Instant) -> impl Iterator<Item = Snapshot> {
        self.instances.iter().enumerate().map(move |(number, instance)| {
            let Vrrp {
                name,
                interface,
                vrid,
                addresses,
                group,
                ..
            } = &instance.config;
            let member = self.group.member(number);
            let interval = member.map_or(instance.config.settings.interval, |member| member.interval);
            let priority = member.map_or(0, |member| member.priority);
            let master = member.and_then(|member| member.master);
            let own = (self.group.state() == State::Master)
                .then_some(instance.conditions.source)
                .flatten();
            let rejected = instance.rejected.iter().map(|(reason, packets)| RejectedStatus {
                reason: (*reason).to_owned(),
                packets: *packets,
            });
            Snapshot {
                status: VrrpStatus {
                    name: name.clone(),
                    state: self.group.state().to_string(),
                    state_seconds: 0,
                    previous_state: self.previous.map(|state| state.to_string()),
                    cause: self.group.cause().to_string(),
                    priority,
                    configured_priority: instance.config.settings.priority.get(),
                    addresses: addresses.clone(),
                    interface: interface.clone(),
                    vrid: vrid.get(),
                    group: group.clone(),
                    master: own.or(master.map(|(master, _)| master)),
                    master_priority: own.map(|_| priority).or(master.map(|(_, priority)| priority)),
                    interval_ms: milliseconds(interval.duration()),
                    master_down_ms: member.map_or(0, |member| milliseconds(member.master_down)),
                    due_ms: None,
                    yields: self.group.yields(),
                    transitions: State::ALL
                        .iter()
                        .map(|state| {
                            (
                                state.to_string(),
                                self.transitions.get(state).copied().unwrap_or(0),
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
                since: epoch.checked_add(self.group.since()).unwrap_or(epoch),
                due: self.due(number, epoch),
            }
        })
    }
}

/// The interfaces that an instance has to do with.
fn interfaces(instance: &Instance) -> impl Iterator<Item = String> {
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

/// The next packet of any instance: the group's place, the instance's number in it, and the packet.
async fn next_arrival(groups: &[Running]) -> (usize, usize, Result<Incoming, VrrpError>) {
    let instances = groups.iter().enumerate().flat_map(|(place, running)| {
        let numbered = running.instances.iter().enumerate();
        numbered.map(move |(number, instance)| (place, number, instance))
    });
    let arrivals: Vec<_> = instances
        .filter_map(|(place, number, instance)| {
            let channel = instance.channel()?;
            Some(
                channel
                    .receive()
                    .map(move |arrival| (place, number, arrival))
                    .boxed_local(),
            )
        })
        .collect();
    if arrivals.is_empty() {
        return std::future::pending().await;
    }
    select_all(arrivals).await.0
}
