//! Which levels explain the slots that an earlier run has left.

use super::level::{Level, PER_DOUBLING};

/// The levels with which backends have the slots that they have, for a controller that starts over slots of an earlier run, which are
/// to stay where they are. By backend: its configured weight, and how many slots give it new connections.
///
/// Slots tell shares, that is ratios of weights. Of the levels with these ratios it takes those that explain the slots best, and of equally
/// good ones those next to the configured weights.
pub fn of_slots(backends: &[(u32, u32)]) -> Vec<Level> {
    let serves = |&(weight, slots): &(u32, u32)| weight > 0 && slots > 0;
    let Some(first) = backends.iter().find(|it| serves(it)) else {
        return vec![Level::CONFIGURED; backends.len()];
    };
    let per_weight = |(weight, slots): (u32, u32)| f64::from(slots) / f64::from(weight);
    let with = |level: Level| -> Vec<Level> {
        let above = |&backend: &(u32, u32)| {
            let doublings = (per_weight(backend) / per_weight(*first)).log2();
            Level::nearest(f64::from(level) + PER_DOUBLING * doublings)
        };
        let level = |it: &(u32, u32)| if serves(it) { above(it) } else { Level::CONFIGURED };
        backends.iter().map(level).collect()
    };
    let distance = |levels: &[Level]| -> u32 { levels.iter().copied().map(Level::distance).sum() };
    let candidates = Level::all().map(with);
    let rated = candidates.map(|levels| (unexplained(backends, &levels), distance(&levels), levels));
    let best = rated.min_by(|one, other| (one.0, one.1).cmp(&(other.0, other.1)));
    best.map(|(_, _, levels)| levels).unwrap_or_default()
}

/// How many slots the backends would have in another way with these levels.
fn unexplained(backends: &[(u32, u32)], levels: &[Level]) -> u64 {
    let serving = || backends.iter().zip(levels).filter(|((_, slots), _)| *slots > 0);
    let weight = |weight: u32, level: Level| u64::from(weight) * u64::from(level.thousandths());
    let slots: u64 = serving().map(|((_, slots), _)| u64::from(*slots)).sum();
    let total: u64 = serving().map(|((it, _), level)| weight(*it, *level)).sum();
    serving()
        .map(|(&(it, slots_of), &level)| {
            let expected = weight(it, level).saturating_mul(slots) / total.max(1);
            expected.abs_diff(slots_of.into())
        })
        .sum()
}
