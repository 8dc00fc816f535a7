//! Stand-in coordinators on the backends of a lab.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};
use axum::http::Method;

use super::{HS2_PORT, PATIENCE, WEB_PORT};
use crate::clients::http::request_blocking;
use crate::hosts::lab::{Host, Lab};
use crate::hosts::process::Process;
use crate::impalad::cluster::State;
use crate::programs;

/// A stand-in coordinator that runs on a backend.
#[derive(Debug)]
pub struct Coordinator {
    /// Its name: the coordinator on `backend2` is `impala2`.
    pub name: String,
    /// Its own IPv4 address.
    pub address: Ipv4Addr,
    /// Its own IPv6 address.
    pub address6: Ipv6Addr,
    host: Host,
    process: Process,
}

/// Starts a coordinator on every backend, and returns when all are ready.
pub fn start_coordinators(lab: &Lab) -> Result<Vec<Coordinator>> {
    let name = |number: usize| format!("impala{number}");
    let peers: Vec<String> = (1..)
        .zip(lab.backends())
        .map(|(number, host)| format!("{}={}:{WEB_PORT}", name(number), host.v4()))
        .collect();
    let mut coordinators = Vec::new();
    for (number, host) in (1..).zip(lab.backends()) {
        let mut command = host.command(programs::find("stand-in-impalad")?)?;
        command.args(["--name", &name(number), "--hostname", &name(number)]);
        command.args(["--krpc-ip", &host.v4().to_string(), "--executor", "worker1"]);
        // Both families: the kernel takes IPv4 connections on the unspecified IPv6 address too.
        command.args(["--hs2-address", &format!("[::]:{HS2_PORT}")]);
        for peer in peers
            .iter()
            .filter(|peer| !peer.starts_with(&format!("{}=", name(number))))
        {
            command.args(["--peer", peer]);
        }
        coordinators.push(Coordinator {
            name: name(number),
            address: host.v4(),
            address6: host.v6(),
            host: host.clone(),
            process: host.spawn(&name(number), &mut command)?,
        });
    }
    for coordinator in &mut coordinators {
        coordinator.process.wait_for_line("ready", PATIENCE)?;
    }
    Ok(coordinators)
}

impl Coordinator {
    /// What the coordinator says about itself, asked on its own host.
    pub fn state(&self) -> Result<State> {
        let body = self.http(Method::GET, "/stand-in/state")?;
        serde_json::from_str(&body).with_context(|| format!("the state of {} is not understood", self.name))
    }

    /// Switches the coordinator: `serve`, `shutdown`, `saturate`, `not-ready` or `restart`.
    pub fn switch(&self, mode: &str) -> Result<()> {
        self.http(Method::POST, &format!("/stand-in/{mode}")).map(drop)
    }

    /// Answers for `/backends?json` in another way: see `BackendsPage`.
    pub fn answer_backends(&self, how: &str) -> Result<()> {
        self.switch(&format!("backends/{how}"))
    }

    /// Ends the process as a crash does: its host refuses connections from then on.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    fn http(&self, method: Method, path: &str) -> Result<String> {
        let authority = format!("127.0.0.1:{WEB_PORT}");
        let answer = self
            .host
            .enter(|| request_blocking(method, &authority, path, PATIENCE))?
            .with_context(|| format!("{} does not answer {path}", self.name))?;
        ensure!(
            answer.status.is_success(),
            "{} answers {} to {path}",
            self.name,
            answer.status
        );
        Ok(answer.body)
    }
}
