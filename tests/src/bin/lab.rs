//! `lab`: brings a lab up and down by hand, cleans up behind those that programs run, and measures.
#![allow(clippy::print_stdout, reason = "it is a command-line program")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Parser, Subcommand};
use lab::{Lab, Process, Selection};
use tokio::signal::unix::{SignalKind, signal};

/// A lab of network namespaces for the load balancer: hosts for balancers, backends and clients on one switch.
#[derive(Parser)]
#[command(name = "lab", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring a lab up, and take it down again on Ctrl-C.
    Up(Up),
    /// Send queries of a real client through the balancer to three coordinators, and show what happened.
    Demo(Demo),
    /// Measure.
    #[command(subcommand)]
    Bench(Bench),
    /// Take down labs that were kept.
    Down(Down),
    /// Take a lab down when its owner dies. Started by the lab itself.
    #[command(hide = true)]
    Reap {
        /// The directory of the run.
        directory: PathBuf,
    },
}

#[derive(Args)]
struct Up {
    /// Number of hosts for balancers.
    #[arg(long, default_value_t = 1, value_name = "N")]
    balancers: u8,
    /// Number of backends.
    #[arg(long, default_value_t = 1, value_name = "N")]
    backends: u8,
    /// Number of clients.
    #[arg(long, default_value_t = 1, value_name = "N")]
    clients: u8,
    /// Number of clients on a network of their own, behind a router.
    #[arg(long, default_value_t = 0, value_name = "N")]
    remotes: u8,
    /// Put the backends on a network of their own, behind the balancers' eth1.
    #[arg(long)]
    backends_apart: bool,
    /// Number of VIPs, which all backends hold on their loopback interface.
    #[arg(long, default_value_t = 1, value_name = "N")]
    vips: u8,
    /// Run a shell command on a host while the lab is up, such as `backend1=nc -lk 80`.
    #[arg(long, value_name = "HOST=COMMAND", value_parser = parse_job)]
    run: Vec<Job>,
    /// Remove this file or directory with the lab, such as the pins of a balancer that is run by hand.
    #[arg(long, value_name = "PATH")]
    remove: Vec<PathBuf>,
    /// Leave the lab running, and return at once.
    #[arg(long)]
    keep: bool,
}

#[derive(Clone)]
struct Job {
    host: String,
    command: String,
}

fn parse_job(text: &str) -> Result<Job, String> {
    match text.split_once('=') {
        Some((host, command)) if !host.is_empty() && !command.is_empty() => Ok(Job {
            host: host.to_owned(),
            command: command.to_owned(),
        }),
        _ => Err("expected the name of a host, `=`, and a shell command".to_owned()),
    }
}

#[derive(Args)]
struct Demo {
    /// Number of connections that the clients open, with a few queries each. With few, a coordinator may get none.
    #[arg(long, default_value_t = 120, value_name = "N", value_parser = clap::value_parser!(u32).range(30..=10_000))]
    connections: u32,
    /// Leave the lab running, and say how to look around.
    #[arg(long)]
    keep: bool,
    /// Take a demo that was kept down again. The name may be left out if only one was kept.
    #[arg(long, value_name = "LAB", num_args = 0..=1, exclusive = true)]
    #[expect(clippy::option_option, reason = "absent, without a name, with a name")]
    down: Option<Option<String>>,
}

#[derive(Subcommand)]
enum Bench {
    /// Time per packet of the XDP program, above that of a program that only swaps MAC addresses.
    Datapath {
        /// Print one line of JSON for each case instead of a table.
        #[arg(long)]
        json: bool,
        /// How often each case is timed, in turn with the others.
        #[arg(long, default_value_t = 51, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
        rounds: u32,
        /// Measure only cases with this in their name, such as "IPv4, slots tracked".
        #[arg(long, value_name = "TEXT")]
        only: Option<String>,
    },
    /// Memory of the default tables in the kernel, and time to write a ring that has changed.
    Tables {
        /// Print lines of JSON instead of tables.
        #[arg(long)]
        json: bool,
        /// How often a ring is written.
        #[arg(long, default_value_t = 1001, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
        runs: u32,
    },
    /// Start, reload, memory and checks of the controller, with as many backends as tables of the default sizes take.
    Controller {
        /// Print a line of JSON instead of a table.
        #[arg(long)]
        json: bool,
        /// How often the configuration is reloaded.
        #[arg(long, default_value_t = 21, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
        reloads: u32,
        /// For how long the checks are watched.
        #[arg(long, default_value_t = 20, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(5..=3_600))]
        seconds: u32,
    },
    /// The state stream from the maps of one balancer to those of another: all records at first, then connections as they come.
    Stream {
        /// Print a line of JSON instead of a table.
        #[arg(long)]
        json: bool,
        /// How many records there are at first.
        #[arg(long, default_value_t = 100_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=120_000))]
        records: u32,
        /// How many connections come a second.
        #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
        rate: u32,
        /// For how long they come, and for how long none do before that.
        #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=60))]
        seconds: u32,
    },
}

#[derive(Args)]
struct Down {
    /// The lab to take down. May be left out if only one was kept.
    #[arg(conflicts_with = "all")]
    run: Option<String>,
    /// Take down all that were kept.
    #[arg(long)]
    all: bool,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Up(arguments) => up(&arguments),
        Command::Demo(Demo { down: Some(run), .. }) => down(Down { run, all: false }),
        Command::Demo(Demo {
            connections, keep, ..
        }) => lab::demo::run(lab::demo::Options { connections, keep }),
        Command::Bench(Bench::Datapath { json, rounds, only }) => {
            lab::bench::run(&lab::bench::Options { rounds, only, json })
        }
        Command::Bench(Bench::Tables { json, runs }) => {
            lab::bench::run_tables(lab::bench::TablesOptions { runs, json })
        }
        Command::Bench(Bench::Controller {
            json,
            reloads,
            seconds,
        }) => lab::bench::run_controller(lab::bench::ControllerOptions {
            reloads,
            seconds,
            json,
        }),
        Command::Bench(Bench::Stream {
            json,
            records,
            rate,
            seconds,
        }) => lab::bench::run_stream(lab::bench::StreamOptions {
            records,
            rate,
            seconds,
            json,
        }),
        Command::Down(arguments) => down(arguments),
        Command::Reap { directory } => lab::reap(directory),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn up(arguments: &Up) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // Before the lab exists, so that from the first moment a signal takes it down in good order.
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        let handler = |kind| signal(kind).context("cannot handle signals");
        (
            handler(SignalKind::interrupt())?,
            handler(SignalKind::terminate())?,
        )
    };

    let mut builder = Lab::builder()
        .balancers(arguments.balancers)
        .backends(arguments.backends)
        .clients(arguments.clients)
        .remotes(arguments.remotes)
        .vips(arguments.vips);
    if arguments.backends_apart {
        builder = builder.backends_apart();
    }
    let mut lab = builder.start()?;
    for path in &arguments.remove {
        lab.on_teardown_remove(path)?;
    }
    let _processes = arguments
        .run
        .iter()
        .map(|job| start(&lab, job))
        .collect::<Result<Vec<_>>>()?;
    print!("{lab}");
    if arguments.keep {
        lab.keep()?;
        println!("lab {id} is up; `lab down {id}` takes it down", id = lab.id());
        return Ok(());
    }
    println!("lab {} is up; Ctrl-C takes it down", lab.id());
    runtime.block_on(async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    });
    Ok(())
}

fn start(lab: &Lab, job: &Job) -> Result<Process> {
    let host = lab.host(&job.host)?;
    let process = host.spawn("job", host.command("sh")?.args(["-c", &job.command]))?;
    println!(
        "process {} on {}: {} (output in {})",
        process.id(),
        job.host,
        job.command,
        process.log().display()
    );
    Ok(process)
}

fn down(arguments: Down) -> Result<()> {
    let selection = match arguments.run {
        Some(id) => Selection::Run(id),
        None if arguments.all => Selection::All,
        None => Selection::Only,
    };
    let taken_down = lab::down(&selection)?;
    if taken_down.is_empty() {
        println!("no lab was kept");
    }
    let mut failed = Vec::new();
    for (id, outcome) in taken_down {
        match outcome {
            Ok(removed) => print!("lab {id} is down\n{removed}"),
            Err(error) => failed.push(format!("lab {id} is not completely taken down: {error:#}")),
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}
