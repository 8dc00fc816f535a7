//! Passes over the records: when, and what follows from them.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    time::Duration,
};

use anyhow::Context;
use lb_common::layout::TargetName;
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::Instant,
};

use super::{clock::ticks, controller::Controller};
use crate::{
    adapters::datapath::DatapathError,
    core::{
        census::{Census, run_short},
        placement::{Departing, Swept},
    },
};

/// How long after one pass the next begins. A slot is settled, and an id freed, that much later than it could be.
pub(super) const SWEEP: Duration = Duration::from_secs(10);

/// The same while the table of records is more than half full, so that it is noticed in time when it fills up.
const SWEEP_IN_NEED: Duration = Duration::from_secs(1);

/// A pass that is under way on a thread of its own.
pub(super) struct Sweeping {
    census: JoinHandle<Result<Census, DatapathError>>,
    departing: Departing,
    /// The targets whose flows the pass forgets.
    pub(super) reset: BTreeSet<u16>,
    /// The targets of whose earlier processes the pass forgets the flows.
    replaced: BTreeMap<u16, u32>,
}

/// Waits for the end of a pass; for ever if there is none.
pub(super) async fn end_of(sweeping: &mut Option<Sweeping>) -> anyhow::Result<Census> {
    match sweeping {
        None => pending().await,
        Some(sweeping) => {
            let census = (&mut sweeping.census).await;
            Ok(census.context("the pass over the records was ended")??)
        }
    }
}

impl Controller {
    /// Begins a pass. Until it has ended, no configuration may be applied.
    pub(super) fn begin_sweep(&mut self) -> anyhow::Result<()> {
        self.next_sweep = Instant::now() + SWEEP;
        let mut departing = self.placement.begin_pass(&self.datapath)?;
        if Instant::now() < self.ids_free_from {
            departing = Departing::default();
        }
        let (reset, replaced) = (self.given_up(), self.checks.replaced.clone());
        self.giving_up.clone_from(&reset);
        self.sweeping = Some(Sweeping {
            census: self.spawn_sweep(reset.clone(), replaced.clone())?,
            departing,
            reset,
            replaced,
        });
        Ok(())
    }

    fn spawn_sweep(
        &self,
        reset: BTreeSet<u16>,
        replaced: BTreeMap<u16, u32>,
    ) -> anyhow::Result<JoinHandle<Result<Census, DatapathError>>> {
        let census = Census::new(
            ticks(),
            self.idle_timeout(),
            self.datapath.are_records_short()?,
            self.placement.services().copied(),
            reset,
        )
        .releasing(self.placement.without_new_flows())
        .replacing(replaced)
        .following(self.placement.following());
        let sweep = self.datapath.sweep()?;
        Ok(spawn_blocking(move || sweep.run(census)))
    }

    /// Deletes the records of an earlier run that are over, and of services that are gone, before any id is given out.
    pub(super) async fn sweep_what_was_left(&mut self) -> anyhow::Result<()> {
        let census = self.spawn_sweep(BTreeSet::new(), BTreeMap::new())?.await;
        self.census = Some(census.context("the pass over the records was ended")??);
        Ok(())
    }

    /// Draws the conclusions from a pass.
    pub(super) fn on_census(&mut self, census: anyhow::Result<Census>) -> anyhow::Result<()> {
        let Some(Sweeping {
            departing, replaced, ..
        }) = self.sweeping.take()
        else {
            return Ok(());
        };
        let census = census?;
        // While all ids that it names are somebody's.
        self.mend_live_counts(&census);
        // A process may have been replaced again since.
        self.checks
            .replaced
            .retain(|id, then| replaced.get(id) != Some(then));
        let Swept {
            settled,
            forgotten,
            proved,
        } = self
            .placement
            .finish_pass(&departing, &census, &mut self.datapath)?;
        if settled > 0 {
            tracing::info!(slots = settled, "settled: all their connections have arrived");
        }
        for (id, name) in forgotten {
            self.network.remove(id);
            self.released.remove(&id);
            self.reconciliation.forget(id);
            let (backend, address) = (name.name().unwrap_or_default(), name.address());
            tracing::info!(backend, %address, "drained: nothing goes to this backend any more");
        }
        self.watch_room(&census)?;
        self.census = Some(census);
        self.share_out_proved(&proved)
    }

    /// Waits for the end of a pass that is under way.
    pub(super) async fn finish_sweep(&mut self) -> anyhow::Result<()> {
        if self.sweeping.is_some() {
            let census = end_of(&mut self.sweeping).await;
            self.on_census(census)?;
        }
        Ok(())
    }

    /// Adds what the counts of live connections lack.
    fn mend_live_counts(&mut self, census: &Census) {
        for (id, missing) in self.reconciliation.after(census.differences()) {
            self.datapath.correct_live(id, missing);
            let name = self.placement.targets().find(|(it, _)| *it == id);
            let name = name.map(|(_, name)| name);
            let services = self.config.services.iter().zip(&self.plan.services);
            let service = services
                .filter(|(_, planned)| name.is_some_and(|name| name.service() == planned.entry.id))
                .map(|(service, _)| service.name.as_str())
                .next();
            let backend = name.and_then(TargetName::name);
            tracing::warn!(
                service,
                backend,
                missing,
                "a count of live connections was wrong; corrected it"
            );
        }
    }

    /// Has new connections do without records while these are running short.
    fn watch_room(&mut self, census: &Census) -> anyhow::Result<()> {
        let (records, room) = (census.established(), self.config.datapath.max_flows);
        if records > u64::from(room) / 2 {
            self.next_sweep = self.next_sweep.min(Instant::now() + SWEEP_IN_NEED);
        }
        let before = self.datapath.are_records_short()?;
        let short = run_short(before, records, room);
        if short != before {
            self.datapath.set_records_short(short)?;
            if short {
                tracing::warn!(
                    records,
                    room,
                    "records are running short: new connections in tracked slots stay with the old backend where they can; \
                     raise datapath.max_flows"
                );
            } else {
                tracing::info!(records, room, "there is room for records again");
            }
        }
        Ok(())
    }

    /// `flow_idle_timeout` in ticks, rounded up.
    fn idle_timeout(&self) -> u32 {
        let timeout = Duration::from(self.config.datapath.flow_idle_timeout);
        let ticks = timeout.as_nanos().div_ceil(lb_common::clock::TICK.into());
        u32::try_from(ticks).unwrap_or(u32::MAX)
    }
}
