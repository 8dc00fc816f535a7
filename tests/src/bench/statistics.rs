//! Medians and spread.

/// What one round measured, in nanoseconds per packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// The case.
    pub(super) ns: f64,
    /// The floor of the same round.
    pub(super) floor: f64,
}

/// The middle of a distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Quartiles {
    pub(super) lower: f64,
    pub(super) median: f64,
    pub(super) upper: f64,
}

impl Quartiles {
    /// The quartiles of some values, interpolated linearly between neighbours; zero for none.
    pub(super) fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_unstable_by(f64::total_cmp);
        let at = |quarter| quantile(&values, quarter);
        Self {
            lower: at(1),
            median: at(2),
            upper: at(3),
        }
    }

    /// The interquartile range: half of all values lie within.
    pub(super) const fn spread(&self) -> f64 {
        self.upper - self.lower
    }
}

#[expect(clippy::cast_precision_loss, reason = "a fraction of 3 at most")]
fn quantile(sorted: &[f64], quarter: usize) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let (index, fraction) = (last * quarter / 4, (last * quarter % 4) as f64 / 4.0);
    let below = sorted[index];
    let above = sorted[(index + 1).min(last)];
    below + (above - below) * fraction
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the values are exact in binary")]
mod tests {
    use super::*;

    fn quartiles(values: &[f64]) -> [f64; 3] {
        let Quartiles { lower, median, upper } = Quartiles::of(values.iter().copied());
        [lower, median, upper]
    }

    #[test]
    fn quartiles_divide_the_values_in_four() {
        assert_eq!(quartiles(&[]), [0.0; 3]);
        assert_eq!(quartiles(&[7.0]), [7.0; 3]);
        assert_eq!(quartiles(&[5.0, 1.0, 4.0, 2.0, 3.0]), [2.0, 3.0, 4.0]);
        assert_eq!(quartiles(&[0.0, 1.0]), [0.25, 0.5, 0.75]);
    }

    #[test]
    fn one_outlier_changes_neither_median_nor_spread() {
        let with = |outlier| Quartiles::of([10.0, 11.0, 12.0, 13.0, outlier].into_iter());
        assert_eq!(with(14.0), with(1e9));
        assert_eq!(with(14.0).spread(), 2.0);
    }
}
