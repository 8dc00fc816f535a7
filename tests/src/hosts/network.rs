//! The networks of a lab: one switch with a bridge for each, and a cable from each interface of a host to a port of a bridge.
//!
//! Both ends of a cable are made inside namespaces, so nothing ever appears in the root namespace. A port has the name
//! of the host that it leads to. Where there are several networks, a router connects them, and is everybody's way to the
//! networks that they are not on.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::hosts::lab::Host;
use crate::hosts::namespace::Namespace;
use crate::hosts::offload;
use crate::hosts::pass_program;
use crate::hosts::plan::{Interface, Network, PREFIX_V4, PREFIX_V6, Role, Vip};
use crate::wait::wait_until;

/// How long the bridge gets to forward on all ports. It takes milliseconds, more only on a very busy machine.
const FORWARDING_DEADLINE: Duration = Duration::from_secs(10);

/// Settings of the switch: it only carries frames.
const SWITCH_SETTINGS: &[(&str, &str)] = &[
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
];

/// Settings of every host. All are set here, because a new namespace takes some from the machine that the lab runs on.
const HOST_SETTINGS: &[(&str, &str)] = &[
    // With direct server return, packets may well arrive where their sender's route does not lead.
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    // A host drops or answers what is not for it; it must not forward it in the balancer's place.
    ("ipv4/ip_forward", "0"),
    ("ipv6/conf/all/forwarding", "0"),
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    // Addresses are usable at once: the plan guarantees that there are no duplicates.
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
];

/// Settings of a backend: it holds the VIPs, but neither answers nor asks for their MAC address on the link.
const BACKEND_SETTINGS: &[(&str, &str)] = &[
    ("ipv4/conf/all/arp_ignore", "1"),
    ("ipv4/conf/all/arp_announce", "2"),
];

/// Settings of a router.
const ROUTER_SETTINGS: &[(&str, &str)] = &[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")];

/// Builds the networks in namespaces that are new and empty.
pub(crate) fn build(switch: &Namespace, hosts: &[&Host], vips: &[Vip]) -> Result<()> {
    apply_settings(switch, SWITCH_SETTINGS)?;
    for host in hosts {
        apply_settings(host, HOST_SETTINGS)?;
        match host.role() {
            Role::Backend => apply_settings(host, BACKEND_SETTINGS)?,
            Role::Router => apply_settings(host, ROUTER_SETTINGS)?,
            Role::Balancer | Role::Client | Role::Remote => {}
        }
    }
    let networks = networks(hosts);
    switch.ip_batch(&switch_commands(&networks, hosts))?;
    let router = hosts.iter().find(|host| host.role() == Role::Router).copied();
    for host in hosts {
        host.ip_batch(&host_commands(host, vips, router))?;
        let mut interfaces = host.interfaces().iter();
        host.enter(|| interfaces.try_for_each(|interface| offload::switch_off(&interface.name)))??;
    }
    let balancers = hosts.iter().filter(|host| host.role() == Role::Balancer);
    let ports: Vec<_> = balancers.flat_map(|host| ports(host)).collect();
    switch.enter(|| pass_program::attach(&ports))??;
    for network in networks {
        await_forwarding(switch, network, interfaces_on(network, hosts).count())?;
    }
    Ok(())
}

/// The switch's ends of a host's cables.
pub(crate) fn ports(host: &Host) -> impl Iterator<Item = &str> {
    host.interfaces().iter().map(|interface| interface.port.as_str())
}

/// The networks that some host is on.
fn networks(hosts: &[&Host]) -> Vec<Network> {
    let mut networks = Network::ALL.to_vec();
    networks.retain(|&network| interfaces_on(network, hosts).next().is_some());
    networks
}

fn interfaces_on<'a>(network: Network, hosts: &[&'a Host]) -> impl Iterator<Item = &'a Interface> {
    let interfaces = hosts.iter().flat_map(|host| host.interfaces());
    interfaces.filter(move |interface| interface.network == network)
}

/// Writes below /proc/sys/net, which shows the network namespace of the thread that looks at it.
fn apply_settings(namespace: &Namespace, settings: &[(&str, &str)]) -> Result<()> {
    namespace.enter(|| {
        settings.iter().try_for_each(|(name, value)| {
            fs::write(format!("/proc/sys/net/{name}"), value)
                .with_context(|| format!("cannot set net/{name} to {value} on {}", namespace.name()))
        })
    })?
}

/// The `ip` commands that make the bridges and the cables. They run in the switch's namespace.
fn switch_commands(networks: &[Network], hosts: &[&Host]) -> Vec<String> {
    let mut commands = Vec::new();
    for bridge in networks.iter().map(|network| network.bridge()) {
        // No spanning tree: a port forwards at once. No multicast snooping: it loses the first neighbour solicitations.
        commands.push(format!(
            "link add {bridge} type bridge stp_state 0 mcast_snooping 0"
        ));
        commands.push(format!("link set {bridge} up"));
    }
    for host in hosts {
        let namespace = host.full_name();
        for Interface {
            name,
            port,
            network,
            mac,
            ..
        } in host.interfaces()
        {
            commands.push(format!(
                "link add {port} type veth peer name {name} address {mac} netns {namespace}"
            ));
            commands.push(format!("link set {port} master {} up", network.bridge()));
        }
    }
    commands
}

/// The `ip` commands that configure a host. They run in its namespace.
fn host_commands(host: &Host, vips: &[Vip], router: Option<&Host>) -> Vec<String> {
    let mut commands = vec!["link set lo up".to_owned()];
    for Interface { name, v4, v6, .. } in host.interfaces() {
        commands.push(format!("addr add {v4}/{PREFIX_V4} brd + dev {name}"));
        commands.push(format!("addr add {v6}/{PREFIX_V6} dev {name} nodad"));
        commands.push(format!("link set {name} up"));
    }
    if host.role() == Role::Backend {
        for vip in vips {
            commands.push(format!("addr add {}/32 dev lo", vip.v4));
            commands.push(format!("addr add {}/128 dev lo nodad", vip.v6));
        }
    }
    if let Some(router) = router
        && host.role() != Role::Router
        && let Some(gateway) = router.on(host.first().network)
    {
        commands.push(format!("route add 0.0.0.0/0 via {}", gateway.v4));
        commands.push(format!("route add ::/0 via {}", gateway.v6));
    }
    commands
}

/// Makes the router find a network narrower than its cable: a packet to there that is longer than `mtu` is
/// answered by ICMP "fragmentation needed" or "packet too big". Packets from there may be as long as ever.
pub(crate) fn narrow(router: &Host, network: Network, mtu: u16) -> Result<()> {
    let there = router
        .on(network)
        .with_context(|| format!("the router is not on the network {network:?}"))?;
    let (v4, v6, name) = (network.v4(), network.v6(), &there.name);
    // The kernel's own route to the network has no metric in IPv4, which is replaced, and a worse one in IPv6.
    router.ip_batch(&[
        format!("route replace {v4}/{PREFIX_V4} dev {name} mtu {mtu}"),
        format!("route replace {v6}/{PREFIX_V6} dev {name} metric 1 mtu {mtu}"),
    ])
}

/// Waits until a network's bridge forwards on this many ports.
fn await_forwarding(switch: &Namespace, network: Network, ports: usize) -> Result<()> {
    let bridge = network.bridge();
    wait_until(
        &format!("the bridge {bridge} to forward on {ports} ports"),
        FORWARDING_DEADLINE,
        || {
            let links = switch.run(&["ip", "-json", "-details", "link", "show", "master", bridge])?;
            let states = port_states(&links)?;
            let forwarding = states.iter().filter(|(_, state)| state == "forwarding").count();
            ensure!(forwarding == ports, "{states:?}");
            Ok(())
        },
    )
}

/// The name and the state of each bridge port in what `ip -json -details link show` prints.
fn port_states(links: &str) -> Result<Vec<(String, String)>> {
    // Without any link, `ip` prints nothing at all.
    if links.trim().is_empty() {
        return Ok(Vec::new());
    }
    let links: Vec<Value> = serde_json::from_str(links).context("cannot read what `ip -json` prints")?;
    let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    Ok(links
        .iter()
        .map(|link| {
            (
                text(&link["ifname"]),
                text(&link["linkinfo"]["info_slave_data"]["state"]),
            )
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_states_are_read_from_the_output_of_ip() {
        let links = r#"[{"ifname":"client1","linkinfo":{"info_slave_data":{"state":"forwarding"}}},
                        {"ifname":"backend1","linkinfo":{"info_slave_data":{"state":"disabled"}}},{}]"#;
        let states = port_states(links).unwrap();
        let states: Vec<_> = states
            .iter()
            .map(|(name, state)| (name.as_str(), state.as_str()))
            .collect();
        assert_eq!(
            states,
            [
                ("client1", "forwarding"),
                ("backend1", "disabled"),
                ("unknown", "unknown")
            ]
        );
        assert!(port_states("\n").unwrap().is_empty());
    }
}
