//! The network of a lab: one switch with a bridge, and a cable from each host's `eth0` to a port of the bridge.
//!
//! Both ends of a cable are made inside namespaces, so nothing ever appears in the root namespace. A port has the name
//! of the host that it leads to.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::hosts::lab::Host;
use crate::hosts::namespace::Namespace;
use crate::hosts::offload;
use crate::hosts::pass_program;
use crate::hosts::plan::{PREFIX_V4, PREFIX_V6, Role, Vip};
use crate::wait::wait_until;

/// The name of the bridge in the switch's namespace.
pub(crate) const BRIDGE: &str = "br0";

/// The name of the interface that each host has.
pub(crate) const HOST_INTERFACE: &str = "eth0";

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

/// Builds the network in namespaces that are new and empty.
pub(crate) fn build(switch: &Namespace, hosts: &[&Host], vips: &[Vip]) -> Result<()> {
    apply_settings(switch, SWITCH_SETTINGS)?;
    for host in hosts {
        apply_settings(host, HOST_SETTINGS)?;
        if host.role() == Role::Backend {
            apply_settings(host, BACKEND_SETTINGS)?;
        }
    }
    switch.ip_batch(&switch_commands(hosts))?;
    for host in hosts {
        host.ip_batch(&host_commands(host, vips))?;
        host.enter(|| offload::switch_off(HOST_INTERFACE))??;
    }
    let balancers = hosts.iter().filter(|host| host.role() == Role::Balancer);
    let ports: Vec<_> = balancers.map(|host| host.name()).collect();
    switch.enter(|| pass_program::attach(&ports))??;
    await_forwarding(switch, hosts.len())
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

/// The `ip` commands that make the bridge and the cables. They run in the switch's namespace.
fn switch_commands(hosts: &[&Host]) -> Vec<String> {
    // No spanning tree: a port forwards at once. No multicast snooping: it loses the first neighbour solicitations.
    let mut commands = vec![
        format!("link add {BRIDGE} type bridge stp_state 0 mcast_snooping 0"),
        format!("link set {BRIDGE} up"),
    ];
    for host in hosts {
        let (port, mac, namespace) = (host.name(), host.mac(), host.full_name());
        commands.push(format!(
            "link add {port} type veth peer name {HOST_INTERFACE} address {mac} netns {namespace}"
        ));
        commands.push(format!("link set {port} master {BRIDGE} up"));
    }
    commands
}

/// The `ip` commands that configure a host. They run in its namespace.
fn host_commands(host: &Host, vips: &[Vip]) -> Vec<String> {
    let mut commands = vec![
        "link set lo up".to_owned(),
        format!("addr add {}/{PREFIX_V4} brd + dev {HOST_INTERFACE}", host.v4()),
        format!("addr add {}/{PREFIX_V6} dev {HOST_INTERFACE} nodad", host.v6()),
        format!("link set {HOST_INTERFACE} up"),
    ];
    if host.role() == Role::Backend {
        for vip in vips {
            commands.push(format!("addr add {}/32 dev lo", vip.v4));
            commands.push(format!("addr add {}/128 dev lo nodad", vip.v6));
        }
    }
    commands
}

/// Waits until the bridge forwards on as many ports as there are hosts.
fn await_forwarding(switch: &Namespace, hosts: usize) -> Result<()> {
    wait_until(
        &format!("the bridge to forward on {hosts} ports"),
        FORWARDING_DEADLINE,
        || {
            let ports = switch.run(&["ip", "-json", "-details", "link", "show", "master", BRIDGE])?;
            let states = port_states(&ports)?;
            let forwarding = states.iter().filter(|(_, state)| state == "forwarding").count();
            ensure!(forwarding == hosts, "{states:?}");
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
