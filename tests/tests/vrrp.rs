//! Tier 2: VRRP, with Debian's keepalived and with ourselves.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

#[path = "vrrp/owner.rs"]
mod owner;
#[path = "vrrp/trouble.rs"]
mod trouble;
#[path = "vrrp/virtual_mac.rs"]
mod virtual_mac;

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread::sleep;
use std::time::Duration;

use lab::balancing::{self, Balancer, Configuration, PATIENCE};
use lab::{Host, Lab, Process, wait_until};
use lb_ctl::core::status::VrrpStatus;
use lb_ctl::core::vrrp::{Advertisement, ChecksumForm, Interval, group_address, with_ip_header};
use socket2::{Domain, Protocol, Socket, Type};

/// How the two talk.
#[derive(Clone, Copy, Debug)]
struct Dialect {
    is_ipv4: bool,
    unicast: bool,
}

const IPV4: Dialect = Dialect {
    is_ipv4: true,
    unicast: false,
};
const IPV6: Dialect = Dialect {
    is_ipv4: false,
    unicast: false,
};

impl Dialect {
    fn vip(self, lab: &Lab) -> IpAddr {
        let vip = lab.vips()[0];
        if self.is_ipv4 {
            vip.v4.into()
        } else {
            vip.v6.into()
        }
    }

    fn address(self, host: &Host) -> IpAddr {
        if self.is_ipv4 {
            host.v4().into()
        } else {
            host.v6().into()
        }
    }
}

/// keepalived on the second balancer's host.
struct Keepalived {
    process: Process,
    host: Host,
}

impl Keepalived {
    /// Starts it with this priority and these other keys of the instance.
    fn start(lab: &Lab, dialect: Dialect, priority: u8, more: &str) -> Self {
        Self::start_at(lab, dialect, priority, "0.3", more)
    }

    /// The same with IPv4 and a second between advertisements.
    fn start_slow(lab: &Lab, priority: u8, more: &str) -> Self {
        Self::start_at(lab, IPV4, priority, "1", more)
    }

    fn start_at(lab: &Lab, dialect: Dialect, priority: u8, interval: &str, more: &str) -> Self {
        let [us, host] = &lab.balancers()[..2] else {
            panic!("expected two balancers")
        };
        let mut text = format!(
            "global_defs {{\n vrrp_version 3\n}}\nvrrp_instance VI {{\n version 3\n state BACKUP\n interface eth0\n \
             virtual_router_id 51\n priority {priority}\n advert_int {interval}\n {more}\n virtual_ipaddress {{\n  {}\n }}\n",
            dialect.vip(lab)
        );
        if dialect.unicast {
            let (ours, theirs) = (dialect.address(host), dialect.address(us));
            write!(
                text,
                " unicast_src_ip {ours}\n unicast_peer {{\n  {theirs}\n }}\n"
            )
            .unwrap();
        }
        text.push_str("}\n");
        let path = |name: &str| lab.directory().join(format!("keepalived.{name}"));
        fs::write(path("conf"), text).unwrap();
        let mut command = host.command("keepalived").unwrap();
        command.args(["--dont-fork", "--log-console", "--log-detail", "--vrrp"]);
        for (option, name) in [
            ("--use-file", "conf"),
            ("--pid", "pid"),
            ("--vrrp_pid", "vrrp.pid"),
        ] {
            command.arg(option).arg(path(name));
        }
        let process = host.spawn("keepalived", &mut command).unwrap();
        Self {
            process,
            host: host.clone(),
        }
    }
}

fn holds(host: &Host, vip: IpAddr) -> bool {
    balancing::holds(host, vip).unwrap()
}

/// Waits until the address is on the first host, the second, or neither, as said.
fn wait_for_holder(hosts: &[Host], vip: IpAddr, expected: [bool; 2]) {
    let found = || [holds(&hosts[0], vip), holds(&hosts[1], vip)];
    wait_until("the address to be where it belongs", PATIENCE, || {
        let found = found();
        (found == expected)
            .then_some(())
            .ok_or(format!("{found:?} instead of {expected:?}"))
    })
    .unwrap();
}

fn instance(balancer: &Balancer) -> VrrpStatus {
    balancer.instance().unwrap()
}

fn wait_for_state(balancer: &Balancer, expected: &str) -> VrrpStatus {
    balancer.wait_for_state(expected).unwrap()
}

/// The configuration of a balancer with an instance: these keys, and the VIP of the family.
fn configuration(lab: &Lab, host: usize, dialect: Dialect, keys: &str) -> Configuration {
    let [host, peer] = [&lab.balancers()[host], &lab.balancers()[usize::from(host == 0)]];
    let vip = dialect.vip(lab);
    let backend = &lab.backends()[0];
    let peers = if dialect.unicast {
        // keepalived 2.2.7 leaves the hop limit of unicast packets over IPv6 to the kernel.
        let hop_limit = if dialect.is_ipv4 { 255 } else { 64 };
        format!(
            "unicast_peers = [\"{}\"]\nunicast_hop_limit = {hop_limit}\n",
            dialect.address(peer)
        )
    } else {
        String::new()
    };
    let interval = if keys.contains("advert_interval = \"1s\"") {
        ""
    } else {
        "advert_interval = \"300ms\"\n"
    };
    Configuration::of(lab, host)
        .service("impala", vip, &[("impala1", dialect.address(backend), 1)])
        .followed_by(&format!(
            "\n[[vrrp]]\nname = \"pair\"\nvrid = 51\naddresses = [\"{vip}\"]\npreempt_delay = \"0s\"\n{peers}{interval}{keys}"
        ))
}

/// keepalived is master first; we are better, take over, leave, come back, are killed, and come back.
fn each_takes_over_from_the_other(dialect: Dialect) {
    let lab = Lab::builder().balancers(2).start().unwrap();
    let (hosts, vip) = (lab.balancers(), dialect.vip(&lab));
    let keepalived = Keepalived::start(&lab, dialect, 100, "");
    wait_for_holder(hosts, vip, [false, true]);

    let checksum = if dialect.is_ipv4 {
        "checksum = \"rfc5798\"\n"
    } else {
        ""
    };
    let ours = configuration(&lab, 0, dialect, &format!("priority = 200\n{checksum}"));
    let mut balancer = Balancer::start(&lab, &hosts[0], ours).unwrap();
    wait_for_holder(hosts, vip, [true, false]);
    let status = wait_for_state(&balancer, "master");
    assert!(status.cause.contains("has the lower priority 100"), "{status:?}");
    assert_eq!(status.rejected, [], "{status:?}");

    balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
    assert!(!holds(&hosts[0], vip), "it has said goodbye, and left nothing");
    wait_for_holder(hosts, vip, [false, true]);

    balancer.run(&[]).unwrap();
    wait_for_holder(hosts, vip, [true, false]);
    balancer.daemon().unwrap().kill().unwrap();
    wait_for_holder(hosts, vip, [true, true]);
    balancer.run(&[]).unwrap();
    wait_for_holder(hosts, vip, [true, false]);

    let output = balancer.lb_ctl(&["failover"]).unwrap();
    assert_eq!(output.stdout, "pair: handed over\n", "{output:?}");
    wait_for_holder(hosts, vip, [false, true]);
    let status = wait_for_state(&balancer, "backup");
    assert!(status.yields, "{status:?}");
    assert_eq!(status.cause, "handed over by an operator");
    let output = balancer.lb_ctl(&["failover", "pair"]).unwrap();
    assert_eq!(output.code, Some(1), "{output:?}");

    // It says that it leaves; we need not wait for a Master_Down_Interval.
    let Keepalived { mut process, host } = keepalived;
    process.terminate(PATIENCE).unwrap();
    wait_for_holder(hosts, vip, [true, false]);
    let status = wait_for_state(&balancer, "master");
    assert!(
        status.cause.ends_with("has left"),
        "{status:?}\n{}",
        process.output().unwrap()
    );
    assert!(!holds(&host, vip));
}

#[test]
fn keepalived_and_we_take_over_from_each_other_by_multicast_over_ipv4() {
    each_takes_over_from_the_other(IPV4);
}

#[test]
fn keepalived_and_we_take_over_from_each_other_by_multicast_over_ipv6() {
    each_takes_over_from_the_other(IPV6);
}

#[test]
fn keepalived_and_we_take_over_from_each_other_by_unicast_over_ipv4() {
    each_takes_over_from_the_other(Dialect {
        unicast: true,
        ..IPV4
    });
}

#[test]
fn keepalived_and_we_take_over_from_each_other_by_unicast_over_ipv6() {
    each_takes_over_from_the_other(Dialect {
        unicast: true,
        ..IPV6
    });
}

/// Whoever is master stays so, though the other one is better. With a second between advertisements: a machine that is busy must
/// not look like a dead master.
#[test]
fn without_preemption_neither_takes_over_from_the_other() {
    const SLOW: &str = "checksum = \"rfc5798\"\nadvert_interval = \"1s\"\n";
    let lab = Lab::builder().balancers(2).start().unwrap();
    let (hosts, vip) = (lab.balancers(), IPV4.vip(&lab));
    let mut keepalived = Keepalived::start_slow(&lab, 100, "");
    wait_for_holder(hosts, vip, [false, true]);
    let ours = configuration(&lab, 0, IPV4, &format!("priority = 200\npreempt = false\n{SLOW}"));
    let mut balancer = Balancer::start(&lab, &hosts[0], ours).unwrap();
    let is_followed = || instance(&balancer).master == Some(hosts[1].v4().into());
    wait_until("our following keepalived", PATIENCE, is_followed).unwrap();
    sleep(Duration::from_secs(5));
    wait_for_state(&balancer, "backup");
    wait_for_holder(hosts, vip, [false, true]);

    keepalived.process.terminate(PATIENCE).unwrap();
    wait_for_holder(hosts, vip, [true, false]);
    let keepalived = Keepalived::start_slow(&lab, 254, "nopreempt");
    sleep(Duration::from_secs(5));
    wait_for_holder(hosts, vip, [true, false]);
    let log = keepalived.process.output().unwrap();
    assert!(
        log.contains("Entering BACKUP STATE") && !log.contains("MASTER STATE"),
        "{log}"
    );
    balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
    wait_for_holder(hosts, vip, [false, true]);
}

#[test]
fn a_master_with_the_other_checksum_is_followed_and_told_of() {
    let lab = Lab::builder().balancers(2).start().unwrap();
    let (hosts, vip) = (lab.balancers(), IPV4.vip(&lab));
    let _keepalived = Keepalived::start(&lab, IPV4, 200, "");
    wait_for_holder(hosts, vip, [false, true]);
    let ours = configuration(&lab, 0, IPV4, "priority = 100\n");
    let mut balancer = Balancer::start(&lab, &hosts[0], ours).unwrap();
    let told = "sends the checksum of rfc5798, we that of rfc9568";
    balancer.daemon().unwrap().wait_for_line(told, PATIENCE).unwrap();
    let status = wait_for_state(&balancer, "backup");
    assert_eq!(
        (status.master, status.rejected),
        (Some(hosts[1].v4().into()), vec![])
    );
}

/// Two of ours, with IPv4 and IPv6 in one group.
fn pair(lab: &Lab) -> Vec<Balancer> {
    let balancer = |(number, priority): (usize, u8)| {
        let keys = format!(
            "priority = {priority}\ngroup = \"both\"\n\n[[vrrp]]\nname = \"pair6\"\nvrid = 51\naddresses = [\"{}\"]\n\
             advert_interval = \"300ms\"\npreempt_delay = \"0s\"\npriority = {priority}\ngroup = \"both\"\n",
            IPV6.vip(lab)
        );
        let configuration = configuration(lab, number, IPV4, &keys);
        Balancer::start(lab, &lab.balancers()[number], configuration).unwrap()
    };
    [(0, 200), (1, 100)].map(balancer).into()
}

fn wait_for_both(lab: &Lab, expected: [bool; 2]) {
    for dialect in [IPV4, IPV6] {
        wait_for_holder(lab.balancers(), dialect.vip(lab), expected);
    }
}

#[test]
fn a_group_moves_as_a_whole_when_its_link_is_lost_and_when_it_is_handed_over() {
    let lab = Lab::builder().balancers(2).start().unwrap();
    let balancers = pair(&lab);
    wait_for_both(&lab, [true, false]);
    let host = &lab.balancers()[0];
    host.run(&["ip", "link", "set", "eth0", "down"]).unwrap();
    wait_for_both(&lab, [false, true]);
    let status = wait_for_state(&balancers[0], "fault");
    assert_eq!(status.cause, "the link of eth0 is down");
    host.run(&["ip", "link", "set", "eth0", "up"]).unwrap();
    wait_for_both(&lab, [true, false]);

    let output = balancers[0].lb_ctl(&["failover", "pair6"]).unwrap();
    assert_eq!(
        output.stdout, "pair: handed over\npair6: handed over\n",
        "{output:?}"
    );
    wait_for_both(&lab, [false, true]);
    let output = balancers[1].lb_ctl(&["vrrp"]).unwrap();
    assert_eq!(output.stdout.matches(" has left ").count(), 2, "{output:?}");
    let output = balancers[1].lb_ctl(&["failover", "nobody"]).unwrap();
    assert_eq!(output.code, Some(2), "{output:?}");
}

#[test]
fn a_takeover_is_told_to_the_neighbours() {
    let lab = Lab::builder().balancers(2).start().unwrap();
    let balancers = pair(&lab);
    wait_for_both(&lab, [true, false]);
    let (client, vip) = (&lab.clients()[0], IPV4.vip(&lab).to_string());
    let knows = |host: &Host| {
        let known = client.run(&["ip", "neigh", "show", &vip]).unwrap();
        known.contains(&host.mac().to_string()).then_some(()).ok_or(known)
    };
    // Nobody needs to get it: the client asks for the MAC address first.
    let ask = || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(b"?", (vip.as_str(), 9)).unwrap();
    };
    client.enter(ask).unwrap();
    wait_until("the client to know the master", PATIENCE, || {
        knows(&lab.balancers()[0])
    })
    .unwrap();
    balancers[0].lb_ctl(&["failover"]).unwrap();
    wait_until("the client to know the new master", PATIENCE, || {
        knows(&lab.balancers()[1])
    })
    .unwrap();
}

#[test]
fn addresses_of_the_operator_stay_and_ours_go_with_a_reload() {
    let lab = Lab::builder().balancers(2).start().unwrap();
    let (host, vip) = (&lab.balancers()[0], IPV4.vip(&lab));
    host.run(&["ip", "address", "add", &format!("{vip}/32"), "dev", "eth0"])
        .unwrap();
    let with_vrrp = configuration(&lab, 0, IPV4, "");
    let mut balancer = Balancer::start(&lab, host, with_vrrp.clone()).unwrap();
    wait_for_state(&balancer, "master");
    balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
    assert!(holds(host, vip), "it is the operator's");

    host.run(&["ip", "address", "del", &format!("{vip}/32"), "dev", "eth0"])
        .unwrap();
    balancer.run(&[]).unwrap();
    wait_for_state(&balancer, "master");
    assert!(holds(host, vip));
    let (before, _) = with_vrrp.text().split_once("[[vrrp]]").unwrap();
    let without = with_vrrp
        .clone()
        .with(&with_vrrp.text()[before.len()..], "")
        .unwrap();
    balancer.reconfigure(without).unwrap();
    assert_eq!(balancer.lb_ctl(&["reload"]).unwrap().code, Some(0));
    assert_eq!(balancer.status().unwrap().vrrp, []);
    assert!(holds(host, vip), "a VIP that VRRP does not carry is ours alone");

    let with_fault = with_vrrp.followed_by("[[vrrp.track]]\ninterface = \"nothing0\"\n");
    balancer.reconfigure(with_fault).unwrap();
    assert_eq!(balancer.lb_ctl(&["reload"]).unwrap().code, Some(0));
    let status = wait_for_state(&balancer, "fault");
    assert_eq!(status.cause, "the link of nothing0 is down");
    assert!(!holds(host, vip));
}

#[test]
fn forged_packets_count_for_nothing_and_are_counted() {
    let lab = Lab::builder().balancers(2).start().unwrap();
    let (hosts, vip) = (lab.balancers(), IPV4.vip(&lab));
    let mut balancer = Balancer::start(&lab, &hosts[0], configuration(&lab, 0, IPV4, "")).unwrap();
    wait_for_state(&balancer, "master");
    let (from, group) = (IpAddr::from(lab.clients()[0].v4()), group_address(true));
    let forged = Advertisement {
        vrid: 51.try_into().unwrap(),
        priority: 254,
        interval: Interval::MIN,
        addresses: vec![vip],
    };
    let encode = |advertisement: &Advertisement| advertisement.encode(from, group, ChecksumForm::Message);
    let good = encode(&forged);
    let changed = |place: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[place] = value;
        bytes
    };
    let other_addresses = Advertisement {
        addresses: vec![vip, from],
        ..forged.clone()
    };
    let other_router = Advertisement {
        vrid: 52.try_into().unwrap(),
        ..forged
    };
    let counts = |each: u64| {
        let rejected = instance(&balancer).rejected;
        let counts: Vec<(String, u64)> = rejected.into_iter().map(|it| (it.reason, it.packets)).collect();
        let expected = [
            ("addresses", each),
            ("checksum", each),
            ("hop_limit", each),
            ("length", 2 * each),
            ("version", each),
        ];
        let is_expected = counts
            .iter()
            .map(|(reason, count)| (reason.as_str(), *count))
            .eq(expected);
        is_expected.then_some(()).ok_or(format!("{counts:?}"))
    };
    // A few at a time: what does not fit into the socket's buffer while the machine is busy is not counted.
    for round in 1..=5 {
        for _ in 0..10 {
            send(&lab.clients()[0], from, group, 254, &good);
            for bytes in [
                &changed(6, good[6] ^ 1),
                &changed(0, 0x21),
                &good[..7].to_vec(),
                &good[..11].to_vec(),
                &encode(&other_addresses),
                &encode(&other_router),
            ] {
                send(&lab.clients()[0], from, group, 255, bytes);
            }
        }
        wait_until("all of them to be counted", PATIENCE, || counts(10 * round)).unwrap();
    }
    let status = instance(&balancer);
    assert_eq!(
        (status.state.as_str(), status.transitions["backup"]),
        ("master", 1),
        "{status:?}"
    );

    let log = balancer.daemon().unwrap().output().unwrap();
    assert_eq!(log.matches("does not count").count(), 5, "each kind once: {log}");

    // The last test of the forger: without a mistake it is believed.
    send(&lab.clients()[0], from, group, 255, &good);
    wait_until("a good one to count", PATIENCE, || {
        instance(&balancer).transitions["backup"] == 2
    })
    .unwrap();
}

/// Sends a payload in a packet with this TTL.
fn send(host: &Host, from: IpAddr, to: IpAddr, hop_limit: u8, payload: &[u8]) {
    let mut packet = with_ip_header(from, to, payload);
    packet[8] = hop_limit;
    host.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
        socket.bind_device(Some(b"eth0")).unwrap();
        socket.send_to(&packet, &SocketAddr::new(to, 0).into()).unwrap();
    })
    .unwrap();
}
