//! Discovery: what seeds answer comes in, and the services' backends follow.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Context;
use lb_common::layout::TargetName;
use tokio::{
    sync::mpsc::Receiver,
    time::{Instant, timeout_at},
};

use super::{
    checks::check_targets,
    controller::Controller,
    host::misplacement,
    reconfiguration::{Arrivals, Wanted},
};
use crate::{
    adapters::discovery::{Answer, Order, Reader, orders},
    core::{
        config::{Config, Service},
        discovery::{Joined, MOST_COORDINATORS, Membership, Notice, Refused, join},
        failures::Work,
        placement::NoRoom,
        plan::Shares,
    },
};

/// How many answers may wait.
const ROOM: usize = 64;

/// How long a start without tables of an earlier run waits for the first pages.
const FIRST_PAGES: Duration = Duration::from_secs(2);

/// By service: its VIP and port.
type Key = SocketAddr;

fn key(service: &Service) -> Key {
    SocketAddr::new(service.vip, service.port)
}

/// How the pages of all seeds are read.
pub(super) type SeedOrders = Vec<(Key, Order)>;

/// How the pages of the seeds of a configuration are read. Reads certificates.
pub(super) fn seed_orders(config: &Config) -> anyhow::Result<SeedOrders> {
    let mut all = Vec::new();
    for service in &config.services {
        let of_service =
            orders(service).with_context(|| format!("service[{}].discovery.ca_file", service.name))?;
        all.extend(of_service.into_iter().map(|order| (key(service), order)));
    }
    Ok(all)
}

/// The members of all services, and where they are read.
pub(super) struct Discovering {
    /// The configuration as it is in the file, without members.
    pub(super) configured: Config,
    reader: Reader<Key>,
    answers: Receiver<Answer<Key>>,
    members: Members,
}

/// The members of the services of a configuration.
#[derive(Clone, Default)]
pub(super) struct Members {
    /// In the order of the services; `None` without discovery.
    services: Vec<Option<Membership>>,
    /// Members that are backends already, or were those of an earlier run. Whether this host can use them is not asked again.
    known: BTreeSet<(Key, IpAddr)>,
    /// Members that cannot be backends.
    refused: Vec<Refused>,
}

impl Members {
    /// The memberships of a configuration's services; `before` are those of the one that was followed.
    fn with(config: &Config, mut before: BTreeMap<Key, Membership>) -> Vec<Option<Membership>> {
        let membership = |service: &Service| {
            let seeds = service.discovery.as_ref()?.seeds.iter().map(ToString::to_string);
            Some(match before.remove(&key(service)) {
                Some(before) => before.follow(seeds),
                None => Membership::new(seeds),
            })
        };
        config.services.iter().map(membership).collect()
    }
}

impl Discovering {
    pub(super) fn new(configured: Config) -> Self {
        let (reader, answers) = Reader::new(ROOM);
        Self {
            members: Members {
                services: Members::with(&configured, BTreeMap::new()),
                ..Members::default()
            },
            configured,
            reader,
            answers,
        }
    }

    /// Waits for answers, and takes those that there are.
    pub(super) async fn next_answers(&mut self, answers: &mut Vec<Answer<Key>>) -> usize {
        self.answers.recv_many(answers, ROOM).await
    }

    /// Reads these pages from now on, and no others.
    pub(super) fn begin(&mut self, orders: SeedOrders) {
        self.reader.assign(orders);
    }

    /// The members of the service at this place in the configuration, if it has discovery.
    pub(super) fn membership(&self, index: usize) -> Option<&Membership> {
        self.members.services.get(index)?.as_ref()
    }

    /// How many backends the file has for the service at this place. Members follow them.
    pub(super) fn configured_backends(&self, index: usize) -> usize {
        let service = self.configured.services.get(index);
        service.map_or(0, |service| service.backends.len())
    }

    /// Members of a service that cannot be backends.
    pub(super) fn refused(&self, service: &str) -> impl Iterator<Item = &Refused> {
        self.members
            .refused
            .iter()
            .filter(move |refused| refused.service == service)
    }

    /// From now on this is the configuration in the file, and these are the members.
    pub(super) fn adopt(&mut self, configured: Config, members: Members) {
        for refused in &members.refused {
            if !self.members.refused.contains(refused) {
                let Refused {
                    service,
                    name,
                    address,
                    reason,
                } = refused;
                tracing::error!(service, backend = name, %address, reason, "a discovered coordinator cannot be used");
            }
        }
        self.configured = configured;
        self.members = members;
    }

    /// Returns which backends have got another name: before and now.
    #[must_use]
    fn observe(&mut self, answer: Answer<Key>, now: Duration) -> Vec<(String, String)> {
        let Answer { service, seed, page } = answer;
        let services = self.configured.services.iter().zip(&mut self.members.services);
        for (configured, membership) in services {
            if key(configured) == service
                && let Some(membership) = membership
            {
                let notices = membership.observe(&seed, page, now);
                tell(configured, &notices);
                let renamed = |notice: Notice| match notice {
                    // One of the file has the name that it has there.
                    Notice::Renamed { from, to, address } if !is_in_file(configured, address) => {
                        Some((from, to))
                    }
                    _ => None,
                };
                return notices.into_iter().filter_map(renamed).collect();
            }
        }
        Vec::new()
    }

    /// Whether a member of any service has this name.
    fn calls_anybody(&self, name: &str) -> bool {
        let memberships = self.members.services.iter().flatten();
        memberships
            .flat_map(Membership::members)
            .any(|(it, _)| it == name)
    }

    /// Whether all seeds of all services have been asked once.
    fn is_complete(&self) -> bool {
        self.members
            .services
            .iter()
            .flatten()
            .all(Membership::is_complete)
    }
}

impl Controller {
    /// The members with another configuration: those of services that stay. A service whose backends are discovered from now on
    /// keeps those that it had, until the pages say otherwise.
    pub(super) fn members_of(&self, configured: &Config, serving: &BTreeMap<TargetName, u32>) -> Members {
        let running = self.discovering.configured.services.iter().map(key);
        let before = running
            .zip(&self.discovering.members.services)
            .filter_map(|(key, membership)| Some((key, membership.clone()?)))
            .collect();
        let mut members = Members {
            services: Members::with(configured, before),
            ..self.discovering.members.clone()
        };
        for (service, membership) in configured.services.iter().zip(&mut members.services) {
            let (Some(discovery), Some(membership)) = (&service.discovery, membership) else {
                continue;
            };
            if membership.members().next().is_some() {
                continue;
            }
            let id = service.key();
            let Some(entry) = self.placement.service(&id) else {
                continue;
            };
            let is_kept_away = |backend: &str| {
                let orders = self.operator.orders(&service.name, backend);
                orders.keep_new_flows_away()
            };
            for target in self.placement.known_backends(entry.id, serving, is_kept_away) {
                if target.port() == discovery.port
                    && let Some(name) = target.name()
                {
                    membership.remember(name, target.address());
                    members.known.insert((key(service), target.address()));
                }
            }
        }
        members
    }

    /// The configuration to follow: that of the file, and the members.
    pub(super) async fn join_members(
        &self,
        configured: &Config,
        members: &mut Members,
    ) -> anyhow::Result<Config> {
        let mut misfits = BTreeMap::new();
        for (service, membership) in configured.services.iter().zip(&members.services) {
            for (name, address) in membership.iter().flat_map(Membership::members) {
                let place = (key(service), address);
                if is_in_file(service, address) || members.known.contains(&place) {
                    continue;
                }
                let Some(backend) = service.discovered_backend(name, address) else {
                    continue;
                };
                let (interfaces, netlink) = (self.network.interfaces(), self.network.netlink());
                if let Some(problem) = misplacement(service, &backend, interfaces, netlink).await? {
                    misfits.insert(place, problem);
                }
            }
        }
        let join_at_most = |room| {
            join(configured, &members.services, room, |service, backend| {
                misfits.get(&(key(service), backend.address)).cloned()
            })
        };
        let Joined { config, refused } = self.with_room(configured, join_at_most);
        let accepted = config
            .services
            .iter()
            .flat_map(|service| service.backends.iter().map(|it| (key(service), it.address)));
        members.known = accepted.collect();
        members.refused = refused;
        Ok(config)
    }

    /// As many members as there is room for in the tables, where backends whose connections have not ended yet take some too.
    fn with_room(&self, configured: &Config, join_at_most: impl Fn(usize) -> Joined) -> Joined {
        let has_room = |joined: &Joined| {
            let plan = self.placement.plan(&joined.config, &Shares::none());
            !matches!(plan, Err(NoRoom::Backends { .. }))
        };
        let all = join_at_most(usize::MAX);
        if all.config == self.config || has_room(&all) {
            return all;
        }
        let backends = |config: &Config| config.services.iter().map(|it| it.backends.len()).sum::<usize>();
        let added = backends(&all.config).saturating_sub(backends(configured));
        let (mut fitting, mut too_many) = (0, added);
        while fitting + 1 < too_many {
            let middle = usize::midpoint(fitting, too_many);
            if has_room(&join_at_most(middle)) {
                fitting = middle;
            } else {
                too_many = middle;
            }
        }
        join_at_most(fitting)
    }

    /// Waits for the first pages, though not for long, and takes in who is on them. Before anybody serves.
    pub(super) async fn first_pages(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + FIRST_PAGES;
        let mut answers = Vec::new();
        while !self.discovering.is_complete() {
            let next = self.discovering.next_answers(&mut answers);
            if timeout_at(deadline, next).await.is_err() {
                tracing::warn!("not all seeds have answered yet: starting with whom the others list");
                break;
            }
            self.observe(&mut answers);
        }
        self.take_in_members(self.discovering.members.clone()).await
    }

    /// Goes on with the members of an earlier run.
    pub(super) async fn remember_members(
        &mut self,
        serving: &BTreeMap<TargetName, u32>,
    ) -> anyhow::Result<()> {
        let configured = self.discovering.configured.clone();
        self.take_in_members(self.members_of(&configured, serving)).await
    }

    async fn take_in_members(&mut self, mut members: Members) -> anyhow::Result<()> {
        let configured = self.discovering.configured.clone();
        self.config = self.join_members(&configured, &mut members).await?;
        self.discovering.adopt(configured, members);
        Ok(())
    }

    /// Takes in what seeds have answered. Empties `answers`. What fails is tried again with the next one.
    pub(super) async fn on_answers(&mut self, answers: &mut Vec<Answer<Key>>) {
        self.observe(answers);
        match self.joined_members().await {
            Ok((config, members)) => {
                self.account.take_in(Work::Pages, Ok(()));
                let followed = self.follow_members(config, members).await;
                self.account.take_in(Work::Members, followed);
            }
            Err(error) => self.account.take_in(Work::Pages, Err(error)),
        }
        self.drop_former_names();
        let announced = self.announce_quiescing().await;
        self.account.take_in(Work::Quiescing, announced);
    }

    /// Once nobody has them any more.
    fn drop_former_names(&mut self) {
        let Self {
            config, discovering, ..
        } = self;
        let is_followed = |name: &str| {
            let mut services = config.services.iter();
            services.any(|it| it.backends.iter().any(|it| it.name == name))
        };
        self.operator
            .drop_former_names(|name| is_followed(name) || discovering.calls_anybody(name));
    }

    fn observe(&mut self, answers: &mut Vec<Answer<Key>>) {
        for answer in answers.drain(..) {
            for (from, to) in self.discovering.observe(answer, self.checks.now()) {
                self.operator.rename(&from, &to);
            }
        }
    }

    /// The configuration with the members as they are now, and these.
    async fn joined_members(&self) -> anyhow::Result<(Config, Members)> {
        let mut members = self.discovering.members.clone();
        let config = self
            .join_members(&self.discovering.configured, &mut members)
            .await?;
        Ok((config, members))
    }

    /// Makes the members backends, and those backends no longer that are members no longer.
    async fn follow_members(&mut self, config: Config, members: Members) -> anyhow::Result<()> {
        let configured = self.discovering.configured.clone();
        if config == self.config {
            self.discovering.adopt(configured, members);
        } else {
            let wanted = Wanted {
                targets: check_targets(&config)?,
                config,
                configured,
                members,
                seeds: None,
            };
            let changes = self
                .follow_config(wanted, Arrivals::Later)
                .await
                .map_err(|refusal| anyhow::anyhow!("members could not be followed: {refusal}"))?;
            tracing::info!(
                added = changes.backends_added.join(","),
                removed = changes.backends_removed.join(","),
                slots_moved = changes.slots_moved,
                slots = changes.slots,
                "follows the pages of the seeds"
            );
        }
        Ok(())
    }

    /// Passes on who shuts down as the pages say. The coordinators' own word, to their checks, comes sooner where these can hear it.
    pub(super) async fn announce_quiescing(&mut self) -> anyhow::Result<()> {
        let mut touched = BTreeSet::new();
        for (index, service) in self.config.services.iter().enumerate() {
            let membership = self.discovering.membership(index);
            for backend in &service.backends {
                let said = membership.and_then(|membership| membership.quiescing(backend.address));
                if let Some(health) = self.checks.announce_quiescing(index, &backend.name, said) {
                    let tally = &self.account.tally;
                    tally.health_change(&service.name, &backend.name, health);
                    touched.insert(index);
                }
            }
        }
        self.decide(touched).await
    }
}

fn is_in_file(service: &Service, address: IpAddr) -> bool {
    service.backends.iter().any(|it| it.address == address)
}

fn tell(service: &Service, notices: &[Notice]) {
    let in_file = |address: &IpAddr| is_in_file(service, *address);
    let service = &service.name;
    for notice in notices {
        match notice {
            Notice::Added { name, address, cause } if in_file(address) => {
                tracing::info!(service, coordinator = name, %address, cause, "a backend of the file is on the pages");
            }
            Notice::Removed { name, address, cause } if in_file(address) => tracing::warn!(
                service,
                coordinator = name,
                %address,
                cause,
                "a backend of the file is no longer on the pages; it stays one"
            ),
            Notice::Answers { seed, coordinators } => {
                tracing::info!(service, seed, coordinators, "the seed answers");
            }
            Notice::Fails { seed, cause } => {
                tracing::warn!(
                    service,
                    seed,
                    cause,
                    "the seed cannot be read: that changes nothing"
                );
            }
            Notice::Added { name, address, cause } => {
                tracing::info!(service, backend = name, %address, cause, "discovered");
            }
            Notice::Removed { name, address, cause } => tracing::warn!(
                service,
                backend = name,
                %address,
                cause,
                "no longer discovered: it gets no new connections"
            ),
            Notice::Renamed { from, to, address } => {
                tracing::info!(service, from, to, %address, "the pages have another name for this backend");
            }
            Notice::WithoutAddress { name } => tracing::warn!(
                service,
                backend = name,
                "a coordinator is listed, but no address of it that the service can use: expected one of the VIP's family on the \
                 page or behind its name"
            ),
            Notice::Quiescing { address, cause } => {
                tracing::warn!(service, %address, cause, "a coordinator is quiescing: it gets no new connections");
            }
            Notice::NotQuiescing { address } => {
                tracing::info!(service, %address, "a coordinator is no longer quiescing");
            }
            Notice::Short { listed, members } => tracing::error!(
                service,
                listed,
                members,
                "the pages list fewer than half of the coordinators: the statestore may have been restarted, so nobody is removed yet"
            ),
            Notice::Full => tracing::error!(
                service,
                most = MOST_COORDINATORS,
                "the seeds list more coordinators than any cluster has: not all of them are used; are they of one cluster?"
            ),
            Notice::NotShort => tracing::info!(service, "the pages list enough coordinators again"),
        }
    }
}
