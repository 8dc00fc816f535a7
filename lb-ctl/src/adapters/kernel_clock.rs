//! The clock by which the kernel program keeps its records.

use lb_common::clock;
use rustix::time::{ClockId, clock_gettime};

/// The time in [ticks](lb_common::clock::ticks).
pub fn ticks() -> u32 {
    clock::ticks(nanoseconds())
}

/// The same in nanoseconds.
pub fn nanoseconds() -> u64 {
    // What bpf_ktime_get_coarse_ns reads.
    let now = clock_gettime(ClockId::MonotonicCoarse);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or_default();
    seconds.wrapping_mul(1_000_000_000).wrapping_add(nanoseconds)
}
