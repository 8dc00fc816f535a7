//! Everything that a developer does with this repository, behind `cargo xtask`.
//!
//! The crate depends neither on `lb-ctl` nor on `lab`: it has to compile within seconds on a fresh clone, where the
//! toolchain that those two need is not there yet.
#![allow(
    clippy::print_stdout,
    reason = "a command-line tool tells what it does on stdout"
)]

mod bench;
mod building;
mod cache;
mod command;
mod demo;
mod kernels;
mod libtest;
mod lint;
mod setup;
mod testing;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};
use kernels::Kernel;
use setup::Scope;

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or install what building, testing and the demo need; does nothing where nothing is missing
    Setup,
    /// Build everything, BPF programs included
    Build {
        /// Build optimised binaries
        #[arg(long)]
        release: bool,
    },
    /// Run the tests of tiers 0 to 2 (root needed for 1 and 2), of tier 3 on demand, and end with one summary line
    Test {
        /// Run only tests whose name contains one of these
        filter: Vec<String>,
        /// Run the tests of tier 1 also on other kernels, in emulated machines: on all, or on those named here
        #[arg(
            long,
            value_name = "SERIES",
            value_delimiter = ',',
            num_args = 0..=1,
            default_missing_value = "6.1,6.12"
        )]
        kernels: Vec<Kernel>,
    },
    /// Check formatting, clippy and the documentation
    Lint,
    /// Run queries of a real client through a balancer, in network namespaces (needs root)
    #[command(disable_help_flag = true)]
    Demo {
        /// What the demo is told; `cargo xtask demo --help` lists it
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Measure: `bench datapath` tells nanoseconds per packet of the XDP program (needs root)
    #[command(disable_help_flag = true)]
    Bench {
        /// What to measure, and how; `cargo xtask bench --help` lists it
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Setup => setup::run(Scope::Lab).map(|_| ExitCode::SUCCESS),
        Task::Build { release } => building::run(release).map(|()| ExitCode::SUCCESS),
        Task::Test { filter, kernels } => testing::run(&filter, &kernels),
        Task::Lint => lint::run().map(|()| ExitCode::SUCCESS),
        Task::Demo { arguments } => demo::run(&arguments).map(|never| match never {}),
        Task::Bench { arguments } => bench::run(&arguments).map(|never| match never {}),
    };
    outcome.unwrap_or_else(|error| {
        // `{:#}`, because a backtrace helps nobody who runs a build tool.
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
