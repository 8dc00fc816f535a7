//! The clock by which the kernel program keeps its records, and the one by which operators give deadlines.

use std::{
    sync::LazyLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

pub(super) use crate::adapters::kernel_clock::ticks;
use crate::core::time::milliseconds;

/// Unix time in milliseconds, for what has to mean something to later processes and to the other balancer: deadlines of drains, and which of
/// two decisions came later. Read from the wall clock once and counted on from there, so that a clock that jumps moves no deadline while
/// the daemon runs.
pub(super) fn unix_milliseconds() -> u64 {
    static BEGINNING: LazyLock<(Duration, Instant)> = LazyLock::new(|| (wall_clock(), Instant::now()));
    let (unix, then) = *BEGINNING;
    milliseconds(unix + then.elapsed())
}

#[expect(
    clippy::disallowed_methods,
    reason = "a deadline that a restart or a crash of the host must not move has no other clock"
)]
fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
