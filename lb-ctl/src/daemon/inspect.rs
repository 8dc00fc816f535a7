//! Questions of operators about single flows, answered from the maps in the kernel.

use std::time::Duration;

use lb_common::{
    hash,
    layout::{FlowKey, Slot},
};

use crate::{
    adapters::{
        api::server::Refusal,
        datapath::{Datapath, LiveTables},
    },
    core::{
        cause::chain,
        config::{Config, Service},
        explain::{self, Explanation, Names, ServiceOfFlow, explain},
        flows::{self, Context, Flows, list},
        interface::Interface,
        plan::{Plan, PlannedService},
        time::ticks,
    },
};

/// After which time without a packet a flow without a record is taken to be over. Impala's clients send keepalives every 10
/// minutes and may wait hours for a query.
const FLOW_IDLE_TIMEOUT: Duration = Duration::from_hours(6);

/// What the answers are made of.
pub(super) struct Inspection<'a> {
    pub(super) config: &'a Config,
    pub(super) plan: &'a Plan,
    pub(super) interface: &'a Interface,
    pub(super) datapath: &'a Datapath,
}

impl Inspection<'_> {
    /// Why a flow goes where it goes.
    pub(super) fn explain(&self, query: &explain::Query) -> Result<Explanation, Refusal> {
        let explain::Query { client, service } = query;
        let (service, _) = self.service(service)?;
        if client.is_ipv4() != service.vip.is_ipv4() {
            return Err(Refusal::Usage(format!(
                "{client} cannot be a client of {}, whose address is {}: expected addresses of one family",
                service.name, service.vip
            )));
        }
        let tables = LiveTables::of(self.datapath);
        let names = Names {
            backend: &|id| self.backend(id),
            interface: &|index| self.interface(index),
        };
        let question = ServiceOfFlow {
            name: &service.name,
            vip: service.vip,
            port: service.port,
            forward: service.forward.as_str(),
        };
        let explanation = explain(*client, &question, &tables, &names);
        tables.finish().map_err(|error| Refusal::Failed(chain(&error)))?;
        explanation.ok_or_else(|| {
            Refusal::Failed(format!(
                "the kernel's tables have no service {}, or no slots of it: a fault of the controller",
                service.name
            ))
        })
    }

    /// The flows of which the tables know.
    pub(super) fn flows(&self, query: &flows::Query) -> Result<Flows, Refusal> {
        if let Some(service) = &query.service {
            self.service(service)?;
        }
        if let Some(backend) = &query.backend {
            self.check_backend(backend)?;
        }
        let tables = self
            .datapath
            .flows()
            .map_err(|error| Refusal::Failed(chain(&error)))?;
        let context = Context {
            service: &|id| self.service_with_id(id).map(|(service, _)| service.name.clone()),
            backend: &|id| self.backend(id),
            slot: &|key| self.slot(key),
            idle_timeout: ticks(FLOW_IDLE_TIMEOUT),
        };
        Ok(list(&tables, query, &context))
    }

    fn services(&self) -> impl Iterator<Item = (&Service, &PlannedService)> {
        self.config.services.iter().zip(&self.plan.services)
    }

    fn service(&self, name: &str) -> Result<(&Service, &PlannedService), Refusal> {
        let found = self.services().find(|(service, _)| service.name == name);
        found.ok_or_else(|| {
            let names = self.config.services.iter().map(|service| service.name.as_str());
            unknown("service", name, names)
        })
    }

    fn check_backend(&self, name: &str) -> Result<(), Refusal> {
        let mut names: Vec<&str> = self
            .config
            .services
            .iter()
            .flat_map(|service| &service.backends)
            .map(|backend| backend.name.as_str())
            .collect();
        names.sort_unstable();
        names.dedup();
        if names.contains(&name) {
            Ok(())
        } else {
            Err(unknown("backend", name, names))
        }
    }

    fn service_with_id(&self, id: u16) -> Option<(&Service, &PlannedService)> {
        self.services().find(|(_, planned)| planned.entry.id == id)
    }

    /// The name of the backend with this target id.
    fn backend(&self, id: u16) -> String {
        let found = self.services().find_map(|(service, planned)| {
            let index = planned.targets.iter().position(|&target| target == id)?;
            Some(service.backends.get(index)?.name.clone())
        });
        found.unwrap_or_else(|| format!("target {id}"))
    }

    fn interface(&self, index: u32) -> String {
        match index {
            0 => self.interface.name.clone(),
            index if index == self.interface.index => self.interface.name.clone(),
            other => format!("interface {other}"),
        }
    }

    /// The slot of a flow.
    fn slot(&self, key: &FlowKey) -> Option<Slot> {
        let (_, PlannedService { entry, .. }) = self.service_with_id(key.service())?;
        let flow = hash::flow(entry.hash_seed, key.client(), key.client_port() & entry.port_mask);
        self.datapath
            .slot(entry.first_slot + hash::slot(flow, entry.slots))
            .ok()
    }
}

/// There is nothing of this name.
fn unknown<'a>(what: &str, name: &str, names: impl IntoIterator<Item = &'a str>) -> Refusal {
    let names: Vec<&str> = names.into_iter().collect();
    Refusal::Usage(format!(
        "there is no {what} {name:?}; expected one of: {}",
        names.join(", ")
    ))
}
