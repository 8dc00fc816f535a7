//! What the daemon remembers of its own work, for `/metrics` and `/healthz`.

use std::time::SystemTime;

use lb_common::layout::AFFINITY_ROOM;
use tokio::time::Instant;

use super::controller::Controller;
use crate::{
    adapters::{
        api::server::{Answer, Refusal},
        datapath::{DatapathError, Sizes},
    },
    core::{
        cause::chain,
        census::Census,
        condition::{Condition, Signs},
        failures::{Failure, Failures, Work},
        metrics::{self, Beside, Fill, ReloadResult, Tally},
        vrrp::State,
    },
};

/// What has happened so far.
pub(super) struct Account {
    /// When the daemon started. For people: nothing is decided by it.
    started: SystemTime,
    pub(super) tally: Tally,
    last_reload: ReloadResult,
    /// The moment from which points in time count.
    epoch: Instant,
    failures: Failures,
}

impl Account {
    #[expect(clippy::disallowed_methods, reason = "the time of the start is only shown")]
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            started: SystemTime::now(),
            tally: Tally::new()?,
            last_reload: ReloadResult::Accepted,
            epoch: Instant::now(),
            failures: Failures::default(),
        })
    }

    /// Takes in how a part of the controller's work has ended. Where it has failed, the tables stay as they are, packets keep flowing,
    /// and it is tried again.
    pub(super) fn take_in(&mut self, work: Work, result: anyhow::Result<()>) {
        match result {
            Ok(()) => self.failures.succeeded(work),
            Err(error) => {
                let cause = chain(error.as_ref());
                tracing::error!("the controller has failed to {work}: {cause}");
                self.tally.error();
                self.failures.take_in(work, &cause, self.epoch.elapsed());
            }
        }
    }

    /// Takes in how a reload ended.
    pub(super) fn reload(&mut self, result: ReloadResult) {
        self.tally.reload(result);
        self.last_reload = result;
    }

    fn reload_failed(&self) -> bool {
        self.last_reload != ReloadResult::Accepted
    }

    /// What has failed not long ago.
    fn failures(&self) -> Vec<Failure<'_>> {
        self.failures.at(self.epoch.elapsed()).collect()
    }
}

/// Whether the balancer is well.
pub(super) fn condition(controller: &Controller) -> Result<Condition, DatapathError> {
    let services = || controller.config.services.iter().enumerate();
    let unserved: Vec<&str> = services()
        .filter(|(index, _)| !controller.checks.serves(*index))
        .map(|(_, service)| service.name.as_str())
        .collect();
    let has_guard = |index: usize| {
        let serving = controller.checks.service(index);
        serving.is_some_and(|serving| serving.guard().is_some())
    };
    let guarded: Vec<&str> = services()
        .filter(|(index, _)| has_guard(*index))
        .map(|(_, service)| service.name.as_str())
        .collect();
    let vrrp = controller.vrrp.status();
    let faulty: Vec<(&str, &str)> = vrrp
        .iter()
        .filter(|instance| instance.state == State::Fault.to_string())
        .map(|instance| (instance.name.as_str(), instance.cause.as_str()))
        .collect();
    Ok(Condition::of(&Signs {
        interfaces: controller.network.interfaces(),
        failures: &controller.account.failures(),
        reload_failed: controller.account.reload_failed(),
        records_short: controller.datapath.are_records_short()?,
        unserved: &unserved,
        guarded: &guarded,
        faulty: &faulty,
        hanging: controller.vrrp.hangs(),
    }))
}

/// Answers with the metrics. They are read and written on another thread: the controller only says what it knows.
pub(super) fn metrics(controller: &Controller, answer: Answer<String>) {
    let outline = super::report::outline(controller).and_then(|outline| Ok((outline, beside(controller)?)));
    let write = |outline: super::report::Outline, beside: &Beside| {
        let status = outline.complete().map_err(|error| chain(&error))?;
        metrics::text(&status, beside).map_err(|error| chain(&error))
    };
    // Whoever asked may have gone; that is their business.
    match outline {
        Ok((outline, beside)) => drop(tokio::task::spawn_blocking(move || {
            let _ = answer.send(write(outline, &beside).map_err(Refusal::Failed));
        })),
        Err(error) => drop(answer.send(Err(Refusal::Failed(chain(&error))))),
    }
}

fn beside(controller: &Controller) -> Result<Beside, DatapathError> {
    let Controller {
        config,
        placement,
        account,
        census,
        ..
    } = controller;
    let sizes = Sizes::of(&config.datapath);
    let count = |entries: usize| u64::try_from(entries).unwrap_or(u64::MAX);
    let counted = |of: fn(&Census) -> u64| census.as_ref().map_or(0, of);
    let fill = |table, entries, max: u32| Fill {
        table,
        entries,
        max: max.into(),
    };
    Ok(Beside {
        started: account
            .started
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64(),
        is_healthy: condition(controller)?.is_healthy(),
        last_reload_successful: !account.reload_failed(),
        records_short: controller.datapath.are_records_short()?,
        tables: vec![
            fill("flows", counted(Census::established), sizes.flows),
            fill("half_open", counted(Census::half_open), sizes.half_open),
            fill("affinity", counted(Census::clients), AFFINITY_ROOM),
            fill(
                "services",
                count(placement.services().count()),
                config.datapath.max_services,
            ),
            fill(
                "backends",
                count(placement.targets().count()),
                config.datapath.max_backends,
            ),
        ],
        tally: account.tally.registry(),
    })
}
