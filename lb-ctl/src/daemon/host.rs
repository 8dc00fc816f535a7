//! Whether a configuration fits the host: its interfaces exist, its backends are where their service needs them, the peer's key is there.

use std::net::IpAddr;

use crate::{
    adapters::{
        command::why_not,
        netlink::{Netlink, NetlinkError, Route},
        peer::Key,
    },
    core::{
        cause::chain,
        config::{Backend, Config, ConfigError, ConfigErrors, Forward, ProgramPlace, Service},
        interface::Interface,
        interfaces::Interfaces,
    },
};

/// What the daemon needs to know about the host.
#[derive(Clone, Debug)]
pub struct Host {
    /// The interfaces that carry the program.
    pub interfaces: Interfaces,
    /// The key that both balancers of a pair have, if there is a peer.
    pub peer_key: Option<Key>,
}

/// Why a configuration cannot be run on this host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// It names things that are not there.
    #[error(transparent)]
    Mismatch(#[from] ConfigErrors),
    /// The host could not be examined.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

impl Host {
    /// Compares a configuration with the host. Changes nothing.
    pub async fn examine(config: &Config, netlink: &Netlink) -> Result<Self, HostError> {
        let mismatch = |errors| ConfigErrors::new(config.file_name.clone(), errors);
        let interfaces = match interfaces(config, netlink).await? {
            Ok(found) => found,
            Err(errors) => return Err(mismatch(errors).into()),
        };
        let mut errors = Vec::new();
        for service in &config.services {
            errors.extend(misplaced_backends(service, &interfaces, netlink).await?);
        }
        let mut peer_key = None;
        if let Some(peer) = &config.peer {
            match Key::read(&peer.key_file) {
                Ok(key) => peer_key = Some(key),
                Err(error) => errors.push(peer.key_file_origin.error(chain(&error))),
            }
        }
        if errors.is_empty() {
            Ok(Self { interfaces, peer_key })
        } else {
            Err(mismatch(errors).into())
        }
    }
}

/// Whether the operator's programs can be run on this host. The daemon starts without them as well: they may come later.
pub fn examine_programs(config: &Config) -> Result<(), ConfigErrors> {
    let mut errors = Vec::new();
    for ProgramPlace { origin, program } in &config.programs {
        if let Some(why) = why_not(program) {
            errors.push(origin.error(format!("expected a program that can be run, found {why}")));
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ConfigErrors::new(config.file_name.clone(), errors))
    }
}

/// The interfaces of the configuration, or what is wrong with them.
async fn interfaces(
    config: &Config,
    netlink: &Netlink,
) -> Result<Result<Interfaces, Vec<ConfigError>>, NetlinkError> {
    let mut errors = Vec::new();
    let mut found = Vec::new();
    for configured in &config.datapath.interfaces {
        let name = &configured.name;
        match netlink.interface(name).await? {
            None => errors.push(configured.origin.error(format!(
                "expected an interface of this host, found {name:?}, which does not exist; `ip link` lists those that do"
            ))),
            Some(interface) if !interface.up => errors.push(configured.origin.error(format!(
                "expected an interface that is up, {name:?} is down; `ip link set dev {name} up` starts it"
            ))),
            Some(Interface { mac: None, .. }) => errors.push(configured.origin.error(format!(
                "expected an Ethernet interface, {name:?} has no MAC address"
            ))),
            Some(interface) => found.push(interface),
        }
    }
    Ok(match Interfaces::new(found) {
        Ok(interfaces) if errors.is_empty() => Ok(interfaces),
        _ => Err(errors),
    })
}

/// Backends that cannot be reached as the service's forwarding needs it.
async fn misplaced_backends(
    service: &Service,
    interfaces: &Interfaces,
    netlink: &Netlink,
) -> Result<Vec<ConfigError>, NetlinkError> {
    let mut errors = Vec::new();
    for backend in &service.backends {
        if let Some(problem) = misplacement(service, backend, interfaces, netlink).await? {
            errors.push(backend.address_origin.error(problem));
        }
    }
    Ok(errors)
}

/// Why a backend cannot be reached as its service's forwarding needs it; `None` if it can.
pub(super) async fn misplacement(
    service: &Service,
    backend: &Backend,
    interfaces: &Interfaces,
    netlink: &Netlink,
) -> Result<Option<String>, NetlinkError> {
    let route = match netlink.route(backend.address).await {
        Err(NetlinkError::NoRoute { .. }) => None,
        other => Some(other?),
    };
    Ok(misplaced(service.forward, backend, route.as_ref(), interfaces))
}

fn misplaced(
    forward: Forward,
    backend: &Backend,
    route: Option<&Route>,
    interfaces: &Interfaces,
) -> Option<String> {
    let Backend { name, address, .. } = backend;
    let ours = interfaces.names().collect::<Vec<_>>().join(" or ");
    let expected = match forward {
        Forward::Dsr => {
            format!("expected a backend on the link of {ours} (forward = \"dsr\" changes MAC addresses only)")
        }
        Forward::Ipip | Forward::Nat => format!("expected a backend that is reached through {ours}"),
    };
    match route {
        None => Some(format!(
            "{expected}; the kernel has no route to {name}, {address}: add {}",
            match forward {
                Forward::Dsr => "an address of its network",
                Forward::Ipip | Forward::Nat => "a route to its network",
            }
        )),
        Some(route) if route.local => Some(local(*address)),
        Some(route) if forward == Forward::Dsr && route.gateway.is_some() => Some(format!(
            "{expected}; {name}, {address}, is behind a router: use a balancer in its network"
        )),
        Some(route) if route.interface.is_none_or(|index| interfaces.at(index).is_none()) => Some(format!(
            "{expected}; the kernel reaches {name}, {address}, through another interface: name that one in \
                 datapath.interfaces too"
        )),
        Some(_) => None,
    }
}

fn local(address: IpAddr) -> String {
    format!("expected the address of another host, {address} is this balancer's own")
}
