//! Labs of several networks, with a router between them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use lab::balancing::{Balancer, Configuration, HS2_PORT, PATIENCE};
use lab::steady::{Steady, start_servers};
use lab::{Host, Lab, Network};
use socket2::{Domain, Socket, Type};

const PORT: u16 = 21050;

/// Has one host connect to another, and says where that sees the connection come from.
fn connect(from: &Host, to: &Host, address: IpAddr) -> IpAddr {
    let listener = to.enter(|| TcpListener::bind((address, PORT))).unwrap().unwrap();
    let to = SocketAddr::new(address, PORT);
    let stream = from.enter(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
    let stream = stream.unwrap_or_else(|error| panic!("{} to {to}: {error}", from.name()));
    let (accepted, peer) = listener.accept().unwrap();
    // Closed here first, so that the port is free again at once for the listener.
    drop(stream);
    drop(accepted);
    peer.ip()
}

fn addresses(host: &Host) -> [IpAddr; 2] {
    [host.v4().into(), host.v6().into()]
}

#[test]
fn hosts_reach_each_other_through_the_router() {
    let lab = Lab::builder().remotes(1).backends_apart().start().unwrap();
    let (client, remote) = (&lab.clients()[0], &lab.remotes()[0]);
    let (balancer, backend) = (&lab.balancers()[0], &lab.backends()[0]);
    for [from, to] in [
        [client, backend],
        [remote, backend],
        [remote, balancer],
        [backend, remote],
    ] {
        for (source, destination) in addresses(from).into_iter().zip(addresses(to)) {
            assert_eq!(
                connect(from, to, destination),
                source,
                "{} to {destination}",
                from.name()
            );
        }
    }
}

#[test]
fn a_balancer_has_a_foot_in_the_backends_network() {
    let lab = Lab::builder().backends_apart().start().unwrap();
    let (balancer, backend) = (&lab.balancers()[0], &lab.backends()[0]);
    let [eth0, eth1] = balancer.interfaces() else {
        panic!("two interfaces: {:?}", balancer.interfaces())
    };
    assert_eq!((eth0.network, eth1.network), (Network::Front, Network::Back));
    assert_eq!(backend.first().network, Network::Back);
    for (address, source) in addresses(backend)
        .into_iter()
        .zip([IpAddr::from(eth1.v4), eth1.v6.into()])
    {
        assert_eq!(connect(balancer, backend, address), source);
    }
    // Both of its cables carry what an XDP program transmits.
    for port in [&eth0.port, &eth1.port] {
        let links = lab
            .switch()
            .run(&["ip", "-json", "link", "show", "dev", port])
            .unwrap();
        let links: serde_json::Value = serde_json::from_str(&links).unwrap();
        assert_eq!(links[0]["xdp"]["mode"], 1, "{port}: native");
    }
}

/// Connects with packets that die in the router that is this many hops away, if there is one.
fn connect_within(from: &Host, to: SocketAddr, hops: u32) -> io::Result<()> {
    from.enter(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        if to.is_ipv4() {
            socket.set_ttl_v4(hops)?;
        } else {
            socket.set_unicast_hops_v6(hops)?;
        }
        socket.connect_timeout(&to.into(), PATIENCE)
    })
    .unwrap()
}

#[test]
fn there_is_one_router_on_the_way_and_it_says_when_a_packet_dies() {
    let lab = Lab::builder().remotes(1).start().unwrap();
    let (remote, backend) = (&lab.remotes()[0], &lab.backends()[0]);
    for address in addresses(backend) {
        let to = SocketAddr::new(address, PORT);
        let _listener = backend.enter(|| TcpListener::bind(to)).unwrap().unwrap();
        connect_within(remote, to, 2).unwrap();
        let error = connect_within(remote, to, 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::HostUnreachable, "{to}: {error}");
    }
}

#[test]
fn the_router_answers_packets_that_are_too_long_for_the_far_side() {
    const LENGTH: usize = 1 << 20;
    let lab = Lab::builder().remotes(1).backends_apart().start().unwrap();
    let (remote, backend) = (&lab.remotes()[0], &lab.backends()[0]);
    lab.narrow(Network::Far, 1400).unwrap();
    for (address, client) in addresses(backend).into_iter().zip(addresses(remote)) {
        let to = SocketAddr::new(address, PORT);
        let route = || backend.run(&["ip", "route", "get", &client.to_string()]).unwrap();
        assert!(!route().contains("mtu 1400"), "{}", route());
        let listener = backend.enter(|| TcpListener::bind(to)).unwrap().unwrap();
        let sender = thread::spawn(move || listener.accept()?.0.write_all(&vec![7; LENGTH]));
        let mut stream = remote
            .enter(|| TcpStream::connect_timeout(&to, PATIENCE))
            .unwrap()
            .unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        sender.join().unwrap().unwrap();
        assert!(received.len() == LENGTH && received.iter().all(|&byte| byte == 7));
        // What the router has told the sender.
        assert!(route().contains("mtu 1400"), "{}", route());
    }
}

#[test]
fn remote_clients_are_served_through_the_balancer() {
    let lab = Lab::builder().backends(3).remotes(1).start().unwrap();
    let _servers = start_servers(&lab, HS2_PORT).unwrap();
    let balancer_host = &lab.balancers()[0];
    let vip = lab.vips()[0];
    let balancer = Balancer::start(&lab, balancer_host, Configuration::of_both_families(&lab)).unwrap();
    let remote = &lab.remotes()[0];
    for (index, vip) in [IpAddr::from(vip.v4), vip.v6.into()].into_iter().enumerate() {
        let options = Steady::options(remote, SocketAddr::new(vip, HS2_PORT), 50);
        let mut steady = Steady::start(remote, options).unwrap();
        let progress = steady.expect_unbroken().unwrap();
        assert_eq!((progress.connections, progress.servers.len()), (50, 3));
        let backends = &balancer.status().unwrap().services[index].backends;
        assert!(
            backends.iter().map(|backend| backend.new_flows).sum::<u64>() >= 50,
            "{backends:?}"
        );
    }
}

#[test]
fn a_lab_of_one_network_has_no_router() {
    let lab = Lab::builder().start().unwrap();
    let error = lab.router().unwrap_err().to_string();
    assert!(error.contains("no router"), "{error}");
    assert!(lab.narrow(Network::Far, 1400).is_err());
    assert!(
        lab.hosts()
            .all(|host| host.interfaces().len() == 1 && host.on(Network::Front).is_some())
    );
}
