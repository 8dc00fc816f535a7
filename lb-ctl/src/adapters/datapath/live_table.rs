//! The table of live connections, mapped into our memory: the controller counts in it while the kernel program does.

use std::sync::atomic::{AtomicU32, Ordering};

use aya::maps::Map;
use lb_common::layout::{FlowRecord, Live};

use super::{error::DatapathError, mapped::MappedArray};

/// How many words an entry has: `established`, then `assigned`.
const WORDS: usize = size_of::<Live>() / size_of::<AtomicU32>();

/// The mapped table. Targets beyond its end have no connections.
pub(super) struct LiveTable {
    words: MappedArray<AtomicU32>,
}

impl LiveTable {
    /// Maps an array of so many targets. The mapping keeps the array alive.
    pub(super) fn of(map: &Map, targets: u32) -> Result<Self, DatapathError> {
        Ok(Self {
            words: MappedArray::of(map, targets as usize * WORDS)?,
        })
    }

    /// The ids that have an entry.
    pub(super) fn targets(&self) -> impl Iterator<Item = u16> + use<> {
        (0..=u16::MAX).take(self.words.words().len() / WORDS)
    }

    /// The live connections of a target.
    pub(super) fn get(&self, target: u16) -> Live {
        match self.entry(target) {
            Some([established, assigned]) => Live {
                established: established.load(Ordering::Relaxed),
                assigned: assigned.load(Ordering::Relaxed),
            },
            None => Live::default(),
        }
    }

    /// Begins to count a target's connections: there are so many. Nothing that the program counts may name it meanwhile.
    pub(super) fn set(&self, target: u16, live: Live) {
        if let Some([established, assigned]) = self.entry(target) {
            established.store(live.established, Ordering::Relaxed);
            assigned.store(live.assigned, Ordering::Relaxed);
        }
    }

    /// Counts an established record that has been deleted as it is given here.
    pub(super) fn count_deleted(&self, record: &FlowRecord) {
        if record.closing == 0
            && let Some([established, _]) = self.entry(record.target)
        {
            established.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Counts an established record that has been written.
    pub(super) fn count_written(&self, record: &FlowRecord) {
        if record.closing == 0
            && let Some([established, _]) = self.entry(record.target)
        {
            established.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds to the established connections of a target what its count lacks.
    pub(super) fn correct(&self, target: u16, missing: i32) {
        if let Some([established, _]) = self.entry(target) {
            established.fetch_add(missing.cast_unsigned(), Ordering::Relaxed);
        }
    }

    fn entry(&self, target: u16) -> Option<&[AtomicU32; WORDS]> {
        let (entries, _) = self.words.words().as_chunks::<WORDS>();
        entries.get(usize::from(target))
    }
}
