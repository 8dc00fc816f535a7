//! What the controller is told while it listens: whose record has changed.
//!
//! In BPF functions of their own, called once or twice in the life of a connection; inlined they would take registers and stack from
//! those that remember it.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_RB_NO_WAKEUP},
    macros::map,
    maps::{Array, RingBuf},
};
use lb_common::{
    decision::Tables as _,
    layout::{ClientKey, FlowKey, NEWS_BYTES, News},
};

use crate::{atomic, maps::Maps};

// The names are those of `lb_common::layout::map`.

/// What has changed, until the controller takes it out.
#[map]
static NEWS: RingBuf = RingBuf::with_byte_size(NEWS_BYTES, 0);

/// How many news found no room. Memory-mapped, so that the controller can look as often as it takes news out.
#[map]
static NEWS_LOST: Array<u32> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Tells that a flow's record has changed.
#[inline(never)]
pub(crate) fn tell_flow(flow: &FlowKey) -> u64 {
    if is_heard() {
        tell(News::of_flow(flow));
    }
    0
}

/// Tells that it has changed where a client is at home.
#[inline(never)]
pub(crate) fn tell_client(client: &ClientKey) -> u64 {
    if is_heard() {
        tell(News::of_client(client));
    }
    0
}

/// Whether the controller listens.
#[inline(always)]
fn is_heard() -> bool {
    Maps.node().is_some_and(|node| node.listens != 0)
}

/// Wakes nobody: with 1,000 new connections a second, 1,000 times a process that was asleep would be woken from within the
/// forwarding of a packet. The controller looks every few milliseconds instead, which costs the same however many there are.
#[inline(always)]
fn tell(news: News) {
    if let Some(mut entry) = NEWS.reserve::<News>(0) {
        entry.write(news);
        entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    } else if let Some(lost) = NEWS_LOST.get_ptr_mut(0) {
        // SAFETY: the pointer is into the map's memory and aligned.
        unsafe { atomic::add(lost, 1) };
    }
}
