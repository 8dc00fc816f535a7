//! The clock by which the XDP program keeps its records.

use std::{thread::sleep, time::Duration};

use lb_common::clock;
pub use lb_ctl::adapters::kernel_clock::ticks;

/// Waits, if need be, until the tick lasts for a while, so that what follows at once is of one tick. The program notices a tick's
/// beginning up to two jiffies late, 20 ms.
pub fn within_a_tick() {
    const MARGIN: u64 = 50_000_000;
    let passed = lb_ctl::adapters::kernel_clock::nanoseconds() % clock::TICK;
    let wait = match clock::TICK - passed {
        left if left < MARGIN => left + MARGIN,
        _ if passed < MARGIN => MARGIN - passed,
        _ => 0,
    };
    sleep(Duration::from_nanos(wait));
}
