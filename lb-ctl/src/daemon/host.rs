//! Whether a configuration fits the host: its interfaces exist, its backends are where their service needs them.

use std::net::IpAddr;

use crate::{
    adapters::netlink::{Netlink, NetlinkError, Route},
    core::{
        config::{Backend, Config, ConfigError, ConfigErrors, Forward, Service},
        interface::{Interface, Mac},
    },
};

/// What the daemon needs to know about the host.
#[derive(Clone, Debug)]
pub struct Host {
    /// The interface that carries the program.
    pub interface: Interface,
    /// Its MAC address.
    pub mac: Mac,
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
        let (interface, mac) = match interface(config, netlink).await? {
            Ok(found) => found,
            Err(errors) => return Err(mismatch(errors).into()),
        };
        let mut errors = Vec::new();
        for service in &config.services {
            errors.extend(misplaced_backends(service, &interface, netlink).await?);
        }
        if errors.is_empty() {
            Ok(Self { interface, mac })
        } else {
            Err(mismatch(errors).into())
        }
    }
}

/// The interface of the configuration, or what is wrong with it.
async fn interface(
    config: &Config,
    netlink: &Netlink,
) -> Result<Result<(Interface, Mac), Vec<ConfigError>>, NetlinkError> {
    let mut errors = Vec::new();
    let mut found = None;
    for configured in &config.datapath.interfaces {
        let name = &configured.name;
        match netlink.interface(name).await? {
            None => errors.push(configured.origin.error(format!(
                "expected an interface of this host, found {name:?}, which does not exist; `ip link` lists those that do"
            ))),
            Some(interface) if !interface.up => errors.push(configured.origin.error(format!(
                "expected an interface that is up, {name:?} is down; `ip link set dev {name} up` starts it"
            ))),
            Some(interface) => match interface.mac {
                Some(mac) => found = Some((interface, mac)),
                None => errors.push(configured.origin.error(format!(
                    "expected an Ethernet interface, {name:?} has no MAC address"
                ))),
            },
        }
    }
    Ok(found.filter(|_| errors.is_empty()).ok_or(errors))
}

/// Backends that cannot be reached as the service's forwarding needs it.
async fn misplaced_backends(
    service: &Service,
    interface: &Interface,
    netlink: &Netlink,
) -> Result<Vec<ConfigError>, NetlinkError> {
    let mut errors = Vec::new();
    for backend in &service.backends {
        let route = match netlink.route(backend.address).await {
            Err(NetlinkError::NoRoute { .. }) => None,
            other => Some(other?),
        };
        if let Some(problem) = misplaced(service.forward, backend, route.as_ref(), interface) {
            errors.push(backend.address_origin.error(problem));
        }
    }
    Ok(errors)
}

fn misplaced(
    forward: Forward,
    backend: &Backend,
    route: Option<&Route>,
    interface: &Interface,
) -> Option<String> {
    let Backend { name, address, .. } = backend;
    let why = if forward == Forward::Ipip {
        "reaches no others in this version"
    } else {
        "changes MAC addresses only"
    };
    let expected = format!(
        "expected a backend on the link of {} (forward = \"{forward}\" {why})",
        interface.name
    );
    match route {
        None => Some(format!(
            "{expected}; the kernel has no route to {name}, {address}: add an address of its network"
        )),
        Some(route) if route.local => Some(local(*address)),
        Some(route) if route.gateway => Some(format!(
            "{expected}; {name}, {address}, is behind a router: use a balancer in its network"
        )),
        Some(route) if route.interface != Some(interface.index) => Some(format!(
            "{expected}; the kernel reaches {name}, {address}, through another interface: name that one in datapath.interfaces"
        )),
        Some(_) => None,
    }
}

fn local(address: IpAddr) -> String {
    format!("expected the address of another host, {address} is this balancer's own")
}
