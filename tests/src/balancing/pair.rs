//! Two balancers that share VIPs and tell each other where connections live.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use lb_ctl::core::role::Role;

use super::{Balancer, Configuration, PATIENCE};
use crate::hosts::lab::Lab;
use crate::wait::wait_until;

/// The port on which they meet.
pub const PEER_PORT: u16 = 7000;

/// The first two balancers of a lab. The first one is master at the beginning; nobody preempts.
#[derive(Debug)]
pub struct Pair {
    /// The balancers.
    pub balancers: [Balancer; 2],
}

impl Pair {
    /// Starts both, and returns when the first one owns everything and the second one knows it. `services` adds them to a
    /// configuration; the VIPs are those that move, with so many milliseconds between advertisements.
    pub fn start(
        lab: &Lab,
        interval_ms: u32,
        vips: &[IpAddr],
        services: impl Fn(Configuration) -> Configuration,
    ) -> Result<Self> {
        let mut pair = Self::prepare(lab, interval_ms, vips, services)?;
        pair.start_both()?;
        Ok(pair)
    }

    /// Starts both as they are prepared, and returns when the first one owns everything and the second one knows it.
    pub fn start_both(&mut self) -> Result<()> {
        for balancer in &mut self.balancers {
            balancer.run(&[])?;
            // The first one before the second.
            wait_until("a VRRP state", PATIENCE, || {
                let states = states(balancer)?;
                ensure!(
                    states.iter().all(|state| state == "master" || state == "backup"),
                    "{states:?}"
                );
                Ok(())
            })?;
        }
        self.wait_for_owner(0)
    }

    /// Writes the configuration files and the key. Starts nothing.
    pub fn prepare(
        lab: &Lab,
        interval_ms: u32,
        vips: &[IpAddr],
        services: impl Fn(Configuration) -> Configuration,
    ) -> Result<Self> {
        let key = write_key(lab, "peer.key", 'a')?;
        let mut balancers = Vec::new();
        for number in 0..2 {
            let (host, other) = (&lab.balancers()[number], &lab.balancers()[1 - number]);
            let mut text = String::new();
            for (place, vip) in vips.iter().enumerate() {
                // Writing to a string cannot fail.
                let _ = write!(
                    text,
                    "\n[[vrrp]]\nname = \"vip{place}\"\nvrid = {}\naddresses = [\"{vip}\"]\npriority = {}\npreempt = false\n\
                     advert_interval = \"{interval_ms}ms\"\ngroup = \"all\"\n",
                    51 + place,
                    200 - 100 * number
                );
            }
            let _ = write!(
                text,
                "\n[peer]\nlisten = \"{}:{PEER_PORT}\"\nconnect = \"{}:{PEER_PORT}\"\nkey_file = \"{}\"\n",
                host.v4(),
                other.v4(),
                key.display()
            );
            let configuration = services(Configuration::of(lab, host)).followed_by(&text);
            balancers.push(Balancer::prepare(lab, host, configuration)?);
        }
        let balancers = <[Balancer; 2]>::try_from(balancers);
        Ok(Self {
            balancers: balancers.ok().context("two balancers")?,
        })
    }

    /// Waits until this balancer owns all services, and the other one knows all that it knows.
    pub fn wait_for_owner(&self, number: usize) -> Result<()> {
        wait_until("the other balancer to know everything", PATIENCE, || {
            let roles = |balancer: &Balancer| -> Result<Vec<String>> {
                let services = balancer.status()?.services;
                Ok(services.into_iter().filter_map(|service| service.role).collect())
            };
            let (owner, other) = (
                roles(&self.balancers[number])?,
                roles(&self.balancers[1 - number])?,
            );
            let are = |roles: &[String], role: Role| roles.iter().all(|it| it == role.as_str());
            ensure!(
                !owner.is_empty() && are(&owner, Role::Owner) && are(&other, Role::Following),
                "{owner:?}, and the other one {other:?}"
            );
            let peer = self.balancers[number].status()?.peer.context("a peer")?;
            ensure!(peer.connected && peer.lag_ms == 0, "{peer:?}");
            Ok(())
        })
    }

    /// Waits until this balancer is master of everything, whatever the other one is.
    pub fn wait_for_master(&self, number: usize) -> Result<()> {
        wait_until("a new master", PATIENCE, || {
            let states = states(&self.balancers[number])?;
            ensure!(states.iter().all(|state| state == "master"), "{states:?}");
            Ok(())
        })
    }

    /// Has the balancer that owns everything hand it over, and waits until the other one owns it and both know everything.
    pub fn hand_over(&self, from: usize) -> Result<()> {
        let output = self.balancers[from].lb_ctl(&["failover"])?;
        if output.code != Some(0) {
            bail!("lb-ctl failover said {output:?}");
        }
        self.wait_for_owner(1 - from)
    }
}

/// The states of all instances.
fn states(balancer: &Balancer) -> Result<Vec<String>> {
    let instances = balancer.status()?.vrrp;
    ensure!(!instances.is_empty(), "no instance");
    Ok(instances.into_iter().map(|instance| instance.state).collect())
}

/// Writes a key file that consists of one digit.
pub fn write_key(lab: &Lab, name: &str, digit: char) -> Result<PathBuf> {
    let path = lab.directory().join(name);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)?;
    file.write_all(digit.to_string().repeat(64).as_bytes())?;
    Ok(path)
}
