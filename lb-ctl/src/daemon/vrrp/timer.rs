//! When an instance's timer is up, for whoever shows it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// That none is running.
const NONE: u64 = u64::MAX;

/// Each advertisement sets a timer anew, which is no reason to make all that is known of an instance known anew. All clones are of the
/// same one.
#[derive(Clone, Debug)]
pub(super) struct Timer(Arc<AtomicU64>);

impl Timer {
    /// One that is not running.
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicU64::new(NONE)))
    }

    /// It will be up at this time of the machines'; never, if there is none.
    pub(super) fn set(&self, due: Option<Duration>) {
        let milliseconds = due.and_then(|due| u64::try_from(due.as_millis()).ok());
        self.0.store(milliseconds.unwrap_or(NONE), Ordering::Relaxed);
    }

    /// How many milliseconds are left at this time.
    pub(super) fn left(&self, now: Duration) -> Option<u64> {
        let due = self.0.load(Ordering::Relaxed);
        let now = u64::try_from(now.as_millis()).unwrap_or(NONE);
        (due != NONE).then(|| due.saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_it_is_known_to_all() {
        let timer = Timer::new();
        let shown = timer.clone();
        let at = Duration::from_millis;
        assert_eq!(shown.left(at(0)), None);
        timer.set(Some(at(700)));
        assert_eq!((shown.left(at(100)), shown.left(at(800))), (Some(600), Some(0)));
        timer.set(None);
        assert_eq!(shown.left(at(100)), None);
    }
}
