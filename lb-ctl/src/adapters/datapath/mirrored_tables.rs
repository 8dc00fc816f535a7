//! Records and notes that the other balancer tells of, as the program itself would have written them.
//!
//! The program may be writing to the same tables: a balancer that is not the owner forwards what reaches it. As with the passes over the
//! records, what can be missed is a packet in the microsecond between our look and our write.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aya::maps::{Array, MapData};
use lb_common::{
    clock,
    layout::{
        Affinity, ClientKey, FlowKey, FlowRecord, Return, ReturnKey, Service, ServiceKey, Target, forward,
        map,
    },
    slot_rule, translation,
};

use super::{
    Datapath, DatapathError, find,
    hash_table::{HashTable, Outcome, Update},
    links::Links,
    listening::Listening,
    live_table::LiveTable,
    owned,
    pod::Raw,
    service_ids::services_by_id,
};
use crate::{
    adapters::kernel_clock,
    core::{
        census::taken_over,
        sync::{Added, WayToClient},
    },
};

/// The tables that follow those of the other balancer.
pub struct MirroredTables {
    flows: HashTable<FlowKey, FlowRecord>,
    clients: HashTable<ClientKey, Affinity>,
    returns: HashTable<ReturnKey, Return>,
    services: HashTable<ServiceKey, Service>,
    targets: Array<MapData, Raw<Target>>,
    live: Arc<LiveTable>,
    links: Arc<Links>,
    listening: Arc<Listening>,
    /// The services by id, as far as they have been looked up.
    addresses: BTreeMap<u16, ServiceKey>,
}

impl Datapath {
    /// The tables for what the other balancer tells of, to be used anywhere.
    pub fn mirrored_tables(&self) -> Result<MirroredTables, DatapathError> {
        Ok(MirroredTables {
            flows: HashTable::of(find(&self.ebpf, map::FLOWS)?)?,
            clients: HashTable::of(find(&self.ebpf, map::AFFINITY)?)?,
            returns: HashTable::of(find(&self.ebpf, map::RETURNS)?)?,
            services: HashTable::of(find(&self.ebpf, map::SERVICES)?)?,
            targets: owned::array(find(&self.ebpf, map::TARGETS)?)?,
            live: Arc::clone(&self.live),
            links: Arc::clone(&self.links),
            listening: Arc::clone(&self.listening),
            addresses: BTreeMap::new(),
        })
    }
}

impl MirroredTables {
    /// Writes the established record of a flow, after its way back if it is translated. Returns whether there was room.
    ///
    /// The owner gives a port to one flow at a time. If by our tables another flow of the service has it, that one is over, and the owner
    /// has not come to telling it; it is removed. But a flow of another service keeps its port, and there is no room for this one.
    pub fn put_flow(
        &mut self,
        key: &FlowKey,
        record: FlowRecord,
        way: Option<WayToClient>,
    ) -> Result<bool, DatapathError> {
        let way_back = self.way_back(key, &record, way)?;
        if let Some((return_key, way_back)) = &way_back
            && !self.put_way_back(return_key, way_back)?
        {
            return Ok(false);
        }
        let before = match self.put_record(key, &record) {
            Ok(before) => before,
            Err(error) if error.is_full() => {
                // It is an orphan now, unless there is an earlier record: then there is room.
                if let Some((return_key, _)) = way_back {
                    self.remove_way_back(key, &return_key)?;
                }
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        if let Some(before) = &before {
            self.live.count_deleted(before);
        }
        self.live.count_written(&record);
        if let Some((return_key, way_back)) = &way_back {
            // A pass may have found the way back without a record, and deleted it. From now on it finds one.
            self.returns.put(return_key, way_back, Update::NoEntry)?;
        }
        if let Some(before) = before
            && (before.target, before.port) != (record.target, record.port)
        {
            self.forget_way_back(key, &before)?;
        }
        Ok(true)
    }

    /// The same of a flow whose packets may have come to us. A record that is in use stays, and so does the way back of another flow that has its
    /// port; but that the flow's end has been seen is noted, which the program takes back should it go on.
    pub fn add_flow(
        &mut self,
        key: &FlowKey,
        record: FlowRecord,
        way: Option<WayToClient>,
    ) -> Result<Added, DatapathError> {
        if let Some(present) = self.flows.get(key)? {
            let is_same = (present.target, present.port) == (record.target, record.port);
            // What is here may be the later word, though it was told later.
            let is_older = clock::since(present.last_seen, record.last_seen) > 0;
            if is_same && record.closing != 0 && present.closing == 0 && !is_older {
                let was_written = self.put_flow(key, record, way)?;
                return Ok(if was_written { Added::New } else { Added::NoRoom });
            }
            if is_same || is_older || slot_rule::is_in_use(&present, kernel_clock::ticks()) {
                return Ok(Added::Present);
            }
            // An earlier connection's.
            self.remove_flow(key)?;
        }
        let way_back = self.way_back(key, &record, way)?;
        if let Some((return_key, way_back)) = &way_back
            && !self.add_way_back(return_key, way_back)?
        {
            return Ok(Added::NoRoom);
        }
        match self.flows.put(key, &record, Update::NoEntry) {
            Ok(true) => {
                self.live.count_written(&record);
                if let Some((return_key, way_back)) = &way_back {
                    // As in `put_flow`.
                    self.returns.put(return_key, way_back, Update::NoEntry)?;
                }
                Ok(Added::New)
            }
            // The program has been faster. Should our way back not be its own, a pass deletes it.
            Ok(false) => Ok(Added::Present),
            Err(error) if error.is_full() => {
                if let Some((return_key, _)) = way_back {
                    self.remove_way_back(key, &return_key)?;
                }
                Ok(Added::NoRoom)
            }
            Err(error) => Err(error),
        }
    }

    /// Deletes the record of a flow, and its way back, if it has them.
    pub fn remove_flow(&mut self, key: &FlowKey) -> Result<(), DatapathError> {
        let deleted = self.flows.take(key)?;
        self.count_deleted(key, deleted)
    }

    /// The same if the record has not been used since then, in ticks. Returns whether there is none any more.
    pub fn remove_unused_flow(&mut self, key: &FlowKey, since: u32) -> Result<bool, DatapathError> {
        let is_unused = |record: FlowRecord| clock::since(since, record.last_seen) > 0;
        let Outcome { stays, deleted } = self.flows.delete_if(key, is_unused)?;
        self.count_deleted(key, deleted)?;
        Ok(stays.is_none())
    }

    /// The record of a flow has been deleted, if it had one.
    fn count_deleted(&mut self, key: &FlowKey, record: Option<FlowRecord>) -> Result<(), DatapathError> {
        if let Some(record) = record {
            self.live.count_deleted(&record);
            self.forget_way_back(key, &record)?;
        }
        Ok(())
    }

    /// Notes where a client is at home.
    pub fn put_client(&mut self, key: &ClientKey, home: Affinity) -> Result<(), DatapathError> {
        self.clients.put(key, &home, Update::Any).map(drop)
    }

    /// The same of a client who may have been there: then what is noted stays. Returns whether nothing was.
    pub fn add_client(&mut self, key: &ClientKey, home: Affinity) -> Result<bool, DatapathError> {
        self.clients.put(key, &home, Update::NoEntry)
    }

    /// Has a flow told on, as if it had begun here.
    pub fn note_flow(&self, key: &FlowKey) {
        self.listening.flow(*key);
    }

    /// Has told on where a client is at home.
    pub fn note_client(&self, key: &ClientKey) {
        self.listening.client(*key);
    }

    /// Deletes what is noted of a client, if anything is.
    pub fn remove_client(&mut self, key: &ClientKey) -> Result<(), DatapathError> {
        self.clients.take(key).map(drop)
    }

    /// All flows of these services that have an established record. The whole table is passed over.
    pub fn flows_of(&self, services: &BTreeSet<u16>) -> Result<Vec<FlowKey>, DatapathError> {
        self.flows.keys(|key| services.contains(&key.service()))
    }

    /// All clients of these services of whom something is noted. The whole table is passed over.
    pub fn clients_of(&self, services: &BTreeSet<u16>) -> Result<Vec<ClientKey>, DatapathError> {
        self.clients.keys(|key| services.contains(&key.service()))
    }

    /// Has all clients of these services of whom something is noted have been there now. For whoever takes over: how long they have been silent is
    /// told when they get a home, and then no more. The whole table is passed over.
    pub fn refresh_clients(&mut self, services: &BTreeSet<u16>, now: u32) -> Result<(), DatapathError> {
        self.clients.for_each(|key, noted| {
            let service = key.service();
            if services.contains(&service)
                && let Some(seen) = taken_over(&key, &noted, service, now)
            {
                // Not if a pass has deleted it meanwhile: its target may be about to stand for somebody else.
                self.clients.put(&key, &seen, Update::Existing)?;
            }
            Ok(())
        })
    }

    /// Writes a record. Returns the one that was there.
    fn put_record(&self, key: &FlowKey, record: &FlowRecord) -> Result<Option<FlowRecord>, DatapathError> {
        let mut before = self.flows.get(key)?;
        if before.is_none() {
            if self.flows.put(key, record, Update::NoEntry)? {
                return Ok(None);
            }
            // The program has been faster.
            before = self.flows.get(key)?;
        }
        self.flows.put(key, record, Update::Any)?;
        Ok(before)
    }

    /// The way back of a translated flow, and where it belongs.
    fn way_back(
        &mut self,
        key: &FlowKey,
        record: &FlowRecord,
        way: Option<WayToClient>,
    ) -> Result<Option<(ReturnKey, Return)>, DatapathError> {
        let (Some(way), Some(service)) = (way, self.address(key.service())?) else {
            return Ok(None);
        };
        let Some(return_key) = self.return_key(service, record)? else {
            return Ok(None);
        };
        let (egress, mac) = self.links.way_out(way.interface);
        let way_back = Return::new(key, service.port(), record.target, [way.mac, mac], egress);
        Ok(Some((return_key, way_back)))
    }

    /// Writes a way back where no other flow's is. Returns whether it did.
    fn put_way_back(&mut self, return_key: &ReturnKey, way_back: &Return) -> Result<bool, DatapathError> {
        if let Some(other) = self.returns.get(return_key)?
            && other.flow() != way_back.flow()
        {
            let flow = other.flow();
            let is_needed = self.is_needed(return_key, &other)?;
            if is_needed && flow.service() != way_back.service {
                return Ok(false);
            }
            if is_needed {
                self.remove_flow(&flow)?;
            }
        }
        match self.returns.put(return_key, way_back, Update::Any) {
            Err(error) if error.is_full() => Ok(false),
            other => other,
        }
    }

    /// Whether the flow of a way back has a record that names it.
    fn is_needed(&self, return_key: &ReturnKey, way_back: &Return) -> Result<bool, DatapathError> {
        let record = self.flows.get(&way_back.flow())?;
        Ok(record.is_some_and(|record| {
            translation::is_way_back_of(return_key, way_back, record.target, record.port)
        }))
    }

    /// Writes a way back where no flow that has a record has one. Returns whether it is there.
    fn add_way_back(&self, return_key: &ReturnKey, way_back: &Return) -> Result<bool, DatapathError> {
        let other = self.returns.get(return_key)?;
        if let Some(other) = other.filter(|other| other.flow() != way_back.flow()) {
            if self.is_needed(return_key, &other)? {
                return Ok(false);
            }
            self.remove_way_back(&other.flow(), return_key)?;
        }
        match self.returns.put(return_key, way_back, Update::NoEntry) {
            Ok(true) => Ok(true),
            // It is there, or the program has been faster.
            Ok(false) => {
                let present = self.returns.get(return_key)?;
                Ok(present.is_some_and(|present| present.flow() == way_back.flow()))
            }
            Err(error) if error.is_full() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes the way back of a flow that a record names, if it names one.
    fn forget_way_back(&mut self, key: &FlowKey, record: &FlowRecord) -> Result<(), DatapathError> {
        if record.port != 0
            && let Some(service) = self.address(key.service())?
            && let Some(return_key) = self.return_key(service, record)?
        {
            self.remove_way_back(key, &return_key)?;
        }
        Ok(())
    }

    /// Deletes a way back, if it is that of a flow.
    fn remove_way_back(&self, key: &FlowKey, return_key: &ReturnKey) -> Result<(), DatapathError> {
        self.returns
            .delete_if(return_key, |way_back| way_back.flow() == *key)
            .map(drop)
    }

    /// The key of a record's way back; `None` if it is not translated.
    fn return_key(
        &self,
        service: ServiceKey,
        record: &FlowRecord,
    ) -> Result<Option<ReturnKey>, DatapathError> {
        let Some(target) = owned::entry(&self.targets, record.target)? else {
            return Ok(None);
        };
        let is_translated = record.port != 0 && target.forward() == forward::NAT;
        Ok(is_translated.then(|| translation::return_key(&target, service.address(), record.port)))
    }

    /// The address of a service.
    fn address(&mut self, id: u16) -> Result<Option<ServiceKey>, DatapathError> {
        if let Some(key) = self.addresses.get(&id)
            && self.services.get(key)?.is_some_and(|service| service.id == id)
        {
            return Ok(Some(*key));
        }
        self.addresses = services_by_id(&self.services)?;
        Ok(self.addresses.get(&id).copied())
    }
}
