//! A coordinator's figures as one number, and that over time.

use std::time::Duration;

use crate::core::health::Load;

/// The time in which an average forgets all but a third of what was before. Queries come and go within seconds.
pub const SMOOTHING: Duration = Duration::from_mins(2);

/// What a query counts, in connections. Most connections of a pool are idle; a query keeps threads and memory busy, and its client waits.
pub(super) const QUERY: u64 = 4;

/// How busy a coordinator is, in connections; `None` if it does not tell what is needed for a fair comparison.
///
/// A query that admission control keeps waiting counts once more: it is registered too, and stands for a pool that is full.
pub fn of(figures: &Load) -> Option<u64> {
    let waiting = figures.waiting_connections.unwrap_or_default();
    let queries = figures
        .queries?
        .saturating_add(figures.queued_queries.unwrap_or_default());
    let connections = figures.connections?.saturating_add(waiting);
    Some(connections.saturating_add(queries.saturating_mul(QUERY)))
}

/// A load over time: the average of all that was, where what is older counts less.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Average {
    value: f64,
    at: Duration,
}

impl Average {
    /// The first load.
    #[expect(
        clippy::cast_precision_loss,
        reason = "nobody has 2^53 connections, and what is lost then does not matter"
    )]
    pub const fn new(load: u64, at: Duration) -> Self {
        Self {
            value: load as f64,
            at,
        }
    }

    /// The average with one load more. After a pause that has made it stale it begins anew.
    #[must_use]
    pub fn and(self, load: u64, at: Duration, stale: Duration) -> Self {
        let latest = Self::new(load, at);
        if self.is_stale(at, stale) {
            return latest;
        }
        let kept = (-at.saturating_sub(self.at).div_duration_f64(SMOOTHING)).exp();
        Self {
            value: latest.value + (self.value - latest.value) * kept,
            at,
        }
    }

    /// The load, in whole connections: that of two balancers which have asked at other times is mostly the same.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between loads, which are not negative"
    )]
    pub fn load(&self) -> u64 {
        self.value.round() as u64
    }

    /// Whether its last load is too old to say anything.
    pub fn is_stale(&self, now: Duration, stale: Duration) -> bool {
        now.saturating_sub(self.at) > stale
    }
}
