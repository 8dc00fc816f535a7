//! What the program has counted, and what the slots say, read on any thread.

use std::{borrow::Borrow, sync::Arc};

use aya::{
    Pod,
    maps::{Map, MapData, PerCpuArray},
};
use lb_common::{
    counter::Counter,
    layout::{Traffic, map},
};

use super::{Datapath, DatapathError, find, owned, pod::Raw, slots::SlotTable};

/// What reading counters needs of the datapath.
pub struct CountReader {
    traffic: PerCpuArray<MapData, Raw<Traffic>>,
    counters: PerCpuArray<MapData, Raw<u64>>,
    slots: Arc<SlotTable>,
}

/// What the slots of a service say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotCounts {
    /// How many consult the table of flows.
    pub tracked: u32,
    /// How many give their new flows to a target, by its id. Not a map: there may be millions of slots.
    current: Vec<u32>,
}

impl SlotCounts {
    /// How many give their new flows to a target.
    pub fn current(&self, target: u16) -> u32 {
        self.current.get(usize::from(target)).copied().unwrap_or_default()
    }
}

impl Datapath {
    /// A reader of counters and slots, to be used anywhere: for 64 services it looks at four million slots.
    pub fn count_reader(&self) -> Result<CountReader, DatapathError> {
        Ok(CountReader {
            traffic: own(find(&self.ebpf, map::TRAFFIC)?)?,
            counters: own(find(&self.ebpf, map::COUNTERS)?)?,
            slots: Arc::clone(&self.slots),
        })
    }

    /// What was forwarded to a target, over all CPUs.
    pub fn traffic(&self, id: u16) -> Result<Traffic, DatapathError> {
        traffic(&PerCpuArray::try_from(find(&self.ebpf, map::TRAFFIC)?)?, id)
    }

    /// A counter, over all CPUs.
    pub fn counter(&self, counter: Counter) -> Result<u64, DatapathError> {
        count(&PerCpuArray::try_from(find(&self.ebpf, map::COUNTERS)?)?, counter)
    }
}

impl CountReader {
    /// What was forwarded to a target, over all CPUs.
    pub fn traffic(&self, id: u16) -> Result<Traffic, DatapathError> {
        traffic(&self.traffic, id)
    }

    /// A counter, over all CPUs.
    pub fn counter(&self, counter: Counter) -> Result<u64, DatapathError> {
        count(&self.counters, counter)
    }

    /// What so many slots from this one on say.
    pub fn slots(&self, first: u32, count: u32) -> Result<SlotCounts, DatapathError> {
        let mut counts = SlotCounts {
            tracked: 0,
            current: vec![0; usize::from(u16::MAX) + 1],
        };
        for slot in self.slots.range(first, count)? {
            counts.tracked += u32::from(slot.tracked);
            if let Some(current) = counts.current.get_mut(usize::from(slot.current)) {
                *current += 1;
            }
        }
        Ok(counts)
    }
}

fn traffic<M: Borrow<MapData>>(
    array: &PerCpuArray<M, Raw<Traffic>>,
    id: u16,
) -> Result<Traffic, DatapathError> {
    let per_cpu = array.get(&u32::from(id), 0)?;
    Ok(per_cpu
        .iter()
        .fold(Traffic::default(), |sum, cpu| sum.plus(cpu.0)))
}

fn count<M: Borrow<MapData>>(
    array: &PerCpuArray<M, Raw<u64>>,
    counter: Counter,
) -> Result<u64, DatapathError> {
    let per_cpu = array.get(&(counter as u32), 0)?;
    Ok(per_cpu.iter().fold(0, |sum, cpu| sum.wrapping_add(cpu.0)))
}

/// A map by a descriptor of our own.
fn own<V: Pod>(map: &Map) -> Result<PerCpuArray<MapData, V>, DatapathError> {
    let Map::PerCpuArray(data) = map else {
        return Err(DatapathError::Object {
            missing: "per-CPU array",
        });
    };
    Ok(PerCpuArray::try_from(Map::PerCpuArray(owned::duplicate(data)?))?)
}
