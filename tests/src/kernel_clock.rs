//! The clock by which the XDP program keeps its records.

use lb_common::clock;
use rustix::time::{ClockId, clock_gettime};

/// The time in [ticks](lb_common::clock::ticks), as the program sees it.
pub fn ticks() -> u32 {
    let time = clock_gettime(ClockId::MonotonicCoarse);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or_default();
    clock::ticks(seconds.wrapping_mul(1_000_000_000).wrapping_add(nanoseconds))
}
