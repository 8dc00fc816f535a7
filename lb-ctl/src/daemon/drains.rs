//! How far drains are, for operators who wait for them.

use std::time::Duration;

use lb_common::layout::Service as Entry;

use super::{
    controller::{Controller, Leaving},
    inspect::{Listing, failed},
    operator::Operator,
};
use crate::{
    adapters::{
        api::server::{Answer, Refusal},
        datapath::DatapathError,
    },
    core::{
        census::records_every_flow,
        flows,
        operator::{
            Admin, DrainQuery, DrainStatus, Orders, OwnCounts, SlotsOfTarget, TargetOfDrain, drain_status,
            scope,
        },
    },
};

/// A check that began so long after a decision has seen what came of it.
const AFTER: Duration = Duration::from_secs(1);

/// How far the drains of a backend are. Tables are read on another thread: packets wait for nobody, but events would.
pub(super) fn drains(controller: &Controller, query: &DrainQuery, answer: Answer<DrainStatus>) {
    // Whoever asked may have gone; that is their business.
    match Survey::of(controller, query) {
        Ok(survey) => drop(tokio::task::spawn_blocking(move || {
            let _ = answer.send(survey.run().map_err(failed));
        })),
        Err(refusal) => drop(answer.send(Err(refusal))),
    }
}

/// Everything that is needed to tell how far drains are.
struct Survey {
    listing: Listing,
    targets: Vec<(TargetOfDrain, Entry)>,
}

impl Survey {
    fn of(controller: &Controller, query: &DrainQuery) -> Result<Self, Refusal> {
        let Controller {
            config,
            operator,
            plan,
            checks,
            ..
        } = controller;
        let DrainQuery { backend, service } = query;
        let unknown = scope(config, backend, service.as_deref()).err();
        let is_out = |name: &str| operator.orders(name, backend).admin != Admin::Enabled;
        // Where it serves elsewhere, its counts say nothing about this drain.
        let drains_everywhere = config
            .services
            .iter()
            .filter(|service| service.backends.iter().any(|it| it.name == *backend))
            .all(|service| is_out(&service.name));
        let own = checks.load(backend).map(|(began, load)| {
            let tell = drains_everywhere && began >= operator.decided + AFTER;
            OwnCounts::of(load, began.elapsed().as_secs(), tell)
        });
        let mut targets = Vec::new();
        for (configured, planned) in config.services.iter().zip(&plan.services) {
            if service.as_ref().is_some_and(|name| *name != configured.name) {
                continue;
            }
            let target = |id, backend: &str, orders: Orders| TargetOfDrain {
                id,
                service: configured.name.clone(),
                backend: backend.to_owned(),
                admin: orders.admin,
                deadline_seconds: Operator::seconds_left(orders),
                records_every_flow: records_every_flow(&planned.entry),
                slots: SlotsOfTarget::default(),
                own,
            };
            let backends = configured.backends.iter().zip(&planned.targets);
            for (_, id) in backends.filter(|(it, _)| it.name == *backend) {
                let orders = operator.orders(&configured.name, backend);
                targets.push((target(*id, backend, orders), planned.entry));
            }
            // Who has been taken out of the configuration drains too, until nothing leads there; and so does who has another name now, as
            // long as that one does.
            let leaving = controller.placement.leaving(planned.entry.id);
            for leaving in leaving.filter_map(|(id, name)| Leaving::of(configured, id, name)) {
                if leaving.backend == backend || leaving.subject() == backend {
                    let orders = match leaving.stands_on_as {
                        Some(name) => operator.orders(&configured.name, name),
                        None => operator.orders_of_leaving(leaving),
                    };
                    targets.push((target(leaving.id, leaving.backend, orders), planned.entry));
                }
            }
        }
        match unknown {
            Some(unknown) if targets.is_empty() => Err(Refusal::Usage(unknown.to_string())),
            _ => Ok(Self {
                listing: Listing::of(controller, flows::Query::default())?,
                targets,
            }),
        }
    }

    fn run(self) -> Result<DrainStatus, DatapathError> {
        let Self { listing, targets } = self;
        listing.read(|tables, context| {
            let targets = targets.into_iter().map(|(target, entry)| {
                let indices = entry.slot_indices();
                let slots = indices.filter_map(|index| listing.reader.slot(index));
                let slots = SlotsOfTarget::count(slots, target.id, tables.now);
                TargetOfDrain { slots, ..target }
            });
            drain_status(tables, context, targets)
        })
    }
}
