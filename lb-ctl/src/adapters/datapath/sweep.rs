//! A pass over the records, on a thread of its own.

use std::sync::Arc;

use lb_common::layout::{Affinity, ClientKey, FlowKey, FlowRecord, HalfOpen, Slot, map};

use super::{Datapath, DatapathError, find, hash_table::HashTable, slots::SlotTable};
use crate::core::census::{Census, Record};

/// What a pass over the records needs of the datapath.
pub struct Sweep {
    half_open: HashTable<FlowKey, HalfOpen>,
    flows: HashTable<FlowKey, FlowRecord>,
    clients: HashTable<ClientKey, Affinity>,
    slots: Arc<SlotTable>,
}

impl Datapath {
    /// A pass over the records, to be run anywhere.
    pub fn sweep(&self) -> Result<Sweep, DatapathError> {
        Ok(Sweep {
            half_open: HashTable::of(find(&self.ebpf, map::HALF_OPEN)?)?,
            flows: HashTable::of(find(&self.ebpf, map::FLOWS)?)?,
            clients: HashTable::of(find(&self.ebpf, map::AFFINITY)?)?,
            slots: Arc::clone(&self.slots),
        })
    }
}

impl Sweep {
    /// Deletes the records that are over, and counts the others. Takes a tenth of a second for each 100,000 records, and a
    /// second if all of them are over.
    pub fn run(&self, mut census: Census) -> Result<Census, DatapathError> {
        // In this order: see `core::census`.
        pass(&self.half_open, &self.slots, &mut census)?;
        pass(&self.flows, &self.slots, &mut census)?;
        pass_clients(&self.clients, &self.slots, &mut census)?;
        Ok(census)
    }
}

fn pass<V: Copy + Into<Record>>(
    table: &HashTable<FlowKey, V>,
    slots: &SlotTable,
    census: &mut Census,
) -> Result<(), DatapathError>
where
    super::pod::Raw<V>: aya::Pod,
{
    let slot = |index: u32| -> Option<Slot> { slots.load(index).ok() };
    table.for_each(|key, record| {
        let stays = if census.is_over(&key, record.into(), slot) {
            table.delete_if(&key, |record| census.is_over(&key, record.into(), slot))?
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
) -> Result<(), DatapathError> {
    let slot = |index: u32| -> Option<Slot> { slots.load(index).ok() };
    table.for_each(|key, noted| {
        let stays = if census.is_client_over(&key, &noted, slot) {
            table.delete_if(&key, |noted| census.is_client_over(&key, &noted, slot))?
        } else {
            Some(noted)
        };
        if let Some(noted) = stays {
            census.count_client(&key, &noted);
        }
        Ok(())
    })
}
