//! Questions of operators about single flows, answered from the maps in the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lb_common::{hash, layout};

use super::{clock, controller::Controller};
use crate::{
    adapters::{
        api::server::{Answer, Refusal},
        datapath::{DatapathError, FlowReader, LiveTables},
    },
    core::{
        cause::chain,
        config::{Config, Service},
        explain::{self, Explanation, Names, ServiceOfFlow},
        flows::{self, Context, FlowTables, Flows},
        time::ticks,
    },
};

/// Why a flow goes where it goes.
pub(super) fn explain(controller: &Controller, query: &explain::Query) -> Result<Explanation, Refusal> {
    let explain::Query { client, service } = query;
    let service = find_service(&controller.config, service)?;
    if client.is_ipv4() != service.vip.is_ipv4() {
        return Err(Refusal::Usage(format!(
            "{client} cannot be a client of {}, whose address is {}: expected addresses of one family",
            service.name, service.vip
        )));
    }
    let backends = backend_names(controller);
    let names = Names {
        backend: &|id| name_of(&backends, id),
        interface: &|index| interface_name(controller, index),
    };
    let question = ServiceOfFlow {
        name: &service.name,
        vip: service.vip,
        port: service.port,
        forward: service.forward.as_str(),
    };
    let tables = LiveTables::of(&controller.datapath, clock::ticks());
    let explanation = explain::explain(*client, &question, &tables, &names);
    tables.finish().map_err(failed)?;
    explanation.ok_or_else(|| {
        Refusal::Failed(format!(
            "the kernel's tables have no service {}, or no slots of it: a fault of the controller",
            service.name
        ))
    })
}

/// The flows of which the tables know. Read on another thread: packets wait for nobody, but events would.
pub(super) fn flows(controller: &Controller, query: flows::Query, answer: Answer<Flows>) {
    let listing = check(controller, &query).and_then(|()| Listing::of(controller, query));
    // Whoever asked may have gone; that is their business.
    match listing {
        Ok(listing) => drop(tokio::task::spawn_blocking(move || {
            let _ = answer.send(listing.run().map_err(failed));
        })),
        Err(refusal) => drop(answer.send(Err(refusal))),
    }
}

/// Everything that is needed to list flows.
pub(super) struct Listing {
    query: flows::Query,
    pub(super) reader: FlowReader,
    /// The services in the tables, by id, and what the configuration calls them.
    services: BTreeMap<u16, (layout::Service, String)>,
    backends: BTreeMap<u16, String>,
    idle_timeout: Duration,
}

impl Listing {
    pub(super) fn of(controller: &Controller, query: flows::Query) -> Result<Self, Refusal> {
        let planned = controller.config.services.iter().zip(&controller.plan.services);
        Ok(Self {
            query,
            reader: controller.datapath.flow_reader().map_err(failed)?,
            services: planned
                .map(|(service, planned)| (planned.entry.id, (planned.entry, service.name.clone())))
                .collect(),
            backends: backend_names(controller),
            idle_timeout: controller.config.datapath.flow_idle_timeout.into(),
        })
    }

    fn run(&self) -> Result<Flows, DatapathError> {
        self.read(|tables, context| flows::list(tables, &self.query, context))
    }

    /// Reads the tables, and has something made of them.
    pub(super) fn read<T>(
        &self,
        make: impl FnOnce(&FlowTables, &Context<'_>) -> T,
    ) -> Result<T, DatapathError> {
        let tables = FlowTables {
            established: self.reader.established()?,
            half_open: self.reader.half_open()?,
            settled: self.reader.settled()?,
            // Last, so that nothing was seen later than now.
            now: clock::ticks(),
        };
        let context = Context {
            service: &|id| self.services.get(&id).map(|(_, name)| name.clone()),
            backend: &|id| name_of(&self.backends, id),
            slot: &|key| {
                let (entry, _) = self.services.get(&key.service())?;
                let flow = hash::flow(entry.hash_seed, key.client(), key.client_port() & entry.port_mask);
                self.reader.slot(entry.first_slot + hash::slot(flow, entry.slots))
            },
            idle_timeout: ticks(self.idle_timeout),
        };
        Ok(make(&tables, &context))
    }
}

/// Whether there is what a query names.
fn check(controller: &Controller, query: &flows::Query) -> Result<(), Refusal> {
    if let Some(service) = &query.service {
        find_service(&controller.config, service)?;
    }
    let Some(backend) = &query.backend else {
        return Ok(());
    };
    let backends: BTreeSet<String> = backend_names(controller).into_values().collect();
    if backends.contains(backend) {
        Ok(())
    } else {
        let names: Vec<&str> = backends.iter().map(String::as_str).collect();
        Err(unknown("backend", backend, &names))
    }
}

fn find_service<'a>(config: &'a Config, name: &str) -> Result<&'a Service, Refusal> {
    let found = config.services.iter().find(|service| service.name == name);
    found.ok_or_else(|| {
        let names: Vec<&str> = config
            .services
            .iter()
            .map(|service| service.name.as_str())
            .collect();
        unknown("service", name, &names)
    })
}

/// There is nothing of this name.
fn unknown(what: &str, name: &str, names: &[&str]) -> Refusal {
    Refusal::Usage(format!(
        "there is no {what} {name:?}; expected one of: {}",
        names.join(", ")
    ))
}

#[expect(clippy::needless_pass_by_value, reason = "what `map_err` wants")]
pub(super) fn failed(error: DatapathError) -> Refusal {
    Refusal::Failed(chain(&error))
}

/// The names of all backends, those that are leaving included, by target id.
fn backend_names(controller: &Controller) -> BTreeMap<u16, String> {
    let targets = controller.placement.targets();
    targets
        .filter_map(|(id, name)| Some((id, name.name()?.to_owned())))
        .collect()
}

fn name_of(backends: &BTreeMap<u16, String>, id: u16) -> String {
    backends
        .get(&id)
        .cloned()
        .unwrap_or_else(|| format!("target {id}"))
}

/// The name of the interface with this index; of the first where it is 0, which means the one a packet came in on.
fn interface_name(controller: &Controller, index: u32) -> String {
    let interfaces = controller.network.interfaces();
    let interface = if index == 0 {
        interfaces.first()
    } else {
        interfaces.at(index)
    };
    interface.map_or_else(
        || format!("interface {index}"),
        |interface| interface.name.clone(),
    )
}
