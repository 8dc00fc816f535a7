//! The one owner of the daemon's state, fed by events.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{Stream, StreamExt};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    Detached, Host, Signal, Signals, report,
    sweeping::{Sweeping, end_of},
    take_off, vips,
};
use crate::{
    adapters::{
        api::server::{Refusal, Request},
        datapath::{Attachment, Datapath, Pins},
        netlink::{Event, Knowledge, Neighbour, Netlink, Watch},
    },
    core::{
        cause::chain,
        census::Census,
        config::Config,
        interface::{Interface, format_mac},
        next_hops::{Change, NextHops},
        placement::Placement,
        plan::Plan,
    },
};

/// How often backends are asked to confirm their MAC address, and everything is compared anew. The kernel by itself asks a
/// neighbour that it talks to after half a minute or so, and one that it does not talk to never; we rely on it.
const REFRESH: Duration = Duration::from_secs(5);

/// The interface has been deleted, and the program with it.
#[derive(Debug, thiserror::Error)]
#[error(
    "the interface {interface} was deleted or renamed; if deleted, the XDP program went with it; start lb-ctl again when it is back"
)]
struct InterfaceGone {
    interface: String,
}

/// Everything the daemon knows and holds.
pub(super) struct Controller {
    /// Where the configuration was read, and will be read again.
    pub(super) file: PathBuf,
    pub(super) config: Config,
    pub(super) plan: Plan,
    pub(super) placement: Placement,
    pub(super) host: Host,
    pub(super) datapath: Datapath,
    pub(super) next_hops: NextHops,
    pub(super) netlink: Netlink,
    events: Box<dyn Stream<Item = Event> + Send + Unpin>,
    pub(super) pins: Pins,
    /// The program on the interface, once it is there.
    pub(super) attachment: Option<Attachment>,
    /// Whether an earlier run has left tables.
    pub(super) found_tables: bool,
    /// All VIPs that this run has added.
    pub(super) added_vips: Vec<IpAddr>,
    /// What the last pass over the records has found.
    pub(super) census: Option<Census>,
    pub(super) sweeping: Option<Sweeping>,
    pub(super) next_sweep: Instant,
}

impl Controller {
    #[expect(
        clippy::too_many_arguments,
        reason = "it owns everything, and gets it from the start"
    )]
    pub(super) fn new(
        file: &Path,
        config: Config,
        host: Host,
        pins: Pins,
        datapath: Datapath,
        placement: Placement,
        netlink: Netlink,
        watch: Watch,
    ) -> Self {
        Self {
            file: file.to_owned(),
            config,
            plan: Plan::default(),
            placement,
            next_hops: NextHops::new(host.mac),
            host,
            datapath,
            netlink,
            events: Box::new(watch.events()),
            pins,
            attachment: None,
            found_tables: false,
            added_vips: Vec::new(),
            census: None,
            sweeping: None,
            next_sweep: Instant::now(),
        }
    }

    /// The next thing that the kernel says about the network.
    pub(super) async fn next_event(&mut self) -> Option<Event> {
        self.events.next().await
    }

    /// Works until a signal comes, or the interface goes.
    pub(super) async fn run(
        &mut self,
        mut requests: mpsc::Receiver<Request>,
        signals: &mut Signals,
    ) -> anyhow::Result<()> {
        let mut refresh = interval(REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_sweeping = self.sweeping.is_some();
            let result = tokio::select! {
                signal = signals.next() => match signal {
                    Signal::End => return Ok(()),
                    // The log says what came of it.
                    Signal::Reload => self.reload().await.map(drop).or(Ok(())),
                },
                Some(request) = requests.recv() => { self.on_request(request).await; Ok(()) }
                Some(event) = self.events.next() => self.on_network(event).await,
                _ = refresh.tick() => self.refresh().await,
                () = sleep_until(self.next_sweep), if !is_sweeping => self.begin_sweep(),
                census = end_of(&mut self.sweeping) => self.on_census(census),
            };
            if let Err(error) = result {
                if error.is::<InterfaceGone>() {
                    return Err(error);
                }
                // The tables stay as they are, packets keep flowing, and the next refresh tries again.
                tracing::error!("{}", chain(error.as_ref()));
            }
        }
    }

    /// Ends, leaving the datapath to forward on.
    pub(super) fn leave(&self) {
        tracing::info!(
            interface = self.host.interface.name,
            "ended; the XDP program stays attached and forwards on (`lb-ctl detach` removes it)"
        );
    }

    /// Ends, taking everything off the host.
    pub(super) async fn detach(&self) -> anyhow::Result<()> {
        let Detached { interfaces, .. } = take_off(&self.pins, &self.netlink).await?;
        tracing::info!(interfaces = interfaces.join(","), "ended and detached");
        Ok(())
    }

    async fn on_request(&mut self, request: Request) {
        // Whoever asked may have gone; that is their business.
        match request {
            Request::Status(answer) => {
                let status = report::status(self).map_err(|error| Refusal::Failed(chain(&error)));
                let _ = answer.send(status);
            }
            Request::Reload(answer) => {
                let _ = answer.send(self.reload().await);
            }
        }
    }

    pub(super) async fn on_network(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Neighbour(neighbour) => self.on_neighbour(neighbour).await,
            // What the event says may be out of date, our own attaching for example: ask what is true now.
            Event::Interface(interface) if interface.index == self.host.interface.index => {
                self.refresh_interface().await
            }
            Event::InterfaceGone(gone) if gone.index == self.host.interface.index => self.interface_gone(),
            Event::Interface(_) | Event::InterfaceGone(_) => Ok(()),
            Event::Overrun => self.refresh().await,
        }
    }

    async fn on_neighbour(&mut self, neighbour: Neighbour) -> anyhow::Result<()> {
        let Neighbour {
            interface,
            address,
            knowledge,
        } = neighbour;
        if interface != self.host.interface.index || !self.next_hops.contains(address) {
            return Ok(());
        }
        let known = self.next_hops.mac(address);
        let changes = self.next_hops.neighbour(address, knowledge.mac());
        if let (Some(mac), false) = (knowledge.mac(), changes.is_empty()) {
            tracing::info!(backend = %address, mac = format_mac(mac), was = known.map(format_mac), "resolved");
        }
        self.write(&changes)?;
        if knowledge == Knowledge::Nothing {
            // Perhaps it has another card by now: then it answers a broadcast, though not a question to the old one.
            self.netlink.resolve_neighbour(interface, address).await?;
        }
        Ok(())
    }

    fn on_interface(&mut self, interface: Interface) -> anyhow::Result<()> {
        let before = std::mem::replace(&mut self.host.interface, interface);
        let now = &self.host.interface;
        if now.up != before.up {
            tracing::warn!(
                interface = now.name,
                up = now.up,
                "the interface changed its state"
            );
        }
        // Before the start has attached, the interface carries nothing, or an earlier run's program.
        if self.attachment.is_some() && now.xdp != before.xdp && now.xdp.is_none() {
            tracing::error!(
                interface = now.name,
                "somebody has detached the XDP program: nothing is forwarded; restart lb-ctl to attach it again"
            );
        }
        let Some(mac) = now.mac else { return Ok(()) };
        if mac == self.host.mac {
            return Ok(());
        }
        tracing::info!(
            interface = now.name,
            mac = format_mac(mac),
            "our MAC address changed"
        );
        self.host.mac = mac;
        self.write_node()?;
        let changes = self.next_hops.source(mac);
        self.write(&changes)
    }

    fn interface_gone(&self) -> anyhow::Result<()> {
        Err(InterfaceGone {
            interface: self.host.interface.name.clone(),
        }
        .into())
    }

    /// Takes in what is true of our interface now.
    pub(super) async fn refresh_interface(&mut self) -> anyhow::Result<()> {
        match self.netlink.interface(&self.host.interface.name).await? {
            Some(interface) if interface.index == self.host.interface.index => self.on_interface(interface),
            _ => self.interface_gone(),
        }
    }

    /// Compares everything anew: interface, VIPs, neighbours.
    async fn refresh(&mut self) -> anyhow::Result<()> {
        self.refresh_interface().await?;
        let (name, index) = (self.host.interface.name.clone(), self.host.interface.index);
        let (vips, mut added) = (self.vips(), Vec::new());
        let restored = vips::add_missing(&self.netlink, index, &vips, &mut added).await;
        for vip in added {
            tracing::warn!(%vip, interface = name, "somebody has removed the VIP; added it again");
        }
        restored?;
        self.refresh_neighbours().await
    }

    /// Takes in what the kernel knows, and has it confirm what it has learned, and ask for the rest.
    pub(super) async fn refresh_neighbours(&mut self) -> anyhow::Result<()> {
        let index = self.host.interface.index;
        let mut missing: BTreeSet<IpAddr> = self.next_hops.addresses().collect();
        for neighbour in self.netlink.neighbours().await? {
            if neighbour.interface == index && missing.remove(&neighbour.address) {
                self.on_neighbour(neighbour).await?;
                if let Knowledge::Learned(_) = neighbour.knowledge {
                    self.netlink.confirm_neighbour(index, neighbour.address).await?;
                }
            }
        }
        for address in missing {
            self.netlink.resolve_neighbour(index, address).await?;
        }
        Ok(())
    }

    pub(super) fn write(&mut self, changes: &[Change]) -> anyhow::Result<()> {
        for change in changes {
            self.datapath.write_target(change.id, change.target)?;
        }
        Ok(())
    }
}
