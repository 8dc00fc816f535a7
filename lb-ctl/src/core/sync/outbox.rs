//! The owner's side: what the peer has not heard of yet.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    clock,
    layout::{
        Affinity, ClientKey, FlowKey, FlowRecord, NO_TARGET, Service, ServiceKey, Slot, TargetName, flag,
    },
};

use super::{
    changes::Changes,
    slot_set::SlotSet,
    wire::{BATCH, Flow, Home, Item, RUNS, Run, WayToClient},
};
use crate::core::{operator::Word, slot_moves};

/// How many bytes a run of slots takes at most.
const RUN: usize = 18;

/// How many flows and clients are looked up for a batch. More than this do not fit.
const LOOKED_UP: usize = BATCH / 12;

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
    /// The backends that the peer knows, by id.
    introduced: BTreeMap<u16, TargetName>,
    flows: BTreeSet<FlowKey>,
    clients: BTreeSet<ClientKey>,
    /// Services whose flows and clients are still to be listed.
    unlisted: BTreeSet<u16>,
    /// Services whose flows and clients are complete once everything has been told.
    completing: BTreeSet<u16>,
    /// The peer's services with which it is to begin anew.
    asking: BTreeSet<ServiceKey>,
    /// What operators have decided, by what it is about.
    decisions: BTreeMap<About, Word>,
}

/// What a decision is about: backend, service, and whether it is about the weight.
type About = (String, Option<String>, bool);

#[derive(Clone, Debug)]
struct Owned {
    key: ServiceKey,
    entry: Service,
    is_introduced: bool,
    /// The slots that are to be told, counted from the service's first.
    slots: SlotSet,
}

impl Outbox {
    /// From now on we own these services, and no others. The peer is told all of those that are new.
    pub fn own(&mut self, services: impl IntoIterator<Item = (ServiceKey, Service)>) {
        let mut before = std::mem::take(&mut self.owned);
        for (key, entry) in services {
            let owned = match before.remove(&entry.id) {
                Some(owned) if owned.key == key => Owned { entry, ..owned },
                _ => {
                    self.forget(entry.id);
                    self.unlisted.insert(entry.id);
                    Owned {
                        key,
                        entry,
                        is_introduced: false,
                        slots: SlotSet::full(entry.slots),
                    }
                }
            };
            self.owned.insert(entry.id, owned);
        }
        for id in before.into_keys() {
            self.forget(id);
        }
    }

    /// The peer asks to be told of a service from its beginning.
    pub fn tell_again(&mut self, key: &ServiceKey) {
        let Some(owned) = self.owned.values_mut().find(|owned| owned.key == *key) else {
            // It has an owner that does not know of it yet, or has none.
            return;
        };
        owned.is_introduced = false;
        owned.slots = SlotSet::full(owned.entry.slots);
        let id = owned.entry.id;
        self.forget(id);
        self.unlisted.insert(id);
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

    /// Nothing more is to be told of a service.
    fn forget(&mut self, service: u16) {
        self.flows.retain(|key| key.service() != service);
        self.clients.retain(|key| key.service() != service);
        self.unlisted.remove(&service);
        self.completing.remove(&service);
    }

    /// Takes in what has changed.
    fn absorb(&mut self, changes: Changes) {
        if changes.anything {
            for (&id, owned) in &mut self.owned {
                owned.is_introduced = false;
                owned.slots = SlotSet::full(owned.entry.slots);
                self.unlisted.insert(id);
            }
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
    pub fn next_batch<S: Source>(&mut self, source: &mut S) -> Result<Vec<Item>, S::Error> {
        self.absorb(source.changes());
        let mut batch = Batch::default();
        while !batch.is_full()
            && let Some(key) = self.asking.pop_first()
        {
            batch.push(Item::Again {
                vip: key.address().into(),
                port: key.port(),
            });
        }
        // Before all that may take long: an operator waits for it.
        while !batch.is_full()
            && let Some((_, word)) = self.decisions.pop_first()
        {
            batch.push(Item::Decision(word));
        }
        self.introduce_services(&mut batch);
        self.list(source)?;
        let (flows, clients) = self.look_up(source)?;
        let now = source.now();
        let mut ended = Vec::new();
        for (key, record) in flows {
            match (self.owned.get(&key.service()), record) {
                (Some(_), None) => ended.push(key),
                (Some(owned), Some(record)) if owned.is_introduced && !batch.is_full() => {
                    let translates = owned.entry.flags & flag::TRANSLATES != 0;
                    self.tell_flow(key, record, translates, now, source, &mut batch)?;
                }
                _ => {
                    self.flows.insert(key);
                }
            }
        }
        self.absorb(source.changes());
        self.tell_slots(source, &mut batch)?;
        // What waits behind slots must wait for all of them.
        let is_settled = self.owned.values().all(|owned| owned.slots.is_empty());
        for key in ended {
            if is_settled && !batch.is_full() {
                batch.push(Self::flow(key, None));
            } else {
                self.flows.insert(key);
            }
        }
        for (key, noted) in clients {
            if is_settled && !batch.is_full() {
                self.tell_client(key, noted, now, source, &mut batch)?;
            } else {
                self.clients.insert(key);
            }
        }
        let is_everything =
            is_settled && self.flows.is_empty() && self.clients.is_empty() && self.unlisted.is_empty();
        while is_everything
            && !batch.is_full()
            && let Some(service) = self.completing.pop_first()
        {
            batch.push(Item::Complete { service });
        }
        Ok(batch.items)
    }

    /// Whether there is something to tell, as far as has been taken in.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
            && self.clients.is_empty()
            && self.unlisted.is_empty()
            && self.completing.is_empty()
            && self.asking.is_empty()
            && self.decisions.is_empty()
            && self
                .owned
                .values()
                .all(|owned| owned.is_introduced && owned.slots.is_empty())
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
        let is_introduced = |id: &u16| self.owned.get(id).is_some_and(|owned| owned.is_introduced);
        let services: BTreeSet<u16> = self.unlisted.iter().copied().filter(is_introduced).collect();
        if !services.is_empty() {
            self.flows.extend(source.flows_of(&services)?);
            self.clients.extend(source.clients_of(&services)?);
            self.unlisted.retain(|id| !services.contains(id));
            self.completing.extend(services);
        }
        Ok(())
    }

    /// Takes some of the flows and clients that are to be told, and looks them up.
    #[expect(
        clippy::type_complexity,
        reason = "two lists of what a table holds under a key"
    )]
    fn look_up<S: Source>(
        &mut self,
        source: &S,
    ) -> Result<
        (
            Vec<(FlowKey, Option<FlowRecord>)>,
            Vec<(ClientKey, Option<Affinity>)>,
        ),
        S::Error,
    > {
        let mut flows = Vec::new();
        while flows.len() < LOOKED_UP
            && let Some(key) = self.flows.pop_first()
        {
            flows.push((key, source.flow(&key)?));
        }
        let mut clients = Vec::new();
        // While there are more slots to tell than fit beside clients, these would only be looked up in vain.
        let slots: usize = self.owned.values().map(|owned| owned.slots.len()).sum();
        if slots * RUN > BATCH {
            return Ok((flows, clients));
        }
        while flows.len() + clients.len() < LOOKED_UP
            && let Some(key) = self.clients.pop_first()
        {
            clients.push((key, source.client(&key)?));
        }
        Ok((flows, clients))
    }

    fn tell_slots<S: Source>(&mut self, source: &S, batch: &mut Batch) -> Result<(), S::Error> {
        let (mut owned, now) = (std::mem::take(&mut self.owned), source.now());
        let told = owned.iter_mut().try_for_each(|(&service, owned)| {
            let mut runs = Runs::of(service);
            while owned.is_introduced
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
        now: u32,
        source: &S,
        batch: &mut Batch,
    ) -> Result<(), S::Error> {
        let flow = Flow {
            backend: self.introduce(record.target, source, batch)?,
            closing: record.closing != 0,
            idle: clock::since(now, record.last_seen),
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

/// Items for one message.
#[derive(Debug, Default)]
struct Batch {
    items: Vec<Item>,
    /// How many bytes they take at most.
    size: usize,
}

impl Batch {
    fn push(&mut self, item: Item) {
        self.size += item.size();
        self.items.push(item);
    }

    const fn is_full(&self) -> bool {
        self.size >= BATCH
    }

    const fn is_full_with(&self, runs: &Runs) -> bool {
        self.size + runs.told.len() * RUN >= BATCH
    }
}

/// Slots of a service on their way into a batch.
#[derive(Debug)]
struct Runs {
    service: u16,
    first: u32,
    /// The slot after the last one.
    next: u32,
    told: Vec<Run>,
}

impl Runs {
    const fn of(service: u16) -> Self {
        Self {
            service,
            first: 0,
            next: 0,
            told: Vec::new(),
        }
    }

    /// Adds a slot behind all that have been added.
    fn add(&mut self, place: u32, run: Run, batch: &mut Batch) {
        let is_next = place == self.next && self.told.len() < RUNS;
        if !is_next {
            self.finish(batch);
        }
        match self.told.last_mut() {
            Some(last) if Run { length: 1, ..*last } == run => last.length += 1,
            last => {
                if last.is_none() {
                    self.first = place;
                }
                self.told.push(run);
            }
        }
        self.next = place.saturating_add(1);
    }

    fn finish(&mut self, batch: &mut Batch) {
        if !self.told.is_empty() {
            batch.push(Item::Slots {
                service: self.service,
                first: self.first,
                runs: std::mem::take(&mut self.told),
            });
        }
    }
}
