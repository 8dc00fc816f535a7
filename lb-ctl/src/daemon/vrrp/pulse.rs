//! Whether a thread still does its work.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// How often a thread that has nothing to do gives a sign of life.
pub(super) const BEAT: Duration = Duration::from_secs(1);

/// A thread's signs of life. All clones are of the same thread.
#[derive(Clone, Debug)]
pub(super) struct Pulse {
    epoch: Instant,
    /// Milliseconds since the epoch.
    last: Arc<AtomicU64>,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self {
            epoch: Instant::now(),
            last: Arc::default(),
        }
    }

    /// Gives a sign of life. To be called from the thread's loop, where nothing gets if it hangs.
    pub(super) fn beat(&self) {
        let now = self.epoch.elapsed().as_millis();
        self.last
            .store(now.try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// For how long there has been none.
    pub(super) fn silence(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.epoch.elapsed().saturating_sub(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_lasts_from_the_last_sign_of_life() {
        let pulse = Pulse::new();
        let thread = pulse.clone();
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(pulse.silence(), Duration::from_secs(3));
        thread.beat();
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(pulse.silence(), Duration::from_secs(2));
    }
}
