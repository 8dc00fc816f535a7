//! Tier 2: operators take backends out and bring them back, with real clients on them, whatever becomes of the daemon and its disk.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use lab::balancing::{
    Balancer, Configuration, Coordinator, HS2_PORT, Output, PATIENCE, start_coordinators,
    take_vips_off_backends,
};
use lab::clients::held::{all_live, connect_from_ports, count_resets, hold_sessions, homes};
use lab::clients::hs2::{Session, coordinator_name};
use lab::impalad::hs2::RUNNING_STATE;
use lab::impalad::thrift_value::Value;
use lab::{Lab, wait_until};
use lb_ctl::core::operator::{Admin, Decided, DrainStatus, End};
use lb_ctl::core::status::{BackendStatus, DecisionsStatus};

/// Quick enough for a test, and patient enough for a busy machine.
const CHECK: &str =
    "[service.check]\ntype = \"impala\"\ninterval = \"250ms\"\nfast_interval = \"100ms\"\ntimeout = \"5s\"\n";

/// A lab with a balancer in front of coordinators.
struct Cluster {
    lab: Lab,
    coordinators: Vec<Coordinator>,
    balancer: Balancer,
}

impl Cluster {
    /// The daemon does not run yet.
    fn prepare(backends: u8, check: &str) -> Self {
        let lab = Lab::builder()
            .balancers(1)
            .backends(backends)
            .clients(1)
            .vips(1)
            .start()
            .unwrap();
        let coordinators = start_coordinators(&lab).unwrap();
        let configuration = configuration(&lab, &coordinators, check);
        let balancer = Balancer::prepare(&lab, &lab.balancers()[0], configuration).unwrap();
        Self {
            lab,
            coordinators,
            balancer,
        }
    }

    fn new(backends: u8, check: &str) -> Self {
        let mut cluster = Self::prepare(backends, check);
        cluster.balancer.run(&[]).unwrap();
        cluster
    }

    fn connect(&self, ports: Range<u16>) -> Vec<TcpStream> {
        let client = &self.lab.clients()[0];
        let service = SocketAddr::from((self.lab.vips()[0].v4, HS2_PORT));
        connect_from_ports(client, service, ports).unwrap()
    }

    /// How many of 40 new connections each coordinator gets, from ports from this one on.
    fn served_from(&self, first: u16) -> BTreeMap<String, u32> {
        let mut counts = BTreeMap::new();
        for stream in self.connect(first..first + 40) {
            *counts.entry(coordinator_name(&stream).unwrap()).or_default() += 1;
        }
        counts
    }

    fn backend(&self, number: usize) -> BackendStatus {
        self.balancer.backends().unwrap().swap_remove(number - 1)
    }

    fn decisions(&self) -> DecisionsStatus {
        self.balancer.status().unwrap().decisions
    }

    fn command(&self, arguments: &[&str]) -> Output {
        self.balancer.lb_ctl(arguments).unwrap()
    }

    /// Gives a command that must succeed, and returns what it prints.
    fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments);
        assert_eq!(output.code, Some(0), "{arguments:?}: {output:?}");
        output.stdout
    }

    fn restart(&mut self) {
        self.balancer.daemon().unwrap().kill().unwrap();
        self.balancer.run(&[]).unwrap();
    }
}

fn configuration(lab: &Lab, coordinators: &[Coordinator], check: &str) -> Configuration {
    let backends: Vec<_> = coordinators
        .iter()
        .map(|coordinator| (coordinator.name.as_str(), coordinator.address.into(), 1))
        .collect();
    Configuration::of(lab, &lab.balancers()[0])
        .service("impala", lab.vips()[0].v4.into(), &backends)
        .with("port = 21050\n", &format!("port = 21050\n{check}"))
        .unwrap()
}

#[test]
fn a_drain_holds_from_the_next_syn_on_through_kills_and_reloads() {
    let mut cluster = Cluster::new(3, "");
    let streams = cluster.connect(20_000..20_060);
    let mut sessions = hold_sessions(&streams).unwrap();
    let said = cluster.succeed(&["drain", "impala1"]);
    assert_eq!(
        said,
        "impala/impala1: draining, weight 1, no new connections, existing ones stay\n"
    );
    let expected = ["impala2", "impala3"];
    let names = |counts: BTreeMap<String, u32>| counts.into_keys().collect::<Vec<_>>();
    assert_eq!(names(cluster.served_from(21_000)), expected);
    all_live(&mut sessions, "while their coordinator drains").unwrap();
    let drained = cluster.backend(1);
    assert_eq!((drained.admin.as_str(), drained.slots), ("draining", 0));

    cluster.restart();
    assert_eq!(cluster.backend(1).admin, "draining");
    assert_eq!(names(cluster.served_from(22_000)), expected);
    all_live(&mut sessions, "after a kill").unwrap();

    // Who is taken out of the configuration and comes back is drained all the same.
    let whole = cluster.balancer.configuration().clone();
    let without = Configuration::of(&cluster.lab, &cluster.lab.balancers()[0]).service(
        "impala",
        cluster.lab.vips()[0].v4.into(),
        &[
            ("impala2", cluster.coordinators[1].address.into(), 1),
            ("impala3", cluster.coordinators[2].address.into(), 1),
        ],
    );
    cluster.balancer.reconfigure(without).unwrap();
    cluster.succeed(&["reload"]);
    assert_eq!(cluster.decisions().not_configured, ["impala1"]);
    cluster.balancer.reconfigure(whole).unwrap();
    cluster.succeed(&["reload"]);
    assert_eq!(cluster.backend(1).admin, "draining");
    assert_eq!(names(cluster.served_from(23_000)), expected);

    cluster.succeed(&["undrain", "impala1"]);
    assert_eq!(
        names(cluster.served_from(24_000)),
        ["impala1", "impala2", "impala3"]
    );
    all_live(&mut sessions, "after the drain was taken back").unwrap();
    cluster.restart();
    assert_eq!(cluster.backend(1).admin, "enabled");
}

#[test]
fn two_hundred_connections_that_run_queries_end_before_a_drain_that_is_waited_for() {
    // Fewer connections on each than the 64 that a coordinator serves at a time.
    let cluster = Cluster::new(5, CHECK);
    let streams = cluster.connect(20_000..20_200);
    let begun = Barrier::new(streams.len() + 1);
    let (ends, output, returned) = thread::scope(|scope| {
        let clients: Vec<_> = streams
            .into_iter()
            .enumerate()
            .map(|(number, stream)| {
                let begun = &begun;
                scope.spawn(move || {
                    let mut session = Session::open(&stream).unwrap();
                    let home = session.coordinator().unwrap();
                    let statement = format!("select sleep({})", 3000 + 20 * number);
                    let query = session.start(&statement).unwrap();
                    begun.wait();
                    // As clients do, they ask from time to time.
                    while session.state(&query).unwrap() == RUNNING_STATE {
                        thread::sleep(Duration::from_millis(300));
                    }
                    let (columns, _) = session.fetch(&query).unwrap();
                    assert_eq!(columns, [[Value::Bool(true)]], "{home}");
                    session.close_query(&query).unwrap();
                    session.close().unwrap();
                    let end = Instant::now();
                    drop(stream);
                    (home, end)
                })
            })
            .collect();
        begun.wait();
        let output = cluster.command(&["drain", "impala1", "--wait"]);
        let returned = Instant::now();
        let ends: Vec<(String, Instant)> = clients.into_iter().map(|it| it.join().unwrap()).collect();
        (ends, output, returned)
    });
    assert_eq!(output.code, Some(0), "{output:?}");
    let drained: Vec<&Instant> = ends
        .iter()
        .filter(|(home, _)| home == "impala1")
        .map(|(_, end)| end)
        .collect();
    assert!(drained.len() > 20, "{}", drained.len());
    assert!(
        drained.iter().all(|end| **end < returned),
        "it has waited for all"
    );
    let last = output.stdout.lines().last().unwrap();
    assert!(last.contains("the coordinator itself counts none"), "{output:?}");
    // How far it was, as the clients left.
    let left: Vec<usize> = output
        .stdout
        .lines()
        .filter_map(|line| {
            line.strip_prefix("impala/impala1: ")?
                .split_once(" connections seen")?
                .0
                .parse()
                .ok()
        })
        .collect();
    assert!(left.iter().any(|left| *left > 0), "{output:?}");
    assert_eq!(
        cluster.served_from(21_000).into_keys().collect::<Vec<_>>(),
        ["impala2", "impala3", "impala4", "impala5"]
    );
}

#[test]
fn disable_resets_connections_and_enable_brings_the_backend_back() {
    let cluster = Cluster::new(3, "on_down = \"keep\"");
    let streams = cluster.connect(20_000..20_040);
    let homes = homes(&streams).unwrap();
    let said = cluster.succeed(&["disable", "impala2", "--wait"]);
    assert!(said.ends_with("no connection leads there any more\n"), "{said}");
    assert_eq!(cluster.backend(2).admin, "disabled");
    assert!(count_resets(&streams, &homes, "impala2").unwrap() > 5);
    assert!(!cluster.served_from(21_000).contains_key("impala2"));

    let output = cluster.command(&["undrain", "impala2"]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("lb-ctl enable impala2"), "{output:?}");
    cluster.succeed(&["enable", "impala2"]);
    assert_eq!(cluster.backend(2).admin, "enabled");
    assert!(cluster.served_from(22_000).contains_key("impala2"));
}

#[test]
fn a_deadline_holds_whether_or_not_anybody_waits_and_over_a_kill() {
    let mut cluster = Cluster::new(3, "");
    let streams = cluster.connect(20_000..20_040);
    let homes = homes(&streams).unwrap();
    let said = cluster.succeed(&["drain", "impala3", "--deadline", "3s", "--json"]);
    let decided: Decided = serde_json::from_str(&said).unwrap();
    assert_eq!(decided.backends[0].admin, Admin::Draining);
    assert_eq!(decided.backends[0].deadline_seconds, Some(3));
    cluster.balancer.daemon().unwrap().kill().unwrap();
    cluster.balancer.run(&[]).unwrap();
    wait_until("the deadline", PATIENCE, || {
        cluster.backend(3).admin == "disabled"
    })
    .unwrap();
    // A drain that is over can be waited for, and says for programs how it ended.
    let said = cluster.succeed(&["disable", "impala3", "--wait", "--json"]);
    let status: DrainStatus = serde_json::from_str(&said).unwrap();
    assert_eq!(status.backends[0].end, Some(End::Settled));
    assert!(count_resets(&streams, &homes, "impala3").unwrap() > 5);
}

#[test]
fn the_connections_of_a_backend_that_is_leaving_end_when_an_operator_says_so() {
    let mut cluster = Cluster::new(3, "");
    let streams = cluster.connect(20_000..20_060);
    let homes = homes(&streams).unwrap();
    cluster.succeed(&["drain", "impala3", "--deadline", "1h"]);
    let only_the_first = Configuration::of(&cluster.lab, &cluster.lab.balancers()[0]).service(
        "impala",
        cluster.lab.vips()[0].v4.into(),
        &[("impala1", cluster.coordinators[0].address.into(), 1)],
    );
    cluster.balancer.reconfigure(only_the_first).unwrap();
    cluster.succeed(&["reload"]);
    let leaving = |name: &str| {
        let backends = cluster.balancer.backends().unwrap();
        backends.into_iter().find(|it| it.name == name)
    };
    let second = leaving("impala2").expect("its connections live");
    assert_eq!(
        (second.admin.as_str(), second.deadline_seconds),
        ("draining", None)
    );
    let third = leaving("impala3").expect("its connections live");
    assert_eq!(third.admin, "draining");
    assert!(
        third.deadline_seconds.is_some_and(|left| left <= 3600),
        "{third:?}"
    );

    // A deadline that was set before it left counts, and so does a new one.
    cluster.succeed(&["drain", "impala3", "--deadline", "3s"]);
    // A new word about one that is leaving.
    let said = cluster.succeed(&["disable", "impala2", "--wait"]);
    assert!(
        said.starts_with("impala/impala2: disabled, weight 0, no new connections, existing ones are reset\n"),
        "{said}"
    );
    let of = |names: [&str; 2]| -> (Vec<TcpStream>, Vec<String>) {
        let all = streams.iter().zip(&homes);
        let theirs = all.filter(|(_, home)| names.contains(&home.as_str()));
        theirs
            .map(|(stream, home)| (stream.try_clone().unwrap(), home.clone()))
            .unzip()
    };
    let (first_two, their_homes) = of(["impala1", "impala2"]);
    assert!(count_resets(&first_two, &their_homes, "impala2").unwrap() > 5);
    // The deadline. Nothing but the end of its connections frees it so soon.
    wait_until("nobody to be leaving any more", 3 * PATIENCE, || {
        let backends = cluster.balancer.backends().unwrap();
        (backends.len() == 1).then_some(()).ok_or(format!("{backends:?}"))
    })
    .unwrap();
    let log = cluster.balancer.daemon().unwrap().output().unwrap();
    assert!(log.contains("the deadline of its drain has passed"), "{log}");
    let (others, their_homes) = of(["impala1", "impala3"]);
    assert!(count_resets(&others, &their_homes, "impala3").unwrap() > 5);

    let output = cluster.command(&["disable", "impala3"]);
    assert_eq!(output.code, Some(2), "nobody is left to disable: {output:?}");
}

#[test]
fn a_wait_outlasts_the_daemon_and_ends_with_the_last_connection_or_the_drain() {
    let mut cluster = Cluster::prepare(3, "forward = \"nat\"");
    take_vips_off_backends(&cluster.lab).unwrap();
    cluster.balancer.run(&[]).unwrap();
    let streams = cluster.connect(20_000..20_040);
    let mut sessions = hold_sessions(&streams).unwrap();
    let mut wait = cluster
        .balancer
        .begin_lb_ctl("wait-1", &["drain", "impala1", "--wait"])
        .unwrap();
    wait.wait_for_line(" connections seen since it began", PATIENCE)
        .unwrap();
    cluster.restart();
    all_live(&mut sessions, "while their coordinator drains").unwrap();
    assert_eq!(wait.exit_status().unwrap(), None, "connections are left");
    cluster.succeed(&["undrain", "impala1"]);
    assert_eq!(wait.wait(PATIENCE).unwrap().code(), Some(1));
    let said = wait.output().unwrap();
    assert!(said.contains("somebody has taken the decision back"), "{said}");

    let mut wait = cluster
        .balancer
        .begin_lb_ctl("wait-2", &["drain", "impala1", "--wait"])
        .unwrap();
    wait.wait_for_line(" connections seen since it began", PATIENCE)
        .unwrap();
    let homes: Vec<String> = sessions.into_iter().map(|(_, home)| home).collect();
    let mut rest = Vec::new();
    for (stream, home) in streams.into_iter().zip(homes) {
        if home != "impala1" {
            rest.push((stream, home));
        }
    }
    assert_eq!(wait.wait(PATIENCE).unwrap().code(), Some(0));
    let said = wait.output().unwrap();
    assert!(
        said.contains("every connection of this service is recorded"),
        "{said}"
    );
    for (stream, home) in &rest {
        assert_eq!(&coordinator_name(stream).unwrap(), home);
    }
}

#[test]
fn weights_follow_the_operator_until_told_otherwise() {
    let mut cluster = Cluster::new(3, "");
    let streams = cluster.connect(20_000..20_040);
    let mut sessions = hold_sessions(&streams).unwrap();
    let shares = |cluster: &Cluster| -> Vec<u32> {
        let backends = cluster.balancer.backends().unwrap();
        let tenths = |slots: u32| (slots * 10 + 65_537 / 2) / 65_537;
        backends.iter().map(|backend| tenths(backend.slots)).collect()
    };
    cluster.succeed(&["weight", "impala1", "8"]);
    assert_eq!(shares(&cluster), [8, 1, 1]);
    let heavier = cluster.backend(1);
    assert_eq!((heavier.weight, heavier.configured_weight), (8, 1));
    let table = cluster.succeed(&["status"]);
    assert!(table.contains("8 (configured: 1)"), "{table}");
    cluster.restart();
    cluster.succeed(&["reload"]);
    assert_eq!(shares(&cluster), [8, 1, 1]);
    cluster.succeed(&["weight", "impala1", "0", "--service", "impala"]);
    assert!(!cluster.served_from(21_000).contains_key("impala1"));
    cluster.succeed(&["weight", "impala1", "config"]);
    assert_eq!(shares(&cluster), [3, 3, 3]);
    all_live(&mut sessions, "after the weights have changed").unwrap();
}

#[test]
fn what_would_do_harm_is_refused() {
    let cluster = Cluster::new(2, "");
    cluster.succeed(&["drain", "impala1"]);
    for command in [&["drain", "impala2"][..], &["weight", "impala2", "0"]] {
        let output = cluster.command(command);
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(
            output
                .stderr
                .contains("no backend would be left for new connections to impala"),
            "{output:?}"
        );
        assert_eq!(cluster.served_from(20_000)["impala2"], 40);
    }
    cluster.succeed(&["disable", "impala2", "--force"]);
    assert_eq!(cluster.backend(2).slots, 0);
    for (command, word) in [
        (&["drain", "impala9"][..], "expected one of: impala1, impala2"),
        (&["drain", "impala1", "--service", "x"], "expected one of: impala"),
        (&["weight", "impala1", "1001"], "from 0 to 1000"),
        (&["drain", "impala1", "--deadline", "5"], "units"),
    ] {
        let output = cluster.command(command);
        assert_eq!(output.code, Some(2), "{output:?}");
        assert!(output.stderr.contains(word), "{output:?}");
    }
}

#[test]
fn damaged_decisions_are_moved_aside_and_the_configuration_serves() {
    let mut cluster = Cluster::prepare(2, "");
    fs::write(cluster.balancer.decisions(), "{\"version\": 1, \"decisi").unwrap();
    cluster.balancer.run(&[]).unwrap();
    assert_eq!(cluster.served_from(20_000).len(), 2);
    let lost = cluster.decisions().unusable.unwrap();
    let aside = lost.split_once("moved it to ").expect(&lost).1;
    assert_eq!(fs::read_to_string(aside).unwrap(), "{\"version\": 1, \"decisi");
    let table = cluster.succeed(&["status"]);
    assert!(table.contains("DECISIONS LOST"), "{table}");
    cluster.succeed(&["drain", "impala1"]);
    cluster.restart();
    assert_eq!(cluster.backend(1).admin, "draining");
    assert_eq!(cluster.decisions(), DecisionsStatus::default());
}

#[test]
fn a_disk_that_is_full_or_cannot_be_written_keeps_nobody_from_draining() {
    for (options, filler) in [("size=4k", "head -c 4096 /dev/zero >"), ("ro", "true ")] {
        let mut cluster = Cluster::prepare(2, "");
        let directory = cluster.lab.directory().join("state");
        fs::create_dir(&directory).unwrap();
        let path = directory.to_str().unwrap().to_owned();
        let old = format!("state_dir = \"{}\"", cluster.lab.directory().display());
        let configuration = cluster.balancer.configuration().clone();
        let configuration = configuration
            .with(&old, &format!("state_dir = \"{path}\""))
            .unwrap();
        cluster.balancer.reconfigure(configuration).unwrap();
        cluster
            .balancer
            .run_after(&format!(
                "mount -t tmpfs -o {options} tmpfs {path}; {filler}{path}/filler"
            ))
            .unwrap();
        let output = cluster.command(&["drain", "impala1"]);
        assert_eq!(output.code, Some(1), "{options}: {output:?}");
        assert!(
            output.stderr.contains("is in force, but could not be kept"),
            "{options}: {output:?}"
        );
        assert_eq!(cluster.served_from(20_000)["impala2"], 40, "{options}");
        assert!(cluster.decisions().not_kept.is_some(), "{options}");
        let table = cluster.succeed(&["status"]);
        assert!(table.contains("DECISIONS NOT KEPT"), "{options}: {table}");

        // As soon as there is room, it is kept without anybody's doing.
        let daemon = cluster.balancer.daemon().unwrap().id().to_string();
        let mend = format!("rm -f {path}/filler; mount -o remount,rw,size=1m {path}");
        let command = ["nsenter", "--mount", "--target", &daemon, "sh", "-ec", &mend];
        cluster.balancer.host().run(&command).unwrap();
        wait_until("the decision to be kept", PATIENCE, || {
            cluster.decisions().not_kept.is_none()
        })
        .unwrap();
        cluster.succeed(&["undrain", "impala1"]);
        assert_eq!(cluster.served_from(21_000).len(), 2, "{options}");
    }
}
