//! The one owner of the daemon's state, fed by events.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use anyhow::Context;
use futures::{Stream, StreamExt};
use lb_common::layout::Node;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{Detached, Host, Signals, Started, report, take_off, vips};
use crate::{
    adapters::{
        api::server::Request,
        datapath::{Attachment, Datapath, Pins},
        netlink::{Event, Knowledge, Neighbour, Netlink, Watch},
    },
    core::{
        cause::chain,
        config::Config,
        interface::{Interface, format_mac},
        next_hops::{Change, NextHops},
        plan::Plan,
    },
};

/// How often backends are asked to confirm their MAC address, and everything is compared anew. The kernel by itself asks a
/// neighbour that it talks to after half a minute or so, and one that it does not talk to never; we rely on it.
const REFRESH: Duration = Duration::from_secs(5);

/// How long the start waits for backends to tell their MAC addresses. Whoever is slower is resolved while running.
const RESOLUTION_GRACE: Duration = Duration::from_secs(1);

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
    config: Config,
    plan: Plan,
    host: Host,
    datapath: Datapath,
    next_hops: NextHops,
    netlink: Netlink,
    events: Box<dyn Stream<Item = Event> + Send + Unpin>,
    pins: Pins,
    /// The program on the interface, once it is there.
    attachment: Option<Attachment>,
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
        let next_hops = NextHops::new(host.mac, &plan.targets);
        Self {
            pins: Pins::of(&config.node.name),
            config,
            plan,
            host,
            datapath,
            next_hops,
            netlink,
            events: Box::new(watch.events()),
            attachment: None,
            added_vips: Vec::new(),
        }
    }

    /// Resolves the backends, as far as they answer soon, and attaches.
    pub(super) async fn start(&mut self, signals: &mut Signals) -> anyhow::Result<Started> {
        // First of all, because it says whether another daemon runs for this node.
        self.pins.create()?;
        tokio::select! {
            // Answers are worth waiting for: a packet for an unresolved backend would be dropped.
            resolved = timeout(RESOLUTION_GRACE, self.resolve_all()) => resolved.unwrap_or(Ok(()))?,
            () = signals.next() => {
                self.undo().await;
                return Ok(Started::Interrupted);
            }
        }
        self.attach().await?;
        Ok(Started::Yes)
    }

    /// Asks for all backends' MAC addresses and returns when they are known.
    async fn resolve_all(&mut self) -> anyhow::Result<()> {
        self.refresh_neighbours().await?;
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

    /// Attaches the program, pins it, and puts the VIPs on the interface. What an earlier run has left elsewhere goes
    /// last, when nothing can fail any more that would have to bring it back.
    async fn attach(&mut self) -> anyhow::Result<()> {
        let interface = self.host.interface.clone();
        self.attachment = Some(
            self.datapath
                .attach(&interface, self.config.datapath.mode, &self.pins)?,
        );
        self.refresh_interface().await?;
        // Only now: until the program is replaced, the pinned maps are those that packets meet.
        self.pins.pin_maps(&self.datapath)?;
        let vips = self.vips();
        vips::add_missing(&self.netlink, interface.index, &vips, &mut self.added_vips).await?;

        let earlier: Vec<String> = self
            .pins
            .interfaces()?
            .into_iter()
            .filter(|earlier| *earlier != interface.name)
            .collect();
        let elsewhere = vips::indices(&self.netlink, &earlier).await?;
        let mut removed = vips::remove(&self.netlink, &elsewhere, |_| true).await?;
        removed.extend(vips::remove(&self.netlink, &[interface.index], |vip| !vips.contains(&vip)).await?);
        for vip in removed {
            tracing::info!(%vip, "removed a VIP that is no longer configured here");
        }
        for interface in earlier {
            self.pins.detach(&interface)?;
            tracing::info!(
                interface,
                "detached the XDP program from an interface that is no longer configured"
            );
        }
        Ok(())
    }

    /// Takes back what a start that failed has done. Not what an earlier run had done before: its link, once taken over,
    /// carries our program, which forwards on as after any other end.
    pub(super) async fn undo(&mut self) {
        if !self.pins.are_locked() {
            // Another daemon's: nothing of it is ours to take back.
            return;
        }
        let interface = self.host.interface.index;
        let added = std::mem::take(&mut self.added_vips);
        if let Err(error) = vips::remove(&self.netlink, &[interface], |vip| added.contains(&vip)).await {
            tracing::error!(
                "the VIPs that the start had added could not be removed: {}",
                chain(&error)
            );
        }
        if self
            .attachment
            .take()
            .is_some_and(|attachment| !attachment.replaced)
            && let Err(error) = self.pins.detach(&self.host.interface.name)
        {
            tracing::error!("the XDP program could not be detached again: {}", chain(&error));
        }
        if self
            .pins
            .interfaces()
            .is_ok_and(|interfaces| interfaces.is_empty())
            && let Err(error) = self.pins.remove()
        {
            tracing::error!("the pins could not be removed: {}", chain(&error));
        }
    }

    fn vips(&self) -> BTreeSet<IpAddr> {
        self.config.services.iter().map(|service| service.vip).collect()
    }

    /// Says that the daemon does its work now.
    pub(super) fn announce(&self) {
        if let Some(Attachment {
            interface,
            mode,
            replaced,
            refused,
        }) = &self.attachment
        {
            let how = if *replaced {
                "replaced the program of an earlier run"
            } else {
                "attached"
            };
            tracing::info!(interface, %mode, "XDP: {how}");
            for reason in refused {
                tracing::warn!(interface, "a better mode was not possible: {reason}");
            }
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

    /// Works until a signal comes, or the interface goes.
    pub(super) async fn run(
        &mut self,
        mut requests: mpsc::Receiver<Request>,
        signals: &mut Signals,
    ) -> anyhow::Result<()> {
        let mut refresh = interval(REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let result = tokio::select! {
                () = signals.next() => return Ok(()),
                Some(request) = requests.recv() => { self.on_request(request); Ok(()) }
                Some(event) = self.events.next() => self.on_network(event).await,
                _ = refresh.tick() => self.refresh().await,
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

    fn on_request(&self, request: Request) {
        match request {
            Request::Status(answer) => {
                let status = report::status(
                    &self.config,
                    &self.plan,
                    &self.next_hops,
                    &self.host.interface,
                    &self.datapath,
                );
                // Whoever asked may have gone; that is their business.
                let _ = answer.send(status.map_err(|error| chain(&error)));
            }
        }
    }

    async fn on_network(&mut self, event: Event) -> anyhow::Result<()> {
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
        self.datapath
            .write_node(&Node::new([mac], self.plan.translates()))?;
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
    async fn refresh_interface(&mut self) -> anyhow::Result<()> {
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
    async fn refresh_neighbours(&mut self) -> anyhow::Result<()> {
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
