//! The client's side of the demo: impyla, through the VIP.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::balancing::HS2_PORT;
use crate::hosts::lab::{Host, Lab};
use crate::programs;

/// What the clients saw.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Answers {
    /// Connections by the coordinator that they reached.
    pub connections: BTreeMap<String, u64>,
    /// Answered queries by the coordinator that answered.
    pub queries: BTreeMap<String, u64>,
    /// What went wrong, a line for each.
    pub failures: Vec<String>,
}

/// Runs `connections` connections with `queries` queries each, and returns when the last has ended.
pub fn run(lab: &Lab, client: &Host, vip: Ipv4Addr, connections: u32, queries: u32) -> Result<Answers> {
    run_against(
        lab,
        client,
        SocketAddr::from((vip, HS2_PORT)),
        connections,
        queries,
    )
}

/// The same against a service on a port of its own.
pub fn run_against(
    lab: &Lab,
    client: &Host,
    service: SocketAddr,
    connections: u32,
    queries: u32,
) -> Result<Answers> {
    let script = lab.directory().join("queries.py");
    fs::write(&script, include_str!("queries.py"))
        .with_context(|| format!("cannot write {}", script.display()))?;
    let output = client
        .command(programs::python()?)?
        .arg(&script)
        .args([
            service.ip().to_string(),
            service.port().to_string(),
            connections.to_string(),
            queries.to_string(),
        ])
        .output()
        .context("cannot start Python")?;
    ensure!(
        output.status.success(),
        "the clients ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).context("the clients' report is not understood")
}
