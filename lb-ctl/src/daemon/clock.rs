//! The clock by which the kernel program keeps its records, and the one by which operators give deadlines.

use std::{
    sync::LazyLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use lb_common::clock;
use rustix::time::{ClockId, clock_gettime};

/// The time in [ticks](lb_common::clock::ticks).
pub(super) fn ticks() -> u32 {
    // What bpf_ktime_get_coarse_ns reads.
    let now = clock_gettime(ClockId::MonotonicCoarse);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or_default();
    clock::ticks(seconds.wrapping_mul(1_000_000_000).wrapping_add(nanoseconds))
}

/// Unix time in milliseconds, for what has to mean something to later processes and to the other balancer: deadlines of drains, and which of
/// two decisions came later. Read from the wall clock once and counted on from there, so that a clock that jumps moves no deadline while
/// the daemon runs.
pub(super) fn unix_milliseconds() -> u64 {
    static BEGINNING: LazyLock<(Duration, Instant)> = LazyLock::new(|| (wall_clock(), Instant::now()));
    let (unix, then) = *BEGINNING;
    u64::try_from((unix + then.elapsed()).as_millis()).unwrap_or(u64::MAX)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a deadline that a restart or a crash of the host must not move has no other clock"
)]
fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
