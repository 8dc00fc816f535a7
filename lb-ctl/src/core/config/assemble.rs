//! From the document to the typed configuration: defaults take the places of absent keys.

use super::defaults::{self, HostDefaults};
use super::document::{self, Document};
use super::model::{
    Api, Backend, Config, DatapathConfig, Http, Interface, Node, Places, Service, affinity_key,
};
use super::reader::At;
use super::vrrp;
use crate::core::prefix::Prefix;

/// The typed configuration. `None` only if a required key is missing or was refused, which has been reported
/// then.
pub(super) fn config(document: Document, file_name: &str, host: &HostDefaults) -> Option<Config> {
    Some(Config {
        file_name: file_name.to_owned(),
        places: places(&document),
        node: Node {
            name: value_or(document.node.name, host.node_name.clone()),
            state_dir: value_or(document.node.state_dir, defaults::STATE_DIR.into()),
        },
        programs: vrrp::programs(&document.vrrp),
        vrrp: vrrp::assemble(document.vrrp, &document.datapath)?,
        peer: document.peer.assemble(),
        datapath: datapath(document.datapath),
        api: Api {
            socket: value_or(document.api.socket, defaults::API_SOCKET.into()),
        },
        http: Http {
            listen: document.http.listen.into_iter().map(|at| at.value).collect(),
        },
        services: document
            .services
            .into_iter()
            .map(service)
            .collect::<Option<_>>()?,
    })
}

/// Where the keys are written that a running daemon cannot change.
fn places(document: &Document) -> Places {
    let Document {
        node,
        datapath,
        api,
        http,
        services,
        vrrp: _,
        peer: _,
    } = document;
    let interfaces = datapath.interfaces.first().map(|first| first.origin.line);
    let general = [
        ("node.name", line(node.name.as_ref())),
        ("node.state_dir", line(node.state_dir.as_ref())),
        ("datapath.interfaces", interfaces),
        ("datapath.mode", line(datapath.mode.as_ref())),
        ("datapath.hash_seed", line(datapath.hash_seed.as_ref())),
        (
            "datapath.slots_per_service",
            line(datapath.slots_per_service.as_ref()),
        ),
        ("datapath.max_services", line(datapath.max_services.as_ref())),
        ("datapath.max_backends", line(datapath.max_backends.as_ref())),
        ("datapath.max_flows", line(datapath.max_flows.as_ref())),
        ("api.socket", line(api.socket.as_ref())),
        ("http.listen", line(http.listen.first())),
    ];
    let affinities = services.iter().filter_map(|service| {
        let name = &service.name.as_ref()?.value;
        let written = line(service.affinity.as_ref());
        Some((affinity_key(name), written.or(Some(service.origin.line))))
    });
    let general = general.map(|(key, line)| (key.to_owned(), line));
    Places::of(general.into_iter().chain(affinities))
}

fn line<T>(written: Option<&At<T>>) -> Option<usize> {
    written.map(|at| at.origin.line)
}

fn datapath(document: document::Datapath) -> DatapathConfig {
    let source = |written, (address, length)| value_or(written, Prefix::of(address, length));
    DatapathConfig {
        interfaces: document
            .interfaces
            .into_iter()
            .map(|At { value, origin }| Interface { name: value, origin })
            .collect(),
        mode: value_or(document.mode, defaults::XDP_MODE),
        hash_seed: value_or(document.hash_seed, defaults::HASH_SEED),
        slots_per_service: value_or(document.slots_per_service, defaults::SLOTS_PER_SERVICE),
        max_services: value_or(document.max_services, defaults::MAX_SERVICES),
        max_backends: value_or(document.max_backends, defaults::MAX_BACKENDS),
        ipip_source_ipv4: source(document.ipip_source_ipv4, defaults::IPIP_SOURCE_IPV4),
        ipip_source_ipv6: source(document.ipip_source_ipv6, defaults::IPIP_SOURCE_IPV6),
        max_flows: value_or(document.max_flows, defaults::MAX_FLOWS),
        flow_idle_timeout: value_or(document.flow_idle_timeout, defaults::FLOW_IDLE_TIMEOUT),
    }
}

fn service(document: document::Service) -> Option<Service> {
    let vip = document.vip?;
    let port = document.port?.value;
    Some(Service {
        name: document.name?.value,
        vip: vip.value,
        port,
        forward: value_or(document.forward, defaults::FORWARD),
        affinity: value_or(document.affinity, defaults::AFFINITY),
        affinity_timeout: value_or(document.affinity_timeout, defaults::AFFINITY_TIMEOUT),
        balance: value_or(document.balance, defaults::BALANCE),
        no_backend: value_or(document.no_backend, defaults::NO_BACKEND),
        allow: document.allow.into_iter().map(|at| at.value).collect(),
        check: document.check.assemble(),
        health: document.health.assemble(),
        discovery: document.discovery.assemble(port),
        backends: document
            .backends
            .into_iter()
            .map(|it| backend(it, port))
            .collect::<Option<_>>()?,
        vip_origin: vip.origin,
    })
}

fn backend(document: document::Backend, service_port: u16) -> Option<Backend> {
    let address = document.address?;
    Some(Backend {
        name: document.name?.value,
        address: address.value,
        port: value_or(document.port, service_port),
        weight: value_or(document.weight, defaults::WEIGHT),
        tier: value_or(document.tier, defaults::TIER),
        address_origin: address.origin,
    })
}

pub(super) fn value_or<T>(written: Option<At<T>>, default: T) -> T {
    written.map_or(default, |at| at.value)
}
