//! What the service manager is told, by systemd's protocol (`sd_notify(3)`). Where there is none, nobody is.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Instant, sleep_until};

/// How many signs of life there are in the time after which the service manager takes the daemon for dead.
const BEATS: u32 = 3;

/// The service manager.
pub(super) struct Supervisor {
    /// How often it wants a sign of life; `None` if it does not.
    beat: Option<Duration>,
    next_beat: Instant,
    /// What it was told last.
    status: String,
    /// Whether it could not be reached, which is said once.
    is_deaf: bool,
}

impl Supervisor {
    /// The one that the environment names.
    pub(super) fn of_environment() -> Self {
        Self {
            beat: sd_notify::watchdog_enabled().map(|patience| patience / BEATS),
            next_beat: Instant::now(),
            status: String::new(),
            is_deaf: false,
        }
    }

    /// Returns when it is time for a sign of life, which is given with [`Self::beat`]; never, if none is wanted.
    pub(super) async fn beat_due(&self) {
        match self.beat {
            Some(_) => sleep_until(self.next_beat).await,
            None => std::future::pending().await,
        }
    }

    /// Gives a sign of life. To be called from where nothing gets if the controller hangs.
    pub(super) fn beat(&mut self) {
        self.skip_beat();
        if self.beat.is_some() {
            self.tell(&[NotifyState::Watchdog]);
        }
    }

    /// Gives none, though it is time for it. If that goes on, the service manager takes the daemon for dead.
    pub(super) fn skip_beat(&mut self) {
        if let Some(beat) = self.beat {
            self.next_beat = Instant::now() + beat;
        }
    }

    /// The daemon does its work: after the start, and after a reload, whatever came of it.
    pub(super) fn ready(&mut self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// The configuration is being read again.
    pub(super) fn reloading(&mut self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            // No system has no such clock; without the time newer versions of systemd would not believe it.
            Err(error) => tracing::warn!(%error, "the time could not be read"),
        }
    }

    /// The daemon is ending.
    pub(super) fn stopping(&mut self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// What the daemon does, in a sentence.
    pub(super) fn status(&mut self, status: String) {
        if status != self.status {
            self.tell(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    fn tell(&mut self, state: &[NotifyState<'_>]) {
        let told = sd_notify::notify(state);
        if let Err(error) = &told
            && !self.is_deaf
        {
            tracing::warn!(%error, "the service manager (NOTIFY_SOCKET) cannot be told how the daemon is");
        }
        self.is_deaf = told.is_err();
    }
}
