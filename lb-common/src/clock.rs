//! Time as the tables keep it.

/// Nanoseconds of the monotonic clock in ticks of 2^30 ns, about 1.07 s each: a shift, where seconds would take a
/// division for each packet of a tracked slot. Wraps after 146 years.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "wraps after 146 years")]
pub const fn ticks(nanoseconds: u64) -> u32 {
    (nanoseconds >> 30) as u32
}

/// Nanoseconds in a tick.
pub const TICK: u64 = 1 << 30;

/// The ticks that have passed between two times, the later one given first.
#[inline(always)]
pub const fn since(now: u32, then: u32) -> u32 {
    now.wrapping_sub(then)
}
