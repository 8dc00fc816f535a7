//! Floods a service with SYNs, and prints a line of JSON at the end. See `lab::clients::flood`.
#![allow(clippy::print_stdout, reason = "it reports on standard output")]

use std::net::SocketAddr;

use anyhow::Result;
use clap::Parser;
use lab::Mac;
use lab::clients::flood::{Options, Prefix, run};

/// Flood a service with SYNs from addresses that are not this host's, as fast as the machine can.
#[derive(Parser)]
#[command(name = "syn-flood")]
struct Arguments {
    /// The interface to send from. The other end of a veth needs a native XDP program.
    #[arg(long, default_value = "eth0")]
    interface: String,
    /// The service.
    #[arg(long, value_name = "IP:PORT")]
    service: SocketAddr,
    /// The MAC address of the next hop on the way there.
    #[arg(long, value_name = "MAC")]
    next_hop: Mac,
    /// Where the SYNs are to come from.
    #[arg(long, default_value = "198.18.0.0/15", value_name = "PREFIX")]
    sources: Prefix,
    /// How many to send.
    #[arg(long, default_value_t = 5_000_000, value_name = "N")]
    packets: u64,
    /// From how many threads.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=64))]
    threads: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let report = run(
        &arguments.interface,
        &Options {
            service: arguments.service,
            next_hop: arguments.next_hop.0,
            sources: arguments.sources,
            packets: arguments.packets,
            threads: arguments.threads,
        },
    )?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}
