//! The keys of a service that say what follows from the health of its backends.

use std::time::Duration;

use super::assemble::value_or;
use super::choice::OnDown;
use super::duration::ConfigDuration;
use super::reader::{At, TableReader};
use super::value;
use crate::core::health::{Failback, Fraction, Policy};

/// The longest slow start. Whoever wants longer wants other weights.
const MAX_SLOW_START: ConfigDuration = ConfigDuration::from_millis(86_400_000);

/// What follows from the health of a service's backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthPolicy {
    /// Who serves.
    pub selection: Policy,
    /// In how long a returning backend gets its whole share; 0 is at once.
    pub slow_start: Duration,
    /// What becomes of the flows of a backend that is down.
    pub on_down: OnDown,
}

/// The keys as written.
#[derive(Debug)]
pub(super) struct HealthPolicyKeys {
    min_healthy: Option<At<Fraction>>,
    failback: Option<At<Failback>>,
    slow_start: Option<At<Duration>>,
    on_down: Option<At<OnDown>>,
}

impl HealthPolicyKeys {
    pub(super) fn read(table: &mut TableReader<'_, '_>) -> Self {
        Self {
            min_healthy: table.optional("min_healthy", value::fraction),
            failback: table.optional("failback", value::choice),
            slow_start: table.optional("slow_start", |value| {
                let bounds = ConfigDuration::from_millis(0)..=MAX_SLOW_START;
                value::duration(value, bounds, "leave the key out for none").map(Duration::from)
            }),
            on_down: table.optional("on_down", value::choice),
        }
    }

    pub(super) fn assemble(self) -> HealthPolicy {
        HealthPolicy {
            selection: Policy {
                min_healthy: value_or(self.min_healthy, Fraction::HALF),
                failback: value_or(self.failback, Failback::Auto),
            },
            slow_start: value_or(self.slow_start, Duration::ZERO),
            on_down: value_or(self.on_down, OnDown::Reset),
        }
    }
}
