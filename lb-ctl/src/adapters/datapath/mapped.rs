//! Arrays of the kernel, mapped into our memory.
//!
//! A system call for each of 65,537 slots would take tens of milliseconds; stores into the mapped array take microseconds. And what is
//! mapped can be changed by atomic instructions while the kernel program does.

use std::{
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64},
};

use aya::maps::Map;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::error::DatapathError;

/// What such an array is made of.
///
/// # Safety
///
/// The type must be an atomic integer.
pub(super) unsafe trait Atomic {}

// SAFETY: it is one.
unsafe impl Atomic for AtomicU32 {}
// SAFETY: it is one.
unsafe impl Atomic for AtomicU64 {}

/// A mapped array of words.
pub(super) struct MappedArray<W: Atomic> {
    words: NonNull<W>,
    length: usize,
}

// SAFETY: the mapping is owned by this value alone, lives as long as it, and is accessed through atomics only.
unsafe impl<W: Atomic> Send for MappedArray<W> {}
// SAFETY: as above: threads that share it share atomics.
unsafe impl<W: Atomic> Sync for MappedArray<W> {}

impl<W: Atomic> MappedArray<W> {
    /// Maps the first `length` words of an array whose entries have no gaps between them: their size is a multiple of 8 bytes. The
    /// mapping keeps the array alive.
    pub(super) fn of(map: &Map, length: usize) -> Result<Self, DatapathError> {
        let Map::Array(array) = map else {
            return Err(DatapathError::Object { missing: "array" });
        };
        let bytes = length * size_of::<W>();
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
        .map_err(|error| DatapathError::MapArray {
            bytes,
            source: error.into(),
        })?;
        let words = NonNull::new(address.cast()).ok_or_else(|| DatapathError::MapArray {
            bytes,
            source: std::io::ErrorKind::AddrNotAvailable.into(),
        })?;
        Ok(Self { words, length })
    }

    /// The words.
    pub(super) const fn words(&self) -> &[W] {
        // SAFETY: the mapping holds `length` words from a page-aligned address, stays until drop, and whoever else
        // accesses it (the kernel program) loads and stores whole words, or whole fields of one.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.length) }
    }
}

impl<W: Atomic> Drop for MappedArray<W> {
    fn drop(&mut self) {
        // SAFETY: the range is the one that `of` got, and no reference into it outlives `self`.
        let unmapped = unsafe { munmap(self.words.as_ptr().cast(), self.length * size_of::<W>()) };
        if let Err(error) = unmapped {
            tracing::warn!(%error, "an array could not be unmapped");
        }
    }
}
