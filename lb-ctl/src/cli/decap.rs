//! `lb-ctl decap`, for backends.

use std::{fmt::Write as _, net::IpAddr};

use anyhow::{Context, bail};
use clap::Args;

use super::{exit::UsageError, output::print, runtime};
use crate::{
    adapters::{
        datapath::decapsulator::{self, Decapsulator},
        netlink::Netlink,
    },
    core::{
        config::{XdpModeChoice, bad_name, is_name},
        interface::Interface,
        prefix::Prefix,
        tunnels::Tunnels,
    },
};

/// Every Linux host has it, in every network namespace.
const LOOPBACK: &str = "lo";

const FROM: &str = "A network from which tunnels may come [default: 198.18.0.0/16 and 100::/64, as the balancers' default is]";

/// Which interface, and what to do there.
#[derive(Debug, Args)]
pub(super) struct Decap {
    /// The interface on which tunnels from balancers arrive.
    #[arg(long, value_name = "NAME")]
    interface: String,
    /// Take the program off the interface.
    #[arg(long, conflicts_with_all = ["status", "vip", "from", "mode"])]
    detach: bool,
    /// Show what it has counted.
    #[arg(long, conflicts_with_all = ["vip", "from", "mode"])]
    status: bool,
    /// An address to which packets inside of tunnels may be [default: those of the loopback interface].
    #[arg(long, value_name = "ADDRESS")]
    vip: Vec<IpAddr>,
    /// A network from which tunnels may come.
    #[arg(long, value_name = "NETWORK", help = FROM)]
    from: Vec<Prefix>,
    /// How the program is attached: auto, native or generic.
    #[arg(long, default_value = "auto", value_parser = mode)]
    mode: XdpModeChoice,
    /// The name of its pins, where several network namespaces share one /sys/fs/bpf [default: the interface's].
    #[arg(long, value_name = "NAME")]
    pin: Option<String>,
}

fn mode(text: &str) -> Result<XdpModeChoice, String> {
    const ALL: [XdpModeChoice; 3] = [XdpModeChoice::Auto, XdpModeChoice::Native, XdpModeChoice::Generic];
    ALL.into_iter()
        .find(|mode| mode.as_str() == text)
        .ok_or_else(|| "expected auto, native or generic".to_owned())
}

pub(super) fn decap(arguments: &Decap) -> anyhow::Result<()> {
    let name = match &arguments.pin {
        Some(name) if is_name(name) => name,
        Some(name) => return Err(UsageError(format!("--pin: {}", bad_name(name))).into()),
        None => &arguments.interface,
    };
    if name.contains('/') || matches!(name.as_str(), "" | "." | "..") {
        return Err(UsageError(format!("--interface: expected an interface name, found {name:?}")).into());
    }
    if arguments.detach {
        return detach(&arguments.interface, name);
    }
    runtime()?.block_on(async {
        let netlink = Netlink::connect()?;
        let interface = interface(&netlink, &arguments.interface).await?;
        if arguments.status {
            status(&interface, name)
        } else {
            attach(arguments, &netlink, &interface, name).await
        }
    })
}

async fn interface(netlink: &Netlink, name: &str) -> anyhow::Result<Interface> {
    let found = netlink.interface(name).await?;
    found.with_context(|| {
        format!("expected an interface of this host, {name:?} does not exist; `ip link` lists those that do")
    })
}

async fn attach(
    arguments: &Decap,
    netlink: &Netlink,
    interface: &Interface,
    name: &str,
) -> anyhow::Result<()> {
    let loopback = self::interface(netlink, LOOPBACK).await?.index;
    let addresses = netlink.addresses().await?;
    let on = |index: u32| {
        let here = addresses.iter().filter(move |it| it.interface == index);
        here.map(|it| it.address).collect()
    };
    let tunnels = Tunnels::of(
        &interface.name,
        on(interface.index),
        on(loopback),
        &arguments.vip,
        &arguments.from,
    )?;
    let attached = Decapsulator::load(&tunnels)?.attach(interface, arguments.mode, name)?;
    let how = if attached.replaced {
        "replaced on"
    } else {
        "attached to"
    };
    print(&format!(
        "{how} {} ({}): takes packets to {} out of tunnels from {} to {}\n",
        interface.name,
        attached.mode,
        list(&tunnels.vips),
        list(&tunnels.sources),
        list(&tunnels.endpoints)
    ))
}

fn status(interface: &Interface, name: &str) -> anyhow::Result<()> {
    let Some(counted) = decapsulator::status(interface, name)? else {
        bail!(
            "decap is not attached to {0}; `lb-ctl decap --interface {0}` attaches it",
            interface.name
        );
    };
    let mut text = String::new();
    for (counter, packets) in counted {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{packets:>10}  {}: {}", counter.name(), counter.meaning());
    }
    print(&text)
}

fn detach(interface: &str, name: &str) -> anyhow::Result<()> {
    let what = if decapsulator::detach(name)? {
        "detached decap from"
    } else {
        "decap was not attached to"
    };
    print(&format!("{what} {interface}\n"))
}

fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}
