//! The owner's side: what the peer has not heard of yet.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    clock,
    layout::{
        Affinity, ClientKey, FlowKey, FlowRecord, NO_TARGET, Service, ServiceKey, Slot, TargetName, flag,
    },
};

use super::{
    batch::{Batch, Runs},
    by_service::by_service,
    changes::Changes,
    owned::{Listed, Listing, Owned},
    unowned::Unowned,
    wire::{BATCH, Flow, Home, Item, Run, WayToClient},
};
use crate::core::{operator::Word, slot_moves};

/// How many clients are looked up for a batch. More than this do not fit.
const LOOKED_UP: usize = BATCH / 12;

/// How much that has changed waits to be told to a peer that is slower than the changes. If there is more, the peer is told everything anew: that is
/// as much as our tables hold, and no more. What begins here of services that we do not own is forgotten then.
pub(super) const WAITING: usize = if cfg!(test) { 100 } else { 1 << 20 };

/// Where the owner looks up how things are.
pub trait Source {
    /// Why it cannot.
    type Error;
    /// What has changed since this was last asked. Whoever writes to the tables notes it after it has written.
    fn changes(&mut self) -> Changes;
    /// A slot, by its place in the table.
    fn slot(&self, index: u32) -> Result<Slot, Self::Error>;
    /// Whom a target id stands for.
    fn name(&self, target: u16) -> Result<Option<TargetName>, Self::Error>;
    /// The established record of a flow.
    fn flow(&self, key: &FlowKey) -> Result<Option<FlowRecord>, Self::Error>;
    /// What is noted of a client.
    fn client(&self, key: &ClientKey) -> Result<Option<Affinity>, Self::Error>;
    /// How answers get to the client of a translated connection.
    fn way_to_client(&self, key: &FlowKey, record: &FlowRecord) -> Result<Option<WayToClient>, Self::Error>;
    /// All flows of these services that have an established record.
    fn flows_of(&self, services: &BTreeSet<u16>) -> Result<Vec<FlowKey>, Self::Error>;
    /// All clients of these services of whom something is noted.
    fn clients_of(&self, services: &BTreeSet<u16>) -> Result<Vec<ClientKey>, Self::Error>;
    /// The time, in ticks.
    fn now(&self) -> u32;
}

/// What is still to be told, for one connection.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    /// The services that we own, by id.
    owned: BTreeMap<u16, Owned>,
    /// What has begun here of services that we do not own.
    unowned: Unowned,
    /// The backends that the peer knows, by id.
    introduced: BTreeMap<u16, TargetName>,
    /// The flows that have changed.
    flows: BTreeSet<FlowKey>,
    /// The flows that have ended, which is told once their slots have been.
    ended: BTreeSet<FlowKey>,
    /// The clients that have changed.
    clients: BTreeSet<ClientKey>,
    /// The peer's services with which it is to begin anew.
    asking: BTreeSet<ServiceKey>,
    /// What operators have decided, by what it is about.
    decisions: BTreeMap<About, Word>,
}

/// A client that was looked up.
struct Looked {
    key: ClientKey,
    noted: Option<Affinity>,
    /// Whether that is why, or that it was there.
    has_changed: bool,
}

/// What a decision is about: backend, service, and whether it is about the weight.
type About = (String, Option<String>, bool);

impl Outbox {
    /// From now on we own these services, and no others. The peer is told all of those that are new.
    pub fn own(&mut self, services: impl IntoIterator<Item = (ServiceKey, Service)>) {
        let mut before = std::mem::take(&mut self.owned);
        for (key, entry) in services {
            let owned = match before.remove(&entry.id) {
                Some(owned) if owned.key == key => Owned { entry, ..owned },
                _ => {
                    self.forget(entry.id);
                    Owned::new(key, entry)
                }
            };
            self.owned.insert(entry.id, owned);
        }
        for id in before.into_keys() {
            self.forget(id);
        }
    }

    /// These services we have and do not own: what begins here of them is told nevertheless, and nothing else. To be said before what we
    /// [own](Self::own).
    pub fn watch(&mut self, services: impl IntoIterator<Item = (ServiceKey, Service)>) {
        self.unowned.watch(services);
    }

    /// The peer asks to be told of a service from its beginning.
    pub fn tell_again(&mut self, key: &ServiceKey) {
        // If it is not ours, it has an owner that does not know of it yet, or has none.
        if let Some(owned) = self.owned.values_mut().find(|owned| owned.key == *key) {
            owned.begin_anew();
        }
    }

    /// We follow a service from now on, and what the peer has told of it so far, if anything, has been for nothing: it is to begin anew.
    /// The [inbox](super::Inbox::forget) must be told too.
    pub fn ask(&mut self, key: ServiceKey) {
        self.asking.insert(key);
    }

    /// Operators have decided this: all of it when the connection begins, later what is new. Whoever owns what tells it.
    pub fn decide(&mut self, words: impl IntoIterator<Item = Word>) {
        for word in words {
            let (backend, service, is_weight) = word.subject();
            let about = (backend.to_owned(), service.map(str::to_owned), is_weight);
            self.decisions.insert(about, word);
        }
    }

    /// Nothing more is to be told of a service but what has begun here.
    fn forget(&mut self, service: u16) {
        let flows: Vec<FlowKey> = self
            .flows
            .extract_if(.., |key| key.service() == service)
            .collect();
        let clients: Vec<ClientKey> = self
            .clients
            .extract_if(.., |key| key.service() == service)
            .collect();
        self.ended.retain(|key| key.service() != service);
        self.unowned.note(&flows, &clients);
    }

    /// Takes in what has changed.
    fn absorb(&mut self, changes: Changes) {
        self.unowned.note(&changes.flows, &changes.clients);
        if changes.anything || self.flows.len() + self.ended.len() + self.clients.len() > WAITING {
            self.owned.values_mut().for_each(Owned::begin_anew);
            // What has ended is not named again, and everything else is.
            self.flows.clear();
            self.ended.clear();
            self.clients.clear();
            return;
        }
        for range in changes.slots {
            for Owned { entry, slots, .. } in self.owned.values_mut() {
                let last = entry.first_slot.saturating_add(entry.slots);
                let (begin, end) = (range.start.max(entry.first_slot), range.end.min(last));
                for index in begin..end {
                    slots.insert(index - entry.first_slot);
                }
            }
        }
        let owned = &self.owned;
        let is_owned = |service: u16| owned.contains_key(&service);
        self.flows
            .extend(changes.flows.into_iter().filter(|key| is_owned(key.service())));
        self.clients
            .extend(changes.clients.into_iter().filter(|key| is_owned(key.service())));
    }

    /// What to tell next; nothing if the peer has been told everything. What the source has said is lost with an error: whoever gets
    /// one begins anew, with another connection.
    ///
    /// Flows are looked up first, and what has changed by then is taken in before slots are: that a flow has ended because its slot has
    /// settled is never told before the slot is. How a flow is, on the other hand, is told before slots are: a peer that has been
    /// the owner itself may have settled a slot of which we know nothing, and forgotten its records.
    ///
    /// What has changed goes before what was listed: a connection that begins while a million others are told of is not to wait for these.
    /// Of a service whose flows are still being told of its slots do wait, and all that waits for them; other services' do not.
    pub fn next_batch<S: Source>(&mut self, source: &mut S) -> Result<Vec<Item>, S::Error> {
        self.absorb(source.changes());
        let mut batch = Batch::default();
        self.ask_and_decide(&mut batch);
        // However much changes, the listing goes on, and so do slots and what waits for them.
        let has_backlog = self.has_backlog();
        let is_enough = |batch: &Batch| batch.is_full() || has_backlog && batch.is_half_full();
        self.tell_unowned(is_enough, source, &mut batch)?;
        // If there is still room then, all have been introduced.
        self.introduce_services(&mut batch);
        self.list(source)?;
        while !is_enough(&batch)
            && let Some(key) = self.flows.pop_first()
        {
            self.look_up_flow(key, source, &mut batch)?;
        }
        self.tell_listed(Batch::is_nearly_full, source, &mut batch)?;
        let clients = self.look_up_clients(source)?;
        self.absorb(source.changes());
        self.tell_slots(source, &mut batch)?;
        self.tell_ended(&mut batch);
        self.tell_clients(clients, source, &mut batch)?;
        self.complete(&mut batch);
        self.tell_listed(Batch::is_full, source, &mut batch)?;
        Ok(batch.items)
    }

    /// Whether there is something to tell, as far as has been taken in.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
            && self.ended.is_empty()
            && self.clients.is_empty()
            && self.asking.is_empty()
            && self.unowned.is_empty()
            && self.decisions.is_empty()
            && !self.has_backlog()
    }

    /// Whether the peer is still being told of what there is: more than what has changed a moment ago.
    pub fn has_backlog(&self) -> bool {
        !self.owned.values().all(Owned::is_told)
    }

    /// What is short, and what somebody waits for, before all that may take long.
    fn ask_and_decide(&mut self, batch: &mut Batch) {
        while !batch.is_full()
            && let Some(key) = self.asking.pop_first()
        {
            batch.push(Item::Again {
                vip: key.address().into(),
                port: key.port(),
            });
        }
        while !batch.is_full()
            && let Some((_, word)) = self.decisions.pop_first()
        {
            batch.push(Item::Decision(word));
        }
    }

    /// Tells what has begun here of services that we do not own, unless it is over, until there is enough in the batch.
    fn tell_unowned<S: Source>(
        &mut self,
        is_enough: impl Fn(&Batch) -> bool,
        source: &S,
        batch: &mut Batch,
    ) -> Result<(), S::Error> {
        while !is_enough(batch)
            && let Some(key) = self.unowned.flows.pop_first()
        {
            if let Some(record) = source.flow(&key)?
                && let Some(translates) = self.unowned.introduce(key.service(), batch)
            {
                self.tell_flow(key, record, translates, source, batch)?;
            }
        }
        let now = source.now();
        while !is_enough(batch)
            && let Some(key) = self.unowned.clients.pop_first()
        {
            let noted = source.client(&key)?;
            if noted.is_some() && self.unowned.introduce(key.service(), batch).is_some() {
                self.tell_client(key, noted, now, source, batch)?;
            }
        }
        Ok(())
    }

    fn introduce_services(&mut self, batch: &mut Batch) {
        for (&id, owned) in &mut self.owned {
            if owned.is_introduced || batch.is_full() {
                continue;
            }
            owned.is_introduced = true;
            batch.push(Item::Service {
                id,
                vip: owned.key.address().into(),
                port: owned.key.port(),
            });
            batch.push(Item::Begin { service: id });
        }
    }

    /// Lists the flows and clients of services that have been introduced.
    fn list<S: Source>(&mut self, source: &S) -> Result<(), S::Error> {
        let is_due = |owned: &Owned| owned.is_introduced && matches!(owned.listing, Listing::Due);
        let due = self.owned.iter().filter(|(_, owned)| is_due(owned));
        let services: BTreeSet<u16> = due.map(|(id, _)| *id).collect();
        if services.is_empty() {
            return Ok(());
        }
        let mut flows = by_service(source.flows_of(&services)?, FlowKey::service);
        let mut clients = by_service(source.clients_of(&services)?, ClientKey::service);
        for (id, owned) in self.owned.iter_mut().filter(|(id, _)| services.contains(id)) {
            owned.listing = Listing::Underway(Listed {
                flows: flows.remove(id).unwrap_or_default(),
                clients: clients.remove(id).unwrap_or_default(),
            });
        }
        Ok(())
    }

    /// Looks a flow up, and tells how it is, or that it has ended later.
    fn look_up_flow<S: Source>(
        &mut self,
        key: FlowKey,
        source: &S,
        batch: &mut Batch,
    ) -> Result<(), S::Error> {
        let Some(owned) = self.owned.get_mut(&key.service()) else {
            return Ok(());
        };
        if let Some(listed) = owned.listed() {
            listed.flows.remove(&key);
        }
        let translates = owned.entry.flags & flag::TRANSLATES != 0;
        let Some(record) = source.flow(&key)? else {
            self.ended.insert(key);
            return Ok(());
        };
        self.ended.remove(&key);
        self.tell_flow(key, record, translates, source, batch)
    }

    /// Tells of flows because they were there, until there is enough in the batch.
    fn tell_listed<S: Source>(
        &mut self,
        is_enough: impl Fn(&Batch) -> bool,
        source: &S,
        batch: &mut Batch,
    ) -> Result<(), S::Error> {
        let services: Vec<u16> = self.owned.keys().copied().collect();
        for service in services {
            while !is_enough(batch)
                && let Some(listed) = self.owned.get_mut(&service).and_then(Owned::listed)
                && let Some(key) = listed.flows.pop_first()
            {
                self.look_up_flow(key, source, batch)?;
            }
        }
        Ok(())
    }

    /// Takes some of the clients that may be told in this batch, and looks them up.
    fn look_up_clients<S: Source>(&mut self, source: &S) -> Result<Vec<Looked>, S::Error> {
        let owned = &self.owned;
        let is_next = |key: &ClientKey| owned.get(&key.service()).is_some_and(Owned::is_nearly_settled);
        let mut keys: Vec<ClientKey> = self
            .clients
            .extract_if(.., |key| is_next(key))
            .take(LOOKED_UP)
            .collect();
        let changed = keys.len();
        for owned in self.owned.values_mut().filter(|owned| owned.is_nearly_settled()) {
            while keys.len() < LOOKED_UP
                && let Some(listed) = owned.listed()
                && let Some(key) = listed.clients.pop_first()
            {
                keys.push(key);
            }
        }
        let look_up = |(place, key): (usize, ClientKey)| {
            Ok(Looked {
                key,
                noted: source.client(&key)?,
                has_changed: place < changed,
            })
        };
        keys.into_iter().enumerate().map(look_up).collect()
    }

    fn tell_slots<S: Source>(&mut self, source: &S, batch: &mut Batch) -> Result<(), S::Error> {
        let (mut owned, now) = (std::mem::take(&mut self.owned), source.now());
        let told = owned.iter_mut().try_for_each(|(&service, owned)| {
            let mut runs = Runs::of(service);
            while owned.has_told_flows()
                && !batch.is_full_with(&runs)
                && let Some(place) = owned.slots.pop_first()
            {
                let slot = source.slot(owned.entry.first_slot.saturating_add(place))?;
                let run = Run {
                    length: 1,
                    settled: self.introduce(slot.settled, source, batch)?,
                    current: self.introduce(slot.current, source, batch)?,
                    tracked: slot.tracked,
                    grace: slot_moves::grace_age(slot, now),
                };
                runs.add(place, run, batch);
            }
            runs.finish(batch);
            Ok(())
        });
        self.owned = owned;
        told
    }

    fn tell_flow<S: Source>(
        &mut self,
        key: FlowKey,
        record: FlowRecord,
        translates: bool,
        source: &S,
        batch: &mut Batch,
    ) -> Result<(), S::Error> {
        let flow = Flow {
            backend: self.introduce(record.target, source, batch)?,
            closing: record.closing != 0,
            idle: clock::since(source.now(), record.last_seen),
            port: record.port,
            way: if translates {
                source.way_to_client(&key, &record)?
            } else {
                None
            },
        };
        // Whoever has no name any more has no flows either.
        batch.push(Self::flow(
            key,
            Some(flow).filter(|flow| flow.backend != NO_TARGET),
        ));
        Ok(())
    }

    fn flow(key: FlowKey, flow: Option<Flow>) -> Item {
        Item::Flow {
            service: key.service(),
            client: key.client().into(),
            port: key.client_port(),
            flow,
        }
    }

    /// Tells of flows that have ended, as far as their slots have been told.
    fn tell_ended(&mut self, batch: &mut Batch) {
        let owned = &self.owned;
        let is_next = |key: &FlowKey| owned.get(&key.service()).is_some_and(Owned::is_settled);
        let mut ended = self.ended.extract_if(.., |key| is_next(key));
        while !batch.is_full()
            && let Some(key) = ended.next()
        {
            batch.push(Self::flow(key, None));
        }
    }

    /// Tells of clients, as far as their slots have been told. The others are looked up again.
    fn tell_clients<S: Source>(
        &mut self,
        clients: Vec<Looked>,
        source: &S,
        batch: &mut Batch,
    ) -> Result<(), S::Error> {
        let now = source.now();
        for Looked {
            key,
            noted,
            has_changed,
        } in clients
        {
            let Some(owned) = self.owned.get_mut(&key.service()) else {
                continue;
            };
            if owned.is_settled() && !batch.is_full() {
                self.tell_client(key, noted, now, source, batch)?;
            } else if let Some(listed) = owned.listed().filter(|_| !has_changed) {
                listed.clients.insert(key);
            } else {
                self.clients.insert(key);
            }
        }
        Ok(())
    }

    /// Says of services that this was all.
    fn complete(&mut self, batch: &mut Batch) {
        for (&service, owned) in &mut self.owned {
            if owned.is_complete() && !batch.is_full() {
                owned.listing = Listing::Over;
                batch.push(Item::Complete { service });
            }
        }
    }

    fn tell_client<S: Source>(
        &mut self,
        key: ClientKey,
        noted: Option<Affinity>,
        now: u32,
        source: &S,
        batch: &mut Batch,
    ) -> Result<(), S::Error> {
        let home = match noted {
            None => None,
            Some(noted) => Some(Home {
                backend: self.introduce(noted.target, source, batch)?,
                idle: clock::since(now, noted.last_seen),
            }),
        };
        batch.push(Item::Client {
            service: key.service(),
            client: key.client().into(),
            home: home.filter(|home| home.backend != NO_TARGET),
        });
        Ok(())
    }

    /// Sees to it that the peer knows a target. Returns its id, or nobody's if it stands for nobody.
    fn introduce<S: Source>(&mut self, target: u16, source: &S, batch: &mut Batch) -> Result<u16, S::Error> {
        if target == NO_TARGET {
            return Ok(NO_TARGET);
        }
        let name = source.name(target)?;
        let Some((found, text)) = name.as_ref().and_then(|name| Some((*name, name.name()?))) else {
            return Ok(NO_TARGET);
        };
        if self.introduced.insert(target, found) != Some(found) {
            batch.push(Item::Backend {
                id: target,
                service: found.service(),
                name: text.to_owned(),
                address: found.address(),
                port: found.port(),
            });
        }
        Ok(target)
    }
}
