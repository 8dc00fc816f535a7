//! A pass over the records, on a thread of its own.

use std::sync::Arc;

use lb_common::{
    layout::{Affinity, ClientKey, FlowKey, FlowRecord, HalfOpen, Return, ReturnKey, Slot, map},
    translation,
};

use super::{
    CountReader, Datapath, DatapathError, find,
    hash_table::{HashTable, Outcome},
    listening::Listening,
    live_table::LiveTable,
    slots::SlotTable,
};
use crate::core::{
    census::{Census, Record},
    live_counts::Reading,
};

/// What a pass over the records needs of the datapath.
pub struct Sweep {
    half_open: HashTable<FlowKey, HalfOpen>,
    flows: HashTable<FlowKey, FlowRecord>,
    clients: HashTable<ClientKey, Affinity>,
    returns: HashTable<ReturnKey, Return>,
    half_open_returns: HashTable<ReturnKey, Return>,
    slots: Arc<SlotTable>,
    live: Arc<LiveTable>,
    listening: Arc<Listening>,
    counts: CountReader,
}

impl Datapath {
    /// A pass over the records, to be run anywhere.
    pub fn sweep(&self) -> Result<Sweep, DatapathError> {
        Ok(Sweep {
            half_open: HashTable::of(find(&self.ebpf, map::HALF_OPEN)?)?,
            flows: HashTable::of(find(&self.ebpf, map::FLOWS)?)?,
            clients: HashTable::of(find(&self.ebpf, map::AFFINITY)?)?,
            returns: HashTable::of(find(&self.ebpf, map::RETURNS)?)?,
            half_open_returns: HashTable::of(find(&self.ebpf, map::HALF_OPEN_RETURNS)?)?,
            slots: Arc::clone(&self.slots),
            live: Arc::clone(&self.live),
            listening: Arc::clone(&self.listening),
            counts: self.count_reader()?,
        })
    }
}

impl Sweep {
    /// Deletes the records that are over, and counts the others. Takes a tenth of a second for each 100,000 records, and a
    /// second if all of them are over.
    pub fn run(&self, mut census: Census) -> Result<Census, DatapathError> {
        // In this order: see `core::census`, and for what is read in between `core::live_counts`.
        let Self { live, listening, .. } = self;
        pass_clients(&self.clients, &self.slots, &mut census, |key| {
            listening.client(*key);
        })?;
        let mut before = vec![Reading::default(); self.live.targets().count()];
        self.read_new_flows(&mut before)?;
        pass(&self.half_open, &self.slots, &mut census, |_, _| ())?;
        self.read_live(&mut before);
        pass(&self.flows, &self.slots, &mut census, |key, record| {
            live.count_deleted(record);
            listening.flow(*key);
        })?;
        let mut after = vec![Reading::default(); before.len()];
        self.read_live(&mut after);
        self.read_new_flows(&mut after)?;
        for ((target, before), after) in (0..).zip(before).zip(after) {
            census.compare(target, before, after);
        }
        self.remove_orphans(&self.half_open_returns)?;
        self.remove_orphans(&self.returns)?;
        Ok(census)
    }

    fn read_live(&self, readings: &mut [Reading]) {
        for (target, reading) in (0..).zip(readings) {
            reading.established = self.live.get(target).established;
        }
    }

    fn read_new_flows(&self, readings: &mut [Reading]) -> Result<(), DatapathError> {
        for (target, reading) in (0..).zip(readings) {
            reading.new_flows = self.counts.traffic(target)?.new_flows;
        }
        Ok(())
    }

    /// Deletes the ways back of connections that have no record any more: the pass has deleted it, it was evicted, or another
    /// connection of the same client has taken its place.
    ///
    /// The program writes the way back of a half-open connection just before its record; while the connection becomes
    /// established, one of its records is there all the time.
    fn remove_orphans(&self, ways_back: &HashTable<ReturnKey, Return>) -> Result<(), DatapathError> {
        ways_back.for_each(|key, way_back| {
            if !self.is_needed(&key, &way_back)? {
                // Where a table cannot be read, the way back stays.
                ways_back.delete_if(&key, |way_back| {
                    matches!(self.is_needed(&key, &way_back), Ok(false))
                })?;
            }
            Ok(())
        })
    }

    /// Whether a record names a way back.
    fn is_needed(&self, key: &ReturnKey, way_back: &Return) -> Result<bool, DatapathError> {
        let flow = way_back.flow();
        let names = |target, port| translation::is_way_back_of(key, way_back, target, port);
        let established = || {
            let record = self.flows.get(&flow)?;
            Ok::<_, DatapathError>(record.is_some_and(|record| names(record.target, record.port)))
        };
        if established()? {
            return Ok(true);
        }
        let half_open = self.half_open.get(&flow)?;
        // It may have become established between the two looks.
        Ok(half_open.is_some_and(|record| names(record.target, record.port)) || established()?)
    }
}

fn pass<V: Copy + Into<Record>>(
    table: &HashTable<FlowKey, V>,
    slots: &SlotTable,
    census: &mut Census,
    deleted: impl Fn(&FlowKey, &V),
) -> Result<(), DatapathError>
where
    super::pod::Raw<V>: aya::Pod,
{
    let slot = |index: u32| -> Option<Slot> { slots.load(index).ok() };
    table.for_each(|key, record| {
        let stays = if census.is_over(&key, record.into(), slot) {
            let Outcome { stays, deleted: gone } =
                table.delete_if(&key, |record| census.is_over(&key, record.into(), slot))?;
            if let Some(record) = gone {
                deleted(&key, &record);
            }
            stays
        } else {
            Some(record)
        };
        if let Some(record) = stays {
            census.count(&key, record.into());
        }
        Ok(())
    })
}

fn pass_clients(
    table: &HashTable<ClientKey, Affinity>,
    slots: &SlotTable,
    census: &mut Census,
    deleted: impl Fn(&ClientKey),
) -> Result<(), DatapathError> {
    let slot = |index: u32| -> Option<Slot> { slots.load(index).ok() };
    table.for_each(|key, noted| {
        let stays = if census.is_client_over(&key, &noted, slot) {
            let outcome = table.delete_if(&key, |noted| census.is_client_over(&key, &noted, slot))?;
            if outcome.deleted.is_some() {
                deleted(&key);
            }
            outcome.stays
        } else {
            Some(noted)
        };
        if let Some(noted) = stays {
            census.count_client(&key, &noted);
        }
        Ok(())
    })
}
