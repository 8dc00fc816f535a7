//! An instance's part of the outside: its sockets, its addresses on the interface, and what is observed of what it depends on.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Dependencies,
    hands::{Hands, Id, Opened, Part, Surroundings},
    timer::Timer,
};
use crate::{
    adapters::{
        netlink::Link,
        vrrp::{Announcer, Channel, Endpoint, Incoming, VrrpError},
    },
    core::{
        cause::chain,
        config::Vrrp,
        interface::Mac,
        vrrp::{
            Acceptor, Advertisement, Audience, Conditions, Heard, NoSource, OWNER, Place, Rejected,
            Requirements, Shortage, Subject, Taking, announcement, group_address, is_share, multicast_frame,
        },
    },
};

/// How long after the log has been told what is wrong it is told again.
const TELL_AGAIN: Duration = Duration::from_mins(1);

/// An instance and its sockets.
pub(super) struct Instance {
    pub(super) id: Id,
    pub(super) config: Vrrp,
    pub(super) conditions: Conditions,
    pub(super) rejected: BTreeMap<&'static str, u64>,
    pub(super) timer: Timer,
    /// What it depends on and is missing, in words.
    pub(super) missing: Vec<String>,
    pub(super) taking: Taking,
    acceptor: Acceptor,
    port: Option<Port>,
    /// Why there is no port, though there is an interface.
    closed: Option<String>,
    /// How often the sockets that there were have been found to be of no use.
    useless_attempts: u32,
    /// The addresses that are where they belong, as far as is known.
    there: BTreeSet<IpAddr>,
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
    pub(super) fn new(id: Id, config: Vrrp) -> Self {
        Self {
            id,
            acceptor: acceptor(&config),
            config,
            conditions: Conditions::default(),
            rejected: BTreeMap::new(),
            timer: Timer::new(),
            missing: Vec::new(),
            taking: Taking::default(),
            port: None,
            closed: None,
            useless_attempts: 0,
            there: BTreeSet::new(),
            complaints: BTreeMap::new(),
        }
    }

    /// Goes on with another configuration of the same virtual router.
    pub(super) fn reconfigure(&mut self, config: Vrrp) {
        if config == self.config {
            return;
        }
        let acceptor = acceptor(&config);
        if acceptor.addresses != self.acceptor.addresses {
            // Others may be had where those could not.
            self.taking = Taking::default();
        }
        // What is given away is announced no more.
        self.there.retain(|address| acceptor.addresses.contains(address));
        self.acceptor = acceptor;
        self.config = config;
        self.forget_complaints();
    }

    /// Whether it has addresses that are none of this configuration.
    pub(super) fn gives_up_some(&self, next: &Vrrp) -> bool {
        let mut addresses = self.config.addresses.iter();
        addresses.any(|address| !next.addresses.contains(address))
    }

    pub(super) fn channel(&self) -> Option<&Channel> {
        self.port.as_ref().map(|port| &port.channel)
    }

    /// What it needs of the host.
    pub(super) fn part(&self, holds: bool) -> Part {
        Part {
            name: self.config.name.clone(),
            interface: self.config.interface.clone(),
            endpoint: Endpoint {
                vrid: self.config.vrid,
                is_ipv4: self.config.is_ipv4(),
                is_multicast: self.is_multicast(),
            },
            attempt: self.useless_attempts,
            addresses: self.acceptor.addresses.clone(),
            virtual_mac: self.config.virtual_mac(),
            holds,
        }
    }

    fn is_multicast(&self) -> bool {
        self.config.audience == Audience::Multicast
    }

    /// Takes over sockets that have been opened for it, or the reason why there are none.
    pub(super) fn open(&mut self, opened: Result<Opened, VrrpError>, hands: &Hands) {
        self.close(hands);
        let listening = opened.and_then(|opened| {
            let channel = Channel::listen(opened.sockets).inspect_err(|_| {
                // Whoever has opened them does not know: the next look says so, and they are opened anew.
                self.useless_attempts = self.useless_attempts.wrapping_add(1);
            })?;
            Ok(Port {
                index: opened.index,
                mac: Mac::default(),
                channel,
                announcer: opened.announcer,
            })
        });
        match listening {
            Ok(port) => (self.port, self.closed) = (Some(port), None),
            Err(error) => self.closed = Some(chain(&error)),
        }
    }

    /// Gives its sockets back.
    pub(super) fn close(&mut self, hands: &Hands) {
        if let Some(port) = self.port.take() {
            hands.close(Opened {
                index: port.index,
                sockets: port.channel.into_sockets(),
                announcer: port.announcer,
            });
        }
    }

    /// It has lost its address, and has said so; or has one again. An interface that loses its addresses may lose all that it has of IPv6, and
    /// the multicast groups with it. The kernel does not join them again, and does not say so: whoever goes on with the same sockets is deaf. These
    /// have to be closed before others join, since they leave the group in the name of all. And again once there is an address: while there is
    /// none that can be used the same may happen unseen. Returns whether there are sockets that are to be opened anew.
    pub(super) fn forget_groups(&mut self, hands: &Hands) -> bool {
        let forgets = self.is_multicast() && self.port.is_some();
        if forgets {
            self.close(hands);
            self.useless_attempts = self.useless_attempts.wrapping_add(1);
        }
        forgets
    }

    /// Takes in what is true of the host, and says what that comes to. `shared` are the VIPs of all instances and services.
    pub(super) fn examine(
        &mut self,
        surroundings: &Surroundings,
        dependencies: &Dependencies,
        shared: &BTreeSet<IpAddr>,
        hands: &Hands,
    ) -> Conditions {
        let interface = self.config.interface.clone();
        let link = surroundings.link(&interface);
        let is_there = |port: &Port| link.is_some_and(|link| link.interface.index == port.index);
        if self.port.as_ref().is_some_and(|port| !is_there(port)) {
            self.close(hands);
        }
        let fault = self.obstacle(link).err();
        let shortage = Shortage::of(&self.config.track, |subject| match subject {
            Subject::Link(interface) => surroundings.lacks_link(interface).then(|| subject.to_string()),
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
        let source = link.map(|link| self.source(link, surroundings, shared));
        let (source, no_source) = match source {
            Some(Ok(source)) => (Some(source), None),
            Some(Err(why)) => (None, Some(why.to_string())),
            None => (None, None),
        };
        let taking = self.taking.fault().map(ToOwned::to_owned);
        self.missing = shortage.missing;
        Conditions {
            source,
            lowered: shortage.lowered,
            fault: fault.or(no_source).or(taking).or(shortage.fault),
        }
    }

    /// What the instance cannot do without and is missing on its interface.
    fn obstacle(&mut self, link: Option<&Link>) -> Result<(), String> {
        let name = &self.config.interface;
        let Some(link) = link else {
            return Err(format!("the interface {name} does not exist"));
        };
        let Some(mac) = link.interface.mac else {
            return Err(format!("the interface {name} has no MAC address"));
        };
        match (&mut self.port, &self.closed) {
            (Some(port), _) => port.mac = mac,
            (None, Some(why)) => return Err(why.clone()),
            (None, None) => return Err(format!("the interface {name} is not open yet")),
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

    fn source(
        &self,
        link: &Link,
        surroundings: &Surroundings,
        shared: &BTreeSet<IpAddr>,
    ) -> Result<IpAddr, NoSource> {
        let requirements = Requirements {
            is_ipv4: self.config.is_ipv4(),
            is_multicast: self.is_multicast(),
            configured: self.config.source,
            shared,
        };
        requirements.choose(
            &surroundings.addresses(link.interface.index),
            self.conditions.source,
        )
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
                let (theirs, ours) = (heard.priority, self.config.settings.priority.get());
                if theirs == ours && ours == OWNER.get() {
                    let what = format!(
                        "{} has priority 255 as well, but the addresses have one owner: of the two, the one with the higher address is \
                         master; give the other a lower priority",
                        heard.from
                    );
                    self.complain("owners", &what);
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
        let payload_to = |to| advertisement.encode(source, to, self.config.checksum);
        let advertise_to = |to| port.channel.send(source, to, &payload_to(to));
        // One peer that cannot be reached must not keep the others from hearing us.
        let sent: Vec<Result<(), VrrpError>> = match &self.config.audience {
            Audience::Multicast => {
                let group = group_address(self.config.is_ipv4());
                vec![match self.config.virtual_mac() {
                    // It is from these that switches know where it is (RFC 9568, section 7.2).
                    Some(mac) => {
                        let frame = multicast_frame(mac, source, group, &payload_to(group));
                        port.announcer.send(&frame)
                    }
                    None => advertise_to(group),
                }]
            }
            Audience::Unicast { peers, .. } => peers.iter().copied().map(advertise_to).collect(),
        };
        self.complain_of_first("send", sent);
    }

    /// Whether an address belongs to it, on its interface as it is now.
    pub(super) fn has(&self, place: Place) -> bool {
        let is_here = |port: &Port| port.index == place.interface;
        let own = self.config.has_virtual_mac.then_some(self.config.vrid);
        self.port.as_ref().is_some_and(is_here)
            && place.virtual_router == own
            && self.acceptor.addresses.contains(&place.address)
    }

    /// Takes in where its addresses are while it is master, and tells the neighbours of those that have come.
    pub(super) fn take_in(&mut self, there: BTreeSet<IpAddr>) {
        let before = std::mem::replace(&mut self.there, there);
        let come: Vec<IpAddr> = self.there.difference(&before).copied().collect();
        self.announce_these(&come);
    }

    /// Takes in that an address has come while it is master.
    pub(super) fn take_in_one(&mut self, address: IpAddr) {
        // Also one that was there before, and had to be put on again.
        self.there.insert(address);
        self.announce_these(&[address]);
    }

    /// Whether all its addresses are there, and so have been announced.
    pub(super) fn is_announced(&self) -> bool {
        let mut addresses = self.config.addresses.iter();
        addresses.all(|address| self.there.contains(address))
    }

    /// Which of these places are its own.
    pub(super) fn own<'p>(&self, places: impl IntoIterator<Item = &'p Place>) -> BTreeSet<IpAddr> {
        let own = places.into_iter().filter(|place| self.has(**place));
        own.map(|place| place.address).collect()
    }

    /// It is not master any more: its addresses are announced no more.
    pub(super) fn release(&mut self) {
        self.there.clear();
        self.taking.ended();
    }

    /// Tells the neighbours whose the addresses are, as far as they are there: others would not be answered for.
    pub(super) fn announce(&mut self) {
        let there: Vec<IpAddr> = self.there.iter().copied().collect();
        self.announce_these(&there);
    }

    fn announce_these(&mut self, addresses: &[IpAddr]) {
        let Some(port) = &self.port else { return };
        let mac = self.config.virtual_mac().unwrap_or(port.mac);
        let announce = |address: &IpAddr| port.announcer.send(&announcement(*address, mac));
        let announced: Vec<Result<(), VrrpError>> = addresses.iter().map(announce).collect();
        self.complain_of_first("announce", announced);
    }

    fn complain_of_first(&mut self, kind: &'static str, results: Vec<Result<(), VrrpError>>) {
        if let Some(error) = results.into_iter().find_map(Result::err) {
            self.complain(kind, &chain(&error));
        }
    }

    pub(super) fn complain(&mut self, kind: &'static str, what: &str) {
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

fn acceptor(config: &Vrrp) -> Acceptor {
    Acceptor {
        vrid: config.vrid,
        addresses: config.addresses.iter().copied().collect(),
        audience: config.audience.clone(),
        checksum: config.checksum,
    }
}
