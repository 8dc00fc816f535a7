//! The answer to "how are you?", as `lb-ctl status --json` prints it. Field names are a contract.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

/// The whole status of a daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The balancer's name.
    pub node: String,
    /// The version of the daemon.
    pub version: String,
    /// The XDP program and its tables.
    pub datapath: DatapathStatus,
    /// What operators have decided about backends, and whether it would survive a restart.
    pub decisions: DecisionsStatus,
    /// The services, in the order of the configuration.
    pub services: Vec<ServiceStatus>,
    /// The VRRP instances, in the order of the configuration.
    pub vrrp: Vec<VrrpStatus>,
    /// The other balancer; `null` when there is none.
    pub peer: Option<PeerStatus>,
}

/// What operators have decided about backends, as far as it is not shown with these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionsStatus {
    /// Why decisions that are in force would be forgotten by a restart; `null` if they would not.
    pub not_kept: Option<String>,
    /// What was wrong with what an earlier run had kept; `null` if nothing was.
    pub unusable: Option<String>,
    /// About whom there are decisions though no such backend is configured: `backend`, or `service/backend`.
    pub not_configured: Vec<String>,
}

/// The XDP program and its tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatapathStatus {
    /// Where the program is attached.
    pub interfaces: Vec<InterfaceStatus>,
    /// All counters of exceptional packets.
    pub counters: Vec<CounterStatus>,
}

/// An interface that carries the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// How the program is attached: `native`, `generic`, `none` if somebody has detached it, or `absent` if there is no
    /// interface of that name at the moment.
    pub mode: String,
}

/// A counter of exceptional packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterStatus {
    /// Its name.
    pub name: String,
    /// What it counts, in a sentence.
    pub meaning: String,
    /// How many packets since the program was loaded.
    pub packets: u64,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Its virtual address.
    pub vip: IpAddr,
    /// Its port.
    pub port: u16,
    /// How packets reach the backends.
    pub forward: String,
    /// The tier that serves.
    pub active_tier: u8,
    /// Set while the guard against mass removal keeps backends in use that would not be if there were enough others: what it
    /// sees, in words.
    pub guard: Option<String>,
    /// With a peer: owner | following | behind | alone; `null` without one.
    #[serde(default)]
    pub role: Option<String>,
    /// How many of its slots consult the flow table.
    pub tracked_slots: u32,
    /// Where more backends are read from; `null` if all are in the file.
    #[serde(default)]
    pub discovery: Option<DiscoveryStatus>,
    /// The backends, in the order of the configuration, then those that are discovered, by name.
    pub backends: Vec<BackendStatus>,
}

/// The discovery of a service's backends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveryStatus {
    /// The seeds, in the order of the configuration.
    pub seeds: Vec<SeedStatus>,
    /// Coordinators that are listed but cannot be backends.
    pub refused: Vec<RefusedStatus>,
}

/// A coordinator whose page is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedStatus {
    /// Its host and port.
    pub seed: String,
    /// Whether the last reading gave a page; `null` before the first.
    pub ok: Option<bool>,
    /// How many seconds ago that was.
    pub seconds_ago: Option<u64>,
    /// How many seconds ago there was last a page.
    pub last_page_seconds_ago: Option<u64>,
    /// What was found, for people.
    pub detail: String,
}

/// A coordinator that is listed but cannot be a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedStatus {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Why not, and what to do.
    pub reason: String,
}

/// One backend of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Its name.
    pub name: String,
    /// Its own address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its share of new flows, relative to the others: the operator's word, or else the configured one.
    pub weight: u32,
    /// The configured one.
    pub configured_weight: u32,
    /// Its tier.
    pub tier: u8,
    /// checking | up | saturated | quiescing | down.
    pub health: String,
    /// Why, in words that continue its name.
    pub health_cause: String,
    /// For how many seconds this has been so; `null` if it is not checked.
    pub health_seconds: Option<u64>,
    /// While it starts slowly: how many tenths of its weight count.
    pub slow_start_tenths: Option<u32>,
    /// With `balance = "load"`: what its load has to do with its weight; else `null`.
    #[serde(default)]
    pub load: Option<LoadStatus>,
    /// enabled | draining | disabled.
    pub admin: String,
    /// While it drains: in how many seconds the flows that are left will be reset; `null` if never.
    pub deadline_seconds: Option<u64>,
    /// Whether it drains softly: clients that are at home there may still open connections.
    pub soft_drain: bool,
    /// How many slots give it their new flows.
    pub slots: u32,
    /// Packets forwarded to it.
    pub packets: u64,
    /// Bytes forwarded to it, as received from clients, Ethernet headers included.
    pub bytes: u64,
    /// Segments forwarded to it that ask for a new connection, retransmitted ones included.
    pub new_flows: u64,
    /// Flows that have a record.
    pub tracked_flows: u64,
    /// Whether it comes from the pages of seeds, and not from the file.
    #[serde(default)]
    pub discovered: bool,
    /// The seeds whose last page lists it.
    #[serde(default)]
    pub listed_by: Vec<String>,
    /// The MAC address to which its packets go; `null` while it has never answered.
    pub next_hop: Option<String>,
    /// The last health check; `null` while there has been none.
    pub last_check: Option<CheckStatus>,
}

/// How a weight follows the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadStatus {
    /// How busy the backend is, smoothed, in connections; a query counts four. `null` while it is not known: the configured weight
    /// counts then.
    pub load: Option<u64>,
    /// How much of its configured weight counts, in percent: from 25 to 200.
    pub weight_percent: u32,
}

/// The result of a health check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// Whether it passed.
    pub ok: bool,
    /// How long it took, in milliseconds.
    pub latency_ms: u64,
    /// How many seconds ago it ended.
    pub seconds_ago: u64,
    /// What was found, for people.
    pub detail: String,
}

/// A VRRP instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VrrpStatus {
    /// Its name.
    pub name: String,
    /// init | backup | master | fault.
    pub state: String,
    /// For how long it has been that.
    pub state_seconds: u64,
    /// What it was before; `null` before its first change.
    #[serde(default)]
    pub previous_state: Option<String>,
    /// Why it has become that.
    pub cause: String,
    /// Its priority, lowered by what is missing.
    pub priority: u8,
    /// Its priority as configured.
    pub configured_priority: u8,
    /// The addresses that it carries.
    pub addresses: Vec<IpAddr>,
    /// The interface on which it advertises and holds its addresses.
    pub interface: String,
    /// The virtual router's number.
    pub vrid: u8,
    /// The MAC address that moves with its addresses; `null` if they have the interface's.
    #[serde(default)]
    pub virtual_mac: Option<String>,
    /// The group with which it moves; `null` if it moves by itself.
    pub group: Option<String>,
    /// Who is master, as far as it knows: the address that its advertisements come from.
    pub master: Option<IpAddr>,
    /// The master's priority, as far as it knows.
    #[serde(default)]
    pub master_priority: Option<u8>,
    /// How often the master advertises, in milliseconds.
    pub interval_ms: u64,
    /// After how long a silence a backup takes over, in milliseconds.
    #[serde(default)]
    pub master_down_ms: u64,
    /// In how many milliseconds a master advertises next, or a backup takes over if it hears nothing; `null` in other states.
    #[serde(default)]
    pub due_ms: Option<u64>,
    /// Whether an operator has handed it over, so that it leaves any master alone.
    pub yields: bool,
    /// How often it has come into each state since the daemon started.
    pub transitions: BTreeMap<String, u64>,
    /// Packets that did not count, by reason.
    pub rejected: Vec<RejectedStatus>,
    /// What is tracked and missing now.
    #[serde(default)]
    pub missing: Vec<String>,
    /// How often `notify` was told of a change since the daemon started, by what came of it; empty without `notify`.
    #[serde(default)]
    pub notifications: BTreeMap<String, u64>,
}

/// Packets that did not count as advertisements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedStatus {
    /// Why.
    pub reason: String,
    /// How many since the daemon started.
    pub packets: u64,
}

/// The connection to the other balancer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Whether the state stream is up.
    pub connected: bool,
    /// For how long the peer has lacked something that it was told, in milliseconds; 0 if it lacks nothing.
    pub lag_ms: u64,
    /// The peer's `node.name`; `null` while it is not connected.
    pub node: Option<String>,
    /// The version of its program.
    pub version: Option<String>,
    /// Why it is not connected; `null` while it is, or nothing has been tried yet.
    pub trouble: Option<String>,
    /// How many slots and flows the peer has told of for which there was no room here, since it connected.
    pub not_taken_over: u64,
}
