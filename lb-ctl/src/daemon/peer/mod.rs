//! The pair: this balancer's connections told to the other one, and the other one's taken in.
//!
//! A service is *owned* by whoever is master of its VIP. The owner tells the other one how its slots and records are; the other one
//! [follows](crate::core::placement::Placement::follow), and so has everything at hand at the moment at which VRRP makes it the owner. A VIP
//! that no VRRP instance carries is always our own.
//!
//! The connection has a thread of its own (`adapters::peer`). What the peer tells comes to the controller as events, since ids and
//! tables are the controller's.

mod mirror;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use lb_common::layout::{Service, ServiceKey, flag};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use self::mirror::TableMirror;
use super::{
    clock::{ticks, unix_milliseconds},
    controller::Controller,
    vrrp::{Knowledge, Tenure, Tenures},
};
use crate::{
    adapters::{
        datapath::MirroredTables,
        peer::{Connection, Event, Identity, Key, Link, Ways},
    },
    core::{
        cause::chain,
        config::{self, Config, Peer},
        failures::Work,
        operator::Decisions,
        placement::Placement,
        plan::PlannedService,
        role::Role,
        status::PeerStatus,
        sync::{Inbox, Item, Places, Shape, brief},
        time::milliseconds,
        vrrp::Told,
    },
};

/// How long a daemon that ends waits for the peer to take over, at most.
const HANDOVER: Duration = Duration::from_secs(2);

/// The other balancer, as the controller knows it.
#[derive(Default)]
pub(super) struct Pair {
    running: Option<Running>,
    /// What the peer has told on the present connection.
    inbox: Inbox,
    /// The services that are ours, and since which time that we have become master of their VIPs; `None` of those that VRRP does not carry.
    owned: BTreeMap<ServiceKey, Option<Tenure>>,
    /// Who was master of which VIPs when that was found out.
    seen: Tenures,
    /// Those that the peer is told about: ours, and those that were until the peer says that they are its own. Packets come through here
    /// as long as nobody has told their senders otherwise.
    telling: BTreeSet<ServiceKey>,
    /// The services that may be the peer's.
    of_peer: BTreeSet<ServiceKey>,
    /// What operators have decided, as far as the peer has been told.
    told: Decisions,
    /// Which [generation](super::operator::Operator::generation) of decisions that is, if the peer has been told any.
    told_generation: Option<u64>,
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

    fn is_connected(&self) -> bool {
        let running = self.running.as_ref();
        running.is_some_and(|running| running.link.board().read().peer.is_some())
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
            lag_ms: milliseconds(lag),
            node,
            version,
            trouble: trouble.filter(|_| !connected),
            not_taken_over: self.inbox.lost(),
        })
    }

    /// Which part we have in a service; `None` if there is no peer.
    pub(super) fn role(&self, service: &PlannedService, placement: &Placement) -> Option<Role> {
        self.running.as_ref()?;
        Some(if self.owned.contains_key(&service.key) {
            Role::Owner
        } else if !placement.is_followed(service.entry.id) {
            Role::Alone
        } else if self.inbox.is_complete(&service.key) {
            Role::Following
        } else {
            Role::Behind
        })
    }

    /// How much we have been told of a service's connections, as far as whoever is master of its VIP may know any.
    fn told_of(&self, service: &PlannedService, placement: &Placement) -> Told {
        match self.role(service, placement) {
            None | Some(Role::Owner | Role::Following) => Told::Everything,
            Some(Role::Alone | Role::Behind) if self.inbox.is_incomplete(&service.key) => Told::Part,
            Some(Role::Alone | Role::Behind) => Told::Nothing,
        }
    }

    /// Ends the connection and its thread.
    pub(super) async fn stop(&mut self) {
        if let Some(Running { link, events, .. }) = self.running.take() {
            // With what waits in it: whoever waits for an answer is told that there is none.
            drop(events);
            link.stop().await;
        }
        self.inbox = Inbox::default();
        self.telling.clear();
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

    /// The names of our interfaces, in their order.
    fn names_of_interfaces(&self) -> Vec<String> {
        let interfaces = self.config.datapath.interfaces.iter();
        interfaces.map(|interface| interface.name.clone()).collect()
    }

    /// Which of our interfaces the peer's are, by what these are called.
    fn places(&self, theirs: &[String]) -> Places {
        let ours = self.names_of_interfaces();
        let by_name = Places::by_name(theirs, &ours);
        if by_name.is_some() && theirs != ours {
            tracing::warn!(
                ours = ours.join(","),
                theirs = brief(&theirs.join(",")),
                "the peer has the same interfaces in another order: each is taken for the one of its name, so names have to mean the same networks on both"
            );
        }
        by_name.unwrap_or_else(|| {
            // Between one and one there is nothing to mix up.
            if ours.len().max(theirs.len()) > 1 {
                tracing::info!(
                    ours = ours.join(","),
                    theirs = brief(&theirs.join(",")),
                    "the peer's interfaces have other names than ours, or it does not tell them: the first is taken for the first, and so on"
                );
            }
            Places::Same
        })
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
            interfaces: self.names_of_interfaces(),
            key: key.clone(),
        }
    }

    /// Follows, to begin with, all services whose VIPs VRRP carries: until it has found out who the owner is, nothing that the peer has told an
    /// earlier run may be taken to be as old as it looks.
    pub(super) fn follow_what_is_shared(&mut self) {
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

    /// Takes in what has happened on the connection.
    pub(super) async fn on_peer(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Connected { interfaces, ready } => {
                self.pair.inbox = Inbox::of(self.places(&interfaces));
                (self.pair.told, self.pair.told_generation) = (Decisions::default(), None);
                self.tell_decisions();
                self.pair.telling = self.pair.owned.keys().copied().collect();
                self.tell_services();
                self.datapath.listen(true)?;
                // If it has gone already, it says so.
                let _ = ready.send(());
                self.tell_knowledge()
            }
            Event::Items { items, taken } => {
                let begun = Instant::now();
                let result = self.take_in(&items);
                let decided = self.pair.inbox.take_decided();
                let heard = if decided.is_empty() {
                    Ok(())
                } else {
                    self.hear_decisions(&decided).await
                };
                // Nothing else changes our part in a service.
                let told = if items.iter().any(may_change_roles) {
                    self.tell_knowledge()
                } else {
                    Ok(())
                };
                let answer = result.as_ref().map_err(|error| chain(error.as_ref()));
                let _ = taken.send(answer.map(|()| begun.elapsed()));
                result.and(heard).and(told)
            }
            Event::Gone => {
                self.pair.inbox = Inbox::default();
                self.datapath.listen(false)?;
                self.tell_knowledge()
            }
        }
    }

    /// Tells VRRP how much the peer has told of the connections to each VIP: until it is everything, whoever is master had better stay so.
    /// For how long is a matter of when that master was heard, which VRRP knows.
    fn tell_knowledge(&mut self) -> anyhow::Result<()> {
        let carried = self.config.vrrp.iter().flat_map(|instance| &instance.addresses);
        // Where there is no service, there is nothing to tell.
        let mut of_vips: BTreeMap<IpAddr, Told> = carried.map(|vip| (*vip, Told::Everything)).collect();
        for (service, planned) in self.config.services.iter().zip(&self.plan.services) {
            if let Some(of_vip) = of_vips.get_mut(&service.vip) {
                let told = self.pair.told_of(planned, &self.placement);
                *of_vip = told.max(*of_vip);
            }
        }
        let knowledge = Knowledge {
            of_vips,
            seen: self.pair.seen.clone(),
        };
        self.vrrp.set_knowledge(knowledge)
    }

    /// Goes on telling about services that are not ours any more, until the peer says that they are its own, or for a while.
    pub(super) async fn see_handover_through(&mut self) {
        let ended = async {
            let told = self.tell_owned();
            self.account.take_in(Work::Peer, told);
            while self.pair.is_connected() && !self.pair.telling.iter().eq(self.pair.owned.keys()) {
                let event = self.pair.next_event().await;
                let taken = self.on_peer(event).await;
                self.account.take_in(Work::Peer, taken);
            }
        };
        // Somebody else may be master who is not the peer, or nobody.
        drop(timeout(HANDOVER, ended).await);
    }

    /// Tells the peer what operators have decided since it was told last.
    pub(super) fn tell_decisions(&mut self) {
        let generation = Some(self.operator.generation());
        if let Some(Running { link, .. }) = &self.pair.running
            && self.pair.told_generation != generation
        {
            let decisions = self.operator.decisions();
            link.decide(decisions.words_since(&self.pair.told, unix_milliseconds()));
            self.pair.told.clone_from(decisions);
            self.pair.told_generation = generation;
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
            has_introduced: false,
        };
        let applied = self.pair.inbox.apply(items, &mut mirror);
        if mirror.has_introduced {
            // A backend that is new here needs a way to it.
            self.routes_due.get_or_insert_with(Instant::now);
        }
        applied?;
        // What we do not tell of has an owner that does not know of it yet, or has none.
        let mut asked = self.pair.inbox.take_asked();
        asked.retain(|key| self.pair.telling.contains(key));
        if let Some(Running { link, .. }) = &self.pair.running
            && !asked.is_empty()
        {
            link.tell_again(asked);
        }
        Ok(())
    }

    /// Follows the services that the peer says are its own, as far as they are not ours.
    fn begin_following(&mut self, items: &[Item]) {
        let mut has_come = false;
        for item in items {
            let Item::Service { vip, port, .. } = *item else {
                continue;
            };
            let key = ServiceKey::tcp(vip.into(), port);
            if let Some(entry) = self.placement.service(&key).copied()
                && !self.pair.owned.contains_key(&key)
            {
                if !self.placement.is_followed(entry.id) || self.pair.telling.contains(&key) {
                    tracing::info!(%vip, port, "the peer owns this service: we follow it");
                }
                self.placement.follow(entry.id);
                has_come |= self.pair.telling.remove(&key);
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
    fn tell_services(&self) {
        if let Some(Running { link, .. }) = &self.pair.running {
            let told = self.entries().filter(|(key, _)| self.pair.telling.contains(key));
            link.own(told.collect());
        }
    }

    /// Tells the peer no more about services that a configuration does not have: how they end here is none of its business. If it owns them
    /// from now on it has said so, or has not in the time that it was [given](Self::see_handover_through).
    pub(super) fn disown_all_but(&mut self, config: &Config) {
        let stays: BTreeSet<ServiceKey> = config.services.iter().map(config::Service::key).collect();
        self.pair.telling.retain(|key| stays.contains(key));
        self.tell_services();
    }

    /// Takes in of which VIPs we are master: what we own from now on, and what not any more.
    pub(super) fn tell_owned(&mut self) -> anyhow::Result<()> {
        let tenures = self.vrrp.tenures();
        let services = self.config.services.iter().zip(&self.plan.services);
        let owned = services.enumerate().filter_map(|(index, (service, planned))| {
            let tenure = if self.config.is_carried(service.vip) {
                Some(*tenures.get(&service.vip).filter(|tenure| tenure.lasts)?)
            } else {
                None
            };
            Some((index, planned.key, tenure))
        });
        let owned: Vec<(usize, ServiceKey, Option<Tenure>)> = owned.collect();
        self.pair.seen = tenures;
        let before = std::mem::take(&mut self.pair.owned);
        let mut result = Ok(());
        for (index, key, tenure) in owned {
            let taken = match before.get(&key) {
                Some(then) if *then == tenure => Ok(()),
                Some(_) => {
                    self.lose_unseen(index);
                    self.take_over_service(index)
                }
                None => self.take_over_service(index),
            };
            // One that fails is tried again when everything is compared anew.
            if taken.is_ok() {
                self.pair.owned.insert(key, tenure);
            }
            result = result.and(taken);
        }
        self.yield_services(&before);
        result.and(self.tell_knowledge())
    }

    /// Follows what is not ours any more, and tells the peer what is.
    fn yield_services(&mut self, before: &BTreeMap<ServiceKey, Option<Tenure>>) {
        let Some(Running { link, .. }) = &self.pair.running else {
            return;
        };
        // What the peer has told of a service that was ours, or that was not there, was not taken in.
        let others: BTreeMap<ServiceKey, Service> = self
            .entries()
            .filter(|(key, _)| !self.pair.owned.contains_key(key))
            .collect();
        for (key, entry) in &others {
            if before.contains_key(key) {
                self.placement.follow(entry.id);
            }
            if !self.pair.of_peer.contains(key) {
                self.pair.inbox.forget(key);
                link.ask(*key);
            }
        }
        self.pair.of_peer = others.into_keys().collect();
        let is_there = |key: &ServiceKey| self.plan.services.iter().any(|planned| planned.key == *key);
        self.pair.telling.retain(is_there);
        self.pair.telling.extend(self.pair.owned.keys());
        self.tell_services();
    }

    /// A service is ours that was ours when we looked last, but somebody else has been master of its VIP in between, while we were
    /// busy. So slots and records were used where we did not see it, as before any other takeover: none of them is as old as it looks.
    ///
    /// What the peer would have told of its time as the owner, we have passed over, or pass over now. It notices by itself that it is not the
    /// owner any more, and asks for everything.
    fn lose_unseen(&mut self, index: usize) {
        let (Some(service), Some(planned)) = (self.config.services.get(index), self.plan.services.get(index))
        else {
            return;
        };
        if self.pair.running.is_some() {
            tracing::info!(service = service.name, "did not own the service for a moment");
            self.placement.follow(planned.entry.id);
        }
    }

    /// We own a service from now on.
    fn take_over_service(&mut self, index: usize) -> anyhow::Result<()> {
        let (Some(service), Some(planned)) = (self.config.services.get(index), self.plan.services.get(index))
        else {
            return Ok(());
        };
        let entry = planned.entry;
        if !self.placement.is_followed(entry.id) {
            return Ok(());
        }
        tracing::info!(service = service.name, "owns the service from now on");
        let now = ticks();
        self.placement.take_over(entry.id, now, &mut self.datapath)?;
        if let Some(Running { tables, .. }) = &mut self.pair.running
            && entry.flags & flag::AFFINE != 0
        {
            tables.refresh_clients(entry.id, now)?;
        }
        // Only after a pass over the records do slots move.
        self.next_sweep = Instant::now();
        Ok(())
    }
}

/// Whether an item may change which part we have in a service, or how much of it we have been told.
const fn may_change_roles(item: &Item) -> bool {
    matches!(
        item,
        Item::Service { .. } | Item::Begin { .. } | Item::Complete { .. }
    )
}
