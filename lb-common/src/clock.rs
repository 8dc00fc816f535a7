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

/// The ticks that have passed between two times, the later one given first. 0 if that is the earlier one: on another CPU the
/// next tick may have begun a moment ago.
#[inline(always)]
pub const fn since(now: u32, then: u32) -> u32 {
    let elapsed = now.wrapping_sub(then);
    if elapsed > u32::MAX / 2 { 0 } else { elapsed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_forward_also_where_it_wraps() {
        for (now, then, elapsed) in [
            (5, 5, 0),
            (7, 5, 2),
            (5, 6, 0),
            (1, u32::MAX, 2),
            (u32::MAX, 1, 0),
        ] {
            assert_eq!(since(now, then), elapsed, "from {then} to {now}");
        }
    }
}
