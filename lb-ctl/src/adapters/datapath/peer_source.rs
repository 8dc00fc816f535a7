//! The tables as the state stream reads them, on the thread that talks to the other balancer.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aya::maps::{Array, MapData};
use lb_common::{
    layout::{
        Affinity, ClientKey, FlowKey, FlowRecord, Return, ReturnKey, Service, ServiceKey, Slot, Target,
        TargetName, map,
    },
    translation,
};

use super::{
    Datapath, DatapathError, find, hash_table::HashTable, links::Links, listening::Listening, owned,
    pod::Raw, service_ids::services_by_id, slots::SlotTable,
};
use crate::{
    adapters::kernel_clock,
    core::sync::{Changes, Source, WayToClient},
};

/// What the owner of services tells the other balancer of.
pub struct PeerSource {
    listening: Arc<Listening>,
    slots: Arc<SlotTable>,
    links: Arc<Links>,
    flows: HashTable<FlowKey, FlowRecord>,
    clients: HashTable<ClientKey, Affinity>,
    returns: HashTable<ReturnKey, Return>,
    services: HashTable<ServiceKey, Service>,
    targets: Array<MapData, Raw<Target>>,
    names: Array<MapData, Raw<TargetName>>,
    known: RefCell<Known>,
}

/// What has been looked up since changes were last taken. Ids are given out again long after nothing names them any more, so within
/// a batch nothing of this becomes another's.
#[derive(Default)]
struct Known {
    names: BTreeMap<u16, Option<TargetName>>,
    targets: BTreeMap<u16, Target>,
    services: BTreeMap<u16, ServiceKey>,
}

impl Datapath {
    /// The tables as the state stream reads them, to be used anywhere. What has changed is told to one of them only.
    pub fn peer_source(&self) -> Result<PeerSource, DatapathError> {
        Ok(PeerSource {
            listening: Arc::clone(&self.listening),
            slots: Arc::clone(&self.slots),
            links: Arc::clone(&self.links),
            flows: HashTable::of(find(&self.ebpf, map::FLOWS)?)?,
            clients: HashTable::of(find(&self.ebpf, map::AFFINITY)?)?,
            returns: HashTable::of(find(&self.ebpf, map::RETURNS)?)?,
            services: HashTable::of(find(&self.ebpf, map::SERVICES)?)?,
            targets: owned::array(find(&self.ebpf, map::TARGETS)?)?,
            names: owned::array(&self.names)?,
            known: RefCell::default(),
        })
    }

    /// Has changes noted from now on, or no more. When that begins, anything counts as changed.
    pub fn listen(&mut self, listens: bool) -> Result<(), DatapathError> {
        // The program's news first: what it tells too early is forgotten, what it told too late would be lost.
        self.listens = listens;
        let node = self.node()?;
        self.write_node(&node)?;
        self.listening.set(listens);
        Ok(())
    }
}

impl PeerSource {
    /// How many changes were not noted for want of room, since the program was loaded, modulo 2^32. After one, anything counts as changed.
    pub fn lost(&self) -> u32 {
        self.listening.lost()
    }

    /// The address of a service.
    fn vip(&self, service: u16) -> Result<Option<ServiceKey>, DatapathError> {
        let mut known = self.known.borrow_mut();
        if known.services.is_empty() {
            known.services = services_by_id(&self.services)?;
        }
        Ok(known.services.get(&service).copied())
    }

    /// An entry of the table of targets.
    fn target(&self, id: u16) -> Result<Option<Target>, DatapathError> {
        let mut known = self.known.borrow_mut();
        if let Some(target) = known.targets.get(&id) {
            return Ok(Some(*target));
        }
        let target = owned::entry(&self.targets, id)?;
        known.targets.extend(target.map(|target| (id, target)));
        Ok(target)
    }
}

impl Source for PeerSource {
    type Error = DatapathError;

    fn changes(&mut self) -> Changes {
        *self.known.get_mut() = Known::default();
        self.listening.take()
    }

    fn slot(&self, index: u32) -> Result<Slot, DatapathError> {
        self.slots.load(index)
    }

    fn name(&self, target: u16) -> Result<Option<TargetName>, DatapathError> {
        let mut known = self.known.borrow_mut();
        if let Some(name) = known.names.get(&target) {
            return Ok(*name);
        }
        let name = owned::entry(&self.names, target)?.filter(|name| name.name().is_some());
        known.names.insert(target, name);
        Ok(name)
    }

    fn flow(&self, key: &FlowKey) -> Result<Option<FlowRecord>, DatapathError> {
        self.flows.get(key)
    }

    fn client(&self, key: &ClientKey) -> Result<Option<Affinity>, DatapathError> {
        self.clients.get(key)
    }

    fn way_to_client(
        &self,
        key: &FlowKey,
        record: &FlowRecord,
    ) -> Result<Option<WayToClient>, DatapathError> {
        let (Some(service), Some(target)) = (self.vip(key.service())?, self.target(record.target)?) else {
            return Ok(None);
        };
        let return_key = translation::return_key(&target, service.address(), record.port);
        // Another's, or none, if the connection has ended meanwhile.
        let way_back = self.returns.get(&return_key)?.filter(|way_back| {
            way_back.flow() == *key
                && translation::is_way_back_of(&return_key, way_back, record.target, record.port)
        });
        Ok(way_back.map(|way_back| WayToClient {
            mac: way_back.client_mac(),
            interface: self.links.place(way_back.egress),
        }))
    }

    fn flows_of(&self, services: &BTreeSet<u16>) -> Result<Vec<FlowKey>, DatapathError> {
        self.flows.keys(|key| services.contains(&key.service()))
    }

    fn clients_of(&self, services: &BTreeSet<u16>) -> Result<Vec<ClientKey>, DatapathError> {
        self.clients.keys(|key| services.contains(&key.service()))
    }

    fn now(&self) -> u32 {
        kernel_clock::ticks()
    }
}
