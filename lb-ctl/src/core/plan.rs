//! What should be in the kernel's tables: follows from the configuration, and from who has which id already.
//!
//! The plan is the *spec*; the maps, which [`adapters::datapath`](crate::adapters::datapath) writes, are the objects.

use std::net::IpAddr;

use lb_common::{
    layout::{AllowedKey, Forwarding, NO_TARGET, Service, ServiceKey, TargetName, flag},
    least_connections,
};

use super::{
    config::{self, Affinity, Backend, Balance, Config, DatapathConfig, Forward, NoBackend},
    maglev::{self, Candidate},
    prefix::Prefix,
    time::ticks,
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
    /// From where it may be used; empty if from everywhere.
    pub allowed: Vec<AllowedKey>,
    /// The target id that each of its slots gives to new connections. Empty once they [are placed](PlannedService::are_placed).
    pub slots: Vec<u16>,
    /// The target ids of its backends, in the order of the configuration.
    pub targets: Vec<u16>,
    /// The weights with which these take part, in the same order. What is missing is 0.
    pub weights: Vec<u32>,
}

impl PlannedService {
    /// The same service with other slots: its backends take part with these weights.
    pub fn share_out(&mut self, backends: &[Backend], weights: &[u32]) {
        self.slots = slots(backends, weights, &self.targets, &self.entry);
        self.weights = weights.to_vec();
    }

    /// Takes in that the slots are in the tables, where they can be looked up from now on: of 64 services they would be 8 MB.
    pub fn are_placed(&mut self) {
        self.slots = Vec::new();
    }
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
    /// Whether it gets no new flows, whatever affinity says: it has the weight 0.
    pub drains: bool,
    /// Whether it gets none before its first check either.
    pub is_checked: bool,
}

/// With which weight each backend of each service takes part, in the order of the configuration. What is missing is 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares(Vec<Vec<u32>>);

impl Shares {
    /// Nobody takes part.
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// Everybody takes part with the weight that is configured.
    pub fn configured(config: &Config) -> Self {
        let weights = |service: &config::Service| service.backends.iter().map(|it| it.weight).collect();
        config.services.iter().map(weights).collect()
    }

    /// Those of a service.
    pub fn of(&self, service: usize) -> &[u32] {
        self.0.get(service).map_or(&[], Vec::as_slice)
    }
}

impl FromIterator<Vec<u32>> for Shares {
    /// By service.
    fn from_iter<I: IntoIterator<Item = Vec<u32>>>(weights: I) -> Self {
        Self(weights.into_iter().collect())
    }
}

impl Plan {
    /// The plan once it is in the tables.
    #[must_use]
    pub fn placed(mut self) -> Self {
        self.services.iter_mut().for_each(PlannedService::are_placed);
        self
    }

    /// Whether any service translates.
    pub fn translates(&self) -> bool {
        let flags = |service: &PlannedService| service.entry.flags;
        self.services
            .iter()
            .map(flags)
            .any(|flags| flags & flag::TRANSLATES != 0)
    }
}

/// How packets reach a backend with this address and port of a service with this mode.
pub fn forwarding(forward: Forward, (address, port): (IpAddr, u16), datapath: &DatapathConfig) -> Forwarding {
    match forward {
        Forward::Dsr => Forwarding::Dsr,
        Forward::Ipip => {
            let sources = if address.is_ipv4() {
                datapath.ipip_source_ipv4
            } else {
                datapath.ipip_source_ipv6
            };
            Forwarding::Ipip {
                source: sources.address().into(),
            }
        }
        Forward::Nat => Forwarding::Nat { port },
    }
}

/// What is special about a service.
pub(super) fn flags(service: &config::Service) -> u32 {
    let resets = match service.no_backend {
        NoBackend::Reset => flag::RESETS,
        NoBackend::Drop => 0,
    };
    let restricted = if service.allow.is_empty() {
        0
    } else {
        flag::RESTRICTED
    };
    let affine = match service.affinity {
        Affinity::Client => flag::AFFINE,
        Affinity::None => 0,
    };
    let translates = match service.forward {
        Forward::Nat => flag::TRANSLATES,
        Forward::Dsr | Forward::Ipip => 0,
    };
    resets | restricted | affine | translates
}

/// The bits of the client's port that the flow hash takes in.
pub(super) const fn port_mask(service: &config::Service) -> u16 {
    match service.affinity {
        Affinity::Client => 0,
        Affinity::None => u16::MAX,
    }
}

/// For how many ticks a client keeps its backend; 0 without affinity.
pub(super) fn affinity_timeout(service: &config::Service) -> u32 {
    match service.affinity {
        Affinity::Client => ticks(service.affinity_timeout.into()),
        Affinity::None => 0,
    }
}

/// Among how many slots a new connection chooses; 0 if it does not.
pub(super) fn candidates(service: &config::Service, slots: u32) -> u16 {
    match service.balance {
        Balance::LeastConnections => least_connections::candidates(service.backends.len(), slots),
        Balance::Hash | Balance::Load => 0,
    }
}

/// From where a service may be used, as the tables hold it; empty if from everywhere.
pub(super) fn allowed(id: u16, service: &config::Service) -> Vec<AllowedKey> {
    let key = |prefix: &Prefix| {
        let before = if prefix.address().is_ipv4() {
            AllowedKey::V4_BITS
        } else {
            0
        };
        AllowedKey::prefix(id, prefix.address().into(), before + u32::from(prefix.length()))
    };
    service.allow.iter().map(key).collect()
}

/// The target of each slot of a service whose backends take part with these weights and have these target ids.
pub(super) fn slots(backends: &[Backend], weights: &[u32], targets: &[u16], service: &Service) -> Vec<u16> {
    if least_connections::places_each(service) {
        return stripes(backends, weights, targets, service.slots);
    }
    let weights = weights.iter().copied().chain(std::iter::repeat(0));
    let candidates: Vec<Candidate<'_>> = backends
        .iter()
        .zip(weights)
        .map(|(backend, weight)| Candidate {
            name: &backend.name,
            weight,
        })
        .collect();
    let table = maglev::table(&candidates, service.hash_seed, service.slots);
    if table.is_empty() {
        vec![NO_TARGET; service.slots as usize]
    } else {
        table.into_iter().map(|backend| targets[backend]).collect()
    }
}

/// The same where each connection is placed by live ones: the backends that take part, one after the other, again and again.
///
/// By name: both balancers of a pair must have them in the same order. How far slots move when a backend comes or goes does not
/// matter, since each connection has a record.
fn stripes(backends: &[Backend], weights: &[u32], targets: &[u16], slots: u32) -> Vec<u16> {
    let mut eligible: Vec<(&str, u16)> = backends
        .iter()
        .zip(weights)
        .zip(targets)
        .filter(|((_, weight), _)| **weight > 0)
        .map(|((backend, _), id)| (backend.name.as_str(), *id))
        .collect();
    eligible.sort_unstable();
    let mut ids: Vec<u16> = eligible.into_iter().map(|(_, id)| id).collect();
    if ids.is_empty() {
        ids.push(NO_TARGET);
    }
    ids.into_iter().cycle().take(slots as usize).collect()
}
