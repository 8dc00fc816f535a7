//! How often something is checked, how long that may take, and how many checks it takes to believe a change: keys that backends and
//! tracked scripts have in common.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::duration::ConfigDuration;
use super::reader::{At, TableReader};
use super::value;

pub(super) const INTERVALS: RangeInclusive<ConfigDuration> =
    ConfigDuration::from_millis(100)..=ConfigDuration::from_millis(3_600_000);
const TIMEOUTS: RangeInclusive<ConfigDuration> =
    ConfigDuration::from_millis(10)..=ConfigDuration::from_millis(60_000);
const COUNTS: RangeInclusive<u32> = 1..=100;

pub(super) const INTERVAL: Duration = Duration::from_secs(2);
/// A coordinator under load answers a probe within some hundred milliseconds.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);
pub(super) const RISE: u32 = 2;
pub(super) const FALL: u32 = 3;

/// From the beginning of one check to the next one's.
pub(super) fn interval(table: &mut TableReader<'_, '_>) -> Option<At<Duration>> {
    table.optional("interval", |value| {
        value::duration(value, INTERVALS, "leave the key out to get \"2s\"").map(Duration::from)
    })
}

/// How long one check may take in all.
pub(super) fn timeout(table: &mut TableReader<'_, '_>) -> Option<At<Duration>> {
    table.optional("timeout", |value| {
        value::duration(value, TIMEOUTS, "leave the key out to get \"2s\"").map(Duration::from)
    })
}

/// How many good checks in a row it takes.
pub(super) fn rise(table: &mut TableReader<'_, '_>) -> Option<At<u32>> {
    table.optional("rise", |value| {
        value::integer(value, COUNTS, "leave the key out to get 2")
    })
}

/// How many bad ones.
pub(super) fn fall(table: &mut TableReader<'_, '_>) -> Option<At<u32>> {
    table.optional("fall", |value| {
        value::integer(value, COUNTS, "leave the key out to get 3")
    })
}
