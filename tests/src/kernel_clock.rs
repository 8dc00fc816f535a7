//! The clock by which the XDP program keeps its records.

use std::{thread::sleep, time::Duration};

use lb_common::clock;
use rustix::time::{ClockId, clock_gettime};

/// The time in [ticks](lb_common::clock::ticks), as the program sees it.
pub fn ticks() -> u32 {
    clock::ticks(nanoseconds())
}

/// Waits, if need be, until the tick lasts for a while, so that what follows at once is of one tick. The program notices a tick's
/// beginning up to two jiffies late, 20 ms.
pub fn within_a_tick() {
    const MARGIN: u64 = 50_000_000;
    let passed = nanoseconds() % clock::TICK;
    let wait = match clock::TICK - passed {
        left if left < MARGIN => left + MARGIN,
        _ if passed < MARGIN => MARGIN - passed,
        _ => 0,
    };
    sleep(Duration::from_nanos(wait));
}

fn nanoseconds() -> u64 {
    let time = clock_gettime(ClockId::MonotonicCoarse);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or_default();
    seconds.wrapping_mul(1_000_000_000).wrapping_add(nanoseconds)
}
