//! A stand-in for an Impala coordinator, as a program. See `lab::impalad`.
//!
//! When both ports are open it prints one line, `ready NAME hs2=IP:PORT web=IP:PORT`. SIGTERM ends it at once.

#![allow(
    clippy::print_stdout,
    reason = "the line on stdout tells whoever started the program that it is ready, and where"
)]

use anyhow::{Context as _, Result};
use clap::Parser;
use lab::impalad::{Options, StandIn};
use lab::limits::allow_many_files;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

#[derive(Debug, Parser)]
#[command(
    about = "A stand-in for an Impala coordinator: HiveServer2 and the web pages that a load balancer reads"
)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// End when the thread that started this program ends, however that happens
    #[arg(long)]
    die_with_parent: bool,
}

// One thread is enough for the web pages; HiveServer2 has its own.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.die_with_parent {
        set_parent_process_death_signal(Some(Signal::KILL))
            .context("cannot ask for the parent's death signal")?;
        // The parent may have died before the request; then init has taken its place.
        anyhow::ensure!(
            getppid().is_some_and(|parent| !parent.is_init()),
            "the parent process has ended already"
        );
    }
    // Waiting connections cost a file each.
    allow_many_files().context("cannot raise the limit of open files")?;
    let name = arguments.options.name.clone();
    let (stand_in, web) = StandIn::start(arguments.options).await?;
    println!(
        "ready {name} hs2={} web={}",
        stand_in.hs2_address(),
        web.local_addr()?
    );
    stand_in.serve_web(web).await
}
