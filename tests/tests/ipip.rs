//! Tier 2: services whose packets reach their backends in tunnels, which `lb-ctl decap` ends there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use lab::balancing::{Balancer, Configuration, Decap, HS2_PORT, MIXTURES, PATIENCE, start_coordinators};
use lab::clients::hs2::coordinator_name;
use lab::clients::iperf3::{Direction, transfer};
use lab::demo::workload;
use lab::{Host, Lab, Network, TcpCounters};

/// A balancer with a service for each mixture of families.
fn start_balancer(lab: &Lab) -> Balancer {
    let empty = Configuration::of(lab, &lab.balancers()[0]);
    start_balancer_with(lab, empty)
}

/// The same, added to a configuration.
fn start_balancer_with(lab: &Lab, configuration: Configuration) -> Balancer {
    let configuration = MIXTURES.iter().fold(configuration, |configuration, mixture| {
        let hosts = lab.backends().iter();
        let backends: Vec<_> = hosts
            .map(|host| (host.name(), (mixture.backend)(host), 1))
            .collect();
        configuration.service_by("ipip", mixture.name, (mixture.vip)(lab), &backends)
    });
    Balancer::start(lab, &lab.balancers()[0], configuration).unwrap()
}

fn expect_sound_checksums(lab: &Lab) {
    for host in lab.hosts() {
        let counted = TcpCounters::of(host).unwrap();
        assert_eq!(counted.checksum_errors, 0, "{}", host.name());
    }
}

fn lab(backends: u8) -> Lab {
    Lab::builder().backends(backends).vips(2).start().unwrap()
}

fn counter(balancer: &Balancer, name: &str) -> u64 {
    let counters = balancer.status().unwrap().datapath.counters;
    counters
        .iter()
        .find(|counter| counter.name == name)
        .unwrap()
        .packets
}

#[test]
fn connections_succeed_through_tunnels_of_every_mixture_of_families() {
    const CONNECTIONS: u64 = 50;
    let lab = lab(2);
    let _coordinators = start_coordinators(&lab).unwrap();
    let decaps = Decap::start_on_backends(&lab).unwrap();
    let balancer = start_balancer(&lab);
    let opened = || {
        decaps
            .iter()
            .map(|decap| decap.counted("decapsulated").unwrap())
            .sum::<u64>()
    };
    for (index, mixture) in MIXTURES.iter().enumerate() {
        let (name, vip) = (mixture.name, (mixture.vip)(&lab));
        let before = opened();
        lab.clients()[0]
            .enter(|| {
                for _ in 0..CONNECTIONS {
                    let stream = TcpStream::connect_timeout(&(vip, HS2_PORT).into(), PATIENCE).unwrap();
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    coordinator_name(&stream).unwrap();
                }
            })
            .unwrap();
        let backends = &balancer.status().unwrap().services[index].backends;
        let packets: u64 = backends.iter().map(|backend| backend.packets).sum();
        assert!(
            backends.iter().all(|backend| backend.new_flows > 0),
            "{name}: {backends:?}"
        );
        assert!(packets >= 5 * CONNECTIONS, "{name}: {packets} packets");
        assert!(
            opened() - before >= 5 * CONNECTIONS,
            "{name}: {} opened",
            opened() - before
        );
    }
    expect_sound_checksums(&lab);
}

#[test]
fn impyla_queries_go_through_tunnels() {
    let lab = lab(3);
    let _coordinators = start_coordinators(&lab).unwrap();
    let _decaps = Decap::start_on_backends(&lab).unwrap();
    let _balancer = start_balancer(&lab);
    // IPv4 in IPv4, IPv4 in IPv6.
    for vip in lab.vips() {
        let answers = workload::run(&lab, &lab.clients()[0], vip.v4, 30, 3).unwrap();
        assert_eq!(answers.failures, Vec::<String>::new());
        assert_eq!(answers.queries.values().sum::<u64>(), 90);
    }
}

/// Sends `bytes` bytes to a VIP and has the backend tell how many have arrived.
fn upload(client: &Host, backend: &Host, vip: IpAddr, bytes: usize) -> usize {
    let listener = backend
        .enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, HS2_PORT)).unwrap())
        .unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (mut buffer, mut received) = (vec![0; 1 << 16], 0);
        loop {
            match stream.read(&mut buffer).unwrap() {
                0 => break,
                read => received += read,
            }
        }
        stream.write_all(&received.to_be_bytes()).unwrap();
    });
    let told = client
        .enter(|| {
            let service = SocketAddr::new(vip, HS2_PORT);
            let mut stream = TcpStream::connect_timeout(&service, PATIENCE).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&vec![0xab; bytes]).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut told = [0; size_of::<usize>()];
            stream.read_exact(&mut told).unwrap();
            usize::from_be_bytes(told)
        })
        .unwrap();
    server.join().unwrap();
    told
}

/// What the routing table of a host says about the way to an address.
fn route(host: &Host, to: IpAddr) -> String {
    host.run(&["ip", "route", "get", &to.to_string()]).unwrap()
}

#[test]
fn a_client_learns_how_long_its_packets_may_be_and_bulk_data_arrives() {
    const BYTES: u64 = 64 << 20;
    let lab = lab(1);
    let (client, backend) = (&lab.clients()[0], &lab.backends()[0]);
    let decap = Decap::start(&lab, backend).unwrap();
    let balancer = start_balancer(&lab);
    let mut answers = 0;
    for mixture in &MIXTURES {
        let (name, vip) = (mixture.name, (mixture.vip)(&lab));
        assert!(!route(client, vip).contains(" mtu "), "{name}");
        let service = SocketAddr::new(vip, HS2_PORT);
        let opened = decap.counted("decapsulated").unwrap();
        for direction in [Direction::ToServer, Direction::ToClient] {
            let transfer = transfer(backend, client, service, BYTES, direction).unwrap();
            // What the sender's socket still holds when iperf3 ends the transfer does not arrive.
            assert!(
                transfer.sent >= BYTES && transfer.received > BYTES / 2,
                "{name} {direction:?}: {transfer:?}"
            );
            if direction == Direction::ToServer {
                let packets = transfer.received / mixture.longest_packet as u64;
                assert!(
                    decap.counted("decapsulated").unwrap() - opened > packets,
                    "{name}"
                );
            }
        }
        let learned = route(client, vip);
        let expected = format!(" mtu {} ", mixture.longest_packet);
        assert!(learned.contains(&expected), "{name}: {learned}");
        let answers_now = counter(&balancer, "packet_too_big_sent");
        assert!(answers_now > answers, "{name}");
        answers = answers_now;
    }
    expect_sound_checksums(&lab);
}

#[test]
fn tunnels_lead_through_routers_to_backends_and_answers_to_remote_clients() {
    const BYTES: usize = 4 << 20;
    // The balancer is on the clients' network only: to it, backends and remote clients are both behind the router.
    let lab = Lab::builder()
        .backends(1)
        .vips(2)
        .remotes(1)
        .backends_apart()
        .start()
        .unwrap();
    let (remote, backend) = (&lab.remotes()[0], &lab.backends()[0]);
    let decap = Decap::start(&lab, backend).unwrap();
    let balancer_host = &lab.balancers()[0];
    balancer_host
        .run(&["ip", "link", "set", "dev", "eth1", "down"])
        .unwrap();
    let router = lab.router().unwrap();
    let router = router.on(Network::Front).unwrap();
    for (family, network, gateway) in [
        ("-4", format!("{}/24", Network::Back.v4()), router.v4.to_string()),
        ("-6", format!("{}/64", Network::Back.v6()), router.v6.to_string()),
    ] {
        balancer_host
            .run(&["ip", family, "route", "replace", &network, "via", &gateway])
            .unwrap();
    }
    let balancer = start_balancer(&lab);
    for service in balancer.status().unwrap().services {
        let next_hop = service.backends[0].next_hop.clone();
        assert_eq!(next_hop, Some(router.mac.to_string()), "{}", service.name);
    }
    for mixture in &MIXTURES {
        let (name, vip) = (mixture.name, (mixture.vip)(&lab));
        let opened = decap.counted("decapsulated").unwrap();
        assert_eq!(upload(remote, backend, vip, BYTES), BYTES, "{name}");
        assert!(decap.counted("decapsulated").unwrap() > opened, "{name}");
        let learned = route(remote, vip);
        let expected = format!(" mtu {} ", mixture.longest_packet);
        assert!(learned.contains(&expected), "{name}: {learned}");
    }

    // What the way back to the clients cannot take is told to the VIP, and has to reach the backend.
    lab.narrow(Network::Far, 1400).unwrap();
    let mut errors = counter(&balancer, "icmp_error_forwarded");
    for mixture in &MIXTURES {
        let (name, vip) = (mixture.name, (mixture.vip)(&lab));
        // Forgotten, so that each service's errors are needed.
        for family in ["-4", "-6"] {
            backend.run(&["ip", family, "route", "flush", "cache"]).unwrap();
        }
        let service = SocketAddr::new(vip, HS2_PORT);
        let transfer = transfer(backend, remote, service, BYTES as u64, Direction::ToClient).unwrap();
        assert!(transfer.sent >= BYTES as u64, "{name}: {transfer:?}");
        let errors_now = counter(&balancer, "icmp_error_forwarded");
        assert!(errors_now > errors, "{name}");
        errors = errors_now;
    }
    expect_sound_checksums(&lab);
}

#[test]
fn decap_needs_no_laxer_reverse_path_filter() {
    let lab = lab(1);
    let (client, backend) = (&lab.clients()[0], &lab.backends()[0]);
    for interface in ["all", "eth0"] {
        let setting = format!("net.ipv4.conf.{interface}.rp_filter=1");
        backend.run(&["sysctl", "-w", &setting]).unwrap();
    }
    let _decap = Decap::start(&lab, backend).unwrap();
    let _balancer = start_balancer(&lab);
    for mixture in &MIXTURES {
        let vip = (mixture.vip)(&lab);
        assert_eq!(upload(client, backend, vip, 100_000), 100_000, "{}", mixture.name);
    }
}

fn carries_xdp(host: &Host) -> bool {
    let link = host.run(&["ip", "-json", "link", "show", "dev", "eth0"]).unwrap();
    link.contains("\"xdp\"")
}

#[test]
fn decap_that_is_killed_at_any_moment_can_be_started_again_and_taken_off() {
    const KILLS: u32 = 25;
    let lab = lab(1);
    let (client, backend) = (&lab.clients()[0], &lab.backends()[0]);
    let _balancer = start_balancer(&lab);
    let vip = (MIXTURES[0].vip)(&lab);
    let start = Instant::now();
    let decap = Decap::start(&lab, backend).unwrap();
    let whole_run = start.elapsed();
    for kill in 0..KILLS {
        // Half of them begin without anything, half meet what the kill before has left.
        if kill % 2 == 0 {
            assert_eq!(decap.run(&["--detach"]).unwrap().code, Some(0));
            assert!(!carries_xdp(backend) && !decap.pins().exists(), "kill {kill}");
        }
        let mut command = decap.command(&[]).unwrap();
        let mut process = backend.spawn(&format!("decap-{kill}"), &mut command).unwrap();
        thread::sleep(whole_run * kill / KILLS);
        process.kill().unwrap();
    }
    let again = decap.run(&[]).unwrap();
    assert_eq!(again.code, Some(0), "{again:?}");
    assert_eq!(upload(client, backend, vip, 100_000), 100_000);
    assert!(decap.counted("decapsulated").unwrap() > 0);
    assert_eq!(decap.run(&["--detach"]).unwrap().code, Some(0));
    assert!(!carries_xdp(backend) && !decap.pins().exists());
}

#[test]
fn decap_can_be_started_again_and_leaves_nothing() {
    let lab = lab(1);
    let (client, backend) = (&lab.clients()[0], &lab.backends()[0]);
    let decap = Decap::start(&lab, backend).unwrap();
    let _balancer = start_balancer(&lab);
    let vip = (MIXTURES[0].vip)(&lab);
    let carries_xdp = || carries_xdp(backend);
    assert_eq!(upload(client, backend, vip, 100_000), 100_000);
    assert!(decap.counted("decapsulated").unwrap() > 0 && carries_xdp());

    let again = decap.run(&["--mode", "native"]).unwrap();
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.stdout.starts_with("replaced on eth0 (native)"), "{again:?}");
    assert!(
        again.stdout.contains(&vip.to_string()) && again.stdout.contains("198.18.0.0/16"),
        "{again:?}"
    );
    assert_eq!(decap.counted("decapsulated").unwrap(), 0, "counters begin anew");
    assert_eq!(upload(client, backend, vip, 100_000), 100_000);

    // Another mode, in which the kernel's generic path runs it.
    let generic = decap.run(&["--mode", "generic"]).unwrap();
    assert!(
        generic.stdout.starts_with("attached to eth0 (generic)"),
        "{generic:?}"
    );
    assert_eq!(upload(client, backend, vip, 100_000), 100_000);

    // Only packets to the VIPs that it was told of come out, and only of the balancers' tunnels.
    let other = decap.run(&["--vip", "192.0.2.77"]).unwrap();
    assert!(
        other.stdout.starts_with("replaced on eth0 (generic)"),
        "{other:?}"
    );
    let connect = || {
        client
            .enter(|| TcpStream::connect_timeout(&(vip, HS2_PORT).into(), PATIENCE / 60))
            .unwrap()
    };
    assert!(connect().is_err() && decap.counted("drop_destination").unwrap() > 0);
    let other = decap.run(&["--from", "192.0.2.0/24"]).unwrap();
    assert_eq!(other.code, Some(0), "{other:?}");
    assert!(connect().is_err() && decap.counted("passed_source").unwrap() > 0);

    let detached = decap.run(&["--detach"]).unwrap();
    assert_eq!(
        (detached.code, detached.stdout.as_str()),
        (Some(0), "detached decap from eth0\n")
    );
    assert!(!carries_xdp() && !decap.pins().exists());
    let detached = decap.run(&["--detach"]).unwrap();
    assert_eq!(
        (detached.code, detached.stdout.as_str()),
        (Some(0), "decap was not attached to eth0\n")
    );
    let status = decap.run(&["--status"]).unwrap();
    assert_eq!(status.code, Some(1));
    assert!(
        status.stderr.contains("decap is not attached to eth0"),
        "{status:?}"
    );
}

#[test]
fn decap_says_what_it_lacks() {
    let lab = lab(1);
    let backend = &lab.backends()[0];
    let decap = Decap::start(&lab, backend).unwrap();
    for vip in lab.vips() {
        backend
            .run(&["ip", "address", "del", &format!("{}/32", vip.v4), "dev", "lo"])
            .unwrap();
        backend
            .run(&["ip", "address", "del", &format!("{}/128", vip.v6), "dev", "lo"])
            .unwrap();
    }
    let output = decap.run(&[]).unwrap();
    assert_eq!(output.code, Some(1));
    assert!(
        output.stderr.contains("expected a VIP on the loopback interface"),
        "{output:?}"
    );
    let output = decap.run(&["--from", "10.0.0.1/8"]).unwrap();
    assert_eq!(output.code, Some(2), "{output:?}");
}
