//! Durations as an operator writes them: `250ms`, `2s`, `15m`, `6h`, `1d`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::core::time::milliseconds;

/// The units, the largest first, with their length in milliseconds.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// A duration of whole milliseconds, written as one whole number and a unit.
///
/// The unit is required: keepalived reads a bare number as seconds and `HAProxy` as milliseconds, so
/// operators who know both would misread it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigDuration {
    milliseconds: u64,
}

impl ConfigDuration {
    /// A duration of that many milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self { milliseconds }
    }
}

impl From<ConfigDuration> for Duration {
    fn from(duration: ConfigDuration) -> Self {
        Self::from_millis(duration.milliseconds)
    }
}

impl From<Duration> for ConfigDuration {
    /// Rounded down to milliseconds.
    fn from(duration: Duration) -> Self {
        Self::from_millis(milliseconds(duration))
    }
}

impl fmt::Display for ConfigDuration {
    /// Writes the duration in the largest unit that leaves a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.milliseconds == 0 {
            return f.pad("0s");
        }
        let (unit, length) = UNITS
            .into_iter()
            .find(|(_, length)| self.milliseconds.is_multiple_of(*length))
            .unwrap_or(("ms", 1));
        f.pad(&format!("{}{unit}", self.milliseconds / length))
    }
}

/// Why a text is not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfigDurationError {
    /// It is not a whole number followed by a known unit.
    #[error("expected a whole number and one of the units ms, s, m, h, d, as in \"250ms\", \"2s\" or \"6h\"")]
    Form,
    /// It does not fit into 64 bits of milliseconds.
    #[error("expected a duration of at most 18446744073709551615ms")]
    TooLong,
}

impl FromStr for ConfigDuration {
    type Err = ConfigDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let (_, length) = UNITS
            .into_iter()
            .find(|(name, _)| *name == unit)
            .ok_or(ConfigDurationError::Form)?;
        if number.is_empty() {
            return Err(ConfigDurationError::Form);
        }
        // Only digits are left, so the number can fail for its size alone.
        let number: u64 = number.parse().map_err(|_| ConfigDurationError::TooLong)?;
        number
            .checked_mul(length)
            .map(Self::from_millis)
            .ok_or(ConfigDurationError::TooLong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_unit_has_its_length() {
        let cases = [
            ("0s", 0),
            ("250ms", 250),
            ("2s", 2_000),
            ("15m", 900_000),
            ("6h", 21_600_000),
            ("1d", 86_400_000),
            ("007s", 7_000),
        ];
        for (text, milliseconds) in cases {
            assert_eq!(
                text.parse(),
                Ok(ConfigDuration::from_millis(milliseconds)),
                "{text}"
            );
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "", "5", "s", "ms", "-1s", "+1s", "1.5s", "1 s", " 1s", "1s ", "1S", "1h30m", "1w", "١s", "2sec",
        ] {
            assert_eq!(
                text.parse::<ConfigDuration>(),
                Err(ConfigDurationError::Form),
                "{text}"
            );
        }
        for text in [
            "18446744073709551616ms",
            "18446744073709551615s",
            "99999999999999999999999d",
        ] {
            assert_eq!(
                text.parse::<ConfigDuration>(),
                Err(ConfigDurationError::TooLong),
                "{text}"
            );
        }
    }

    #[test]
    fn the_largest_fitting_unit_is_written() {
        let cases = [
            (0, "0s"),
            (1, "1ms"),
            (1_500, "1500ms"),
            (60_000, "1m"),
            (90_000, "90s"),
            (172_800_000, "2d"),
        ];
        for (milliseconds, text) in cases {
            assert_eq!(ConfigDuration::from_millis(milliseconds).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(milliseconds: u64) {
            let duration = ConfigDuration::from_millis(milliseconds);
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn whole_units_read_back(number in 0_u64..1_000_000, unit in 0..UNITS.len()) {
            let (name, length) = UNITS[unit];
            prop_assert_eq!(format!("{number}{name}").parse(), Ok(ConfigDuration::from_millis(number * length)));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*|[0-9]{0,30}(ms|s|m|h|d|.)?") {
            if let Ok(duration) = text.parse::<ConfigDuration>() {
                prop_assert_eq!(duration.to_string().parse(), Ok(duration));
            }
        }
    }
}
