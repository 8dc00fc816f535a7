//! The daemon: brings configuration, kernel and operators together.

mod controller;
mod host;
mod report;
mod vips;

use anyhow::Context;
use lb_common::layout::Node;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
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

/// How a daemon is to behave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Remove program, pins and VIPs at the end, instead of leaving them to forward on.
    pub detach_on_exit: bool,
}

/// Runs until SIGTERM or SIGINT, or until there is nothing left to do because the interface is gone.
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
    datapath.write_node(&Node::new([host.mac], plan.translates()))?;
    let mut socket = Socket::bind(&config.api.socket).await?;

    let watch = Watch::start()?;
    let mut controller = Controller::new(config, plan, host, datapath, netlink, watch);
    match controller.start(&mut signals).await {
        Ok(Started::Yes) => {}
        Ok(Started::Interrupted) => return Ok(()),
        Err(error) => {
            controller.undo().await;
            return Err(error);
        }
    }
    let (sender, requests) = mpsc::channel(16);
    socket.serve(sender);
    controller.announce();
    let ended = controller.run(requests, &mut signals).await;
    if options.detach_on_exit {
        controller.detach().await?;
    } else {
        controller.leave();
    }
    ended
}

/// How a start ended that did not fail.
enum Started {
    Yes,
    /// A signal came before anything had been changed.
    Interrupted,
}

/// Removes everything that a node has put on this host.
pub async fn detach(node: &str) -> anyhow::Result<Detached> {
    let mut pins = Pins::of(node);
    pins.lock()?;
    let netlink = Netlink::connect()?;
    take_off(&pins, &netlink).await
}

/// Removes program, pins and VIPs: VIPs first, since the pins tell on which interfaces they can be. All of it is tried,
/// and the first error reported.
async fn take_off(pins: &Pins, netlink: &Netlink) -> anyhow::Result<Detached> {
    let interfaces = vips::indices(netlink, &pins.interfaces()?).await?;
    let addresses = vips::remove(netlink, &interfaces, |_| true).await;
    let removed = pins.remove()?;
    Ok(Detached {
        interfaces: removed.interfaces,
        maps: removed.maps,
        addresses: addresses?,
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
