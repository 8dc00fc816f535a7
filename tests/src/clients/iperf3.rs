//! Bulk data through a service, by iperf3.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::balancing::PATIENCE;
use crate::hosts::lab::Host;

/// Which way the data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server: the bulk of it through the balancer.
    ToServer,
    /// From the server to the client: only acknowledgements go through the balancer, where servers answer directly.
    ToClient,
}

/// What has been transferred, as iperf3 reports it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transfer {
    /// Bytes that the sender has sent.
    pub sent: u64,
    /// Bytes that had arrived when the transfer ended. The last ones that were sent need not be among them.
    pub received: u64,
    /// Segments that the sender has sent again.
    pub retransmits: u64,
    /// What it took.
    pub seconds: f64,
}

/// Runs an iperf3 server on one host, for all its addresses and the service's port, and a client on another, and returns
/// when `bytes` have been sent.
///
/// iperf3 opens two connections, which both have to reach this server: behind a balancer it has to be the only backend.
pub fn transfer(
    server: &Host,
    client: &Host,
    service: SocketAddr,
    bytes: u64,
    direction: Direction,
) -> Result<Transfer> {
    let (address, port) = (service.ip().to_string(), service.port().to_string());
    let mut command = server.command("iperf3")?;
    command.args(["--server", "--one-off", "--forceflush", "--port", &port]);
    let mut serving = server.spawn("iperf3-server", &mut command)?;
    serving.wait_for_line("Server listening", PATIENCE)?;

    let mut command = client.command("iperf3")?;
    command.args(["--json", "--client", &address, "--port", &port]);
    command.args(["--bytes", &bytes.to_string()]);
    if direction == Direction::ToClient {
        command.arg("--reverse");
    }
    let report = run(&mut command)
        .with_context(|| format!("iperf3 on {} with {service} on {}", client.name(), server.name()))?;
    let status = serving.wait(PATIENCE)?;
    ensure!(status.success(), "{serving} ended with {status}");
    Transfer::parse(&report)
}

/// Runs the client. It has no limit of time: the kernel gives up a connection that is dead.
fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .context("cannot start iperf3: run `cargo xtask setup`")?;
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        // With --json, errors are in the report too.
        let reason = serde_json::from_str::<Value>(&report).ok();
        let reason = reason.and_then(|report| report["error"].as_str().map(str::to_owned));
        let reason = reason.unwrap_or_else(|| String::from_utf8_lossy(&output.stderr).into_owned());
        bail!("it failed ({}): {}", output.status, reason.trim());
    }
    Ok(report)
}

impl Transfer {
    fn parse(report: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Report {
            end: End,
        }
        #[derive(Deserialize)]
        struct End {
            sum_sent: Sent,
            sum_received: Received,
        }
        #[derive(Deserialize)]
        struct Sent {
            bytes: u64,
            seconds: f64,
            retransmits: u64,
        }
        #[derive(Deserialize)]
        struct Received {
            bytes: u64,
        }
        let Report { end } =
            serde_json::from_str(report).context("the report of iperf3 is not understood")?;
        Ok(Self {
            sent: end.sum_sent.bytes,
            received: end.sum_received.bytes,
            retransmits: end.sum_sent.retransmits,
            seconds: end.sum_sent.seconds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_understood() {
        let report = r#"{"start":{},"intervals":[],"end":{
            "sum_sent":{"start":0,"end":0.5,"seconds":0.5,"bytes":1048576,"retransmits":7,"sender":true},
            "sum_received":{"start":0,"end":0.5,"seconds":0.5,"bytes":1048570,"sender":true}}}"#;
        let transfer = Transfer::parse(report).unwrap();
        assert_eq!((transfer.sent, transfer.received), (1_048_576, 1_048_570));
        assert_eq!((transfer.retransmits, transfer.seconds), (7, 0.5));
        assert!(Transfer::parse(r#"{"start":{},"end":{}}"#).is_err());
    }
}
