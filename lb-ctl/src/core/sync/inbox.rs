//! The other side: what the owner tells, in our own ids, sizes and times.
//!
//! Whoever has the key may still be anybody, one day. What a message makes us do and keep is bounded by our own tables and by its length,
//! whatever it says: each slot is written once a batch, the tables are passed over once, and of what is told nothing is kept but what
//! is introduced, of which there is as much as a configuration may have.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::{
    address::Address,
    layout::{Affinity, ClientKey, FlowKey, FlowRecord, NO_TARGET, Service, ServiceKey, Slot},
    slot_rule::closing_since,
};

use super::{
    mirror::Mirror,
    places::Places,
    wire::{Flow, Home, Item, Run, WayToClient},
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

/// How much of a service has been told.
#[derive(Clone, Debug)]
enum Told {
    /// That it is there. What else is told means nothing yet.
    Name,
    /// Something that [means nothing](Inbox::forget) any more. It may be nobody's, or its owner's who is not the peer: then nothing follows.
    Forgotten,
    /// Some of it.
    Part(Unnamed),
    /// All.
    Everything,
}

/// What there was of a service when its owner began with it, as far as it has not been named since. It only ever becomes less: what is
/// kept is bounded by our own tables, whatever is told.
#[derive(Clone, Debug, Default)]
struct Unnamed {
    flows: BTreeSet<FlowKey>,
    clients: BTreeSet<ClientKey>,
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

/// Why an item cannot be taken in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError<E> {
    /// It refers to a service that has not been introduced.
    #[error("expected the peer to speak of services that it has introduced, found number {0}")]
    Service(u16),
    /// It refers to a backend that has not been introduced as one of that service.
    #[error(
        "expected the peer to speak of backends that it has introduced, of the same service, found number {0}"
    )]
    Backend(u16),
    /// It introduces more services than a balancer can have.
    #[error("expected a peer with at most {MAX_SERVICES} services, found one that introduces more")]
    Services,
    /// It introduces a backend with the id that is nobody's.
    #[error("expected the peer to introduce backends under a number above 0, found 0")]
    Nobody,
    /// It introduces a backend that cannot be called so.
    #[error("in what the peer says of a backend: {0}")]
    Name(String),
    /// It speaks of slots that there are not.
    #[error("expected slots below {slots}, found {last}")]
    Slots {
        /// How many there are.
        slots: u32,
        /// The last one that it speaks of.
        last: u64,
    },
    /// It speaks of slots again of which it has spoken in the same batch.
    #[error(
        "expected each slot of a service at most once in a batch, in their order, found number {first} where {untold} or more may follow"
    )]
    Repeated {
        /// The first one that it speaks of.
        first: u32,
        /// The first one of which it has not spoken.
        untold: u64,
    },
    /// It could not be written.
    #[error(transparent)]
    Mirror(#[from] E),
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
    pub fn apply<M: Mirror>(&mut self, items: &[Item], mirror: &mut M) -> Result<(), ApplyError<M::Error>> {
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
        matches!(self.told(key), Some(Told::Name | Told::Part(_)))
    }

    fn told(&self, key: &ServiceKey) -> Option<&Told> {
        let service = self.services.get(self.ids.get(key)?)?;
        Some(&service.told)
    }

    /// We did not follow a service until now: what has been told of it was not taken in, and what is on its way means nothing without
    /// that, until the owner, which is to be [asked](super::Outbox::ask), begins anew.
    pub fn forget(&mut self, key: &ServiceKey) {
        let id = self.ids.get(key);
        if let Some(service) = id.and_then(|id| self.services.get_mut(id)) {
            service.told = Told::Forgotten;
        }
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
                self.introduce_service(*id, ServiceKey::tcp((*vip).into(), *port))?;
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

    /// Our own entry of a service that has been introduced; `None` if we have none or own it, or its owner has to begin anew.
    fn followed<M: Mirror>(&mut self, id: u16, mirror: &M) -> Result<Option<Service>, ApplyError<M::Error>> {
        let Followed { key, told } = self.service(id)?;
        match told {
            Told::Name | Told::Forgotten => Ok(None),
            Told::Part(_) | Told::Everything => Ok(mirror.followed(key)),
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
    fn introduce_service<E>(&mut self, id: u16, key: ServiceKey) -> Result<(), ApplyError<E>> {
        if let Some(before) = self.ids.insert(key, id) {
            self.services.remove(&before);
        }
        let told = Told::Name;
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
        let now = mirror.now();
        let mut index = entry.first_slot.saturating_add(first);
        for run in runs {
            let settled = self.target(run.settled, service, &entry, mirror)?;
            let current = self.target(run.current, service, &entry, mirror)?;
            let (Some(settled), Some(current)) = (settled, current) else {
                self.lost += u64::from(run.length);
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
                mirror.store_slot(index, slot)?;
                index = index.saturating_add(1);
            }
        }
        Ok(())
    }

    fn take_flow<M: Mirror>(
        &mut self,
        service: u16,
        client: IpAddr,
        port: u16,
        flow: Option<Flow>,
        mirror: &mut M,
    ) -> Result<(), ApplyError<M::Error>> {
        let Some(entry) = self.followed(service, mirror)? else {
            return Ok(());
        };
        let key = FlowKey::new(Address::from(client), port, entry.id);
        if let Told::Part(unnamed) = &mut self.service(service)?.told {
            unnamed.flows.remove(&key);
        }
        let Some(flow) = flow else {
            return Ok(mirror.remove_flow(&key)?);
        };
        let now = mirror.now();
        let last_seen = now.wrapping_sub(flow.idle);
        let was_taken = match self.target(flow.backend, service, &entry, mirror)? {
            None | Some(NO_TARGET) => false,
            Some(target) => {
                let record = FlowRecord {
                    target,
                    closing: if flow.closing { closing_since(last_seen) } else { 0 },
                    last_seen,
                    port: flow.port,
                    reserved: [0; 3],
                };
                let way = flow.way.map(|way| WayToClient {
                    interface: way.interface.and_then(|theirs| self.places.of(theirs)),
                    ..way
                });
                mirror.put_flow(&key, record, way)?
            }
        };
        if !was_taken {
            // What is there is of an earlier flow.
            mirror.remove_flow(&key)?;
            self.lost += 1;
        }
        Ok(())
    }

    fn take_client<M: Mirror>(
        &mut self,
        service: u16,
        client: IpAddr,
        home: Option<Home>,
        mirror: &mut M,
    ) -> Result<(), ApplyError<M::Error>> {
        let Some(entry) = self.followed(service, mirror)? else {
            return Ok(());
        };
        let key = ClientKey::new(Address::from(client), entry.id);
        if let Told::Part(unnamed) = &mut self.service(service)?.told {
            unnamed.clients.remove(&key);
        }
        let Some(home) = home else {
            return Ok(mirror.remove_client(&key)?);
        };
        if let Some(target) = self.target(home.backend, service, &entry, mirror)?
            && target != NO_TARGET
        {
            let noted = Affinity {
                target,
                reserved: 0,
                last_seen: mirror.now().wrapping_sub(home.idle),
            };
            mirror.put_client(&key, noted)?;
        } else {
            // What is noted is an earlier home.
            mirror.remove_client(&key)?;
            self.lost += 1;
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

    /// Forgets what has not been named.
    fn complete_service<M: Mirror>(
        &mut self,
        service: u16,
        mirror: &mut M,
    ) -> Result<(), ApplyError<M::Error>> {
        let Some(entry) = self.followed(service, mirror)? else {
            self.service(service)?.told = Told::Forgotten;
            return Ok(());
        };
        let before = std::mem::replace(&mut self.service(service)?.told, Told::Everything);
        let Told::Part(unnamed) = before else {
            return Ok(());
        };
        // Should the service have got another id meanwhile, they are somebody else's now.
        for key in unnamed.flows.iter().filter(|key| key.service() == entry.id) {
            mirror.remove_flow(key)?;
        }
        for key in unnamed.clients.iter().filter(|key| key.service() == entry.id) {
            mirror.remove_client(key)?;
        }
        Ok(())
    }
}
/// Keys by the service that they are of.
fn by_service<K: Copy + Ord>(mut keys: Vec<K>, service: impl Fn(&K) -> u16) -> BTreeMap<u16, BTreeSet<K>> {
    // Sorted first: a set takes what is in order in one go.
    keys.sort_unstable_by_key(|key| (service(key), *key));
    let services = keys.chunk_by(|one, other| service(one) == service(other));
    let with_keys =
        services.filter_map(|keys| Some((service(keys.first()?), keys.iter().copied().collect())));
    with_keys.collect()
}
