//! The pair: this balancer's connections told to the other one, and the other one's taken in.
//!
//! A service is *owned* by whoever is master of its VIP. The owner tells the other one how its slots and records are; the other one
//! [follows](crate::core::placement::Placement::follow), and so has everything at hand at the moment at which VRRP makes it the owner. A VIP
//! that no VRRP instance carries is always our own.
//!
//! The connection has a thread of its own (`adapters::peer`). What the peer tells comes to the controller as events, since ids and
//! tables are the controller's.

mod mirror;

use std::collections::BTreeSet;

use lb_common::layout::ServiceKey;
use tokio::{sync::mpsc, time::Instant};

use self::mirror::TableMirror;
use super::{clock::ticks, controller::Controller};
use crate::{
    adapters::{
        datapath::MirroredTables,
        peer::{Connection, Event, Identity, Key, Link, Ways},
    },
    core::{
        cause::chain,
        config::{Config, Peer},
        placement::Placement,
        plan::PlannedService,
        role::Role,
        status::PeerStatus,
        sync::{Inbox, Item, Shape},
    },
};

/// The other balancer, as the controller knows it.
#[derive(Default)]
pub(super) struct Pair {
    running: Option<Running>,
    /// What the peer has told on the present connection.
    inbox: Inbox,
    /// The services that are ours.
    owned: BTreeSet<ServiceKey>,
    /// The services that may be the peer's.
    of_peer: BTreeSet<ServiceKey>,
}

/// The thread that talks to the peer.
struct Running {
    config: Peer,
    key: Key,
    link: Link,
    events: mpsc::Receiver<Event>,
    /// Where what the peer tells of is written.
    tables: MirroredTables,
}

impl Pair {
    /// The next thing that happens on the connection; waits for ever if there is no peer.
    pub(super) async fn next_event(&mut self) -> Event {
        match &mut self.running {
            Some(Running { events, .. }) => match events.recv().await {
                Some(event) => event,
                // The thread has ended, and has said why.
                None => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }

    /// What status says; `None` if there is no peer.
    pub(super) fn status(&self) -> Option<PeerStatus> {
        let Connection {
            peer,
            trouble,
            behind_since,
        } = self.running.as_ref()?.link.board().read();
        let connected = peer.is_some();
        let (node, version) = peer.unzip();
        let lag = behind_since.map(|since| since.elapsed()).unwrap_or_default();
        Some(PeerStatus {
            connected,
            lag_ms: u64::try_from(lag.as_millis()).unwrap_or(u64::MAX),
            node,
            version,
            trouble: trouble.filter(|_| !connected),
            not_taken_over: self.inbox.lost(),
        })
    }

    /// Which part we have in a service; `None` if there is no peer.
    pub(super) fn role(&self, service: &PlannedService, placement: &Placement) -> Option<Role> {
        self.running.as_ref()?;
        Some(if self.owned.contains(&service.key) {
            Role::Owner
        } else if !placement.is_followed(service.entry.id) {
            Role::Alone
        } else if self.inbox.complete().any(|key| key == service.key) {
            Role::Following
        } else {
            Role::Behind
        })
    }

    /// Ends the connection and its thread.
    pub(super) async fn stop(&mut self) {
        if let Some(Running { link, mut events, .. }) = self.running.take() {
            // Whoever waits to tell something is told that nobody listens.
            events.close();
            link.stop().await;
        }
    }
}

impl Controller {
    /// Follows what is configured about the peer. `key` is what its key file holds.
    pub(super) async fn follow_peer(&mut self, key: Option<Key>) -> anyhow::Result<()> {
        let wanted = self.config.peer.clone().zip(key);
        let is_same = match (&self.pair.running, &wanted) {
            (None, None) => true,
            (Some(running), Some((config, key))) => running.config == *config && running.key == *key,
            _ => false,
        };
        if is_same {
            // Services may have come or gone.
            return self.tell_owned();
        }
        self.pair.stop().await;
        self.datapath.listen(false)?;
        if let Some((config, key)) = wanted {
            let (sender, events) = mpsc::channel(1);
            let ways = Ways {
                listen: config.listen,
                connect: config.connect,
            };
            let link = Link::start(ways, self.identity(&key), self.datapath.peer_source()?, sender)?;
            self.pair.running = Some(Running {
                config,
                key,
                link,
                events,
                tables: self.datapath.mirrored_tables()?,
            });
        }
        self.tell_owned()
    }

    fn identity(&self, key: &Key) -> Identity {
        let Config { node, datapath, .. } = &self.config;
        Identity {
            node: node.name.clone(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            shape: Shape {
                hash_seed: datapath.hash_seed,
                slots_per_service: datapath.slots_per_service,
            },
            key: key.clone(),
        }
    }

    /// Takes in what has happened on the connection.
    pub(super) fn on_peer(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Connected { ready, .. } => {
                self.pair.inbox = Inbox::default();
                self.datapath.listen(true)?;
                // If it has gone already, it says so.
                let _ = ready.send(());
                Ok(())
            }
            Event::Items { items, taken } => {
                let result = self.take_in(&items);
                let answer = result.as_ref().map_err(|error| chain(error.as_ref())).copied();
                let _ = taken.send(answer);
                // A backend that is new here needs a way to it.
                if self.network.next_hops().unresolved().next().is_some() {
                    self.routes_due.get_or_insert_with(Instant::now);
                }
                result
            }
            Event::Gone => {
                self.pair.inbox = Inbox::default();
                self.datapath.listen(false)?;
                Ok(())
            }
        }
    }

    fn take_in(&mut self, items: &[Item]) -> anyhow::Result<()> {
        self.begin_following(items);
        let Some(Running { tables, .. }) = &mut self.pair.running else {
            return Ok(());
        };
        let mut mirror = TableMirror {
            config: &self.config,
            plan: &self.plan,
            placement: &mut self.placement,
            datapath: &mut self.datapath,
            network: &mut self.network,
            tables,
        };
        self.pair.inbox.apply(items, &mut mirror)?;
        let asked = self.pair.inbox.take_asked();
        if let Some(Running { link, .. }) = &self.pair.running {
            for key in asked {
                link.tell_again(key);
            }
        }
        Ok(())
    }

    /// Follows the services that the peer says are its own, as far as they are not ours.
    fn begin_following(&mut self, items: &[Item]) {
        for item in items {
            let Item::Service { vip, port, .. } = *item else {
                continue;
            };
            let key = ServiceKey::tcp(vip.into(), port);
            if let Some(entry) = self.placement.service(&key).copied()
                && !self.pair.owned.contains(&key)
                && !self.placement.is_followed(entry.id)
            {
                self.placement.follow(entry.id);
                tracing::info!(%vip, port, "the peer owns this service: we follow it");
            }
        }
    }

    /// Takes in of which VIPs we are master: what we own from now on, and what not any more.
    pub(super) fn tell_owned(&mut self) -> anyhow::Result<()> {
        let held = self.vrrp.held();
        let owned: Vec<(usize, ServiceKey)> = self
            .config
            .services
            .iter()
            .zip(&self.plan.services)
            .enumerate()
            .filter(|(_, (service, _))| !self.config.is_carried(service.vip) || held.contains(&service.vip))
            .map(|(index, (_, planned))| (index, planned.key))
            .collect();
        let before = std::mem::replace(&mut self.pair.owned, owned.iter().map(|(_, key)| *key).collect());
        let mut result = Ok(());
        for &(index, key) in &owned {
            if !before.contains(&key) {
                let taken = self.take_over_service(index);
                result = result.and(taken);
            }
        }
        let Some(Running { link, .. }) = &self.pair.running else {
            return result;
        };
        // What the peer has told of a service that was ours, or that was not there, was not taken in.
        let of_peer: BTreeSet<ServiceKey> = self
            .plan
            .services
            .iter()
            .map(|planned| planned.key)
            .filter(|key| !self.pair.owned.contains(key))
            .collect();
        for key in of_peer.difference(&self.pair.of_peer) {
            self.pair.inbox.forget(key);
            link.ask(*key);
        }
        self.pair.of_peer = of_peer;
        let entries = self
            .plan
            .services
            .iter()
            .map(|planned| (planned.key, planned.entry));
        link.own(entries.filter(|(key, _)| self.pair.owned.contains(key)).collect());
        result
    }

    /// We own a service from now on.
    fn take_over_service(&mut self, index: usize) -> anyhow::Result<()> {
        let (Some(service), Some(planned)) = (self.config.services.get(index), self.plan.services.get(index))
        else {
            return Ok(());
        };
        let entry = planned.entry;
        // Also one that we have not followed, if this is a restart: an earlier run may have.
        let may_have_followed =
            self.pair.running.is_some() && self.found_tables && self.config.is_carried(service.vip);
        if !may_have_followed && !self.placement.is_followed(entry.id) {
            return Ok(());
        }
        tracing::info!(service = service.name, "owns the service from now on");
        let now = ticks();
        self.placement.take_over(entry.id, now, &mut self.datapath)?;
        if let Some(Running { tables, .. }) = &mut self.pair.running {
            tables.refresh_clients(entry.id, now)?;
        }
        // Only after a pass over the records do slots move.
        self.next_sweep = Instant::now();
        Ok(())
    }
}
