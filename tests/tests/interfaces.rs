//! Tier 2: clients on one interface of the balancer, backends on another; and interfaces that come and go.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use lab::balancing::{Balancer, Configuration, HS2_PORT, PATIENCE, start_coordinators};
use lab::clients::hs2::coordinator_name;
use lab::clients::iperf3::{Direction, transfer};
use lab::{Host, Lab, TcpCounters, wait_until};
use lb_ctl::adapters::netlink::{Netlink, Route};
use socket2::{Domain, Socket, Type};

/// Short enough to try again and again.
const ATTEMPT: Duration = Duration::from_millis(300);

fn both(configuration: Configuration) -> Configuration {
    configuration
        .with("interfaces = [\"eth0\"]", "interfaces = [\"eth0\", \"eth1\"]")
        .unwrap()
}

/// A connection from a host to a service.
fn connect(client: &Host, service: SocketAddr, timeout: Duration) -> std::io::Result<std::net::TcpStream> {
    client
        .enter(|| {
            let socket = Socket::new(Domain::for_address(service), Type::STREAM, None)?;
            socket.connect_timeout(&service.into(), timeout)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(socket.into())
        })
        .unwrap()
}

/// The names of the interfaces with their modes, as the status shows them.
fn modes(balancer: &Balancer) -> Vec<(String, String)> {
    let interfaces = balancer.status().unwrap().datapath.interfaces;
    let pair = |interface: lb_ctl::core::status::InterfaceStatus| (interface.name, interface.mode);
    interfaces.into_iter().map(pair).collect()
}

fn pair(name: &str, mode: &str) -> (String, String) {
    (name.to_owned(), mode.to_owned())
}

fn carries_xdp(host: &Host, interface: &str) -> bool {
    let links = host.run(&["ip", "-j", "link", "show", "dev", interface]).unwrap();
    let links: serde_json::Value = serde_json::from_str(&links).unwrap();
    !links[0]["xdp"].is_null()
}

#[test]
fn clients_on_one_interface_reach_backends_on_another() {
    let lab = Lab::builder().backends(2).backends_apart().start().unwrap();
    let coordinators = start_coordinators(&lab).unwrap();
    let host = &lab.balancers()[0];
    let mut balancer = Balancer::start(&lab, host, both(Configuration::of_both_families(&lab))).unwrap();
    assert_eq!(modes(&balancer), [pair("eth0", "native"), pair("eth1", "native")]);
    let vips = [IpAddr::from(lab.vips()[0].v4), lab.vips()[0].v6.into()];
    for vip in vips {
        let on_first = host.run(&["ip", "-o", "addr", "show", "dev", "eth0"]).unwrap();
        let on_second = host.run(&["ip", "-o", "addr", "show", "dev", "eth1"]).unwrap();
        let vip = format!(" {vip}/");
        assert!(
            on_first.contains(&vip) && !on_second.contains(&vip),
            "{on_first}{on_second}"
        );
    }
    for vip in vips {
        let mut answers = BTreeMap::<String, u32>::new();
        for _ in 0..40 {
            let stream = connect(&lab.clients()[0], SocketAddr::new(vip, HS2_PORT), PATIENCE).unwrap();
            *answers.entry(coordinator_name(&stream).unwrap()).or_default() += 1;
        }
        assert_eq!(answers.len(), coordinators.len(), "{answers:?}");
    }
    for service in balancer.status().unwrap().services {
        for (backend, host) in service.backends.iter().zip(lab.backends()) {
            assert_eq!(backend.next_hop.as_deref(), Some(host.mac().to_string().as_str()));
            assert!(backend.packets > 0, "{backend:?}");
        }
    }

    balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
    let detached = balancer
        .lb_ctl(&["detach", "--node", balancer.configuration().node()])
        .unwrap();
    for interface in ["eth0", "eth1"] {
        let line = format!("detached the XDP program from {interface}\n");
        assert!(detached.stdout.contains(&line), "{detached:?}");
        assert!(!carries_xdp(host, interface), "{interface}");
    }
}

/// A backend on the clients' network besides the one on its own: whoever loses one network has the other.
struct TwoWays {
    lab: Lab,
    balancer: Balancer,
    near: SocketAddr,
    far: SocketAddr,
    _listeners: [TcpListener; 2],
}

fn two_ways() -> TwoWays {
    let lab = Lab::builder()
        .clients(2)
        .vips(2)
        .backends_apart()
        .start()
        .unwrap();
    let service = |vip: usize| SocketAddr::from((lab.vips()[vip].v4, HS2_PORT));
    let (far, near) = (service(0), service(1));
    let (backend, neighbour) = (&lab.backends()[0], &lab.clients()[1]);
    for command in [
        &["sysctl", "-q", "net.ipv4.conf.all.arp_ignore=1"][..],
        &["ip", "addr", "add", &format!("{}/32", near.ip()), "dev", "lo"],
    ] {
        neighbour.run(command).unwrap();
    }
    // Nobody need accept: the kernel completes connections by itself.
    let listeners = [(backend, far), (neighbour, near)]
        .map(|(host, service)| host.enter(|| TcpListener::bind(service)).unwrap().unwrap());
    let configuration = Configuration::of(&lab, &lab.balancers()[0])
        .service("far", far.ip(), &[(backend.name(), backend.v4().into(), 1)])
        .service("near", near.ip(), &[(neighbour.name(), neighbour.v4().into(), 1)]);
    let balancer = Balancer::start(&lab, &lab.balancers()[0], both(configuration)).unwrap();
    TwoWays {
        lab,
        balancer,
        near,
        far,
        _listeners: listeners,
    }
}

impl TwoWays {
    fn answers(&self, service: SocketAddr) -> bool {
        connect(&self.lab.clients()[0], service, ATTEMPT).is_ok()
    }

    fn await_answer(&self, service: SocketAddr) {
        wait_until(&format!("an answer of {service}"), PATIENCE, || {
            self.answers(service)
        })
        .unwrap();
    }

    fn has_next_hop(&self, service: usize) -> bool {
        self.balancer.status().unwrap().services[service].backends[0]
            .next_hop
            .is_some()
    }

    fn dropped(&self) -> u64 {
        let counters = self.balancer.status().unwrap().datapath.counters;
        let dropped = counters
            .iter()
            .find(|counter| counter.name == "drop_next_hop_unknown");
        dropped.unwrap().packets
    }
}

#[test]
fn an_interface_that_is_down_takes_only_its_backends_along() {
    let lab = two_ways();
    let host = lab.balancer.host().clone();
    lab.await_answer(lab.far);
    lab.await_answer(lab.near);
    host.run(&["ip", "link", "set", "dev", "eth1", "down"]).unwrap();
    wait_until("the backend to be unresolved", PATIENCE, || !lab.has_next_hop(0)).unwrap();
    let dropped = lab.dropped();
    assert!(!lab.answers(lab.far));
    assert!(lab.dropped() > dropped, "what is dropped is counted");
    assert!(lab.answers(lab.near));
    host.run(&["ip", "link", "set", "dev", "eth1", "up"]).unwrap();
    lab.await_answer(lab.far);
}

#[test]
fn an_interface_that_is_deleted_and_comes_back_is_attached_again() {
    let mut lab = two_ways();
    let host = lab.balancer.host().clone();
    lab.await_answer(lab.far);
    host.run(&["ip", "link", "del", "dev", "eth1"]).unwrap();
    let gone = |lab: &TwoWays| modes(&lab.balancer)[1] == pair("eth1", "absent");
    wait_until("the interface to be missed", PATIENCE, || gone(&lab)).unwrap();
    let daemon = lab.balancer.daemon().unwrap();
    daemon
        .wait_for_line("the interface was deleted or renamed", PATIENCE)
        .unwrap();
    assert_eq!(daemon.exit_status().unwrap(), None);
    assert!(lab.answers(lab.near) && !lab.answers(lab.far));

    let switch = lab.lab.switch();
    let (port, namespace) = ("balancer1-eth1", host.full_name());
    switch
        .run(&[
            "ip", "link", "add", port, "type", "veth", "peer", "name", "eth1", "netns", namespace,
        ])
        .unwrap();
    switch
        .run(&["ip", "link", "set", port, "master", "br1", "up"])
        .unwrap();
    lab.lab.accept_xdp_from(&host).unwrap();
    host.run(&["ip", "addr", "add", "10.78.0.11/24", "dev", "eth1"])
        .unwrap();
    host.run(&["ip", "link", "set", "dev", "eth1", "up"]).unwrap();
    lab.await_answer(lab.far);
    assert_eq!(
        modes(&lab.balancer),
        [pair("eth0", "native"), pair("eth1", "native")]
    );
    assert!(lab.answers(lab.near));
}

#[test]
fn the_first_interface_takes_the_vips_along_and_brings_them_back() {
    let lab = Lab::builder().start().unwrap();
    let host = lab.balancers()[0].clone();
    let vip = SocketAddr::from((lab.vips()[0].v4, HS2_PORT));
    let _listener = lab.backends()[0]
        .enter(|| TcpListener::bind(vip))
        .unwrap()
        .unwrap();
    let balancer = Balancer::start(&lab, &host, Configuration::of_all_backends(&lab)).unwrap();
    host.run(&["ip", "link", "del", "dev", "eth0"]).unwrap();
    let mode = || modes(&balancer)[0].1.clone();
    wait_until("the interface to be missed", PATIENCE, || mode() == "absent").unwrap();
    lab.switch()
        .run(&[
            "ip",
            "link",
            "add",
            host.name(),
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            host.full_name(),
        ])
        .unwrap();
    lab.switch()
        .run(&["ip", "link", "set", host.name(), "master", "br0", "up"])
        .unwrap();
    lab.accept_xdp_from(&host).unwrap();
    host.run(&["ip", "addr", "add", &format!("{}/24", host.v4()), "dev", "eth0"])
        .unwrap();
    host.run(&["ip", "link", "set", "dev", "eth0", "up"]).unwrap();
    // The card is another one, which the client has to learn.
    lab.clients()[0]
        .run(&["ip", "neigh", "flush", "dev", "eth0"])
        .unwrap();
    wait_until("an answer", PATIENCE, || {
        connect(&lab.clients()[0], vip, ATTEMPT).is_ok()
    })
    .unwrap();
    assert_eq!(mode(), "native");
}

/// What the kernel of a host says about the way to an address.
fn route(host: &Host, address: &str) -> Route {
    let address = address.parse().unwrap();
    host.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { Netlink::connect().unwrap().route(address).await.unwrap() })
    })
    .unwrap()
}

#[test]
fn the_ways_of_the_kernel_are_understood() {
    let lab = Lab::builder().start().unwrap();
    let host = &lab.balancers()[0];
    let index = route(host, "10.77.0.101").interface;
    assert!(index.is_some());
    let on_link = Route {
        interface: index,
        gateway: None,
        mtu: None,
        local: false,
    };
    assert_eq!(route(host, "10.77.0.101"), on_link);
    assert!(route(host, "10.77.0.11").local && route(host, "fd77::11").local);
    assert_eq!(route(host, "fd77::101").gateway, None);
    for command in [
        "ip route add 192.0.2.0/24 via 10.77.0.101 mtu 1400",
        "ip route add 198.51.100.0/24 via inet6 fe80::77 dev eth0",
        "ip route add 2001:db8::/64 via fe80::77 dev eth0 mtu 1300",
    ] {
        host.run(&command.split(' ').collect::<Vec<_>>()).unwrap();
    }
    for (address, gateway, mtu) in [
        ("192.0.2.1", "10.77.0.101", Some(1400)),
        ("198.51.100.1", "fe80::77", None),
        ("2001:db8::1", "fe80::77", Some(1300)),
    ] {
        let through_router = Route {
            gateway: Some(gateway.parse().unwrap()),
            mtu,
            ..on_link
        };
        assert_eq!(route(host, address), through_router, "{address}");
    }
}

/// Sets the MTU of all interfaces of a lab.
fn widen(lab: &Lab, mtu: &str) {
    let set = |host: &lab::Namespace, interface: &str| {
        host.run(&["ip", "link", "set", "dev", interface, "mtu", mtu])
            .unwrap();
    };
    for host in lab.hosts() {
        for interface in host.interfaces() {
            set(host, &interface.name);
            set(lab.switch(), &interface.port);
        }
    }
    for bridge in ["br0", "br1"] {
        if lab.switch().run(&["ip", "link", "show", "dev", bridge]).is_ok() {
            set(lab.switch(), bridge);
        }
    }
}

/// A transfer in segments of 9000 bytes, of which the XDP program sees the first few thousand.
fn expect_jumbo_frames(lab: &Lab, configuration: Configuration) {
    const BYTES: u64 = 64 << 20;
    widen(lab, "9000");
    let (client, backend) = (&lab.clients()[0], &lab.backends()[0]);
    let balancer = Balancer::start(lab, &lab.balancers()[0], configuration).unwrap();
    assert!(modes(&balancer).iter().all(|(_, mode)| mode == "native"));
    let before = TcpCounters::of(backend).unwrap();
    let service = SocketAddr::from((lab.vips()[0].v4, HS2_PORT));
    let transfer = transfer(backend, client, service, BYTES, Direction::ToServer).unwrap();
    assert!(transfer.sent >= BYTES, "{transfer:?}");
    let counted = TcpCounters::of(backend).unwrap() - before;
    assert_eq!(counted.checksum_errors, 0);
    let status = &balancer.backends().unwrap()[0];
    assert!(
        status.packets < transfer.sent / 6000,
        "{} packets for {transfer:?} are small ones",
        status.packets
    );
    // What the sender still holds at the end need not have gone through the balancer.
    assert!(
        status.bytes > transfer.received,
        "{} bytes, {transfer:?}",
        status.bytes
    );
}

#[test]
fn jumbo_frames_pass_whole() {
    let lab = Lab::builder().start().unwrap();
    expect_jumbo_frames(&lab, Configuration::of_all_backends(&lab));
}

#[test]
fn jumbo_frames_pass_whole_from_one_interface_to_another() {
    let lab = Lab::builder().backends_apart().start().unwrap();
    expect_jumbo_frames(&lab, both(Configuration::of_all_backends(&lab)));
}
