//! Many long-lived connections that notice whatever breaks them, and the server for them. See `lab::steady`.
#![allow(clippy::print_stdout, reason = "it reports on standard output")]

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Parser};
use lab::limits::allow_many_files;
use lab::steady::client::{self, Options};
use lab::steady::ledger::Ledger;
use lab::steady::report::Event;
use lab::steady::server;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::LocalSet;

/// Many long-lived connections that notice whatever breaks them, and the server for them.
#[derive(Parser)]
enum Arguments {
    /// Serve: answer every line with the line, this server's name, and the connection's serial number.
    Serve(Serve),
    /// Hold connections and report what breaks them, as lines of JSON. SIGUSR1 asks for progress, SIGTERM ends it.
    Hold(Hold),
}

#[derive(Args)]
struct Serve {
    /// The server's name, without white space.
    #[arg(long)]
    name: String,
    /// Where to listen.
    #[arg(long, value_name = "IP:PORT")]
    listen: SocketAddr,
}

#[derive(Args)]
struct Hold {
    /// Where to connect to.
    #[arg(long, value_name = "IP:PORT")]
    service: SocketAddr,
    /// The client's address.
    #[arg(long, value_name = "IP")]
    from: IpAddr,
    /// The port of the first connection; the others have those after it.
    #[arg(long, default_value_t = 10_000, value_name = "PORT")]
    first_port: u16,
    /// How many connections to hold.
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u16).range(..=20_000))]
    connections: u16,
    /// From one exchange of a connection to its next.
    #[arg(long, default_value = "1s", value_parser = duration)]
    pause: Duration,
    /// How long a connection, or a reply, may take.
    #[arg(long, default_value = "10s", value_parser = duration)]
    patience: Duration,
    /// How many short connections to begin each second meanwhile, from ports that the kernel chooses.
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(..=10_000))]
    short_rate: u32,
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("expected more than nothing".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    allow_many_files().context("cannot raise the limit of open files")?;
    match Arguments::parse() {
        Arguments::Serve(arguments) => serve(arguments).await,
        Arguments::Hold(arguments) => LocalSet::new().run_until(hold(arguments)).await,
    }
}

async fn serve(arguments: Serve) -> Result<()> {
    let listener = TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("cannot listen on {}", arguments.listen))?;
    println!("ready {} on {}", arguments.name, listener.local_addr()?);
    server::serve(listener, arguments.name)
        .await
        .context("cannot accept connections any more")
}

async fn hold(arguments: Hold) -> Result<()> {
    let options = Options {
        service: arguments.service,
        from: arguments.from,
        first_port: arguments.first_port,
        connections: arguments.connections,
        pause: arguments.pause,
        patience: arguments.patience,
        short_rate: arguments.short_rate,
    };
    let mut ask = signal(SignalKind::user_defined1()).context("cannot handle SIGUSR1")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let ledger = Rc::new(RefCell::new(Ledger::new(options.connections, report)));
    let (enough, end) = watch::channel(false);
    let mut running = std::pin::pin!(client::run(options, Rc::clone(&ledger), end));
    loop {
        tokio::select! {
            () = &mut running => break,
            _ = ask.recv() => ledger.borrow_mut().report_progress(),
            _ = terminate.recv() => { enough.send_replace(true); }
        }
    }
    ledger.borrow().summarise();
    Ok(())
}

fn report(event: &Event) {
    match serde_json::to_string(event) {
        Ok(line) => println!("{line}"),
        Err(error) => eprintln!("steady: cannot report {event:?}: {error}"),
    }
}
