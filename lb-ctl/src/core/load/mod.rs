//! How much of its weight a backend has with `balance = "load"`: less the busier it is for its weight, compared with the others.
//!
//! Weights decide where *new* connections go, and sessions of Impala last for hours. So what a weight does shows late, while
//! each change of it moves slots, which are tracked for as long as connections from before live. Hence few and clear changes
//! instead of quick ones:
//!
//! - A coordinator's figures become one number, its [load](of), which is [smoothed](Average) over time.
//! - A weight has one of thirteen [levels](Level), each a fourth of a doubling apart, from a quarter of what is configured to its double.
//! - It changes only if the load asks for clearly another level, then by half of the way there, and the levels of a
//!   service not more often than once in [`INTERVAL`].
//!
//! Half of the way, because what comes back is what a weight has done already. Where connections are short, load follows weight at once,
//! and whoever goes all the way halves what is too much, finds too little next time, doubles that, and so on for ever. With long ones
//! it only takes a little longer. The simulation shows both.

mod adoption;
mod average;
mod level;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use adoption::of_slots;
pub use average::{Average, SMOOTHING, of};
pub use level::{Level, WHOLE};

use level::PER_DOUBLING;

/// How long the levels of a service stay at least.
pub const INTERVAL: Duration = Duration::from_mins(1);

/// For how long a figure is good that no other follows; longer where checks are rarer than that.
pub const STALE: Duration = Duration::from_mins(3);

/// A load that is nobody's trouble: a quarter of the 64 service threads of a client port. Added to each backend's, it makes
/// differences between small loads the small matter that they are.
const LITTLE: f64 = 16.0;

/// One backend of a service, as far as its load matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its configured weight.
    pub weight: u32,
    /// Whether it gets new connections now.
    pub in_use: bool,
    /// Its load; `None` if it is not known.
    pub load: Option<u64>,
    /// The level that it has.
    pub level: Level,
}

/// The levels of a service's backends, and when they may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    changed: Duration,
}

impl Levels {
    /// Those of a service that begins to follow load now. They may change after an [`INTERVAL`]: the first figures say little.
    pub const fn new(now: Duration) -> Self {
        Self { changed: now }
    }

    /// The level of each backend from now on.
    ///
    /// A backend that gets no new connections keeps its level: one that is back from being overloaded shall not be so again at once.
    pub fn decide(&mut self, members: &[Member], now: Duration) -> Vec<Level> {
        let may_change = now.saturating_sub(self.changed) >= INTERVAL;
        let compared = Comparison::of(members);
        let next = |member: &Member| match member.load {
            _ if !may_change || !takes_part(member) => member.level,
            Some(load) => member.level.towards(compared.wanted(load, member.weight)),
            None => Level::CONFIGURED,
        };
        let levels: Vec<Level> = members.iter().map(next).collect();
        let has_changed = |(member, level): (&Member, &Level)| member.level != *level;
        if members.iter().zip(&levels).any(has_changed) {
            self.changed = now;
        }
        levels
    }
}

const fn takes_part(member: &Member) -> bool {
    member.in_use && member.weight > 0
}

/// What the load of one backend is compared with: that of all that take part.
#[derive(Clone, Copy, Debug)]
struct Comparison {
    /// The mean load.
    mean: f64,
    /// The mean weight.
    weight: f64,
}

impl Comparison {
    #[expect(
        clippy::cast_precision_loss,
        reason = "sums in whole numbers, so that the order of the backends does not matter; a ratio of them needs no more"
    )]
    fn of(members: &[Member]) -> Self {
        let known = members
            .iter()
            .filter(|member| takes_part(member))
            .filter_map(|member| Some((member.load?, member.weight)));
        let (mut count, mut loads, mut weights) = (0_u32, 0_u128, 0_u64);
        for (load, weight) in known {
            count += 1;
            loads += u128::from(load);
            weights += u64::from(weight);
        }
        let count = f64::from(count.max(1));
        Self {
            mean: loads as f64 / count,
            weight: weights as f64 / count,
        }
    }

    /// The level that makes up for a load, were it only for that: the ratio of the mean load to that of this backend, had it the mean
    /// weight. May be beyond the highest and the lowest.
    #[expect(clippy::cast_precision_loss, reason = "as above")]
    fn wanted(self, load: u64, weight: u32) -> f64 {
        let for_its_weight = load as f64 * self.weight / f64::from(weight);
        PER_DOUBLING * ((self.mean + LITTLE) / (for_its_weight + LITTLE)).log2()
    }
}
