//! An instance's part of the outside: its sockets, its addresses on the interface, and what is observed of what it depends on.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    adapters::{
        netlink::{Address, Link, Netlink, NetlinkError},
        vrrp::{Announcer, Channel, Incoming, VrrpError},
    },
    core::{
        cause::chain,
        config::Vrrp,
        interface::Mac,
        vrrp::{
            Acceptor, Advertisement, Audience, Conditions, Heard, Rejected, Shortage, Subject, group_address,
            is_share,
        },
    },
    daemon::vips,
};

use super::Dependencies;

/// How long after the log has been told what is wrong it is told again.
const TELL_AGAIN: Duration = Duration::from_mins(1);

/// What is known of the host.
pub(super) struct Surroundings {
    /// The interfaces that instances have to do with, by name; `None` for one that does not exist.
    pub(super) links: BTreeMap<String, Option<Link>>,
    /// All addresses of the host.
    pub(super) addresses: Vec<Address>,
}

impl Surroundings {
    /// What is true of these interfaces now.
    pub(super) async fn of(netlink: &Netlink, interfaces: BTreeSet<String>) -> Result<Self, NetlinkError> {
        let mut links = BTreeMap::new();
        for name in interfaces {
            let link = netlink.link(&name).await?;
            links.insert(name, link);
        }
        Ok(Self {
            links,
            addresses: netlink.addresses().await?,
        })
    }

    fn has_link(&self, interface: &str) -> bool {
        let link = self.links.get(interface).and_then(Option::as_ref);
        link.is_some_and(|link| link.interface.up && link.carrier)
    }
}

/// An instance and its sockets.
pub(super) struct Instance {
    pub(super) config: Vrrp,
    pub(super) conditions: Conditions,
    pub(super) rejected: BTreeMap<&'static str, u64>,
    /// What it depends on and is missing, in words.
    pub(super) missing: Vec<String>,
    acceptor: Acceptor,
    port: Option<Port>,
    /// When the log was told last what is wrong, by kind: a flood must not fill it.
    complaints: BTreeMap<&'static str, Instant>,
}

/// An open interface.
struct Port {
    index: u32,
    mac: Mac,
    channel: Channel,
    announcer: Announcer,
}

impl Instance {
    pub(super) fn new(config: Vrrp) -> Self {
        Self {
            acceptor: Acceptor {
                vrid: config.vrid,
                addresses: config.addresses.iter().copied().collect(),
                audience: config.audience.clone(),
                checksum: config.checksum,
            },
            config,
            conditions: Conditions::default(),
            rejected: BTreeMap::new(),
            missing: Vec::new(),
            port: None,
            complaints: BTreeMap::new(),
        }
    }

    pub(super) fn channel(&self) -> Option<&Channel> {
        self.port.as_ref().map(|port| &port.channel)
    }

    /// Takes in what is true of the host, and says what that comes to.
    pub(super) fn examine(&mut self, surroundings: &Surroundings, dependencies: &Dependencies) -> Conditions {
        let interface = &self.config.interface;
        let link = surroundings.links.get(interface).and_then(Option::as_ref);
        let fault = self.open(link).err();
        let shortage = Shortage::of(&self.config.track, |subject| match subject {
            Subject::Link(interface) => (!surroundings.has_link(interface)).then(|| subject.to_string()),
            Subject::Service { name, percent } => {
                let (healthy, all) = dependencies.healthy.get(name)?;
                (!is_share(*healthy, *all, *percent)).then(|| subject.to_string())
            }
            Subject::Script(script) => {
                let why = dependencies.scripts.get(script)?.as_ref().err()?;
                Some(format!("{subject}: {why}"))
            }
            Subject::Xdp => None,
        });
        self.missing = shortage.missing;
        Conditions {
            source: link.and_then(|link| self.source(link, surroundings)),
            lowered: shortage.lowered,
            fault: fault.or(shortage.fault),
        }
    }

    /// Opens the interface, if it is not open. The error says what the instance cannot do without and is missing.
    fn open(&mut self, link: Option<&Link>) -> Result<(), String> {
        let name = &self.config.interface;
        let Some(link) = link else {
            self.port = None;
            return Err(format!("the interface {name} does not exist"));
        };
        let (index, Some(mac)) = (link.interface.index, link.interface.mac) else {
            return Err(format!("the interface {name} has no MAC address"));
        };
        match &mut self.port {
            Some(port) if port.index == index => port.mac = mac,
            _ => {
                let opened = Port::open(&self.config, index, mac);
                self.port = Some(opened.map_err(|error| chain(&error))?);
            }
        }
        if !(link.interface.up && link.carrier) {
            return Err(Subject::Link(name.clone()).to_string());
        }
        // It would attract packets that nobody forwards.
        if link.interface.xdp.is_none() {
            return Err(Subject::Xdp.to_string());
        }
        Ok(())
    }

    /// The address that packets come from: one that is not shared. Over IPv6 the group is talked to from the link-local address
    /// (RFC 9568, 5.1.2.1).
    fn source(&self, link: &Link, surroundings: &Surroundings) -> Option<IpAddr> {
        let is_multicast = self.config.audience == Audience::Multicast;
        let fits = |address: IpAddr| match address {
            IpAddr::V4(_) => self.config.is_ipv4(),
            IpAddr::V6(address) => !self.config.is_ipv4() && address.is_unicast_link_local() == is_multicast,
        };
        let on_link = surroundings
            .addresses
            .iter()
            .filter(|it| it.interface == link.interface.index);
        let own = on_link.filter(|it| !it.ours && !self.config.addresses.contains(&it.address));
        own.map(|it| it.address).find(|address| fits(*address))
    }

    /// Takes a packet for an advertisement, or counts why it is none.
    pub(super) fn accept(&mut self, incoming: &Incoming) -> Option<Heard> {
        match self.acceptor.accept(incoming.received(), self.conditions.source) {
            Ok(heard) => {
                if heard.checksum != self.config.checksum {
                    let (theirs, ours) = (heard.checksum, self.config.checksum);
                    let what = format!(
                        "{} sends the checksum of {theirs}, we that of {ours}: keepalived, and whoever else knows one only, ignores us; \
                         set checksum = \"{theirs}\"",
                        heard.from
                    );
                    self.complain("checksum_form", &what);
                }
                Some(heard)
            }
            // Another instance's.
            Err(Rejected::Vrid { .. }) => None,
            Err(rejected) => {
                let reason = rejected.reason();
                *self.rejected.entry(reason).or_default() += 1;
                let from = incoming.received().from;
                self.complain(
                    reason,
                    &format!("a packet from {from} does not count: {rejected}"),
                );
                None
            }
        }
    }

    /// Sends an advertisement of this priority to everybody that it is for.
    pub(super) fn advertise(&mut self, priority: u8) {
        let (Some(port), Some(source)) = (&self.port, self.conditions.source) else {
            return;
        };
        let advertisement = Advertisement {
            vrid: self.config.vrid,
            priority,
            interval: self.config.settings.interval,
            addresses: self.config.addresses.clone(),
        };
        let advertise_to = |to| {
            let payload = advertisement.encode(source, to, self.config.checksum);
            port.channel.send(source, to, &payload)
        };
        // One peer that cannot be reached must not keep the others from hearing us.
        let sent: Vec<Result<(), VrrpError>> = match &self.config.audience {
            Audience::Multicast => vec![advertise_to(group_address(self.config.is_ipv4()))],
            Audience::Unicast { peers, .. } => peers.iter().copied().map(advertise_to).collect(),
        };
        self.complain_of_first("send", sent);
    }

    /// Puts the addresses on the interface, as far as the operator has not put them somewhere.
    pub(super) async fn take(&mut self, netlink: &Netlink) {
        let Some(port) = &self.port else { return };
        let addresses = self.acceptor.addresses.clone();
        let mut added = Vec::new();
        if let Err(error) = vips::add_missing(netlink, port.index, &addresses, &mut added).await {
            self.complain("take", &chain(&error));
        }
        for address in added {
            tracing::info!(instance = self.config.name, %address, interface = self.config.interface, "added the address");
        }
    }

    /// Takes off what we have put there.
    pub(super) async fn release(&mut self, netlink: &Netlink) {
        let index = match &self.port {
            Some(port) => Some(port.index),
            None => vips::indices(netlink, std::slice::from_ref(&self.config.interface))
                .await
                .ok()
                .and_then(|indices| indices.first().copied()),
        };
        let addresses = &self.acceptor.addresses;
        match vips::remove(netlink, index.as_slice(), |address| addresses.contains(&address)).await {
            Ok(removed) => {
                for address in removed {
                    tracing::info!(instance = self.config.name, %address, interface = self.config.interface, "removed the address");
                }
            }
            Err(error) => self.complain("release", &chain(&error)),
        }
    }

    /// Tells the neighbours whose the addresses are.
    pub(super) fn announce(&mut self) {
        let Some(port) = &self.port else { return };
        let announce = |address: &IpAddr| port.announcer.announce(*address, port.mac);
        let announced: Vec<Result<(), VrrpError>> = self.config.addresses.iter().map(announce).collect();
        self.complain_of_first("announce", announced);
    }

    fn complain_of_first(&mut self, kind: &'static str, results: Vec<Result<(), VrrpError>>) {
        if let Some(error) = results.into_iter().find_map(Result::err) {
            self.complain(kind, &chain(&error));
        }
    }

    fn complain(&mut self, kind: &'static str, what: &str) {
        let now = Instant::now();
        let told = self.complaints.get(kind);
        if told.is_none_or(|told| now.duration_since(*told) >= TELL_AGAIN) {
            tracing::warn!(instance = self.config.name, "{what}");
            self.complaints.insert(kind, now);
        }
    }

    /// What is wrong from now on is worth saying, though it has been said.
    pub(super) fn forget_complaints(&mut self) {
        self.complaints.clear();
    }
}

impl Port {
    fn open(config: &Vrrp, index: u32, mac: Mac) -> Result<Self, VrrpError> {
        Ok(Self {
            index,
            mac,
            channel: Channel::open(&config.interface, index, config.is_ipv4(), &config.audience)?,
            announcer: Announcer::open(&config.interface, index)?,
        })
    }
}
