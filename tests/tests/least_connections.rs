//! Tier 2: placement by live connections, with real clients, a real daemon, and whatever happens to it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use lab::balancing::{Balancer, Configuration, HS2_PORT, PATIENCE, take_vips_off_backends};
use lab::steady::client::Options;
use lab::steady::{Server, Steady, start_servers};
use lab::{Host, Lab, wait_until};

const BACKENDS: u8 = 3;
const LEAST: &str = "balance = \"least-connections\"\n";
/// What a tick that begins in the middle of a burst may add: its SYNs begin to be counted anew.
const TOLERANCE: u64 = 3;
/// Longer than three passes over the records, on a busy machine.
const PASSES: Duration = Duration::from_mins(2);

/// A lab with a balancer in front of servers that say who they are.
struct Cluster {
    _servers: Vec<Server>,
    balancer: Balancer,
    service: SocketAddr,
    // Last: what runs in the lab ends before it.
    lab: Lab,
}

impl Cluster {
    /// With a service that forwards so, places connections so, and gives its first backend this weight.
    fn start(forward: &str, balance: &str, weight: u32) -> Self {
        let lab = Lab::builder().backends(BACKENDS).start().unwrap();
        if forward == "nat" {
            take_vips_off_backends(&lab).unwrap();
        }
        let servers = start_servers(&lab, HS2_PORT).unwrap();
        let service = SocketAddr::from((lab.vips()[0].v4, HS2_PORT));
        let configuration = configuration(&lab, forward, balance, weight);
        let balancer = Balancer::start(&lab, &lab.balancers()[0], configuration).unwrap();
        Self {
            _servers: servers,
            balancer,
            service,
            lab,
        }
    }

    fn reload(&mut self, balance: &str, weight: u32) {
        let configuration = configuration(&self.lab, "dsr", balance, weight);
        self.balancer.reconfigure(configuration).unwrap();
        let output = self.balancer.lb_ctl(&["reload"]).unwrap();
        assert_eq!(output.code, Some(0), "{output:?}");
    }

    fn client(&self) -> &Host {
        &self.lab.clients()[0]
    }

    /// So many connections at once, from ports of their own.
    fn hold(&self, first_port: u16, connections: u16, change: impl FnOnce(&mut Options)) -> Steady {
        let mut options = Steady::options(self.client(), self.service, connections);
        options.first_port = first_port;
        change(&mut options);
        Steady::start(self.client(), options).unwrap()
    }

    /// The live connections that the data path counts, by backend.
    fn counted(&self) -> BTreeMap<String, u64> {
        let client = SocketAddr::from((self.client().v4(), 1));
        let candidates = self
            .balancer
            .explain(client, "impala")
            .unwrap()
            .candidates
            .into_iter();
        candidates.map(|it| (it.backend, it.connections)).collect()
    }
}

fn configuration(lab: &Lab, forward: &str, balance: &str, weight: u32) -> Configuration {
    let backends: Vec<_> = lab
        .backends()
        .iter()
        .zip([weight, 1, 1])
        .map(|(host, weight)| (host.name(), host.v4().into(), weight))
        .collect();
    let port = format!("port = {HS2_PORT}\n");
    Configuration::of(lab, &lab.balancers()[0])
        .service_by(forward, "impala", lab.vips()[0].v4.into(), &backends)
        .with(&port, &format!("{port}{balance}"))
        .unwrap()
}

/// The sum of what several clients hold, by server.
fn held(clients: &mut [&mut Steady]) -> BTreeMap<String, u64> {
    let mut sum = BTreeMap::new();
    for steady in clients {
        for (server, connections) in steady.expect_unbroken().unwrap().servers {
            *sum.entry(server).or_default() += connections;
        }
    }
    sum
}

#[track_caller]
fn assert_shares(held: &BTreeMap<String, u64>, expected: [u64; BACKENDS as usize]) {
    for (index, expected) in (1..).zip(expected) {
        let name = held.keys().find(|name| name.ends_with(&index.to_string()));
        let found = name.map_or(0, |name| held[name]);
        assert!(
            found.abs_diff(expected) <= TOLERANCE,
            "expected {expected} on backend {index}: {held:?}"
        );
    }
}

#[test]
fn backends_are_level_however_long_connections_last() {
    for forward in ["dsr", "nat"] {
        let cluster = Cluster::start(forward, LEAST, 1);
        // All of them at once.
        let mut first = cluster.hold(10_000, 150, |_| ());
        assert_shares(&held(&mut [&mut first]), [50, 50, 50]);
        let mut second = cluster.hold(20_000, 60, |_| ());
        assert_shares(&held(&mut [&mut second]), [20, 20, 20]);
        let summary = first.finish().unwrap();
        assert_eq!(summary.broken, [], "{forward}");
        let mut third = cluster.hold(30_000, 60, |_| ());
        let held = held(&mut [&mut second, &mut third]);
        assert_shares(&held, [40, 40, 40]);
        assert_shares(&cluster.counted(), [40, 40, 40]);
        assert_eq!(cluster.counted().values().sum::<u64>(), 120, "{forward}");
    }
}

#[test]
fn weights_count_and_who_comes_back_gets_the_new_ones_until_it_has_as_many() {
    let mut cluster = Cluster::start("dsr", LEAST, 0);
    let mut old = cluster.hold(10_000, 60, |_| ());
    assert_shares(&held(&mut [&mut old]), [0, 30, 30]);
    cluster.reload(LEAST, 1);
    let mut new = cluster.hold(20_000, 30, |_| ());
    assert_shares(&held(&mut [&mut new]), [30, 0, 0]);
    cluster.reload(LEAST, 2);
    let mut more = cluster.hold(30_000, 30, |_| ());
    assert_shares(&held(&mut [&mut more]), [30, 0, 0]);
    assert_shares(&held(&mut [&mut old, &mut new, &mut more]), [60, 30, 30]);
    for steady in [old, new, more] {
        assert_eq!(steady.finish().unwrap().broken, []);
    }
}

#[test]
fn who_comes_back_with_a_slow_start_gets_its_part_and_not_all_new_ones() {
    // Its first tenth lasts for minutes.
    let checked = format!("{LEAST}check = {{ type = \"tcp\", interval = \"200ms\" }}\n");
    let slowly = format!("{checked}slow_start = \"1h\"\n");
    let mut cluster = Cluster::start("dsr", &slowly, 1);
    let (host, address) = (
        cluster.balancer.host().clone(),
        cluster.lab.backends()[0].v4().to_string(),
    );
    let wait_for = |cluster: &Cluster, health: &str, tenths: Option<u32>| {
        wait_until(&format!("the first backend to be {health}"), PATIENCE, || {
            let backend = cluster.balancer.backends().unwrap().remove(0);
            let is_so = backend.health == health && backend.slow_start_tenths == tenths;
            is_so.then_some(()).ok_or(format!("{backend:?}"))
        })
        .unwrap();
    };
    wait_for(&cluster, "up", None);
    host.run(&["ip", "route", "add", "unreachable", &address])
        .unwrap();
    wait_for(&cluster, "down", None);
    let mut old = cluster.hold(10_000, 100, |_| ());
    assert_shares(&held(&mut [&mut old]), [0, 50, 50]);

    host.run(&["ip", "route", "del", "unreachable", &address])
        .unwrap();
    wait_for(&cluster, "up", Some(1));
    let mut new = cluster.hold(20_000, 68, |_| ());
    assert_shares(&held(&mut [&mut old, &mut new]), [8, 80, 80]);

    // Without it, the fewest are the fewest.
    cluster.reload(&checked, 1);
    let mut more = cluster.hold(30_000, 60, |_| ());
    assert_shares(&held(&mut [&mut more]), [60, 0, 0]);
    for steady in [old, new, more] {
        assert_eq!(steady.finish().unwrap().broken, []);
    }
}

#[test]
fn a_change_of_placement_breaks_nothing_nor_does_a_kill() {
    let mut cluster = Cluster::start("dsr", "", 1);
    let mut by_hash = cluster.hold(10_000, 100, |options| options.short_rate = 50);
    cluster.reload(LEAST, 1);
    let mut by_count = cluster.hold(20_000, 90, |_| ());
    assert_shares(&held(&mut [&mut by_count]), [30, 30, 30]);
    held(&mut [&mut by_hash]);

    cluster.balancer.daemon().unwrap().kill().unwrap();
    let mut unattended = cluster.hold(30_000, 30, |_| ());
    assert_shares(&held(&mut [&mut unattended]), [10, 10, 10]);
    cluster.balancer.run(&[]).unwrap();
    held(&mut [&mut by_hash, &mut by_count, &mut unattended]);
    assert_shares(&cluster.counted(), [40, 40, 40]);

    // With tables of other sizes, they are counted anew.
    cluster.balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
    let interfaces = "interfaces = [\"eth0\"]\n";
    let other = cluster
        .balancer
        .configuration()
        .clone()
        .with(interfaces, &format!("{interfaces}max_flows = 300000\n"))
        .unwrap();
    cluster.balancer.reconfigure(other).unwrap();
    cluster.balancer.run(&[]).unwrap();
    held(&mut [&mut by_hash, &mut by_count, &mut unattended]);
    assert_shares(&cluster.counted(), [40, 40, 40]);

    for (balance, weight) in [("", 1), (LEAST, 2), ("", 2)] {
        cluster.balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
        let configuration = configuration(&cluster.lab, "dsr", balance, weight);
        cluster.balancer.reconfigure(configuration).unwrap();
        cluster.balancer.run(&[]).unwrap();
        held(&mut [&mut by_hash, &mut by_count, &mut unattended]);
    }
    for steady in [by_hash, by_count, unattended] {
        let summary = steady.finish().unwrap();
        assert_eq!((summary.broken, summary.short_failures), (vec![], 0));
    }
}

#[test]
fn a_count_that_is_wrong_is_corrected_while_connections_live() {
    let cluster = Cluster::start("dsr", LEAST, 1);
    let mut steady = cluster.hold(10_000, 60, |_| ());
    assert_shares(&held(&mut [&mut steady]), [20, 20, 20]);
    let before = cluster.counted();
    cluster.balancer.miscount(u32::from(BACKENDS), 5).unwrap();
    assert_eq!(cluster.counted().values().sum::<u64>(), 75);
    wait_until("the counts to be those of the records again", PASSES, || {
        let counted = cluster.counted();
        (counted == before).then_some(()).ok_or(format!("{counted:?}"))
    })
    .unwrap();
    assert_eq!(steady.finish().unwrap().broken, []);
}
