//! The thread's loop: packets, time, the kernel's news, what the hands report and the controller's orders go into the machines, and what
//! comes out is done. Nothing here waits for the kernel: see `hands`.

mod groups;
mod reports;

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use anyhow::Context;
use futures::{FutureExt, Stream, StreamExt, future::select_all};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, timeout_at},
};

use super::{
    Board, Dependencies, Left, Notifier, Order,
    hands::{Hands, Id, Report, Surroundings, Wanted},
    instance::Instance,
    pulse::{BEAT, Pulse},
    running::{Running, interfaces},
};
use crate::{
    adapters::{
        netlink::{Event, Watch},
        vrrp::{Channel, Incoming, VrrpError},
    },
    core::{cause::chain, vrrp::VirtualInterface},
    daemon::controller::{REFRESH, until},
};

/// How often the host is looked at for the sake of the kernel's news, at most: thousands of routes may come at once. A link that is
/// lost is looked at at once.
const NEWS_PAUSE: Duration = Duration::from_millis(100);

/// How many packets that have arrived are read before a timer counts. A flood must not keep it from counting.
const ARRIVALS: usize = 64;

/// How long the end waits for the addresses to be taken off.
const RELEASE_PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct Driver {
    hands: Hands,
    reports: mpsc::UnboundedReceiver<Report>,
    /// What the kernel says; `None` until it is listened to again.
    events: Option<Box<dyn Stream<Item = Event> + Unpin>>,
    pulse: Pulse,
    /// The zero of the machines' time.
    epoch: Instant,
    groups: Vec<Running>,
    /// Groups that begin once the host has been looked at and what an earlier run has left has been taken off, and the round in which
    /// that is.
    beginning: Vec<(u64, Vec<Instance>)>,
    /// The addresses that an operator had handed over in a group that has ended: one that has them and is about to begin leaves masters
    /// alone as that did.
    yielded: BTreeSet<IpAddr>,
    /// The names of the instances in the order of the configuration.
    order: Vec<String>,
    /// The VIPs of all instances and services.
    shared: BTreeSet<IpAddr>,
    /// With a peer: for how long a master is left alone of whose connections that tells nothing.
    grace: Option<Duration>,
    dependencies: Dependencies,
    notifier: Notifier,
    /// What is known of the host.
    surroundings: Option<Surroundings>,
    /// What the hands have been told last.
    round: u64,
    next_id: Id,
    /// When the host is to be looked at.
    look_due: Option<Instant>,
    looked_at: Instant,
    /// Groups that have ended, until their hooks have been told that their addresses are gone.
    ended: Vec<Running>,
    /// Who waits for addresses to be left, and in which round that is.
    waiting: Vec<(u64, oneshot::Sender<Left>)>,
    board: Board,
}

impl Driver {
    /// Works until it is told to stop. An error is the end of it too.
    pub(super) async fn run(
        mut orders: mpsc::UnboundedReceiver<Order>,
        board: Board,
        dependencies: Dependencies,
        notifier: Notifier,
        pulses: [Pulse; 2],
    ) -> anyhow::Result<()> {
        let mut driver = Self::new(board, dependencies, notifier, pulses)?;
        let mut refresh = interval(REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            driver.pulse.beat();
            let (due, look_due) = (driver.due(), driver.look_due);
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Stop) | None => break,
                    Some(order) => driver.obey(order),
                },
                report = driver.reports.recv() => {
                    let Some(report) = report else {
                        driver.leave();
                        driver.hands_are_gone();
                        anyhow::bail!("VRRP's second thread, which puts addresses on interfaces, has ended");
                    };
                    driver.on_report(report);
                }
                event = next_event(&mut driver.events) => driver.on_news(event),
                arrival = next_arrival(&driver.groups) => driver.on_arrival(arrival),
                () = until(due) => driver.pass(),
                () = until(look_due) => driver.look(),
                _ = refresh.tick() => driver.look(),
                _ = beat.tick() => driver.publish(),
            }
            driver.attend();
        }
        driver.stop().await
    }

    fn new(
        board: Board,
        dependencies: Dependencies,
        notifier: Notifier,
        [pulse, hands_pulse]: [Pulse; 2],
    ) -> anyhow::Result<Self> {
        let events = Box::new(Watch::start()?.events());
        let (hands, reports) = Hands::start(hands_pulse)?;
        Ok(Self {
            events: Some(events),
            ..Self::idle(hands, reports, board, dependencies, notifier, pulse)
        })
    }

    /// One with nothing to do yet, which does not listen to the kernel.
    fn idle(
        hands: Hands,
        reports: mpsc::UnboundedReceiver<Report>,
        board: Board,
        dependencies: Dependencies,
        notifier: Notifier,
        pulse: Pulse,
    ) -> Self {
        Self {
            hands,
            reports,
            events: None,
            pulse,
            epoch: Instant::now(),
            groups: Vec::new(),
            beginning: Vec::new(),
            yielded: BTreeSet::new(),
            order: Vec::new(),
            shared: BTreeSet::new(),
            grace: None,
            dependencies,
            notifier,
            surroundings: None,
            round: 0,
            next_id: 0,
            look_due: None,
            looked_at: Instant::now(),
            ended: Vec::new(),
            waiting: Vec::new(),
            board,
        }
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn due(&self) -> Option<Instant> {
        let due = self.groups.iter().filter_map(Running::due).min()?;
        self.epoch.checked_add(due)
    }

    /// Has the hands do what has come of the machines, and makes known what has changed.
    fn attend(&mut self) {
        let needed = self.groups.iter_mut().map(Running::hands_are_needed);
        if needed.fold(false, |any, one| any | one) {
            let round = self.want();
            self.groups
                .iter_mut()
                .for_each(|running| running.hands_work(round));
        }
        if self.groups.iter().any(Running::is_news) {
            self.publish();
        }
    }

    /// Says what is wanted of the host. Returns the round in which it will have been done.
    fn want(&mut self) -> u64 {
        self.round += 1;
        self.looked_at = Instant::now();
        self.look_due = None;
        let running = self.groups.iter().flat_map(Running::parts);
        let beginning = self.beginning.iter().flat_map(|(_, instances)| instances);
        let beginning = beginning.map(|instance| (instance.id, instance.part(false)));
        self.hands.want(Wanted {
            round: self.round,
            instances: running.chain(beginning).collect(),
            tracked: self.interfaces(),
        });
        self.round
    }

    fn look(&mut self) {
        self.listen_again();
        self.want();
    }

    /// Has the host looked at soon.
    fn look_soon(&mut self) {
        self.look_due.get_or_insert(self.looked_at + NEWS_PAUSE);
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Follow {
                instances,
                shared,
                grace,
                left,
            } => {
                self.shared = shared;
                self.grace = grace;
                self.follow(instances);
                let round = self.want();
                self.waiting.push((round, left));
            }
            Order::HandOver(instance, answer) => {
                // Whoever asked may have gone.
                let _ = answer.send(self.hand_over(instance.as_deref()));
            }
            Order::Healthy(healthy) => {
                self.dependencies.healthy = healthy;
                self.examine();
            }
            Order::Know(knowledge) => {
                let now = self.now();
                for running in &mut self.groups {
                    running.take_in_knowledge(&knowledge, now);
                }
                self.dependencies.knowledge = knowledge;
            }
            Order::Script(script, verdict) => {
                if self.dependencies.take_in(script, verdict) {
                    self.examine();
                    self.publish();
                }
            }
            Order::Stop => {}
        }
    }

    fn on_news(&mut self, event: Option<Event>) {
        match event {
            Some(Event::Interface(interface) | Event::InterfaceGone(interface)) => {
                // A link that is lost is lost now.
                if self.interfaces().contains(&interface.name) {
                    self.look();
                } else if VirtualInterface::is_name(&interface.name) {
                    self.look_soon();
                }
            }
            // Addresses come and go with their routes.
            Some(Event::Routes | Event::Overrun) => self.look_soon(),
            Some(Event::Neighbour(_)) => {}
            None => {
                // Asked for again with the next look: not at once, if that should go on.
                self.events = None;
                self.look_soon();
            }
        }
    }

    /// Listens to the kernel's news again if they have ended.
    fn listen_again(&mut self) {
        if self.events.is_none() {
            match Watch::start() {
                Ok(watch) => self.events = Some(Box::new(watch.events())),
                Err(error) => tracing::error!("{}", chain(&error)),
            }
        }
    }

    fn interfaces(&self) -> BTreeSet<String> {
        let running = self.groups.iter().flat_map(Running::instances);
        let beginning = self.beginning.iter().flat_map(|(_, instances)| instances);
        running.chain(beginning).flat_map(interfaces).collect()
    }

    /// Takes in what is true of the host now.
    fn examine(&mut self) {
        let now = self.now();
        let Some(surroundings) = &self.surroundings else {
            return;
        };
        for running in &mut self.groups {
            running.examine(surroundings, &self.dependencies, &self.shared, &self.hands, now);
        }
    }

    fn on_arrival(&mut self, (place, number, arrival): (usize, usize, Result<Incoming, VrrpError>)) {
        match arrival {
            Ok(incoming) => self.on_packet(place, number, &incoming),
            // The interface is down, or gone: the kernel tells of that too.
            Err(error) => {
                tracing::debug!("{}", chain(&error));
                self.look_soon();
            }
        }
    }

    fn on_packet(&mut self, place: usize, number: usize, incoming: &Incoming) {
        let now = self.now();
        if let Some(running) = self.groups.get_mut(place) {
            running.on_packet(number, incoming, now);
        }
    }

    /// Time has passed. What has arrived meanwhile comes first: a thread that could not run for a while must not take its master for
    /// dead whose advertisements it has not read.
    fn pass(&mut self) {
        for place in 0..self.groups.len() {
            for number in 0..self.groups[place].instances().len() {
                for _ in 0..ARRIVALS {
                    let arrived = self.groups[place].instances()[number]
                        .channel()
                        .and_then(Channel::arrived);
                    let Some(incoming) = arrived else { break };
                    self.on_packet(place, number, &incoming);
                }
            }
        }
        let now = self.now();
        let mut recovers = false;
        for running in &mut self.groups {
            recovers |= running.pass(now);
        }
        if recovers {
            self.examine();
        }
    }

    /// Says goodbye, and wants nothing any more. Returns the round in which that has been done.
    fn leave(&mut self) -> u64 {
        let now = self.now();
        for running in &mut self.groups {
            running.stop(now);
        }
        self.publish();
        for running in std::mem::take(&mut self.groups) {
            self.end(running);
        }
        self.beginning.clear();
        self.want()
    }

    async fn stop(&mut self) -> anyhow::Result<()> {
        let released = self.release().await;
        // Also if the addresses would not go.
        self.hands_are_gone();
        released
    }

    /// Leaves, and waits until the addresses are off.
    async fn release(&mut self) -> anyhow::Result<()> {
        let round = self.leave();
        let deadline = Instant::now() + RELEASE_PATIENCE;
        let mut cause = "the kernel does not answer".to_owned();
        while let Ok(report) = timeout_at(deadline, self.reports.recv()).await {
            self.pulse.beat();
            match report.context("VRRP's second thread has ended")? {
                Report::Settled {
                    round: settled,
                    not_removed,
                    ..
                } if settled >= round => match not_removed.into_iter().next() {
                    None => return Ok(()),
                    Some((place, why)) => cause = format!("{}: {why}", place.address),
                },
                Report::Blind { cause: why, .. } => cause = why,
                Report::Settled { .. } | Report::Looked { .. } | Report::There(_) => {}
            }
        }
        anyhow::bail!("addresses of VRRP may have stayed on interfaces: {cause}");
    }

    fn publish(&mut self) {
        let mut snapshots: Vec<_> = self
            .groups
            .iter_mut()
            .flat_map(|running| running.snapshots(self.epoch))
            .collect();
        let place = |name: &str| self.order.iter().position(|it| it == name);
        snapshots.sort_by_key(|snapshot| place(&snapshot.status.name));
        self.board.set(snapshots);
    }
}

/// The instance with this id.
fn instance<'i>(
    groups: &'i mut [Running],
    beginning: &'i mut [(u64, Vec<Instance>)],
    id: Id,
) -> Option<&'i mut Instance> {
    let running = groups.iter_mut().flat_map(Running::instances_mut);
    let beginning = beginning.iter_mut().flat_map(|(_, instances)| instances);
    running.chain(beginning).find(|instance| instance.id == id)
}

/// The kernel's next news; none at all until they are listened to again.
async fn next_event(events: &mut Option<Box<dyn Stream<Item = Event> + Unpin>>) -> Option<Event> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

/// The next packet of any instance: the group's place, the instance's number in it, and the packet.
async fn next_arrival(groups: &[Running]) -> (usize, usize, Result<Incoming, VrrpError>) {
    let instances = groups.iter().enumerate().flat_map(|(place, running)| {
        let numbered = running.instances().iter().enumerate();
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

#[cfg(test)]
mod tests;
