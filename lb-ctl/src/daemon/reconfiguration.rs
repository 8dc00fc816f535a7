//! Following a configuration: the one of the file, at a start over what an earlier run has left, and at a reload.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::Context;
use tokio::time::{Instant, timeout};

use super::{
    Host, HostError,
    checks::{CheckTargets, Next, check_targets},
    clock::ticks,
    controller::Controller,
    discovery::{Members, SeedOrders, seed_orders},
    sweeping::SWEEP,
    vips,
};
use crate::{
    adapters::{
        api::server::{PlanQuery, Refusal, ReloadQuery},
        config_file::{self, ConfigFileError},
        memory,
        peer::Key,
    },
    core::{
        cause::chain,
        changes::Changes,
        config::{Config, Service, needs_restart, once_given_away, refuse_fixed},
        failures::Work,
        health::Health,
        metrics::ReloadResult,
        placement::Moved,
        plan::Plan,
    },
};

/// How long a start or a reload waits for backends to tell their MAC addresses. Whoever is slower is resolved later.
pub(super) const RESOLUTION_GRACE: std::time::Duration = std::time::Duration::from_secs(1);

/// Whether the way to new backends must be known before slots move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrivals {
    /// They may serve at once.
    Awaited,
    /// They serve after their first check at the earliest, for which the kernel finds the way.
    Later,
}

/// A configuration to follow, that of the file with the members of its services, and what both are.
pub(super) struct Wanted {
    pub(super) config: Config,
    pub(super) configured: Config,
    pub(super) members: Members,
    /// `None` if the seeds are what they were.
    pub(super) seeds: Option<SeedOrders>,
    pub(super) targets: CheckTargets,
}

/// A configuration, and everything that follows from it. Nothing is done yet.
struct Prepared {
    wanted: Wanted,
    next: Next,
    plan: Plan,
    changes: Changes,
}

impl Controller {
    /// Reads the configuration file again and follows it. Where something is wrong with it, nothing changes.
    pub(super) async fn reload(&mut self, query: &ReloadQuery) -> Result<Changes, Refusal> {
        self.supervisor.reloading();
        let result = self.try_reload(query).await;
        self.supervisor.ready();
        self.account.reload(match &result {
            Ok(_) => ReloadResult::Accepted,
            Err(Refusal::Configuration(_)) => ReloadResult::Refused,
            Err(Refusal::Failed(_) | Refusal::Usage(_) | Refusal::Declined(_)) => ReloadResult::Failed,
        });
        match &result {
            Ok(changes) => tracing::info!(
                services_added = changes.services_added.len(),
                services_removed = changes.services_removed.len(),
                services_changed = changes.services_changed.len(),
                backends_added = changes.backends_added.len(),
                backends_removed = changes.backends_removed.len(),
                backends_changed = changes.backends_changed.len(),
                slots_moved = changes.slots_moved,
                slots = changes.slots,
                "reloaded"
            ),
            Err(Refusal::Configuration(reason)) => {
                // A line of the log for each mistake.
                for mistake in reason.lines() {
                    tracing::error!(cause = mistake, "not reloaded, and nothing changed");
                }
            }
            Err(Refusal::Failed(reason) | Refusal::Usage(reason) | Refusal::Declined(reason)) => {
                tracing::error!(cause = reason, "the reload failed");
            }
        }
        result
    }

    async fn try_reload(&mut self, query: &ReloadQuery) -> Result<Changes, Refusal> {
        let config = config_file::read(&self.file).map_err(|error| match error {
            ConfigFileError::Invalid(errors) => Refusal::Configuration(errors.to_string()),
            unreadable @ ConfigFileError::Unreadable { .. } => Refusal::Configuration(chain(&unreadable)),
        })?;
        refuse_fixed(&self.config, &config).map_err(|errors| Refusal::Configuration(errors.to_string()))?;
        let (mut prepared, mut peer_key) = self.prepare_file(config.clone()).await?;
        if self.give_away(&prepared.wanted.config).await.map_err(failed)? {
            // What the peer has told meanwhile may have taken ids that were free.
            match self.prepare_file(config).await {
                Ok(again) => (prepared, peer_key) = again,
                Err(refusal) => {
                    self.take_back().await;
                    return Err(refusal);
                }
            }
        }
        let changes = self.follow_prepared(prepared, Arrivals::Awaited).await?;
        if query.now {
            self.release_leaving();
        }
        self.announce_quiescing().await.map_err(failed)?;
        self.follow_peer(peer_key).await.map_err(failed)?;
        // Instances that are gone leave their addresses before somebody else needs them.
        self.follow_vrrp().await.map_err(failed)?;
        self.adjust_vips().await.map_err(failed)?;
        Ok(changes)
    }

    /// Has VRRP leave the addresses that a configuration gives up together with services on them, while packets to these are forwarded
    /// still: whoever is master of them next goes on with their connections, which our kernel would reset as soon as we have the address, but
    /// not the service. Returns whether there are such.
    ///
    /// An instance that keeps others is master of these still. A peer that has all of them in its list misses it, since lists have to be alike,
    /// and takes over all of them: the one that is given away for good, the others as long as the lists differ.
    async fn give_away(&mut self, next: &Config) -> anyhow::Result<bool> {
        let has = |services: &[Service], it: &Service| {
            services
                .iter()
                .any(|other| (other.vip, other.port) == (it.vip, it.port))
        };
        let (present, tenures) = (&self.config, self.vrrp.tenures());
        let is_ours = |vip| tenures.get(&vip).is_some_and(|tenure| tenure.lasts);
        let goes = |it: &&Service| {
            !has(&next.services, it)
                && present.is_carried(it.vip)
                && !next.is_carried(it.vip)
                && is_ours(it.vip)
        };
        let given_away: BTreeSet<IpAddr> = present.services.iter().filter(goes).map(|it| it.vip).collect();
        if given_away.is_empty() {
            return Ok(false);
        }
        let mut staying = present.clone();
        staying.vrrp = once_given_away(&present.vrrp, &next.vrrp, &given_away);
        self.vrrp.follow(&staying).await?;
        self.see_handover_through().await;
        Ok(true)
    }

    /// Has VRRP follow what is followed again: the configuration for which something has been given away is refused after all.
    async fn take_back(&mut self) {
        // What fails is tried again when everything is compared anew.
        let caught_up = self.catch_up_vrrp().await;
        self.account.take_in(Work::Refresh, caught_up);
    }

    /// What a reload with a configuration would do. Changes nothing.
    pub(super) async fn foretell(&mut self, query: &PlanQuery) -> Result<Changes, Refusal> {
        let PlanQuery { file_name, text } = query;
        let config = config_file::parse(file_name, text)
            .map_err(|errors| Refusal::Configuration(errors.to_string()))?;
        let needs_restart = needs_restart(&self.config, &config);
        let fixed = refuse_fixed(&self.config, &config);
        let (prepared, _) = self
            .prepare_file(config)
            .await
            .map_err(|refusal| match (refusal, fixed) {
                // There may be room for it, but only after the restart.
                (Refusal::Configuration(reason), Err(fixed)) => {
                    Refusal::Configuration(format!("{fixed}\n{reason}"))
                }
                (refusal, _) => refusal,
            })?;
        Ok(Changes {
            needs_restart,
            ..prepared.changes
        })
    }

    /// Looks at everything that the configuration of a file needs, the peer's key included, and at what it changes. Both a reload and a
    /// plan begin so.
    async fn prepare_file(&mut self, configured: Config) -> Result<(Prepared, Option<Key>), Refusal> {
        let peer_key = match Host::examine(&configured, self.network.netlink()).await {
            Ok(host) => host.peer_key,
            Err(HostError::Mismatch(errors)) => return Err(Refusal::Configuration(errors.to_string())),
            Err(error) => return Err(failed(error.into())),
        };
        let unusable = |error: anyhow::Error| Refusal::Configuration(chain(error.as_ref()));
        let seeds = seed_orders(&configured).map_err(unusable)?;
        let serving = self
            .placement
            .serving(&self.datapath)
            .map_err(|error| failed(error.into()))?;
        let mut members = self.members_of(&configured, &serving);
        let config = self
            .join_members(&configured, &mut members)
            .await
            .map_err(failed)?;
        let targets = check_targets(&config).map_err(unusable)?;
        let wanted = Wanted {
            config,
            configured,
            members,
            seeds: Some(seeds),
            targets,
        };
        Ok((self.prepare(wanted).await?, peer_key))
    }

    async fn prepare(&mut self, wanted: Wanted) -> Result<Prepared, Refusal> {
        // It may free ids, and settle slots.
        self.finish_sweep().await.map_err(failed)?;
        let config = &wanted.config;
        let next = self.checks.follow(&self.config, config, &self.operator);
        let plan = self
            .placement
            .plan(config, &next.shares())
            .map_err(|error| config.refusal(error.key(), error.to_string()))
            .map_err(|errors| Refusal::Configuration(errors.to_string()))?;
        let changes = self.changes(config, &next, &plan).map_err(failed)?;
        Ok(Prepared {
            wanted,
            next,
            plan,
            changes,
        })
    }

    fn changes(&self, config: &Config, next: &Next, plan: &Plan) -> anyhow::Result<Changes> {
        let mut changes = Changes::between(&self.config, config);
        let connections = self.checks.connections(&self.plan);
        let (shares, once_up) = (next.shares(), next.weights_once_up(self.checks.now()));
        for (place, (planned, weights)) in plan.services.iter().zip(once_up).enumerate() {
            let foresee = |planned| self.placement.foresee(planned, ticks(), &self.datapath);
            let at_once = foresee(planned)?;
            let later = match config.services.get(place) {
                // Mostly nobody is new.
                Some(service) if weights != shares.of(place) => {
                    let mut later = planned.clone();
                    later.share_out(&service.backends, &weights);
                    foresee(&later)?
                }
                _ => at_once.clone(),
            };
            changes.foresee(place, &at_once, &later, |id| connections.get(&id).copied());
        }
        Ok(changes)
    }

    /// Follows another configuration, with what is known of its backends' health.
    pub(super) async fn follow_config(
        &mut self,
        wanted: Wanted,
        arrivals: Arrivals,
    ) -> Result<Changes, Refusal> {
        let prepared = self.prepare(wanted).await?;
        self.follow_prepared(prepared, arrivals).await
    }

    async fn follow_prepared(&mut self, prepared: Prepared, arrivals: Arrivals) -> Result<Changes, Refusal> {
        let Prepared {
            wanted,
            next,
            plan,
            mut changes,
        } = prepared;
        let Wanted {
            config,
            configured,
            members,
            seeds,
            targets,
        } = wanted;
        self.disown_all_but(&config);
        let Moved { moved, slots, .. } = self.follow(config, plan, arrivals).await.map_err(failed)?;
        (changes.slots_moved, changes.slots) = (moved, slots);
        // Slots have moved: whatever fails from here on, this is what is followed, or the next page would take it back.
        self.checks.adopt(next, &self.config);
        self.discovering.adopt(configured, members);
        if let Some(seeds) = seeds {
            self.discovering.begin(seeds);
        }
        let checked = self.begin_checks(targets);
        self.write_translation().and(checked).map_err(failed)?;
        Ok(changes)
    }

    /// Gives up the connections of all backends that are no longer configured, also of those that an earlier reload has removed.
    fn release_leaving(&mut self) {
        for service in &self.plan.services {
            let leaving = self.placement.leaving(service.entry.id);
            self.released.extend(leaving.map(|(id, _)| id));
        }
        if !self.released.is_empty() {
            tracing::warn!(
                backends = self.released.len(),
                "the connections of backends that are no longer configured are given up"
            );
            self.next_sweep = Instant::now();
        }
    }

    /// Makes the tables what a plan says, for a configuration with which the old one can be replaced. No pass over the
    /// records may be under way. What [translates](Self::write_translation) afterwards is to be said then.
    pub(super) async fn follow(
        &mut self,
        config: Config,
        plan: Plan,
        arrivals: Arrivals,
    ) -> anyhow::Result<Moved> {
        self.placement.introduce(&plan, &mut self.datapath)?;
        let unknown = self.take_in_targets(&plan)?;
        match arrivals {
            // Answers are worth waiting for: once slots have moved, a packet for an unresolved backend would be dropped.
            Arrivals::Awaited => timeout(RESOLUTION_GRACE, self.resolve(&unknown))
                .await
                .unwrap_or(Ok(()))?,
            Arrivals::Later if unknown.is_empty() => {}
            Arrivals::Later => self.network.refresh_routes(&mut self.datapath).await?,
        }
        // Answers to a service that is new must be recognised from its first connection on.
        let translates = self.placement.translates() || plan.translates();
        self.network.set_translates(translates, &mut self.datapath)?;
        let moved = self.placement.apply(&plan, ticks(), &mut self.datapath)?;
        // One that is configured again keeps what it has left.
        self.released
            .retain(|id| plan.targets.iter().all(|target| target.id != *id));
        self.config = config;
        self.plan = plan.placed();
        memory::give_back();
        // What a pass takes to be free has not been named by a packet for as long as that.
        self.ids_free_from = Instant::now() + SWEEP;
        // A pass for which a takeover waits is none that frees ids.
        if !self.placement.awaits_proof() {
            self.next_sweep = self.ids_free_from;
        }
        Ok(moved)
    }

    /// Has the program look for answers as long as a service translates.
    pub(super) fn write_translation(&mut self) -> anyhow::Result<()> {
        let translates = self.placement.translates();
        self.network.set_translates(translates, &mut self.datapath)
    }

    /// Follows the backends of a plan too. Returns the addresses that are new and not resolved.
    pub(super) fn take_in_targets(&mut self, plan: &Plan) -> anyhow::Result<BTreeSet<IpAddr>> {
        let mut unknown = BTreeSet::new();
        for target in &plan.targets {
            if self.network.insert(target, &mut self.datapath)? {
                unknown.insert(target.address);
            }
        }
        Ok(unknown)
    }

    /// Asks for the ways to backends and returns when these are known.
    pub(super) async fn resolve(&mut self, addresses: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
        if addresses.is_empty() {
            return Ok(());
        }
        self.network.refresh_routes(&mut self.datapath).await?;
        while self
            .network
            .next_hops()
            .unresolved()
            .any(|address| addresses.contains(&address))
        {
            let event = self
                .next_event()
                .await
                .context("the kernel closed the netlink socket")?;
            self.on_network(event).await?;
        }
        Ok(())
    }

    /// Puts the VIPs on the first interface, and takes those away that we had put there and are no longer configured.
    pub(super) async fn adjust_vips(&mut self) -> anyhow::Result<()> {
        let Some(first) = self.network.interfaces().first() else {
            // They come with the interface.
            return Ok(());
        };
        let netlink = self.network.netlink();
        let vips = self.vips();
        let added = self.added_vips.len();
        vips::add_missing(netlink, first.index, &vips, &mut self.added_vips).await?;
        for vip in &self.added_vips[added..] {
            tracing::info!(%vip, interface = first.name, "added the VIP");
        }
        let interfaces: Vec<u32> = self.network.interfaces().existing().map(|it| it.index).collect();
        // What VRRP carries is on its interface while it is master; before it begins, it is an earlier run's.
        let is_carried = |vip| self.vrrp.is_running() && self.config.is_carried(vip);
        let unwanted = |vip| !vips.contains(&vip) && !is_carried(vip);
        for vip in vips::remove(netlink, &interfaces, unwanted).await? {
            tracing::info!(%vip, "removed a VIP that is no longer configured here");
        }
        Ok(())
    }

    /// The VIPs that are on this host whoever else is there.
    pub(super) fn vips(&self) -> BTreeSet<IpAddr> {
        self.config.vips_of_ours_alone()
    }

    /// Begins with VRRP, once packets to the addresses are forwarded.
    pub(super) async fn begin_vrrp(&mut self) -> anyhow::Result<()> {
        // What fails is tried again when everything is compared anew.
        let followed = self.follow_vrrp().await;
        self.account.take_in(Work::Refresh, followed);
        self.tell_healthy()
    }

    /// Has VRRP follow what is followed, if a reload has failed before it came to that.
    pub(super) async fn catch_up_vrrp(&mut self) -> anyhow::Result<()> {
        if !self.vrrp.lag_behind(&self.config) {
            return Ok(());
        }
        tracing::warn!("VRRP does not follow the configuration yet: trying again");
        self.follow_vrrp().await?;
        self.adjust_vips().await
    }

    async fn follow_vrrp(&mut self) -> anyhow::Result<()> {
        // An instance may be master at once, and one that goes is reached until it has gone.
        let macs = self.config.virtual_macs();
        let going = self
            .network
            .virtual_macs()
            .iter()
            .filter(|mac| !macs.contains(*mac));
        let both = macs.iter().chain(going).copied().collect();
        self.network.set_virtual_macs(both, &mut self.datapath)?;
        self.vrrp.follow(&self.config).await?;
        let macs = macs.into_iter().collect();
        self.network.set_virtual_macs(macs, &mut self.datapath)
    }

    /// Tells VRRP how many backends are healthy.
    pub(super) fn tell_healthy(&mut self) -> anyhow::Result<()> {
        if !self.vrrp.is_running() {
            return Ok(());
        }
        let is_sick = |health| matches!(health, Health::Down | Health::Quiescing);
        let healthy = self
            .config
            .services
            .iter()
            .enumerate()
            .filter_map(|(index, service)| {
                let backends = self.checks.service(index)?.backends();
                let healthy = backends
                    .iter()
                    .filter(|backend| !is_sick(backend.health()))
                    .count();
                Some((service.name.clone(), (healthy, backends.len())))
            });
        self.vrrp.set_healthy(healthy.collect())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as errors are mapped")]
fn failed(error: anyhow::Error) -> Refusal {
    Refusal::Failed(chain(error.as_ref()))
}
