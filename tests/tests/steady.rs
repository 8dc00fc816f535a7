//! Tier 2: connections that live long, and what happens around them meanwhile.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lab::balancing::{Balancer, Configuration, HS2_PORT, PATIENCE};
use lab::random::Random;
use lab::steady::client::Options;
use lab::steady::report::{Break, Cause, Outcome};
use lab::steady::{Server, Steady, start_servers};
use lab::{Host, Lab, wait_until};

const BACKENDS: u8 = 3;
const CONNECTIONS: u16 = 200;

/// A lab with a balancer in front of servers that say who they are.
struct Cluster {
    servers: Vec<Server>,
    balancer: Balancer,
    /// The addresses of its two services.
    services: [SocketAddr; 2],
    // Last: what runs in the lab ends before it.
    lab: Lab,
}

impl Cluster {
    /// A service in each family, over all backends.
    fn start() -> Self {
        let lab = Lab::builder().backends(BACKENDS).start().unwrap();
        let servers = start_servers(&lab, HS2_PORT).unwrap();
        let vip = lab.vips()[0];
        let balancer =
            Balancer::start(&lab, &lab.balancers()[0], Configuration::of_both_families(&lab)).unwrap();
        let services = [IpAddr::from(vip.v4), vip.v6.into()].map(|vip| SocketAddr::new(vip, HS2_PORT));
        Self {
            servers,
            balancer,
            services,
            lab,
        }
    }

    fn client(&self) -> &Host {
        &self.lab.clients()[0]
    }

    fn hold(&self, service: SocketAddr, change: impl FnOnce(&mut Options)) -> Steady {
        let mut options = Steady::options(self.client(), service, CONNECTIONS);
        change(&mut options);
        Steady::start(self.client(), options).unwrap()
    }
}

/// Something that an operator, or fate, does to a cluster, and that must break no connection.
struct Change {
    name: &'static str,
    apply: fn(&mut Cluster) -> Result<()>,
}

/// Every such thing.
const CHANGES: &[Change] = &[
    Change {
        name: "SIGKILL and a restart",
        apply: |cluster| {
            cluster.balancer.daemon()?.kill()?;
            cluster.balancer.run(&[])
        },
    },
    Change {
        name: "SIGTERM and a restart",
        apply: |cluster| {
            cluster.balancer.daemon()?.terminate(PATIENCE)?;
            cluster.balancer.run(&[])
        },
    },
    Change {
        name: "a reload with a backend that gets twice as many connections, or again as many as others",
        apply: |cluster| {
            reweight(cluster)?;
            let output = cluster.balancer.lb_ctl(&["reload"])?;
            ensure!(output.code == Some(0), "{output:?}");
            Ok(())
        },
    },
    Change {
        name: "another weight while the daemon is dead",
        apply: |cluster| {
            cluster.balancer.daemon()?.kill()?;
            reweight(cluster)?;
            cluster.balancer.run(&[])
        },
    },
    Change {
        name: "a restart with tables of other sizes",
        apply: |cluster| {
            cluster.balancer.daemon()?.terminate(PATIENCE)?;
            toggle(cluster, "max_flows = 300000")?;
            cluster.balancer.run(&[])
        },
    },
    Change {
        name: "a restart in another XDP mode",
        apply: |cluster| {
            cluster.balancer.daemon()?.terminate(PATIENCE)?;
            toggle(cluster, "mode = \"generic\"")?;
            cluster.balancer.run(&[])
        },
    },
];

/// Writes a configuration with a line more about the data path, or without it if it is there.
fn toggle(cluster: &mut Cluster, line: &str) -> Result<()> {
    const INTERFACES: &str = "interfaces = [\"eth0\"]\n";
    let configuration = cluster.balancer.configuration().clone();
    let line = format!("{line}\n");
    let configuration = if configuration.text().contains(&line) {
        configuration.with(&line, "")?
    } else {
        configuration.with(INTERFACES, &format!("{INTERFACES}{line}"))?
    };
    cluster.balancer.reconfigure(configuration)
}

/// Writes a configuration in which the first backend of the first service has weight 2, or 1 if it has 2 now.
fn reweight(cluster: &mut Cluster) -> Result<()> {
    let configuration = cluster.balancer.configuration().clone();
    let configuration = if configuration.text().contains("weight = 2") {
        configuration.with("weight = 2", "weight = 1")?
    } else {
        configuration.with("weight = 1", "weight = 2")?
    };
    cluster.balancer.reconfigure(configuration)
}

/// Applies changes in an order that the seed gives, and none again before all have had their turn. After each, all
/// connections have to have exchanged data, and none may be broken.
fn apply_changes(cluster: &mut Cluster, steady: &mut [Steady], times: u32, seed: u64) -> Result<()> {
    let mut random = Random::of(seed);
    let mut left: Vec<&Change> = Vec::new();
    for time in 1..=times {
        if left.is_empty() {
            left.extend(CHANGES);
        }
        let change = left.swap_remove(random.below(left.len()));
        let where_it_failed = || format!("change {time}, seed {seed}: {}", change.name);
        (change.apply)(cluster).with_context(where_it_failed)?;
        for connections in &mut *steady {
            connections.expect_unbroken().with_context(where_it_failed)?;
        }
    }
    Ok(())
}

fn ports(breaks: &[Break]) -> BTreeSet<u16> {
    breaks.iter().map(|broken| broken.port).collect()
}

#[test]
fn no_connection_breaks_whatever_happens_to_daemon_and_configuration() {
    let mut cluster = Cluster::start();
    let mut steady = cluster
        .services
        .map(|service| cluster.hold(service, |options| options.short_rate = 50));
    apply_changes(&mut cluster, &mut steady, 12, 1).unwrap();
    for connections in steady {
        let summary = connections.finish().unwrap();
        let progress = &summary.progress;
        assert_eq!(summary.broken, []);
        assert_eq!((progress.connections, progress.breaks), (CONNECTIONS.into(), 0));
        assert!(
            progress.exchanges >= u64::from(CONNECTIONS) * progress.fewest,
            "{progress:?}"
        );
        assert_eq!(progress.servers.len(), usize::from(BACKENDS), "{progress:?}");
        assert_eq!(summary.short_failures, 0, "{summary:?}");
        assert_eq!(summary.short.len(), usize::from(BACKENDS), "{summary:?}");
    }
}

#[test]
fn a_change_of_mode_is_silent() {
    let mut cluster = Cluster::start();
    // Always some packet on its way, while the interface is bare.
    let mut steady = cluster.services.map(|service| {
        cluster.hold(service, |options| {
            options.connections = 20;
            options.pause = Duration::from_millis(5);
            options.short_rate = 50;
        })
    });
    for time in 0..6 {
        cluster.balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
        toggle(&mut cluster, "mode = \"generic\"").unwrap();
        cluster.balancer.run(&[]).unwrap();
        for connections in &mut steady {
            let unbroken = connections.expect_unbroken();
            unbroken.unwrap_or_else(|error| panic!("change {time}: {error}"));
        }
    }
    for connections in steady {
        let summary = connections.finish().unwrap();
        assert_eq!(
            (summary.broken.len(), summary.short_failures),
            (0, 0),
            "{summary:?}"
        );
    }
}

#[test]
fn no_connection_breaks_when_a_change_of_table_sizes_is_killed_anywhere() {
    let mut cluster = Cluster::start();
    let mut steady = cluster
        .services
        .map(|service| cluster.hold(service, |options| options.short_rate = 50));
    // From here on a part of the slots is tracked.
    reweight(&mut cluster).unwrap();
    let output = cluster.balancer.lb_ctl(&["reload"]).unwrap();
    assert_eq!(output.code, Some(0), "{output:?}");

    let mut random = Random::of(1);
    let mut takes = 0;
    for round in 0..8 {
        cluster.balancer.daemon().unwrap().kill().unwrap();
        toggle(&mut cluster, "max_flows = 300000").unwrap();
        let begun = Instant::now();
        if round == 0 {
            cluster.balancer.run(&[]).unwrap();
            takes = usize::try_from(begun.elapsed().as_millis()).unwrap();
            continue;
        }
        let after = Duration::from_millis(random.below(takes.max(1)).try_into().unwrap());
        cluster.balancer.begin(&[]).unwrap();
        thread::sleep(after);
        cluster.balancer.daemon().unwrap().kill().unwrap();
        cluster.balancer.run(&[]).unwrap();
        for connections in &mut steady {
            let unbroken = connections.expect_unbroken();
            unbroken.unwrap_or_else(|error| panic!("killed after {after:?} of {takes} ms: {error}"));
        }
    }
    for connections in steady {
        let summary = connections.finish().unwrap();
        assert_eq!(
            (summary.broken.len(), summary.short_failures),
            (0, 0),
            "{summary:?}"
        );
    }
}

/// The connections of a server that is killed, and only those, are reported.
fn expect_breaks_after_a_servers_death(service: impl Fn(&Cluster) -> SocketAddr) {
    let mut cluster = Cluster::start();
    let mut steady = cluster.hold(service(&cluster), |_| {});
    let before = steady.expect_unbroken().unwrap();
    let mut victim = cluster.servers.pop().unwrap();
    let lost = before.servers[&victim.name];
    assert!((1..u64::from(CONNECTIONS)).contains(&lost), "{before:?}");

    victim.process.kill().unwrap();
    await_breaks(&mut steady, lost);
    let error = steady.expect_unbroken().unwrap_err().to_string();
    assert!(
        error.contains(&format!("{lost} are broken")) && error.contains(&victim.name),
        "{error}"
    );

    let summary = steady.finish().unwrap();
    assert_eq!(summary.broken.len() as u64, lost);
    assert_eq!(ports(&summary.broken).len() as u64, lost, "each is told once");
    for broken in &summary.broken {
        assert_eq!(broken.server.as_ref().unwrap().name, victim.name, "{broken:?}");
        assert!(matches!(broken.cause, Cause::Closed | Cause::Reset), "{broken:?}");
        assert!(broken.at_ms >= before.at_ms && (10_000..10_200).contains(&broken.port));
    }
    assert_eq!(summary.progress.connections, u64::from(CONNECTIONS) - lost);
    assert!(!summary.progress.servers.contains_key(&victim.name));
}

fn await_breaks(steady: &mut Steady, number: u64) {
    wait_until("all breaks", PATIENCE, || -> Result<_> {
        let breaks = steady.progress()?.breaks;
        ensure!(breaks == number, "{breaks} of {number}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_connections_of_a_server_that_is_killed_are_reported() {
    expect_breaks_after_a_servers_death(|cluster| cluster.services[0]);
}

#[test]
fn the_connections_of_a_server_that_is_killed_are_reported_over_ipv6() {
    expect_breaks_after_a_servers_death(|cluster| cluster.services[1]);
}

#[test]
fn connections_behind_a_link_that_is_cut_time_out_and_new_ones_fail() {
    const VICTIM: &str = "backend1";
    let cluster = Cluster::start();
    let mut steady = cluster.services.map(|service| {
        cluster.hold(service, |options| {
            options.patience = Duration::from_secs(2);
            options.short_rate = 50;
        })
    });
    let lost = steady
        .each_mut()
        .map(|steady| steady.expect_unbroken().unwrap().servers[VICTIM]);
    let switch = cluster.lab.switch();
    switch.run(&["ip", "link", "set", "dev", VICTIM, "down"]).unwrap();
    for (mut steady, lost) in steady.into_iter().zip(lost) {
        await_breaks(&mut steady, lost);
        wait_until("a short connection to fail", PATIENCE, || {
            let short = steady.short_connections().unwrap();
            let mut outcomes = short.iter().map(|short| &short.outcome);
            outcomes.any(|outcome| matches!(outcome, Outcome::Failure(_)))
        })
        .unwrap();
        let summary = steady.finish().unwrap();
        for broken in &summary.broken {
            assert_eq!(broken.cause, Cause::Timeout, "{broken:?}");
            assert_eq!(broken.server.as_ref().unwrap().name, VICTIM, "{broken:?}");
        }
        assert!(summary.longest_gap_ms > 0 && summary.short_failures > 0);
        assert!(summary.slowest_short_ms >= 2000, "{summary:?}");
    }
}

#[test]
fn a_connection_that_another_server_answers_is_reported() {
    let lab = Lab::builder().backends(2).balancers(0).start().unwrap();
    let _servers = start_servers(&lab, HS2_PORT).unwrap();
    let (client, vip) = (&lab.clients()[0], lab.vips()[0].v4);
    // Without a balancer, the client's own neighbour table says who has the VIP.
    let let_serve = |backend: &Host| {
        let (address, mac) = (vip.to_string(), backend.mac().to_string());
        client
            .run(&["ip", "neigh", "replace", &address, "lladdr", &mac, "dev", "eth0"])
            .unwrap();
    };
    let_serve(&lab.backends()[0]);
    let options = Steady::options(client, SocketAddr::from((vip, HS2_PORT)), 20);
    let mut steady = Steady::start(client, options).unwrap();
    let progress = steady.expect_unbroken().unwrap();
    assert_eq!(progress.servers["backend1"], 20);

    let_serve(&lab.backends()[1]);
    await_breaks(&mut steady, 20);
    // The other server's kernel does not know the connections.
    for broken in steady.finish().unwrap().broken {
        assert_eq!(broken.cause, Cause::Reset, "{broken:?}");
    }
}
