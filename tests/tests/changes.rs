//! Tier 2: connections, in every way of forwarding, that live through everything an operator does on purpose, time and again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use std::{fmt, thread};

use anyhow::{Context as _, Result, ensure};
use lab::Lab;
use lab::balancing::{
    Balancer, Configuration, Decap, HS2_PORT, MIXTURES, Mixture, PATIENCE, take_vips_off_backends,
};
use lab::extent::is_full;
use lab::random::Random;
use lab::steady::{Server, Steady, start_servers};

const BACKENDS: u8 = 5;
/// After how many changes every connection has to have exchanged data: breaks in between are noticed as well.
const ROUND: u32 = 10;
const HIGHEST_WEIGHT: usize = 4;
/// The order of the changes follows from it.
const SEED: u64 = 0x1a7e;

/// A way of forwarding, and how much it has to stand.
#[derive(Debug)]
struct Mode {
    forward: &'static str,
    services: &'static [Mixture],
    /// Over all services.
    connections: usize,
    changes: u32,
}

/// Whatever goes on with slots, records and targets is the same in all modes, so one of them stands for all.
const MODES: [Mode; 3] = [
    Mode {
        forward: "dsr",
        services: MIXTURES.first_chunk::<2>().unwrap(),
        connections: 1000,
        changes: 200,
    },
    Mode {
        forward: "ipip",
        services: &MIXTURES,
        connections: 300,
        changes: 60,
    },
    Mode {
        forward: "nat",
        services: MIXTURES.first_chunk::<2>().unwrap(),
        connections: 300,
        changes: 60,
    },
];

impl Mode {
    fn of(forward: &str) -> Self {
        let mut modes = MODES.into_iter();
        let mut mode = modes.find(|mode| mode.forward == forward).unwrap();
        if is_full() {
            let [first, ..] = MODES;
            (mode.connections, mode.changes) = (first.connections, first.changes);
        }
        mode
    }

    /// On each of the services.
    fn share(&self) -> u16 {
        u16::try_from(self.connections / self.services.len()).unwrap()
    }
}

/// Something that an operator, or fate, does to a balancer, and that must break no connection.
#[derive(Clone, Copy, Debug)]
enum Change {
    Add(usize),
    Remove(usize),
    /// Weight 0.
    Drain(usize),
    /// By `lb-ctl drain`; by `undrain` if it is drained so.
    Toggle(usize),
    Reweight(usize, u32),
    /// SIGKILL, and a start.
    Kill,
    /// SIGTERM, and a start.
    Restart,
}

impl Change {
    fn any(random: &mut Random) -> Self {
        let backend = random.below(usize::from(BACKENDS));
        match random.below(14) {
            0..3 => Self::Add(backend),
            3..6 => Self::Remove(backend),
            6..8 => Self::Drain(backend),
            8..10 => {
                let weight = 1 + random.below(HIGHEST_WEIGHT);
                Self::Reweight(backend, u32::try_from(weight).unwrap())
            }
            10..12 => Self::Toggle(backend),
            12 => Self::Kill,
            _ => Self::Restart,
        }
    }
}

/// What is wanted of the backends.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    /// The weights of those that are configured.
    weights: [Option<u32>; BACKENDS as usize],
    /// Which are drained by the operator, configured or not.
    drained: [bool; BACKENDS as usize],
}

impl Wanted {
    const FIRST: Self = Self {
        weights: [Some(1); BACKENDS as usize],
        drained: [false; BACKENDS as usize],
    };

    /// What it is after a change; `None` if it changes nothing, or leaves no backend for new connections.
    fn after(&self, change: Change) -> Option<Self> {
        let mut after = self.clone();
        match change {
            Change::Add(backend) => {
                after.weights[backend].get_or_insert(1);
            }
            Change::Remove(backend) => after.weights[backend] = None,
            Change::Drain(backend) => after.weights[backend] = after.weights[backend].map(|_| 0),
            Change::Reweight(backend, weight) => {
                after.weights[backend] = after.weights[backend].map(|_| weight);
            }
            // A command is about somebody who is there.
            Change::Toggle(backend) => after.drained[backend] ^= after.weights[backend].is_some(),
            Change::Kill | Change::Restart => {}
        }
        let mut backends = after.weights.iter().zip(after.drained);
        let is_served = backends.any(|(weight, drained)| weight.is_some_and(|it| it > 0) && !drained);
        (is_served && after != *self).then_some(after)
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "weights {:?}, drained {:?}", self.weights, self.drained)
    }
}

/// A balancer in front of servers that say who they are.
struct Cluster {
    mode: Mode,
    wanted: Wanted,
    balancer: Balancer,
    _decaps: Vec<Decap>,
    _servers: Vec<Server>,
    // Last: what runs in the lab ends before it.
    lab: Lab,
}

impl Cluster {
    fn start(mode: Mode) -> Self {
        let lab = Lab::builder().backends(BACKENDS).vips(2).start().unwrap();
        if mode.forward == "nat" {
            take_vips_off_backends(&lab).unwrap();
        }
        let decaps = if mode.forward == "ipip" {
            Decap::start_on_backends(&lab).unwrap()
        } else {
            Vec::new()
        };
        let servers = start_servers(&lab, HS2_PORT).unwrap();
        let wanted = Wanted::FIRST;
        let configuration = configuration(&lab, &mode, &wanted);
        Self {
            mode,
            wanted,
            balancer: Balancer::start(&lab, &lab.balancers()[0], configuration).unwrap(),
            _decaps: decaps,
            _servers: servers,
            lab,
        }
    }

    /// The connections, the same number to each service.
    fn hold(&self) -> Vec<Steady> {
        let client = &self.lab.clients()[0];
        let hold = |service: &Mixture| {
            let address = SocketAddr::new((service.vip)(&self.lab), HS2_PORT);
            Steady::start(client, Steady::options(client, address, self.mode.share())).unwrap()
        };
        self.mode.services.iter().map(hold).collect()
    }

    /// Does it, if there is something to do. Says whether there was.
    fn apply(&mut self, change: Change) -> Result<bool> {
        match change {
            Change::Kill => {
                self.balancer.daemon()?.kill()?;
                self.balancer.run(&[])?;
            }
            Change::Restart => {
                self.balancer.daemon()?.terminate(PATIENCE)?;
                self.balancer.run(&[])?;
            }
            Change::Add(_) | Change::Remove(_) | Change::Drain(_) | Change::Reweight(..) => {
                let Some(wanted) = self.wanted.after(change) else {
                    return Ok(false);
                };
                self.balancer
                    .reconfigure(configuration(&self.lab, &self.mode, &wanted))?;
                self.order(&["reload"])?;
                self.wanted = wanted;
            }
            Change::Toggle(backend) => {
                let Some(wanted) = self.wanted.after(change) else {
                    return Ok(false);
                };
                let command = if wanted.drained[backend] {
                    "drain"
                } else {
                    "undrain"
                };
                self.order(&[command, self.lab.backends()[backend].name()])?;
                self.wanted = wanted;
            }
        }
        Ok(true)
    }

    fn order(&self, command: &[&str]) -> Result<()> {
        let output = self.balancer.lb_ctl(command)?;
        ensure!(output.code == Some(0), "{command:?} said {output:?}");
        Ok(())
    }
}

/// All services of the mode, with the same backends.
fn configuration(lab: &Lab, mode: &Mode, wanted: &Wanted) -> Configuration {
    let empty = Configuration::of(lab, &lab.balancers()[0]);
    mode.services.iter().fold(empty, |configuration, service| {
        let hosts = lab.backends().iter().zip(wanted.weights);
        let backends: Vec<(&str, IpAddr, u32)> = hosts
            .filter_map(|(host, weight)| Some((host.name(), (service.backend)(host), weight?)))
            .collect();
        configuration.service_by(mode.forward, service.name, (service.vip)(lab), &backends)
    })
}

#[test]
fn a_thousand_connections_outlast_two_hundred_changes() {
    outlast(Mode::of("dsr"));
}

#[test]
fn translated_connections_outlast_changes() {
    outlast(Mode::of("nat"));
}

#[test]
fn connections_in_tunnels_outlast_changes() {
    outlast(Mode::of("ipip"));
}

/// At any moment: while the daemon reads what it finds, moves slots, or has been ready for a while.
#[test]
fn two_thousand_connections_outlast_a_hundred_kills() {
    const KILLS: u32 = 100;
    let [dsr, ..] = MODES;
    let mut cluster = Cluster::start(Mode {
        connections: 2000,
        ..dsr
    });
    let mut steady = cluster.hold();
    let mut random = Random::of(SEED);
    cluster.balancer.daemon().unwrap().kill().unwrap();
    for kill in 1..=KILLS {
        // Each start finds slots to move.
        let weight = 1 + u32::try_from(random.below(HIGHEST_WEIGHT)).unwrap();
        cluster.wanted.weights[random.below(usize::from(BACKENDS))] = Some(weight);
        let configuration = configuration(&cluster.lab, &cluster.mode, &cluster.wanted);
        cluster.balancer.reconfigure(configuration).unwrap();
        cluster.balancer.begin(&[]).unwrap();
        thread::sleep(Duration::from_millis(random.below(600).try_into().unwrap()));
        if kill.is_multiple_of(ROUND) {
            let daemon = cluster.balancer.daemon().unwrap();
            daemon.wait_for_line(" ready ", PATIENCE).unwrap();
            for connections in &mut steady {
                connections
                    .expect_unbroken()
                    .context(format!("kill {kill}"))
                    .unwrap();
            }
        }
        cluster.balancer.daemon().unwrap().kill().unwrap();
    }
    cluster.balancer.run(&[]).unwrap();
    for service in cluster.balancer.status().unwrap().services {
        assert!(service.tracked_slots > 0, "no slot of {} has moved", service.name);
    }
    for connections in steady {
        assert_eq!(connections.finish().unwrap().broken, []);
    }
}

fn outlast(mode: Mode) {
    let (share, changes) = (mode.share(), mode.changes);
    let mut cluster = Cluster::start(mode);
    let mut steady = cluster.hold();
    let mut random = Random::of(SEED);
    let mut done = 0;
    while done < changes {
        let change = Change::any(&mut random);
        let context = format!("change {done}, {change:?}, before it {}", cluster.wanted);
        if !cluster.apply(change).context(context.clone()).unwrap() {
            continue;
        }
        done += 1;
        if done.is_multiple_of(ROUND) {
            for connections in &mut steady {
                connections.expect_unbroken().context(context.clone()).unwrap();
            }
        }
    }
    // Otherwise nothing has been shown.
    for service in cluster.balancer.status().unwrap().services {
        assert!(service.tracked_slots > 0, "no slot of {} has moved", service.name);
    }
    for connections in steady {
        let summary = connections.finish().unwrap();
        assert_eq!(summary.broken, []);
        assert_eq!(summary.progress.connections, u64::from(share));
    }
}
