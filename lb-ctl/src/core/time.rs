//! Time: that of the tables, and for people.

use std::time::Duration;

/// Ticks that have [passed](lb_common::clock::since) as seconds, rounded down. Two clocks that are read one after the other may
/// disagree by a tick: a time that seems to lie ahead is now.
pub fn seconds(ticks: u32) -> u64 {
    if ticks > u32::MAX / 2 {
        return 0;
    }
    (u64::from(ticks) << 30) / 1_000_000_000
}

/// A duration in ticks, rounded up.
pub fn ticks(duration: Duration) -> u32 {
    let ticks = duration.as_nanos().div_ceil(1 << 30);
    u32::try_from(ticks).unwrap_or(u32::MAX)
}

/// A duration in milliseconds, rounded down.
pub fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_a_little_longer_than_seconds() {
        assert_eq!([0, 1, 14, 56].map(seconds), [0, 1, 15, 60]);
        assert_eq!(seconds(0_u32.wrapping_sub(1)), 0, "one tick ahead");
        assert_eq!(ticks(Duration::from_mins(1)), 56);
        assert_eq!(ticks(Duration::MAX), u32::MAX);
    }

    #[test]
    fn milliseconds_are_whole() {
        assert_eq!(milliseconds(Duration::from_micros(1_999)), 1);
        assert_eq!(milliseconds(Duration::MAX), u64::MAX);
    }
}
