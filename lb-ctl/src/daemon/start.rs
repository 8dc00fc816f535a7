//! Bringing the datapath up: with new tables, or over those in which an earlier run's connections live.

use std::{collections::BTreeSet, path::Path, time::Duration};

use tokio::time::{sleep, timeout};

use super::{
    Host, Signals,
    account::Account,
    checks::{Earlier, check_targets},
    controller::Controller,
    discovery::{SeedOrders, seed_orders},
    reconfiguration::{Arrivals, RESOLUTION_GRACE},
    vips, virtual_interfaces,
};
use crate::{
    adapters::{
        api::server::Socket,
        datapath::{Attachment, Datapath, DatapathError, Loaded, Pins, Sizes},
        http::Listeners,
        memory,
        netlink::{Netlink, Watch},
        peer::Key,
    },
    core::{
        cause::chain,
        census::Census,
        config::Config,
        interface::{Interface, Mode},
        placement::Placement,
    },
};

/// How long a program that has been replaced may be busy with its last packets. One takes microseconds.
const LAST_PACKETS: Duration = Duration::from_millis(20);

/// How a start ended that did not fail.
pub(super) enum Started {
    /// With the key that both balancers of a pair have, if there is a peer.
    Yes(Box<Controller>, Doors, Option<Key>),
    /// A signal came before anything had been changed.
    Interrupted,
}

/// Where the daemon can be asked, though nobody answers yet.
pub(super) struct Doors {
    pub(super) socket: Socket,
    pub(super) listeners: Listeners,
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
/// program, but for what must not stay in any case; what a failing start has changed by then, it takes back.
pub(super) async fn start(
    file: &Path,
    config: Config,
    netlink: Netlink,
    signals: &mut Signals,
) -> anyhow::Result<Started> {
    Socket::refuse_if_in_use(&config.api.socket).await?;
    let mut pins = Pins::of(&config.node.name);
    // Early, because it says whether another daemon runs for this node.
    let prepared = match pins.create() {
        Ok(()) => {
            release_carried(&config, &netlink, &pins).await;
            prepare(&config, &netlink, &pins).await
        }
        Err(error) => Err(error.into()),
    };
    let Preparations {
        host,
        orders,
        account,
        watch,
        datapath,
        placement,
        tables,
        doors,
    } = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            if pins.are_locked() {
                pins.remove_empty_directories();
            }
            return Err(error);
        }
    };
    let peer_key = host.peer_key.clone();
    let mut controller = Controller::new(
        file, config, host, pins, datapath, placement, netlink, watch, account,
    );
    match controller.bring_up(tables, orders, signals).await {
        Ok(true) => Ok(Started::Yes(Box::new(controller), doors, peer_key)),
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

/// Takes off what a run that was killed as VRRP master has left: another balancer has these addresses by now, also if this start
/// fails. As long as the pins are locked nobody else of this node needs them.
async fn release_carried(config: &Config, netlink: &Netlink, pins: &Pins) {
    if let Err(error) = try_to_release_carried(config, netlink, pins).await {
        // VRRP tries again once it has begun.
        tracing::warn!(
            "the addresses of an earlier run as VRRP master could not be taken off: {}",
            chain(error.as_ref())
        );
    }
}

async fn try_to_release_carried(config: &Config, netlink: &Netlink, pins: &Pins) -> anyhow::Result<()> {
    let mut names = pins.interfaces()?;
    let configured = config.datapath.interfaces.iter();
    names.extend(configured.map(|interface| interface.name.clone()));
    let interfaces = vips::indices(netlink, &names).await?;
    for address in vips::remove(netlink, &interfaces, |address| config.is_carried(address)).await? {
        tracing::info!(%address, "removed an address that an earlier run as VRRP master had left");
    }
    virtual_interfaces::remove_all(netlink, &interfaces).await?;
    Ok(())
}

/// What is there before anything is changed that packets meet.
struct Preparations {
    host: Host,
    orders: SeedOrders,
    account: Account,
    watch: Watch,
    datapath: Datapath,
    placement: Placement,
    tables: Tables,
    doors: Doors,
}

/// Gets everything that can be had without changing anything that packets meet.
async fn prepare(config: &Config, netlink: &Netlink, pins: &Pins) -> anyhow::Result<Preparations> {
    let host = Host::examine(config, netlink).await?;
    // What cannot be read is noticed before anything has changed.
    check_targets(config)?;
    let orders = seed_orders(config)?;
    let account = Account::new()?;
    let watch = Watch::start()?;
    let (datapath, tables) = match Datapath::load_or_adopt(Sizes::of(&config.datapath), pins)? {
        Loaded::New(datapath) => (datapath, Tables::New),
        Loaded::Adopted(datapath) => (datapath, Tables::Adopted),
        Loaded::Migrated { datapath, old } => (datapath, Tables::Migrated { old }),
    };
    let found = match &tables {
        Tables::Migrated { old } => old.found()?,
        Tables::New | Tables::Adopted => datapath.found()?,
    };
    let placement = Placement::adopt(&config.datapath, &found)
        .map_err(|error| config.refusal(error.key(), error.to_string()))?;
    placement.check_affinity(config)?;
    placement
        .check_room(config)
        .map_err(|error| config.refusal(error.key(), error.to_string()))?;
    let doors = Doors {
        listeners: Listeners::bind(&config.http.listen)?,
        socket: Socket::bind(&config.api.socket).await?,
    };
    Ok(Preparations {
        host,
        orders,
        account,
        watch,
        datapath,
        placement,
        tables,
        doors,
    })
}

impl Controller {
    /// Returns whether the start was not interrupted.
    async fn bring_up(
        &mut self,
        tables: Tables,
        orders: SeedOrders,
        signals: &mut Signals,
    ) -> anyhow::Result<bool> {
        self.discovering.begin(orders);
        match tables {
            Tables::New => {
                tokio::select! {
                    // Pages are worth waiting for: a service may have no backends but those on them.
                    members = self.first_pages() => members?,
                    () = signals.end() => return Ok(false),
                }
                let shares = self.begin_serving(&Earlier::default());
                let plan = self.placement.plan(&self.config, &shares)?;
                self.placement.introduce(&plan, &mut self.datapath)?;
                let unknown = self.take_in_targets(&plan)?;
                self.placement.apply(&plan, 0, &mut self.datapath)?;
                self.plan = plan.placed();
                self.begin_checks(check_targets(&self.config)?)?;
                self.announce_quiescing().await?;
                self.write_translation()?;
                tokio::select! {
                    // Answers are worth waiting for: a packet for an unresolved backend would be dropped.
                    resolved = timeout(RESOLUTION_GRACE, self.resolve(&unknown)) => resolved.unwrap_or(Ok(()))?,
                    () = signals.end() => return Ok(false),
                }
                tokio::select! {
                    // So are these: who has not been checked gets no connections.
                    checked = self.first_checks() => checked?,
                    () = signals.end() => return Ok(false),
                }
                self.pins.pin_maps(&mut self.datapath)?;
                self.datapath.set_awaits_records(false)?;
                self.pins.publish_maps()?;
                self.attach().await?;
            }
            Tables::Adopted => {
                self.found_tables = true;
                self.attach().await?;
                self.take_over().await?;
            }
            Tables::Migrated { mut old } => {
                self.found_tables = true;
                if let Err(error) = self.change_tables(&old).await {
                    self.go_back_to(&mut old).await;
                    return Err(error);
                }
                // From here on the new tables count. What follows, the next start can do as well.
                self.pins.publish_maps()?;
                tracing::info!("moved everything into tables of the configured sizes");
                self.take_over().await?;
            }
        }
        self.adjust_vips().await?;
        self.clear_other_interfaces().await?;
        Ok(true)
    }

    /// Attaches the program with the new tables in the place of that with the old ones, and completes them. If this fails the old
    /// ones are what they were, and complete.
    async fn change_tables(&mut self, old: &Datapath) -> anyhow::Result<()> {
        // Not copied: the ways out of this host are what they are now.
        self.network.write_interfaces(&mut self.datapath)?;
        self.pins.pin_maps(&mut self.datapath)?;
        self.attach().await?;
        sleep(LAST_PACKETS).await;
        self.datapath.catch_up_with(old)?;
        self.datapath.set_awaits_records(false)?;
        Ok(())
    }

    /// Puts the program with the old tables back where that with the new ones is already, which drops packets for lack of records.
    async fn go_back_to(&mut self, old: &mut Datapath) {
        if let Err(error) = self.try_to_go_back_to(old).await {
            tracing::error!(
                "the earlier run's tables could not be put back; until the next start, packets of tracked slots are dropped: {}",
                chain(error.as_ref())
            );
        }
    }

    async fn try_to_go_back_to(&mut self, old: &mut Datapath) -> anyhow::Result<()> {
        // Which programs they carry now.
        self.network.refresh_interfaces(&mut self.datapath).await?;
        let interfaces: Vec<Interface> = self
            .network
            .interfaces()
            .existing()
            .filter(|interface| {
                let mut attachments = self.attachments.iter();
                attachments.any(|attached| attached.replaced && attached.interface == interface.name)
            })
            .cloned()
            .collect();
        for interface in &interfaces {
            let mode = interface.xdp.as_ref().and_then(|attached| attached.mode);
            old.attach(
                std::slice::from_ref(interface),
                mode.as_slice(),
                &self.pins,
                &mut Vec::new(),
            )?;
        }
        Ok(self.pins.discard_new_maps()?)
    }

    /// Follows the configuration, over tables in which live connections may be.
    async fn take_over(&mut self) -> anyhow::Result<()> {
        self.network.write_interfaces(&mut self.datapath)?;
        self.follow_what_is_shared();
        self.sweep_what_was_left().await?;
        self.placement.forget_orphans(&mut self.datapath)?;
        self.adopt_next_hops().await?;
        // Whoever gets new connections, or is some client's home, goes on so until checks say otherwise.
        let earlier = self.earlier()?;
        self.remember_members(&earlier.serving).await?;
        let shares = self.begin_serving(&earlier);
        let plan = self.placement.plan(&self.config, &shares)?;
        let moved = self.follow(self.config.clone(), plan, Arrivals::Awaited).await?;
        self.write_translation()?;
        self.begin_checks(check_targets(&self.config)?)?;
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
    async fn adopt_next_hops(&mut self) -> anyhow::Result<()> {
        let targets = self
            .placement
            .targets()
            .map(|(id, name)| Ok((id, name.address(), self.datapath.target(id)?)))
            .collect::<Result<Vec<_>, DatapathError>>()?;
        let shedding = targets.iter().filter(|(.., target)| target.sheds());
        self.placement.go_on_avoiding(shedding.map(|(id, ..)| *id));
        let draining = targets.iter().filter(|(.., target)| target.drains());
        self.placement.go_on_withdrawing(draining.map(|(id, ..)| *id));
        self.network.adopt(&targets, &mut self.datapath).await
    }

    /// What the tables say of the backends' health.
    fn earlier(&self) -> anyhow::Result<Earlier> {
        let serving = self.placement.serving(&self.datapath)?;
        let mut spare = BTreeSet::new();
        for (id, name) in self.placement.targets() {
            let target = self.datapath.target(id)?;
            if !target.sheds() && !target.drains() && !serving.contains_key(name) {
                spare.insert(*name);
            }
        }
        Ok(Earlier { serving, spare })
    }

    /// Attaches the program to all interfaces and pins the links.
    ///
    /// Between one mode and another an interface is without a program. As long as its kernel had a VIP it would reset every connection
    /// of which it saw a packet. So our VIPs are taken off meanwhile: then it is silent, and what got lost is sent again.
    async fn attach(&mut self) -> anyhow::Result<()> {
        let interfaces: Vec<Interface> = self.network.interfaces().existing().cloned().collect();
        let modes = Mode::allowed_by(self.config.datapath.mode);
        let stay_attached = Mode::common(&interfaces).is_some_and(|mode| modes.contains(&mode));
        let netlink = self.network.netlink();
        let hidden = if stay_attached {
            Vec::new()
        } else {
            let ours = vips::indices(netlink, &self.pins.interfaces()?).await?;
            vips::hide(netlink, &ours).await?
        };
        let attached = self
            .datapath
            .attach(&interfaces, modes, &self.pins, &mut self.attachments);
        vips::show(self.network.netlink(), &hidden).await?;
        attached?;
        self.network.refresh_interfaces(&mut self.datapath).await?;
        self.network.attached();
        Ok(())
    }

    /// Attaches the program to interfaces that were deleted and have come back, in the mode of the others. Returns whether there
    /// were any.
    pub(super) fn attach_again(&mut self) -> anyhow::Result<bool> {
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

    /// Removes what an earlier run has left on other interfaces. Last, when nothing can fail any more that would have to bring
    /// it back.
    async fn clear_other_interfaces(&mut self) -> anyhow::Result<()> {
        let interfaces = self.network.interfaces();
        let mut earlier = self.pins.interfaces()?;
        earlier.retain(|earlier| !interfaces.names().any(|ours| ours == earlier));
        let netlink = self.network.netlink();
        let mut elsewhere = vips::indices(netlink, &earlier).await?;
        let first = interfaces.first();
        elsewhere.extend(
            interfaces
                .existing()
                .filter(|interface| Some(*interface) != first)
                .map(|interface| interface.index),
        );
        for vip in vips::remove(netlink, &elsewhere, |_| true).await? {
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
        for attachment in &self.attachments {
            if !attachment.replaced
                && let Err(error) = self.pins.detach(&attachment.interface)
            {
                tracing::error!("the XDP program could not be detached again: {}", chain(&error));
            }
        }
        let is_ours_alone = !self.found_tables
            && self
                .pins
                .interfaces()
                .is_ok_and(|interfaces| interfaces.is_empty());
        let removed = if is_ours_alone {
            self.pins.remove().map(drop)
        } else {
            Ok(())
        };
        if let Err(error) = removed {
            tracing::error!("the pins could not be removed: {}", chain(&error));
        }
        self.pins.remove_empty_directories();
    }

    /// Says that the daemon does its work now.
    pub(super) fn announce(&mut self) {
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
        self.network.tell_unresolved();
        memory::give_back();
        tracing::info!(
            services = self.config.services.len(),
            backends = self.plan.targets.len(),
            socket = %self.config.api.socket.display(),
            "ready"
        );
    }
}
