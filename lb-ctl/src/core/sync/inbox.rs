//! The other side: what the owner tells, in our own ids, sizes and times.
//!
//! Whoever has the key may still be anybody, one day. What a message makes us do and keep is bounded by our own tables and by its length,
//! whatever it says: each slot is written once a batch, the tables are passed over once, and of what is told nothing is kept but what
//! is introduced, of which there is as much as a configuration may have.

mod records;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::layout::{ClientKey, FlowKey, NO_TARGET, Service, ServiceKey, Slot};

use super::{
    apply_error::ApplyError,
    by_service::by_service,
    mirror::Mirror,
    places::Places,
    told::{Told, Unnamed},
    wire::{Item, Run},
};
use crate::core::{
    config::{MAX_SERVICES, bad_name, is_name},
    operator::Word,
    slot_moves,
};

/// What the owner has told, for one connection.
#[derive(Clone, Debug, Default)]
pub struct Inbox {
    places: Places,
    /// The owner's services, by its ids.
    services: BTreeMap<u16, Followed>,
    /// Its ids of them.
    ids: BTreeMap<ServiceKey, u16>,
    /// The owner's backends, by its ids.
    backends: BTreeMap<u16, Backend>,
    /// What is known for the present batch only.
    batch: Batch,
    /// Services whose packets come to us, though their owner tells of them still.
    arriving: BTreeSet<ServiceKey>,
    /// Our services with which the owner of others wants us to begin anew.
    asked: BTreeSet<ServiceKey>,
    /// What operators have decided on the peer.
    decided: Vec<Word>,
    /// How many slots and flows could not be taken over, for want of room.
    lost: u64,
}

/// A service of the owner's.
#[derive(Clone, Debug)]
struct Followed {
    key: ServiceKey,
    told: Told,
}

/// A backend of the owner's.
#[derive(Clone, Debug)]
struct Backend {
    /// By the owner's id.
    service: u16,
    name: String,
    address: IpAddr,
    port: u16,
}

/// What is known for one batch only.
#[derive(Clone, Debug, Default)]
struct Batch {
    /// Our ids of the owner's backends, by its ids, as far as it has referred to them.
    targets: BTreeMap<u16, Option<u16>>,
    /// What there is of the services with which the owner begins in it, by our ids.
    begins: BTreeMap<u16, Unnamed>,
    /// Which slots of a service may still be told of in it, by our ids: from this one on, counted from the service's first.
    untold: BTreeMap<u16, u64>,
}

impl Inbox {
    /// Of a peer with such interfaces.
    pub fn of(places: Places) -> Self {
        Self {
            places,
            ..Self::default()
        }
    }

    /// Takes in the items of a batch.
    ///
    /// One in which there are none says that the owner had nothing left to tell. If it has not told everything of a service by then, it does
    /// not tell of it any more: a reload may have taken the service from it. So nobody may wait for the end.
    pub fn apply<M: Mirror>(&mut self, items: &[Item], mirror: &mut M) -> Result<(), ApplyError<M::Error>> {
        if items.is_empty() {
            let services = self.services.values_mut();
            for service in services.filter(|it| matches!(it.told, Told::Name | Told::Part(_))) {
                service.told = Told::Forgotten;
            }
        }
        self.batch = Batch {
            begins: self.begins(items, mirror)?,
            ..Batch::default()
        };
        items.iter().try_for_each(|item| self.take_in(item, mirror))
    }

    /// What there is of all services with which the owner begins in a batch. The tables are passed over once, however many these are:
    /// it takes a tenth of a second, and an owner begins with all of its services at the same time.
    fn begins<M: Mirror>(
        &self,
        items: &[Item],
        mirror: &M,
    ) -> Result<BTreeMap<u16, Unnamed>, ApplyError<M::Error>> {
        let (mut introduced, mut begun) = (BTreeMap::new(), BTreeSet::new());
        for item in items {
            match item {
                Item::Service { id, vip, port } => {
                    introduced.insert(*id, ServiceKey::tcp((*vip).into(), *port));
                }
                Item::Begin { service } => {
                    let known = self.services.get(service).map(|service| &service.key);
                    let followed = introduced
                        .get(service)
                        .or(known)
                        .and_then(|key| mirror.followed(key));
                    begun.extend(followed.map(|entry| entry.id));
                }
                _ => {}
            }
        }
        let mut begins = BTreeMap::<u16, Unnamed>::new();
        if begun.is_empty() {
            return Ok(begins);
        }
        for (service, flows) in by_service(mirror.flows_of(&begun)?, FlowKey::service) {
            begins.entry(service).or_default().flows = flows;
        }
        for (service, clients) in by_service(mirror.clients_of(&begun)?, ClientKey::service) {
            begins.entry(service).or_default().clients = clients;
        }
        Ok(begins)
    }

    /// The services of which all has been told, and is being told on.
    pub fn complete(&self) -> impl Iterator<Item = ServiceKey> {
        let complete = self
            .services
            .values()
            .filter(|service| matches!(service.told, Told::Everything));
        complete.map(|service| service.key)
    }

    /// Whether all of a service has been told, and is being told on.
    pub fn is_complete(&self, key: &ServiceKey) -> bool {
        matches!(self.told(key), Some(Told::Everything))
    }

    /// Whether the peer has said on this connection that a service is its own, and is about to tell everything about it.
    pub fn is_incomplete(&self, key: &ServiceKey) -> bool {
        matches!(self.told(key), Some(Told::Name | Told::Part(_) | Told::AllBut(_)))
    }

    fn told(&self, key: &ServiceKey) -> Option<&Told> {
        let service = self.services.get(self.ids.get(key)?)?;
        Some(&service.told)
    }

    /// We did not follow a service until now: what has been told of it was not taken in, and what is on its way means nothing without
    /// that, until the owner, which is to be [asked](super::Outbox::ask), begins anew. What begins with a peer that is not the owner is not
    /// meant.
    pub fn forget(&mut self, key: &ServiceKey) {
        let id = self.ids.get(key);
        if let Some(service) = id.and_then(|id| self.services.get_mut(id))
            && !matches!(service.told, Told::Unowned)
        {
            service.told = Told::Forgotten;
        }
    }

    /// These services [arrive](crate::core::ownership), and no others: their owner tells what has gone through it, and our tables say what has come
    /// to us. So nothing that is in them is replaced or deleted for what it tells: that may be older.
    pub fn arrive(&mut self, services: impl IntoIterator<Item = ServiceKey>) {
        self.arriving = services.into_iter().collect();
    }

    /// The services with which the peer has asked us to begin anew: for our [outbox](super::Outbox::tell_again).
    #[must_use]
    pub fn take_asked(&mut self) -> BTreeSet<ServiceKey> {
        std::mem::take(&mut self.asked)
    }

    /// What operators have decided on the peer, or have and it was told by us: to be
    /// [merged](crate::core::operator::Decisions::merged) with what they have decided here.
    #[must_use]
    pub fn take_decided(&mut self) -> Vec<Word> {
        std::mem::take(&mut self.decided)
    }

    /// How many slots and flows could not be taken over, for want of room.
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    fn take_in<M: Mirror>(&mut self, item: &Item, mirror: &mut M) -> Result<(), ApplyError<M::Error>> {
        match item {
            Item::Service { id, vip, port } => {
                self.introduce_service(*id, ServiceKey::tcp((*vip).into(), *port), Told::Name)?;
            }
            Item::Unowned { id, vip, port } => {
                self.introduce_service(*id, ServiceKey::tcp((*vip).into(), *port), Told::Unowned)?;
            }
            Item::Decision(word) => self.decided.push(word.clone()),
            Item::Again { vip, port } => {
                self.asked.insert(ServiceKey::tcp((*vip).into(), *port));
            }
            Item::Backend {
                id,
                service,
                name,
                address,
                port,
            } => {
                let backend = Backend {
                    service: *service,
                    name: name.clone(),
                    address: *address,
                    port: *port,
                };
                self.introduce(*id, backend)?;
            }
            Item::Begin { service } => self.begin(*service, mirror)?,
            Item::Complete { service } => self.complete_service(*service, mirror)?,
            Item::Slots { service, first, runs } => self.take_slots(*service, *first, runs, mirror)?,
            Item::Flow {
                service,
                client,
                port,
                flow,
            } => self.take_flow(*service, *client, *port, *flow, mirror)?,
            Item::Client {
                service,
                client,
                home,
            } => self.take_client(*service, *client, *home, mirror)?,
        }
        Ok(())
    }

    fn service<E>(&mut self, id: u16) -> Result<&mut Followed, ApplyError<E>> {
        self.services.get_mut(&id).ok_or(ApplyError::Service(id))
    }

    /// Whether a service that has been introduced arrives.
    fn arrives<E>(&mut self, id: u16) -> Result<bool, ApplyError<E>> {
        let key = self.service(id)?.key;
        Ok(self.arriving.contains(&key))
    }

    /// Our own entry of a service that has been introduced; `None` if we have none or own it, or its owner has to begin anew.
    fn followed<M: Mirror>(&mut self, id: u16, mirror: &M) -> Result<Option<Service>, ApplyError<M::Error>> {
        let Followed { key, told } = self.service(id)?;
        match told {
            Told::Name | Told::Forgotten | Told::Unowned => Ok(None),
            Told::Part(_) | Told::AllBut(_) | Told::Everything => Ok(mirror.followed(key)),
        }
    }

    /// Our id of a backend of a service, both of which have been introduced; `None` if there is no room for it.
    fn target<M: Mirror>(
        &mut self,
        id: u16,
        service: u16,
        entry: &Service,
        mirror: &mut M,
    ) -> Result<Option<u16>, ApplyError<M::Error>> {
        if id == NO_TARGET {
            return Ok(Some(NO_TARGET));
        }
        let backend = self
            .backends
            .get(&id)
            .filter(|backend| backend.service == service);
        let Backend {
            name, address, port, ..
        } = backend.ok_or(ApplyError::Backend(id))?;
        if let Some(target) = self.batch.targets.get(&id) {
            return Ok(*target);
        }
        let target = mirror.target(entry.id, name, *address, *port)?;
        self.batch.targets.insert(id, target);
        Ok(target)
    }

    /// A service has one id, and an id one service.
    fn introduce_service<E>(&mut self, id: u16, key: ServiceKey, told: Told) -> Result<(), ApplyError<E>> {
        if let Some(before) = self.ids.insert(key, id) {
            self.services.remove(&before);
        }
        if let Some(before) = self.services.insert(id, Followed { key, told })
            && before.key != key
        {
            self.ids.remove(&before.key);
        }
        if self.services.len() > MAX_SERVICES as usize {
            return Err(ApplyError::Services);
        }
        Ok(())
    }

    fn introduce<E>(&mut self, id: u16, backend: Backend) -> Result<(), ApplyError<E>> {
        if id == NO_TARGET {
            return Err(ApplyError::Nobody);
        }
        if !is_name(&backend.name) {
            return Err(ApplyError::Name(bad_name(&backend.name)));
        }
        self.service(backend.service)?;
        self.batch.targets.remove(&id);
        self.backends.insert(id, backend);
        Ok(())
    }

    fn take_slots<M: Mirror>(
        &mut self,
        service: u16,
        first: u32,
        runs: &[Run],
        mirror: &mut M,
    ) -> Result<(), ApplyError<M::Error>> {
        let Some(entry) = self.followed(service, mirror)? else {
            return Ok(());
        };
        let count: u64 = runs.iter().map(|run| u64::from(run.length)).sum();
        let end = u64::from(first) + count;
        if end > u64::from(entry.slots) {
            return Err(ApplyError::Slots {
                slots: entry.slots,
                last: end - 1,
            });
        }
        let untold = self.batch.untold.entry(entry.id).or_default();
        if u64::from(first) < *untold {
            return Err(ApplyError::Repeated {
                first,
                untold: *untold,
            });
        }
        *untold = end;
        let (now, arrives) = (mirror.now(), self.arrives(service)?);
        let mut index = entry.first_slot.saturating_add(first);
        for run in runs {
            let settled = self.target(run.settled, service, &entry, mirror)?;
            let current = self.target(run.current, service, &entry, mirror)?;
            if settled.is_none() || current.is_none() {
                self.lost += u64::from(run.length);
            }
            // Whoever gets new flows is for us to say when we own it. Where those without a record live is not: that of some the record ends
            // because the slot says the same is told next.
            let current = current.or(settled.filter(|target| *target != NO_TARGET));
            let (Some(settled), Some(current)) = (settled, current) else {
                index = index.saturating_add(run.length);
                continue;
            };
            let slot = Slot {
                settled,
                current,
                tracked: run.tracked,
                settled_seen: slot_moves::truncated(now),
                grace: run.grace.map_or(0, |age| slot_moves::grace_of(age, now)),
            };
            for _ in 0..run.length {
                let ours = arrives.then(|| mirror.slot(index)).transpose()?;
                if let Some(slot) = ours.map_or(Some(slot), |ours| arriving(ours, slot)) {
                    mirror.store_slot(index, slot)?;
                }
                index = index.saturating_add(1);
            }
        }
        Ok(())
    }

    /// All flows and clients of a service follow.
    fn begin<M: Mirror>(&mut self, service: u16, mirror: &M) -> Result<(), ApplyError<M::Error>> {
        let key = self.service(service)?.key;
        let unnamed = mirror
            .followed(&key)
            .and_then(|entry| self.batch.begins.remove(&entry.id));
        self.service(service)?.told = Told::Part(unnamed.unwrap_or_default());
        Ok(())
    }

    /// What has not been named is to be deleted; not while the service arrives: it may have begun here.
    fn complete_service<M: Mirror>(&mut self, service: u16, mirror: &M) -> Result<(), ApplyError<M::Error>> {
        let (is_followed, arrives) = (self.followed(service, mirror)?.is_some(), self.arrives(service)?);
        let told = &mut self.service(service)?.told;
        if !is_followed {
            *told = Told::Forgotten;
        } else if arrives {
            *told = Told::Everything;
        } else if let Told::Part(unnamed) = told {
            *told = Told::all_but(std::mem::take(unnamed), mirror.now());
        }
        Ok(())
    }

    /// In how many ticks it [goes on](Self::go_on) with what an owner has not named; `None` if there is nothing.
    pub fn due(&self, now: u32) -> Option<u32> {
        let services = self.services.values();
        let dues = services.filter_map(|service| match &service.told {
            Told::AllBut(unnamed) => Some(unnamed.due(now)),
            _ => None,
        });
        dues.min()
    }

    /// Whether it goes on with that now.
    pub fn has_more(&self, now: u32) -> bool {
        self.due(now) == Some(0)
    }

    /// Deletes a piece of that: all of it may be as much as our tables hold, and others wait.
    pub fn go_on<M: Mirror>(&mut self, mirror: &mut M) -> Result<(), M::Error> {
        let now = mirror.now();
        let mut services = self.services.values_mut();
        let is_next = |service: &&mut Followed| matches!(&service.told, Told::AllBut(it) if it.due(now) == 0);
        let Some(service) = services.find(is_next) else {
            return Ok(());
        };
        let (Told::AllBut(unnamed), entry) = (&mut service.told, mirror.followed(&service.key)) else {
            return Ok(());
        };
        let Some(Service { id, .. }) = entry else {
            service.told = Told::Forgotten;
            return Ok(());
        };
        unnamed.delete_piece(id, mirror)?;
        if unnamed.is_empty() {
            service.told = Told::Everything;
        }
        Ok(())
    }

    /// Deletes all of that at once, of one service or of all, but for what has been used a moment ago. To be done before a service is taken
    /// over, and before the connection is forgotten: afterwards nobody would know any more that it is over, and a connection that has begun
    /// with the owner since, from the same port of the same client, would be taken for the earlier one. Packets may come to us already, and
    /// have made something new of it.
    pub fn finish<M: Mirror>(&mut self, of: Option<&ServiceKey>, mirror: &mut M) -> Result<(), M::Error> {
        for service in self.services.values_mut() {
            let is_meant = of.is_none_or(|key| *key == service.key);
            if let (true, Told::AllBut(unnamed)) = (is_meant, &mut service.told) {
                let unnamed = std::mem::take(unnamed);
                service.told = Told::Everything;
                if let Some(entry) = mirror.followed(&service.key) {
                    unnamed.delete_unused(entry.id, mirror)?;
                }
            }
        }
        Ok(())
    }
}

/// What becomes of a slot of ours of which the owner tells while the service arrives; `None` if it stays. What has begun here lives on the settled
/// backend if it has no record, and on that of its record if it has one, which counts as long as the slot is tracked. So neither changes.
///
/// A slot that has settled elsewhere in the moment before is lost by this, with what has begun in it since: slots settle every few seconds at most. So are all
/// that have settled since we were told last, if most is told only now; whoever takes over while `behind` has to reckon with it.
fn arriving(ours: Slot, told: Slot) -> Option<Slot> {
    let is_safe = ours.settled == told.settled || ours.settled == NO_TARGET;
    is_safe.then_some(Slot {
        tracked: ours.tracked || told.tracked,
        ..told
    })
}
