//! The maps of the balancer, and the tables that a decision sees in them.
//!
//! Sizes given here are those of the default configuration; the controller sets the real ones when it loads the program.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    macros::map,
    maps::{Array, HashMap, PerCpuArray},
};
use lb_common::{
    counter::Counter,
    decision::Tables,
    layout::{Service, ServiceKey, Slot, Target, Traffic},
};

// The names are those of `lb_common::layout::map`.

/// Services by address, port and protocol; and the VIPs alone.
#[map]
static SERVICES: HashMap<ServiceKey, Service> = HashMap::with_max_entries(128, BPF_F_NO_PREALLOC);

/// Slots of all services. The controller maps it into its memory and stores whole words.
#[map]
static SLOTS: Array<u64> = Array::with_max_entries(64 * 65_537, BPF_F_MMAPABLE);

/// Targets by id.
#[map]
static TARGETS: Array<Target> = Array::with_max_entries(1025, 0);

/// Forwarded traffic by target id.
#[map]
static TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(1025, 0);

/// Exceptional packets by [`Counter`].
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

/// The maps, as the tables of a decision.
pub struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        // SAFETY: entries are integers, of which any bits are valid. The kernel replaces an entry as a whole; the memory of
        // the old one may be reused while a packet still reads it, which then is treated as the service that was written
        // there: one packet, when an operator changes services.
        unsafe { SERVICES.get(key) }
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<Slot> {
        SLOTS.get(index).map(|bits| {
            // SAFETY: the reference is valid for reads and aligned. The load is volatile, thus one 8-byte instruction,
            // because the controller stores into the same word at any time.
            Slot::from_bits(unsafe { core::ptr::read_volatile(bits) })
        })
    }

    #[inline(always)]
    fn target(&self, id: u16) -> Option<&Target> {
        // The kernel copies a new entry over the old one. A packet that reads in between gets a mixture of two MAC addresses
        // and is lost, as it was with the old one.
        TARGETS.get(u32::from(id))
    }
}

/// Counts an exceptional packet.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the pointer is into this CPU's own copy of the value, aligned and valid. XDP programs run in softirqs, which
        // do not interrupt each other; where a kernel lets them (PREEMPT_RT), an increment of a statistic may be lost.
        unsafe { *value += 1 };
    }
}

/// Counts a frame of `bytes` bytes forwarded to the target `id`.
#[inline(always)]
pub fn count_forwarded(id: u16, bytes: usize, new_flow: bool) {
    if let Some(traffic) = TRAFFIC.get_ptr_mut(u32::from(id)) {
        // SAFETY: as in `count`; nobody else holds a reference to this CPU's copy while the program runs.
        let traffic = unsafe { &mut *traffic };
        traffic.packets += 1;
        traffic.bytes += bytes as u64;
        traffic.new_flows += u64::from(new_flow);
    }
}
