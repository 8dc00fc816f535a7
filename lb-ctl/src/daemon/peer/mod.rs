//! The pair: this balancer's connections told to the other one, and the other one's taken in.
//!
//! A service is [owned](crate::core::ownership) by whoever is master of its VIP. The owner tells the other one how its slots and records are; the
//! other one [follows](crate::core::placement::Placement::follow), and so has everything at hand at the moment at which VRRP makes it the owner.
//! A VIP that no VRRP instance carries is always our own.
//!
//! The connection has a thread of its own (`adapters::peer`). What the peer tells comes to the controller as events, since ids and
//! tables are the controller's.

mod handover;
mod mirror;
mod services;
mod turns;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use lb_common::clock::TICK;
use tokio::{sync::mpsc, time::Instant};

use self::turns::{Pace, Turns};
use super::{
    clock::{ticks, unix_milliseconds},
    controller::Controller,
    vrrp::{Knowledge, Tenures, Term},
};
use crate::{
    adapters::{
        datapath::MirroredTables,
        peer::{Connection, Event, Identity, Key, Link, Ways},
    },
    core::{
        cause::chain,
        config::{Config, Peer},
        operator::Decisions,
        ownership::Ownership,
        placement::Placement,
        plan::PlannedService,
        role::Role,
        status::PeerStatus,
        sync::{Inbox, Item, Places, Shape, brief},
        time::milliseconds,
        vrrp::Told,
    },
};

/// The other balancer, as the controller knows it.
pub(super) struct Pair {
    running: Option<Running>,
    /// What the peer has told on the present connection.
    inbox: Inbox,
    /// What is ours.
    ownership: Ownership<Term>,
    /// The zero of the time that counts for that.
    epoch: Instant,
    /// Who was master of which VIPs when that was found out.
    seen: Tenures,
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
    events: Turns<Event>,
    /// When pieces of what is over are deleted.
    deletions: Pace,
    /// Where what the peer tells of is written.
    tables: MirroredTables,
}

impl Default for Pair {
    fn default() -> Self {
        Self {
            running: None,
            inbox: Inbox::default(),
            ownership: Ownership::default(),
            epoch: Instant::now(),
            seen: Tenures::new(),
            told: Decisions::default(),
            told_generation: None,
        }
    }
}

impl Pair {
    /// The next thing that happens on the connection; `None` if nobody has anything to do, and something is left of what the peer has told.
    /// Waits for ever if there is no peer.
    pub(super) async fn next_event(&mut self) -> Option<Event> {
        let Some(Running {
            events, deletions, ..
        }) = &mut self.running
        else {
            return std::future::pending().await;
        };
        let ticks_left = self.inbox.due(ticks());
        let wait = ticks_left.map(|left| Duration::from_nanos(TICK) * left);
        tokio::select! {
            event = events.next() => match event {
                Some(event) => Some(event),
                // The thread has ended, and has said why.
                None => std::future::pending().await,
            },
            () = deletions.turn_in(wait.unwrap_or_default()), if wait.is_some() => None,
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
            ..
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
        Some(if self.ownership.owns(&service.key) {
            Role::Owner
        } else if self.ownership.arrives(&service.key) {
            Role::Arriving
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
            // What arrives is ours in a moment.
            None | Some(Role::Owner | Role::Arriving | Role::Following) => Told::Everything,
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
        self.ownership.disconnected();
    }

    /// When it is to be [asked anew](Controller::tell_owned) what is ours, though nothing happens.
    pub(super) fn due(&self) -> Option<Instant> {
        let due = self.ownership.due()?;
        self.epoch.checked_add(due)
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
        let finished = self.mirror(|inbox, mirror| inbox.finish(None, mirror));
        self.pair.stop().await;
        self.datapath.listen(false)?;
        finished?;
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
                events: Turns::of(events),
                deletions: Pace::default(),
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

    /// Takes in what has happened on the connection, or goes on with it.
    pub(super) async fn on_peer(&mut self, event: Option<Event>) -> anyhow::Result<()> {
        let Some(event) = event else {
            let begun = Instant::now();
            let deleted = self.mirror(|inbox, mirror| inbox.go_on(mirror));
            if let Some(Running { deletions, .. }) = &mut self.pair.running {
                deletions.took(begun.elapsed());
            }
            return if self.pair.inbox.has_more(ticks()) {
                deleted
            } else {
                deleted.and(self.tell_knowledge())
            };
        };
        match event {
            Event::Connected { interfaces, ready } => {
                self.pair.inbox = Inbox::of(self.places(&interfaces));
                (self.pair.told, self.pair.told_generation) = (Decisions::default(), None);
                self.tell_decisions();
                self.pair.ownership.connected();
                self.tell_services();
                self.datapath.listen(true)?;
                // If it has gone already, it says so.
                let _ = ready.send(());
                self.tell_knowledge()
            }
            Event::Items { items, taken } => {
                let begun = Instant::now();
                // What of this has come to us since must not be replaced by what the peer has told before.
                let looked = if self.vrrp.are_as_seen(&self.pair.seen) {
                    Ok(())
                } else {
                    self.tell_owned()
                };
                let result = self.take_in(&items);
                let decided = self.pair.inbox.take_decided();
                let heard = if decided.is_empty() {
                    Ok(())
                } else {
                    self.hear_decisions(&decided).await
                };
                // Nothing else changes our part in a service.
                let told = if items.is_empty() || items.iter().any(may_change_roles) {
                    self.tell_knowledge()
                } else {
                    Ok(())
                };
                if let Some(Running { events, .. }) = &mut self.pair.running {
                    events.took(begun.elapsed());
                }
                let answer = result.as_ref().map_err(|error| chain(error.as_ref()));
                let _ = taken.send(answer.map(drop));
                result.and(looked).and(heard).and(told)
            }
            Event::Gone => {
                let deleted = self.mirror(|inbox, mirror| inbox.finish(None, mirror));
                self.pair.inbox = Inbox::default();
                self.pair.ownership.disconnected();
                self.datapath.listen(false)?;
                // Nobody tells on of what arrives.
                deleted.and(self.tell_owned())
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
        self.mirror(|inbox, mirror| inbox.apply(items, mirror))?;
        // What we do not tell of has an owner that does not know of it yet, or has none.
        let mut asked = self.pair.inbox.take_asked();
        asked.retain(|key| self.pair.ownership.tells(key));
        if let Some(Running { link, .. }) = &self.pair.running
            && !asked.is_empty()
        {
            link.tell_again(asked);
        }
        Ok(())
    }
}

/// Whether an item may change which part we have in a service, or how much of it we have been told.
const fn may_change_roles(item: &Item) -> bool {
    matches!(
        item,
        Item::Service { .. } | Item::Unowned { .. } | Item::Begin { .. } | Item::Complete { .. }
    )
}
