//! The daemon's state as operators see it.
//!
//! Put together in two steps: an [`Outline`] of what the controller knows, quickly, and then, on whatever thread, what the kernel
//! has counted. So nobody who asks holds up the controller.

use std::time::Duration;

use lb_common::{counter::Counter, layout::TargetName};

use super::{
    controller::{Controller, Leaving},
    operator::Operator,
};
use crate::{
    adapters::{
        api::server::{Answer, Refusal},
        datapath::{CountReader, DatapathError},
    },
    core::{
        cause::chain,
        config::{Backend, Service},
        discovery::Membership,
        health::Health,
        interface::{Interface, format_mac},
        operator::Orders,
        plan::PlannedService,
        serving::{Serving, ServingBackend},
        status::{
            BackendStatus, CheckStatus, CounterStatus, DatapathStatus, DiscoveryStatus, InterfaceStatus,
            LoadStatus, RefusedStatus, SeedStatus, ServiceStatus, Status,
        },
    },
};

/// The status, but for what is in the kernel's tables.
pub(super) struct Outline {
    status: Status,
    /// Of each service, where its slots are and which ids its backends have, in the order of the status.
    places: Vec<Places>,
    reader: CountReader,
}

/// Where in the kernel's tables a service is.
struct Places {
    first_slot: u32,
    slots: u32,
    targets: Vec<u16>,
}

/// Answers with the status. The kernel's tables are read on another thread.
pub(super) fn status(controller: &Controller, answer: Answer<Status>) {
    let failed = |error: DatapathError| Refusal::Failed(chain(&error));
    // Whoever asked may have gone; that is their business.
    match outline(controller) {
        Ok(outline) => drop(tokio::task::spawn_blocking(move || {
            let _ = answer.send(outline.complete().map_err(failed));
        })),
        Err(error) => drop(answer.send(Err(failed(error)))),
    }
}

/// Puts together what is configured, what is planned, and what is known of it.
pub(super) fn outline(controller: &Controller) -> Result<Outline, DatapathError> {
    let Controller {
        config,
        plan,
        network,
        ..
    } = controller;
    let interfaces = network
        .interfaces()
        .all()
        .map(|(name, interface)| InterfaceStatus {
            name: name.to_owned(),
            mode: mode(interface),
        });
    let services = config.services.iter().zip(&plan.services).enumerate();
    let (services, places) = services
        .map(|(index, (service, planned))| service_outline(index, service, planned, controller))
        .unzip();
    Ok(Outline {
        status: Status {
            node: config.node.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            datapath: DatapathStatus {
                interfaces: interfaces.collect(),
                counters: Vec::new(),
            },
            decisions: controller.operator.status(config),
            services,
            vrrp: controller.vrrp.status(),
            peer: controller.pair.status(),
        },
        places,
        reader: controller.datapath.count_reader()?,
    })
}

impl Outline {
    /// Fills in what the kernel has counted.
    pub(super) fn complete(self) -> Result<Status, DatapathError> {
        let Self {
            mut status,
            places,
            reader,
        } = self;
        for &counter in Counter::ALL {
            status.datapath.counters.push(CounterStatus {
                name: counter.name().to_owned(),
                meaning: counter.meaning().to_owned(),
                packets: reader.counter(counter)?,
            });
        }
        for (service, places) in status.services.iter_mut().zip(&places) {
            let slots = reader.slots(places.first_slot, places.slots)?;
            service.tracked_slots = slots.tracked;
            for (backend, id) in service.backends.iter_mut().zip(&places.targets) {
                let traffic = reader.traffic(*id)?;
                backend.slots = slots.current(*id);
                backend.packets = traffic.packets;
                backend.bytes = traffic.bytes;
                backend.new_flows = traffic.new_flows;
            }
        }
        Ok(status)
    }
}

/// How the program is attached to an interface, in a word.
fn mode(interface: Option<&Interface>) -> String {
    let Some(interface) = interface else {
        return "absent".to_owned();
    };
    let mode = interface.xdp.as_ref().and_then(|attached| attached.mode);
    mode.map_or_else(|| "none".to_owned(), |mode| mode.to_string())
}

fn service_outline(
    index: usize,
    service: &Service,
    planned: &PlannedService,
    controller: &Controller,
) -> (ServiceStatus, Places) {
    let serving = controller.checks.service(index);
    let membership = controller.discovering.membership(index);
    let configured = service.backends.iter().zip(&planned.targets).enumerate();
    let configured = configured.map(|(place, (backend, &id))| {
        // Both are in the order of the configuration.
        let known = serving.and_then(|serving| Some((serving, serving.backends().get(place)?)));
        let listed_by = membership.map(|membership| membership.listed_by(backend.address));
        let status = BackendStatus {
            discovered: place >= controller.discovering.configured_backends(index),
            listed_by: listed_by.into_iter().flatten().map(ToOwned::to_owned).collect(),
            ..backend_outline(service, backend, id, known, controller)
        };
        (status, id)
    });
    let leaving = controller
        .placement
        .leaving(planned.entry.id)
        .map(|(id, name)| (leaving_outline(service, name, id, controller), id));
    let (backends, targets) = configured.chain(leaving).unzip();
    let status = ServiceStatus {
        name: service.name.clone(),
        vip: service.vip,
        port: service.port,
        forward: service.forward.to_string(),
        active_tier: serving.map(Serving::active_tier).unwrap_or_default(),
        guard: serving.and_then(Serving::guard).map(ToString::to_string),
        role: controller
            .pair
            .role(planned, &controller.placement)
            .map(|role| role.to_string()),
        tracked_slots: 0,
        discovery: membership.map(|membership| discovery_status(service, membership, controller)),
        backends,
    };
    let places = Places {
        first_slot: planned.entry.first_slot,
        slots: planned.entry.slots,
        targets,
    };
    (status, places)
}

fn discovery_status(service: &Service, membership: &Membership, controller: &Controller) -> DiscoveryStatus {
    let now = controller.checks.now();
    let seeds = membership.seeds().iter().map(|asked| {
        let ago = |then: Duration| now.saturating_sub(then).as_secs();
        let detail = match &asked.answer {
            None => "has not been asked yet".to_owned(),
            Some(Ok(page)) => match page.len() {
                1 => "lists 1 coordinator".to_owned(),
                coordinators => format!("lists {coordinators} coordinators"),
            },
            Some(Err(cause)) => cause.clone(),
        };
        SeedStatus {
            seed: asked.seed.clone(),
            ok: asked.answer.as_ref().map(Result::is_ok),
            seconds_ago: asked.answer.is_some().then(|| ago(asked.at)),
            last_page_seconds_ago: asked.last_page.map(ago),
            detail,
        }
    });
    let refused = controller.discovering.refused(&service.name);
    DiscoveryStatus {
        seeds: seeds.collect(),
        refused: refused
            .map(|refused| RefusedStatus {
                name: refused.name.clone(),
                address: refused.address,
                reason: refused.reason.clone(),
            })
            .collect(),
    }
}

fn backend_outline(
    service: &Service,
    backend: &Backend,
    id: u16,
    known: Option<(&Serving, &ServingBackend)>,
    controller: &Controller,
) -> BackendStatus {
    let health = known.map_or_else(
        || HealthStatus::unchecked("is not checked"),
        |(serving, known)| HealthStatus::of(serving, known, controller.checks.now()),
    );
    let orders = controller.operator.orders(&service.name, &backend.name);
    BackendStatus {
        name: backend.name.clone(),
        address: backend.address,
        port: backend.port,
        weight: orders.weight.unwrap_or(backend.weight),
        configured_weight: backend.weight,
        tier: backend.tier,
        health: health.health,
        health_cause: health.cause,
        health_seconds: health.seconds,
        slow_start_tenths: health.slow_start_tenths,
        load: health.load,
        admin: orders.admin.to_string(),
        deadline_seconds: Operator::seconds_left(orders),
        soft_drain: orders.soft,
        slots: 0,
        packets: 0,
        bytes: 0,
        new_flows: 0,
        tracked_flows: tracked_flows(id, controller),
        discovered: false,
        listed_by: Vec::new(),
        next_hop: next_hop(id, controller),
        last_check: health.last_check,
    }
}

/// What is known of a backend's health.
struct HealthStatus {
    health: String,
    cause: String,
    seconds: Option<u64>,
    slow_start_tenths: Option<u32>,
    load: Option<LoadStatus>,
    last_check: Option<CheckStatus>,
}

impl HealthStatus {
    fn unchecked(cause: &str) -> Self {
        Self {
            health: Health::Up.to_string(),
            cause: cause.to_owned(),
            seconds: None,
            slow_start_tenths: None,
            load: None,
            last_check: None,
        }
    }

    fn of(serving: &Serving, backend: &ServingBackend, now: Duration) -> Self {
        if !serving.is_checked() {
            return Self::unchecked(backend.cause());
        }
        let ago = |then: Duration| now.saturating_sub(then).as_secs();
        Self {
            health: backend.health().to_string(),
            cause: backend.cause().to_owned(),
            seconds: Some(ago(backend.since())),
            slow_start_tenths: serving.slow_start(backend, now),
            load: serving.loaded(backend, now).map(|loaded| LoadStatus {
                load: loaded.load,
                weight_percent: loaded.level.thousandths() / 10,
            }),
            last_check: backend.last_check().map(|last| CheckStatus {
                seconds_ago: ago(last.at),
                ..last.status.clone()
            }),
        }
    }
}

/// A backend that is no longer configured, but on which connections live.
fn leaving_outline(service: &Service, name: &TargetName, id: u16, controller: &Controller) -> BackendStatus {
    let leaving = Leaving::of(service, id, name);
    let orders = leaving.map(|it| controller.operator.orders_of_leaving(it));
    // Of one without a name nobody can have decided anything.
    let orders = orders.unwrap_or_else(|| Orders::default().of_leaving());
    let health = HealthStatus::unchecked("is no longer configured, and not checked any more");
    BackendStatus {
        name: name.name().unwrap_or_default().to_owned(),
        address: name.address(),
        port: name.port(),
        weight: 0,
        configured_weight: 0,
        tier: 0,
        health: health.health,
        health_cause: health.cause,
        health_seconds: health.seconds,
        slow_start_tenths: health.slow_start_tenths,
        load: health.load,
        admin: orders.admin.to_string(),
        deadline_seconds: Operator::seconds_left(orders),
        soft_drain: false,
        slots: 0,
        packets: 0,
        bytes: 0,
        new_flows: 0,
        tracked_flows: tracked_flows(id, controller),
        discovered: false,
        listed_by: Vec::new(),
        next_hop: next_hop(id, controller),
        last_check: None,
    }
}

fn next_hop(id: u16, controller: &Controller) -> Option<String> {
    let next_hop = controller.network.next_hops().of(id);
    next_hop.map(|next_hop| format_mac(next_hop.mac))
}

/// As the last pass over the records has counted.
fn tracked_flows(id: u16, controller: &Controller) -> u64 {
    controller.census.as_ref().map_or(0, |census| census.flows(id))
}
