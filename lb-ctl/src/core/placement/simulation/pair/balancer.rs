//! One of the two, and its tables as the stream reads and writes them.

use lb_common::{
    clock,
    layout::{Affinity, ClientKey, FlowRecord, Service},
};

use super::*;
use crate::core::{
    config::Forward,
    sync::{Added, Mirror, Source, WayToClient},
};

/// One of the two, and what the other one has to know of it.
pub(super) struct Balancer {
    pub(super) world: World,
    pub(super) changes: Changes,
    pub(super) outbox: Outbox,
    /// Of the other one's outbox.
    pub(super) inbox: Inbox,
    /// The services that it tells of though they are not its own any more.
    pub(super) hands_over: BTreeSet<u16>,
    /// The connections of services of the other one that it has told of everything about: by client, their numbers.
    pub(super) known: BTreeMap<Client, u64>,
}

/// What a source looks at.
pub(super) struct Tables<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) changes: &'a mut Changes,
}

fn flows_of(kernel: &Kernel, services: &BTreeSet<u16>) -> Vec<FlowKey> {
    let flows = kernel.tables.flows.keys().copied();
    flows.filter(|key| services.contains(&key.service())).collect()
}

fn clients_of(kernel: &Kernel, services: &BTreeSet<u16>) -> Vec<ClientKey> {
    let clients = kernel.tables.affinity.keys().copied();
    clients.filter(|key| services.contains(&key.service())).collect()
}

pub(super) fn key_of(service: u16) -> ServiceKey {
    let address = service_address(service);
    ServiceKey::tcp(address.ip().into(), address.port())
}

impl Source for Tables<'_> {
    type Error = kernel::Killed;

    fn changes(&mut self) -> Changes {
        self.changes.take()
    }

    fn slot(&self, index: u32) -> Result<Slot, kernel::Killed> {
        Ok(self.kernel.load(index))
    }

    fn name(&self, target: u16) -> Result<Option<TargetName>, kernel::Killed> {
        Ok(self.kernel.names.get(usize::from(target)).copied())
    }

    fn flow(&self, key: &FlowKey) -> Result<Option<FlowRecord>, kernel::Killed> {
        Ok(self.kernel.tables.flows.get(key).copied())
    }

    fn client(&self, key: &ClientKey) -> Result<Option<Affinity>, kernel::Killed> {
        Ok(self.kernel.tables.affinity.get(key).copied())
    }

    fn way_to_client(&self, _: &FlowKey, _: &FlowRecord) -> Result<Option<WayToClient>, kernel::Killed> {
        Ok(None)
    }

    fn flows_of(&self, services: &BTreeSet<u16>) -> Result<Vec<FlowKey>, kernel::Killed> {
        Ok(flows_of(self.kernel, services))
    }

    fn clients_of(&self, services: &BTreeSet<u16>) -> Result<Vec<ClientKey>, kernel::Killed> {
        Ok(clients_of(self.kernel, services))
    }

    fn now(&self) -> u32 {
        self.kernel.tables.now
    }
}

impl Mirror for World {
    type Error = kernel::Killed;

    fn shared(&self, key: &ServiceKey) -> Option<Service> {
        self.placement.service(key).copied()
    }

    fn followed(&self, key: &ServiceKey) -> Option<Service> {
        let service = self.placement.service(key)?;
        self.placement.is_followed(service.id).then_some(*service)
    }

    fn target(
        &mut self,
        service: u16,
        name: &str,
        address: std::net::IpAddr,
        port: u16,
    ) -> Result<Option<u16>, kernel::Killed> {
        let Some(name) = TargetName::new(service, name, address, port) else {
            return Ok(None);
        };
        let forwarding = crate::core::plan::forwarding(Forward::Dsr, (address, port), &self.config.datapath);
        let target = self
            .placement
            .target_of_peer(name, forwarding, &mut self.kernel)?;
        Ok(target.id())
    }

    fn slot(&self, index: u32) -> Result<Slot, kernel::Killed> {
        Ok(self.kernel.load(index))
    }

    fn store_slot(&mut self, index: u32, slot: Slot) -> Result<(), kernel::Killed> {
        self.kernel.tables.slots[index as usize] = slot.to_bits();
        Ok(())
    }

    fn put_flow(
        &mut self,
        key: &FlowKey,
        record: FlowRecord,
        _: Option<WayToClient>,
    ) -> Result<bool, kernel::Killed> {
        let tables = &mut self.kernel.tables;
        if tables.flows.len() >= usize::from(ROOM) && !tables.flows.contains_key(key) {
            return Ok(false);
        }
        let before = tables.flows.insert(*key, record);
        tables.count_live(before, Some(record));
        Ok(true)
    }

    fn add_flow(
        &mut self,
        key: &FlowKey,
        record: FlowRecord,
        way: Option<WayToClient>,
    ) -> Result<Added, kernel::Killed> {
        if self.kernel.tables.flows.contains_key(key) {
            return Ok(Added::Present);
        }
        let has_room = self.put_flow(key, record, way)?;
        Ok(if has_room { Added::New } else { Added::NoRoom })
    }

    fn remove_flow(&mut self, key: &FlowKey) -> Result<(), kernel::Killed> {
        let before = self.kernel.tables.flows.remove(key);
        self.kernel.tables.count_live(before, None);
        Ok(())
    }

    fn remove_unused_flow(&mut self, key: &FlowKey, since: u32) -> Result<bool, kernel::Killed> {
        let record = self.kernel.tables.flows.get(key);
        if record.is_some_and(|record| clock::since(since, record.last_seen) > 0) {
            self.remove_flow(key)?;
        }
        Ok(!self.kernel.tables.flows.contains_key(key))
    }

    fn put_client(&mut self, key: &ClientKey, home: Affinity) -> Result<(), kernel::Killed> {
        self.kernel.tables.affinity.insert(*key, home);
        Ok(())
    }

    fn add_client(&mut self, key: &ClientKey, home: Affinity) -> Result<bool, kernel::Killed> {
        let is_new = !self.kernel.tables.affinity.contains_key(key);
        self.kernel.tables.affinity.entry(*key).or_insert(home);
        Ok(is_new)
    }

    fn remove_client(&mut self, key: &ClientKey) -> Result<(), kernel::Killed> {
        self.kernel.tables.affinity.remove(key);
        Ok(())
    }

    fn flows_of(&self, services: &BTreeSet<u16>) -> Result<Vec<FlowKey>, kernel::Killed> {
        Ok(flows_of(&self.kernel, services))
    }

    fn clients_of(&self, services: &BTreeSet<u16>) -> Result<Vec<ClientKey>, kernel::Killed> {
        Ok(clients_of(&self.kernel, services))
    }

    fn note_flow(&mut self, key: &FlowKey, slot: u32) {
        self.placement.record_added(slot);
        self.told_on.flow(*key);
    }

    fn note_client(&mut self, key: &ClientKey) {
        self.told_on.client(*key);
    }

    fn now(&self) -> u32 {
        self.kernel.tables.now
    }
}

impl Balancer {
    /// Notes what has changed in the tables since they were like this. That something was used is no news.
    pub(super) fn note_changes(&mut self, before: &lb_common::testing::HostTables) {
        let tables = &self.world.kernel.tables;
        for (index, (old, new)) in (0..).zip(before.slots.iter().zip(&tables.slots)) {
            let unused = |bits: u64| Slot {
                settled_seen: 0,
                ..Slot::from_bits(bits)
            };
            if unused(*old) != unused(*new) {
                self.changes.slot(index);
            }
        }
        let flow = |record: Option<&FlowRecord>| record.map(|it| (it.target, it.closing != 0));
        for key in before.flows.keys().chain(tables.flows.keys()) {
            if flow(before.flows.get(key)) != flow(tables.flows.get(key)) {
                self.changes.flow(*key);
            }
        }
        let client = |noted: Option<&Affinity>| noted.map(|it| it.target);
        for key in before.affinity.keys().chain(tables.affinity.keys()) {
            if client(before.affinity.get(key)) != client(tables.affinity.get(key)) {
                self.changes.client(*key);
            }
        }
    }

    /// Says anew of which services it tells.
    pub(super) fn own(&mut self) {
        let owns = self.world.owns.expect("there is another one");
        let (told, others): (Vec<u16>, Vec<u16>) = (0..SERVICES)
            .partition(|service| owns[usize::from(*service)] || self.hands_over.contains(service));
        let entries = |services: Vec<u16>| {
            let keys = services.into_iter().map(key_of);
            let entries = keys.filter_map(|key| Some((key, *self.world.placement.service(&key)?)));
            entries.collect::<Vec<_>>()
        };
        self.outbox.watch(entries(others));
        self.outbox.own(entries(told));
    }

    /// Makes a service its own, or another's.
    pub(super) fn set_owned(&mut self, service: u16, is_owned: bool) {
        let owns = self.world.owns.as_mut().expect("there is another one");
        owns[usize::from(service)] = is_owned;
    }

    /// Takes its connections to a service out of it.
    pub(super) fn take_connections(&mut self, service: u16) -> BTreeMap<Client, Connection> {
        let connections = &mut self.world.connections;
        connections
            .extract_if(.., |client, _| client.0 == service)
            .collect()
    }

    /// The services that it follows.
    pub(super) fn followed(&self) -> BTreeSet<ServiceKey> {
        let services = self.world.kernel.tables.services.keys().copied();
        services
            .filter(|key| self.world.followed(key).is_some())
            .collect()
    }

    /// Deletes some of what it has not been told of, or all of it. Whether there is more.
    pub(super) fn delete_unnamed(&mut self, at_once: bool) -> bool {
        let before = self.world.kernel.tables.clone();
        let deleted = if at_once {
            self.inbox.finish(None, &mut self.world)
        } else {
            self.inbox.go_on(&mut self.world)
        };
        deleted.expect("nobody is killed here");
        self.note_changes(&before);
        self.inbox.has_more(self.world.kernel.tables.now)
    }

    /// Asks to be told of what it follows now and did not before.
    pub(super) fn ask(&mut self, before: &BTreeSet<ServiceKey>) {
        for key in self.followed().difference(before) {
            self.inbox.forget(key);
            self.outbox.ask(*key);
        }
    }

    /// The settled backend of a client's slot.
    pub(super) fn settled(&self, client: Client) -> Option<TargetName> {
        let (_, index) = self.world.key(client)?;
        Some(self.world.kernel.names[usize::from(self.world.kernel.load(index).settled)])
    }

    /// Whether it may not take the other one's word for a client as long as a service arrives: there is a record, or another settled backend.
    pub(super) fn may_know_better(&self, client: Client, theirs: Option<TargetName>) -> bool {
        let record = |(key, _)| self.world.kernel.tables.flow(&key);
        let has_record = self.world.key(client).and_then(record).is_some();
        let is_settled_alike = self
            .settled(client)
            .zip(theirs)
            .is_some_and(|(ours, theirs)| is_same(&ours, &theirs));
        has_record || !is_settled_alike
    }

    /// Where the packets of a client's connection go, if there is its service.
    pub(super) fn home(&self, client: Client) -> Option<TargetName> {
        let (key, index) = self.world.key(client)?;
        let slot = self.world.kernel.load(index);
        let target = match self.world.kernel.tables.flow(&key) {
            Some(record) if slot.tracked => record.target,
            _ => slot.settled,
        };
        Some(self.world.kernel.names[usize::from(target)])
    }
}
