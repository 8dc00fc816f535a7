//! Addresses with a MAC address that moves with them.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::ensure;
use lab::balancing::{Balancer, Configuration, HS2_PORT, PATIENCE, Pair};
use lab::steady::{Steady, start_servers};
use lab::{Halted, Host, Lab, wait_until};

use super::trouble::{ARP, Frames, ask};
use super::{Dialect, IPV4, IPV6, Keepalived, configuration, wait_for_state};

/// Of virtual router 51.
const MAC_V4: [u8; 6] = [0, 0, 0x5e, 0, 1, 51];
const MAC_V6: [u8; 6] = [0, 0, 0x5e, 0, 2, 51];
const TEXT_V4: &str = "00:00:5e:00:01:33";

/// Where a host has an address: the interface's name, and that of its parent if it is a virtual one.
fn carrier(host: &Host, vip: IpAddr) -> Option<String> {
    let addresses = host.run(&["ip", "-o", "address", "show"]).unwrap();
    let line = addresses
        .lines()
        .find(|line| line.contains(&format!(" {vip}/")))?;
    Some(line.split_whitespace().nth(1)?.to_owned())
}

fn virtual_interfaces(host: &Host) -> String {
    host.run(&["ip", "-o", "link", "show", "type", "macvlan"])
        .unwrap()
}

/// What the host's interface says of addresses that are not its own: `arp_ignore` and `arp_announce`.
fn arp(host: &Host) -> [u32; 2] {
    ["arp_ignore", "arp_announce"].map(|name| {
        let path = format!("/proc/sys/net/ipv4/conf/eth0/{name}");
        let value = host.enter(|| fs::read_to_string(path)).unwrap().unwrap();
        value.trim().parse().unwrap()
    })
}

fn set_arp(host: &Host, values: [u32; 2]) {
    for (name, value) in ["arp_ignore", "arp_announce"].into_iter().zip(values) {
        set(host, &format!("ipv4/conf/eth0/{name}"), value);
    }
}

/// Sets a kernel parameter of the host's network.
fn set(host: &Host, parameter: &str, value: u32) {
    let path = format!("/proc/sys/net/{parameter}");
    host.enter(|| fs::write(path, value.to_string()))
        .unwrap()
        .unwrap();
}

/// Waits until the addresses are on virtual interfaces of this host, or it has nothing left of them.
fn wait_for_traces(host: &Host, vips: &[IpAddr], holds: bool) {
    wait_until(
        "the virtual interfaces to be as they have to be",
        PATIENCE,
        || {
            let found = virtual_interfaces(host);
            if holds {
                for vip in vips {
                    let carrier = carrier(host, *vip);
                    ensure!(
                        carrier.as_ref().is_some_and(|it| it.starts_with("vrrp")),
                        "{vip} is on {carrier:?}"
                    );
                }
                ensure!(found.lines().count() == vips.len(), "{found}");
            } else {
                ensure!(found.is_empty(), "{found}");
                ensure!(vips.iter().all(|vip| carrier(host, *vip).is_none()), "addresses");
                ensure!(arp(host) == [0, 0], "ARP: {:?}", arp(host));
            }
            Ok(())
        },
    )
    .unwrap();
}

/// Two instances on a host, one of each family, with virtual MAC addresses.
fn both_families(lab: &Lab, host: usize, keys: &str) -> Configuration {
    let (v4, v6) = (IPV4.vip(lab), IPV6.vip(lab));
    let keys = format!("virtual_mac = true\n{keys}");
    let six = format!(
        "\n[[vrrp]]\nname = \"pair6\"\nvrid = 51\naddresses = [\"{v6}\"]\npreempt_delay = \"0s\"\nadvert_interval = \"300ms\"\n{keys}"
    );
    assert!(v4.is_ipv4());
    configuration(lab, host, IPV4, &keys).followed_by(&six)
}

fn vips(lab: &Lab) -> [IpAddr; 2] {
    [IPV4.vip(lab), IPV6.vip(lab)]
}

/// The MAC address that a client has for an IPv4 address.
fn known(client: &Host, vip: IpAddr) -> String {
    client.run(&["ip", "neigh", "show", &vip.to_string()]).unwrap()
}

#[test]
fn connections_outlast_the_master_and_neighbours_learn_nothing() {
    let lab = Lab::builder().balancers(2).backends(2).start().unwrap();
    let _servers = start_servers(&lab, HS2_PORT).unwrap();
    let vip = IPV4.vip(&lab);
    let backends: Vec<(&str, IpAddr, u32)> = lab
        .backends()
        .iter()
        .map(|host| (host.name(), host.v4().into(), 1))
        .collect();
    let mut pair = Pair::prepare(&lab, 300, &[vip], |configuration| {
        configuration.service("impala", vip, &backends)
    })
    .unwrap();
    for number in 0..2 {
        let balancer = &mut pair.balancers[number];
        let group = "group = \"all\"\n";
        let with_mac = format!("{group}virtual_mac = true\n");
        let ours = balancer.configuration().clone().with(group, &with_mac).unwrap();
        balancer.reconfigure(ours).unwrap();
        balancer.run(&[]).unwrap();
        pair.wait_for_master(0).unwrap();
    }
    pair.wait_for_owner(0).unwrap();
    let client = &lab.clients()[0];
    let options = Steady::options(client, (vip, HS2_PORT).into(), 200);
    let mut steady = Steady::start(client, options).unwrap();
    let mut frames = Frames::of_arp(client);

    let host = lab.balancers()[0].clone();
    pair.balancers[0].daemon().unwrap().kill().unwrap();
    host.run(&["ip", "link", "set", "eth0", "down"]).unwrap();
    pair.wait_for_master(1).unwrap();
    steady.expect_unbroken().unwrap();
    assert!(known(client, vip).contains(TEXT_V4), "{}", known(client, vip));

    host.run(&["ip", "link", "set", "eth0", "up"]).unwrap();
    pair.balancers[0].run(&[]).unwrap();
    pair.wait_for_owner(1).unwrap();
    wait_for_traces(&host, &[vip], false);
    for from in [1, 0, 1] {
        pair.hand_over(from).unwrap();
        steady.expect_unbroken().unwrap();
        wait_for_traces(&lab.balancers()[from], &[vip], false);
        wait_for_traces(&lab.balancers()[1 - from], &[vip], true);
    }
    assert_eq!(steady.finish().unwrap().broken, []);
    assert!(known(client, vip).contains(TEXT_V4), "{}", known(client, vip));
    // Nobody has heard of another MAC address.
    let told: Vec<[u8; 6]> = frames
        .read()
        .iter()
        .filter(|frame| {
            frame.len() >= 42 && frame[12..14] == ARP && IpAddr::from(array::<4>(&frame[28..32])) == vip
        })
        .map(|frame| array(&frame[22..28]))
        .collect();
    assert!(
        told.len() >= 4 && told.iter().all(|mac| *mac == MAC_V4),
        "{told:?}"
    );

    for balancer in &mut pair.balancers {
        balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
    }
    for host in &lab.balancers()[..2] {
        wait_for_traces(host, &[vip], false);
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap()
}

/// Strict source validation on all interfaces of the host must not keep it from answering either.
#[test]
fn only_the_virtual_interface_answers_for_the_addresses_and_the_other_for_its_own() {
    let lab = Lab::builder().balancers(2).start().unwrap();
    let (host, client) = (&lab.balancers()[0], &lab.clients()[0]);
    set(host, "ipv4/conf/all/rp_filter", 1);
    // What new interfaces get by themselves must not matter either.
    set(host, "ipv4/conf/default/arp_filter", 1);
    set(host, "ipv6/conf/default/disable_ipv6", 1);
    let mut balancer = Balancer::start(&lab, host, both_families(&lab, 0, "")).unwrap();
    wait_for_traces(host, &vips(&lab), true);
    let status = wait_for_state(&balancer, "master");
    assert_eq!(status.virtual_mac.as_deref(), Some(TEXT_V4));

    let mut frames = Frames::of_arp(client);
    let own: IpAddr = host.v4().into();
    let mut answers = Vec::new();
    wait_until("the answers", PATIENCE, || {
        for address in [IPV4.vip(&lab), own] {
            let IpAddr::V4(address) = address else {
                unreachable!("of IPv4")
            };
            ask(client, address);
        }
        for frame in frames.read() {
            if frame.len() >= 42 && frame[12..14] == ARP && frame[20..22] == [0, 2] {
                answers.push((
                    IpAddr::from(array::<4>(&frame[28..32])),
                    array::<6>(&frame[6..12]),
                ));
            }
        }
        let count = |address| answers.iter().filter(|(about, _)| *about == address).count();
        let counts = [count(IPV4.vip(&lab)), count(own)];
        (counts[0] >= 3 && counts[1] >= 3)
            .then_some(())
            .ok_or(format!("{counts:?}"))
    })
    .unwrap();
    // The client answers too, when it is asked.
    answers.retain(|(about, _)| [IPV4.vip(&lab), own].contains(about));
    for (about, from) in answers {
        let expected = if about == own { host.mac().0 } else { MAC_V4 };
        assert_eq!(from, expected, "about {about}");
    }
    // What the balancer does not forward gets to the host, which answers: nobody listens there. It has to ask for the client first, and
    // must not do so in the VIP's name from its own MAC address.
    let _ = host.run(&["ip", "neigh", "flush", "dev", "eth0"]);
    for vip in vips(&lab) {
        let refused = || {
            let from: SocketAddr = if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }
                .parse()
                .unwrap();
            let socket = UdpSocket::bind(from).unwrap();
            socket.connect((vip, 9)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            wait_until("the host's own answer", PATIENCE, || {
                socket
                    .send(b"?")
                    .map_err(|error| error.kind())
                    .or_else(|kind| match kind {
                        ErrorKind::ConnectionRefused => Ok(0),
                        other => Err(other),
                    })?;
                match socket.recv(&mut [0; 1]) {
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
                    Err(error) => Err(error.kind()),
                    Ok(_) => Err(ErrorKind::InvalidData),
                }
            })
            .unwrap();
        };
        client.enter(refused).unwrap();
    }
    assert!(
        known(client, IPV4.vip(&lab)).contains(TEXT_V4),
        "{}",
        known(client, IPV4.vip(&lab))
    );
    let six = client
        .run(&["ip", "neigh", "show", &IPV6.vip(&lab).to_string()])
        .unwrap();
    let expected = lab::Mac(MAC_V6).to_string();
    assert!(six.contains(&expected), "{six}");

    balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
    wait_for_traces(host, &vips(&lab), false);
}

#[test]
fn what_a_killed_master_has_left_goes_with_the_next_start_or_with_detach() {
    let lab = Lab::builder().balancers(2).start().unwrap();
    let (hosts, vips) = (lab.balancers(), vips(&lab));
    let mut balancers = [0, 1].map(|number| {
        Balancer::prepare(
            &lab,
            &hosts[number],
            both_families(&lab, number, "preempt = false\n"),
        )
        .unwrap()
    });
    balancers[0].run(&[]).unwrap();
    wait_for_traces(&hosts[0], &vips, true);
    assert_eq!(arp(&hosts[0]), [1, 2]);
    balancers[1].run(&[]).unwrap();

    balancers[0].daemon().unwrap().kill().unwrap();
    wait_for_traces(&hosts[1], &vips, true);
    wait_for_traces(&hosts[0], &vips, true);
    balancers[0].run(&[]).unwrap();
    wait_for_state(&balancers[0], "backup");
    wait_for_traces(&hosts[0], &vips, false);

    balancers[1].daemon().unwrap().kill().unwrap();
    wait_for_traces(&hosts[0], &vips, true);
    let node = balancers[1].configuration().node().to_owned();
    let output = balancers[1].lb_ctl_alone(&["detach", "--node", &node]).unwrap();
    assert_eq!(output.code, Some(0), "{output:?}");
    wait_for_traces(&hosts[1], &vips, false);
}

/// Without the key the addresses are on the interface itself. Connections do not notice, and an interface of the operator's stays.
#[test]
fn it_is_switched_on_and_off_by_a_reload() {
    let lab = Lab::builder().start().unwrap();
    let _servers = start_servers(&lab, HS2_PORT).unwrap();
    let (host, vip) = (&lab.balancers()[0], IPV4.vip(&lab));
    let theirs = [
        "ip", "link", "add", "link", "eth0", "name", "theirs", "type", "macvlan",
    ];
    host.run(&theirs).unwrap();
    let without = configuration_alone(&lab, "");
    let mut balancer = Balancer::start(&lab, host, without.clone()).unwrap();
    let wait_for_carrier = |expected: &str| {
        wait_until(&format!("the address on {expected}"), PATIENCE, || {
            let carrier = carrier(host, vip).unwrap_or_default();
            ensure!(carrier.starts_with(expected), "{carrier}");
            Ok(())
        })
        .unwrap();
    };
    wait_for_carrier("eth0");
    let client = &lab.clients()[0];
    let options = Steady::options(client, (vip, HS2_PORT).into(), 100);
    let mut steady = Steady::start(client, options).unwrap();
    balancer
        .reconfigure(configuration_alone(&lab, "virtual_mac = true\n"))
        .unwrap();
    let file = balancer.file().display().to_string();
    let output = balancer.lb_ctl(&["plan", "--config", &file]).unwrap();
    assert!(output.stdout.contains("virtual_mac"), "{output:?}");
    let output = balancer.lb_ctl(&["reload"]).unwrap();
    assert_eq!(output.code, Some(0), "{output:?}");
    wait_for_carrier("vrrp4-51-");
    steady.expect_unbroken().unwrap();
    // Somebody takes it away: it comes again, and it is not forgotten what is to be undone.
    let name = carrier(host, vip).unwrap();
    host.run(&["ip", "link", "del", &name]).unwrap();
    wait_for_carrier("vrrp4-51-");
    host.run(&["ip", "link", "set", &name, "down"]).unwrap();
    wait_until("the interface to be up again", PATIENCE, || {
        let found = virtual_interfaces(host);
        let up = found
            .lines()
            .any(|line| line.contains(&name) && line.contains(",UP"));
        up.then_some(()).ok_or(found)
    })
    .unwrap();
    // As rules for new interfaces do.
    let filter = format!("ipv4/conf/{name}/rp_filter");
    set(host, &filter, 1);
    wait_until("the parameters to be right again", PATIENCE, || {
        let path = format!("/proc/sys/net/{filter}");
        let value = host.enter(|| fs::read_to_string(path)).unwrap().unwrap();
        (value.trim() == "2").then_some(()).ok_or(value)
    })
    .unwrap();
    steady.expect_unbroken().unwrap();
    balancer.reconfigure(without).unwrap();
    let output = balancer.lb_ctl(&["reload"]).unwrap();
    assert_eq!(output.code, Some(0), "{output:?}");
    wait_for_carrier("eth0");
    assert_eq!(arp(host), [0, 0]);
    let left = virtual_interfaces(host);
    assert!(left.lines().count() == 1 && left.contains("theirs"), "{left}");
    steady.expect_unbroken().unwrap();
    assert_eq!(steady.finish().unwrap().broken, []);
}

/// Of two on one interface one goes: the other one's neighbours are not told anything else. What an operator has set stays.
#[test]
fn siblings_share_what_is_to_be_undone_and_an_operators_setting_stays() {
    let lab = Lab::builder().vips(2).start().unwrap();
    let host = &lab.balancers()[0];
    let vips = [lab.vips()[0].v4, lab.vips()[1].v4].map(IpAddr::from);
    let both = configuration_alone(&lab, "virtual_mac = true\n");
    let both = both.followed_by(&format!(
        "\n[[vrrp]]\nname = \"second\"\nvrid = 52\naddresses = [\"{}\"]\nadvert_interval = \"100ms\"\nvirtual_mac = true\n",
        vips[1]
    ));
    set_arp(host, [0, 1]);
    let mut balancer = Balancer::start(&lab, host, both).unwrap();
    wait_for_traces(host, &vips, true);
    balancer
        .reconfigure(configuration_alone(&lab, "virtual_mac = true\n"))
        .unwrap();
    let output = balancer.lb_ctl(&["reload"]).unwrap();
    assert_eq!(output.code, Some(0), "{output:?}");
    wait_for_traces(host, &vips[..1], true);
    assert_eq!(arp(host), [1, 2]);
    set_arp(host, [2, 2]);
    balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
    assert_eq!(virtual_interfaces(host), "");
    assert_eq!(arp(host), [2, 1]);
}

/// And the instance is not master any more before it can be there again.
#[test]
fn the_parent_gets_its_voice_back_though_somebody_has_deleted_the_virtual_interface() {
    let lab = Lab::builder().balancers(2).start().unwrap();
    let (hosts, vip) = (lab.balancers(), IPV4.vip(&lab));
    set_arp(&hosts[0], [0, 1]);
    let mut balancers = [0, 1].map(|number| {
        let ours = configuration(&lab, number, IPV4, "virtual_mac = true\npreempt = false\n");
        let balancer = Balancer::start(&lab, &hosts[number], ours).unwrap();
        wait_for_state(&balancer, ["master", "backup"][number]);
        balancer
    });
    wait_until("the virtual interface", PATIENCE, || {
        carrier(&hosts[0], vip).is_some_and(|it| it.starts_with("vrrp"))
    })
    .unwrap();
    assert_eq!(arp(&hosts[0]), [1, 2]);
    let halted = Halted::of(balancers[0].daemon().unwrap().id(), "vrrp-hands").unwrap();
    let name = carrier(&hosts[0], vip).unwrap();
    hosts[0].run(&["ip", "link", "del", &name]).unwrap();
    let output = balancers[0].lb_ctl(&["failover"]).unwrap();
    assert_eq!(output.code, Some(0), "{output:?}");
    wait_for_state(&balancers[1], "master");
    drop(halted);
    wait_until("the parent to have its voice back", PATIENCE, || {
        ensure!(arp(&hosts[0]) == [0, 1], "{:?}", arp(&hosts[0]));
        ensure!(virtual_interfaces(&hosts[0]).is_empty());
        Ok(())
    })
    .unwrap();
}

#[test]
fn who_cannot_have_one_is_at_fault_and_leaves_nothing() {
    let lab = Lab::builder().balancers(2).start().unwrap();
    let (hosts, vip) = (lab.balancers(), IPV4.vip(&lab));
    let keys = "virtual_mac = true\npreempt = false\n";
    let first = configuration(&lab, 0, IPV4, &format!("priority = 200\n{keys}"));
    // Somebody else has the MAC address there.
    let theirs = [
        "ip", "link", "add", "link", "eth0", "name", "theirs", "address", TEXT_V4, "type", "macvlan", "mode",
        "bridge",
    ];
    hosts[0].run(&theirs).unwrap();
    hosts[0].run(&["ip", "link", "set", "theirs", "up"]).unwrap();
    let first = Balancer::start(&lab, &hosts[0], first).unwrap();
    let status = wait_for_state(&first, "fault");
    assert!(status.cause.contains("setting an interface up"), "{status:?}");
    let second = configuration(&lab, 1, IPV4, keys);
    let _second = Balancer::start(&lab, &hosts[1], second).unwrap();
    wait_for_traces(&hosts[1], &[vip], true);
    wait_until("nothing to be left", PATIENCE, || {
        let left = virtual_interfaces(&hosts[0]);
        ensure!(left.lines().count() == 1 && left.contains("theirs"), "{left}");
        ensure!(arp(&hosts[0]) == [0, 0], "{:?}", arp(&hosts[0]));
        Ok(())
    })
    .unwrap();
}

/// One balancer, without another.
fn configuration_alone(lab: &Lab, keys: &str) -> Configuration {
    let vip = IPV4.vip(lab);
    let backend = &lab.backends()[0];
    Configuration::of(lab, &lab.balancers()[0])
        .service("impala", vip, &[("impala1", backend.v4().into(), 1)])
        .followed_by(&format!(
            "\n[[vrrp]]\nname = \"pair\"\nvrid = 51\naddresses = [\"{vip}\"]\nadvert_interval = \"100ms\"\n{keys}"
        ))
}

/// keepalived with a virtual MAC address of its own making.
fn each_takes_over_from_the_other(dialect: Dialect, checksum: &str) {
    let lab = Lab::builder().balancers(2).start().unwrap();
    let (hosts, vip) = (lab.balancers(), dialect.vip(&lab));
    let keepalived = Keepalived::start(&lab, dialect, 100, "use_vmac");
    let wait_for_carriers = |ours: bool, theirs: bool| {
        let expected = [ours.then_some("vrrp"), theirs.then_some("vrrp.")];
        wait_until("the address to be where it belongs", PATIENCE, || {
            let found = [0, 1].map(|number| carrier(&hosts[number], vip));
            let matches = |number: usize| match (&found[number], expected[number]) {
                (Some(found), Some(expected)) => found.starts_with(expected),
                (found, expected) => found.is_none() && expected.is_none(),
            };
            (matches(0) && matches(1))
                .then_some(())
                .ok_or(format!("{found:?}"))
        })
        .unwrap();
    };
    wait_for_carriers(false, true);
    let keys = format!("priority = 200\nvirtual_mac = true\n{checksum}");
    let mut balancer = Balancer::start(&lab, &hosts[0], configuration(&lab, 0, dialect, &keys)).unwrap();
    wait_for_carriers(true, false);
    let status = wait_for_state(&balancer, "master");
    assert_eq!(status.rejected, [], "{status:?}");
    balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
    wait_for_carriers(false, true);
    balancer.run(&[]).unwrap();
    wait_for_carriers(true, false);
    let Keepalived { mut process, .. } = keepalived;
    process.terminate(PATIENCE).unwrap();
    assert_eq!(
        carrier(&hosts[0], vip).as_deref().map(|it| &it[..4]),
        Some("vrrp")
    );
}

#[test]
fn keepalived_with_use_vmac_and_we_take_over_from_each_other() {
    each_takes_over_from_the_other(IPV4, "checksum = \"rfc5798\"\n");
}

#[test]
fn keepalived_with_use_vmac_and_we_take_over_from_each_other_over_ipv6() {
    each_takes_over_from_the_other(IPV6, "");
}
