//! The other side: what the owner tells, in our own ids, sizes and times.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::{
    address::Address,
    layout::{Affinity, ClientKey, FlowKey, FlowRecord, NAME_LENGTH, NO_TARGET, Service, ServiceKey, Slot},
    slot_rule::closing_since,
};

use super::wire::{Flow, Home, Item, Run, WayToClient};
use crate::core::{operator::Word, slot_moves};

/// Where what the owner tells is written.
pub trait Mirror {
    /// Why it cannot be.
    type Error;
    /// Our own service at an address, if we have it and do not own it ourselves.
    fn followed(&self, key: &ServiceKey) -> Option<Service>;
    /// The id of a backend of our own service, which it gets if it has none; `None` if there is no room for it. Asked for again in each
    /// [batch](Inbox::apply) that refers to the backend: ids of backends that nothing names any more become other backends'.
    fn target(
        &mut self,
        service: u16,
        name: &str,
        address: IpAddr,
        port: u16,
    ) -> Result<Option<u16>, Self::Error>;
    /// Writes a slot, by its place in the table.
    fn store_slot(&mut self, index: u32, slot: Slot) -> Result<(), Self::Error>;
    /// Writes the established record of a flow, and its way back if it is translated. Returns whether there was room.
    fn put_flow(
        &mut self,
        key: &FlowKey,
        record: FlowRecord,
        way: Option<WayToClient>,
    ) -> Result<bool, Self::Error>;
    /// Deletes the record of a flow, if it has one.
    fn remove_flow(&mut self, key: &FlowKey) -> Result<(), Self::Error>;
    /// Notes where a client is at home.
    fn put_client(&mut self, key: &ClientKey, home: Affinity) -> Result<(), Self::Error>;
    /// Deletes what is noted of a client, if anything is.
    fn remove_client(&mut self, key: &ClientKey) -> Result<(), Self::Error>;
    /// All flows of a service that have an established record.
    fn flows_of(&self, service: u16) -> Result<Vec<FlowKey>, Self::Error>;
    /// All clients of a service of whom something is noted.
    fn clients_of(&self, service: u16) -> Result<Vec<ClientKey>, Self::Error>;
    /// The time, in ticks.
    fn now(&self) -> u32;
}

/// What the owner has told, for one connection.
#[derive(Clone, Debug, Default)]
pub struct Inbox {
    /// The owner's services, by its ids.
    services: BTreeMap<u16, Followed>,
    /// The owner's backends, by its ids.
    backends: BTreeMap<u16, Backend>,
    /// Our ids of them, by its ids, as far as the present batch has referred to them.
    targets: BTreeMap<u16, Option<u16>>,
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
    /// Some of it: so far, these are named.
    Part(Named),
    /// All.
    Everything,
}

#[derive(Clone, Debug, Default)]
struct Named {
    flows: BTreeSet<FlowKey>,
    clients: BTreeSet<ClientKey>,
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
    /// It introduces a backend that cannot be one.
    #[error(
        "expected a backend with a name of at most {NAME_LENGTH} bytes and a number above 0, found `{0}`"
    )]
    Name(String),
    /// It speaks of slots that there are not.
    #[error("expected slots below {slots}, found {last}")]
    Slots {
        /// How many there are.
        slots: u32,
        /// The last one that it speaks of.
        last: u64,
    },
    /// It could not be written.
    #[error(transparent)]
    Mirror(#[from] E),
}

impl Inbox {
    /// Takes in the items of a batch.
    pub fn apply<M: Mirror>(&mut self, items: &[Item], mirror: &mut M) -> Result<(), ApplyError<M::Error>> {
        self.targets.clear();
        items.iter().try_for_each(|item| self.take_in(item, mirror))
    }

    /// The services of which all has been told, and is being told on.
    pub fn complete(&self) -> impl Iterator<Item = ServiceKey> {
        let complete = self
            .services
            .values()
            .filter(|service| matches!(service.told, Told::Everything));
        complete.map(|service| service.key)
    }

    /// Whether the peer has said on this connection that a service is its own, and has not told everything about it yet.
    pub fn is_incomplete(&self, key: &ServiceKey) -> bool {
        self.services
            .values()
            .any(|service| service.key == *key && !matches!(service.told, Told::Everything))
    }

    /// We did not follow a service until now: what has been told of it was not taken in, and what is on its way means nothing without
    /// that, until the owner, which is to be [asked](super::Outbox::ask), begins anew.
    pub fn forget(&mut self, key: &ServiceKey) {
        for service in self.services.values_mut().filter(|service| service.key == *key) {
            service.told = Told::Name;
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
                let key = ServiceKey::tcp((*vip).into(), *port);
                let told = Told::Name;
                self.services.insert(*id, Followed { key, told });
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
            Item::Begin { service } => self.service(*service)?.told = Told::Part(Named::default()),
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
            Told::Name => Ok(None),
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
        if let Some(target) = self.targets.get(&id) {
            return Ok(*target);
        }
        let target = mirror.target(entry.id, name, *address, *port)?;
        self.targets.insert(id, target);
        Ok(target)
    }

    fn introduce<E>(&mut self, id: u16, backend: Backend) -> Result<(), ApplyError<E>> {
        if id == NO_TARGET || !(1..=NAME_LENGTH).contains(&backend.name.len()) {
            return Err(ApplyError::Name(backend.name));
        }
        self.service(backend.service)?;
        self.targets.remove(&id);
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
                mirror.put_flow(&key, record, flow.way)?
            }
        };
        if was_taken {
            if let Told::Part(named) = &mut self.service(service)?.told {
                named.flows.insert(key);
            }
        } else {
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
            if let Told::Part(named) = &mut self.service(service)?.told {
                named.clients.insert(key);
            }
        } else {
            // What is noted is an earlier home.
            mirror.remove_client(&key)?;
            self.lost += 1;
        }
        Ok(())
    }

    /// Forgets what has not been named.
    fn complete_service<M: Mirror>(
        &mut self,
        service: u16,
        mirror: &mut M,
    ) -> Result<(), ApplyError<M::Error>> {
        let entry = self.followed(service, mirror)?;
        let told = &mut self.service(service)?.told;
        let (Some(entry), Told::Part(named)) = (entry, std::mem::replace(told, Told::Name)) else {
            return Ok(());
        };
        *told = Told::Everything;
        for key in mirror.flows_of(entry.id)? {
            if !named.flows.contains(&key) {
                mirror.remove_flow(&key)?;
            }
        }
        for key in mirror.clients_of(entry.id)? {
            if !named.clients.contains(&key) {
                mirror.remove_client(&key)?;
            }
        }
        Ok(())
    }
}
