//! Tier 2: a thousand connections that live through everything an operator does on purpose, two hundred times over.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use lab::balancing::{Balancer, Configuration, HS2_PORT, PATIENCE};
use lab::random::Random;
use lab::steady::{Server, Steady, start_servers};
use lab::{Host, Lab};

const BACKENDS: u8 = 5;
/// On each of the services.
const CONNECTIONS: u16 = 500;
const CHANGES: u32 = 200;
/// After how many changes every connection has to have exchanged data: breaks in between are noticed as well.
const ROUND: u32 = 10;
const HIGHEST_WEIGHT: usize = 4;
/// The order of the changes follows from it.
const SEED: u64 = 0x1a7e;

/// Something that an operator, or fate, does to a balancer, and that must break no connection.
#[derive(Clone, Copy, Debug)]
enum Change {
    Add(usize),
    Remove(usize),
    /// Weight 0.
    Drain(usize),
    Reweight(usize, u32),
    /// SIGKILL, and a start.
    Kill,
    /// SIGTERM, and a start.
    Restart,
}

impl Change {
    fn any(random: &mut Random) -> Self {
        let backend = random.below(usize::from(BACKENDS));
        match random.below(12) {
            0..3 => Self::Add(backend),
            3..6 => Self::Remove(backend),
            6..8 => Self::Drain(backend),
            8..10 => {
                let weight = 1 + random.below(HIGHEST_WEIGHT);
                Self::Reweight(backend, u32::try_from(weight).unwrap())
            }
            10 => Self::Kill,
            _ => Self::Restart,
        }
    }
}

/// The weights of the backends that are configured.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Weights([Option<u32>; BACKENDS as usize]);

impl Weights {
    /// What they are after a change; `None` if it changes nothing, or leaves no backend for new connections.
    fn after(&self, change: Change) -> Option<Self> {
        let mut weights = self.clone();
        match change {
            Change::Add(backend) => {
                weights.0[backend].get_or_insert(1);
            }
            Change::Remove(backend) => weights.0[backend] = None,
            Change::Drain(backend) => weights.0[backend] = weights.0[backend].map(|_| 0),
            Change::Reweight(backend, weight) => {
                weights.0[backend] = weights.0[backend].map(|_| weight);
            }
            Change::Kill | Change::Restart => {}
        }
        let is_served = weights.0.iter().flatten().any(|&weight| weight > 0);
        (is_served && weights != *self).then_some(weights)
    }
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// A balancer in front of servers that say who they are.
struct Cluster {
    weights: Weights,
    balancer: Balancer,
    _servers: Vec<Server>,
    // Last: what runs in the lab ends before it.
    lab: Lab,
}

impl Cluster {
    fn start() -> Self {
        let lab = Lab::builder().backends(BACKENDS).start().unwrap();
        let servers = start_servers(&lab, HS2_PORT).unwrap();
        let weights = Weights([Some(1); BACKENDS as usize]);
        let configuration = configuration(&lab, &weights);
        Self {
            weights,
            balancer: Balancer::start(&lab, &lab.balancers()[0], configuration).unwrap(),
            _servers: servers,
            lab,
        }
    }

    /// A thousand connections, half of them over each family.
    fn hold(&self) -> Vec<Steady> {
        let vip = self.lab.vips()[0];
        let client = &self.lab.clients()[0];
        let services = [IpAddr::from(vip.v4), vip.v6.into()].map(|vip| SocketAddr::new(vip, HS2_PORT));
        services
            .map(|service| Steady::start(client, Steady::options(client, service, CONNECTIONS)).unwrap())
            .into()
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
                let Some(weights) = self.weights.after(change) else {
                    return Ok(false);
                };
                self.balancer.reconfigure(configuration(&self.lab, &weights))?;
                let output = self.balancer.lb_ctl(&["reload"])?;
                ensure!(output.code == Some(0), "reload said {output:?}");
                self.weights = weights;
            }
        }
        Ok(true)
    }
}

/// The services of both families, with the same backends.
fn configuration(lab: &Lab, weights: &Weights) -> Configuration {
    let backends = |address: fn(&Host) -> IpAddr| -> Vec<(&str, IpAddr, u32)> {
        let hosts = lab.backends().iter().zip(weights.0);
        hosts
            .filter_map(|(host, weight)| Some((host.name(), address(host), weight?)))
            .collect()
    };
    let vip = lab.vips()[0];
    Configuration::of(lab, &lab.balancers()[0])
        .service("impala4", vip.v4.into(), &backends(|host| host.v4().into()))
        .service("impala6", vip.v6.into(), &backends(|host| host.v6().into()))
}

#[test]
fn a_thousand_connections_outlast_two_hundred_changes() {
    let mut cluster = Cluster::start();
    let mut steady = cluster.hold();
    let mut random = Random::of(SEED);
    let mut made = 0;
    while made < CHANGES {
        let change = Change::any(&mut random);
        let context = format!("change {made}, {change:?}, before it {}", cluster.weights);
        if !cluster.apply(change).context(context.clone()).unwrap() {
            continue;
        }
        made += 1;
        if made.is_multiple_of(ROUND) {
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
        assert_eq!(summary.progress.connections, u64::from(CONNECTIONS));
    }
}
