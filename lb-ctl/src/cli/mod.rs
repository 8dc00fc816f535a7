//! The command line.

mod decap;
mod detach;
mod drain_wait;
mod exit;
mod explain;
mod flows;
mod operate;
mod output;
mod plan;
mod reload;
mod run;
mod status;
mod vrrp;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use crate::{adapters::config_file, core::config::API_SOCKET};

/// A load balancer for Apache Impala: forwards in the kernel (XDP), controlled from here.
#[derive(Debug, Parser)]
#[command(name = "lb-ctl", version, arg_required_else_help = true, after_help = EXIT_CODES)]
struct Command {
    /// Where the daemon listens for operators [default: /run/lb-ctl/api.sock].
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

impl Command {
    fn socket(&self) -> &Path {
        self.socket.as_deref().unwrap_or(Path::new(API_SOCKET))
    }
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 no daemon.";

#[derive(Debug, Subcommand)]
enum Action {
    /// Run the daemon: load and attach the XDP program, fill its tables, follow the network.
    ///
    /// SIGTERM ends the daemon only: the XDP program stays and forwards on. `lb-ctl detach` removes it.
    Run {
        #[command(flatten)]
        config: ConfigFile,
        /// How the log, on standard error, is written.
        #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
        log_format: run::LogFormat,
        /// At the end, remove the XDP program, its pins and the VIPs.
        #[arg(long)]
        detach_on_exit: bool,
    },
    /// Validate a configuration: say what is wrong with it, with line and key, or nothing but "ok".
    Check {
        #[command(flatten)]
        config: ConfigFile,
        /// Also compare it with this host: interfaces exist, backends are on the link, programs can be run.
        #[arg(long)]
        host: bool,
    },
    /// Show what the daemon does.
    Status {
        /// Print JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Explain why a flow goes where it goes: what the kernel does with its packets now.
    Explain {
        /// The client's address and port.
        #[arg(value_name = "CLIENT:PORT", value_parser = explain::client)]
        client: SocketAddr,
        /// The service's name.
        service: String,
        /// Print JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// List the flows that the kernel's tables know: those that a slot which moves must not lose.
    Flows {
        /// Only flows of this service.
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// Only flows of this backend.
        #[arg(long, value_name = "NAME")]
        backend: Option<String>,
        /// How many to list. Counted are all.
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        /// Print JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Have the daemon read its configuration file again and follow it: all of it, or nothing if something is wrong with it.
    ///
    /// No connection breaks: backends that are no longer configured get no new ones, and keep those that they have.
    Reload {
        /// Reset the connections of backends that are no longer configured nor discovered, also of those since an earlier reload,
        /// instead of letting them end.
        #[arg(long)]
        now: bool,
        /// Print JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Show what a reload with a configuration would do, and change nothing: who comes and goes, how many slots move, and what
    /// needs a restart.
    Plan {
        #[command(flatten)]
        config: ConfigFile,
        /// Print JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Give a backend no new connections. Those that it has stay until they end.
    ///
    /// It holds until `undrain`, also after a restart of the daemon, and for a backend that a reload takes out and brings back.
    Drain(operate::Drain),
    /// Take a drain back.
    Undrain(operate::Subject),
    /// Give a backend no connections at all: those that it has are reset, so that clients notice at once.
    ///
    /// It holds until `enable`, also after a restart of the daemon. Health checks go on.
    Disable(operate::Disable),
    /// Have a backend serve again, whether it was drained or disabled.
    Enable(operate::Subject),
    /// Give a backend another weight, until `lb-ctl weight B config`. It outlives restarts and reloads.
    Weight(operate::Weight),
    /// Show the VRRP instances: who is master, since when, and why.
    Vrrp {
        /// Print JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Let another balancer be master of the addresses that this one holds.
    ///
    /// It is left alone until it leaves, fails or is handed over itself. If nobody takes over, this one goes on. With a [peer] that
    /// does not know all connections it refuses, because some would break.
    Failover {
        /// A VRRP instance, with the group that it is in [default: all that are master here].
        instance: Option<String>,
        /// Also if the peer is not connected, or has not been told of all connections yet.
        #[arg(long)]
        force: bool,
    },
    /// Remove the XDP program, its maps and the VIPs that a daemon left behind.
    Detach {
        /// The node.name of the balancer, where several have run on this host.
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
    },
    /// On a backend of `ipip`: take packets of balancers out of their tunnels.
    ///
    /// Attaches an XDP program to an interface and ends; the program stays. Run it again after the VIPs of the host, or the
    /// addresses of the interface, have changed.
    Decap(decap::Decap),
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file.
    #[arg(long = "config", value_name = "FILE", default_value = "/etc/lb-ctl/lb.toml")]
    path: PathBuf,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let command = Command::parse();
    match perform(&command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", exit::message(&error));
            exit::code(&error)
        }
    }
}

fn perform(command: &Command) -> anyhow::Result<()> {
    match &command.action {
        Action::Run {
            config,
            log_format,
            detach_on_exit,
        } => run::run(
            &config.path,
            command.socket.as_deref(),
            *log_format,
            *detach_on_exit,
        ),
        Action::Check { config, host } => check(&config.path, *host),
        Action::Status { json } => status::status(command.socket(), *json),
        Action::Explain {
            client,
            service,
            json,
        } => explain::explain(command.socket(), *client, service, *json),
        Action::Flows {
            service,
            backend,
            limit,
            json,
        } => {
            let query = crate::core::flows::Query {
                service: service.clone(),
                backend: backend.clone(),
                limit: *limit,
            };
            flows::flows(command.socket(), &query, *json)
        }
        Action::Vrrp { json } => vrrp::vrrp(command.socket(), *json),
        Action::Failover { instance, force } => vrrp::failover(command.socket(), instance.clone(), *force),
        Action::Drain(arguments) => operate::drain(command.socket(), arguments),
        Action::Undrain(subject) => operate::undrain(command.socket(), subject),
        Action::Disable(arguments) => operate::disable(command.socket(), arguments),
        Action::Enable(subject) => operate::enable(command.socket(), subject),
        Action::Weight(arguments) => operate::set_weight(command.socket(), arguments),
        Action::Reload { now, json } => reload::reload(command.socket(), *now, *json),
        Action::Plan { config, json } => plan::plan(command.socket(), &config.path, *json),
        Action::Detach { node } => detach::detach(node.as_deref()),
        Action::Decap(arguments) => decap::decap(arguments),
    }
}

fn check(path: &Path, host: bool) -> anyhow::Result<()> {
    let config = config_file::read(path)?;
    if host {
        runtime()?.block_on(async {
            let netlink = crate::adapters::netlink::Netlink::connect()?;
            crate::daemon::Host::examine(&config, &netlink).await?;
            anyhow::Ok(())
        })?;
        crate::daemon::examine_programs(&config)?;
    }
    let backends: usize = config.services.iter().map(|service| service.backends.len()).sum();
    let services = config.services.len();
    output::print(&format!(
        "{}: ok: services: {services}, backends: {backends}\n",
        path.display()
    ))
}

/// One thread is plenty: packets are the kernel's work.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the async runtime")
}
