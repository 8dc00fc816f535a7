//! The slot table, mapped into our memory: each store is atomic, so that the kernel program sees a slot before or after a change,
//! never in between.

use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::Map;
use lb_common::layout::Slot;

use super::{error::DatapathError, mapped::MappedArray};

/// The mapped table.
pub(super) struct SlotTable {
    words: MappedArray<AtomicU64>,
    length: u32,
}

impl SlotTable {
    /// Maps an array of `length` slots. The mapping keeps the array alive.
    pub(super) fn of(map: &Map, length: u32) -> Result<Self, DatapathError> {
        Ok(Self {
            words: MappedArray::of(map, length as usize)?,
            length,
        })
    }

    /// Writes a slot in one store.
    pub(super) fn store(&self, index: u32, slot: Slot) -> Result<(), DatapathError> {
        self.word(index)?.store(slot.to_bits(), Ordering::Release);
        Ok(())
    }

    /// Reads a slot in one load.
    pub(super) fn load(&self, index: u32) -> Result<Slot, DatapathError> {
        Ok(Slot::from_bits(self.word(index)?.load(Ordering::Acquire)))
    }

    /// Reads so many slots from this one on, each in one load.
    pub(super) fn range(&self, first: u32, count: u32) -> Result<impl Iterator<Item = Slot>, DatapathError> {
        let end = first.saturating_add(count);
        let beyond = DatapathError::NoSuchSlot {
            index: end,
            slots: self.length,
        };
        let words = self
            .words
            .words()
            .get(first as usize..end as usize)
            .ok_or(beyond)?;
        Ok(words
            .iter()
            .map(|word| Slot::from_bits(word.load(Ordering::Acquire))))
    }

    /// Writes a slot in one exchange, if it holds `expected`. Returns whether it did.
    pub(super) fn replace(&self, index: u32, expected: Slot, slot: Slot) -> Result<bool, DatapathError> {
        let replaced = self.word(index)?.compare_exchange(
            expected.to_bits(),
            slot.to_bits(),
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        Ok(replaced.is_ok())
    }

    /// How many slots there are.
    pub(super) const fn length(&self) -> u32 {
        self.length
    }

    fn word(&self, index: u32) -> Result<&AtomicU64, DatapathError> {
        let beyond = || DatapathError::NoSuchSlot {
            index,
            slots: self.length,
        };
        self.words.words().get(index as usize).ok_or_else(beyond)
    }
}
