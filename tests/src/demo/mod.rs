//! The demo: real HiveServer2 queries of a real client, through a pair of balancers, to three coordinators. One balancer is killed.
#![allow(clippy::print_stdout, reason = "the demo tells a story")]

mod failover;
pub mod outcome;
pub mod workload;

use std::time::Instant;

use anyhow::{Result, bail};

use crate::balancing::{Balancer, Coordinator, HS2_PORT, Pair, WEB_PORT, start_coordinators};
use crate::hosts::lab::Lab;
use outcome::Row;
use workload::Answers;

const COORDINATORS: u8 = 3;
/// Between VRRP advertisements: a master that is gone is missed after a third of a second.
const INTERVAL_MS: u32 = 100;
const QUERIES_PER_CONNECTION: u32 = 3;
/// How many failures are shown one by one.
const SHOWN_PROBLEMS: usize = 10;

/// How the demo is to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many connections the clients open, with a few queries each.
    pub connections: u32,
    /// Leave everything running at the end.
    pub keep: bool,
}

/// Tells the story. An error if a query failed or a coordinator got none.
pub fn run(options: Options) -> Result<()> {
    println!("Two load balancers in front of {COORDINATORS} Impala coordinators, on this machine\n");

    let begin = Instant::now();
    let mut lab = Lab::builder()
        .balancers(2)
        .backends(COORDINATORS)
        .clients(1)
        .start()?;
    let (client, vip) = (&lab.clients()[0], lab.vips()[0].v4);
    println!("1. The network: each host is a network namespace, all are on one switch.");
    print!("{}", indented(&lab.to_string()));

    println!("\n2. The coordinators: stand-ins that speak Impala's HiveServer2 on port {HS2_PORT}.");
    let coordinators = start_coordinators(&lab)?;
    for Coordinator { name, address, .. } in &coordinators {
        println!("   {name} listens on {address}:{HS2_PORT}");
    }

    println!(
        "\n3. The balancers: `lb-ctl run` loads an XDP program; by VRRP one of the two takes the VIP {vip}."
    );
    let backends: Vec<_> = coordinators
        .iter()
        .map(|coordinator| (coordinator.name.as_str(), coordinator.address.into(), 1))
        .collect();
    let mut pair = Pair::start(&lab, INTERVAL_MS, &[vip.into()], |configuration| {
        configuration.service("impala", vip.into(), &backends)
    })?;
    for (balancer, host) in pair.balancers.iter().zip(lab.balancers()) {
        let status = balancer.status()?;
        for interface in &status.datapath.interfaces {
            let vrrp: Vec<&str> = status
                .vrrp
                .iter()
                .map(|instance| instance.state.as_str())
                .collect();
            let (name, mode) = (&interface.name, &interface.mode);
            println!(
                "   {}: XDP runs on {name}, in {mode} mode; VRRP: {}",
                host.name(),
                vrrp.join(", ")
            );
        }
    }
    println!("   the second one is told by the first where each connection lives");
    println!("   all of this took {:.1} s", begin.elapsed().as_secs_f64());

    let Options { connections, .. } = options;
    println!(
        "\n4. The clients: {connections} connections of impyla to {vip}:{HS2_PORT}, {QUERIES_PER_CONNECTION} queries each, \
         then one of 100 rows."
    );
    let begin = Instant::now();
    let verdict = workload::run(&lab, client, vip, connections, QUERIES_PER_CONNECTION).and_then(|answers| {
        println!("   done in {:.1} s", begin.elapsed().as_secs_f64());
        println!(
            "\n5. Who served what. Packets came in through the balancer; answers went straight to the client."
        );
        report(&answers, &coordinators, &pair.balancers[0])?;
        println!("\n6. The master is gone.");
        failover::run(&lab, &mut pair, vip)?;
        let total: u64 = answers.queries.values().sum();
        println!("\nAll queries were answered: {total} by all {COORDINATORS} coordinators, and those during the failover.");
        Ok(())
    });
    // A failure is what one wants to look at most.
    if options.keep {
        let hints = hints(&lab, &pair, vip)?;
        lab.keep()?;
        println!("{hints}");
    }
    verdict
}

/// Prints what clients, coordinators and balancer have counted, side by side. An error if it is not as it should be.
fn report(answers: &Answers, coordinators: &[Coordinator], balancer: &Balancer) -> Result<()> {
    let backends = balancer.backends()?;
    let rows = coordinators
        .iter()
        .map(|coordinator| Row::of(coordinator, answers, &backends))
        .collect::<Result<Vec<_>>>()?;
    print!("{}", indented(&outcome::table(&rows)));
    let problems = outcome::problems(answers, &rows);
    for problem in problems.iter().take(SHOWN_PROBLEMS) {
        println!("   FAILED: {problem}");
    }
    if problems.len() > SHOWN_PROBLEMS {
        println!("   … and {} more", problems.len() - SHOWN_PROBLEMS);
    }
    match problems.len() {
        0 => Ok(()),
        1 => bail!("there was a failure, see above"),
        count => bail!("there were {count} failures, see above"),
    }
}

/// How to look around in a lab that stays.
fn hints(lab: &Lab, pair: &Pair, vip: std::net::Ipv4Addr) -> Result<String> {
    let [first, second] = &pair.balancers;
    let client = lab.clients()[0].full_name();
    let backend = lab.backends()[0].full_name();
    let python = crate::programs::python()?;
    Ok(format!(
        "\nThe lab stays up. As root:\n\
         \x20  what the balancers do     {status}\n\
         \x20                            {other}\n\
         \x20  their configurations      {file}, {other_file}\n\
         \x20  a query as the client     nsenter --net=/run/netns/{client} {python} -c \"from impala.dbapi import connect; \
         c = connect('{vip}', {HS2_PORT}, auth_mechanism='NOSASL').cursor(); \
         c.execute('select coordinator()'); print(c.fetchall())\"\n\
         \x20  a coordinator's metrics   nsenter --net=/run/netns/{backend} curl -s 127.0.0.1:{WEB_PORT}/jsonmetrics\n\
         \x20  let it shut down          nsenter --net=/run/netns/{backend} curl -s -X POST 127.0.0.1:{WEB_PORT}/stand-in/shutdown\n\
         \x20  what the processes print  {logs}\n\
         \x20  take it all down          cargo xtask demo --down {id}",
        status = first.status_command()?,
        other = second.status_command()?,
        file = first.file().display(),
        other_file = second.file().display(),
        python = python.display(),
        logs = lab.directory().join("logs").display(),
        id = lab.id(),
    ))
}

fn indented(text: &str) -> String {
    text.lines().flat_map(|line| ["   ", line, "\n"]).collect()
}
