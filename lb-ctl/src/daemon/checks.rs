//! Health checks: their reports come in.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
};

use anyhow::Context;
use lb_common::layout::TargetName;
use tokio::{
    sync::mpsc::Receiver,
    time::{Duration, Instant},
};

use super::{
    clock::ticks,
    controller::{Controller, until},
    operator::Operator,
};
use crate::{
    adapters::check::{Assignment, Report, Scheduler, Target, targets},
    core::{
        config::{Backend, Config, Service},
        discovery::Announcement,
        health::{Event, Health, Load, Start},
        plan::{Plan, Shares},
        serving::{Notice, Observation, Part, Serving},
        time,
    },
};

/// How many reports may wait. With more backends than that their checks wait a little, and none is lost.
const ROOM: usize = 256;

/// A backend of a service, for as long as it has this name and port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BackendKey {
    service: SocketAddr,
    name: String,
    port: u16,
}

impl BackendKey {
    fn of(service: &Service, backend: &Backend) -> Self {
        Self {
            service: SocketAddr::new(service.vip, service.port),
            name: backend.name.clone(),
            port: backend.port,
        }
    }
}

impl fmt::Display for BackendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, name, port } = self;
        write!(f, "{service} {name} {port}")
    }
}

/// How the backends of each service are checked, in the order of the configuration.
pub(super) type CheckTargets = Vec<Vec<Target>>;

/// How the backends of a configuration are checked. Reads certificates.
pub(super) fn check_targets(config: &Config) -> anyhow::Result<CheckTargets> {
    let of = |service: &Service| {
        targets(service).with_context(|| format!("service[{}].check.ca_file", service.name))
    };
    config.services.iter().map(of).collect()
}

/// What the tables of an earlier run say of the health of its backends.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    /// Those that get new connections, and with how many slots.
    pub(super) serving: BTreeMap<TargetName, u32>,
    /// Those that get none, but would: their tier does not serve.
    pub(super) spare: BTreeSet<TargetName>,
}

/// The checks, and what follows from them.
pub(super) struct Checks {
    /// The moment from which points in time count.
    epoch: Instant,
    scheduler: Scheduler<BackendKey>,
    reports: Receiver<Report<BackendKey>>,
    pub(super) services: Vec<Checked>,
    /// When each backend's process was last known to be the one that it is, in ticks.
    confirmed: BTreeMap<BackendKey, u32>,
    /// How busy each backend has said it is, and when the check began that has asked.
    loads: BTreeMap<BackendKey, (Instant, Load)>,
    /// The targets behind which another process serves now, with the ticks at which the old one still ran. Until a pass over
    /// the records has taken it in.
    pub(super) replaced: BTreeMap<u16, u32>,
}

/// A service, and what has been done for it.
#[derive(Clone, Debug)]
pub(super) struct Checked {
    pub(super) serving: Serving,
    pub(super) parts: Vec<Part>,
    pub(super) next: Option<Duration>,
    /// What operators are to be told once this is followed.
    notices: Vec<Notice>,
}

impl Checked {
    fn new(mut serving: Serving, now: Duration) -> Self {
        let decision = serving.decide(now);
        Self {
            serving,
            parts: decision.backends,
            next: decision.next,
            notices: decision.notices,
        }
    }
}

/// The services of a configuration that is not yet followed.
pub(super) struct Next(Vec<Checked>);

impl Next {
    pub(super) fn shares(&self) -> Shares {
        shares(&self.0)
    }

    /// With which weights the backends of each service take part once all that are new are up.
    pub(super) fn weights_once_up(&self, now: Duration) -> impl Iterator<Item = Vec<u32>> {
        self.0
            .iter()
            .map(move |service| service.serving.weights_once_up(now))
    }
}

fn shares(services: &[Checked]) -> Shares {
    let weights = |service: &Checked| service.parts.iter().map(|part| part.weight).collect();
    services.iter().map(weights).collect()
}

impl Checks {
    pub(super) fn new(seed: u64) -> Self {
        let (scheduler, reports) = Scheduler::new(seed, ROOM);
        Self {
            epoch: Instant::now(),
            scheduler,
            reports,
            services: Vec::new(),
            confirmed: BTreeMap::new(),
            loads: BTreeMap::new(),
            replaced: BTreeMap::new(),
        }
    }

    /// The time, as the services count it.
    pub(super) fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// The service at this place in the configuration.
    pub(super) fn service(&self, index: usize) -> Option<&Serving> {
        self.services.get(index).map(|service| &service.serving)
    }

    /// How busy a backend has said last that it is, to the checks of whatever service, and when the check began that has asked.
    pub(super) fn load(&self, backend: &str) -> Option<(Instant, Load)> {
        let loads = self.loads.iter().filter(|(key, _)| key.name == backend);
        loads.map(|(_, load)| *load).max_by_key(|(began, _)| *began)
    }

    /// Whether anybody gets new connections of the service at this place in the configuration.
    pub(super) fn serves(&self, index: usize) -> bool {
        let service = self.services.get(index);
        service.is_some_and(|service| service.parts.iter().any(|part| part.weight > 0))
    }

    /// What the services are like, in a sentence.
    pub(super) fn sentence(&self) -> String {
        let parts = || self.services.iter().flat_map(|service| &service.parts);
        let serving = parts().filter(|part| part.weight > 0).count();
        format!(
            "services: {}; backends that get new connections: {serving} of {}",
            self.services.len(),
            parts().count()
        )
    }

    /// Takes in whether somebody says of a backend that it is shutting down, and who. Returns what its health has become, if that is
    /// another.
    pub(super) fn announce_quiescing(
        &mut self,
        service: usize,
        backend: &str,
        said: Option<&Announcement>,
    ) -> Option<Health> {
        let now = self.now();
        let service = self.services.get_mut(service)?;
        service.serving.announce_quiescing(backend, said, now)
    }

    /// Waits for reports, and takes those that there are.
    pub(super) async fn next_reports(&mut self, reports: &mut Vec<Report<BackendKey>>) -> usize {
        self.reports.recv_many(reports, ROOM).await
    }

    /// When the time alone changes something.
    pub(super) fn due(&self) -> Option<Instant> {
        let next = self.services.iter().filter_map(|service| service.next).min()?;
        Some(self.epoch + next)
    }

    /// What becomes of the services with another configuration. Services that stay keep what is known of their backends.
    pub(super) fn follow(&self, running: &Config, new: &Config, operator: &Operator) -> Next {
        let now = self.now();
        let address = |service: &Service| (service.vip, service.port);
        let serving = |service: &Service| {
            let index = running
                .services
                .iter()
                .position(|it| address(it) == address(service));
            let mut serving = match index.and_then(|index| self.service(index)) {
                Some(before) => before.follow(service, now),
                None => Serving::new(service, |_| Start::Cold, now),
            };
            serving.instruct(|backend| operator.orders(&service.name, backend));
            serving
        };
        let services = new.services.iter();
        Next(
            services
                .map(|service| Checked::new(serving(service), now))
                .collect(),
        )
    }

    /// From now on these are the services, of this configuration.
    pub(super) fn adopt(&mut self, next: Next, config: &Config) {
        self.services = next.0;
        self.tell_notices(config);
    }

    fn tell_notices(&mut self, config: &Config) {
        for (service, checked) in config.services.iter().zip(&mut self.services) {
            tell(service, &std::mem::take(&mut checked.notices));
        }
    }

    /// How many client connections each target has, as far as its check has asked.
    pub(super) fn connections(&self, plan: &Plan) -> BTreeMap<u16, u64> {
        let services = plan.services.iter().zip(&self.services);
        let backends = services.flat_map(|(planned, it)| planned.targets.iter().zip(it.serving.backends()));
        let known = backends.filter_map(|(id, backend)| Some((*id, backend.connections()?)));
        known.collect()
    }
}

impl Controller {
    /// Decides for the first time who serves.
    pub(super) fn begin_serving(&mut self, earlier: &Earlier) -> Shares {
        let now = self.checks.now();
        let new = |service: &Service| {
            let key = service.key();
            let entry = self.placement.service(&key);
            let target = |name: &str, address, port| {
                entry.and_then(|entry| TargetName::new(entry.id, name, address, port))
            };
            let start = |backend: &Backend| match target(&backend.name, backend.address, backend.port) {
                _ if entry.is_none() => Start::Cold,
                Some(name) if earlier.serving.contains_key(&name) => Start::Warm(Health::Up),
                Some(name) if earlier.spare.contains(&name) => Start::Spare,
                _ => Start::Added,
            };
            let mut known = Serving::new(service, start, now);
            known.instruct(|backend| self.operator.orders(&service.name, backend));
            known.adopt_slots(|backend| {
                let name = target(backend.name(), backend.address(), backend.port());
                let slots = name.and_then(|name| earlier.serving.get(&name));
                slots.copied().unwrap_or_default()
            });
            Checked::new(known, now)
        };
        self.checks.services = self.config.services.iter().map(new).collect();
        self.checks.tell_notices(&self.config);
        shares(&self.checks.services)
    }

    /// Checks the backends of the configuration from now on, and no others, and tells the program who takes no new flows.
    pub(super) fn begin_checks(&mut self, targets: CheckTargets) -> anyhow::Result<()> {
        let services = self.config.services.iter().zip(&self.checks.services);
        let mut assignments = Vec::new();
        for ((service, checked), targets) in services.zip(targets) {
            let backends = service.backends.iter().zip(checked.serving.backends());
            for ((configured, backend), target) in backends.zip(targets) {
                let assignment = Assignment {
                    target,
                    pace: service.check.pace,
                    start: backend.start(),
                };
                assignments.push((BackendKey::of(service, configured), assignment));
            }
        }
        let keys: BTreeSet<BackendKey> = assignments.iter().map(|(key, _)| key.clone()).collect();
        self.checks.confirmed.retain(|key, _| keys.contains(key));
        self.checks.loads.retain(|key, _| keys.contains(key));
        self.checks.scheduler.assign(assignments);
        self.account
            .tally
            .follow(self.config.services.iter().flat_map(|service| {
                let backends = service.backends.iter();
                backends.map(|backend| (service.name.as_str(), backend.name.as_str()))
            }));
        let parts: Vec<Vec<Part>> = self.checks.services.iter().map(|it| it.parts.clone()).collect();
        for (index, parts) in parts.iter().enumerate() {
            self.write_shedding(index, parts)?;
        }
        Ok(())
    }

    /// Waits for the first checks of the backends of new services, though not for long.
    pub(super) async fn first_checks(&mut self) -> anyhow::Result<()> {
        let mut reports = Vec::new();
        while self.checks.services.iter().any(|it| it.serving.waits()) {
            let due = self.checks.due();
            tokio::select! {
                _ = self.checks.next_reports(&mut reports) => self.on_reports(&mut reports).await?,
                () = until(due) => self.on_checks_due().await?,
            }
        }
        Ok(())
    }

    /// Takes in what checks have found. Empties `reports`.
    pub(super) async fn on_reports(&mut self, reports: &mut Vec<Report<BackendKey>>) -> anyhow::Result<()> {
        let mut touched = BTreeSet::new();
        for report in reports.drain(..) {
            touched.extend(self.on_report(&report));
        }
        self.decide(touched).await
    }

    /// Takes in that time has passed.
    pub(super) async fn on_checks_due(&mut self) -> anyhow::Result<()> {
        let now = self.checks.now();
        let is_due = |service: &Checked| service.next.is_some_and(|next| next <= now);
        let due = (0..)
            .zip(&self.checks.services)
            .filter(|(_, service)| is_due(service));
        let due = due.map(|(index, _)| index).collect();
        self.decide(due).await
    }

    /// Returns which service the report is about; `None` if it is from before a reload.
    fn on_report(&mut self, report: &Report<BackendKey>) -> Option<usize> {
        let Report {
            key, result, events, ..
        } = report;
        let index = self
            .config
            .services
            .iter()
            .position(|service| SocketAddr::new(service.vip, service.port) == key.service)?;
        let service = self.config.services.get(index)?;
        let place = service.backends.iter().position(|backend| {
            (&backend.name, backend.port, backend.address) == (&key.name, key.port, report.address)
        })?;
        let checked = self.checks.services.get_mut(index)?;
        let serving = checked.serving.backends().get(place)?;
        let reason = result.as_ref().err().map(ToString::to_string);
        if let Some(reason) = &reason
            && serving
                .last_check()
                .is_none_or(|last| last.status.detail != *reason)
        {
            tracing::warn!(
                service = service.name,
                backend = key.name,
                reason,
                "the balancer cannot check the backend"
            );
        }
        let tally = &self.account.tally;
        tally.check(&service.name, &key.name, result.as_ref().ok());
        for event in events {
            tell_event(service, report, event);
        }
        let before = serving.health();
        let began = report.began.saturating_duration_since(self.checks.epoch);
        let observation = Observation {
            result: result.as_ref().map_err(|_| reason.as_deref().unwrap_or_default()),
            events,
            health: report.health,
            standing: report.standing,
            since_up: report.since_up,
            began,
        };
        checked
            .serving
            .observe(&key.name, observation, self.checks.epoch.elapsed());
        // As status shows it: also what pages say of it counts, and may have counted until now.
        let after = checked.serving.backends().get(place)?.health();
        if after != before {
            tally.health_change(&service.name, &key.name, after);
            // A change of its own has been told.
            if !events.iter().any(|event| matches!(event, Event::Changed { .. })) {
                tracing::info!(
                    service = service.name,
                    backend = key.name,
                    health = %after,
                    "what pages have said of its shutdown was about its old process"
                );
            }
        }

        let restarted = events
            .iter()
            .any(|event| matches!(event, Event::Restarted { .. }));
        if restarted
            && let Some(then) = self.checks.confirmed.get(key)
            && let Some(id) = self.plan.services.get(index).and_then(|it| it.targets.get(place))
        {
            self.checks.replaced.insert(*id, *then);
            self.next_sweep = Instant::now();
        }
        match result.as_ref().ok().and_then(|outcome| outcome.load) {
            Some(load) => self.checks.loads.insert(key.clone(), (report.began, load)),
            None => self.checks.loads.remove(key),
        };
        if result
            .as_ref()
            .is_ok_and(|outcome| outcome.process_start_time.is_some())
        {
            // Rounded down: what has been seen since may be the new process's.
            let ago = time::ticks(report.began.elapsed()).saturating_add(1);
            self.checks
                .confirmed
                .insert(key.clone(), ticks().wrapping_sub(ago));
        }
        Some(index)
    }
}

fn tell_event(service: &Service, report: &Report<BackendKey>, event: &Event) {
    let (service, backend, address) = (&service.name, &report.key.name, report.address);
    match event {
        Event::Changed {
            from,
            to: Health::Up,
            cause,
        } => tracing::info!(service, backend, %address, %from, to = "up", cause, "health changed"),
        Event::Changed { from, to, cause } => {
            tracing::warn!(service, backend, %address, %from, %to, cause, "health changed");
        }
        Event::OtherFailure { cause, .. } => {
            tracing::warn!(service, backend, %address, cause, "is down for another reason");
        }
        Event::Restarted { from, to } => tracing::warn!(
            service,
            backend,
            %address,
            from,
            to,
            "its process was replaced: what is recorded of connections to the old one is void"
        ),
    }
}

pub(super) fn tell(service: &Service, notices: &[Notice]) {
    let service = &service.name;
    for notice in notices {
        match notice {
            Notice::Tier { from, to, cause } => {
                tracing::warn!(service, from, to, cause, "another tier serves");
            }
            Notice::GuardActive(guard) => {
                tracing::error!(service, cause = %guard, "the guard against mass removal is active");
            }
            Notice::GuardInactive => {
                tracing::info!(service, "the guard against mass removal is inactive again");
            }
            Notice::Load {
                name,
                load,
                thousandths,
            } => {
                let percent = thousandths / 10;
                tracing::info!(
                    service,
                    backend = name,
                    load,
                    percent,
                    "the weight follows the load"
                );
            }
        }
    }
}
