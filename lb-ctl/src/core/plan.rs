//! What should be in the kernel's tables: follows from the configuration, and from who has which id already.
//!
//! The plan is the *spec*; the maps, which [`adapters::datapath`](crate::adapters::datapath) writes, are the objects.

use std::net::IpAddr;

use lb_common::layout::{Forwarding, NO_TARGET, Service, ServiceKey, TargetName, flag};

use super::{
    config::{Backend, Forward},
    maglev::{self, Candidate},
};

/// The contents of the service and slot tables, and who the targets are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The services, in the order of the configuration.
    pub services: Vec<PlannedService>,
    /// The targets, in the order of the configuration.
    pub targets: Vec<PlannedTarget>,
}

/// One service, as the tables hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedService {
    /// The key under which packets find it.
    pub key: ServiceKey,
    /// The key under which packets without a readable port find its VIP.
    pub vip_key: ServiceKey,
    /// The entry of the service table.
    pub entry: Service,
    /// The target id that each of its slots gives to new connections.
    pub slots: Vec<u16>,
    /// The target ids of its backends, in the order of the configuration.
    pub targets: Vec<u16>,
}

/// One (service, backend) pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedTarget {
    /// The id: index in the target table.
    pub id: u16,
    /// Whom it stands for.
    pub name: TargetName,
    /// The backend's own address.
    pub address: IpAddr,
    /// How packets reach it.
    pub forwarding: Forwarding,
}

impl Plan {
    /// Whether any service translates.
    pub fn translates(&self) -> bool {
        let flags = |service: &PlannedService| service.entry.flags;
        self.services
            .iter()
            .map(flags)
            .any(|flags| flags & flag::TRANSLATES != 0)
    }
}

/// How packets reach a backend of a service.
pub(super) const fn forwarding(forward: Forward, backend: &Backend) -> Forwarding {
    match forward {
        Forward::Nat => Forwarding::Nat { port: backend.port },
        // The configuration accepts no `ipip` yet.
        Forward::Dsr | Forward::Ipip => Forwarding::Dsr,
    }
}

/// What is special about a service.
pub(super) const fn flags(forward: Forward) -> u32 {
    match forward {
        Forward::Nat => flag::TRANSLATES,
        Forward::Dsr | Forward::Ipip => 0,
    }
}

/// The target of each slot of a service whose backends have these target ids.
pub(super) fn slots(backends: &[Backend], targets: &[u16], service: &Service) -> Vec<u16> {
    let candidates: Vec<Candidate<'_>> = backends
        .iter()
        .map(|backend| Candidate {
            name: &backend.name,
            weight: backend.weight,
        })
        .collect();
    let table = maglev::table(&candidates, service.hash_seed, service.slots);
    if table.is_empty() {
        vec![NO_TARGET; service.slots as usize]
    } else {
        table.into_iter().map(|backend| targets[backend]).collect()
    }
}
