//! The configuration as written: every key that this version understands, each value checked by itself, with
//! its place.
//!
//! `None` is a key that is absent or whose value was refused. In both cases the default takes its place in
//! later checks, so that one mistake does not show up as several.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::check::CheckKeys;
use super::choice::{Affinity, Balance, Forward, NoBackend, XdpModeChoice};
use super::discovery::DiscoveryKeys;
use super::duration::ConfigDuration;
use super::error::Origin;
use super::health_policy::HealthPolicyKeys;
use super::peer::PeerKeys;
use super::prefix;
use super::reader::{At, TableReader};
use super::value;
use super::vrrp::VrrpKeys;
use crate::core::prefix::Prefix;

/// Services: each needs its own table of slots, so thousands of them are a mistake or need another design.
pub const MAX_SERVICES: u32 = 4096;

/// Backends have 16-bit ids in the tables of the data path, and id 0 means "none".
const MAX_BACKENDS: u32 = 65_535;

/// Established records, of which each takes some 100 bytes of kernel memory at start.
const MAX_FLOWS: RangeInclusive<u32> = 1024..=16_777_216;

/// A minute is the least after which a flow may count as over at all. A slot keeps its time modulo 19.5 hours, and the
/// controller needs a while to notice.
const FLOW_IDLE_TIMEOUT: RangeInclusive<ConfigDuration> =
    ConfigDuration::from_millis(60_000)..=ConfigDuration::from_millis(18 * 3_600_000);

/// A slot keeps when its grace period began modulo 19.5 hours.
const AFFINITY_TIMEOUT: RangeInclusive<ConfigDuration> =
    ConfigDuration::from_millis(1000)..=ConfigDuration::from_millis(18 * 3_600_000);

/// The heaviest backend: with the default 65,537 slots one part in a thousand is still a few dozen slots.
pub const MAX_WEIGHT: u32 = 1000;

/// The whole file.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) node: Node,
    pub(super) datapath: Datapath,
    pub(super) api: Api,
    pub(super) http: Http,
    pub(super) services: Vec<Service>,
    pub(super) vrrp: Vec<VrrpKeys>,
    pub(super) peer: PeerKeys,
}

impl Document {
    pub(super) fn read(table: &mut TableReader<'_, '_>) -> Self {
        let has_peer = table.mentions_table("peer");
        Self {
            node: table.table("node", Node::read),
            datapath: table.table("datapath", Datapath::read),
            api: table.table("api", Api::read),
            http: table.table("http", Http::read),
            services: table.required_tables("service", Service::read),
            vrrp: table.optional_tables("vrrp", VrrpKeys::read),
            peer: table.table("peer", |table| PeerKeys::read(table, has_peer)),
        }
    }
}

/// `[node]`
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: Option<At<String>>,
    pub(super) state_dir: Option<At<PathBuf>>,
}

impl Node {
    fn read(table: &mut TableReader<'_, '_>) -> Self {
        Self {
            name: table.optional("name", value::name),
            state_dir: table.optional("state_dir", value::directory),
        }
    }
}

/// `[datapath]`
#[derive(Debug)]
pub(super) struct Datapath {
    pub(super) interfaces: Vec<At<String>>,
    pub(super) mode: Option<At<XdpModeChoice>>,
    pub(super) hash_seed: Option<At<u64>>,
    pub(super) slots_per_service: Option<At<u32>>,
    pub(super) max_services: Option<At<u32>>,
    pub(super) max_backends: Option<At<u32>>,
    pub(super) ipip_source_ipv4: Option<At<Prefix>>,
    pub(super) ipip_source_ipv6: Option<At<Prefix>>,
    pub(super) max_flows: Option<At<u32>>,
    pub(super) flow_idle_timeout: Option<At<ConfigDuration>>,
}

impl Datapath {
    fn read(table: &mut TableReader<'_, '_>) -> Self {
        Self {
            interfaces: table.required_list("interfaces", r#"["eth0"]"#, value::interface),
            mode: table.optional("mode", value::choice),
            hash_seed: table.optional("hash_seed", value::seed),
            slots_per_service: table.optional("slots_per_service", value::slots_per_service),
            max_services: table.optional("max_services", |value| {
                value::integer(value, 1..=MAX_SERVICES, "leave the key out to get 64")
            }),
            max_backends: table.optional("max_backends", |value| {
                value::integer(value, 1..=MAX_BACKENDS, "leave the key out to get 1024")
            }),
            ipip_source_ipv4: table.optional("ipip_source_ipv4", value::ipip_source_ipv4),
            ipip_source_ipv6: table.optional("ipip_source_ipv6", value::ipip_source_ipv6),
            max_flows: table.optional("max_flows", |value| {
                value::integer(value, MAX_FLOWS, "leave the key out to get 262144")
            }),
            flow_idle_timeout: table.optional("flow_idle_timeout", |value| {
                value::duration(value, FLOW_IDLE_TIMEOUT, "leave the key out to get \"6h\"")
            }),
        }
    }
}

/// `[api]`
#[derive(Debug)]
pub(super) struct Api {
    pub(super) socket: Option<At<PathBuf>>,
}

impl Api {
    fn read(table: &mut TableReader<'_, '_>) -> Self {
        Self {
            socket: table.optional("socket", value::socket),
        }
    }
}

/// `[http]`
#[derive(Debug)]
pub(super) struct Http {
    pub(super) listen: Vec<At<SocketAddr>>,
}

impl Http {
    fn read(table: &mut TableReader<'_, '_>) -> Self {
        Self {
            listen: table.optional_list("listen", "leave the key out to serve nobody", value::listen),
        }
    }
}

/// `[[service]]`
#[derive(Debug)]
pub(super) struct Service {
    /// Where the table begins.
    pub(super) origin: Origin,
    pub(super) name: Option<At<String>>,
    pub(super) vip: Option<At<IpAddr>>,
    pub(super) port: Option<At<u16>>,
    pub(super) forward: Option<At<Forward>>,
    pub(super) affinity: Option<At<Affinity>>,
    pub(super) affinity_timeout: Option<At<ConfigDuration>>,
    pub(super) balance: Option<At<Balance>>,
    pub(super) no_backend: Option<At<NoBackend>>,
    pub(super) allow: Vec<At<Prefix>>,
    pub(super) check: CheckKeys,
    pub(super) health: HealthPolicyKeys,
    pub(super) discovery: DiscoveryKeys,
    pub(super) backends: Vec<Backend>,
}

impl Service {
    fn read(table: &mut TableReader<'_, '_>) -> Self {
        let (discovers, is_table) = (table.mentions("discovery"), table.mentions_table("discovery"));
        Self {
            origin: table.origin().clone(),
            name: table.required("name", r#""impala""#, value::name),
            vip: table.required("vip", r#""192.0.2.10""#, value::address),
            port: table.required("port", "21050", value::port),
            forward: table.optional("forward", value::choice),
            affinity: table.optional("affinity", value::choice),
            affinity_timeout: table.optional("affinity_timeout", |value| {
                value::duration(value, AFFINITY_TIMEOUT, "leave the key out to get \"15m\"")
            }),
            balance: table.optional("balance", value::choice),
            no_backend: table.optional("no_backend", value::choice),
            allow: table.optional_list("allow", "leave the key out to allow everybody", prefix::prefix),
            check: table.table("check", CheckKeys::read),
            health: HealthPolicyKeys::read(table),
            discovery: table.table("discovery", |table| DiscoveryKeys::read(table, is_table)),
            backends: if discovers {
                table.optional_tables("backend", Backend::read)
            } else {
                table.required_tables("backend", Backend::read)
            },
        }
    }
}

/// `[[service.backend]]`
#[derive(Debug)]
pub(super) struct Backend {
    /// Where the table begins.
    pub(super) origin: Origin,
    pub(super) name: Option<At<String>>,
    pub(super) address: Option<At<IpAddr>>,
    pub(super) port: Option<At<u16>>,
    pub(super) weight: Option<At<u32>>,
    pub(super) tier: Option<At<u8>>,
}

impl Backend {
    fn read(table: &mut TableReader<'_, '_>) -> Self {
        Self {
            origin: table.origin().clone(),
            name: table.required("name", r#""impala1""#, value::name),
            address: table.required("address", r#""192.0.2.21""#, value::address),
            port: table.optional("port", value::port),
            weight: table.optional("weight", |value| {
                value::integer(
                    value,
                    0..=MAX_WEIGHT,
                    "weights are shares, relative to the other backends of the service",
                )
            }),
            tier: table.optional("tier", value::tier),
        }
    }
}
