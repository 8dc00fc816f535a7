//! The configuration as the rest of the program uses it: plain data, complete, and consistent in itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use lb_common::layout::ServiceKey;

use super::check::Check;
use super::choice::{Affinity, Balance, Forward, NoBackend, XdpModeChoice};
use super::defaults;
use super::discovery::Discovery;
use super::duration::ConfigDuration;
use super::error::{ConfigErrors, Origin};
use super::health_policy::HealthPolicy;
use super::peer::Peer;
use super::reader::At;
use super::vrrp::Vrrp;
use crate::core::command::Command;
use crate::core::interface::Mac;
use crate::core::prefix::Prefix;

/// A configuration that has passed all checks that need nothing but its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The name of the file it was read from, for later messages.
    pub file_name: String,
    /// Where some of the keys are written, for later messages too.
    pub places: Places,
    /// This balancer.
    pub node: Node,
    /// The XDP program and its tables.
    pub datapath: DatapathConfig,
    /// The operator API.
    pub api: Api,
    /// What anybody may read.
    pub http: Http,
    /// The services, in the order of the file; at least one.
    pub services: Vec<Service>,
    /// The VRRP instances, in the order of the file.
    pub vrrp: Vec<Vrrp>,
    /// The operator's programs that these run, and where they are named.
    pub programs: Vec<ProgramPlace>,
    /// The other balancer, if there is one to share connections with.
    pub peer: Option<Peer>,
}

impl Config {
    /// The VIPs that are on this host whoever else is there: all that no VRRP instance carries.
    pub fn vips_of_ours_alone(&self) -> BTreeSet<IpAddr> {
        let vips = self.services.iter().map(|service| service.vip);
        vips.filter(|vip| !self.is_carried(*vip)).collect()
    }

    /// The addresses that are not this host's alone: VIPs of services, and what VRRP instances carry.
    pub fn shared_addresses(&self) -> BTreeSet<IpAddr> {
        let vips = self.services.iter().map(|service| service.vip);
        let carried = self.vrrp.iter().flat_map(|instance| &instance.addresses);
        vips.chain(carried.copied()).collect()
    }

    /// The MAC addresses that move with the addresses of VRRP instances.
    pub fn virtual_macs(&self) -> BTreeSet<Mac> {
        self.vrrp.iter().filter_map(Vrrp::virtual_mac).collect()
    }

    /// Whether a VRRP instance carries this address.
    pub fn is_carried(&self, address: IpAddr) -> bool {
        self.vrrp
            .iter()
            .any(|instance| instance.addresses.contains(&address))
    }

    /// Why this configuration cannot be used as far as one of the [placed](Places) keys is concerned.
    pub fn refusal(&self, key: &str, message: impl Into<String>) -> ConfigErrors {
        ConfigErrors::new(
            self.file_name.clone(),
            vec![self.places.origin(key).error(message)],
        )
    }
}

/// This balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The name by which operators and the peer know it.
    pub name: String,
    /// The directory in which operators' decisions are kept.
    pub state_dir: PathBuf,
}

/// The XDP program and its tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatapathConfig {
    /// The interfaces that carry the program; at least one.
    pub interfaces: Vec<Interface>,
    /// How the program is attached.
    pub mode: XdpModeChoice,
    /// The seed of the flow hash and of the slot permutations, equal on both balancers.
    pub hash_seed: u64,
    /// The number of slots in the lookup table of each service, a prime.
    pub slots_per_service: u32,
    /// How many services the tables have room for.
    pub max_services: u32,
    /// How many backends, counted once per service, the tables have room for.
    pub max_backends: u32,
    /// The outer sources of `ipip` over IPv4: a network of 16 bits.
    pub ipip_source_ipv4: Prefix,
    /// The outer sources of `ipip` over IPv6: a network of 64 to 96 bits.
    pub ipip_source_ipv6: Prefix,
    /// How many connections in tracked slots the tables have room for.
    pub max_flows: u32,
    /// After how long without a packet a connection counts as over.
    pub flow_idle_timeout: ConfigDuration,
}

/// A program of the operator's, and where it is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramPlace {
    /// Where.
    pub origin: Origin,
    /// Its absolute path.
    pub program: PathBuf,
}

impl ProgramPlace {
    /// The place of a command's program.
    pub(super) fn of(at: &At<Command>) -> Self {
        Self {
            origin: at.origin.clone(),
            program: at.value.program.clone(),
        }
    }
}

/// The lines in which keys are written. They make no difference between configurations: all are equal.
#[derive(Debug, Clone, Default)]
pub struct Places(BTreeMap<String, usize>);

impl Places {
    /// The places of these keys, as far as they are written.
    pub(super) fn of(lines: impl IntoIterator<Item = (String, Option<usize>)>) -> Self {
        let written = |(key, line): (_, Option<usize>)| line.map(|line| (key, line));
        Self(lines.into_iter().filter_map(written).collect())
    }

    /// The place of a key. One that is not written, and so has its default, is taken to be in line 1.
    pub fn origin(&self, key: &str) -> Origin {
        Origin {
            line: self.0.get(key).copied().unwrap_or(1),
            key: key.to_owned(),
        }
    }
}

impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Places {}

/// The full path of the key of a service's affinity. Where it is not written, its place is that of the service.
pub(super) fn affinity_key(service: &str) -> String {
    format!("service[{service}].affinity")
}

/// A network interface that carries the XDP program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Where the name is written.
    pub origin: Origin,
}

/// The operator API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    /// The path of its unix socket.
    pub socket: PathBuf,
}

/// What anybody may read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Http {
    /// Where `/metrics` and `/healthz` are served; nowhere if this is empty.
    pub listen: Vec<SocketAddr>,
}

/// One virtual address and port, with its policy and its backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name, unique among the services.
    pub name: String,
    /// The virtual address.
    pub vip: IpAddr,
    /// The TCP port.
    pub port: u16,
    /// How packets reach the backends.
    pub forward: Forward,
    /// Whether a client's connections stay together.
    pub affinity: Affinity,
    /// With affinity, for how long after its last packet a client keeps its backend.
    pub affinity_timeout: ConfigDuration,
    /// How new connections are shared.
    pub balance: Balance,
    /// What a client gets when no backend is left.
    pub no_backend: NoBackend,
    /// From where the service may be used: prefixes of the VIP's family, each once; empty if from everywhere.
    pub allow: Vec<Prefix>,
    /// How the backends' health is found out.
    pub check: Check,
    /// What follows from their health.
    pub health: HealthPolicy,
    /// Where more backends are read from.
    pub discovery: Option<Discovery>,
    /// The backends, in the order of the file; at least one unless there is discovery. All of them may have the weight 0.
    pub backends: Vec<Backend>,
    /// Where the virtual address is written.
    pub vip_origin: Origin,
}

impl Service {
    /// What it is known by in the tables, whatever it is called.
    pub fn key(&self) -> ServiceKey {
        ServiceKey::tcp(self.vip.into(), self.port)
    }
}

impl Service {
    /// The backend that stands for a discovered coordinator; `None` if there is no discovery.
    pub fn discovered_backend(&self, name: &str, address: IpAddr) -> Option<Backend> {
        let discovery = self.discovery.as_ref()?;
        Some(Backend {
            name: name.to_owned(),
            address,
            port: discovery.port,
            weight: defaults::WEIGHT,
            tier: defaults::TIER,
            address_origin: discovery.origin.clone(),
        })
    }
}

/// A server behind a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Its name, unique within the service; the same name in another service means the same address.
    pub name: String,
    /// Its own address, never itself a VIP, and of the same family as the VIP unless forwarding is `ipip`.
    pub address: IpAddr,
    /// The port on which it serves.
    pub port: u16,
    /// Its share of the new flows, relative to the weights of the other backends; 0 gets none.
    pub weight: u32,
    /// Its tier: a higher one serves only when the lower ones have too few healthy backends.
    pub tier: u8,
    /// Where the address is written.
    pub address_origin: Origin,
}
