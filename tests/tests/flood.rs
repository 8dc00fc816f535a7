//! Tier 2: a SYN flood, and the connections that live through it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lab::balancing::{Balancer, Configuration, HS2_PORT};
use lab::clients::flood::{Flooding, Options, Prefix};
use lab::steady::{Steady, start_servers};
use lab::{Host, Lab, TcpCounters};

const PACKETS: u64 = 5_000_000;
/// How many of them have to arrive, since a veth drops what its ring does not hold: enough to fill the table of half-open
/// records several times over.
const EXPECTED: u64 = 4 * 65_536;
const CONNECTIONS: u16 = 50;
/// More than so many SYNs take even on a machine that has much else to do.
const FLOOD_PATIENCE: Duration = Duration::from_mins(10);

/// Floods a service whose slots are all tracked, while connections to it exchange data.
fn expect_connections_to_outlast(vip: fn(&Lab) -> IpAddr, address: fn(&Host) -> IpAddr, sources: &str) {
    let lab = Lab::builder().backends(2).clients(2).start().unwrap();
    let _servers = start_servers(&lab, HS2_PORT).unwrap();
    let hosts = lab.backends().iter();
    let backends: Vec<_> = hosts.map(|host| (host.name(), address(host), 1)).collect();
    let service = SocketAddr::new(vip(&lab), HS2_PORT);
    let configuration =
        Configuration::of(&lab, &lab.balancers()[0]).service("impala", service.ip(), &backends);
    let balancer = Balancer::start(&lab, &lab.balancers()[0], configuration).unwrap();
    // Some connections have no record, and live where their slot has settled; the others have one.
    let [client, attacker] = lab.clients() else {
        panic!("two clients")
    };
    let hold = |first_port| {
        let options = lab::steady::client::Options {
            first_port,
            ..Steady::options(client, service, CONNECTIONS)
        };
        Steady::start(client, options).unwrap()
    };
    let before = hold(10_000);
    let tracked = balancer.track_all_slots().unwrap();
    assert_eq!(tracked, 65_537);
    let mut steady = [before, hold(11_000)];
    let new_flows = || -> u64 {
        let backends = balancer.backends().unwrap();
        backends.iter().map(|backend| backend.new_flows).sum()
    };
    let known = new_flows();

    lab.accept_xdp_from(attacker).unwrap();
    let options = Options {
        service,
        next_hop: lab.balancers()[0].mac().0,
        sources: sources.parse::<Prefix>().unwrap(),
        packets: PACKETS,
        threads: 1,
    };
    let mut flooding = Flooding::start(attacker, &options).unwrap();
    let mut rounds = 0;
    while !flooding.is_over().unwrap() {
        for connections in &mut steady {
            connections.expect_unbroken().unwrap();
        }
        rounds += 1;
    }
    let report = flooding.wait(FLOOD_PATIENCE).unwrap();
    assert_eq!(report.sent, PACKETS);
    assert!(
        rounds > 0,
        "the flood was over before the connections could notice"
    );
    // Clients who come now find the table of half-open records full of the flood's.
    let after = hold(12_000);
    for mut connections in steady.into_iter().chain([after]) {
        let progress = connections.expect_unbroken().unwrap();
        assert_eq!(progress.connections, u64::from(CONNECTIONS));
    }
    for backend in lab.backends() {
        let counters = TcpCounters::of(backend).unwrap();
        assert_eq!(counters.checksum_errors, 0, "{}", backend.name());
    }
    let arrived = new_flows() - known;
    assert!(
        arrived > EXPECTED,
        "{arrived} of {PACKETS} SYNs have reached the balancer, {EXPECTED} are expected"
    );
}

#[test]
fn connections_in_tracked_slots_outlast_a_syn_flood() {
    expect_connections_to_outlast(
        |lab| lab.vips()[0].v4.into(),
        |host| host.v4().into(),
        "198.18.0.0/15",
    );
}

#[test]
fn connections_in_tracked_slots_outlast_a_syn_flood_over_ipv6() {
    expect_connections_to_outlast(
        |lab| lab.vips()[0].v6.into(),
        |host| host.v6().into(),
        "2001:2::/48",
    );
}
