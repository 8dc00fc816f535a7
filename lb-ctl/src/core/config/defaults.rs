//! The values that keys have when the file does not mention them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::choice::{Affinity, Balance, Forward, NoBackend, XdpModeChoice};
use super::duration::ConfigDuration;

/// The default of a key that only the host can know; a pure parser has to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDefaults {
    /// The default of `node.name`: the host name.
    pub node_name: String,
}

/// Fixed, not random, because two balancers must agree on it without having talked to each other.
pub(super) const HASH_SEED: u64 = 0x1b87_3593_cc9e_2d51;
pub(super) const SLOTS_PER_SERVICE: u32 = 65_537;
pub(super) const MAX_SERVICES: u32 = 64;
pub(super) const MAX_BACKENDS: u32 = 1024;
pub(super) const MAX_FLOWS: u32 = 262_144;
/// Six hours: longer than a connection pool leaves a connection unused.
pub(super) const FLOW_IDLE_TIMEOUT: ConfigDuration = ConfigDuration::from_millis(6 * 3_600_000);
pub(super) const XDP_MODE: XdpModeChoice = XdpModeChoice::Auto;
/// The default of `datapath.ipip_source_ipv4`, as address and length. Set aside for benchmarks (RFC 2544), so that no host
/// of a network in use has such an address; and unlike those of documentation, routers may forward it (RFC 6890).
pub const IPIP_SOURCE_IPV4: (IpAddr, u8) = (IpAddr::V4(Ipv4Addr::new(198, 18, 0, 0)), 16);
/// The default of `datapath.ipip_source_ipv6`, as address and length: the discard prefix (RFC 6666). No host has such an
/// address, and routers may forward it.
pub const IPIP_SOURCE_IPV6: (IpAddr, u8) = (IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0)), 64);
/// Where services of the system keep what must outlive them; systemd's `StateDirectory=lb-ctl` is the same.
pub(super) const STATE_DIR: &str = "/var/lib/lb-ctl";
/// The default of `api.socket`.
pub const API_SOCKET: &str = "/run/lb-ctl/api.sock";
pub(super) const FORWARD: Forward = Forward::Dsr;
pub(super) const AFFINITY: Affinity = Affinity::None;
/// A quarter of an hour: for as long a HiveServer2 session outlives its connection, `--disconnected_session_timeout` of impalad.
pub(super) const AFFINITY_TIMEOUT: ConfigDuration = ConfigDuration::from_millis(15 * 60_000);
pub(super) const BALANCE: Balance = Balance::Hash;
pub(super) const NO_BACKEND: NoBackend = NoBackend::Reset;
pub(super) const WEIGHT: u32 = 1;
pub(super) const TIER: u8 = 0;
