//! Bringing the datapath up: with new tables, or over those in which an earlier run's connections live.

use std::path::Path;

use lb_common::layout::Node;
use tokio::time::timeout;

use super::{Host, Signals, controller::Controller, reconfiguration::RESOLUTION_GRACE, vips};
use crate::{
    adapters::{
        api::server::Socket,
        datapath::{Attachment, Datapath, Loaded, Pins, Sizes},
        netlink::{Netlink, Watch},
    },
    core::{
        cause::chain,
        census::Census,
        config::{Config, ConfigErrors},
        placement::{AdoptionError, Placement},
    },
};

/// How a start ended that did not fail.
pub(super) enum Started {
    Yes(Box<Controller>, Socket),
    /// A signal came before anything had been changed.
    Interrupted,
}

/// Where the tables come from.
pub(super) enum Tables {
    New,
    Adopted,
    Migrated { old: Box<Datapath> },
}

/// Loads the program, attaches it, and follows the configuration.
///
/// Nothing on the host is changed before the configuration has turned out to fit it and the kernel has accepted the
/// program; what a failing start has changed by then, it takes back.
pub(super) async fn start(
    file: &Path,
    config: Config,
    netlink: Netlink,
    host: Host,
    signals: &mut Signals,
) -> anyhow::Result<Started> {
    Socket::refuse_if_in_use(&config.api.socket).await?;
    let watch = Watch::start()?;
    let mut pins = Pins::of(&config.node.name);
    // Early, because it says whether another daemon runs for this node.
    let prepared = match pins.create() {
        Ok(()) => prepare(&config, &pins).await,
        Err(error) => Err(error.into()),
    };
    let (datapath, placement, tables, socket) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            if pins.are_locked() {
                pins.remove_empty_directories();
            }
            return Err(error);
        }
    };
    let mut controller = Controller::new(file, config, host, pins, datapath, placement, netlink, watch);
    match controller.bring_up(tables, signals).await {
        Ok(true) => Ok(Started::Yes(Box::new(controller), socket)),
        Ok(false) => {
            controller.undo().await;
            Ok(Started::Interrupted)
        }
        Err(error) => {
            controller.undo().await;
            Err(error)
        }
    }
}

/// Gets everything that can be had without changing anything that packets meet.
async fn prepare(config: &Config, pins: &Pins) -> anyhow::Result<(Datapath, Placement, Tables, Socket)> {
    let (datapath, tables) = match Datapath::load_or_adopt(Sizes::of(&config.datapath), pins)? {
        Loaded::New(datapath) => (datapath, Tables::New),
        Loaded::Adopted(datapath) => (datapath, Tables::Adopted),
        Loaded::Migrated { datapath, old } => (datapath, Tables::Migrated { old }),
    };
    let found = match &tables {
        Tables::Migrated { old } => old.found()?,
        Tables::New | Tables::Adopted => datapath.found()?,
    };
    let refused = |error: AdoptionError| {
        let error = config.places.origin(error.key()).error(error.to_string());
        ConfigErrors::new(config.file_name.clone(), vec![error])
    };
    let placement = Placement::adopt(&config.datapath, &found).map_err(refused)?;
    placement.check_room(config)?;
    let socket = Socket::bind(&config.api.socket).await?;
    Ok((datapath, placement, tables, socket))
}

impl Controller {
    /// Returns whether the start was not interrupted.
    async fn bring_up(&mut self, tables: Tables, signals: &mut Signals) -> anyhow::Result<bool> {
        match tables {
            Tables::New => {
                let plan = self.placement.plan(&self.config)?;
                self.placement.introduce(&plan, &mut self.datapath)?;
                let unknown = self.take_in_targets(&plan)?;
                self.placement.apply(&plan, 0, &mut self.datapath)?;
                self.plan = plan;
                self.write_node()?;
                tokio::select! {
                    // Answers are worth waiting for: a packet for an unresolved backend would be dropped.
                    resolved = timeout(RESOLUTION_GRACE, self.resolve(&unknown)) => resolved.unwrap_or(Ok(()))?,
                    () = signals.end() => return Ok(false),
                }
                self.pins.pin_maps(&self.datapath)?;
                self.attach().await?;
                self.pins.publish_maps()?;
            }
            Tables::Adopted => {
                self.found_tables = true;
                self.attach().await?;
                self.take_over().await?;
            }
            Tables::Migrated { old } => {
                self.found_tables = true;
                self.pins.pin_maps(&self.datapath)?;
                self.attach().await?;
                // From here on packets meet the new tables, and the next start finds that out by itself.
                self.datapath.leave_behind(&old)?;
                self.pins.publish_maps()?;
                tracing::info!("moved everything into tables of the configured sizes");
                self.take_over().await?;
            }
        }
        self.adjust_vips().await?;
        self.clear_other_interfaces().await?;
        Ok(true)
    }

    /// Follows the configuration, over tables in which live connections may be.
    async fn take_over(&mut self) -> anyhow::Result<()> {
        self.write_node()?;
        self.sweep_what_was_left().await?;
        self.placement.forget_orphans(&mut self.datapath)?;
        self.adopt_next_hops()?;
        let plan = self.placement.plan(&self.config)?;
        let moved = self.follow(self.config.clone(), plan).await?;
        let records = self.census.as_ref().map_or(0, Census::established);
        tracing::info!(
            slots_moved = moved.moved,
            slots = moved.slots,
            records,
            "took over the tables of an earlier run"
        );
        Ok(())
    }

    /// Goes on sending to where an earlier run has: the kernel is asked too, but need not be waited for.
    fn adopt_next_hops(&mut self) -> anyhow::Result<()> {
        for (id, name) in self.placement.targets() {
            let target = self.datapath.target(id)?;
            self.next_hops.insert(id, name.address(), target.forwarding());
            if let Some(mac) = target.next_hop() {
                self.next_hops.adopt(name.address(), mac);
            }
        }
        // Our own MAC address may be another one by now.
        self.write(&self.next_hops.entries())
    }

    /// Writes what the program knows of this host.
    pub(super) fn write_node(&mut self) -> anyhow::Result<()> {
        self.write_node_for(self.placement.translates())
    }

    /// The same, for services of which some translate, or none.
    pub(super) fn write_node_for(&mut self, translates: bool) -> anyhow::Result<()> {
        let node = Node::new([self.host.mac], translates);
        Ok(self.datapath.write_node(&node)?)
    }

    /// Attaches the program and pins the link.
    async fn attach(&mut self) -> anyhow::Result<()> {
        let interface = self.host.interface.clone();
        self.attachment = Some(
            self.datapath
                .attach(&interface, self.config.datapath.mode, &self.pins)?,
        );
        self.refresh_interface().await
    }

    /// Removes what an earlier run has left on other interfaces. Last, when nothing can fail any more that would have to bring
    /// it back.
    async fn clear_other_interfaces(&mut self) -> anyhow::Result<()> {
        let name = &self.host.interface.name;
        let mut earlier = self.pins.interfaces()?;
        earlier.retain(|earlier| earlier != name);
        let elsewhere = vips::indices(&self.netlink, &earlier).await?;
        for vip in vips::remove(&self.netlink, &elsewhere, |_| true).await? {
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
    /// carries our program, which forwards on as after any other end, and its tables are what they were.
    async fn undo(&mut self) {
        let interface = self.host.interface.index;
        let added = std::mem::take(&mut self.added_vips);
        if let Err(error) = vips::remove(&self.netlink, &[interface], |vip| added.contains(&vip)).await {
            tracing::error!(
                "the VIPs that the start had added could not be removed: {}",
                chain(&error)
            );
        }
        let attached = self.attachment.take();
        if attached.as_ref().is_some_and(|attachment| !attachment.replaced)
            && let Err(error) = self.pins.detach(&self.host.interface.name)
        {
            tracing::error!("the XDP program could not be detached again: {}", chain(&error));
        }
        let is_ours_alone = !self.found_tables
            && self
                .pins
                .interfaces()
                .is_ok_and(|interfaces| interfaces.is_empty());
        let removed = if is_ours_alone {
            self.pins.remove().map(drop)
        } else if attached.is_none() {
            self.pins.discard_new_maps()
        } else {
            // Packets may meet the new maps; the next start sorts it out.
            Ok(())
        };
        if let Err(error) = removed {
            tracing::error!("the pins could not be removed: {}", chain(&error));
        }
        self.pins.remove_empty_directories();
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
}
