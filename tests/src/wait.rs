//! Waiting for a condition instead of for an amount of time.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a condition that does not hold is left alone before it is looked at again.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// What a look at a condition can return: whether it holds, and if not, what was seen instead.
pub trait Observation {
    /// What the wait yields once the condition holds.
    type Value;

    /// The awaited value, or a description of what was seen instead.
    fn into_result(self) -> Result<Self::Value, String>;
}

impl Observation for bool {
    type Value = ();

    fn into_result(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("false".to_owned()) }
    }
}

impl<T> Observation for Option<T> {
    type Value = T;

    fn into_result(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing".to_owned())
    }
}

impl<T, E: Display> Observation for Result<T, E> {
    type Value = T;

    fn into_result(self) -> Result<T, String> {
        // Alternate form: an `anyhow::Error` shows its causes as well.
        self.map_err(|error| format!("{error:#}"))
    }
}

/// Looks at a condition every few milliseconds until it holds, and returns what it yields.
///
/// `what` completes the sentence "waited for …". The look returns a `bool`, an `Option`, or a `Result` whose error
/// says what was seen instead; after `timeout` the last such description is part of the error. The condition is
/// looked at once more after the time has run out, so a busy machine does not make a wait fail that has nothing
/// left to wait for.
pub fn wait_until<O: Observation>(
    what: &str,
    timeout: Duration,
    mut look: impl FnMut() -> O,
) -> Result<O::Value> {
    let mut last_seen = String::new();
    let found = poll(timeout, || match look().into_result() {
        Ok(value) => Some(value),
        Err(seen) => {
            last_seen = seen;
            None
        }
    });
    match found {
        Some(value) => Ok(value),
        None => bail!("waited {timeout:?} in vain for {what}; last seen: {last_seen}"),
    }
}

/// Calls `look` every few milliseconds until it returns something or `timeout` has passed.
pub(crate) fn poll<T>(timeout: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + timeout;
    loop {
        let last = Instant::now() >= deadline;
        let found = look();
        if found.is_some() || last {
            return found;
        }
        thread::sleep(POLL_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_names_the_condition_and_what_was_seen_last() {
        let mut looks = 0;
        let error = wait_until("three backends", Duration::from_millis(20), || {
            looks += 1;
            Err::<(), _>(format!("{} backends at look {looks}", 2))
        })
        .unwrap_err();
        assert!(looks > 1);
        assert_eq!(
            error.to_string(),
            format!("waited 20ms in vain for three backends; last seen: 2 backends at look {looks}")
        );
    }

    #[test]
    fn the_value_is_returned_as_soon_as_it_is_there() {
        let mut left = 3;
        let value = wait_until("the countdown", Duration::from_mins(1), || {
            left -= 1;
            (left == 0).then_some("done")
        });
        assert_eq!(value.unwrap(), "done");
    }

    #[test]
    fn a_condition_is_looked_at_even_without_any_time() {
        wait_until("the obvious", Duration::ZERO, || true).unwrap();
        let error = wait_until("the impossible", Duration::ZERO, || false).unwrap_err();
        assert_eq!(
            error.to_string(),
            "waited 0ns in vain for the impossible; last seen: false"
        );
    }
}
