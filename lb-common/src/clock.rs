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
///
/// None if the other is later: two CPUs can read the clock in another order than they write what they have read, and half of
/// all differences would be as absurd as they are long.
#[inline(always)]
pub const fn since(now: u32, then: u32) -> u32 {
    let passed = now.wrapping_sub(then);
    if passed > u32::MAX / 2 { 0 } else { passed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_does_not_run_backwards() {
        assert_eq!(since(7, 5), 2);
        assert_eq!(since(5, 5), 0);
        assert_eq!(since(5, 6), 0, "read by another CPU a moment later");
        assert_eq!(since(1, u32::MAX), 2, "after the wrap");
    }
}
