//! The daemon: brings configuration, kernel and operators together.

mod account;
mod checks;
mod clock;
mod controller;
mod discovery;
mod drains;
mod host;
mod inspect;
mod network;
mod operator;
mod peer;
mod reconfiguration;
mod report;
mod sharing_out;
mod start;
mod supervisor;
mod sweeping;
mod vips;
mod virtual_interfaces;
mod vrrp;

use std::path::PathBuf;

use anyhow::Context;
use tokio::{
    signal::unix::{self, SignalKind, signal},
    sync::mpsc,
};

use crate::{
    adapters::{datapath::Pins, netlink::Netlink},
    core::config::Config,
};
pub use host::{Host, HostError, examine_programs};
use start::{Doors, Started, start};

/// How a daemon is to behave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Remove program, pins and VIPs at the end, instead of leaving them to forward on.
    pub detach_on_exit: bool,
}

/// Runs until SIGTERM or SIGINT. SIGHUP, or an operator, has it read the configuration file again.
pub async fn run(file: PathBuf, config: Config, options: Options) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let netlink = Netlink::connect()?;
    let (mut controller, doors, peer_key) = match start(&file, config, netlink, &mut signals).await? {
        Started::Yes(controller, doors, peer_key) => (controller, doors, peer_key),
        Started::Interrupted => return Ok(()),
    };
    let Doors {
        mut socket,
        listeners,
    } = doors;
    let (sender, requests) = mpsc::channel(16);
    let _server = listeners.serve(sender.clone())?;
    socket.serve(sender);
    controller.follow_peer(peer_key).await?;
    controller.begin_vrrp().await?;
    controller.announce();
    controller.supervisor.status(controller.checks.sentence());
    controller.supervisor.ready();
    let ended = controller.run(requests, &mut signals).await;
    controller.supervisor.stopping();
    controller.vrrp.stop().await;
    controller.see_handover_through().await;
    controller.pair.stop().await;
    if options.detach_on_exit {
        controller.detach().await?;
    } else {
        controller.leave();
    }
    ended
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
    let virtual_interfaces = virtual_interfaces::remove_all(netlink, &interfaces).await;
    let removed = pins.remove()?;
    virtual_interfaces?;
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

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    /// SIGTERM or SIGINT: end.
    End,
    /// SIGHUP: read the configuration again.
    Reload,
}

/// The signals that the daemon listens to.
struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hangup: unix::Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::End,
            _ = self.interrupt.recv() => Signal::End,
            _ = self.hangup.recv() => Signal::Reload,
        }
    }

    /// Waits for a signal to end. What the others ask for is done already at a start.
    async fn end(&mut self) {
        while self.next().await != Signal::End {}
    }
}
