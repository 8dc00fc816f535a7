//! The daemon: brings configuration, kernel and operators together.

mod controller;
mod host;
mod report;
mod vips;

use std::time::Duration;

use anyhow::Context;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::timeout,
};

use crate::{
    adapters::{
        api::server::Socket,
        datapath::{Datapath, Pins, Sizes},
        netlink::{Netlink, Watch},
    },
    core::{config::Config, plan::Plan},
};
use controller::Controller;
pub use host::{Host, HostError};
pub use vips::remove_all as remove_vips;

/// How long the start waits for backends to tell their MAC addresses. Whoever is slower is resolved while running.
const RESOLUTION_GRACE: Duration = Duration::from_secs(1);

/// How a daemon is to behave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Remove program, pins and VIPs at the end, instead of leaving them to forward on.
    pub detach_on_exit: bool,
}

/// Runs until SIGTERM or SIGINT.
///
/// Nothing on the host is changed before the configuration has turned out to fit it and the kernel has accepted the
/// program; what a failing start has changed by then, it takes back.
pub async fn run(config: Config, options: Options) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let netlink = Netlink::connect()?;
    let host = Host::examine(&config, &netlink).await?;

    let plan = Plan::of(&config);
    let mut datapath = Datapath::load(Sizes::of(&config.datapath))?;
    datapath.write_plan(&plan)?;
    let mut socket = Socket::bind(&config.api.socket).await?;

    let watch = Watch::start()?;
    let mut controller = Controller::new(config, plan, host, datapath, netlink.clone(), watch);
    let started = async {
        // Answers to the first probes are worth waiting for: a packet for an unresolved backend would be dropped.
        let resolution = timeout(RESOLUTION_GRACE, controller.resolve_all());
        tokio::select! {
            result = resolution => result.unwrap_or(Ok(()))?,
            () = signals.next() => return Ok(false),
        }
        controller.attach().await.map(|()| true)
    }
    .await;

    let outcome = match started {
        Ok(true) => {
            let (sender, requests) = mpsc::channel(16);
            socket.serve(sender);
            controller.announce();
            controller.run(requests, &mut signals).await;
            if options.detach_on_exit {
                controller.detach().await
            } else {
                controller.leave();
                Ok(())
            }
        }
        Ok(false) => Ok(()),
        Err(error) => {
            if let Err(undo) = controller.undo().await {
                tracing::error!("what the start had changed could not be taken back: {undo:#}");
            }
            Err(error)
        }
    };
    drop(socket);
    outcome
}

/// Removes everything that a node has put on this host.
pub async fn detach(node: &str) -> anyhow::Result<Detached> {
    let removed = Pins::of(node).remove()?;
    let netlink = Netlink::connect()?;
    let addresses = remove_vips(&netlink).await?;
    Ok(Detached {
        interfaces: removed.interfaces,
        maps: removed.maps,
        addresses,
    })
}

/// What [`detach`] removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detached {
    /// The interfaces that carried the program.
    pub interfaces: Vec<String>,
    /// How many maps lost their pin.
    pub maps: usize,
    /// The VIPs that were taken off their interface.
    pub addresses: Vec<std::net::IpAddr>,
}

/// The signals that end the daemon.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
