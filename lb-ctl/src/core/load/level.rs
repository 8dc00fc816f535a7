//! The weights that a backend can have.

/// How many [levels](Level) there are to a doubling.
pub(super) const PER_DOUBLING: f64 = 4.0;

/// The weights of the levels in thousandths, from the lowest to the highest.
const THOUSANDTHS: [u32; 13] = [
    250, 297, 354, 420, 500, 595, 707, 841, WHOLE, 1189, 1414, 1682, 2000,
];

/// The thousandths that make up a configured weight.
pub const WHOLE: u32 = 1000;

/// By how many levels the load has to ask for another one, away from the configured weight. More than one, because a change
/// by one level, half of the way, can bring the load from one above to one below.
const PATIENCE: f64 = 2.0;

/// The same on the way back: with it a load that asks for the configured weight, or nearly so, ends at exactly that.
const PATIENCE_BACK: f64 = 0.9;

/// How much of its configured weight a backend has, as one of a few steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(i8);

impl Level {
    /// A quarter of the configured weight: even the busiest takes part, or nobody would notice that it is idle again.
    pub const LOWEST: Self = Self(-8);
    /// All of the configured weight.
    pub const CONFIGURED: Self = Self(0);
    /// Twice the configured weight: who has just started is not flooded.
    pub const HIGHEST: Self = Self(4);

    /// All levels, from the lowest to the highest.
    pub fn all() -> impl Iterator<Item = Self> {
        (Self::LOWEST.0..=Self::HIGHEST.0).map(Self)
    }

    /// The part of the configured weight, in thousandths of it.
    pub fn thousandths(self) -> u32 {
        let index = usize::try_from(self.0 - Self::LOWEST.0);
        index
            .ok()
            .and_then(|index| THOUSANDTHS.get(index))
            .copied()
            .unwrap_or(WHOLE)
    }

    /// The next level of a backend whose load asks for `wanted`.
    pub(super) fn towards(self, wanted: f64) -> Self {
        let level = f64::from(self);
        let away = wanted - level;
        let patience = if away * level < 0.0 {
            PATIENCE_BACK
        } else {
            PATIENCE
        };
        if away.abs() <= patience {
            return self;
        }
        let steps = (away.abs() / 2.0).round().max(1.0);
        Self::nearest(level + steps.copysign(away))
    }

    /// The level that is nearest to one that may lie between two, or beyond all.
    #[expect(clippy::cast_possible_truncation, reason = "within the bounds")]
    pub(super) fn nearest(wanted: f64) -> Self {
        Self(
            wanted
                .round()
                .clamp(Self::LOWEST.0.into(), Self::HIGHEST.0.into()) as i8,
        )
    }

    /// How many levels it is away from the configured weight.
    pub(super) fn distance(self) -> u32 {
        self.0.unsigned_abs().into()
    }
}

impl From<Level> for f64 {
    /// How many levels it is above the configured weight.
    fn from(level: Level) -> Self {
        level.0.into()
    }
}
