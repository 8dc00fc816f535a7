//! How far drains are, for operators who wait for them.

use std::time::Duration;

use lb_common::layout::Service as Entry;

use super::{
    controller::Controller,
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
            Admin, DrainQuery, DrainStatus, OwnCounts, SlotsOfTarget, TargetOfDrain, drain_status, scope,
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
        let places = scope(config, backend, service.as_deref())
            .map_err(|unknown| Refusal::Usage(unknown.to_string()))?;
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
        let target = |(index, place): (usize, usize)| {
            let (service, planned) = (config.services.get(index)?, plan.services.get(index)?);
            let orders = operator.orders(&service.name, backend);
            let target = TargetOfDrain {
                id: *planned.targets.get(place)?,
                service: service.name.clone(),
                backend: backend.clone(),
                admin: orders.admin,
                deadline_seconds: Operator::seconds_left(orders),
                records_every_flow: records_every_flow(&planned.entry),
                slots: SlotsOfTarget::default(),
                own,
            };
            Some((target, planned.entry))
        };
        Ok(Self {
            listing: Listing::of(controller, flows::Query::default())?,
            targets: places.into_iter().filter_map(target).collect(),
        })
    }

    fn run(self) -> Result<DrainStatus, DatapathError> {
        let Self { listing, targets } = self;
        listing.read(|tables, context| {
            let targets = targets.into_iter().map(|(target, entry)| {
                let indices = entry.first_slot..entry.first_slot + entry.slots;
                let slots = indices.filter_map(|index| listing.reader.slot(index));
                let slots = SlotsOfTarget::count(slots, target.id, tables.now);
                TargetOfDrain { slots, ..target }
            });
            drain_status(tables, context, targets)
        })
    }
}
