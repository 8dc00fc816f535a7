//! The demo: real HiveServer2 queries of a real client, through the balancer, to three coordinators.
#![allow(clippy::print_stdout, reason = "the demo tells a story")]

pub mod outcome;
pub mod workload;

use std::time::Instant;

use anyhow::{Result, bail};

use crate::balancing::{Balancer, Configuration, Coordinator, HS2_PORT, WEB_PORT, start_coordinators};
use crate::hosts::lab::Lab;
use outcome::Row;
use workload::Answers;

const COORDINATORS: u8 = 3;
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
    println!("A load balancer in front of {COORDINATORS} Impala coordinators, on this machine\n");

    let begin = Instant::now();
    let mut lab = Lab::builder()
        .balancers(1)
        .backends(COORDINATORS)
        .clients(1)
        .start()?;
    let (balancer_host, client, vip) = (&lab.balancers()[0], &lab.clients()[0], lab.vips()[0].v4);
    println!("1. The network: each host is a network namespace, all are on one switch.");
    print!("{}", indented(&lab.to_string()));

    println!("\n2. The coordinators: stand-ins that speak Impala's HiveServer2 on port {HS2_PORT}.");
    let coordinators = start_coordinators(&lab)?;
    for Coordinator { name, address, .. } in &coordinators {
        println!("   {name} listens on {address}:{HS2_PORT}");
    }

    println!("\n3. The balancer: `lb-ctl run` loads its XDP program and takes the VIP {vip}.");
    let backends: Vec<_> = coordinators
        .iter()
        .map(|coordinator| (coordinator.name.as_str(), coordinator.address.into(), 1))
        .collect();
    let configuration = Configuration::of(&lab, balancer_host).service("impala", vip.into(), &backends);
    let balancer = Balancer::start(&lab, balancer_host, configuration)?;
    for interface in balancer.status()?.datapath.interfaces {
        println!("   XDP runs on {}, in {} mode", interface.name, interface.mode);
    }
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
        report(&answers, &coordinators, &balancer)?;
        let total: u64 = answers.queries.values().sum();
        println!("\nAll {total} queries were answered, by all {COORDINATORS} coordinators.");
        Ok(())
    });
    // A failure is what one wants to look at most.
    if options.keep {
        let hints = hints(&lab, &balancer, vip)?;
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
fn hints(lab: &Lab, balancer: &Balancer, vip: std::net::Ipv4Addr) -> Result<String> {
    let client = lab.clients()[0].full_name();
    let backend = lab.backends()[0].full_name();
    let python = crate::programs::python()?;
    Ok(format!(
        "\nThe lab stays up. As root:\n\
         \x20  what the balancer does    {status}\n\
         \x20  its configuration         {file}\n\
         \x20  a query as the client     nsenter --net=/run/netns/{client} {python} -c \"from impala.dbapi import connect; \
         c = connect('{vip}', {HS2_PORT}, auth_mechanism='NOSASL').cursor(); \
         c.execute('select coordinator()'); print(c.fetchall())\"\n\
         \x20  a coordinator's metrics   nsenter --net=/run/netns/{backend} curl -s 127.0.0.1:{WEB_PORT}/jsonmetrics\n\
         \x20  let it shut down          nsenter --net=/run/netns/{backend} curl -s -X POST 127.0.0.1:{WEB_PORT}/stand-in/shutdown\n\
         \x20  what the processes print  {logs}\n\
         \x20  take it all down          cargo xtask demo --down {id}",
        status = balancer.status_command()?,
        file = balancer.file().display(),
        python = python.display(),
        logs = lab.directory().join("logs").display(),
        id = lab.id(),
    ))
}

fn indented(text: &str) -> String {
    text.lines().flat_map(|line| ["   ", line, "\n"]).collect()
}
