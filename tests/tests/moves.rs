//! Tier 2: slots move while connections live: reloads, drains, restarts in the midst of them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;

use lab::balancing::{Balancer, Configuration, Coordinator, HS2_PORT, Output, PATIENCE, start_coordinators};
use lab::clients::held::{Held, all_live, connect_from_ports, hold_sessions};
use lab::clients::hs2::coordinator_name;
use lab::{Host, Lab, wait_until};
use lb_ctl::core::changes::Changes;
use lb_ctl::core::status::BackendStatus;
use rustix::process::Signal;

/// A lab with a balancer in front of three coordinators.
struct Cluster {
    lab: Lab,
    coordinators: Vec<Coordinator>,
    balancer: Balancer,
}

impl Cluster {
    fn new(weights: &[u32]) -> Self {
        let lab = Lab::builder()
            .balancers(1)
            .backends(3)
            .clients(1)
            .vips(2)
            .start()
            .unwrap();
        let coordinators = start_coordinators(&lab).unwrap();
        let configuration = configuration(&lab, &coordinators, weights);
        let balancer = Balancer::start(&lab, &lab.balancers()[0], configuration).unwrap();
        Self {
            lab,
            coordinators,
            balancer,
        }
    }

    fn client(&self) -> &Host {
        &self.lab.clients()[0]
    }

    /// A configuration of the first coordinators, with these weights.
    fn with_weights(&self, weights: &[u32]) -> Configuration {
        configuration(&self.lab, &self.coordinators, weights)
    }

    fn reload(&mut self, configuration: Configuration) -> Output {
        self.balancer.reconfigure(configuration).unwrap();
        self.balancer.lb_ctl(&["reload"]).unwrap()
    }

    /// Reloads, which must succeed, and returns what it says has changed.
    fn reload_changes(&mut self, configuration: Configuration) -> Changes {
        self.balancer.reconfigure(configuration).unwrap();
        let output = self.balancer.lb_ctl(&["reload", "--json"]).unwrap();
        assert_eq!(output.code, Some(0), "{output:?}");
        serde_json::from_str(&output.stdout).unwrap()
    }

    fn connect(&self, vip: usize, ports: Range<u16>) -> Vec<TcpStream> {
        let client = self.client();
        let service = SocketAddr::from((self.lab.vips()[vip].v4, HS2_PORT));
        connect_from_ports(client, service, ports).unwrap()
    }

    /// How many new connections from these ports each coordinator gets.
    fn new_connections(&self, ports: Range<u16>) -> BTreeMap<String, u32> {
        let mut counts = BTreeMap::new();
        for stream in self.connect(0, ports) {
            *counts.entry(coordinator_name(&stream).unwrap()).or_default() += 1;
        }
        counts
    }

    fn backend(&self, name: &str) -> Option<BackendStatus> {
        let backends = self.balancer.backends().unwrap();
        backends.into_iter().find(|backend| backend.name == name)
    }

    fn tracked_slots(&self) -> u32 {
        self.balancer.status().unwrap().services[0].tracked_slots
    }
}

fn configuration(lab: &Lab, coordinators: &[Coordinator], weights: &[u32]) -> Configuration {
    Configuration::of(lab, &lab.balancers()[0]).service(
        "impala",
        lab.vips()[0].v4.into(),
        &backends(coordinators, weights),
    )
}

fn backends<'a>(coordinators: &'a [Coordinator], weights: &[u32]) -> Vec<(&'a str, std::net::IpAddr, u32)> {
    coordinators
        .iter()
        .zip(weights)
        .map(|(coordinator, &weight)| (coordinator.name.as_str(), coordinator.address.into(), weight))
        .collect()
}

/// Sessions that stay open, and the coordinators on which they live.
struct Sessions<'a> {
    sessions: Vec<Held<'a>>,
}

impl<'a> Sessions<'a> {
    fn open(streams: &'a [TcpStream]) -> Self {
        Self {
            sessions: hold_sessions(streams).unwrap(),
        }
    }

    /// Asks each of them, which must live where it has begun.
    fn check(&mut self, when: &str) {
        all_live(&mut self.sessions, when).unwrap();
    }

    fn on(&self, coordinator: &str) -> usize {
        self.sessions
            .iter()
            .filter(|(_, home)| home == coordinator)
            .count()
    }
}

#[test]
fn a_backend_that_is_removed_keeps_its_connections_through_reloads_and_restarts() {
    let mut cluster = Cluster::new(&[1, 1, 1]);
    let streams = cluster.connect(0, 20_000..20_060);
    let mut sessions = Sessions::open(&streams);
    assert!(sessions.on("impala3") > 10);
    let before = cluster.backend("impala3").unwrap();

    let without = cluster.with_weights(&[1, 1]);
    let output = cluster.reload(without);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(
        output
            .stdout
            .contains("backends removed, draining: impala/impala3"),
        "{output:?}"
    );
    sessions.check("after the reload");
    let moved = cluster.tracked_slots();
    assert!((65_537 / 3..65_537 / 2).contains(&moved), "{moved}");
    assert!(
        output.stdout.contains(&format!("slots moved: {moved} of 65537")),
        "{output:?}"
    );

    // New connections go elsewhere, and are recorded where the slot has moved.
    let later = cluster.connect(0, 21_000..21_060);
    let mut later = Sessions::open(&later);
    assert_eq!(later.on("impala3"), 0);
    let leaving = cluster.backend("impala3").unwrap();
    assert_eq!(
        (leaving.admin.as_str(), leaving.slots, leaving.weight),
        ("draining", 0, 0)
    );
    assert!(leaving.packets > before.packets, "its counters continue");
    assert_eq!(leaving.next_hop, before.next_hop);

    for (end, how) in [(true, "SIGTERM"), (false, "SIGKILL")] {
        let before = cluster.balancer.backends().unwrap();
        let daemon = cluster.balancer.daemon().unwrap();
        if end {
            daemon.terminate(PATIENCE).unwrap();
        } else {
            daemon.kill().unwrap();
        }
        sessions.check(&format!("after {how}"));
        later.check(&format!("after {how}"));
        cluster.balancer.run(&[]).unwrap();
        sessions.check(&format!("after {how} and a restart"));
        later.check(&format!("after {how} and a restart"));
        let log = cluster.balancer.daemon().unwrap().output().unwrap();
        assert!(log.contains("took over the tables of an earlier run"), "{log}");
        assert_eq!(cluster.tracked_slots(), moved, "tracked slots stay so");
        let after = cluster.balancer.backends().unwrap();
        for (before, after) in before.iter().zip(&after) {
            assert_eq!((&before.name, &before.admin), (&after.name, &after.admin));
            assert!(after.new_flows >= before.new_flows, "{before:?} {after:?}");
            assert!(after.packets > before.packets, "{before:?} {after:?}");
        }
        // The pass at the start has counted them.
        let tracked: u64 = after.iter().map(|backend| backend.tracked_flows).sum();
        assert!(
            (10..=60).contains(&tracked),
            "{tracked} of 60 connections in moved slots"
        );
        assert_eq!(
            cluster.backend("impala3").unwrap().tracked_flows,
            0,
            "those that need none"
        );
    }

    // It comes back, by a signal this time: the same backend, with its counters.
    let before = cluster.backend("impala3").unwrap();
    let with = cluster.with_weights(&[1, 1, 1]);
    cluster.balancer.reconfigure(with).unwrap();
    let daemon = cluster.balancer.daemon().unwrap();
    daemon.signal(Signal::HUP).unwrap();
    daemon.wait_for_line("reloaded", PATIENCE).unwrap();
    sessions.check("after it came back");
    later.check("after it came back");
    let back = cluster.backend("impala3").unwrap();
    assert_eq!(back.admin, "enabled");
    assert!(back.packets > before.packets);
    assert!(cluster.new_connections(22_000..22_060)["impala3"] > 10);
}

#[test]
fn a_backend_that_gets_less_weight_keeps_its_connections() {
    let mut cluster = Cluster::new(&[2, 1, 1]);
    let streams = cluster.connect(0, 20_000..20_080);
    let mut sessions = Sessions::open(&streams);
    let lighter = cluster.with_weights(&[0, 1, 1]);
    let changes = cluster.reload_changes(lighter);
    assert_eq!(changes.backends_changed, ["impala/impala1"]);
    assert!(changes.slots_moved >= 65_537 / 2, "{changes:?}");
    sessions.check("after the reload");
    let counts = cluster.new_connections(21_000..21_080);
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["impala2", "impala3"]);
    assert_eq!(cluster.backend("impala1").unwrap().admin, "enabled");
    sessions.check("after new connections");
}

#[test]
fn slots_that_come_back_settle_and_a_backend_without_connections_goes() {
    let mut cluster = Cluster::new(&[1, 1, 0]);
    for weights in [&[1, 0, 0], &[1, 1, 0]] {
        let configuration = cluster.with_weights(weights);
        assert!(cluster.reload_changes(configuration).slots_moved > 0);
    }
    assert!(cluster.tracked_slots() > 20_000, "they have moved there and back");
    let without = cluster.with_weights(&[1, 1]);
    assert_eq!(
        cluster.reload_changes(without).backends_removed,
        ["impala/impala3"]
    );
    assert_eq!(cluster.backend("impala3").unwrap().admin, "draining");
    wait_until("the slots to settle", PATIENCE, || cluster.tracked_slots() == 0).unwrap();
    let is_gone = || cluster.backend("impala3").is_none();
    wait_until("the backend without connections to go", PATIENCE, is_gone).unwrap();

    // Its id is free: the next one that gets it begins at zero.
    let with = cluster.with_weights(&[1, 1, 1]);
    assert_eq!(cluster.reload_changes(with).backends_added, ["impala/impala3"]);
    let anew = cluster.backend("impala3").unwrap();
    assert_eq!((anew.packets, anew.new_flows), (0, 0));
    assert!(anew.next_hop.is_some(), "it was resolved before it got slots");
}

#[test]
fn services_come_and_go_beside_others() {
    let mut cluster = Cluster::new(&[1, 1, 1]);
    let streams = cluster.connect(0, 20_000..20_030);
    let mut sessions = Sessions::open(&streams);
    let second = |lab: &Lab, coordinators: &[Coordinator], first: Configuration| {
        first.service(
            "second",
            lab.vips()[1].v4.into(),
            &backends(coordinators, &[1, 1]),
        )
    };
    let first = cluster.with_weights(&[1, 1, 1]);
    let both = second(&cluster.lab, &cluster.coordinators, first);
    assert_eq!(cluster.reload_changes(both.clone()).services_added, ["second"]);
    let streams2 = cluster.connect(1, 20_000..20_030);
    let mut sessions2 = Sessions::open(&streams2);
    sessions.check("beside a new service");

    // The first one goes: the second keeps its slots, whatever its place in the file.
    let only_second = second(
        &cluster.lab,
        &cluster.coordinators,
        Configuration::of(&cluster.lab, &cluster.lab.balancers()[0]),
    );
    assert_eq!(cluster.reload_changes(only_second).services_removed, ["impala"]);
    sessions2.check("after the other service has gone");
    let vip = cluster.lab.vips()[0].v4.to_string();
    let addresses = cluster
        .balancer
        .host()
        .run(&["ip", "-4", "-o", "addr", "show"])
        .unwrap();
    assert!(!addresses.contains(&vip), "{addresses}");

    cluster.balancer.daemon().unwrap().kill().unwrap();
    cluster.balancer.run(&[]).unwrap();
    sessions2.check("after a restart");
    assert_eq!(cluster.reload_changes(both).services_added, ["impala"]);
    sessions2.check("beside a service that is there again");
    assert_eq!(cluster.new_connections(23_000..23_030).values().sum::<u32>(), 30);
}

#[test]
fn a_reload_that_is_refused_changes_nothing() {
    let mut cluster = Cluster::new(&[1, 1, 1]);
    let before = cluster.balancer.backends().unwrap();
    let sound = cluster.with_weights(&[1, 1, 1]);
    for (part, replacement, words) in [
        (
            "weight = 1",
            "weight = 1001",
            "backend[impala1].weight: expected an integer",
        ),
        (
            "interfaces = [\"eth0\"]",
            "interfaces = [\"eth0\"]\nmax_flows = 4096",
            "datapath.max_flows: expected 262144, as it is running, found 4096; a change needs a restart",
        ),
        (
            "interfaces = [\"eth0\"]",
            "interfaces = [\"eth0\"]\nhash_seed = 1",
            "breaks all connections",
        ),
        ("address = \"10.77.0.101\"", "address = \"192.0.2.1\"", "no route"),
    ] {
        let output = cluster.reload(sound.clone().with(part, replacement).unwrap());
        assert_eq!(output.code, Some(2), "{output:?}");
        assert!(output.stderr.contains(words), "{}", output.stderr);
        let file = cluster.balancer.file().display().to_string();
        assert!(
            output.stderr.starts_with(&format!("{file}:")),
            "{}",
            output.stderr
        );
        assert_eq!(cluster.balancer.backends().unwrap(), before);
    }
    let same = cluster.reload(sound);
    assert!(
        same.stdout
            .contains("are as they were\nslots moved: 0 of 65537 (0.0 %)"),
        "{same:?}"
    );

    cluster.balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
    assert_eq!(
        cluster.balancer.lb_ctl(&["reload"]).unwrap().code,
        Some(3),
        "no daemon"
    );
}

#[test]
fn tables_of_other_sizes_take_everything_along() {
    let mut cluster = Cluster::new(&[1, 1, 1]);
    let streams = cluster.connect(0, 20_000..20_040);
    let mut sessions = Sessions::open(&streams);
    let without = cluster.with_weights(&[1, 1]);
    cluster.reload_changes(without.clone());
    let later = cluster.connect(0, 21_000..21_040);
    let mut later = Sessions::open(&later);
    let (before, moved) = (cluster.balancer.backends().unwrap(), cluster.tracked_slots());

    for sizes in [
        "max_flows = 2048\nmax_backends = 2000\nmax_services = 3",
        "max_flows = 500000\nmax_backends = 5\nmax_services = 100",
    ] {
        cluster.balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
        let interfaces = "interfaces = [\"eth0\"]";
        let resized = without
            .clone()
            .with(interfaces, &format!("{interfaces}\n{sizes}"))
            .unwrap();
        cluster.balancer.reconfigure(resized).unwrap();
        cluster.balancer.run(&[]).unwrap();
        let log = cluster.balancer.daemon().unwrap().output().unwrap();
        assert!(
            log.contains("moved everything into tables of the configured sizes"),
            "{log}"
        );
        sessions.check("in tables of other sizes");
        later.check("in tables of other sizes");
        assert_eq!(cluster.tracked_slots(), moved);
        let after = cluster.balancer.backends().unwrap();
        assert_eq!(before.len(), after.len());
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(before.name, after.name);
            assert!(after.new_flows >= before.new_flows && after.packets > before.packets);
        }
        assert!(after.iter().map(|backend| backend.tracked_flows).sum::<u64>() >= 5);
    }
}

#[test]
fn a_start_with_other_sizes_that_fails_puts_the_old_tables_back() {
    let mut cluster = Cluster::new(&[1, 1, 1]);
    let streams = cluster.connect(0, 20_000..20_040);
    let mut sessions = Sessions::open(&streams);
    let without = cluster.with_weights(&[1, 1]);
    cluster.reload_changes(without.clone());
    let later = cluster.connect(0, 21_000..21_040);
    let mut later = Sessions::open(&later);
    cluster.balancer.daemon().unwrap().terminate(PATIENCE).unwrap();

    // A bridge has no native mode, as is found out when the other interface has the new program already.
    let host = cluster.balancer.host();
    host.run(&["ip", "link", "add", "br9", "type", "bridge"]).unwrap();
    host.run(&["ip", "link", "set", "dev", "br9", "up"]).unwrap();
    let interfaces = "interfaces = [\"eth0\"]";
    let both = "interfaces = [\"eth0\", \"br9\"]\nmode = \"native\"\nmax_flows = 2048";
    let impossible = without.clone().with(interfaces, both).unwrap();
    cluster.balancer.reconfigure(impossible).unwrap();
    let file = cluster.balancer.file().display().to_string();
    let output = cluster
        .balancer
        .lb_ctl_alone(&["run", "--config", &file])
        .unwrap();
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(
        output.stderr.contains("could be attached to interface br9"),
        "{}",
        output.stderr
    );
    sessions.check("after the start that failed");
    later.check("after the start that failed, recorded");
    assert_eq!(cluster.connect(0, 22_000..22_010).len(), 10);

    let possible = without
        .with(interfaces, &format!("{interfaces}\nmax_flows = 2048"))
        .unwrap();
    cluster.balancer.reconfigure(possible).unwrap();
    cluster.balancer.run(&[]).unwrap();
    sessions.check("after the next start");
    later.check("after the next start, recorded");
}

#[test]
fn a_start_that_would_break_connections_is_refused_and_they_live_on() {
    let mut cluster = Cluster::new(&[1, 1, 1]);
    let streams = cluster.connect(0, 20_000..20_020);
    let mut sessions = Sessions::open(&streams);
    cluster.balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
    let interfaces = "interfaces = [\"eth0\"]";
    for (line, word) in [
        (
            "hash_seed = 5",
            "7: datapath.hash_seed: expected 0x1b873593cc9e2d51",
        ),
        (
            "slots_per_service = 251",
            "7: datapath.slots_per_service: expected 65537",
        ),
        ("max_backends = 3\nmax_services = 1", ""),
    ] {
        let changed = cluster
            .with_weights(&[1, 1, 1])
            .with(interfaces, &format!("{interfaces}\n{line}"))
            .unwrap();
        cluster.balancer.reconfigure(changed).unwrap();
        if word.is_empty() {
            // What is just large enough is no reason to refuse.
            cluster.balancer.run(&[]).unwrap();
        } else {
            let file = cluster.balancer.file().display().to_string();
            let output = cluster
                .balancer
                .lb_ctl_alone(&["run", "--config", &file])
                .unwrap();
            assert_eq!(output.code, Some(2), "{output:?}");
            assert!(output.stderr.contains(word), "{}", output.stderr);
            assert!(output.stderr.contains("`lb-ctl detach`"), "{}", output.stderr);
        }
        sessions.check(line);
    }
}

#[test]
fn maps_of_another_shape_are_refused_and_forward_on() {
    let mut cluster = Cluster::new(&[1, 1, 1]);
    let streams = cluster.connect(0, 20_000..20_010);
    let mut sessions = Sessions::open(&streams);
    cluster.balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
    let version = format!("v{}", lb_common::layout::VERSION);
    let maps = cluster.balancer.configuration().pins().join(version).join("maps");
    let file = cluster.balancer.file().display().to_string();

    let pin = maps.join("RECORDS_SHORT");
    std::fs::remove_file(&pin).unwrap();
    let output = cluster
        .balancer
        .lb_ctl_alone(&["run", "--config", &file])
        .unwrap();
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("found none"), "{}", output.stderr);
    sessions.check("without a pin");

    let other = aya::maps::Array::<aya::maps::MapData, u64>::create(1, 0).unwrap();
    other.pin(&pin).unwrap();
    let output = cluster
        .balancer
        .lb_ctl_alone(&["run", "--config", &file])
        .unwrap();
    assert_eq!(output.code, Some(1), "{output:?}");
    for words in ["RECORDS_SHORT: expected value size 4, found 8", "`lb-ctl detach`"] {
        assert!(output.stderr.contains(words), "{}", output.stderr);
    }
    sessions.check("beside a map of another shape");

    // Which does what it says.
    let node = cluster.balancer.configuration().node().to_owned();
    let detached = cluster.balancer.lb_ctl(&["detach", "--node", &node]).unwrap();
    assert_eq!(detached.code, Some(0), "{detached:?}");
    cluster.balancer.run(&[]).unwrap();
    assert_eq!(cluster.new_connections(21_000..21_010).values().sum::<u32>(), 10);
}
