//! The checks that look at several values together: names and addresses that collide, and tables that are too
//! small.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};

use lb_common::layout::{MAX_ALLOWED_PREFIXES, MAX_INTERFACES};

use super::choice::{Affinity, Balance, CheckKind, Forward};
use super::defaults::{self, HostDefaults};
use super::document::{Backend, Datapath, Document, Service};
use super::error::{ConfigError, Origin};
use super::reader::At;
use super::value;
use crate::core::prefix::Prefix;

/// The most memory that the slots may take, in the kernel and for as long as the program is loaded.
const MAX_SLOT_BYTES: u64 = 1 << 30;

/// The size of one slot in the table.
const SLOT_BYTES: u64 = 8;

/// Reports every conflict between the values of a document.
pub(super) fn report(document: &Document, host: &HostDefaults, errors: &mut Vec<ConfigError>) {
    node_name(document, host, errors);
    interfaces_apart(&document.datapath, errors);
    table_sizes(document, errors);
    services_apart(&document.services, errors);
    backends_apart(&document.services, errors);
    vips_are_no_backends(&document.services, errors);
    for service in &document.services {
        affinity_timeout(service, errors);
        affinity_that_translates(service, errors);
        backend_ports(service, errors);
        backend_families(service, errors);
        allowed_prefixes(service, errors);
        service.check.report_conflicts(errors);
        load_is_known(service, errors);
        service.discovery.report_conflicts(
            service.check.kind(),
            value_or(service.forward.as_ref(), defaults::FORWARD),
            service.port.as_ref().map(|port| port.value),
            errors,
        );
    }
    outer_sources_are_nobodys(document, errors);
    super::vrrp::report_conflicts(document, errors);
    super::peer::report_conflicts(document, errors);
}

fn node_name(document: &Document, host: &HostDefaults, errors: &mut Vec<ConfigError>) {
    if document.node.name.is_none() && !value::is_name(&host.node_name) {
        let message = value::bad_name(&host.node_name);
        errors.push(ConfigError::at(
            1,
            "node.name",
            format!("the host name is the default: {message}"),
        ));
    }
}

fn interfaces_apart(datapath: &Datapath, errors: &mut Vec<ConfigError>) {
    let mut names = FirstSeen::default();
    for interface in &datapath.interfaces {
        if let Some(first) = names.earlier(&interface.value, &interface.origin) {
            errors.push(interface.origin.error(format!(
                "expected each interface once, found {:?} a second time (first on line {}); remove one",
                interface.value, first.line
            )));
        }
    }
    if let Some(interface) = datapath.interfaces.get(MAX_INTERFACES) {
        errors.push(interface.origin.error(format!(
            "expected at most {MAX_INTERFACES} interfaces, found {}; keep those on which clients and backends are",
            datapath.interfaces.len()
        )));
    }
}

fn table_sizes(document: &Document, errors: &mut Vec<ConfigError>) {
    let datapath = &document.datapath;
    let slots = value_or(datapath.slots_per_service.as_ref(), defaults::SLOTS_PER_SERVICE);
    let max_services = value_or(datapath.max_services.as_ref(), defaults::MAX_SERVICES);
    let max_backends = value_or(datapath.max_backends.as_ref(), defaults::MAX_BACKENDS);

    let bytes = u64::from(slots) * u64::from(max_services) * SLOT_BYTES;
    // With both defaults the tables are small enough, so one of the keys is there to blame.
    let blamed = datapath
        .max_services
        .as_ref()
        .or(datapath.slots_per_service.as_ref());
    if let Some(at) = blamed.filter(|_| bytes > MAX_SLOT_BYTES) {
        errors.push(at.origin.error(format!(
            "expected slot tables of at most {} MiB in all, found max_services {max_services} × slots_per_service \
             {slots} × {SLOT_BYTES} bytes = {} MiB; lower one of the two",
            MAX_SLOT_BYTES >> 20,
            bytes >> 20
        )));
    }

    let services = document.services.len();
    if let Some(service) = document.services.get(max_services as usize) {
        errors.push(service.origin.error(format!(
            "expected no more services than datapath.max_services = {max_services}, found {services}; raise it"
        )));
    }
    let backends: usize = document
        .services
        .iter()
        .map(|service| service.backends.len())
        .sum();
    if let Some(backend) = document
        .services
        .iter()
        .flat_map(|it| &it.backends)
        .nth(max_backends as usize)
    {
        errors.push(backend.origin.error(format!(
            "expected no more backends in all services than datapath.max_backends = {max_backends}, found {backends}; raise it"
        )));
    }
    let mut prefixes = document.services.iter().flat_map(|service| &service.allow);
    if let Some(prefix) = prefixes.nth(MAX_ALLOWED_PREFIXES as usize) {
        errors.push(prefix.origin.error(format!(
            "expected no more than {MAX_ALLOWED_PREFIXES} prefixes in all services, found more; join some to shorter ones"
        )));
    }
    for service in &document.services {
        if let Some(backend) = service.backends.get(slots as usize) {
            errors.push(backend.origin.error(format!(
                "expected no more backends in a service than its {slots} slots, found {}; raise \
                 datapath.slots_per_service",
                service.backends.len()
            )));
        }
    }
}

fn services_apart(services: &[Service], errors: &mut Vec<ConfigError>) {
    let mut names = FirstSeen::default();
    let mut addresses = FirstSeen::default();
    for service in services {
        if let Some(name) = &service.name
            && let Some(first) = names.earlier(&name.value, &name.origin)
        {
            errors.push(name.origin.error(format!(
                "expected a name that no other service has, found {:?} a second time (first on line {}); rename one",
                name.value, first.line
            )));
        }
        if let (Some(vip), Some(port)) = (&service.vip, &service.port)
            && let Some(first) = addresses.earlier((vip.value, port.value), &port.origin)
        {
            errors.push(port.origin.error(format!(
                "expected a VIP and port that no other service has, found {} a second time (first on line {}); \
                 change one or join the two services",
                SocketAddr::new(vip.value, port.value),
                first.line
            )));
        }
    }
}

/// Within a service names and addresses are unique; where ports are translated, addresses with their ports. Across services a name always means the same address of a family,
/// because operators drain backends by name: draining `impala1` must not take two machines out.
fn backends_apart(services: &[Service], errors: &mut Vec<ConfigError>) {
    let mut machines: HashMap<(&str, bool), &At<IpAddr>> = HashMap::new();
    for service in services {
        let mut names = FirstSeen::default();
        let mut addresses = FirstSeen::default();
        let translates = value_or(service.forward.as_ref(), defaults::FORWARD) == Forward::Nat;
        for Backend {
            name, address, port, ..
        } in &service.backends
        {
            let repeated = name
                .as_ref()
                .and_then(|name| names.earlier(&name.value, &name.origin));
            if let (Some(name), Some(first)) = (name, repeated) {
                errors.push(name.origin.error(format!(
                    "expected a name that no other backend of the service has, found {:?} a second time (first on line \
                     {}); rename or remove one",
                    name.value, first.line
                )));
            }
            let Some(address) = address else { continue };
            let port = port.as_ref().or(service.port.as_ref()).filter(|_| translates);
            let port = port.map(|port| port.value);
            if let Some(first) = addresses.earlier((address.value, port), &address.origin) {
                let (what, found) = match port {
                    Some(port) => (
                        "an address and port",
                        SocketAddr::new(address.value, port).to_string(),
                    ),
                    None => ("an address", address.value.to_string()),
                };
                errors.push(address.origin.error(format!(
                    "expected {what} that no other backend of the service has, found {found} a second time (first on \
                     line {}); change or remove one",
                    first.line
                )));
            }
            let (Some(name), None) = (name, repeated) else {
                continue;
            };
            let machine = machines
                .entry((&name.value, address.value.is_ipv6()))
                .or_insert(address);
            if machine.value != address.value {
                errors.push(address.origin.error(format!(
                    "expected {}, the address of the backend {:?} on line {}, found {}; a name means one machine in all \
                     services, so that a drain by name is clear: rename one or correct the address",
                    machine.value, name.value, machine.origin.line, address.value
                )));
            }
        }
    }
}

/// A prefix of the other family would allow nobody, and a repeated one is a mistake in at least one of its places.
fn allowed_prefixes(service: &Service, errors: &mut Vec<ConfigError>) {
    let mut prefixes = FirstSeen::default();
    for At {
        value: prefix,
        origin,
    } in &service.allow
    {
        if let Some(first) = prefixes.earlier(*prefix, origin) {
            errors.push(origin.error(format!(
                "expected each prefix once, found {prefix} a second time (first on line {}); remove one",
                first.line
            )));
        }
        if let Some(vip) = &service.vip
            && prefix.address().is_ipv6() != vip.value.is_ipv6()
        {
            errors.push(origin.error(format!(
                "expected an {} prefix, like the VIP {} on line {}, found {prefix}; clients of the other family need a service \
                 of their own",
                family(vip.value),
                vip.value,
                vip.origin.line
            )));
        }
    }
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "IPv6" } else { "IPv4" }
}

/// With `ipip` any backend address will do. Otherwise packets reach the backend under its own IP header, of their family.
fn backend_families(service: &Service, errors: &mut Vec<ConfigError>) {
    if value_or(service.forward.as_ref(), defaults::FORWARD) == Forward::Ipip {
        return;
    }
    let Some(vip) = &service.vip else { return };
    for address in service
        .backends
        .iter()
        .filter_map(|backend| backend.address.as_ref())
    {
        if address.value.is_ipv6() != vip.value.is_ipv6() {
            errors.push(address.origin.error(format!(
                "expected an {} address, like the VIP {} on line {}, found {}; write the machine's address of that family, \
                 and make a second service for the other one",
                family(vip.value),
                vip.value,
                vip.origin.line,
                address.value
            )));
        }
    }
}

/// The outer source of a tunnel must not look like a machine that is there: answers to it would go to that one, and the
/// backend could not tell tunnels from its packets.
fn outer_sources_are_nobodys(document: &Document, errors: &mut Vec<ConfigError>) {
    let is_tunnel = |service: &Service| {
        service
            .forward
            .as_ref()
            .is_some_and(|it| it.value == Forward::Ipip)
    };
    if !document.services.iter().any(is_tunnel) {
        return;
    }
    let Datapath {
        ipip_source_ipv4,
        ipip_source_ipv6,
        ..
    } = &document.datapath;
    let networks = [
        ("ipip_source_ipv4", ipip_source_ipv4, defaults::IPIP_SOURCE_IPV4),
        ("ipip_source_ipv6", ipip_source_ipv6, defaults::IPIP_SOURCE_IPV6),
    ]
    .map(|(key, written, (address, length))| (key, value_or(written.as_ref(), Prefix::of(address, length))));
    for service in &document.services {
        let backends = service
            .backends
            .iter()
            .filter_map(|backend| backend.address.as_ref());
        for address in service.vip.iter().chain(backends) {
            if let Some((key, network)) = networks
                .iter()
                .find(|(_, network)| network.contains(address.value))
            {
                errors.push(address.origin.error(format!(
                    "expected an address outside of {network}, where tunnels pretend to come from, found {}; give \
                     datapath.{key} a network in which no host is",
                    address.value
                )));
            }
        }
    }
}

fn vips_are_no_backends(services: &[Service], errors: &mut Vec<ConfigError>) {
    let mut vips = FirstSeen::default();
    for vip in services.iter().filter_map(|service| service.vip.as_ref()) {
        vips.earlier(vip.value, &vip.origin);
    }
    for address in services
        .iter()
        .flat_map(|it| &it.backends)
        .filter_map(|backend| backend.address.as_ref())
    {
        if let Some(vip) = vips.get(&address.value) {
            errors.push(address.origin.error(format!(
                "expected the backend's own address, found {}, the VIP on line {}; write the address under which the \
                 balancer reaches the machine itself",
                address.value, vip.line
            )));
        }
    }
}

fn affinity_timeout(service: &Service, errors: &mut Vec<ConfigError>) {
    let affinity = value_or(service.affinity.as_ref(), defaults::AFFINITY);
    if let Some(at) = service
        .affinity_timeout
        .as_ref()
        .filter(|_| affinity == Affinity::None)
    {
        errors.push(at.origin.error(
            "expected affinity = \"client\" in the same service, found \"none\", with which nothing is timed; add it, or \
             remove the key",
        ));
    }
}

/// The records of translated connections are made from the slot alone, which knows no client's home once it has moved.
fn affinity_that_translates(service: &Service, errors: &mut Vec<ConfigError>) {
    let forward = value_or(service.forward.as_ref(), defaults::FORWARD);
    if let Some(at) = service
        .affinity
        .as_ref()
        .filter(|at| at.value == Affinity::Client && forward == Forward::Nat)
    {
        errors.push(at.origin.error(
            "expected affinity = \"none\" in a service with forward = \"nat\", found \"client\", which does not yet work together \
             with translation; remove the key, or use \"dsr\" or \"ipip\"",
        ));
    }
}

fn backend_ports(service: &Service, errors: &mut Vec<ConfigError>) {
    let forward = value_or(service.forward.as_ref(), defaults::FORWARD);
    let Some(service_port) = service.port.as_ref().filter(|_| forward != Forward::Nat) else {
        return;
    };
    for port in service
        .backends
        .iter()
        .filter_map(|backend| backend.port.as_ref())
    {
        if port.value != service_port.value {
            errors.push(port.origin.error(format!(
                "expected {}, the service's port, found {}; forward = \"{forward}\" leaves the port in the packets as it \
                 is: remove the key",
                service_port.value, port.value
            )));
        }
    }
}

/// Only one type of check asks backends for their load.
fn load_is_known(service: &Service, errors: &mut Vec<ConfigError>) {
    if let Some(balance) = &service.balance
        && balance.value == Balance::Load
        && let Some(kind) = service.check.known_kind()
        && kind != CheckKind::Impala
    {
        errors.push(balance.origin.error(format!(
            "expected a check with type = \"{}\", which asks coordinators for their load, found type = \"{kind}\"; write it into \
             [service.check], or use \"{}\"",
            CheckKind::Impala,
            Balance::Hash
        )));
    }
}

fn value_or<T: Copy>(written: Option<&At<T>>, default: T) -> T {
    written.map_or(default, |at| at.value)
}

/// Where each of some values was written first.
struct FirstSeen<'o, K> {
    origins: HashMap<K, &'o Origin>,
}

impl<K> Default for FirstSeen<'_, K> {
    fn default() -> Self {
        Self {
            origins: HashMap::new(),
        }
    }
}

impl<'o, K: Eq + Hash> FirstSeen<'o, K> {
    /// Where the value was written earlier. If nowhere, it is noted as written here.
    fn earlier(&mut self, value: K, here: &'o Origin) -> Option<&'o Origin> {
        let earlier = self.get(&value);
        if earlier.is_none() {
            self.origins.insert(value, here);
        }
        earlier
    }

    fn get(&self, value: &K) -> Option<&'o Origin> {
        self.origins.get(value).copied()
    }
}
