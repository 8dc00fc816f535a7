//! The file and the members of its services together: the configuration that is followed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Membership;
use crate::core::config::{Backend, Config, Forward, Service};
use crate::core::prefix::Prefix;

/// A configuration with its services' members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The configuration to follow.
    pub config: Config,
    /// Members that cannot be backends.
    pub refused: Vec<Refused>,
}

/// A member that cannot be a backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refused {
    /// Its service.
    pub service: String,
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Why not, and what to do.
    pub reason: String,
}

/// Adds members to the backends of the file, which win where both are about one machine, that is, one address. `memberships` are
/// those of the services, in the order of the configuration. `fits` says what is wrong with a backend that this host cannot use.
///
/// Who is refused depends on names and addresses alone, not on who came first, so that two balancers refuse the same.
pub fn join(
    configured: &Config,
    memberships: &[Option<Membership>],
    max_new_backends: usize,
    fits: impl Fn(&Service, &Backend) -> Option<String>,
) -> Joined {
    let mut joined = Joined {
        config: configured.clone(),
        refused: Vec::new(),
    };
    let configured_backends: usize = configured.services.iter().map(|it| it.backends.len()).sum();
    let mut rules = Rules {
        vips: configured.services.iter().map(|service| service.vip).collect(),
        machines: BTreeMap::new(),
        outer_sources: [
            configured.datapath.ipip_source_ipv4,
            configured.datapath.ipip_source_ipv6,
        ],
        has_tunnels: configured
            .services
            .iter()
            .any(|service| service.forward == Forward::Ipip),
        room: (configured.datapath.max_backends as usize)
            .saturating_sub(configured_backends)
            .min(max_new_backends),
        slots: configured.datapath.slots_per_service as usize,
    };
    for backend in configured.services.iter().flat_map(|service| &service.backends) {
        rules.note(backend);
    }
    for (service, membership) in joined.config.services.iter_mut().zip(memberships) {
        let Some(membership) = membership else { continue };
        for (name, address) in membership.members() {
            if service.backends.iter().any(|it| it.address == address) {
                continue;
            }
            let Some(backend) = service.discovered_backend(name, address) else {
                continue;
            };
            match rules
                .refuse(service, &backend)
                .or_else(|| fits(service, &backend))
            {
                None => {
                    rules.note(&backend);
                    rules.room = rules.room.saturating_sub(1);
                    service.backends.push(backend);
                }
                Some(reason) => joined.refused.push(Refused {
                    service: service.name.clone(),
                    name: backend.name,
                    address,
                    reason,
                }),
            }
        }
    }
    joined
}

/// What the configuration asks of backends, as its own checks do of those in the file.
struct Rules {
    vips: BTreeSet<IpAddr>,
    /// By name and whether IPv6: the one machine that it means in all services.
    machines: BTreeMap<(String, bool), IpAddr>,
    outer_sources: [Prefix; 2],
    has_tunnels: bool,
    /// For how many more backends there is room.
    room: usize,
    slots: usize,
}

impl Rules {
    fn note(&mut self, backend: &Backend) {
        let machine = (backend.name.clone(), backend.address.is_ipv6());
        self.machines.entry(machine).or_insert(backend.address);
    }

    fn refuse(&self, service: &Service, backend: &Backend) -> Option<String> {
        let Backend { name, address, .. } = backend;
        if service.backends.iter().any(|it| it.name == *name) {
            return Some(format!(
                "expected a name that no other backend of the service has, found {name:?}, which has another address in the file: \
                 correct the address there, or rename it"
            ));
        }
        if let Some(other) = self.machines.get(&(name.clone(), address.is_ipv6()))
            && other != address
        {
            return Some(format!(
                "expected one machine of this name in all services, found that {name:?} is {other} elsewhere: rename that one or \
                 correct its address"
            ));
        }
        if self.vips.contains(address) {
            return Some(format!(
                "expected the backend's own address, found the VIP {address}: start the coordinator with a --hostname that is \
                 its own"
            ));
        }
        if self.has_tunnels
            && self
                .outer_sources
                .iter()
                .any(|network| network.contains(*address))
        {
            return Some(
                "expected an address outside of the networks that tunnels pretend to come from: give \
                 datapath.ipip_source_ipv4 or ipip_source_ipv6 a network in which no host is"
                    .to_owned(),
            );
        }
        if self.room == 0 {
            return Some(
                "expected room for another backend, found none: raise datapath.max_backends and restart lb-ctl, or wait for \
                 connections of removed ones to end"
                    .to_owned(),
            );
        }
        (service.backends.len() >= self.slots).then(|| {
            format!(
                "expected no more backends in a service than its {} slots: raise datapath.slots_per_service",
                self.slots
            )
        })
    }
}

#[cfg(test)]
mod tests;
