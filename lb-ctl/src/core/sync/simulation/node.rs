//! A balancer's tables in memory.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::IpAddr,
};

use lb_common::{
    address::Address,
    clock,
    layout::{Affinity, ClientKey, FlowKey, FlowRecord, Service, ServiceKey, Slot, TargetName},
};

use super::{
    super::{Added, Changes, Mirror, Source, WayToClient},
    SLOTS,
};

/// One balancer's tables.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    pub(super) services: BTreeMap<ServiceKey, Service>,
    pub(super) names: BTreeMap<u16, TargetName>,
    pub(super) slots: BTreeMap<u32, Slot>,
    pub(super) flows: BTreeMap<FlowKey, FlowRecord>,
    pub(super) clients: BTreeMap<ClientKey, Affinity>,
    /// As far as they are told.
    pub(super) ways: BTreeMap<FlowKey, WayToClient>,
    pub(super) changes: Changes,
    pub(super) now: u32,
    /// The id that the next backend gets.
    pub(super) next: u16,
    /// Whether everything is somebody else's.
    pub(super) follows: bool,
    /// How often what is told has had all flows listed.
    pub(super) passes: Cell<u32>,
    /// How many slots it has had written.
    pub(super) stored: u32,
}

impl Node {
    /// With two services, whose ids are these.
    pub(super) fn of(ids: [u16; 2], next: u16, now: u32) -> Self {
        let mut node = Self {
            now,
            next,
            ..Self::default()
        };
        for (number, id) in (1..).zip(ids) {
            let service = Service {
                hash_seed: 1,
                first_slot: u32::from(id) * SLOTS,
                slots: SLOTS,
                flags: 0,
                id,
                port_mask: u16::MAX,
                affinity_timeout: 100,
                candidates: 0,
                reserved: 0,
            };
            node.services
                .insert(ServiceKey::tcp(Address::v4([10, 0, 0, number]), 21050), service);
        }
        node
    }

    /// With two services that it follows, at this time.
    pub(super) fn follower(now: u32) -> Self {
        Self {
            follows: true,
            ..Self::of([1, 0], 40, now)
        }
    }

    pub(super) fn backend(&mut self, service: u16, name: &str, address: IpAddr, port: u16) -> u16 {
        let wanted = TargetName::new(service, name, address, port).unwrap();
        if let Some((&id, _)) = self.names.iter().find(|(_, name)| **name == wanted) {
            return id;
        }
        self.next += 1;
        self.names.insert(self.next, wanted);
        self.next
    }

    pub(super) fn text(&self, target: u16) -> String {
        match self.names.get(&target) {
            Some(name) => format!("{} {}", name.name().unwrap(), name.address()),
            None => "nobody".to_owned(),
        }
    }

    /// Everything, by name.
    pub(super) fn told(&self) -> BTreeMap<String, String> {
        let mut told = BTreeMap::new();
        for (key, service) in &self.services {
            for place in 0..SLOTS {
                let slot = self
                    .slots
                    .get(&(service.first_slot + place))
                    .copied()
                    .unwrap_or_default();
                let (settled, current) = (self.text(slot.settled), self.text(slot.current));
                let text = format!("{settled} {current} {}", slot.tracked);
                told.insert(format!("slot {:?} {place}", key.address()), text);
            }
            let flows = self.flows.iter().filter(|(flow, _)| flow.service() == service.id);
            for (flow, record) in flows {
                let name = format!(
                    "flow {:?} {:?} {}",
                    key.address(),
                    flow.client(),
                    flow.client_port()
                );
                let text = format!("{} {}", self.text(record.target), record.closing != 0);
                told.insert(name, text);
            }
            let clients = self
                .clients
                .iter()
                .filter(|(client, _)| client.service() == service.id);
            for (client, noted) in clients {
                let name = format!("client {:?} {:?}", key.address(), client.client());
                told.insert(name, self.text(noted.target));
            }
        }
        told
    }

    /// Where the packets of a flow go. A flow's slot is its port's.
    pub(super) fn home(&self, key: &ServiceKey, client_port: u16) -> String {
        let service = &self.services[key];
        let index = service.first_slot + u32::from(client_port) % SLOTS;
        let slot = self.slots.get(&index).copied().unwrap_or_default();
        let record = self.flows.get(&flow(service.id, client_port));
        let target = match record {
            Some(record) if slot.tracked => record.target,
            _ => slot.settled,
        };
        self.text(target)
    }
}

/// A record of a flow that is not translated, and of which no end has been seen.
pub(super) const fn record(target: u16, last_seen: u32) -> FlowRecord {
    FlowRecord {
        target,
        closing: 0,
        last_seen,
        port: 0,
        reserved: [0; 3],
    }
}

pub(super) fn flow(service: u16, port: u16) -> FlowKey {
    FlowKey::new(Address::v4([10, 9, 0, 1]), port, service)
}

impl Source for Node {
    type Error = Infallible;

    fn changes(&mut self) -> Changes {
        self.changes.take()
    }

    fn slot(&self, index: u32) -> Result<Slot, Infallible> {
        Ok(self.slots.get(&index).copied().unwrap_or_default())
    }

    fn name(&self, target: u16) -> Result<Option<TargetName>, Infallible> {
        Ok(self.names.get(&target).copied())
    }

    fn flow(&self, key: &FlowKey) -> Result<Option<FlowRecord>, Infallible> {
        Ok(self.flows.get(key).copied())
    }

    fn client(&self, key: &ClientKey) -> Result<Option<Affinity>, Infallible> {
        Ok(self.clients.get(key).copied())
    }

    fn way_to_client(&self, _: &FlowKey, _: &FlowRecord) -> Result<Option<WayToClient>, Infallible> {
        Ok(None)
    }

    fn flows_of(&self, services: &BTreeSet<u16>) -> Result<Vec<FlowKey>, Infallible> {
        let flows = self.flows.keys().filter(|key| services.contains(&key.service()));
        Ok(flows.copied().collect())
    }

    fn clients_of(&self, services: &BTreeSet<u16>) -> Result<Vec<ClientKey>, Infallible> {
        let clients = self
            .clients
            .keys()
            .filter(|key| services.contains(&key.service()));
        Ok(clients.copied().collect())
    }

    fn now(&self) -> u32 {
        self.now
    }
}

impl Mirror for Node {
    type Error = Infallible;

    fn shared(&self, key: &ServiceKey) -> Option<Service> {
        self.services.get(key).copied()
    }

    fn followed(&self, key: &ServiceKey) -> Option<Service> {
        self.services.get(key).filter(|_| self.follows).copied()
    }

    fn target(
        &mut self,
        service: u16,
        name: &str,
        address: IpAddr,
        port: u16,
    ) -> Result<Option<u16>, Infallible> {
        Ok(Some(self.backend(service, name, address, port)))
    }

    fn slot(&self, index: u32) -> Result<Slot, Infallible> {
        Source::slot(self, index)
    }

    fn store_slot(&mut self, index: u32, slot: Slot) -> Result<(), Infallible> {
        self.slots.insert(index, slot);
        self.stored += 1;
        Ok(())
    }

    fn put_flow(
        &mut self,
        key: &FlowKey,
        record: FlowRecord,
        way: Option<WayToClient>,
    ) -> Result<bool, Infallible> {
        self.flows.insert(*key, record);
        self.ways.extend(way.map(|way| (*key, way)));
        Ok(true)
    }

    fn add_flow(
        &mut self,
        key: &FlowKey,
        record: FlowRecord,
        way: Option<WayToClient>,
    ) -> Result<Added, Infallible> {
        if self.flows.contains_key(key) {
            return Ok(Added::Present);
        }
        self.put_flow(key, record, way)?;
        Ok(Added::New)
    }

    fn remove_flow(&mut self, key: &FlowKey) -> Result<(), Infallible> {
        self.flows.remove(key);
        Ok(())
    }

    fn remove_unused_flow(&mut self, key: &FlowKey, since: u32) -> Result<bool, Infallible> {
        let is_unused = |record: &FlowRecord| clock::since(since, record.last_seen) > 0;
        if self.flows.get(key).is_some_and(is_unused) {
            self.flows.remove(key);
        }
        Ok(!self.flows.contains_key(key))
    }

    fn put_client(&mut self, key: &ClientKey, home: Affinity) -> Result<(), Infallible> {
        self.clients.insert(*key, home);
        Ok(())
    }

    fn add_client(&mut self, key: &ClientKey, home: Affinity) -> Result<bool, Infallible> {
        let is_new = !self.clients.contains_key(key);
        self.clients.entry(*key).or_insert(home);
        Ok(is_new)
    }

    fn remove_client(&mut self, key: &ClientKey) -> Result<(), Infallible> {
        self.clients.remove(key);
        Ok(())
    }

    fn flows_of(&self, services: &BTreeSet<u16>) -> Result<Vec<FlowKey>, Infallible> {
        self.passes.set(self.passes.get() + 1);
        Source::flows_of(self, services)
    }

    fn clients_of(&self, services: &BTreeSet<u16>) -> Result<Vec<ClientKey>, Infallible> {
        Source::clients_of(self, services)
    }

    fn note_flow(&mut self, key: &FlowKey, _: u32) {
        self.changes.flow(*key);
    }

    fn note_client(&mut self, key: &ClientKey) {
        self.changes.client(*key);
    }

    fn now(&self) -> u32 {
        self.now
    }
}
