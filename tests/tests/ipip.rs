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

use lab::balancing::{Balancer, Configuration, Decap, HS2_PORT, PATIENCE, start_coordinators};
use lab::clients::hs2::coordinator_name;
use lab::demo::workload;
use lab::{Host, Lab, TcpCounters};

/// Adds a service in tunnels.
fn tunnels(
    configuration: Configuration,
    name: &str,
    vip: IpAddr,
    backends: &[(&str, IpAddr, u32)],
) -> Configuration {
    let written = format!("name = \"{name}\"\nvip");
    configuration
        .service(name, vip, backends)
        .with(&written, &format!("name = \"{name}\"\nforward = \"ipip\"\nvip"))
        .unwrap()
}

fn v4_backends(lab: &Lab) -> Vec<(&str, IpAddr, u32)> {
    let hosts = lab.backends().iter();
    hosts.map(|host| (host.name(), host.v4().into(), 1)).collect()
}

fn v6_backends(lab: &Lab) -> Vec<(&str, IpAddr, u32)> {
    let hosts = lab.backends().iter();
    hosts.map(|host| (host.name(), host.v6().into(), 1)).collect()
}

/// A balancer with the four mixtures of families: the first VIP in tunnels of its own family, the second in the other's.
fn start_balancer(lab: &Lab) -> (Balancer, [(&'static str, IpAddr); 4]) {
    let (same, other) = (lab.vips()[0], lab.vips()[1]);
    let services = [
        ("v4-in-v4", same.v4.into()),
        ("v6-in-v6", same.v6.into()),
        ("v4-in-v6", other.v4.into()),
        ("v6-in-v4", other.v6.into()),
    ];
    let mut configuration = Configuration::of(lab, &lab.balancers()[0]);
    for (name, vip) in services {
        let backends = if name.ends_with("v4") {
            v4_backends(lab)
        } else {
            v6_backends(lab)
        };
        configuration = tunnels(configuration, name, vip, &backends);
    }
    let balancer = Balancer::start(lab, &lab.balancers()[0], configuration).unwrap();
    (balancer, services)
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
    let (balancer, services) = start_balancer(&lab);
    let opened = || {
        decaps
            .iter()
            .map(|decap| decap.counted("decapsulated").unwrap())
            .sum::<u64>()
    };
    for (index, (name, vip)) in services.into_iter().enumerate() {
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
    for host in lab.hosts() {
        assert_eq!(
            TcpCounters::of(host).unwrap().checksum_errors,
            0,
            "{}",
            host.name()
        );
    }
}

#[test]
fn impyla_queries_go_through_tunnels() {
    let lab = lab(3);
    let _coordinators = start_coordinators(&lab).unwrap();
    let _decaps = Decap::start_on_backends(&lab).unwrap();
    let (_balancer, _) = start_balancer(&lab);
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

#[test]
fn a_client_learns_how_long_its_packets_may_be() {
    const BYTES: usize = 16 << 20;
    let lab = lab(1);
    let (client, backend) = (&lab.clients()[0], &lab.backends()[0]);
    let _decap = Decap::start(&lab, backend).unwrap();
    let (balancer, services) = start_balancer(&lab);
    let mut answers = 0;
    for (name, vip) in services {
        assert_eq!(upload(client, backend, vip, BYTES), BYTES, "{name}");
        // The links have an MTU of 1500 bytes.
        let longest = if name.ends_with("v4") { 1480 } else { 1460 };
        let route = client.run(&["ip", "route", "get", &vip.to_string()]).unwrap();
        assert!(route.contains(&format!(" mtu {longest}")), "{name}: {route}");
        let answers_now = counter(&balancer, "packet_too_big_sent");
        assert!(answers_now > answers, "{name}");
        answers = answers_now;
    }
    for host in lab.hosts() {
        assert_eq!(
            TcpCounters::of(host).unwrap().checksum_errors,
            0,
            "{}",
            host.name()
        );
    }
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
    let (_balancer, services) = start_balancer(&lab);
    for (name, vip) in services {
        assert_eq!(upload(client, backend, vip, 100_000), 100_000, "{name}");
    }
}

#[test]
fn decap_can_be_started_again_and_leaves_nothing() {
    let lab = lab(1);
    let (client, backend) = (&lab.clients()[0], &lab.backends()[0]);
    let decap = Decap::start(&lab, backend).unwrap();
    let (_balancer, services) = start_balancer(&lab);
    let (_, vip) = services[0];
    let carries_xdp = || {
        let link = backend
            .run(&["ip", "-json", "link", "show", "dev", "eth0"])
            .unwrap();
        link.contains("\"xdp\"")
    };
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
