//! The one owner of the daemon's state, fed by events.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{Stream, StreamExt};
use lb_common::layout::TargetName;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};

use super::{
    Detached, Host, Signal, Signals,
    account::{self, Account},
    checks::Checks,
    discovery::Discovering,
    drains, inspect,
    network::Network,
    operator::{Operator, end_of_writing},
    peer::Pair,
    report,
    supervisor::Supervisor,
    sweeping::{Sweeping, end_of},
    take_off, vips,
    vrrp::Instances,
};
use crate::{
    adapters::{
        api::server::{Refusal, ReloadQuery, Request},
        datapath::{Attachment, Datapath, Pins},
        netlink::{Event, Netlink, Watch},
    },
    core::{
        cause::chain,
        census::Census,
        config::{Config, Service},
        failures::Work,
        live_counts::Reconciliation,
        operator::stands_on_as,
        placement::Placement,
        plan::Plan,
    },
};

/// How often backends are asked to confirm their MAC address, and everything is compared anew. The kernel by itself asks a
/// neighbour that it talks to after half a minute or so, and one that it does not talk to never; we rely on it.
pub(super) const REFRESH: Duration = Duration::from_secs(5);

/// How long to wait before what the kernel says about the network is listened to again.
const WATCH_AGAIN: Duration = Duration::from_millis(100);

/// How long after a change of routes the ways to all backends are asked for: changes come in bursts, and not one by one do they
/// matter.
const ROUTES_SETTLE: Duration = Duration::from_millis(200);

/// Everything the daemon knows and holds.
pub(super) struct Controller {
    /// Where the configuration was read, and will be read again.
    pub(super) file: PathBuf,
    /// What is followed: the file, and the members of services with discovery.
    pub(super) config: Config,
    pub(super) plan: Plan,
    pub(super) placement: Placement,
    pub(super) datapath: Datapath,
    pub(super) network: Network,
    events: Box<dyn Stream<Item = Event> + Send + Unpin>,
    /// When the ways to all backends are to be asked for, if routes have changed.
    pub(super) routes_due: Option<Instant>,
    pub(super) pins: Pins,
    /// The program on our interfaces, once it is there.
    pub(super) attachments: Vec<Attachment>,
    /// Whether an earlier run has left tables.
    pub(super) found_tables: bool,
    /// All VIPs that this run has added.
    pub(super) added_vips: Vec<IpAddr>,
    /// What the last pass over the records has found.
    pub(super) census: Option<Census>,
    /// What earlier passes have found wrong about the counts of live connections.
    pub(super) reconciliation: Reconciliation,
    pub(super) sweeping: Option<Sweeping>,
    pub(super) next_sweep: Instant,
    /// No pass that begins earlier frees an id: packets may still name it.
    pub(super) ids_free_from: Instant,
    /// Targets that are no longer configured and whose connections are given up.
    pub(super) released: BTreeSet<u16>,
    /// The targets whose connections the latest pass over the records gives up, or has given up.
    pub(super) giving_up: BTreeSet<u16>,
    pub(super) checks: Checks,
    pub(super) account: Account,
    pub(super) supervisor: Supervisor,
    pub(super) discovering: Discovering,
    pub(super) operator: Operator,
    pub(super) vrrp: Instances,
    pub(super) pair: Pair,
}

/// A backend that is no longer configured, but on which connections live.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving<'a> {
    pub(super) id: u16,
    pub(super) service: &'a str,
    pub(super) backend: &'a str,
    /// The name under which its machine is a backend of the service still.
    pub(super) stands_on_as: Option<&'a str>,
}

impl<'a> Leaving<'a> {
    /// A target of a service that is none of its configuration.
    pub(super) fn of(service: &'a Service, id: u16, name: &'a TargetName) -> Option<Self> {
        Some(Self {
            id,
            service: &service.name,
            backend: name.name()?,
            stands_on_as: stands_on_as(service, name),
        })
    }

    /// The name under which operators decide about its connections.
    pub(super) fn subject(self) -> &'a str {
        self.stands_on_as.unwrap_or(self.backend)
    }
}

impl Controller {
    #[expect(
        clippy::too_many_arguments,
        reason = "it owns everything, and gets it from the start"
    )]
    pub(super) fn new(
        file: &Path,
        config: Config,
        host: Host,
        pins: Pins,
        datapath: Datapath,
        placement: Placement,
        netlink: Netlink,
        watch: Watch,
        account: Account,
    ) -> Self {
        // Another balancer checks the same backends at other times.
        let seed = lb_common::hash::name(config.datapath.hash_seed, &config.node.name);
        // Where services of an earlier run translate, answers are recognised without a break.
        let network = Network::new(
            netlink,
            host.interfaces,
            placement.translates(),
            config.virtual_macs().into_iter().collect(),
        );
        Self {
            checks: Checks::new(seed),
            discovering: Discovering::new(config.clone()),
            operator: Operator::of(&config),
            vrrp: Instances::default(),
            pair: Pair::default(),
            file: file.to_owned(),
            config,
            plan: Plan::default(),
            placement,
            datapath,
            network,
            events: Box::new(watch.events()),
            routes_due: None,
            pins,
            attachments: Vec::new(),
            found_tables: false,
            added_vips: Vec::new(),
            census: None,
            reconciliation: Reconciliation::default(),
            sweeping: None,
            next_sweep: Instant::now(),
            account,
            supervisor: Supervisor::of_environment(),
            ids_free_from: Instant::now(),
            released: BTreeSet::new(),
            giving_up: BTreeSet::new(),
        }
    }

    /// The backends that are no longer configured, but on which connections live.
    pub(super) fn leaving(&self) -> impl Iterator<Item = Leaving<'_>> {
        let services = self.config.services.iter().zip(&self.plan.services);
        services.flat_map(|(service, planned)| {
            let leaving = self.placement.leaving(planned.entry.id);
            leaving.filter_map(|(id, name)| Leaving::of(service, id, name))
        })
    }

    /// The next thing that the kernel says about the network.
    pub(super) async fn next_event(&mut self) -> Option<Event> {
        self.events.next().await
    }

    /// Works until a signal comes.
    pub(super) async fn run(
        &mut self,
        mut requests: mpsc::Receiver<Request>,
        signals: &mut Signals,
    ) -> anyhow::Result<()> {
        let mut refresh = interval(REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut reports, mut answers) = (Vec::new(), Vec::new());
        let mut tenures = self.vrrp.changes();
        // They may have changed since they were looked at.
        tenures.mark_changed();
        loop {
            self.tell_decisions();
            let (is_sweeping, checks_due) = (self.sweeping.is_some(), self.checks.due());
            let (deadline, arrived) = (self.operator.due(), self.pair.due());
            let (work, result) = tokio::select! {
                signal = signals.next() => match signal {
                    Signal::End => return Ok(()),
                    // The log says what came of it.
                    Signal::Reload => { drop(self.reload(&ReloadQuery::default()).await); continue }
                },
                Some(request) = requests.recv() => { self.on_request(request).await; continue }
                event = self.events.next() => match event {
                    Some(event) => (Work::Events, self.on_network(event).await),
                    None => (Work::Watch, self.watch_again().await),
                },
                _ = refresh.tick() => (Work::Refresh, self.refresh().await),
                _ = self.checks.next_reports(&mut reports) => (Work::Reports, self.on_reports(&mut reports).await),
                () = self.supervisor.beat_due() => { self.beat(); continue }
                error = self.vrrp.ended() => return Err(error),
                _ = self.discovering.next_answers(&mut answers) => { self.on_answers(&mut answers).await; continue }
                () = until(checks_due) => (Work::Health, self.on_checks_due().await),
                () = until(deadline) => (Work::Decisions, self.refresh_decisions().await),
                () = end_of_writing(&mut self.operator) => continue,
                event = self.pair.next_event() => (Work::Peer, self.on_peer(event).await),
                // The sender lives as long as we do.
                Ok(()) = tenures.changed() => (Work::Peer, self.tell_owned()),
                () = until(arrived) => (Work::Peer, self.tell_owned()),
                () = until(self.routes_due) => (Work::Routes, self.refresh_routes().await),
                () = sleep_until(self.next_sweep), if !is_sweeping => (Work::Pass, self.begin_sweep()),
                census = end_of(&mut self.sweeping) => (Work::Records, self.on_census(census)),
            };
            self.account.take_in(work, result);
        }
    }

    /// Gives a sign of life for all threads, if all are alive.
    fn beat(&mut self) {
        match self.vrrp.hangs() {
            None => self.supervisor.beat(),
            Some(what) => {
                tracing::error!("{what}");
                self.supervisor.skip_beat();
            }
        }
    }

    /// Ends, leaving the datapath to forward on.
    pub(super) fn leave(&self) {
        tracing::info!(
            interfaces = self.network.interfaces().names().collect::<Vec<_>>().join(","),
            "ended; the XDP program stays attached and forwards on (`lb-ctl detach` removes it)"
        );
    }

    /// Ends, taking everything off the host.
    pub(super) async fn detach(&self) -> anyhow::Result<()> {
        let Detached { interfaces, .. } = take_off(&self.pins, self.network.netlink()).await?;
        tracing::info!(interfaces = interfaces.join(","), "ended and detached");
        Ok(())
    }

    async fn on_request(&mut self, request: Request) {
        // Whoever asked may have gone; that is their business.
        match request {
            Request::Status(answer) => report::status(self, answer),
            Request::Metrics(answer) => account::metrics(self, answer),
            Request::Condition(answer) => {
                let condition = account::condition(self);
                let _ = answer.send(condition.map_err(|error| Refusal::Failed(chain(&error))));
            }
            Request::Reload(query, answer) => {
                let _ = answer.send(self.reload(&query).await);
            }
            Request::Plan(query, answer) => {
                let _ = answer.send(self.foretell(&query).await);
            }
            Request::Explain(query, answer) => {
                let _ = answer.send(inspect::explain(self, &query));
            }
            Request::Flows(query, answer) => inspect::flows(self, query, answer),
            Request::Operate(command, answer) => self.operate(&command, answer).await,
            Request::Drains(query, answer) => drains::drains(self, &query, answer),
            Request::HandOver(query, answer) => self.hand_over(query, answer),
        }
    }

    pub(super) async fn on_network(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Neighbour(neighbour) => self.network.on_neighbour(neighbour, &mut self.datapath).await,
            Event::Interface(interface) | Event::InterfaceGone(interface) => {
                let Some(name) = self.network.ours(&interface) else {
                    return Ok(());
                };
                self.network.refresh_interface(&name, &mut self.datapath).await?;
                // Setting an interface down removes routes of which the kernel says nothing.
                self.routes_due
                    .get_or_insert_with(|| Instant::now() + ROUTES_SETTLE);
                if self.attachments.is_empty() {
                    // The start has not got that far.
                    return Ok(());
                }
                if self.attach_again()? {
                    self.restore_vips().await?;
                }
                Ok(())
            }
            Event::Routes => {
                self.routes_due
                    .get_or_insert_with(|| Instant::now() + ROUTES_SETTLE);
                Ok(())
            }
            Event::Overrun => {
                tracing::warn!(
                    "the kernel had more to say about the network than could be read in time: all is compared anew"
                );
                self.refresh().await
            }
        }
    }

    /// Subscribes anew to what the kernel says, after it has said something that cannot be understood at all.
    async fn watch_again(&mut self) -> anyhow::Result<()> {
        tracing::warn!("the kernel's messages about the network have ended: asking for them again");
        // Not at once again, if that should go on.
        sleep(WATCH_AGAIN).await;
        self.events = Box::new(Watch::start()?.events());
        self.refresh().await
    }

    async fn refresh_routes(&mut self) -> anyhow::Result<()> {
        self.routes_due = None;
        self.network.refresh_routes(&mut self.datapath).await
    }

    /// Compares everything anew: interfaces, VIPs, routes, neighbours, decisions, VRRP's configuration. The trouble of one is no other's.
    async fn refresh(&mut self) -> anyhow::Result<()> {
        let interfaces = self.network.refresh_interfaces(&mut self.datapath).await;
        let attached = self.attach_again().map(drop);
        let restored = self.restore_vips().await;
        let routes = self.refresh_routes().await;
        let neighbours = self.network.refresh_neighbours(&mut self.datapath).await;
        self.network.tell_unresolved();
        self.supervisor.status(self.checks.sentence());
        let decisions = self.refresh_decisions().await;
        let vrrp = self.catch_up_vrrp().await;
        let owned = self.tell_owned();
        let all = [
            interfaces, attached, restored, routes, neighbours, decisions, vrrp, owned,
        ];
        all.into_iter().collect()
    }

    /// Adds VIPs that somebody has removed, or that went with the first interface.
    async fn restore_vips(&self) -> anyhow::Result<()> {
        let Some(first) = self.network.interfaces().first() else {
            return Ok(());
        };
        let (vips, mut added) = (self.vips(), Vec::new());
        let restored = vips::add_missing(self.network.netlink(), first.index, &vips, &mut added).await;
        for vip in added {
            tracing::warn!(%vip, interface = first.name, "the VIP was gone; added it again");
        }
        Ok(restored?)
    }
}

/// Returns at this time; never if there is none.
pub(super) async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
