//! What Prometheus gets to see: everything that the status shows, and what only the daemon counts.
//!
//! Pure: a [status](Status) and what goes with it become text. Which metrics there are, [`Metric`] says.

mod definition;
mod exposition;
mod tally;

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, time::Duration};

use prometheus::Registry;

use super::{
    health::{Health, slow_start},
    role::Role,
    status::{
        BackendStatus, CheckStatus, CounterStatus, DatapathStatus, DecisionsStatus, DiscoveryStatus,
        InterfaceStatus, LoadStatus, PeerStatus, RejectedStatus, SeedStatus, ServiceStatus, Status,
        VrrpStatus,
    },
    vrrp::State,
};

pub use definition::{Kind, Metric};
pub use exposition::CONTENT_TYPE;
use exposition::Exposition;
pub use tally::{ReloadResult, Tally};

/// How the program can be attached to an interface, as the status calls it.
const MODES: [&str; 4] = ["native", "generic", "none", "absent"];

/// What operators can decide about a backend.
const ADMIN: [&str; 3] = ["enabled", "draining", "disabled"];

/// What counters of packets that were dropped begin with.
const DROP: &str = "drop_";

/// What there is beside the status.
#[derive(Clone, Debug)]
pub struct Beside {
    /// When the daemon started, in seconds since 1970.
    pub started: f64,
    /// Whether `/healthz` says so.
    pub is_healthy: bool,
    /// Whether the last reload that was asked for was not refused.
    pub last_reload_successful: bool,
    /// Whether new connections do without records where they can.
    pub records_short: bool,
    /// How full the kernel's tables are.
    pub tables: Vec<Fill>,
    /// What the daemon has counted.
    pub tally: Registry,
}

/// How full one of the kernel's tables is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// What the table holds.
    pub table: &'static str,
    /// How many entries are used.
    pub entries: u64,
    /// How many there can be.
    pub max: u64,
}

/// The text that Prometheus reads.
///
/// The parts of the status are taken apart by name, so that none can be added and forgotten here.
///
/// Fails only on metrics that a test rules out.
pub fn text(status: &Status, beside: &Beside) -> prometheus::Result<String> {
    let Status {
        node,
        version,
        datapath: DatapathStatus { interfaces, counters },
        decisions:
            DecisionsStatus {
                not_kept,
                // In the log, and in the status until somebody has seen to it.
                unusable: _,
                not_configured: _,
            },
        services,
        vrrp,
        peer,
    } = status;
    let mut exposition = Exposition::default();
    let ours = &mut exposition;
    ours.add_truth(Metric::BuildInfo, &[node, version], true);
    ours.add_truth(Metric::DecisionsKept, &[], not_kept.is_none());
    for InterfaceStatus { name, mode } in interfaces {
        ours.add_choice(Metric::InterfaceMode, &[name], &MODES, mode);
    }
    for CounterStatus {
        name,
        meaning: _,
        packets,
    } in counters
    {
        match name.strip_prefix(DROP) {
            Some(reason) => ours.add_count(Metric::DroppedPackets, &[reason], *packets),
            None => ours.add_count(Metric::ExceptionalPackets, &[name], *packets),
        }
    }
    for service in services {
        add_service(ours, service);
    }
    for instance in vrrp {
        add_vrrp(ours, instance);
    }
    if let Some(peer) = peer {
        add_peer(ours, peer);
    }
    add_beside(ours, beside);
    exposition.text(beside.tally.gather())
}

fn add_vrrp(ours: &mut Exposition, instance: &VrrpStatus) {
    let VrrpStatus {
        name,
        state,
        state_seconds,
        // Counted where there are transitions.
        previous_state: _,
        // Words.
        cause: _,
        priority,
        configured_priority,
        // What is configured.
        addresses: _,
        interface: _,
        vrid: _,
        group: _,
        // An address, which would make a series for each.
        master: _,
        master_priority,
        interval_ms,
        master_down_ms,
        // It is over before anybody reads it.
        due_ms: _,
        yields,
        transitions,
        rejected,
        missing,
        notifications,
        virtual_mac: _,
    } = instance;
    let states = State::ALL.map(|state| state.to_string());
    let states: Vec<&str> = states.iter().map(String::as_str).collect();
    ours.add_choice(Metric::VrrpState, &[name], &states, state);
    ours.add_count(Metric::VrrpStateAge, &[name], *state_seconds);
    ours.add_count(Metric::VrrpPriority, &[name], (*priority).into());
    ours.add_count(
        Metric::VrrpConfiguredPriority,
        &[name],
        (*configured_priority).into(),
    );
    if let Some(priority) = master_priority {
        ours.add_count(Metric::VrrpMasterPriority, &[name], (*priority).into());
    }
    ours.add(Metric::VrrpInterval, &[name], seconds(*interval_ms));
    ours.add(Metric::VrrpMasterDown, &[name], seconds(*master_down_ms));
    ours.add_truth(Metric::VrrpHandedOver, &[name], *yields);
    for (state, count) in transitions {
        ours.add_count(Metric::VrrpTransitions, &[name, state], *count);
    }
    for RejectedStatus { reason, packets } in rejected {
        ours.add_count(Metric::VrrpRejected, &[name, reason], *packets);
    }
    let missing = u64::try_from(missing.len()).unwrap_or(u64::MAX);
    ours.add_count(Metric::VrrpMissing, &[name], missing);
    for (result, count) in notifications {
        ours.add_count(Metric::VrrpNotifications, &[name, result], *count);
    }
}

fn seconds(milliseconds: u64) -> f64 {
    Duration::from_millis(milliseconds).as_secs_f64()
}

fn add_peer(ours: &mut Exposition, peer: &PeerStatus) {
    let PeerStatus {
        connected,
        lag_ms,
        // Words.
        node: _,
        version: _,
        trouble: _,
        not_taken_over,
    } = peer;
    ours.add_truth(Metric::PeerConnected, &[], *connected);
    ours.add(Metric::PeerLag, &[], seconds(*lag_ms));
    ours.add_count(Metric::PeerNotTakenOver, &[], *not_taken_over);
}

fn add_beside(ours: &mut Exposition, beside: &Beside) {
    let Beside {
        started,
        is_healthy,
        last_reload_successful,
        records_short,
        tables,
        tally: _,
    } = beside;
    ours.add(Metric::StartTime, &[], *started);
    ours.add_truth(Metric::Healthy, &[], *is_healthy);
    ours.add_truth(Metric::ReloadSuccessful, &[], *last_reload_successful);
    ours.add_truth(Metric::RecordsShort, &[], *records_short);
    for Fill { table, entries, max } in tables {
        ours.add_count(Metric::TableEntries, &[table], *entries);
        ours.add_count(Metric::TableEntriesMax, &[table], *max);
    }
}

fn add_service(ours: &mut Exposition, service: &ServiceStatus) {
    let ServiceStatus {
        name: service,
        vip,
        port,
        forward,
        active_tier,
        guard,
        role,
        tracked_slots,
        discovery,
        backends,
    } = service;
    let (vip, port) = (vip.to_string(), port.to_string());
    ours.add_truth(Metric::ServiceInfo, &[service, &vip, &port, forward], true);
    ours.add_count(Metric::ServiceActiveTier, &[service], (*active_tier).into());
    ours.add_truth(Metric::ServiceGuardActive, &[service], guard.is_some());
    if let Some(role) = role {
        ours.add_choice(
            Metric::ServiceRole,
            &[service],
            &Role::ALL.map(Role::as_str),
            role,
        );
    }
    let slots = backends.iter().map(|backend| u64::from(backend.slots)).sum();
    ours.add_count(Metric::ServiceSlots, &[service], slots);
    ours.add_count(Metric::ServiceTrackedSlots, &[service], (*tracked_slots).into());
    let mut names = BTreeSet::new();
    for backend in backends {
        // A backend with another address is another one, also of the same name, while the old one is leaving. Two samples
        // with the same labels would make Prometheus refuse all.
        let name = if names.insert(&backend.name) {
            backend.name.clone()
        } else {
            format!("{} ({}:{})", backend.name, backend.address, backend.port)
        };
        add_backend(ours, [service, &name], backend);
        if discovery.is_some() {
            let seeds = u64::try_from(backend.listed_by.len()).unwrap_or(u64::MAX);
            ours.add_count(Metric::BackendListings, &[service, &name], seeds);
        }
    }
    if let Some(discovery) = discovery {
        add_discovery(ours, service, discovery);
    }
}

fn add_discovery(ours: &mut Exposition, service: &str, discovery: &DiscoveryStatus) {
    let DiscoveryStatus { seeds, refused } = discovery;
    for SeedStatus {
        seed,
        ok,
        // The age of the last page says how good what is known is.
        seconds_ago: _,
        last_page_seconds_ago,
        detail: _,
    } in seeds
    {
        if let Some(ok) = ok {
            ours.add_truth(Metric::DiscoverySeedSuccess, &[service, seed], *ok);
        }
        if let Some(seconds) = last_page_seconds_ago {
            ours.add_count(Metric::DiscoveryPageAge, &[service, seed], *seconds);
        }
    }
    let refused = u64::try_from(refused.len()).unwrap_or(u64::MAX);
    ours.add_count(Metric::DiscoveryRefused, &[service], refused);
}

fn add_backend(ours: &mut Exposition, labels: [&str; 2], backend: &BackendStatus) {
    let BackendStatus {
        name: _,
        address,
        port,
        weight,
        configured_weight,
        tier,
        health,
        // In the log: a text that changes is no metric.
        health_cause: _,
        health_seconds,
        slow_start_tenths,
        load,
        admin,
        deadline_seconds,
        soft_drain,
        slots,
        packets,
        bytes,
        new_flows,
        tracked_flows,
        discovered,
        // Counted where there is discovery.
        listed_by: _,
        next_hop,
        last_check,
    } = backend;
    let [service, name] = labels;
    let labels = &labels;
    let (address, port) = (address.to_string(), port.to_string());
    ours.add_truth(Metric::BackendInfo, &[service, name, &address, &port], true);
    ours.add_count(Metric::BackendWeight, labels, (*weight).into());
    ours.add_count(
        Metric::BackendConfiguredWeight,
        labels,
        (*configured_weight).into(),
    );
    ours.add_count(Metric::BackendTier, labels, (*tier).into());
    ours.add_choice(
        Metric::BackendHealth,
        labels,
        &Health::ALL.map(Health::as_str),
        health,
    );
    if let Some(seconds) = health_seconds {
        ours.add_count(Metric::BackendHealthAge, labels, *seconds);
    }
    ours.add_choice(Metric::BackendAdmin, labels, &ADMIN, admin);
    ours.add_truth(Metric::BackendSoftDrain, labels, *soft_drain);
    if let Some(seconds) = deadline_seconds {
        ours.add_count(Metric::BackendDrainDeadline, labels, *seconds);
    }
    let tenths = slow_start_tenths.unwrap_or(slow_start::PARTS);
    ours.add(
        Metric::BackendSlowStart,
        labels,
        f64::from(tenths) / f64::from(slow_start::PARTS),
    );
    if let Some(LoadStatus { load, weight_percent }) = load {
        if let Some(load) = load {
            ours.add_count(Metric::BackendLoad, labels, *load);
        }
        ours.add(
            Metric::BackendLoadWeight,
            labels,
            f64::from(*weight_percent) / 100.0,
        );
    }
    ours.add_count(Metric::BackendSlots, labels, (*slots).into());
    ours.add_count(Metric::BackendPackets, labels, *packets);
    ours.add_count(Metric::BackendBytes, labels, *bytes);
    ours.add_count(Metric::BackendNewFlows, labels, *new_flows);
    ours.add_count(Metric::BackendTrackedFlows, labels, *tracked_flows);
    ours.add_truth(Metric::BackendDiscovered, labels, *discovered);
    ours.add_truth(Metric::BackendNextHopResolved, labels, next_hop.is_some());
    if let Some(CheckStatus {
        ok,
        // The tally has it more precisely.
        latency_ms: _,
        seconds_ago,
        detail: _,
    }) = last_check
    {
        ours.add_truth(Metric::BackendLastCheckSuccess, labels, *ok);
        ours.add_count(Metric::BackendLastCheckAge, labels, *seconds_ago);
    }
}
