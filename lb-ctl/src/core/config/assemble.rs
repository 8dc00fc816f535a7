//! From the document to the typed configuration: defaults take the places of absent keys.

use super::defaults::{self, HostDefaults};
use super::document::{self, Document};
use super::model::{Api, Backend, Config, DatapathConfig, Interface, Node, Service};
use super::reader::At;

/// The typed configuration. `None` only if a required key is missing or was refused, which has been reported
/// then.
pub(super) fn config(document: Document, file_name: &str, host: &HostDefaults) -> Option<Config> {
    Some(Config {
        file_name: file_name.to_owned(),
        node: Node {
            name: value_or(document.node.name, host.node_name.clone()),
        },
        datapath: datapath(document.datapath),
        api: Api {
            socket: value_or(document.api.socket, defaults::API_SOCKET.into()),
        },
        services: document
            .services
            .into_iter()
            .map(service)
            .collect::<Option<_>>()?,
    })
}

fn datapath(document: document::Datapath) -> DatapathConfig {
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
        balance: value_or(document.balance, defaults::BALANCE),
        no_backend: value_or(document.no_backend, defaults::NO_BACKEND),
        check: document.check.assemble(),
        health: document.health.assemble(),
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
