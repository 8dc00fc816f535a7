//! Who of a service gets new connections: decided anew whenever something is known anew, and the tables follow.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::{checks::tell, clock::ticks, controller::Controller};
use crate::core::{
    operator::Admin,
    serving::{Part, must_await_pass},
};

impl Controller {
    /// Has the services know what operators have decided.
    pub(super) fn instruct(&mut self) {
        for (service, checked) in self.config.services.iter().zip(&mut self.checks.services) {
            checked
                .serving
                .instruct(|backend| self.operator.orders(&service.name, backend));
        }
    }

    /// Decides anew for all services.
    pub(super) async fn decide_all(&mut self) -> anyhow::Result<()> {
        self.decide((0..self.config.services.len()).collect()).await
    }

    /// Decides anew for these services, and has the tables follow. One service's trouble is no other's.
    pub(super) async fn decide(&mut self, services: BTreeSet<usize>) -> anyhow::Result<()> {
        let mut result = Ok(());
        for index in services {
            let decided = self.decide_service(index).await;
            result = result.and(decided);
        }
        result.and(self.tell_healthy())
    }

    async fn decide_service(&mut self, index: usize) -> anyhow::Result<()> {
        let now = self.checks.now();
        let (Some(service), Some(checked)) = (
            self.config.services.get(index),
            self.checks.services.get_mut(index),
        ) else {
            return Ok(());
        };
        let decision = checked.serving.decide(now);
        checked.next = decision.next;
        tell(service, &decision.notices);
        if decision.backends == checked.parts {
            return Ok(());
        }
        self.carry_out(index, decision.backends).await
    }

    /// Has the tables follow a decision. One that fails is made again with the next report.
    async fn carry_out(&mut self, index: usize, parts: Vec<Part>) -> anyhow::Result<()> {
        let ids = self
            .plan
            .services
            .get(index)
            .map(|it| it.targets.clone())
            .unwrap_or_default();
        if let Some(sweeping) = &self.sweeping
            && must_await_pass(&sweeping.reset, ids.iter().copied().zip(&parts))
        {
            self.finish_sweep().await?;
        }
        // First, so that no client is at home any more with who is taken out when the slots move.
        self.write_shedding(index, &parts)?;
        let before = self.weights_of(index);
        if before.is_some_and(|before| before != weights(&parts)) {
            self.share_out(index, &weights(&parts))?;
        }
        let Some(checked) = self.checks.services.get_mut(index) else {
            return Ok(());
        };
        let gives_up = |(before, after): (&Part, &Part)| after.reset && !before.reset;
        if checked.parts.iter().zip(&parts).any(gives_up) {
            self.next_sweep = Instant::now();
        }
        checked.parts = parts;
        Ok(())
    }

    /// Has the slots of services that we have taken over follow what is known here of their backends.
    pub(super) fn share_out_proved(&mut self, proved: &BTreeSet<u16>) -> anyhow::Result<()> {
        let services = self.plan.services.iter().enumerate();
        let proved = services.filter(|(_, planned)| proved.contains(&planned.entry.id));
        let mut result = Ok(());
        for index in proved.map(|(index, _)| index).collect::<Vec<_>>() {
            let wanted = self.weights_of(index).unwrap_or_default();
            result = result.and(self.share_out(index, &wanted));
        }
        result
    }

    /// With which weight each backend of a service gets new connections, as it was decided last.
    fn weights_of(&self, index: usize) -> Option<Vec<u32>> {
        let checked = self.checks.services.get(index)?;
        Some(weights(&checked.parts))
    }

    /// Shares the new connections of a service out, unless its slots are not ours to move, or not yet.
    fn share_out(&mut self, index: usize, wanted: &[u32]) -> anyhow::Result<()> {
        let (Some(service), Some(planned)) =
            (self.config.services.get(index), self.plan.services.get_mut(index))
        else {
            return Ok(());
        };
        if self.placement.stands_still(planned.entry.id) {
            return Ok(());
        }
        planned.share_out(&service.backends, wanted);
        let moved = self.placement.share_out(planned, ticks(), &mut self.datapath)?;
        planned.are_placed();
        let serving = wanted.iter().filter(|weight| **weight > 0).count();
        tracing::info!(
            service = service.name,
            slots_moved = moved.moved,
            slots = moved.slots,
            serving,
            "new connections are shared out anew"
        );
        if serving == 0 {
            tracing::error!(service = service.name, "no backend is left for new connections");
        }
        Ok(())
    }

    /// Tells the program who of a service takes no new flows.
    pub(super) fn write_shedding(&mut self, index: usize, parts: &[Part]) -> anyhow::Result<()> {
        if let Some(planned) = self.plan.services.get(index) {
            for (id, part) in planned.targets.iter().zip(parts) {
                self.placement.avoid(*id, part.sheds, &mut self.datapath)?;
                self.placement.withdraw(*id, part.drains, &mut self.datapath)?;
            }
        }
        Ok(())
    }

    /// The targets whose connections are to be reset: those that are down, and those that an operator has taken out so, also of those
    /// that are leaving.
    pub(super) fn given_up(&self) -> BTreeSet<u16> {
        let leaving = self
            .leaving()
            .filter(|leaving| self.operator.orders_of_leaving(*leaving).admin == Admin::Disabled);
        let released = self.released.iter().copied().chain(leaving.map(|it| it.id));
        let services = self.plan.services.iter().zip(&self.checks.services);
        services
            .flat_map(|(planned, checked)| planned.targets.iter().zip(&checked.parts))
            .filter(|(_, part)| part.reset)
            .map(|(id, _)| *id)
            .chain(released)
            .collect()
    }
}

/// The weights with which backends take part.
fn weights(parts: &[Part]) -> Vec<u32> {
    parts.iter().map(|part| part.weight).collect()
}
