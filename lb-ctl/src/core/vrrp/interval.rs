//! How often a master advertises, and how long its silence may last.

use std::{fmt, num::NonZeroU8, time::Duration};

/// From one advertisement to the next: 10 ms to 40.95 s, in whole centiseconds, which is what an advertisement can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval(u16);

impl Interval {
    /// The shortest, 10 ms.
    pub const MIN: Self = Self(1);
    /// The longest, 40.95 s: the field has 12 bits.
    pub const MAX: Self = Self(0xfff);

    /// So many hundredths of a second; `None` if that is none or too many.
    pub const fn from_centiseconds(centiseconds: u16) -> Option<Self> {
        if Self::MIN.0 <= centiseconds && centiseconds <= Self::MAX.0 {
            Some(Self(centiseconds))
        } else {
            None
        }
    }

    /// A duration, if it is one of these intervals exactly.
    pub fn from_duration(duration: Duration) -> Option<Self> {
        let centiseconds = u16::try_from(duration.as_millis() / 10).ok()?;
        Self::from_centiseconds(centiseconds).filter(|interval| interval.duration() == duration)
    }

    /// In hundredths of a second.
    pub const fn centiseconds(self) -> u16 {
        self.0
    }

    /// As a duration.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0 as u64 * 10)
    }

    /// How much later than one of the highest priority a backup of this one gives its master up (`Skew_Time`): less than an
    /// interval, so that the best backup is first. Not rounded to centiseconds, or all would be equal at short intervals.
    pub fn skew(self, priority: NonZeroU8) -> Duration {
        self.duration() * (256 - u32::from(priority.get())) / 256
    }

    /// After how long a silence a backup of this priority gives its master up (`Master_Down_Interval`).
    pub fn master_down(self, priority: NonZeroU8) -> Duration {
        self.duration() * 3 + self.skew(priority)
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", u32::from(self.0) * 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn priority(priority: u8) -> NonZeroU8 {
        NonZeroU8::new(priority).unwrap()
    }

    #[test]
    fn only_whole_centiseconds_that_fit_the_field_are_intervals() {
        let interval = |ms| Interval::from_duration(Duration::from_millis(ms)).map(Interval::centiseconds);
        assert_eq!(interval(10), Some(1));
        assert_eq!(interval(1000), Some(100));
        assert_eq!(interval(40_950), Some(4095));
        for refused in [0, 9, 15, 40_960, 655_360, 655_370] {
            assert_eq!(interval(refused), None, "{refused} ms");
        }
        assert_eq!(Interval::from_duration(Duration::from_micros(10_001)), None);
    }

    #[test]
    fn the_timers_are_those_of_the_standard() {
        // RFC 9568, 6.1: 3 x 100 cs + (256 - 100) x 100 cs / 256.
        let second = Interval::from_centiseconds(100).unwrap();
        assert_eq!(second.skew(priority(100)), Duration::from_micros(609_375));
        assert_eq!(
            second.master_down(priority(100)),
            Duration::from_micros(3_609_375)
        );
    }

    proptest! {
        #[test]
        fn a_better_backup_is_first_and_within_an_interval(
            centiseconds in 1_u16..=4095,
            worse in 1_u8..255,
            by in 1_u8..=255,
        ) {
            let interval = Interval::from_centiseconds(centiseconds).unwrap();
            let better = priority(worse.saturating_add(by));
            let worse = priority(worse);
            prop_assert!(interval.skew(better) < interval.skew(worse));
            prop_assert!(interval.skew(worse) < interval.duration());
            prop_assert!(interval.master_down(better) > interval.duration() * 3);
            prop_assert_eq!(Interval::from_duration(interval.duration()), Some(interval));
        }
    }
}
