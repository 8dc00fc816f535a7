//! Tier 2: services with `forward = "nat"`, whose backends know nothing of the balancer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use lab::balancing::{
    Balancer, Configuration, HS2_PORT, PATIENCE, start_coordinators, take_vips_off_backends,
};
use lab::clients::hs2::Session;
use lab::demo::workload;
use lab::{Host, Lab, Network};
use lb_ctl::core::flows::{FlowState, Flows};
use socket2::{Domain, Socket, Type};

/// The services' port, which is none of the backends'.
const PORT: u16 = 8006;
/// The port of the backends that the tests play themselves.
const BACKEND_PORT: u16 = 31_050;
/// More than all buffers on the way hold.
const LARGE: usize = 16 << 20;

/// A lab whose backends hold no VIP: nothing is configured on them.
fn lab(backends: u8, clients: u8) -> Lab {
    let lab = Lab::builder()
        .balancers(1)
        .backends(backends)
        .clients(clients)
        .start()
        .unwrap();
    take_vips_off_backends(&lab).unwrap();
    lab
}

/// The first VIP of a family and the services' port.
fn service(lab: &Lab, v6: bool) -> SocketAddr {
    let vip = lab.vips()[0];
    SocketAddr::new(if v6 { vip.v6.into() } else { vip.v4.into() }, PORT)
}

fn address(host: &Host, v6: bool) -> IpAddr {
    if v6 { host.v6().into() } else { host.v4().into() }
}

/// A balancer with a service of one family in front of the first backend, played by the test.
fn in_front_of_one(lab: &Lab, v6: bool) -> Balancer {
    let backend = SocketAddr::new(address(&lab.backends()[0], v6), BACKEND_PORT);
    let configuration = Configuration::of(lab, &lab.balancers()[0]).nat_service(
        "played",
        service(lab, v6),
        &[("backend1", backend)],
    );
    Balancer::start(lab, &lab.balancers()[0], configuration).unwrap()
}

/// Listens on the first backend, in both families.
fn listen(lab: &Lab) -> TcpListener {
    lab.backends()[0]
        .enter(|| TcpListener::bind(("::", BACKEND_PORT)).unwrap())
        .unwrap()
}

/// Connects from a host, from a port of its choice.
fn connect(host: &Host, port: u16, service: SocketAddr) -> TcpStream {
    let stream = host
        .enter(|| {
            let socket = Socket::new(Domain::for_address(service), Type::STREAM, None).unwrap();
            let own = SocketAddr::new(address(host, service.is_ipv6()), port);
            socket.bind(&own.into()).unwrap();
            socket.connect_timeout(&service.into(), PATIENCE).unwrap();
            TcpStream::from(socket)
        })
        .unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The segments that a host's kernel has refused because of their checksum.
fn checksum_errors(host: &Host) -> u64 {
    let text = host.run(&["cat", "/proc/net/snmp"]).unwrap();
    let lines: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("Tcp:"))
        .map(|line| line.split_whitespace().collect())
        .collect();
    let [names, values] = lines.as_slice() else {
        panic!("two lines about TCP are expected in {text}")
    };
    let index = names.iter().position(|&name| name == "InCsumErrors").unwrap();
    values[index].parse().unwrap()
}

fn counter(balancer: &Balancer, name: &str) -> u64 {
    let counters = balancer.status().unwrap().datapath.counters;
    counters.iter().find(|it| it.name == name).unwrap().packets
}

/// Bytes in which a missing, repeated or exchanged piece shows.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64)
        .map(|index| (lb_common::hash::mix(index / 8) >> (index % 8 * 8)).to_le_bytes()[0])
        .collect()
}

#[test]
fn impyla_queries_reach_backends_that_know_nothing_of_the_vip() {
    let lab = lab(3, 1);
    let coordinators = start_coordinators(&lab).unwrap();
    let mut configuration = Configuration::of(&lab, &lab.balancers()[0]);
    for v6 in [false, true] {
        let backends: Vec<(&str, SocketAddr)> = coordinators
            .iter()
            .zip(lab.backends())
            .map(|(it, host)| (it.name.as_str(), SocketAddr::new(address(host, v6), HS2_PORT)))
            .collect();
        let name = if v6 { "impala6" } else { "impala" };
        configuration = configuration.nat_service(name, service(&lab, v6), &backends);
    }
    let balancer = Balancer::start(&lab, &lab.balancers()[0], configuration).unwrap();
    for (index, v6) in [false, true].into_iter().enumerate() {
        let service = service(&lab, v6);
        let answers = workload::run_against(&lab, &lab.clients()[0], service, 60, 3).unwrap();
        assert_eq!(answers.failures, Vec::<String>::new());
        assert_eq!(answers.queries.values().sum::<u64>(), 180);
        let status = &balancer.status().unwrap().services[index];
        assert_eq!(status.forward, "nat");
        for backend in &status.backends {
            let connections = answers.connections[&backend.name];
            assert!(connections > 0, "{} got none", backend.name);
            assert_eq!(
                answers.queries[&backend.name],
                3 * connections,
                "connections stay where they began"
            );
            assert!(
                backend.new_flows >= connections && backend.port == HS2_PORT,
                "{backend:?}"
            );
        }
    }
    assert!(counter(&balancer, "answer_forwarded") > 1000);
    assert_eq!(counter(&balancer, "record_lost"), 0);
}

#[test]
fn a_large_result_of_a_query_arrives_whole() {
    let lab = lab(1, 1);
    let coordinators = start_coordinators(&lab).unwrap();
    let backend = SocketAddr::new(lab.backends()[0].v4().into(), HS2_PORT);
    let configuration = Configuration::of(&lab, &lab.balancers()[0]).nat_service(
        "impala",
        service(&lab, false),
        &[(&coordinators[0].name, backend)],
    );
    let _balancer = Balancer::start(&lab, &lab.balancers()[0], configuration).unwrap();
    let stream = connect(&lab.clients()[0], 40_000, service(&lab, false));
    let mut session = Session::open(&stream).unwrap();
    let columns = session.execute("select rows(100000)").unwrap();
    session.close().unwrap();
    assert_eq!(columns[0].len(), 100_000);
}

#[test]
fn large_transfers_arrive_whole_in_both_directions_and_the_backend_sees_the_vip() {
    for v6 in [false, true] {
        let lab = lab(1, 1);
        let balancer = in_front_of_one(&lab, v6);
        let (client, backend) = (&lab.clients()[0], &lab.backends()[0]);
        let listener = listen(&lab);
        let sent = pattern(LARGE);
        // The backend reads all that the client has, and then sends it back.
        let server = thread::spawn(move || {
            let (mut stream, peer) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            stream.write_all(&received).unwrap();
            (peer, received)
        });
        let mut stream = connect(client, 40_000, service(&lab, v6));
        stream.write_all(&sent).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut returned = Vec::new();
        stream.read_to_end(&mut returned).unwrap();
        let (peer, received) = server.join().unwrap();
        assert!(received == sent, "what the client sends arrives whole");
        assert!(returned == sent, "what the backend sends arrives whole");
        assert_eq!(peer.ip().to_canonical(), service(&lab, v6).ip());
        assert_eq!(peer.port(), 40_000, "the client's own port is free");
        for host in [client, backend] {
            assert_eq!(checksum_errors(host), 0, "{}", host.name());
        }
        for name in [
            "drop_no_record",
            "drop_no_free_port",
            "drop_ttl_expired",
            "record_lost",
        ] {
            assert_eq!(counter(&balancer, name), 0, "{name}");
        }
    }
}

#[test]
fn who_sends_packets_that_are_too_long_is_told_so_on_either_side() {
    const TO_CLIENT: u16 = 1400;
    const TO_BACKEND: u16 = 1300;
    for v6 in [false, true] {
        // To the balancer, both sides are behind the router.
        let lab = Lab::builder()
            .backends(1)
            .remotes(1)
            .backends_apart()
            .start()
            .unwrap();
        take_vips_off_backends(&lab).unwrap();
        let (remote, backend, balancer_host) = (&lab.remotes()[0], &lab.backends()[0], &lab.balancers()[0]);
        balancer_host
            .run(&["ip", "link", "set", "dev", "eth1", "down"])
            .unwrap();
        let router = lab.router().unwrap().on(Network::Front).unwrap();
        let (family, network, gateway) = if v6 {
            ("-6", format!("{}/64", Network::Back.v6()), router.v6.to_string())
        } else {
            ("-4", format!("{}/24", Network::Back.v4()), router.v4.to_string())
        };
        balancer_host
            .run(&["ip", family, "route", "replace", &network, "via", &gateway])
            .unwrap();
        lab.narrow(Network::Far, TO_CLIENT).unwrap();
        lab.narrow(Network::Back, TO_BACKEND).unwrap();

        let balancer = in_front_of_one(&lab, v6);
        let service = service(&lab, v6);
        let to_vip = |host: &Host| {
            host.run(&["ip", "route", "get", &service.ip().to_string()])
                .unwrap()
        };
        for host in [remote, backend] {
            assert!(!to_vip(host).contains(" mtu "), "{}", to_vip(host));
        }
        let listener = listen(&lab);
        let sent = pattern(1 << 20);
        let answer = sent.clone();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            stream.write_all(&answer).unwrap();
            received
        });
        let mut stream = connect(remote, 40_000, service);
        stream.write_all(&sent).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut returned = Vec::new();
        stream.read_to_end(&mut returned).unwrap();
        assert!(
            server.join().unwrap() == sent,
            "what the client sends arrives whole"
        );
        assert!(returned == sent, "what the backend sends arrives whole");
        // Either knows one peer only, the VIP, and has been told about that.
        for (host, expected) in [(remote, TO_BACKEND), (backend, TO_CLIENT)] {
            let route = to_vip(host);
            assert!(
                route.contains(&format!(" mtu {expected} ")),
                "{}: {route}",
                host.name()
            );
            assert_eq!(checksum_errors(host), 0, "{}", host.name());
        }
        assert!(counter(&balancer, "icmp_error_forwarded") >= 2);
    }
}

#[test]
fn clients_with_the_same_port_are_told_apart() {
    let lab = lab(1, 3);
    let _balancer = in_front_of_one(&lab, false);
    let listener = listen(&lab);
    let streams: Vec<TcpStream> = lab
        .clients()
        .iter()
        .map(|client| connect(client, 40_000, service(&lab, false)))
        .collect();
    let mut ports = Vec::new();
    for (index, mut stream) in (0u8..).zip(&streams) {
        let (mut accepted, peer) = listener.accept().unwrap();
        accepted.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(peer.ip().to_canonical(), service(&lab, false).ip());
        ports.push(peer.port());
        // Connections are accepted in the order in which they were made.
        accepted.write_all(&[index]).unwrap();
        let mut byte = [0; 1];
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [index]);
    }
    assert_eq!(ports[0], 40_000, "the first gets its own port");
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 3, "{ports:?}");
}

fn json<T: serde::de::DeserializeOwned>(balancer: &Balancer, arguments: &[&str]) -> T {
    let output = balancer.lb_ctl(arguments).unwrap();
    assert_eq!(output.code, Some(0), "{output:?}");
    serde_json::from_str(&output.stdout).unwrap()
}

#[test]
fn flows_and_explain_tell_the_port_that_stands_for_a_client() {
    for v6 in [false, true] {
        let lab = lab(1, 1);
        let balancer = in_front_of_one(&lab, v6);
        let listener = listen(&lab);
        let client = SocketAddr::new(address(&lab.clients()[0], v6), 40_000);
        let mut stream = connect(&lab.clients()[0], client.port(), service(&lab, v6));
        let (mut accepted, peer) = listener.accept().unwrap();
        // Only data, not the handshake's end, is sure to have come through by now.
        accepted.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&[1]).unwrap();
        accepted.read_exact(&mut [0]).unwrap();
        let explain = |client: SocketAddr| balancer.explain(client, "played").unwrap();
        let explanation = explain(client);
        assert_eq!(
            (explanation.forward.as_str(), explanation.records.len()),
            ("nat", 1)
        );
        assert_eq!(explanation.records[0].state, FlowState::Established);
        assert_eq!(explanation.records[0].nat_port, Some(peer.port()));
        assert_eq!(explanation.packet.backend.as_deref(), Some("backend1"));
        let stranger = explain(SocketAddr::new(client.ip(), client.port() + 1));
        assert_eq!(stranger.packet.action, "reset");
        assert_eq!(stranger.packet.counter.as_deref(), Some("reset_no_record"));
        assert_eq!(stranger.new_connection.action, "forward");
        let found: Flows = json(&balancer, &["flows", "--json"]);
        assert_eq!(found.flows.len(), 1, "{found:?}");
        let flow = &found.flows[0];
        assert_eq!((flow.client, flow.state), (client, FlowState::Established));
        assert_eq!(
            (flow.backend.as_str(), flow.nat_port),
            ("backend1", Some(peer.port()))
        );
    }
}

#[test]
fn whoever_goes_on_with_a_connection_that_is_not_known_is_reset() {
    for v6 in [false, true] {
        let lab = lab(1, 1);
        let mut balancer = in_front_of_one(&lab, v6);
        let listener = listen(&lab);
        let mut from_client = connect(&lab.clients()[0], 40_000, service(&lab, v6));
        let (first, _) = listener.accept().unwrap();
        let second_client = connect(&lab.clients()[0], 40_001, service(&lab, v6));
        let (mut from_backend, _) = listener.accept().unwrap();
        // New tables know nobody.
        balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
        let node = balancer.configuration().node().to_owned();
        let detached = balancer.lb_ctl(&["detach", "--node", &node]).unwrap();
        assert_eq!(detached.code, Some(0), "{detached:?}");
        balancer.run(&[]).unwrap();
        for stream in [&mut from_client, &mut from_backend] {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&[1]).unwrap();
            let error = stream.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
        // The backend's went to the host's own kernel, which has no such connection either.
        assert_eq!(counter(&balancer, "reset_no_record"), 1);
        drop((first.shutdown(Shutdown::Both), second_client));
    }
}

#[test]
fn a_refusal_of_the_backend_reaches_the_client() {
    let lab = lab(1, 1);
    let _balancer = in_front_of_one(&lab, false);
    let service = service(&lab, false);
    let error = lab.clients()[0]
        .enter(|| TcpStream::connect_timeout(&service, PATIENCE))
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}
