//! Tier 2: two balancers, one address. Either takes over from the other, and every connection goes on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

#[path = "pair/arrival.rs"]
mod arrival;
#[path = "pair/given_up.rs"]
mod given_up;
#[path = "pair/handover.rs"]
mod handover;
#[path = "pair/homes.rs"]
mod homes;
#[path = "pair/killed.rs"]
mod killed;
#[path = "pair/strangers.rs"]
mod strangers;
#[path = "pair/versions.rs"]
mod versions;
#[path = "pair/visitor.rs"]
mod visitor;

use std::io::{Write as _, stderr};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use std::{env, thread};

use anyhow::Context as _;
use lab::balancing::{
    Balancer, Configuration, Decap, HS2_PORT, PATIENCE, Pair, holds, take_vips_off_backends, write_key,
};
use lab::extent::is_full;
use lab::steady::{Server, Steady, client::Options, start_servers};
use lab::{Halted, Host, Lab, wait_until};

/// If it is set, there are so many milliseconds between advertisements where the master is killed.
const INTERVAL: &str = "LAB_ADVERT_INTERVAL_MS";
/// Between advertisements, where nobody is to be taken for dead because the machine is busy.
const INTERVAL_MS: u32 = 300;

/// Connections through a pair. A drain is in progress, so that a third of the slots are tracked, and half of the connections are younger
/// than it.
struct Scene {
    pair: Pair,
    /// Those from before the drain, and those from after it.
    steady: [Steady; 2],
    _decaps: Vec<Decap>,
    _servers: Vec<Server>,
    // Last: what runs in the lab ends before it.
    lab: Lab,
}

impl Scene {
    fn of(forward: &str, connections: u16, interval_ms: u32) -> Self {
        Self::with_keys(forward, "", connections, interval_ms)
    }

    /// With these keys of the service.
    fn with_keys(forward: &str, keys: &str, connections: u16, interval_ms: u32) -> Self {
        let lab = Lab::builder().balancers(2).backends(3).start().unwrap();
        if forward == "nat" {
            take_vips_off_backends(&lab).unwrap();
        }
        let decaps = if forward == "ipip" {
            Decap::start_on_backends(&lab).unwrap()
        } else {
            Vec::new()
        };
        let servers = start_servers(&lab, HS2_PORT).unwrap();
        let vip = lab.vips()[0].v4;
        let backends: Vec<(&str, IpAddr, u32)> = backends(&lab);
        let pair = Pair::start(&lab, interval_ms, &[vip.into()], |configuration| {
            let port = format!("port = {HS2_PORT}\n");
            let configuration = configuration.service_by(forward, "impala", vip.into(), &backends);
            configuration.with(&port, &format!("{port}{keys}")).unwrap()
        })
        .unwrap();
        let client = &lab.clients()[0];
        let before = begin(client, vip.into(), 10_000, connections / 2);
        // By the one that is not master: what is decided on one holds on both.
        order(&pair.balancers[1], &["drain", lab.backends()[2].name()]);
        wait_for_admin(&pair.balancers[0], 2, "draining");
        let after = begin(client, vip.into(), 20_000, connections / 2);
        let scene = Self {
            pair,
            steady: [before, after],
            _decaps: decaps,
            _servers: servers,
            lab,
        };
        scene.pair.wait_for_owner(0).unwrap();
        for balancer in &scene.pair.balancers {
            let service = balancer.status().unwrap().services.remove(0);
            assert!(
                service.tracked_slots > 15_000,
                "{} slots are tracked",
                service.tracked_slots
            );
        }
        scene
    }

    fn expect_unbroken(&mut self, what: &str) {
        for connections in &mut self.steady {
            connections.expect_unbroken().context(what.to_owned()).unwrap();
        }
    }

    /// The drain goes on, wherever one looks, and has as many connections left as there are.
    fn expect_drain(&mut self) {
        let left = self.steady[0].progress().unwrap();
        let drained = self.lab.backends()[2].name();
        assert!(left.servers.contains_key(drained), "{left:?}");
        for balancer in &self.pair.balancers {
            wait_for_admin(balancer, 2, "draining");
        }
        let younger = self.steady[1].progress().unwrap();
        assert!(!younger.servers.contains_key(drained), "{younger:?}");
    }

    fn finish(self) -> u64 {
        let mut silence = 0;
        for connections in self.steady {
            let summary = connections.finish().unwrap();
            assert_eq!(summary.broken, []);
            silence = silence.max(summary.longest_silence_ms);
        }
        silence
    }
}

/// Connections of a client from this port on, which begin now.
fn begin(client: &Host, vip: IpAddr, first_port: u16, connections: u16) -> Steady {
    let options = Options {
        first_port,
        ..Steady::options(client, SocketAddr::new(vip, HS2_PORT), connections)
    };
    Steady::start(client, options).unwrap()
}

fn backends(lab: &Lab) -> Vec<(&str, IpAddr, u32)> {
    let hosts = lab.backends().iter();
    hosts.map(|host| (host.name(), host.v4().into(), 1)).collect()
}

fn order(balancer: &Balancer, command: &[&str]) {
    let output = balancer.lb_ctl(command).unwrap();
    assert_eq!(output.code, Some(0), "{command:?} said {output:?}");
}

fn wait_for_admin(balancer: &Balancer, backend: usize, expected: &str) {
    wait_until(&format!("the decision {expected}"), PATIENCE, || {
        let admin = balancer.backends()?.swap_remove(backend).admin;
        anyhow::ensure!(admin == expected, "{admin}");
        Ok(())
    })
    .unwrap();
}

fn share(connections: u16) -> u16 {
    if is_full() { 2000 } else { connections }
}

/// Waits until all of these hosts that know of the address take it to be this balancer's.
fn wait_until_known(vip: IpAddr, balancer: &Host, hosts: &[Host]) {
    wait_until("everybody to know the new master", PATIENCE, || {
        for host in hosts {
            let known = host.run(&["ip", "neigh", "show", &vip.to_string(), "dev", "eth0"])?;
            let is_so = known.is_empty() || known.contains(&balancer.mac().to_string());
            anyhow::ensure!(is_so, "{}: {known}", host.name());
        }
        Ok(())
    })
    .unwrap();
}

/// The master is killed, and loses its link; comes back, and takes over again.
fn outlast_the_master(forward: &str, keys: &str, connections: u16) {
    let interval_ms = env::var(INTERVAL).map_or(INTERVAL_MS, |text| text.parse().unwrap());
    let mut scene = Scene::with_keys(forward, keys, share(connections), interval_ms);
    let host = scene.lab.balancers()[0].clone();
    let [master, _] = &mut scene.pair.balancers;
    master.daemon().unwrap().kill().unwrap();
    host.run(&["ip", "link", "set", "eth0", "down"]).unwrap();
    scene.pair.wait_for_master(1).unwrap();
    scene.expect_unbroken("after the master was gone");
    // Its address is still there, but nobody else's business: it comes back as a backup, without it.
    host.run(&["ip", "link", "set", "eth0", "up"]).unwrap();
    let [master, _] = &mut scene.pair.balancers;
    master.run(&[]).unwrap();
    scene.pair.wait_for_owner(1).unwrap();
    scene.expect_drain();
    scene.pair.hand_over(1).unwrap();
    scene.expect_unbroken("after it was master again");
    scene.expect_drain();
    let silence = scene.finish();
    // How long that may be is for a machine that does nothing else to say.
    let _ = writeln!(
        stderr(),
        "{forward}: for at most {silence} ms no connection got an answer"
    );
}

#[test]
fn connections_outlast_the_master_with_dsr() {
    outlast_the_master("dsr", "", 1000);
}

#[test]
fn connections_outlast_the_master_in_tunnels() {
    outlast_the_master("ipip", "", 500);
}

#[test]
fn connections_outlast_the_master_translated() {
    outlast_the_master("nat", "", 500);
}

/// Each has a record, and is looked up in the table that the other balancer has told of.
#[test]
fn connections_outlast_the_master_that_has_placed_each_of_them() {
    outlast_the_master("dsr", "balance = \"least-connections\"\n", 500);
}

/// Back and forth: none breaks a connection, and nothing is left where it does not belong.
#[test]
fn connections_outlast_failovers_back_and_forth() {
    let failovers = if is_full() { 50 } else { 10 };
    let mut scene = Scene::of("dsr", 500, INTERVAL_MS);
    let vip: IpAddr = scene.lab.vips()[0].v4.into();
    for failover in 0..failovers {
        scene.pair.hand_over(failover % 2).unwrap();
        scene.expect_unbroken(&format!("failover {failover}"));
        let master = 1 - failover % 2;
        let held = [0, 1].map(|number| holds(&scene.lab.balancers()[number], vip).unwrap());
        assert_eq!(held, [master == 0, master == 1], "failover {failover}");
    }
    scene.expect_drain();
    scene.finish();
}

/// The master loses the address and has it back while its controller is busy: that the other one was the owner in between must not be
/// lost on it.
#[test]
fn a_takeover_back_is_one_also_if_nobody_has_seen_the_loss() {
    let mut scene = Scene::of("dsr", 200, INTERVAL_MS);
    let host = scene.lab.balancers()[0].clone();
    let id = scene.pair.balancers[0].daemon().unwrap().id();
    let lines = |scene: &mut Scene, line: &str| {
        let output = scene.pair.balancers[0].daemon().unwrap().output().unwrap();
        output.matches(line).count()
    };
    let (lost, owned) = (
        "did not own the service for a moment",
        "owns the service from now on",
    );
    let before = lines(&mut scene, owned);
    let busy = Halted::of(id, "lb-ctl").unwrap();
    host.run(&["ip", "link", "set", "eth0", "down"]).unwrap();
    scene.pair.wait_for_master(1).unwrap();
    host.run(&["ip", "link", "set", "eth0", "up"]).unwrap();
    let vip = scene.lab.vips()[0].v4.into();
    // The controller that would have to take it in is busy, so nobody knows what the other one knows.
    order(&scene.pair.balancers[1], &["failover", "--force"]);
    wait_until("the address to be back", PATIENCE, || {
        anyhow::ensure!(holds(&host, vip)?, "it is not there");
        Ok(())
    })
    .unwrap();
    drop(busy);
    wait_until("the loss to be noticed", PATIENCE, || {
        let seen = [lines(&mut scene, lost), lines(&mut scene, owned)];
        (seen == [1, before + 1]).then_some(()).ok_or(format!("{seen:?}"))
    })
    .unwrap();
    scene.pair.wait_for_owner(0).unwrap();
    scene.expect_unbroken("a loss that nobody saw");
    scene.finish();
}

/// The old master forwards until everybody knows the new one, and tells it of what begins meanwhile.
#[test]
fn connections_that_begin_during_a_failover_live_on() {
    let mut scene = Scene::of("nat", 100, INTERVAL_MS);
    let vip = scene.lab.vips()[0].v4;
    let mut begun = Vec::new();
    for failover in 0..6 {
        let client = scene.lab.clients()[0].clone();
        let starting = thread::spawn(move || begin(&client, vip.into(), 30_000 + 100 * failover, 50));
        scene.pair.hand_over(usize::from(failover % 2)).unwrap();
        begun.push(starting.join().unwrap());
        for connections in &mut begun {
            connections
                .expect_unbroken()
                .context(format!("failover {failover}"))
                .unwrap();
        }
    }
    scene.expect_unbroken("six failovers");
    scene.finish();
}

/// One after the other is stopped and started, as for an upgrade.
#[test]
fn connections_outlast_the_restart_of_both_balancers() {
    let mut scene = Scene::of("dsr", 500, INTERVAL_MS);
    for number in [1, 0, 1] {
        let balancer = &mut scene.pair.balancers[number];
        balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
        scene.pair.wait_for_master(1 - number).unwrap();
        scene.pair.balancers[number].run(&[]).unwrap();
        scene.pair.wait_for_owner(1 - number).unwrap();
        scene.expect_unbroken(&format!("the restart of {number}"));
    }
    scene.expect_drain();
    scene.finish();
}

/// Neither hears the other, and both are master, until they hear each other again.
#[test]
fn connections_outlast_a_split_and_its_healing() {
    let mut scene = Scene::of("dsr", 500, INTERVAL_MS);
    let isolate = |on: &str| {
        for host in &scene.lab.balancers()[..2] {
            let switch = scene.lab.switch();
            switch
                .run(&["bridge", "link", "set", "dev", &host.first().port, "isolated", on])
                .unwrap();
        }
    };
    isolate("on");
    scene.pair.wait_for_master(1).unwrap();
    scene.pair.wait_for_master(0).unwrap();
    thread::sleep(Duration::from_secs(1));
    isolate("off");
    // The better one stays.
    scene.pair.wait_for_owner(0).unwrap();
    scene.expect_unbroken("a split and its healing");
    let vip: IpAddr = scene.lab.vips()[0].v4.into();
    assert!(holds(&scene.lab.balancers()[0], vip).unwrap());
    assert!(!holds(&scene.lab.balancers()[1], vip).unwrap());
    scene.finish();
}

/// Each is master of one VIP, and takes over the other one's.
#[test]
fn each_owns_a_vip_and_takes_over_the_others() {
    let lab = Lab::builder().balancers(2).backends(2).vips(2).start().unwrap();
    let _servers = start_servers(&lab, HS2_PORT).unwrap();
    let vips = [lab.vips()[0].v4, lab.vips()[1].v4];
    let services = |configuration: Configuration| {
        let both = configuration.service("first", vips[0].into(), &backends(&lab));
        both.service("second", vips[1].into(), &backends(&lab))
    };
    let mut pair = Pair::prepare(&lab, INTERVAL_MS, &vips.map(IpAddr::from), services).unwrap();
    for (number, balancer) in pair.balancers.iter_mut().enumerate() {
        let mut configuration = balancer.configuration().clone();
        for _ in &vips {
            configuration = configuration
                .with("group = \"all\"\n", "preempt_delay = \"0s\"\n")
                .unwrap();
            configuration = configuration.with("preempt = false\n", "").unwrap();
        }
        let second = format!("addresses = [\"{}\"]\npriority = ", vips[1]);
        let (theirs, ours) = if number == 0 { (200, 100) } else { (100, 200) };
        let (before, after) = (format!("{second}{theirs}"), format!("{second}{ours}"));
        balancer
            .reconfigure(configuration.with(&before, &after).unwrap())
            .unwrap();
        balancer.run(&[]).unwrap();
    }
    let wait_for_roles = |pair: &Pair, expected: [[&str; 2]; 2]| {
        wait_until(&format!("the roles {expected:?}"), PATIENCE, || {
            for (balancer, expected) in pair.balancers.iter().zip(expected) {
                let services = balancer.status()?.services;
                let roles: Vec<String> = services.into_iter().filter_map(|service| service.role).collect();
                anyhow::ensure!(roles == expected, "{roles:?}");
            }
            Ok(())
        })
        .unwrap();
    };
    let each = [["owner", "following"], ["following", "owner"]];
    wait_for_roles(&pair, each);
    let client = &lab.clients()[0];
    let mut steady: Vec<Steady> = vips
        .iter()
        .map(|vip| {
            Steady::start(
                client,
                Steady::options(client, SocketAddr::from((*vip, HS2_PORT)), 200),
            )
            .unwrap()
        })
        .collect();
    order(&pair.balancers[0], &["drain", lab.backends()[1].name()]);
    wait_for_admin(&pair.balancers[1], 1, "draining");
    for number in [0, 1] {
        pair.balancers[number]
            .daemon()
            .unwrap()
            .terminate(PATIENCE)
            .unwrap();
        pair.wait_for_master(1 - number).unwrap();
        for connections in &mut steady {
            connections
                .expect_unbroken()
                .context(format!("without {number}"))
                .unwrap();
        }
        pair.balancers[number].run(&[]).unwrap();
        // The better one takes its own back.
        wait_for_roles(&pair, each);
        for connections in &mut steady {
            connections
                .expect_unbroken()
                .context(format!("{number} is back"))
                .unwrap();
        }
    }
    for connections in steady {
        assert_eq!(connections.finish().unwrap().broken, []);
    }
}

/// What is wrong is said on both, until it is put right by a reload.
#[test]
fn a_peer_with_another_key_or_seed_is_refused_and_told_why() {
    let lab = Lab::builder().balancers(2).backends(1).start().unwrap();
    let vip = lab.vips()[0].v4;
    let services =
        |configuration: Configuration| configuration.service("impala", vip.into(), &backends(&lab));
    let mut pair = Pair::prepare(&lab, INTERVAL_MS, &[vip.into()], services).unwrap();
    let right = pair.balancers[1].configuration().clone();
    let other = write_key(&lab, "other.key", 'b').unwrap();
    let wrong = right
        .clone()
        .with("peer.key", other.file_name().unwrap().to_str().unwrap())
        .unwrap();
    pair.balancers[1].reconfigure(wrong).unwrap();
    for balancer in &mut pair.balancers {
        balancer.run(&[]).unwrap();
    }
    let trouble = |balancer: &Balancer, expected: &str| {
        wait_until(&format!("trouble with {expected:?}"), PATIENCE, || {
            let peer = balancer.status()?.peer.context("a peer")?;
            anyhow::ensure!(!peer.connected, "{peer:?}");
            let trouble = peer.trouble.clone().unwrap_or_default();
            anyhow::ensure!(trouble.contains(expected), "{peer:?}");
            Ok(())
        })
        .unwrap();
    };
    for balancer in &pair.balancers {
        trouble(balancer, "the same key");
    }
    pair.balancers[1].reconfigure(right.clone()).unwrap();
    order(&pair.balancers[1], &["reload"]);
    pair.wait_for_owner(0).unwrap();

    // A seed is fixed while the daemon runs.
    let daemon = pair.balancers[1].daemon().unwrap();
    daemon.terminate(PATIENCE).unwrap();
    let node = pair.balancers[1].configuration().node().to_owned();
    order(&pair.balancers[1], &["detach", "--node", &node]);
    let seeded = right.with("[datapath]\n", "[datapath]\nhash_seed = 7\n").unwrap();
    pair.balancers[1].reconfigure(seeded).unwrap();
    pair.balancers[1].run(&[]).unwrap();
    for balancer in &pair.balancers {
        trouble(balancer, "datapath.hash_seed");
    }
}
