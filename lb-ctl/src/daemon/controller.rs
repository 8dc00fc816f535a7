//! The one owner of the daemon's state, fed by events.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use anyhow::Context;
use futures::{Stream, StreamExt};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};

use super::{Detached, Host, Signals, Started, network::Network, report, take_off, vips};
use crate::{
    adapters::{
        api::server::Request,
        datapath::{Attachment, Datapath, Pins},
        netlink::{Event, Netlink, Watch},
    },
    core::{
        cause::chain,
        config::Config,
        interface::{Interface, Mode},
        next_hops::NextHops,
        plan::Plan,
    },
};

/// How often backends are asked to confirm their MAC address, and everything is compared anew. The kernel by itself asks a
/// neighbour that it talks to after half a minute or so, and one that it does not talk to never; we rely on it.
const REFRESH: Duration = Duration::from_secs(5);

/// How long the start waits for backends to tell their MAC addresses. Whoever is slower is resolved while running.
const RESOLUTION_GRACE: Duration = Duration::from_secs(1);

/// How long after a change of routes the ways to all backends are asked for: changes come in bursts, and not one by one do they
/// matter.
const ROUTES_SETTLE: Duration = Duration::from_millis(200);

/// Everything the daemon knows and holds.
pub(super) struct Controller {
    config: Config,
    plan: Plan,
    datapath: Datapath,
    network: Network,
    events: Box<dyn Stream<Item = Event> + Send + Unpin>,
    /// When the ways to all backends are to be asked for, if routes have changed.
    routes_due: Option<Instant>,
    pins: Pins,
    /// The program on our interfaces, once it is there.
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
        let mut next_hops = NextHops::default();
        for target in &plan.targets {
            // Nothing can be known of the way yet.
            next_hops.insert(target.id, target.address, target.forwarding);
        }
        Self {
            pins: Pins::of(&config.node.name),
            config,
            plan,
            datapath,
            network: Network::new(netlink, host.interfaces, next_hops),
            events: Box::new(watch.events()),
            routes_due: None,
            attachments: Vec::new(),
            added_vips: Vec::new(),
        }
    }

    /// Resolves the backends, as far as they answer soon, and attaches.
    pub(super) async fn start(&mut self, signals: &mut Signals) -> anyhow::Result<Started> {
        // First of all, because it says whether another daemon runs for this node.
        self.pins.create()?;
        self.network.write_interfaces(&mut self.datapath)?;
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
        self.network.refresh_routes(&mut self.datapath).await?;
        while self.network.next_hops().unresolved().next().is_some() {
            let event = self
                .events
                .next()
                .await
                .context("the kernel closed the netlink socket")?;
            self.on_network(event).await?;
        }
        Ok(())
    }

    /// Attaches the program, pins it, and puts the VIPs on the first interface. What an earlier run has left elsewhere goes
    /// last, when nothing can fail any more that would have to bring it back.
    async fn attach(&mut self) -> anyhow::Result<()> {
        let interfaces: Vec<Interface> = self.network.interfaces().existing().cloned().collect();
        let modes = Mode::allowed_by(self.config.datapath.mode);
        self.datapath
            .attach(&interfaces, modes, &self.pins, &mut self.attachments)?;
        self.network.refresh_interfaces(&mut self.datapath).await?;
        self.network.attached();
        // Only now: until the program is replaced, the pinned maps are those that packets meet.
        self.pins.pin_maps(&self.datapath)?;
        let netlink = self.network.netlink();
        let vips = self.vips();
        let first = self.network.interfaces().first().map(|first| first.index);
        if let Some(first) = first {
            vips::add_missing(netlink, first, &vips, &mut self.added_vips).await?;
        }

        let is_ours = |name: &str| self.network.interfaces().names().any(|ours| ours == name);
        let earlier: Vec<String> = self
            .pins
            .interfaces()?
            .into_iter()
            .filter(|earlier| !is_ours(earlier))
            .collect();
        let mut elsewhere = vips::indices(netlink, &earlier).await?;
        elsewhere.extend(interfaces.iter().map(|interface| interface.index));
        elsewhere.retain(|index| Some(*index) != first);
        let mut removed = vips::remove(netlink, &elsewhere, |_| true).await?;
        removed.extend(vips::remove(netlink, first.as_slice(), |vip| !vips.contains(&vip)).await?);
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

    /// Attaches the program to interfaces that were deleted and have come back, in the mode of the others. Returns whether there
    /// were any.
    fn attach_again(&mut self) -> anyhow::Result<bool> {
        let interfaces = self.network.interfaces();
        let carries = |interface: &Interface| {
            self.attachments
                .iter()
                .any(|attached| attached.index == interface.index && attached.interface == interface.name)
        };
        let back: Vec<Interface> = interfaces
            .existing()
            .filter(|interface| !carries(interface))
            .cloned()
            .collect();
        let modes = interfaces.mode().map_or_else(
            || Mode::allowed_by(self.config.datapath.mode).to_vec(),
            |mode| vec![mode],
        );
        for interface in &back {
            self.datapath.attach(
                std::slice::from_ref(interface),
                &modes,
                &self.pins,
                &mut self.attachments,
            )?;
            tracing::info!(interface = interface.name, "XDP: attached again");
        }
        Ok(!back.is_empty())
    }

    /// Takes back what a start that failed has done. Not what an earlier run had done before: its link, once taken over,
    /// carries our program, which forwards on as after any other end.
    pub(super) async fn undo(&mut self) {
        if !self.pins.are_locked() {
            // Another daemon's: nothing of it is ours to take back.
            return;
        }
        let first = self.network.interfaces().first().map(|first| first.index);
        let added = std::mem::take(&mut self.added_vips);
        if let Err(error) = vips::remove(self.network.netlink(), first.as_slice(), |vip| {
            added.contains(&vip)
        })
        .await
        {
            tracing::error!(
                "the VIPs that the start had added could not be removed: {}",
                chain(&error)
            );
        }
        for attachment in self.attachments.drain(..) {
            if !attachment.replaced
                && let Err(error) = self.pins.detach(&attachment.interface)
            {
                tracing::error!("the XDP program could not be detached again: {}", chain(&error));
            }
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
        for Attachment {
            interface,
            mode,
            replaced,
            refused,
            ..
        } in &self.attachments
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
        let first = self.network.interfaces().first().map(|first| &first.name);
        for vip in &self.added_vips {
            tracing::info!(%vip, interface = first, "added the VIP");
        }
        for address in self.network.next_hops().unresolved() {
            tracing::warn!(backend = %address, "its next hop has not answered yet: packets for this backend are dropped until it does");
        }
        tracing::info!(
            services = self.config.services.len(),
            backends = self.plan.targets.len(),
            socket = %self.config.api.socket.display(),
            "ready"
        );
    }

    /// Works until a signal comes.
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
                () = until(self.routes_due) => self.refresh_routes().await,
            };
            if let Err(error) = result {
                // The tables stay as they are, packets keep flowing, and the next refresh tries again.
                tracing::error!("{}", chain(error.as_ref()));
            }
        }
    }

    /// Ends, leaving the datapath to forward on.
    pub(super) fn leave(&self) {
        tracing::info!(
            interfaces = self.network.interfaces().names().collect::<Vec<_>>().join(","),
            "ended; the XDP program stays attached and forwards on (`lb-ctl detach` removes it)"
        );
    }

    /// Ends, taking everything off the host.
    pub(super) async fn detach(&self) -> anyhow::Result<()> {
        let Detached { interfaces, .. } = take_off(&self.pins, self.network.netlink()).await?;
        tracing::info!(interfaces = interfaces.join(","), "ended and detached");
        Ok(())
    }

    fn on_request(&self, request: Request) {
        match request {
            Request::Status(answer) => {
                let status = report::status(&self.config, &self.plan, &self.network, &self.datapath);
                // Whoever asked may have gone; that is their business.
                let _ = answer.send(status.map_err(|error| chain(&error)));
            }
        }
    }

    async fn on_network(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Neighbour(neighbour) => self.network.on_neighbour(neighbour, &mut self.datapath).await,
            Event::Interface(interface) | Event::InterfaceGone(interface) => {
                let Some(name) = self.network.ours(&interface) else {
                    return Ok(());
                };
                self.network.refresh_interface(&name, &mut self.datapath).await?;
                // Setting an interface down removes routes of which the kernel says nothing.
                self.routes_due
                    .get_or_insert_with(|| Instant::now() + ROUTES_SETTLE);
                if self.attachments.is_empty() {
                    // The start has not got that far.
                    return Ok(());
                }
                if self.attach_again()? {
                    self.restore_vips().await?;
                }
                Ok(())
            }
            Event::Routes => {
                self.routes_due
                    .get_or_insert_with(|| Instant::now() + ROUTES_SETTLE);
                Ok(())
            }
            Event::Overrun => self.refresh().await,
        }
    }

    async fn refresh_routes(&mut self) -> anyhow::Result<()> {
        self.routes_due = None;
        self.network.refresh_routes(&mut self.datapath).await
    }

    /// Compares everything anew: interfaces, VIPs, routes, neighbours.
    async fn refresh(&mut self) -> anyhow::Result<()> {
        self.network.refresh_interfaces(&mut self.datapath).await?;
        let attached = self.attach_again();
        let restored = self.restore_vips().await;
        self.refresh_routes().await?;
        self.network.refresh_neighbours(&mut self.datapath).await?;
        attached.and(restored)
    }

    /// Adds VIPs that somebody has removed, or that went with the first interface.
    async fn restore_vips(&self) -> anyhow::Result<()> {
        let Some(first) = self.network.interfaces().first() else {
            return Ok(());
        };
        let (vips, mut added) = (self.vips(), Vec::new());
        let restored = vips::add_missing(self.network.netlink(), first.index, &vips, &mut added).await;
        for vip in added {
            tracing::warn!(%vip, interface = first.name, "the VIP was gone; added it again");
        }
        Ok(restored?)
    }
}

/// Returns at this time; never if there is none.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
