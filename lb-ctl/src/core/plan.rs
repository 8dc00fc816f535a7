//! What should be in the kernel's tables: follows from the configuration alone.
//!
//! The plan is the *spec*; the maps, which [`adapters::datapath`](crate::adapters::datapath) writes, are the objects.

use std::net::IpAddr;

use lb_common::layout::{Forwarding, NO_TARGET, Service, ServiceKey, flag};

use super::{
    config::{Backend, Config, Forward},
    maglev::{self, Candidate},
};

/// The contents of the service and slot tables, and who the targets are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The services, in the order of the configuration.
    pub services: Vec<PlannedService>,
    /// The targets by ascending id, without gaps from id 1.
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
    /// The target id of each of its slots.
    pub slots: Vec<u16>,
    /// The target ids of its backends, in the order of the configuration.
    pub targets: Vec<u16>,
}

/// One (service, backend) pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedTarget {
    /// The id: index in the target table.
    pub id: u16,
    /// The backend's own address.
    pub address: IpAddr,
    /// How packets reach it.
    pub forwarding: Forwarding,
}

impl Plan {
    /// Computes the tables. The configuration has checked that everything fits.
    pub fn of(config: &Config) -> Self {
        let mut plan = Self {
            services: Vec::new(),
            targets: Vec::new(),
        };
        let mut first_slot = 0;
        // The configuration allows fewer services than there are ids.
        for (service_id, service) in (0..).zip(&config.services) {
            let targets: Vec<u16> = service
                .backends
                .iter()
                .map(|backend| plan.add_target(service.forward, backend))
                .collect();
            let entry = Service {
                hash_seed: config.datapath.hash_seed,
                first_slot,
                slots: config.datapath.slots_per_service,
                flags: flags(service.forward),
                id: service_id,
                port_mask: u16::MAX,
                affinity_timeout: 0,
                reserved: 0,
            };
            plan.services.push(PlannedService {
                key: ServiceKey::tcp(service.vip.into(), service.port),
                vip_key: ServiceKey::vip(service.vip.into()),
                entry,
                slots: slots(&service.backends, &targets, &entry),
                targets,
            });
            first_slot += config.datapath.slots_per_service;
        }
        plan
    }

    /// Whether any service translates.
    pub fn translates(&self) -> bool {
        self.services
            .iter()
            .any(|service| service.entry.flags & flag::TRANSLATES != 0)
    }

    fn add_target(&mut self, forward: Forward, backend: &Backend) -> u16 {
        // The configuration allows no more backends than there are ids above `NO_TARGET`.
        let id = self
            .targets
            .last()
            .map_or(NO_TARGET, |last| last.id)
            .saturating_add(1);
        self.targets.push(PlannedTarget {
            id,
            address: backend.address,
            forwarding: match forward {
                Forward::Nat => Forwarding::Nat { port: backend.port },
                // The configuration accepts no `ipip` yet.
                Forward::Dsr | Forward::Ipip => Forwarding::Dsr,
            },
        });
        id
    }
}

/// What is special about a service.
const fn flags(forward: Forward) -> u32 {
    match forward {
        Forward::Nat => flag::TRANSLATES,
        Forward::Dsr | Forward::Ipip => 0,
    }
}

/// The target of each slot.
fn slots(backends: &[Backend], targets: &[u16], service: &Service) -> Vec<u16> {
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
