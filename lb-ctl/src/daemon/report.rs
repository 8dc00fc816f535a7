//! The daemon's state as operators see it.

use lb_common::counter::Counter;

use super::network::Network;
use crate::{
    adapters::datapath::{Datapath, DatapathError},
    core::{
        config::{Backend, Config, Service},
        interface::{Interface, format_mac},
        next_hops::NextHops,
        plan::{Plan, PlannedService},
        status::{BackendStatus, CounterStatus, DatapathStatus, InterfaceStatus, ServiceStatus, Status},
    },
};

/// Puts the status together from what is configured, what is planned, and what the kernel has counted.
pub(super) fn status(
    config: &Config,
    plan: &Plan,
    network: &Network,
    datapath: &Datapath,
) -> Result<Status, DatapathError> {
    let interfaces = network
        .interfaces()
        .all()
        .map(|(name, interface)| InterfaceStatus {
            name: name.to_owned(),
            mode: mode(interface),
        });
    let counters = Counter::ALL.iter().map(|&counter| {
        Ok(CounterStatus {
            name: counter.name().to_owned(),
            meaning: counter.meaning().to_owned(),
            packets: datapath.counter(counter)?,
        })
    });
    let services = config
        .services
        .iter()
        .zip(&plan.services)
        .map(|(service, planned)| service_status(service, planned, network.next_hops(), datapath));
    Ok(Status {
        node: config.node.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        datapath: DatapathStatus {
            interfaces: interfaces.collect(),
            counters: counters.collect::<Result<_, DatapathError>>()?,
        },
        services: services.collect::<Result<_, _>>()?,
        vrrp: Vec::new(),
        peer: None,
    })
}

/// How the program is attached to an interface, in a word.
fn mode(interface: Option<&Interface>) -> String {
    let Some(interface) = interface else {
        return "absent".to_owned();
    };
    let mode = interface.xdp.as_ref().and_then(|attached| attached.mode);
    mode.map_or_else(|| "none".to_owned(), |mode| mode.to_string())
}

fn service_status(
    service: &Service,
    planned: &PlannedService,
    next_hops: &NextHops,
    datapath: &Datapath,
) -> Result<ServiceStatus, DatapathError> {
    let backends = service
        .backends
        .iter()
        .zip(&planned.targets)
        .map(|(backend, &id)| backend_status(backend, id, planned, next_hops, datapath));
    Ok(ServiceStatus {
        name: service.name.clone(),
        vip: service.vip,
        port: service.port,
        forward: service.forward.to_string(),
        active_tier: 0,
        tracked_slots: 0,
        backends: backends.collect::<Result<_, _>>()?,
    })
}

fn backend_status(
    backend: &Backend,
    id: u16,
    planned: &PlannedService,
    next_hops: &NextHops,
    datapath: &Datapath,
) -> Result<BackendStatus, DatapathError> {
    let traffic = datapath.traffic(id)?;
    let slots = planned.slots.iter().filter(|&&target| target == id).count();
    Ok(BackendStatus {
        name: backend.name.clone(),
        address: backend.address,
        port: backend.port,
        weight: backend.weight,
        tier: backend.tier,
        // The only check there is so far is `none`, which takes every backend to be up.
        health: "up".to_owned(),
        admin: "enabled".to_owned(),
        slots: u32::try_from(slots).unwrap_or(u32::MAX),
        packets: traffic.packets,
        bytes: traffic.bytes,
        new_flows: traffic.new_flows,
        tracked_flows: 0,
        next_hop: next_hops.of(id).map(|next_hop| format_mac(next_hop.mac)),
        last_check: None,
    })
}
