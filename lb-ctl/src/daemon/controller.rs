//! The one owner of the daemon's state, fed by events.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use anyhow::Context;
use futures::{Stream, StreamExt};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{Host, Signals, report, vips};
use crate::{
    adapters::{
        api::server::Request,
        datapath::{Attachment, Datapath, Pins},
        netlink::{Event, Knowledge, Neighbour, Netlink, Watch},
    },
    core::{
        config::Config,
        interface::{Interface, format_mac},
        next_hops::{Change, NextHops},
        plan::Plan,
    },
};

/// How often backends are asked to confirm their MAC address, and everything is compared anew. The kernel by itself asks a
/// neighbour that it talks to after half a minute or so, and one that it does not talk to never; we rely on it.
const REFRESH: Duration = Duration::from_secs(5);

/// Everything the daemon knows and holds.
pub(super) struct Controller {
    config: Config,
    plan: Plan,
    host: Host,
    datapath: Datapath,
    next_hops: NextHops,
    netlink: Netlink,
    events: Box<dyn Stream<Item = Event> + Send + Unpin>,
    pins: Pins,
    attachments: Vec<Attachment>,
    added_vips: Vec<IpAddr>,
}

impl Controller {
    pub(super) fn new(
        config: Config,
        plan: Plan,
        host: Host,
        datapath: Datapath,
        netlink: Netlink,
        watch: Watch,
    ) -> Self {
        let next_hops = NextHops::new(
            host.mac,
            plan.targets.iter().map(|target| (target.id, target.address)),
        );
        Self {
            pins: Pins::of(&config.node.name),
            config,
            plan,
            host,
            datapath,
            next_hops,
            netlink,
            events: Box::new(watch.events()),
            attachments: Vec::new(),
            added_vips: Vec::new(),
        }
    }

    /// Asks for all backends' MAC addresses and returns when they are known.
    pub(super) async fn resolve_all(&mut self) -> anyhow::Result<()> {
        self.refresh().await?;
        while self.next_hops.unresolved().next().is_some() {
            let event = self
                .events
                .next()
                .await
                .context("the kernel closed the netlink socket")?;
            self.on_network(event).await?;
        }
        Ok(())
    }

    /// Attaches the program, pins it, and puts the VIPs on the interface.
    pub(super) async fn attach(&mut self) -> anyhow::Result<()> {
        self.pins.create()?;
        for interface in self.pins.interfaces()? {
            if interface != self.host.interface.name {
                self.pins.detach(&interface)?;
                tracing::info!(
                    interface,
                    "detached the XDP program from an interface that is no longer configured"
                );
            }
        }
        let attachment = self
            .datapath
            .attach(&self.host.interface, self.config.datapath.mode, &self.pins)?;
        self.attachments.push(attachment);
        // Only now: until the program is replaced, the pinned maps are those that packets meet.
        self.pins.pin_maps(&self.datapath)?;
        let vips: BTreeSet<IpAddr> = self.config.services.iter().map(|service| service.vip).collect();
        self.added_vips = vips::reconcile(&self.netlink, self.host.interface.index, &vips).await?;
        Ok(())
    }

    /// Takes back what a start that failed has done. Not what an earlier run had done before.
    pub(super) async fn undo(&mut self) -> anyhow::Result<()> {
        vips::remove(&self.netlink, &self.added_vips).await?;
        // An earlier run's link, once taken over, carries our program: it forwards on, as after any other end.
        let (anew, adopted): (Vec<_>, Vec<_>) = self
            .attachments
            .iter()
            .partition(|attachment| !attachment.replaced);
        if adopted.is_empty() && !anew.is_empty() {
            self.pins.remove()?;
        } else {
            self.pins.remove_empty_directories();
        }
        Ok(())
    }

    /// Says that the daemon does its work now.
    pub(super) fn announce(&self) {
        for attachment in &self.attachments {
            let Attachment {
                interface,
                mode,
                replaced,
            } = attachment;
            let how = if *replaced {
                "replaced the program of an earlier run"
            } else {
                "attached"
            };
            tracing::info!(interface, %mode, "XDP: {how}");
        }
        for vip in &self.added_vips {
            tracing::info!(%vip, interface = self.host.interface.name, "added the VIP");
        }
        for address in self.next_hops.unresolved() {
            tracing::warn!(backend = %address, "no answer to ARP yet: packets for this backend are dropped until it answers");
        }
        tracing::info!(
            services = self.config.services.len(),
            backends = self.plan.targets.len(),
            socket = %self.config.api.socket.display(),
            "ready"
        );
    }

    /// Works until a signal comes.
    pub(super) async fn run(&mut self, mut requests: mpsc::Receiver<Request>, signals: &mut Signals) {
        let mut refresh = interval(REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let result = tokio::select! {
                () = signals.next() => return,
                Some(request) = requests.recv() => { self.on_request(request); Ok(()) }
                Some(event) = self.events.next() => self.on_network(event).await,
                _ = refresh.tick() => self.refresh().await,
            };
            // The tables stay as they are, packets keep flowing, and the next refresh tries again.
            if let Err(error) = result {
                tracing::error!("{error:#}");
            }
        }
    }

    /// Ends, leaving the datapath to forward on.
    pub(super) fn leave(&self) {
        let interfaces: Vec<&str> = self
            .attachments
            .iter()
            .map(|attachment| attachment.interface.as_str())
            .collect();
        tracing::info!(
            interfaces = interfaces.join(","),
            "ended; the XDP program stays attached and forwards on (`lb-ctl detach` removes it)"
        );
    }

    /// Ends, taking everything off the host.
    pub(super) async fn detach(&self) -> anyhow::Result<()> {
        vips::remove_all(&self.netlink).await?;
        let removed = self.pins.remove()?;
        tracing::info!(interfaces = removed.interfaces.join(","), "ended and detached");
        Ok(())
    }

    fn on_request(&self, request: Request) {
        match request {
            Request::Status(answer) => {
                let status = report::status(
                    &self.config,
                    &self.plan,
                    &self.next_hops,
                    &self.attachments,
                    &self.datapath,
                );
                // Whoever asked may have gone; that is their business.
                let _ = answer.send(status.map_err(|error| error.to_string()));
            }
        }
    }

    async fn on_network(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Neighbour(neighbour) => self.on_neighbour(neighbour).await,
            Event::Interface(interface) => self.on_interface(&interface),
            Event::InterfaceGone(gone) if gone.index == self.host.interface.index => {
                tracing::error!(
                    interface = gone.name,
                    "the interface was deleted: nothing is forwarded any more; restart lb-ctl once it is back"
                );
                Ok(())
            }
            Event::InterfaceGone(_) => Ok(()),
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

    fn on_interface(&mut self, interface: &Interface) -> anyhow::Result<()> {
        if interface.index != self.host.interface.index {
            return Ok(());
        }
        if interface.up != self.host.interface.up {
            tracing::warn!(
                interface = interface.name,
                up = interface.up,
                "the interface changed its state"
            );
            self.host.interface.up = interface.up;
        }
        let Some(mac) = interface.mac else { return Ok(()) };
        let changes = self.next_hops.source(mac);
        if !changes.is_empty() {
            tracing::info!(
                interface = interface.name,
                mac = format_mac(mac),
                "our MAC address changed"
            );
        }
        self.write(&changes)
    }

    /// Takes in what the kernel knows, and has it confirm what it has learned, and ask for the rest.
    async fn refresh(&mut self) -> anyhow::Result<()> {
        if let Some(interface) = self.netlink.interface(&self.host.interface.name).await? {
            self.on_interface(&interface)?;
        }
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

    fn write(&mut self, changes: &[Change]) -> anyhow::Result<()> {
        for change in changes {
            self.datapath.write_target(change.id, change.target)?;
        }
        Ok(())
    }
}
