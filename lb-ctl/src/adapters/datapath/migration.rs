//! Moving everything into tables of other sizes, while packets come.
//!
//! What can be copied beforehand is. Then the program is attached with the new tables, in which it is told that records are
//! missing: it drops what depends on them, and writes none. So from the moment when the last interface has the new program,
//! nobody writes to the records of either tables, and what came into the old ones since the first copy is copied too. Only then the
//! program is told that records are complete, in one store. Before that store the old tables hold the truth, whatever is
//! attached, and after it the new ones do: that is all that the next start has to look at, should this one be killed.
//!
//! Packets of untracked slots, nearly all, are forwarded all the time. Those of that moment are not counted.

use std::collections::BTreeMap;

use aya::{
    Pod,
    maps::{Array, PerCpuArray},
};
use lb_common::layout::{
    Affinity, ClientKey, FlowKey, FlowRecord, HalfOpen, Live, Return, ReturnKey, Service, ServiceKey,
    SettledFlow, Target, TargetName, Traffic, map,
};

use super::{
    Datapath, DatapathError, find,
    hash_table::{HashTable, Update},
    pod::Raw,
};

impl Datapath {
    /// Copies everything that is in the tables of an earlier run into these, which must be empty and have room for it.
    pub(super) fn copy_from(&mut self, old: &Self) -> Result<(), DatapathError> {
        let length = self.slots.length().min(old.slots.length());
        for index in 0..length {
            self.slots.store(index, old.slots.load(index)?)?;
        }
        copy_hash::<ServiceKey, Service>(old, self, map::SERVICES)?;
        for prefix in old.allowed()? {
            self.allow(&prefix)?;
        }
        copy_array::<Target>(old, self, map::TARGETS)?;
        copy_array::<TargetName>(old, self, map::TARGET_NAMES)?;
        self.awaits_records = true;
        self.write_node(&old.node()?)?;
        copy_array::<u32>(old, self, map::RECORDS_SHORT)?;
        copy_per_cpu::<Traffic>(old, self, map::TRAFFIC)?;
        copy_per_cpu::<u64>(old, self, map::COUNTERS)?;
        copy_hash::<ReturnKey, Return>(old, self, map::RETURNS)?;
        copy_hash::<ClientKey, Affinity>(old, self, map::AFFINITY)?;
        copy_hash::<FlowKey, SettledFlow>(old, self, map::SETTLED_FLOWS)?;
        copy_hash::<FlowKey, FlowRecord>(old, self, map::FLOWS)
    }

    /// Copies what the program has written into the old tables since the first copy. Nobody may write to them any more: no
    /// interface may have the program that does, and its last packets must be through.
    pub fn catch_up_with(&mut self, old: &Self) -> Result<(), DatapathError> {
        copy_hash::<ReturnKey, Return>(old, self, map::RETURNS)?;
        copy_hash::<FlowKey, FlowRecord>(old, self, map::FLOWS)?;
        // Not earlier: the program also removes half-open records, and these tables are small.
        copy_hash::<ReturnKey, Return>(old, self, map::HALF_OPEN_RETURNS)?;
        copy_hash::<ClientKey, Affinity>(old, self, map::AFFINITY)?;
        copy_hash::<FlowKey, HalfOpen>(old, self, map::HALF_OPEN)?;
        for index in 0..self.slots.length().min(old.slots.length()) {
            let slot = old.slots.load(index)?;
            // Its time may be another.
            if slot.tracked {
                self.slots.store(index, slot)?;
            }
        }
        self.count_live()
    }

    /// Counts the live connections anew, since nobody writes to the records.
    fn count_live(&mut self) -> Result<(), DatapathError> {
        let mut counts = BTreeMap::<u16, u32>::new();
        let flows = HashTable::<FlowKey, FlowRecord>::of(find(&self.ebpf, map::FLOWS)?)?;
        flows.for_each(|_, record| {
            if record.closing == 0 {
                *counts.entry(record.target).or_default() += 1;
            }
            Ok(())
        })?;
        // Of all targets, also those without a record: whatever stands there is not what the records say.
        for target in self.live.targets() {
            let live = Live {
                established: counts.get(&target).copied().unwrap_or_default(),
                assigned: 0,
            };
            self.live.set(target, live);
        }
        Ok(())
    }
}

/// Copies the entries that the new table has otherwise, or not at all.
fn copy_hash<K: Copy, V: Copy + PartialEq>(
    old: &Datapath,
    new: &Datapath,
    name: &'static str,
) -> Result<(), DatapathError>
where
    Raw<K>: Pod,
    Raw<V>: Pod,
{
    let (from, to) = tables::<K, V>(old, new, name)?;
    from.for_each(|key, value| {
        if to.get(&key)?.is_none_or(|present| present != value) {
            to.put(&key, &value, Update::Any)?;
        }
        Ok(())
    })
    .map_err(|error| full(error, name))
}

type Tables<K, V> = (HashTable<K, V>, HashTable<K, V>);

fn tables<K: Copy, V: Copy>(
    old: &Datapath,
    new: &Datapath,
    name: &'static str,
) -> Result<Tables<K, V>, DatapathError>
where
    Raw<K>: Pod,
    Raw<V>: Pod,
{
    let table = |datapath: &Datapath| HashTable::of(find(&datapath.ebpf, name)?);
    Ok((table(old)?, table(new)?))
}

/// Says which table is too small, if that is the error.
fn full(error: DatapathError, name: &'static str) -> DatapathError {
    if error.is_full() {
        DatapathError::TooSmall { name }
    } else {
        error
    }
}

fn copy_array<V: Copy>(old: &Datapath, new: &mut Datapath, name: &'static str) -> Result<(), DatapathError>
where
    Raw<V>: Pod,
{
    let from = Array::<_, Raw<V>>::try_from(old.map(name)?)?;
    let mut to = Array::<_, Raw<V>>::try_from(new.map_mut(name)?)?;
    for index in 0..from.len().min(to.len()) {
        to.set(index, from.get(&index, 0)?, 0)?;
    }
    Ok(())
}

fn copy_per_cpu<V: Copy>(old: &Datapath, new: &mut Datapath, name: &'static str) -> Result<(), DatapathError>
where
    Raw<V>: Pod,
{
    let from = PerCpuArray::<_, Raw<V>>::try_from(old.map(name)?)?;
    let mut to = PerCpuArray::<_, Raw<V>>::try_from(new.map_mut(name)?)?;
    for index in 0..from.len().min(to.len()) {
        to.set(index, from.get(&index, 0)?, 0)?;
    }
    Ok(())
}
