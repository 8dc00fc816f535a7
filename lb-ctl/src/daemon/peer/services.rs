//! Which services are ours: taken over from the peer, left to it, told to it.

use std::{collections::BTreeSet, time::Duration};

use lb_common::layout::{Service, ServiceKey, flag};
use tokio::time::{Instant, timeout};

use super::{Pair, Running};
use crate::{
    adapters::peer::Subjects,
    core::{
        config::{self, Config},
        failures::Work,
        ownership::{LONGEST_ARRIVAL, Master, STEP, Taken, Turn},
        sync::Item,
    },
    daemon::{clock::ticks, controller::Controller},
};

/// How long a daemon that ends waits for the peer to take over, at most: its services arrive there first.
const HANDOVER: Duration = LONGEST_ARRIVAL.saturating_add(Duration::from_secs(1));

impl Controller {
    /// Follows, to begin with, all services whose VIPs VRRP carries: until it has found out who the owner is, nothing that the peer has told an
    /// earlier run may be taken to be as old as it looks.
    pub(in crate::daemon) fn follow_what_is_shared(&mut self) {
        if self.config.peer.is_none() {
            return;
        }
        for service in self
            .config
            .services
            .iter()
            .filter(|it| self.config.is_carried(it.vip))
        {
            let key = service.key();
            if let Some(id) = self.placement.service(&key).map(|entry| entry.id) {
                self.placement.follow(id);
            }
        }
    }

    /// Follows the services that the peer says are its own, as far as they are not ours.
    pub(super) fn begin_following(&mut self, items: &[Item]) {
        let mut has_come = false;
        for item in items {
            let Item::Service { vip, port, .. } = *item else {
                continue;
            };
            let key = ServiceKey::tcp(vip.into(), port);
            if let Some(entry) = self.placement.service(&key).copied()
                && let Some(was_told) = self.pair.ownership.introduced(&key)
            {
                if !self.placement.is_followed(entry.id) || was_told {
                    tracing::info!(%vip, port, "the peer owns this service: we follow it");
                }
                self.placement.follow(entry.id);
                has_come |= was_told;
            }
        }
        if has_come {
            self.tell_services();
        }
    }

    /// All our services, as they are in the tables.
    fn entries(&self) -> impl Iterator<Item = (ServiceKey, Service)> {
        let services = self.plan.services.iter();
        services.map(|planned| (planned.key, planned.entry))
    }

    /// Has the peer told about the services that it is to be told about.
    pub(super) fn tell_services(&self) {
        if let Some(Running { link, .. }) = &self.pair.running {
            let ownership = &self.pair.ownership;
            let (everything, others): (Vec<_>, Vec<_>) =
                self.entries().partition(|(key, _)| ownership.tells(key));
            let what_begins = others.into_iter().filter(|(key, _)| ownership.leaves(key));
            link.tell(Subjects {
                everything,
                what_begins: what_begins.collect(),
                moving: ownership.moving(),
            });
        }
    }

    /// Tells the peer no more about services that a configuration does not have: how they end here is none of its business. If it owns them
    /// from now on it has said so, or has not in the time that it was [given](Self::see_handover_through).
    pub(in crate::daemon) fn disown_all_but(&mut self, config: &Config) {
        let stays: BTreeSet<ServiceKey> = config.services.iter().map(config::Service::key).collect();
        self.pair.ownership.disown_all_but(&stays);
        self.tell_services();
    }

    /// Takes in of which VIPs we are master: what we own from now on or in a moment, and what not any more.
    pub(in crate::daemon) fn tell_owned(&mut self) -> anyhow::Result<()> {
        let tenures = self.vrrp.tenures();
        let services = self.config.services.iter().zip(&self.plan.services);
        let masters = services.map(|(service, planned)| {
            let tenure = tenures.get(&service.vip).filter(|tenure| tenure.lasts);
            let master = match tenure {
                _ if !self.config.is_carried(service.vip) => Master::Uncontested,
                Some(tenure) => Master::Us {
                    term: tenure.term,
                    is_announced: tenure.is_announced,
                },
                None => Master::Other,
            };
            (planned.key, master)
        });
        let Pair {
            ownership,
            inbox,
            epoch,
            ..
        } = &mut self.pair;
        let is_told = |key: &ServiceKey| inbox.is_complete(key) || inbox.is_incomplete(key);
        let Turn {
            arriving,
            taken,
            lost,
            asked,
        } = ownership.look(masters, is_told, epoch.elapsed());
        self.pair.seen = tenures;
        for Taken { key, was_lost, .. } in &taken {
            if *was_lost {
                self.lose_unseen(*key);
            }
        }
        let come = taken.iter().filter(|taken| !taken.has_arrived);
        let come = come.map(|taken| taken.key).chain(arriving);
        let mut result = self.meet_packets(&come.collect());
        for Taken { key, .. } in taken {
            let took_over = self.take_over_service(key);
            if took_over.is_err() {
                self.pair.ownership.not_taken(&key, self.pair.epoch.elapsed());
            }
            result = result.and(took_over);
        }
        self.pair.inbox.arrive(self.pair.ownership.arriving());
        self.yield_services(&lost, asked);
        result.and(self.tell_knowledge())
    }

    /// Follows what is not ours any more, and tells the peer what is.
    fn yield_services(&mut self, lost: &[ServiceKey], asked: Vec<ServiceKey>) {
        let Some(Running { link, .. }) = &self.pair.running else {
            return;
        };
        for key in lost {
            if let Some(entry) = self.placement.service(key) {
                self.placement.follow(entry.id);
            }
        }
        for key in asked {
            self.pair.inbox.forget(&key);
            link.ask(key);
        }
        self.tell_services();
    }

    /// A service is ours that was ours when we looked last, but somebody else has been master of its VIP in between, while we were
    /// busy. So slots and records were used where we did not see it, as before any other takeover: none of them is as old as it looks.
    ///
    /// What the peer would have told of its time as the owner, we have passed over, or pass over now. It notices by itself that it is not the
    /// owner any more, and asks for everything.
    fn lose_unseen(&mut self, key: ServiceKey) {
        if self.pair.running.is_some()
            && let Some(entry) = self.placement.service(&key)
        {
            tracing::info!(
                service = self.name_of(&key),
                "did not own the service for a moment"
            );
            self.placement.follow(entry.id);
        }
    }

    /// What a service is called.
    fn name_of(&self, key: &ServiceKey) -> &str {
        let mut services = self.config.services.iter();
        services
            .find(|service| service.key() == *key)
            .map_or("", |service| &service.name)
    }

    /// We own a service from now on.
    fn take_over_service(&mut self, key: ServiceKey) -> anyhow::Result<()> {
        let entry = self.placement.service(&key).copied();
        let Some(entry) = entry.filter(|entry| self.placement.is_followed(entry.id)) else {
            return Ok(());
        };
        self.placement.take_over(entry.id, ticks(), &mut self.datapath)?;
        tracing::info!(service = self.name_of(&key), "owns the service from now on");
        // Only after a pass over the records do slots move.
        self.next_sweep = Instant::now();
        Ok(())
    }

    /// Packets of these services' connections come to us from now on: what is over by what has been told is deleted, and all clients of whom
    /// something is noted have been there now.
    fn meet_packets(&mut self, services: &BTreeSet<ServiceKey>) -> anyhow::Result<()> {
        let mut result = Ok(());
        for key in services {
            result = result.and(self.mirror(|inbox, mirror| inbox.finish(Some(key), mirror)));
        }
        let entries = services.iter().filter_map(|key| self.placement.service(key));
        // Without an owner that is told of it, nobody else can have heard of them.
        let followed = entries.filter(|entry| self.placement.is_followed(entry.id));
        let affine = followed.filter(|entry| entry.flags & flag::AFFINE != 0);
        let affine: BTreeSet<u16> = affine.map(|entry| entry.id).collect();
        if let Some(Running { tables, .. }) = &mut self.pair.running
            && !affine.is_empty()
        {
            result = result.and(tables.refresh_clients(&affine, ticks()).map_err(Into::into));
        }
        result
    }

    /// Goes on telling about services that are not ours any more, until the peer says that they are its own, or for a while.
    pub(in crate::daemon) async fn see_handover_through(&mut self) {
        let ended = async {
            loop {
                // Other services come and go meanwhile.
                let told = self.tell_owned();
                self.account.take_in(Work::Peer, told);
                if !self.pair.is_connected() || self.pair.ownership.handed_over() == 0 {
                    break;
                }
                if let Ok(event) = timeout(STEP, self.pair.next_event()).await {
                    let taken = self.on_peer(event).await;
                    self.account.take_in(Work::Peer, taken);
                }
            }
        };
        // Somebody else may be master who is not the peer, or nobody.
        drop(timeout(HANDOVER, ended).await);
    }
}
