//! Tier 2: the controller checks real coordinators, and new connections and old ones follow their health.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;

use lab::balancing::{Balancer, Configuration, Coordinator, HS2_PORT, PATIENCE, start_coordinators};
use lab::clients::held::{all_live, connect_from_ports, hold_sessions, homes};
use lab::clients::hs2::{coordinator_name, only_string};
use lab::{Host, Lab, wait_until};
use lb_ctl::core::status::{BackendStatus, ServiceStatus};

/// Quick enough for a test, and patient enough for a busy machine.
const CHECK: &str =
    "[service.check]\ntype = \"impala\"\ninterval = \"250ms\"\nfast_interval = \"100ms\"\ntimeout = \"2s\"\n";

/// A lab with a balancer that checks three coordinators.
struct Cluster {
    lab: Lab,
    coordinators: Vec<Coordinator>,
    balancer: Balancer,
}

impl Cluster {
    /// With these keys of the service, and the coordinators in these tiers.
    fn new(keys: &str, tiers: [u8; 3]) -> Self {
        let lab = Lab::builder()
            .balancers(1)
            .backends(3)
            .clients(1)
            .vips(1)
            .start()
            .unwrap();
        let coordinators = start_coordinators(&lab).unwrap();
        let configuration = configuration(&lab, &coordinators, keys, tiers);
        let balancer = Balancer::start(&lab, &lab.balancers()[0], configuration).unwrap();
        Self {
            lab,
            coordinators,
            balancer,
        }
    }

    fn reload(&mut self, keys: &str, tiers: [u8; 3]) {
        let configuration = configuration(&self.lab, &self.coordinators, keys, tiers);
        self.balancer.reconfigure(configuration).unwrap();
        let output = self.balancer.lb_ctl(&["reload"]).unwrap();
        assert_eq!(output.code, Some(0), "{output:?}");
    }

    fn connect(&self, ports: Range<u16>) -> Vec<TcpStream> {
        let client = &self.lab.clients()[0];
        let service = SocketAddr::from((self.lab.vips()[0].v4, HS2_PORT));
        connect_from_ports(client, service, ports).unwrap()
    }

    /// The coordinators that serve new connections from 40 of these ports, each of which must succeed.
    fn served_from(&self, first: u16) -> Vec<String> {
        let streams = self.connect(first..first + 40);
        let names: BTreeSet<String> = streams
            .iter()
            .map(|stream| coordinator_name(stream).unwrap())
            .collect();
        names.into_iter().collect()
    }

    fn service(&self) -> ServiceStatus {
        self.balancer.status().unwrap().services.remove(0)
    }

    fn backend(&self, number: usize) -> BackendStatus {
        self.service().backends.swap_remove(number - 1)
    }

    /// Waits for a coordinator to be found so, and for its slots to have followed.
    fn wait_for(&self, number: usize, health: &str) -> BackendStatus {
        wait_until(&format!("impala{number} to be {health}"), PATIENCE, || {
            let backend = self.backend(number);
            if backend.health == health {
                Ok(backend)
            } else {
                Err(format!("{backend:?}"))
            }
        })
        .unwrap()
    }

    /// What the daemon has logged, since its last start.
    fn log(&mut self) -> String {
        self.balancer.daemon().unwrap().output().unwrap()
    }

    fn coordinator_host(&self, number: usize) -> &Host {
        &self.lab.backends()[number - 1]
    }

    /// Cuts the balancer's own way to the coordinators, or mends it. Packets are forwarded all the same: XDP asks no routes.
    fn cut_own_network(&self, command: &str) {
        for coordinator in &self.coordinators {
            let address = format!("{}/32", coordinator.address);
            let host = self.balancer.host();
            host.run(&["ip", "route", command, "unreachable", &address])
                .unwrap();
        }
    }
}

fn configuration(lab: &Lab, coordinators: &[Coordinator], keys: &str, tiers: [u8; 3]) -> Configuration {
    let backends: Vec<_> = coordinators
        .iter()
        .map(|coordinator| (coordinator.name.as_str(), coordinator.address.into(), 1))
        .collect();
    let mut configuration = Configuration::of(lab, &lab.balancers()[0])
        .service("impala", lab.vips()[0].v4.into(), &backends)
        .with("port = 21050\n", &format!("port = 21050\n{keys}\n{CHECK}"))
        .unwrap();
    for (coordinator, tier) in coordinators.iter().zip(tiers) {
        let name = format!("name = \"{}\"\n", coordinator.name);
        configuration = configuration
            .with(&name, &format!("{name}tier = {tier}\n"))
            .unwrap();
    }
    configuration
}

const ALL: [&str; 3] = ["impala1", "impala2", "impala3"];

#[test]
fn a_coordinator_that_refuses_connections_goes_down_and_the_others_serve() {
    let mut cluster = Cluster::new("", [0, 0, 0]);
    assert_eq!(cluster.served_from(20_000), ALL);
    let up = cluster.backend(2);
    assert_eq!(up.health, "up");
    let check = up.last_check.expect("it has been checked");
    assert!(check.ok && !check.detail.is_empty(), "{check:?}");

    let streams = cluster.connect(21_000..21_040);
    let mut sessions = hold_sessions(&streams).unwrap();
    cluster.coordinators[1].kill().unwrap();
    let down = cluster.wait_for(2, "down");
    assert!(down.health_cause.contains("Connection refused"), "{down:?}");
    assert!(down.health_seconds.is_some() && !down.last_check.unwrap().ok);
    assert_eq!(cluster.served_from(22_000), ["impala1", "impala3"]);
    assert_eq!(cluster.backend(2).slots, 0);
    sessions.retain(|(_, home)| home != "impala2");
    assert!(sessions.len() > 20);
    all_live(&mut sessions, "after another coordinator has died").unwrap();

    let log = cluster.log();
    let line = log
        .lines()
        .find(|line| line.contains("health changed") && line.contains("impala2") && line.contains("down"))
        .unwrap_or_else(|| panic!("no line about it in\n{log}"));
    assert!(line.contains("cause=") && line.contains("from=up"), "{line}");

    let table = cluster.balancer.lb_ctl(&["status"]).unwrap().stdout;
    assert!(table.contains("impala2: down for"), "{table}");

    // What is known outlives a reload, and the death of the daemon.
    cluster.reload("slow_start = \"1s\"", [0, 0, 0]);
    assert_eq!(cluster.backend(2).health, "down");
    cluster.balancer.daemon().unwrap().kill().unwrap();
    cluster.balancer.run(&[]).unwrap();
    assert_eq!(cluster.served_from(23_000), ["impala1", "impala3"]);
    all_live(&mut sessions, "after a restart of the daemon").unwrap();
    cluster.wait_for(2, "down");
}

#[test]
fn a_coordinator_that_shuts_down_drains_by_itself() {
    let cluster = Cluster::new("", [0, 0, 0]);
    let streams = cluster.connect(20_000..20_040);
    let mut sessions = hold_sessions(&streams).unwrap();
    let queries: Vec<_> = sessions
        .iter_mut()
        .map(|(session, home)| (session.start("select coordinator()").unwrap(), home.clone()))
        .collect();
    cluster.coordinators[0].switch("shutdown").unwrap();
    let backend = cluster.wait_for(1, "quiescing");
    assert!(backend.health_cause.contains("shutting down"), "{backend:?}");
    assert_eq!(cluster.served_from(21_000), ["impala2", "impala3"]);
    assert_eq!(cluster.backend(1).slots, 0);
    // Queries that it has begun are fetched from it, over the connections on which they were begun.
    for ((session, _), (query, home)) in sessions.iter_mut().zip(&queries) {
        let (columns, _) = session.fetch(query).unwrap();
        assert_eq!(only_string(columns).unwrap(), *home);
        session.close_query(query).unwrap();
    }
    cluster.coordinators[0].switch("serve").unwrap();
    cluster.wait_for(1, "up");
    assert_eq!(cluster.served_from(22_000), ALL);
    all_live(&mut sessions, "after the shutdown was called off").unwrap();
}

#[test]
fn a_coordinator_that_accepts_but_does_not_answer_keeps_its_connections_and_gets_no_new_ones() {
    let cluster = Cluster::new("", [0, 0, 0]);
    let streams = cluster.connect(20_000..20_040);
    let mut sessions = hold_sessions(&streams).unwrap();
    cluster.coordinators[2].switch("saturate").unwrap();
    cluster.wait_for(3, "saturated");
    assert_eq!(cluster.served_from(21_000), ["impala1", "impala2"]);
    all_live(&mut sessions, "while a coordinator is saturated").unwrap();
    assert!(sessions.iter().any(|(_, home)| home == "impala3"));
    cluster.coordinators[2].switch("serve").unwrap();
    cluster.wait_for(3, "up");
    assert_eq!(cluster.served_from(22_000), ALL);
}

#[test]
fn a_service_does_not_empty_itself_when_the_balancers_own_network_is_cut() {
    let mut cluster = Cluster::new("", [0, 0, 0]);
    let streams = cluster.connect(20_000..20_040);
    let mut sessions = hold_sessions(&streams).unwrap();
    cluster.cut_own_network("add");
    for number in 1..=3 {
        cluster.wait_for(number, "down");
    }
    let guard = cluster.service().guard.expect("the guard is active");
    assert!(guard.contains("own network"), "{guard}");
    let table = cluster.balancer.lb_ctl(&["status"]).unwrap().stdout;
    assert!(table.contains("GUARD AGAINST MASS REMOVAL"), "{table}");
    assert_eq!(cluster.served_from(21_000), ALL);
    all_live(&mut sessions, "while the balancer sees nobody").unwrap();
    assert!(cluster.log().contains("the guard against mass removal is active"));

    // A daemon that starts now knows of nobody, and goes on all the same. Its start needs routes to the coordinators.
    cluster.cut_own_network("del");
    cluster.balancer.daemon().unwrap().kill().unwrap();
    cluster.balancer.run(&[]).unwrap();
    cluster.cut_own_network("add");
    assert_eq!(cluster.served_from(22_000), ALL);
    for number in 1..=3 {
        cluster.wait_for(number, "down");
    }
    assert_eq!(cluster.served_from(23_000), ALL);

    cluster.cut_own_network("del");
    for number in 1..=3 {
        cluster.wait_for(number, "up");
    }
    assert_eq!(cluster.service().guard, None);
    assert_eq!(cluster.served_from(24_000), ALL);
    all_live(&mut sessions, "after the cut").unwrap();
}

#[test]
fn clients_of_a_host_that_is_gone_are_reset() {
    let cluster = Cluster::new("", [0, 0, 0]);
    let mut streams = cluster.connect(20_000..20_040);
    let homes = homes(&streams).unwrap();
    cluster
        .coordinator_host(2)
        .run(&["ip", "link", "set", "eth0", "down"])
        .unwrap();
    cluster.wait_for(2, "down");
    let mut reset = 0;
    for (stream, home) in streams.iter_mut().zip(&homes) {
        if home == "impala2" {
            // Whatever it sends, another coordinator's kernel answers with a reset, at the latest once the pass over the records
            // has ended. Until then TCP sends again.
            let error = stream
                .write_all(&[0; 4])
                .and_then(|()| stream.read(&mut [0; 1]))
                .expect_err("nobody answers");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
            reset += 1;
        }
    }
    assert!(reset > 5, "{homes:?}");
    assert_eq!(cluster.served_from(21_000), ["impala1", "impala3"]);
}

#[test]
fn a_second_tier_takes_over_and_gives_back_as_configured() {
    let mut cluster = Cluster::new("failback = \"auto\"", [0, 0, 1]);
    cluster.wait_for(3, "up");
    assert_eq!(cluster.served_from(20_000), ["impala1", "impala2"]);
    assert_eq!(cluster.service().active_tier, 0);
    let streams = cluster.connect(21_000..21_020);
    let mut sessions = hold_sessions(&streams).unwrap();
    for failback in ["auto", "manual"] {
        if failback == "manual" {
            cluster.reload("failback = \"manual\"", [0, 0, 1]);
        }
        for coordinator in &cluster.coordinators[..2] {
            coordinator.switch("not-ready").unwrap();
        }
        wait_until("tier 1 to serve", PATIENCE, || cluster.service().active_tier == 1).unwrap();
        cluster.wait_for(1, "down");
        cluster.wait_for(2, "down");
        assert_eq!(cluster.served_from(22_000), ["impala3"], "{failback}");
        for coordinator in &cluster.coordinators[..2] {
            coordinator.switch("serve").unwrap();
        }
        cluster.wait_for(1, "up");
        cluster.wait_for(2, "up");
        let expected: &[&str] = if failback == "auto" {
            &["impala1", "impala2"]
        } else {
            &["impala3"]
        };
        assert_eq!(cluster.served_from(23_000), expected, "{failback}");
        all_live(&mut sessions, "after the tiers have changed").unwrap();
    }
    assert!(cluster.log().contains("another tier serves"));
}

#[test]
fn a_coordinator_that_comes_back_gets_its_share_in_steps() {
    let cluster = Cluster::new("slow_start = \"9s\"", [0, 0, 0]);
    let whole = cluster.backend(1).slots;
    cluster.coordinators[0].switch("saturate").unwrap();
    cluster.wait_for(1, "saturated");
    assert_eq!(cluster.backend(1).slots, 0);
    cluster.coordinators[0].switch("serve").unwrap();
    let mut seen = vec![0];
    wait_until("the whole share", PATIENCE, || {
        let backend = cluster.backend(1);
        if seen.last() != Some(&backend.slots) {
            seen.push(backend.slots);
            assert_eq!(
                backend.slow_start_tenths.is_none(),
                backend.slots == whole,
                "{backend:?}"
            );
        }
        if backend.slots == whole {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .unwrap();
    assert!(seen.is_sorted(), "{seen:?}");
    assert!(seen.len() > 3, "{seen:?}");
}

#[test]
fn a_coordinator_that_was_restarted_between_two_checks_is_noticed() {
    let mut cluster = Cluster::new("", [0, 0, 0]);
    cluster.coordinators[1].switch("restart").unwrap();
    let daemon = cluster.balancer.daemon().unwrap();
    let line = daemon
        .wait_for_line("its process was replaced", PATIENCE)
        .unwrap();
    assert!(line.contains("impala2"), "{line}");
    assert_eq!(cluster.served_from(20_000), ALL);
}

#[test]
fn a_reload_whose_certificates_cannot_be_read_changes_nothing() {
    let mut cluster = Cluster::new("", [0, 0, 0]);
    let configuration = cluster
        .balancer
        .configuration()
        .clone()
        .with(
            CHECK,
            &format!("{CHECK}tls = true\nca_file = \"/nonexistent/ca.pem\"\n"),
        )
        .unwrap();
    cluster.balancer.reconfigure(configuration).unwrap();
    let output = cluster.balancer.lb_ctl(&["reload"]).unwrap();
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(
        output.stderr.contains("service[impala].check.ca_file")
            && output.stderr.contains("/nonexistent/ca.pem"),
        "{output:?}"
    );
    assert_eq!(cluster.served_from(20_000), ALL);
}
