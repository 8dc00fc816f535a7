//! Hash maps that are read as a whole while the kernel program writes to them.
//!
//! Read in batches, because a system call or two for each of 262,144 records would take half a second of a CPU. And because
//! only a batch sees each bucket as it is at one moment: an entry that the program replaces moves within its bucket, so
//! that an iteration entry by entry may miss it.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData},
};

use super::{
    bpf_call::{bpf, command},
    error::DatapathError,
    pod::Raw,
};

/// How many entries a batch has room for. A bucket with more would be an error; it has one or two.
const BATCH: usize = 4096;

/// Flags of an update, from linux/bpf.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Update {
    /// In place of an entry, or anew.
    Any = 0,
    /// Only if there is no entry.
    NoEntry = 1,
    /// Only in place of an entry.
    Existing = 2,
}

/// What has become of an entry that was to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome<V> {
    /// What is there.
    pub(super) stays: Option<V>,
    /// What is there no more, as it was at the moment of its deletion.
    pub(super) deleted: Option<V>,
}

/// A hash map, as far as it can be read and written from any thread.
pub(super) struct HashTable<K, V> {
    map: OwnedFd,
    entries: PhantomData<fn() -> (K, V)>,
}

/// `union bpf_attr` of commands about one element.
#[repr(C)]
struct Element {
    map: RawFd,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `union bpf_attr` of commands about many elements.
#[repr(C)]
struct Batch {
    begin: u64,
    end: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: RawFd,
    element_flags: u64,
    flags: u64,
}

impl<K: Copy, V: Copy> HashTable<K, V>
where
    Raw<K>: Pod,
    Raw<V>: Pod,
{
    /// A table of its own on a map, whose sizes must be those of `K` and `V`.
    pub(super) fn of(map: &Map) -> Result<Self, DatapathError> {
        // Checks type and sizes.
        HashMap::<&MapData, Raw<K>, Raw<V>>::try_from(map)?;
        let (Map::HashMap(data) | Map::LruHashMap(data)) = map else {
            return Err(DatapathError::Object { missing: "hash map" });
        };
        let map = std::os::fd::AsFd::as_fd(data.fd())
            .try_clone_to_owned()
            .map_err(|source| accessed("duplicating a map's descriptor", source))?;
        Ok(Self {
            map,
            entries: PhantomData,
        })
    }

    /// Calls `visit` for every entry that is there during the whole call; for others perhaps.
    pub(super) fn for_each(
        &self,
        mut visit: impl FnMut(K, V) -> Result<(), DatapathError>,
    ) -> Result<(), DatapathError> {
        let mut keys = Vec::<K>::with_capacity(BATCH);
        let mut values = Vec::<V>::with_capacity(BATCH);
        // For hash maps, the number of a bucket.
        let mut place = None::<u32>;
        loop {
            let mut next = 0u32;
            let mut batch = Batch {
                begin: place
                    .as_ref()
                    .map_or(0, |place| std::ptr::from_ref(place).expose_provenance() as u64),
                end: std::ptr::from_mut(&mut next).expose_provenance() as u64,
                keys: keys.as_mut_ptr().expose_provenance() as u64,
                values: values.as_mut_ptr().expose_provenance() as u64,
                count: u32::try_from(BATCH).unwrap_or(u32::MAX),
                map: self.map.as_raw_fd(),
                element_flags: 0,
                flags: 0,
            };
            // SAFETY: the attributes are those of the command. Keys and values have room for `count` entries of the sizes
            // that the map has, and the places are 4 bytes each, as for all hash maps.
            let result = unsafe { bpf(command::MAP_LOOKUP_BATCH, &mut batch) };
            let is_last = match result {
                Ok(_) => false,
                Err(error) if error.kind() == io::ErrorKind::NotFound => true,
                Err(source) => return Err(accessed("reading a batch of entries", source)),
            };
            let count = (batch.count as usize).min(BATCH);
            // SAFETY: the kernel has filled that many keys, of which there is room for as many.
            unsafe { keys.set_len(count) };
            // SAFETY: as above.
            unsafe { values.set_len(count) };
            for (key, value) in keys.drain(..).zip(values.drain(..)) {
                visit(key, value)?;
            }
            if is_last {
                return Ok(());
            }
            place = Some(next);
        }
    }

    /// The keys that are wanted of all that are there during the whole call; others perhaps.
    pub(super) fn keys(&self, is_wanted: impl Fn(&K) -> bool) -> Result<Vec<K>, DatapathError> {
        let mut keys = Vec::new();
        self.for_each(|key, _| {
            if is_wanted(&key) {
                keys.push(key);
            }
            Ok(())
        })?;
        Ok(keys)
    }

    /// The entry under a key.
    pub(super) fn get(&self, key: &K) -> Result<Option<V>, DatapathError> {
        self.look_up(command::MAP_LOOKUP, key)
    }

    /// Writes an entry. Returns whether it did; with [`Update::Any`] it does.
    pub(super) fn put(&self, key: &K, value: &V, update: Update) -> Result<bool, DatapathError> {
        let mut element = Element {
            map: self.map.as_raw_fd(),
            reserved: 0,
            key: std::ptr::from_ref(key).expose_provenance() as u64,
            value: std::ptr::from_ref(value).expose_provenance() as u64,
            flags: update as u64,
        };
        // SAFETY: the attributes are those of the command; key and value have the map's sizes and are only read.
        match unsafe { bpf(command::MAP_UPDATE, &mut element) } {
            Ok(_) => Ok(true),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound
                ) =>
            {
                Ok(false)
            }
            Err(source) => Err(accessed("writing an entry", source)),
        }
    }

    /// Deletes an entry, and returns it as it was.
    pub(super) fn take(&self, key: &K) -> Result<Option<V>, DatapathError> {
        self.look_up(command::MAP_LOOKUP_AND_DELETE, key)
    }

    /// Deletes an entry if `is_over` says so of what it is now.
    ///
    /// The kernel program may write to the entry at any time. Should it do so between the look and the deletion, the entry is
    /// put back as it was last. What remains is a packet that comes in the microsecond in between: it is forwarded as if there were
    /// no entry; and where the table is full, another entry may have taken the place for good, which the log says.
    pub(super) fn delete_if(
        &self,
        key: &K,
        is_over: impl Fn(V) -> bool,
    ) -> Result<Outcome<V>, DatapathError> {
        let mut outcome = Outcome {
            stays: None,
            deleted: None,
        };
        match self.get(key)? {
            None => return Ok(outcome),
            Some(value) if !is_over(value) => {
                outcome.stays = Some(value);
                return Ok(outcome);
            }
            Some(_) => {}
        }
        match self.take(key)? {
            Some(value) if !is_over(value) => {
                outcome.stays = Some(value);
                match self.put(key, &value, Update::NoEntry) {
                    Ok(true) => {}
                    // The entry that there is by now is younger.
                    Ok(false) => outcome.deleted = Some(value),
                    Err(error) if error.is_full() => {
                        tracing::warn!(
                            "a record was used while it was being deleted, and found its table full: its connection may break; \
                             raise datapath.max_flows"
                        );
                        outcome = Outcome {
                            stays: None,
                            deleted: Some(value),
                        };
                    }
                    Err(error) => return Err(error),
                }
            }
            deleted => outcome.deleted = deleted,
        }
        Ok(outcome)
    }

    fn look_up(&self, command: libc::c_int, key: &K) -> Result<Option<V>, DatapathError> {
        let mut value = std::mem::MaybeUninit::<V>::uninit();
        let mut element = Element {
            map: self.map.as_raw_fd(),
            reserved: 0,
            key: std::ptr::from_ref(key).expose_provenance() as u64,
            value: value.as_mut_ptr().expose_provenance() as u64,
            flags: 0,
        };
        // SAFETY: the attributes are those of the command; the key has the map's size, and there is room for a value.
        match unsafe { bpf(command, &mut element) } {
            // SAFETY: the kernel has written the whole value, of which any bytes are valid (`Pod`).
            Ok(_) => Ok(Some(unsafe { value.assume_init() })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(accessed("looking up an entry", source)),
        }
    }
}

fn accessed(what: &'static str, source: io::Error) -> DatapathError {
    DatapathError::Access { what, source }
}
