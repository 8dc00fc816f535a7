//! All entries of a hash map, thousands with each system call.
//!
//! Going from key to key, as aya does, takes two calls for each entry, and begins anew where the program has just removed the
//! key at which it stands. The kernel's batches go from bucket to bucket (Linux 5.6 and newer).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use aya::{Pod, maps::Map};
use lb_common::layout::{FlowKey, FlowRecord, HalfOpen, SettledFlow};

use super::{error::DatapathError, pod::Raw, system_call::bpf};

/// A command of bpf(2), from linux/bpf.h.
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
/// How many entries are asked for at once, at first.
const ENTRIES: u32 = 4096;

/// The part of `union bpf_attr` that `BPF_MAP_LOOKUP_BATCH` uses.
#[repr(C)]
struct LookupBatch {
    /// Where to go on; 0 at first.
    in_batch: u64,
    /// Where the kernel says where to go on: 4 bytes, for a hash.
    out_batch: u64,
    keys: u64,
    values: u64,
    /// How many entries there is room for; how many there are.
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// The content of a map of flows.
pub(super) trait Entry: Copy {}

impl Entry for FlowRecord {}
impl Entry for HalfOpen {}
impl Entry for SettledFlow {}

/// All flows of a map, in no order. What comes or goes meanwhile may be there or not.
pub(super) fn entries<V: Entry>(map: &Map) -> Result<Vec<(FlowKey, V)>, DatapathError>
where
    Raw<V>: Pod,
{
    let (Map::HashMap(data) | Map::LruHashMap(data)) = map else {
        return Err(DatapathError::Object {
            missing: "hash of flows",
        });
    };
    read(data.fd().as_fd(), size_of::<FlowKey>(), size_of::<V>())
        .map(|(keys, values)| {
            let keys = keys.chunks_exact(size_of::<FlowKey>()).map(value::<FlowKey>);
            let values = values.chunks_exact(size_of::<V>()).map(value::<V>);
            keys.zip(values).collect()
        })
        .map_err(DatapathError::Batch)
}

/// The value that the map holds as these bytes.
fn value<T: Copy>(bytes: &[u8]) -> T
where
    Raw<T>: Pod,
{
    assert_eq!(bytes.len(), size_of::<T>(), "chunks have the value's size");
    // SAFETY: the bytes are as many as the value has, and as `Pod` any bytes are one. Nothing is said about their alignment.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}

/// Keys and values of all entries, one after the other.
fn read(map: BorrowedFd<'_>, key_size: usize, value_size: usize) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let (mut all_keys, mut all_values) = (Vec::new(), Vec::new());
    let mut room = ENTRIES;
    let mut place = None::<u32>;
    loop {
        let mut keys = vec![0_u8; room as usize * key_size];
        let mut values = vec![0_u8; room as usize * value_size];
        let (from, mut next) = (place, 0_u32);
        let mut attributes = LookupBatch {
            in_batch: from
                .as_ref()
                .map_or(0, |place| std::ptr::from_ref(place).addr() as u64),
            out_batch: std::ptr::from_mut(&mut next).addr() as u64,
            keys: keys.as_mut_ptr().addr() as u64,
            values: values.as_mut_ptr().addr() as u64,
            count: room,
            map: map.as_raw_fd().cast_unsigned(),
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: the attributes are those of the command. The places in them are valid until it returns, and have room for
        // `count` keys and values of the map's sizes.
        let outcome = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attributes) };
        let is_last = match outcome {
            Ok(_) => false,
            // The last entries may come with it.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            // One bucket has more entries than there is room for.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < 1 << 20 => {
                room *= 2;
                continue;
            }
            Err(error) => return Err(error),
        };
        let found = attributes.count.min(room) as usize;
        all_keys.extend_from_slice(&keys[..found * key_size]);
        all_values.extend_from_slice(&values[..found * value_size]);
        if is_last {
            return Ok((all_keys, all_values));
        }
        place = Some(next);
    }
}
