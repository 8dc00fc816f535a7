//! The network around the daemon, and the tables that follow it: our interfaces, the routes to backends, their neighbours.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::Context;
use lb_common::layout::{Node, Target};

use crate::{
    adapters::{
        datapath::{Datapath, Link},
        netlink::{self, Knowledge, Netlink, NetlinkError},
    },
    core::{
        cause::chain,
        interface::{Interface, Mac, format_mac},
        interfaces::{Event, Interfaces},
        next_hops::{Change, Neighbour, NextHops, Way},
        plan::PlannedTarget,
    },
};

/// What is known of the network.
pub(super) struct Network {
    netlink: Netlink,
    interfaces: Interfaces,
    next_hops: NextHops,
    /// Whether the program has been attached, so that an interface without one has lost it.
    is_attached: bool,
    /// Whether packets to our addresses may be answers to translated connections.
    translates: bool,
    /// The MAC addresses of virtual routers, the most important ones first.
    virtual_macs: Vec<Mac>,
    /// The backends of which the log says that there is no way to them.
    unresolved: BTreeSet<IpAddr>,
}

impl Network {
    /// With these interfaces, and no targets. `translates` as for [`Self::set_translates`], `virtual_macs` as for
    /// [`Self::set_virtual_macs`].
    pub(super) fn new(
        netlink: Netlink,
        interfaces: Interfaces,
        translates: bool,
        virtual_macs: Vec<Mac>,
    ) -> Self {
        Self {
            netlink,
            interfaces,
            next_hops: NextHops::default(),
            is_attached: false,
            translates,
            virtual_macs,
            unresolved: BTreeSet::new(),
        }
    }

    pub(super) fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    pub(super) fn interfaces(&self) -> &Interfaces {
        &self.interfaces
    }

    pub(super) fn next_hops(&self) -> &NextHops {
        &self.next_hops
    }

    /// Takes in a target, or another way of forwarding for it. Returns whether nothing is known of the way to it.
    pub(super) fn insert(&mut self, target: &PlannedTarget, datapath: &mut Datapath) -> anyhow::Result<bool> {
        let PlannedTarget {
            id,
            address,
            forwarding,
            ..
        } = *target;
        let is_new = !self.next_hops.has(address, forwarding);
        write(
            datapath,
            self.next_hops.insert(id, address, forwarding).as_slice(),
        )?;
        Ok(is_new)
    }

    /// Takes in targets of an earlier run as it has left them, and writes what follows from the network as it is now.
    pub(super) async fn adopt(
        &mut self,
        targets: &[(u16, IpAddr, Target)],
        datapath: &mut Datapath,
    ) -> anyhow::Result<()> {
        for (id, address, target) in targets {
            // Nothing is known of any of them.
            self.next_hops.insert(*id, *address, target.forwarding());
        }
        // None of these changes is the last word: what the earlier run knew comes first.
        self.take_in_routes().await?;
        for (id, _, target) in targets {
            self.next_hops.adopt(*id, target, &self.interfaces);
        }
        write(datapath, &self.next_hops.entries())
    }

    /// Forgets a target.
    pub(super) fn remove(&mut self, id: u16) {
        self.next_hops.remove(id);
    }

    /// From now on an interface without a program is worth a message.
    pub(super) fn attached(&mut self) {
        self.is_attached = true;
    }

    /// Says to which backends there is no way any more, and to which there is one again.
    pub(super) fn tell_unresolved(&mut self) {
        if !self.is_attached {
            return;
        }
        let now: BTreeSet<IpAddr> = self.next_hops.unresolved().collect();
        for backend in now.difference(&self.unresolved) {
            tracing::warn!(%backend, "the next hop is not known: packets for this backend are dropped until it is");
        }
        for backend in self.unresolved.difference(&now) {
            tracing::info!(%backend, "the next hop is known now, or the backend no longer configured");
        }
        self.unresolved = now;
    }

    /// Says whether packets to our addresses may be answers to translated connections. The program looks for their ways back only
    /// then.
    pub(super) fn set_translates(&mut self, translates: bool, datapath: &mut Datapath) -> anyhow::Result<()> {
        self.translates = translates;
        self.write_interfaces(datapath)
    }

    /// Says which MAC addresses of virtual routers are ours, also while another balancer has them: what reaches us is forwarded, as with
    /// addresses that have moved on. They have to be known before anybody hears that addresses are there.
    pub(super) fn set_virtual_macs(&mut self, macs: Vec<Mac>, datapath: &mut Datapath) -> anyhow::Result<()> {
        self.virtual_macs = macs;
        self.write_interfaces(datapath)
    }

    /// Those that are known.
    pub(super) fn virtual_macs(&self) -> &[Mac] {
        &self.virtual_macs
    }

    /// Writes what the program knows of our interfaces.
    pub(super) fn write_interfaces(&self, datapath: &mut Datapath) -> anyhow::Result<()> {
        let macs = self.interfaces.macs().chain(self.virtual_macs.iter().copied());
        datapath.write_node(&Node::new(macs, self.translates))?;
        let indices = self
            .interfaces
            .existing()
            .map(|interface| interface.index)
            .collect();
        datapath.write_devices(&indices)?;
        let existing = self.interfaces.all().map(|(_, interface)| interface);
        let links = existing.zip(self.interfaces.macs()).map(|(interface, mac)| Link {
            index: interface.map(|interface| interface.index),
            mac,
        });
        datapath.set_links(links.collect());
        Ok(())
    }

    /// The interface of ours that is meant by a message about this one: the index stays with an interface, the name is what
    /// we have been told.
    pub(super) fn ours(&self, interface: &Interface) -> Option<String> {
        let at_index = self.interfaces.at(interface.index).map(|ours| &ours.name);
        let named = || self.interfaces.names().find(|name| *name == interface.name);
        at_index.map(String::as_str).or_else(named).map(ToOwned::to_owned)
    }

    /// Takes in what is true of one of our interfaces now. What a message about it says may be out of date: our own attaching
    /// for example makes some.
    pub(super) async fn refresh_interface(
        &mut self,
        name: &str,
        datapath: &mut Datapath,
    ) -> anyhow::Result<()> {
        let now = self.netlink.interface(name).await?;
        let events = self.interfaces.take_in(name, now);
        if events.is_empty() {
            return Ok(());
        }
        for event in events {
            self.tell(name, event);
        }
        self.write_interfaces(datapath)?;
        write(datapath, &self.next_hops.interfaces(&self.interfaces))?;
        self.tell_unresolved();
        Ok(())
    }

    fn tell(&self, interface: &str, event: Event) {
        match event {
            Event::Gone => tracing::error!(
                interface,
                "the interface was deleted or renamed: nothing is forwarded there until one with its name is back"
            ),
            Event::Back => tracing::info!(interface, "the interface is back"),
            Event::Up => tracing::warn!(interface, "the interface is up"),
            Event::Down => tracing::warn!(interface, "the interface is down"),
            // Before the start has attached, the interface carries nothing, or an earlier run's program.
            Event::ProgramLost if self.is_attached => tracing::error!(
                interface,
                "somebody has detached the XDP program: nothing that comes in here is forwarded; restart lb-ctl to attach it \
                 again"
            ),
            Event::ProgramLost => {}
            Event::Mac(mac) => tracing::info!(interface, mac = format_mac(mac), "our MAC address changed"),
            Event::Mtu(mtu) => tracing::info!(interface, mtu, "the MTU changed"),
        }
    }

    /// Takes in what is true of all our interfaces now.
    pub(super) async fn refresh_interfaces(&mut self, datapath: &mut Datapath) -> anyhow::Result<()> {
        let names: Vec<String> = self.interfaces.names().map(ToOwned::to_owned).collect();
        let mut result = Ok(());
        for name in names {
            let refreshed = self.refresh_interface(&name, datapath).await;
            result = result.and(refreshed);
        }
        result
    }

    /// Asks the kernel for the ways to all backends, and for those on them.
    ///
    /// A backend to which there is no way keeps its last one: whether it is dead is for health checks to say.
    pub(super) async fn refresh_routes(&mut self, datapath: &mut Datapath) -> anyhow::Result<()> {
        let before = self.next_hops.neighbours();
        let changes = self.take_in_routes().await?;
        write(datapath, &changes)?;
        if self.next_hops.neighbours() == before {
            return Ok(());
        }
        if self.is_attached {
            for Neighbour { interface, address } in self.next_hops.neighbours().difference(&before) {
                let interface = self.interfaces.at(*interface).map(|interface| &interface.name);
                tracing::info!(next_hop = %address, interface, "the kernel has another way to a backend");
            }
        }
        self.refresh_neighbours(datapath).await
    }

    async fn take_in_routes(&mut self) -> Result<Vec<Change>, NetlinkError> {
        let mut changes = Vec::new();
        for address in self.next_hops.addresses() {
            if let Some(way) = self.way(address).await? {
                changes.extend(self.next_hops.route(address, way, &self.interfaces));
            }
        }
        Ok(changes)
    }

    /// The kernel's way to a backend, if it leads through one of our interfaces.
    async fn way(&self, address: IpAddr) -> Result<Option<Way>, NetlinkError> {
        let route = match self.netlink.route(address).await {
            Err(NetlinkError::NoRoute { .. }) => return Ok(None),
            other => other?,
        };
        let ours = route
            .interface
            .filter(|index| !route.local && self.interfaces.at(*index).is_some());
        Ok(ours.map(|interface| Way {
            neighbour: Neighbour {
                interface,
                address: route.gateway.unwrap_or(address),
            },
            mtu: route.mtu,
        }))
    }

    /// Takes in what the kernel knows, and has it confirm what it has learned, and ask for the rest.
    pub(super) async fn refresh_neighbours(&mut self, datapath: &mut Datapath) -> anyhow::Result<()> {
        let mut missing = self.next_hops.neighbours();
        for known in self.netlink.neighbours().await? {
            let neighbour = Neighbour {
                interface: known.interface,
                address: known.address,
            };
            if missing.remove(&neighbour) {
                self.on_neighbour(known, datapath).await?;
                if let Knowledge::Learned(_) = known.knowledge {
                    self.netlink
                        .confirm_neighbour(neighbour.interface, neighbour.address)
                        .await?;
                }
            }
        }
        for Neighbour { interface, address } in missing {
            self.resolve(interface, address).await;
        }
        Ok(())
    }

    /// Takes in what the kernel says about a neighbour.
    pub(super) async fn on_neighbour(
        &mut self,
        known: netlink::Neighbour,
        datapath: &mut Datapath,
    ) -> anyhow::Result<()> {
        let netlink::Neighbour {
            interface,
            address,
            knowledge,
        } = known;
        let neighbour = Neighbour { interface, address };
        if !self.next_hops.contains(neighbour) {
            return Ok(());
        }
        let was = self.next_hops.mac(neighbour);
        let changes = self
            .next_hops
            .neighbour(neighbour, knowledge.mac(), &self.interfaces);
        if let Some(mac) = knowledge.mac().filter(|mac| was != Some(*mac)) {
            tracing::info!(next_hop = %address, mac = format_mac(mac), was = was.map(format_mac), "resolved");
        }
        write(datapath, &changes)?;
        if knowledge == Knowledge::Nothing {
            // Perhaps it has another card by now: then it answers a broadcast, though not a question to the old one.
            self.resolve(interface, address).await;
        }
        Ok(())
    }

    /// Has the kernel ask for a neighbour. An interface that is down cannot, which must not keep the others from being asked.
    async fn resolve(&self, interface: u32, address: IpAddr) {
        if !self
            .interfaces
            .at(interface)
            .is_some_and(|interface| interface.up)
        {
            return;
        }
        if let Err(error) = self.netlink.resolve_neighbour(interface, address).await {
            tracing::warn!("{}", chain(&error));
        }
    }
}

fn write(datapath: &mut Datapath, changes: &[Change]) -> anyhow::Result<()> {
    for change in changes {
        // Whether it gets new flows is not for the network to say.
        let earlier = datapath.target(change.id)?;
        datapath
            .write_target(change.id, change.target.admitting_as(&earlier))
            .with_context(|| format!("writing target {}", change.id))?;
    }
    Ok(())
}
