//! The configuration as the rest of the program uses it: plain data, complete, and consistent in itself.

use std::net::IpAddr;
use std::path::PathBuf;

use super::check::Check;
use super::choice::{Affinity, Balance, Forward, NoBackend, XdpModeChoice};
use super::error::Origin;
use super::health_policy::HealthPolicy;

/// A configuration that has passed all checks that need nothing but its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The name of the file it was read from, for later messages.
    pub file_name: String,
    /// This balancer.
    pub node: Node,
    /// The XDP program and its tables.
    pub datapath: DatapathConfig,
    /// The operator API.
    pub api: Api,
    /// The services, in the order of the file; at least one.
    pub services: Vec<Service>,
}

/// This balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The name by which operators and the peer know it.
    pub name: String,
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
    /// How new connections are shared.
    pub balance: Balance,
    /// What a client gets when no backend is left.
    pub no_backend: NoBackend,
    /// How the backends' health is found out.
    pub check: Check,
    /// What follows from their health.
    pub health: HealthPolicy,
    /// The backends, in the order of the file; at least one has a weight above 0.
    pub backends: Vec<Backend>,
    /// Where the virtual address is written.
    pub vip_origin: Origin,
}

/// A server behind a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Its name, unique within the service; the same name in another service means the same address.
    pub name: String,
    /// Its own address, of the same family as the VIP and never itself a VIP.
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
