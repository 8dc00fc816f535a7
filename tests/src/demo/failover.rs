//! The end of the demo: the master is gone, and the queries go on.
#![allow(clippy::print_stdout, reason = "the demo tells a story")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::balancing::{HS2_PORT, Pair};
use crate::hosts::lab::Lab;
use crate::programs;

/// How many connections have queries on them all the time.
const CONNECTIONS: u32 = 40;

/// How long queries run before the master goes, and after.
const A_WHILE: Duration = Duration::from_secs(2);

/// What became of the queries.
#[derive(Clone, Debug, Deserialize)]
struct Outcome {
    answered: u64,
    failures: Vec<String>,
    longest_silence_ms: u64,
    slowest_ms: u64,
}

/// Kills the first balancer's daemon and cuts its link, under queries. An error if one of them fails.
pub(super) fn run(lab: &Lab, pair: &mut Pair, vip: Ipv4Addr) -> Result<()> {
    let script = lab.directory().join("failover.py");
    fs::write(&script, include_str!("failover.py"))
        .with_context(|| format!("cannot write {}", script.display()))?;
    let mut clients = lab.clients()[0]
        .command(programs::python()?)?
        .arg(&script)
        .args([vip.to_string(), HS2_PORT.to_string(), CONNECTIONS.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start Python")?;
    let mut output = BufReader::new(clients.stdout.take().context("Python's output")?);
    let mut ready = String::new();
    output.read_line(&mut ready)?;
    ensure!(ready == "ready\n", "the clients said {ready:?}");
    sleep(A_WHILE);

    let (host, other) = (lab.balancers()[0].clone(), lab.balancers()[1].name());
    let [master, _] = &mut pair.balancers;
    println!(
        "   {CONNECTIONS} connections have queries all the time. Now {}'s daemon is killed, and its link cut.",
        host.name()
    );
    let begin = Instant::now();
    master.daemon()?.kill()?;
    host.run(&["ip", "link", "set", "eth0", "down"])?;
    pair.wait_for_master(1)?;
    println!(
        "   {other} has taken over (seen after {} ms)",
        begin.elapsed().as_millis()
    );
    sleep(A_WHILE);
    // The end of its input is the end of the queries.
    drop(clients.stdin.take());
    let mut report = String::new();
    output.read_to_string(&mut report)?;
    clients.wait()?;
    let outcome: Outcome = serde_json::from_str(&report).context("the clients' report is not understood")?;
    let Outcome {
        answered,
        failures,
        longest_silence_ms,
        slowest_ms,
    } = outcome;
    println!(
        "   {answered} queries were answered. The gap: no answer on any connection for {longest_silence_ms} ms; the slowest one came \
         after {slowest_ms} ms, since TCP sends again only after a while."
    );
    for failure in &failures {
        println!("   FAILED: {failure}");
    }
    if !failures.is_empty() {
        bail!("{} queries failed", failures.len());
    }

    host.run(&["ip", "link", "set", "eth0", "up"])?;
    let [master, _] = &mut pair.balancers;
    master.run(&[])?;
    pair.wait_for_owner(1)?;
    println!(
        "   {} is back, knows all connections again, and waits for its turn.",
        host.name()
    );
    Ok(())
}
