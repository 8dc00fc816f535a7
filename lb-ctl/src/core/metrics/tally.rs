//! What only the daemon counts, as it happens: checks, changes of health, reloads, errors.

use std::{collections::BTreeSet, time::Duration};

use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry, core::Collector,
};

use super::definition::Metric;
use crate::core::health::{Health, Outcome, Verdict};

/// The upper bounds of the histogram of check durations, in seconds: from a port on the same link to the longest time limit
/// that is usual.
const BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// The check could not be made.
const NOT_CHECKED: &str = "not_checked";

/// Every outcome of a check.
const OUTCOMES: [&str; 5] = ["healthy", "saturated", "quiescing", "failed", NOT_CHECKED];

/// How a reload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadResult {
    /// The new configuration is followed.
    Accepted,
    /// The file is wrong, and nothing changed.
    Refused,
    /// It is right, but could not be followed.
    Failed,
}

impl ReloadResult {
    const ALL: [Self; 3] = [Self::Accepted, Self::Refused, Self::Failed];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// Counters, and the backends for which there are some.
#[derive(Debug)]
pub struct Tally {
    registry: Registry,
    /// By service and backend.
    backends: BTreeSet<(String, String)>,
    check_durations: HistogramVec,
    checks: IntCounterVec,
    last_check_durations: GaugeVec,
    health_changes: IntCounterVec,
    reloads: IntCounterVec,
    errors: IntCounter,
}

impl Tally {
    /// Nothing counted yet.
    ///
    /// Fails only if the table of metrics has a name or label that Prometheus does not allow, which a test rules out.
    pub fn new() -> prometheus::Result<Self> {
        let opts = |metric: Metric| Opts::new(metric.name(), metric.meaning());
        let counters = |metric: Metric| IntCounterVec::new(opts(metric), metric.labels());
        let durations = Metric::CheckDuration;
        let tally = Self {
            registry: Registry::new(),
            backends: BTreeSet::new(),
            check_durations: HistogramVec::new(
                HistogramOpts::new(durations.name(), durations.meaning()).buckets(BUCKETS.to_vec()),
                durations.labels(),
            )?,
            checks: counters(Metric::BackendChecks)?,
            last_check_durations: GaugeVec::new(
                opts(Metric::BackendLastCheckDuration),
                Metric::BackendLastCheckDuration.labels(),
            )?,
            health_changes: counters(Metric::BackendHealthChanges)?,
            reloads: counters(Metric::Reloads)?,
            errors: IntCounter::with_opts(opts(Metric::ControllerErrors))?,
        };
        let collectors: [Box<dyn Collector>; 6] = [
            Box::new(tally.check_durations.clone()),
            Box::new(tally.checks.clone()),
            Box::new(tally.last_check_durations.clone()),
            Box::new(tally.health_changes.clone()),
            Box::new(tally.reloads.clone()),
            Box::new(tally.errors.clone()),
        ];
        for collector in collectors {
            tally.registry.register(collector)?;
        }
        for result in ReloadResult::ALL {
            tally.reloads.with_label_values(&[result.as_str()]);
        }
        Ok(tally)
    }

    /// From now on these backends are checked, named by service and backend, and no others. They are there from the beginning,
    /// with zeros: a counter that appears with 1 has never grown for Prometheus.
    pub fn follow<'a>(&mut self, backends: impl IntoIterator<Item = (&'a str, &'a str)>) {
        let mut now = BTreeSet::new();
        for (service, backend) in backends {
            self.check_durations.with_label_values(&[service]);
            for outcome in OUTCOMES {
                self.checks.with_label_values(&[service, backend, outcome]);
            }
            for health in Health::ALL {
                self.health_changes
                    .with_label_values(&[service, backend, health.as_str()]);
            }
            now.insert((service.to_owned(), backend.to_owned()));
        }
        for (service, backend) in self.backends.difference(&now) {
            let (service, backend) = (service.as_str(), backend.as_str());
            // What is not there cannot be removed, and need not be.
            for outcome in OUTCOMES {
                let _ = self.checks.remove_label_values(&[service, backend, outcome]);
            }
            for health in Health::ALL {
                let _ = self
                    .health_changes
                    .remove_label_values(&[service, backend, health.as_str()]);
            }
            let _ = self.last_check_durations.remove_label_values(&[service, backend]);
            if !now.iter().any(|(stays, _)| stays == service) {
                let _ = self.check_durations.remove_label_values(&[service]);
            }
        }
        self.backends = now;
    }

    /// Counts a check of a backend; `None`: there was none, for a reason that is not the backend's.
    pub fn check(&self, service: &str, backend: &str, outcome: Option<&Outcome>) {
        let word = match outcome.map(|outcome| outcome.verdict) {
            Some(Verdict::Healthy) => "healthy",
            Some(Verdict::Saturated) => "saturated",
            Some(Verdict::Quiescing) => "quiescing",
            Some(Verdict::Failed(_)) => "failed",
            None => NOT_CHECKED,
        };
        self.checks.with_label_values(&[service, backend, word]).inc();
        if let Some(Outcome { latency, .. }) = outcome {
            self.time(service, backend, *latency);
        }
    }

    fn time(&self, service: &str, backend: &str, duration: Duration) {
        let seconds = duration.as_secs_f64();
        self.check_durations
            .with_label_values(&[service])
            .observe(seconds);
        self.last_check_durations
            .with_label_values(&[service, backend])
            .set(seconds);
    }

    /// Counts a change of a backend's health.
    pub fn health_change(&self, service: &str, backend: &str, to: Health) {
        self.health_changes
            .with_label_values(&[service, backend, to.as_str()])
            .inc();
    }

    /// Counts a reload.
    pub fn reload(&self, result: ReloadResult) {
        self.reloads.with_label_values(&[result.as_str()]).inc();
    }

    /// Counts a failure of the controller's work.
    pub fn error(&self) {
        self.errors.inc();
    }

    /// Where all that has been counted can be read, on any thread.
    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }
}
