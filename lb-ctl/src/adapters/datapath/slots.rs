//! The slot table, mapped into our memory.
//!
//! A system call for each of 65,537 slots would take tens of milliseconds; stores into the mapped array take
//! microseconds, and each is atomic, so that the kernel program sees a slot before or after a change, never in between.

use std::{
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::Map;
use lb_common::layout::Slot;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::error::DatapathError;

/// The mapped table.
pub(super) struct SlotTable {
    words: NonNull<AtomicU64>,
    length: u32,
}

// SAFETY: the mapping is owned by this value alone, lives as long as it, and is accessed through atomics only.
unsafe impl Send for SlotTable {}
// SAFETY: as above: threads that share it share atomics.
unsafe impl Sync for SlotTable {}

impl SlotTable {
    /// Maps an array of `length` slots. The mapping keeps the array alive.
    pub(super) fn of(map: &Map, length: u32) -> Result<Self, DatapathError> {
        let Map::Array(array) = map else {
            return Err(DatapathError::Object {
                missing: "array of slots",
            });
        };
        let bytes = length as usize * size_of::<u64>();
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours. The kernel refuses a
        // length beyond the array.
        let address = unsafe {
            mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                array.fd(),
                0,
            )
        }
        .map_err(|error| DatapathError::MapSlots {
            bytes,
            source: error.into(),
        })?;
        let words = NonNull::new(address.cast()).ok_or_else(|| DatapathError::MapSlots {
            bytes,
            source: std::io::ErrorKind::AddrNotAvailable.into(),
        })?;
        Ok(Self { words, length })
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
        let words = self.words().get(first as usize..end as usize).ok_or(beyond)?;
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
        let beyond = DatapathError::NoSuchSlot {
            index,
            slots: self.length,
        };
        self.words().get(index as usize).ok_or(beyond)
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping holds `length` words from a page-aligned address, stays until drop, and whoever else
        // accesses it (the kernel program) loads whole words and stores whole fields.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.length as usize) }
    }
}

impl Drop for SlotTable {
    fn drop(&mut self) {
        // SAFETY: the range is the one that `map` got, and no reference into it outlives `self`.
        let unmapped = unsafe {
            munmap(
                self.words.as_ptr().cast(),
                self.length as usize * size_of::<u64>(),
            )
        };
        if let Err(error) = unmapped {
            tracing::warn!(%error, "the slot table could not be unmapped");
        }
    }
}
