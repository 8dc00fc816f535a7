//! Tier 2: what clients see of a balancer that runs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use lab::balancing::{Balancer, Configuration, Coordinator, HS2_PORT, PATIENCE, start_coordinators};
use lab::clients::held::connect_from;
use lab::clients::hs2::{Session, coordinator_name};
use lab::demo::workload;
use lab::{Host, Lab, wait_until};

/// A lab with a balancer in front of coordinators with these weights.
fn cluster(weights: &[u32]) -> (Lab, Vec<Coordinator>, Balancer) {
    let backends = u8::try_from(weights.len()).unwrap();
    let lab = Lab::builder()
        .balancers(1)
        .backends(backends)
        .clients(1)
        .start()
        .unwrap();
    let coordinators = start_coordinators(&lab).unwrap();
    let configuration = configuration(&lab, &coordinators, weights);
    let balancer = Balancer::start(&lab, &lab.balancers()[0], configuration).unwrap();
    (lab, coordinators, balancer)
}

fn configuration(lab: &Lab, coordinators: &[Coordinator], weights: &[u32]) -> Configuration {
    let backends: Vec<_> = coordinators
        .iter()
        .zip(weights)
        .map(|(coordinator, &weight)| (coordinator.name.as_str(), coordinator.address.into(), weight))
        .collect();
    Configuration::of(lab, &lab.balancers()[0]).service("impala", lab.vips()[0].v4.into(), &backends)
}

fn vip(lab: &Lab) -> SocketAddr {
    SocketAddr::from((lab.vips()[0].v4, HS2_PORT))
}

/// Connects from each port in turn, and counts by the coordinator that answered.
fn connections_by_coordinator(
    client: &Host,
    service: SocketAddr,
    ports: std::ops::Range<u16>,
) -> BTreeMap<String, u32> {
    let address = if service.is_ipv4() {
        IpAddr::V4(client.v4())
    } else {
        IpAddr::V6(client.v6())
    };
    client
        .enter(|| {
            let mut counts = BTreeMap::new();
            for port in ports {
                let stream = connect_from(SocketAddr::new(address, port), service).unwrap();
                let name = coordinator_name(&stream)
                    .unwrap_or_else(|error| panic!("the query from port {port} failed: {error}"));
                *counts.entry(name).or_default() += 1;
            }
            counts
        })
        .unwrap()
}

#[test]
fn impyla_queries_reach_every_coordinator_and_none_fails() {
    let (lab, coordinators, balancer) = cluster(&[1, 1, 1]);
    let answers = workload::run(&lab, &lab.clients()[0], lab.vips()[0].v4, 60, 3).unwrap();
    assert_eq!(answers.failures, Vec::<String>::new());
    assert_eq!(answers.queries.values().sum::<u64>(), 180);
    let backends = balancer.backends().unwrap();
    for (coordinator, backend) in coordinators.iter().zip(&backends) {
        let connections = answers.connections[&coordinator.name];
        assert!(connections > 0, "{} got none", coordinator.name);
        assert_eq!(
            answers.queries[&coordinator.name],
            3 * connections,
            "connections stay where they began"
        );
        assert_eq!(backend.name, coordinator.name);
        assert!(
            backend.new_flows >= connections,
            "the balancer saw {} of {connections}",
            backend.new_flows
        );
        assert!(backend.packets > backend.new_flows && backend.bytes > 54 * backend.packets);
    }
}

#[test]
fn ten_thousand_connections_all_succeed_and_follow_the_weights() {
    const CONNECTIONS: u16 = 10_000;
    let weights = [1, 2, 2];
    let (lab, coordinators, balancer) = cluster(&weights);
    let counts = connections_by_coordinator(&lab.clients()[0], vip(&lab), 20_000..20_000 + CONNECTIONS);
    let total: u32 = weights.iter().sum();
    for (coordinator, weight) in coordinators.iter().zip(weights) {
        let expected = f64::from(CONNECTIONS) * f64::from(weight) / f64::from(total);
        let found = f64::from(counts[&coordinator.name]);
        assert!(
            (found / expected - 1.0).abs() < 0.05,
            "{} with weight {weight} of {total} got {found} of {CONNECTIONS} connections, {expected} is its share",
            coordinator.name
        );
    }
    let new_flows: u64 = balancer
        .backends()
        .unwrap()
        .iter()
        .map(|backend| backend.new_flows)
        .sum();
    assert!(new_flows >= u64::from(CONNECTIONS));
}

#[test]
fn services_over_ipv6_and_ipv4_stand_side_by_side() {
    let lab = Lab::builder()
        .balancers(1)
        .backends(3)
        .clients(1)
        .start()
        .unwrap();
    let coordinators = start_coordinators(&lab).unwrap();
    let backends: Vec<_> = coordinators
        .iter()
        .map(|it| (it.name.as_str(), it.address6.into(), 1))
        .collect();
    let both =
        configuration(&lab, &coordinators, &[1, 1, 1]).service("impala6", lab.vips()[0].v6.into(), &backends);
    let balancer = Balancer::start(&lab, &lab.balancers()[0], both).unwrap();
    let service = SocketAddr::from((lab.vips()[0].v6, HS2_PORT));
    let counts = connections_by_coordinator(&lab.clients()[0], service, 20_000..20_300);
    let counts4 = connections_by_coordinator(&lab.clients()[0], vip(&lab), 20_000..20_050);
    assert_eq!(counts4.values().sum::<u32>(), 50);
    let services = balancer.status().unwrap().services;
    for backend in &services[1].backends {
        let connections = counts[&backend.name];
        assert!(connections > 50, "{} got {connections} of 300", backend.name);
        assert!(backend.new_flows >= u64::from(connections), "{backend:?}");
    }
}

#[test]
fn a_backend_with_weight_0_gets_no_new_connection() {
    let (lab, coordinators, _balancer) = cluster(&[1, 0]);
    let counts = connections_by_coordinator(&lab.clients()[0], vip(&lab), 20_000..20_100);
    assert_eq!(counts, BTreeMap::from([(coordinators[0].name.clone(), 100)]));
}

#[test]
fn a_service_that_nobody_serves_refuses_connections() {
    let lab = Lab::builder()
        .balancers(1)
        .backends(1)
        .clients(1)
        .start()
        .unwrap();
    let backend = &lab.backends()[0];
    let vip = lab.vips()[0];
    let (v4, v6) = (IpAddr::V4(vip.v4), IpAddr::V6(vip.v6));
    let configuration = Configuration::of(&lab, &lab.balancers()[0])
        .service("impala", v4, &[("impala1", backend.v4().into(), 0)])
        .service("impala6", v6, &[("impala1", backend.v6().into(), 0)]);
    let balancer = Balancer::start(&lab, &lab.balancers()[0], configuration).unwrap();
    let connect = |address: IpAddr| {
        lab.clients()[0]
            .enter(|| TcpStream::connect_timeout(&SocketAddr::new(address, HS2_PORT), PATIENCE))
            .unwrap()
            .unwrap_err()
            .kind()
    };
    let sent = || {
        let counters = balancer.status().unwrap().datapath.counters;
        counters
            .iter()
            .find(|it| it.name == "reset_sent")
            .unwrap()
            .packets
    };
    for (address, expected) in [(v4, 1), (v6, 2)] {
        assert_eq!(
            connect(address),
            std::io::ErrorKind::ConnectionRefused,
            "{address}"
        );
        assert_eq!(sent(), expected, "{address}");
    }
}

#[test]
fn a_service_with_an_allow_list_serves_nobody_else() {
    let lab = Lab::builder()
        .balancers(1)
        .backends(1)
        .clients(2)
        .start()
        .unwrap();
    let coordinators = start_coordinators(&lab).unwrap();
    let (invited, stranger) = (&lab.clients()[0], &lab.clients()[1]);
    let backend = [(coordinators[0].name.as_str(), coordinators[0].address6.into(), 1)];
    let allowing = |prefix: String| format!("port = {HS2_PORT}\nallow = [\"{prefix}\"]\n");
    let configuration = configuration(&lab, &coordinators, &[1])
        .with(
            &format!("port = {HS2_PORT}\n"),
            &allowing(format!("{}/32", invited.v4())),
        )
        .unwrap()
        .service("impala6", lab.vips()[0].v6.into(), &backend)
        .with(
            &format!(
                "port = {HS2_PORT}\n\n[[service.backend]]\nname = \"impala1\"\naddress = \"{}\"",
                backend[0].1
            ),
            &format!(
                "{}\n[[service.backend]]\nname = \"impala1\"\naddress = \"{}\"",
                allowing(format!("{}/128", invited.v6())),
                backend[0].1
            ),
        )
        .unwrap();
    let balancer = Balancer::start(&lab, &lab.balancers()[0], configuration).unwrap();
    let dropped = || {
        let counters = balancer.status().unwrap().datapath.counters;
        let counter = counters.iter().find(|it| it.name == "drop_source_not_allowed");
        counter.unwrap().packets
    };
    for service in [vip(&lab), SocketAddr::from((lab.vips()[0].v6, HS2_PORT))] {
        connections_by_coordinator(invited, service, 20_000..20_005);
        let before = dropped();
        let attempt = stranger
            .enter(|| TcpStream::connect_timeout(&service, Duration::from_millis(200)))
            .unwrap();
        assert!(attempt.is_err(), "{service}");
        assert!(dropped() > before, "{service}");
    }
}

#[test]
fn a_large_result_arrives_whole() {
    let (lab, _coordinators, _balancer) = cluster(&[1]);
    let (client, service) = (&lab.clients()[0], vip(&lab));
    let rows = client
        .enter(|| {
            let stream = TcpStream::connect(service).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut session = Session::open(&stream).unwrap();
            let columns = session.execute("select rows(100000)").unwrap();
            session.close().unwrap();
            columns[0].len()
        })
        .unwrap();
    assert_eq!(rows, 100_000);
}

#[test]
fn forwarding_and_live_connections_outlast_the_daemon() {
    let (lab, _coordinators, mut balancer) = cluster(&[1, 1, 1]);
    let (client, service) = (&lab.clients()[0], vip(&lab));
    let before = connections_by_coordinator(client, service, 20_000..20_050);
    let stream = client
        .enter(|| connect_from((client.v4(), 19_999).into(), service).unwrap())
        .unwrap();
    let mut session = Session::open(&stream).unwrap();
    let ask = |session: &mut Session<'_>| session.execute("select coordinator()").unwrap();
    let home = ask(&mut session);

    balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
    assert!(balancer.status().is_err(), "the daemon has ended");
    assert_eq!(ask(&mut session), home, "after SIGTERM");
    let without = connections_by_coordinator(client, service, 21_000..21_050);
    assert_eq!(without.values().sum::<u32>(), 50);

    balancer.run(&[]).unwrap();
    assert_eq!(ask(&mut session), home, "after a restart");
    let log = balancer.daemon().unwrap().output().unwrap();
    assert!(log.contains("replaced the program of an earlier run"), "{log}");

    balancer.daemon().unwrap().kill().unwrap();
    assert_eq!(ask(&mut session), home, "after SIGKILL");
    balancer.run(&[]).unwrap();
    assert_eq!(ask(&mut session), home, "after another restart");
    session.close().unwrap();

    let after = connections_by_coordinator(client, service, 22_000..22_050);
    assert_eq!(
        before.keys().collect::<Vec<_>>(),
        after.keys().collect::<Vec<_>>()
    );
}

#[test]
fn a_backend_with_another_network_card_is_followed() {
    let (lab, _coordinators, balancer) = cluster(&[1]);
    let (client, service, backend) = (&lab.clients()[0], vip(&lab), &lab.backends()[0]);
    let mac = || balancer.backends().unwrap()[0].next_hop.clone();
    assert_eq!(mac(), Some(backend.mac().to_string()));
    connections_by_coordinator(client, service, 20_000..20_005);

    backend
        .run(&["ip", "link", "set", "dev", "eth0", "address", "02:00:00:00:77:77"])
        .unwrap();
    let followed = || mac() == Some("02:00:00:00:77:77".to_owned());
    wait_until("the balancer to send to the new MAC address", PATIENCE, followed).unwrap();
    connections_by_coordinator(client, service, 21_000..21_005);
}

#[test]
fn a_backend_that_answers_arp_late_is_resolved_when_it_does() {
    let lab = Lab::builder()
        .balancers(1)
        .backends(1)
        .clients(1)
        .start()
        .unwrap();
    let coordinators = start_coordinators(&lab).unwrap();
    let backend = &lab.backends()[0];
    backend
        .run(&["ip", "link", "set", "dev", "eth0", "down"])
        .unwrap();
    let configuration = configuration(&lab, &coordinators, &[1]);
    let mut balancer = Balancer::start(&lab, &lab.balancers()[0], configuration).unwrap();
    assert_eq!(balancer.backends().unwrap()[0].next_hop, None);
    let log = balancer.daemon().unwrap().output().unwrap();
    assert!(log.contains("the next hop is not known"), "{log}");

    // Nobody is there: a packet is dropped, and counted under a name.
    let (client, service) = (&lab.clients()[0], vip(&lab));
    let attempt = client
        .enter(|| TcpStream::connect_timeout(&service, Duration::from_millis(200)))
        .unwrap();
    assert!(attempt.is_err());
    let dropped = |name: &str| {
        let counters = balancer.status().unwrap().datapath.counters;
        counters
            .iter()
            .find(|counter| counter.name == name)
            .unwrap()
            .packets
    };
    assert!(dropped("drop_next_hop_unknown") >= 1);

    backend.run(&["ip", "link", "set", "dev", "eth0", "up"]).unwrap();
    let resolved = || balancer.backends().unwrap()[0].next_hop.is_some();
    wait_until("the backend's MAC address", PATIENCE, resolved).unwrap();
    // The route to the client went with the interface; coming up brings it back.
    connections_by_coordinator(client, service, 21_000..21_005);
}

#[test]
fn a_port_of_the_vip_without_a_service_is_refused_by_the_kernel() {
    let (lab, _coordinators, _balancer) = cluster(&[1]);
    let address = SocketAddr::from((lab.vips()[0].v4, 22));
    let error = lab.clients()[0]
        .enter(|| TcpStream::connect_timeout(&address, PATIENCE))
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}
