//! Moving everything into tables of other sizes, while the kernel program goes on writing to the old ones.
//!
//! All is copied once before the program is attached to the new tables, and what it has written into the old ones meanwhile a
//! second time after that. The packets of that moment are not counted; none of them is lost.

use aya::{
    Pod,
    maps::{Array, PerCpuArray},
};
use lb_common::layout::{
    Affinity, ClientKey, FlowKey, FlowRecord, HalfOpen, Node, Return, ReturnKey, Service, ServiceKey,
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
        copy_array::<Node>(old, self, map::NODE)?;
        copy_array::<u32>(old, self, map::RECORDS_SHORT)?;
        copy_per_cpu::<Traffic>(old, self, map::TRAFFIC)?;
        copy_per_cpu::<u64>(old, self, map::COUNTERS)?;
        copy_hash::<ReturnKey, Return>(old, self, map::RETURNS)?;
        copy_hash::<ReturnKey, Return>(old, self, map::HALF_OPEN_RETURNS)?;
        copy_hash::<ClientKey, Affinity>(old, self, map::AFFINITY)?;
        copy_hash::<FlowKey, SettledFlow>(old, self, map::SETTLED_FLOWS)?;
        copy_hash::<FlowKey, FlowRecord>(old, self, map::FLOWS)?;
        copy_hash::<FlowKey, HalfOpen>(old, self, map::HALF_OPEN)
    }

    /// Copies what the kernel program has written into the old tables since [`Datapath::copy_from`]. From here on it writes into
    /// these: what is younger stays.
    pub(super) fn catch_up_with(&mut self, old: &Self) -> Result<(), DatapathError> {
        copy_hash::<ReturnKey, Return>(old, self, map::RETURNS)?;
        copy_hash::<ReturnKey, Return>(old, self, map::HALF_OPEN_RETURNS)?;
        merge::<ClientKey, Affinity>(old, self, map::AFFINITY, |noted| noted.last_seen)?;
        merge::<FlowKey, FlowRecord>(old, self, map::FLOWS, |record| record.last_seen)?;
        merge::<FlowKey, HalfOpen>(old, self, map::HALF_OPEN, |record| record.opened)?;
        for index in 0..self.slots.length().min(old.slots.length()) {
            let (before, now) = (old.slots.load(index)?, self.slots.load(index)?);
            let is_older = before.settled_seen.wrapping_sub(now.settled_seen) > u16::MAX / 2;
            if before.tracked && before.settled_seen != now.settled_seen && !is_older {
                // A packet that has stored a time just now has stored a younger one.
                self.slots.replace(index, now, before)?;
            }
        }
        Ok(())
    }
}

fn copy_hash<K: Copy, V: Copy>(
    old: &Datapath,
    new: &Datapath,
    name: &'static str,
) -> Result<(), DatapathError>
where
    Raw<K>: Pod,
    Raw<V>: Pod,
{
    let (from, to) = tables::<K, V>(old, new, name)?;
    from.for_each(|key, value| to.put(&key, &value, Update::NoEntry).map(drop))
        .map_err(|error| full(error, name))
}

/// Copies records that are not in the new table, or of which the old one has heard later.
fn merge<K: Copy, V: Copy>(
    old: &Datapath,
    new: &Datapath,
    name: &'static str,
    time: impl Fn(&V) -> u32,
) -> Result<(), DatapathError>
where
    Raw<K>: Pod,
    Raw<V>: Pod,
{
    let (from, to) = tables::<K, V>(old, new, name)?;
    let copy = |key, record| {
        let is_later = to
            .get(&key)?
            .is_none_or(|present| time(&record).wrapping_sub(time(&present)).cast_signed() > 0);
        if is_later {
            to.put(&key, &record, Update::Any)?;
        }
        Ok(())
    };
    from.for_each(copy).map_err(|error| full(error, name))
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
    const E2BIG: i32 = 7;
    match error {
        DatapathError::Access { source, .. } if source.raw_os_error() == Some(E2BIG) => {
            DatapathError::TooSmall { name }
        }
        other => other,
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
