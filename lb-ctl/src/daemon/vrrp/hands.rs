//! The hands of VRRP: a second thread, which asks the kernel about its network configuration and changes it.
//!
//! The kernel has one lock for all of that, RTNL. Whoever needs it while somebody else has it, waits in a system call, for
//! as long as that may take, and with everything else that its thread has to do. So the thread that advertises never needs it: it says
//! what is [wanted](Wanted), as a whole, and gets [reports](Report). The latest word counts, and what was said before and has not been
//! done yet is never done.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use anyhow::Context;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval},
};

use super::pulse::{BEAT, Pulse};
use crate::{
    adapters::{
        netlink::{Address, Link, Netlink, NetlinkError},
        vrrp::{Announcer, Endpoint, Sockets, VrrpError},
    },
    core::{
        cause::chain,
        interface::Mac,
        vrrp::{Candidate, Existing, Holdings, Place, Present, Silenced, VirtualInterface, unwanted},
    },
    daemon::{
        controller::{REFRESH, until},
        virtual_interfaces::{self, Needed},
    },
};

/// How soon what has failed is tried again, at first. The pause doubles up to [`REFRESH`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// How long after a virtual interface has come the host is looked at once more: whoever configures new interfaces on this host, from udev's
/// rules for example, sets kernel parameters that we have set, a moment later, and without that anybody is told.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// An instance, from its begin to its end.
pub(super) type Id = u64;

/// What is to be looked at, opened, put on and taken off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Which word this is: a report names the one that it answers.
    pub(super) round: u64,
    pub(super) instances: BTreeMap<Id, Part>,
    /// The interfaces on which instances depend, besides their own.
    pub(super) tracked: BTreeSet<String>,
}

/// What an instance needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) interface: String,
    pub(super) endpoint: Endpoint,
    /// Which try at its sockets this is: those of an earlier one are of no use.
    pub(super) attempt: u32,
    pub(super) addresses: BTreeSet<IpAddr>,
    /// The MAC address that moves with these, if one does. Then they are on an interface of the virtual router's own.
    pub(super) virtual_mac: Option<Mac>,
    /// Whether the addresses belong on the interface now.
    pub(super) holds: bool,
}

/// What has been seen and done.
pub(super) enum Report {
    /// The host has been looked at, and sockets have been opened where there were none.
    Looked {
        surroundings: Surroundings,
        opened: Vec<(Id, Result<Opened, VrrpError>)>,
    },
    /// An address has just been put where it belongs.
    There(Place),
    /// Everything has been tried.
    Settled {
        round: u64,
        /// What is where it belongs.
        there: BTreeSet<Place>,
        /// What could not be put on, and why.
        not_added: BTreeMap<Place, String>,
        /// What could not be taken off, and why.
        not_removed: BTreeMap<Place, String>,
    },
    /// The host could not be looked at, so nothing has been done.
    Blind { round: u64, cause: String },
}

/// The sockets of an instance on an interface.
pub(super) struct Opened {
    pub(super) index: u32,
    pub(super) sockets: Sockets,
    pub(super) announcer: Announcer,
}

/// What is known of the host.
#[derive(Debug)]
pub(super) struct Surroundings {
    /// The interfaces that instances have to do with, by name; `None` for one that does not exist.
    links: BTreeMap<String, Option<Link>>,
    /// All addresses of the host.
    addresses: Vec<Address>,
}

/// The other thread's end. The thread ends when this is dropped, and leaves things as they are then.
pub(super) struct Hands {
    wanted: watch::Sender<Wanted>,
    closing: mpsc::UnboundedSender<Opened>,
}

impl Hands {
    /// Starts the thread. Reports end if it does, which it never does by itself.
    pub(super) fn start(pulse: Pulse) -> anyhow::Result<(Self, mpsc::UnboundedReceiver<Report>)> {
        let (wanted, watched) = watch::channel(Wanted::default());
        let (closing, to_close) = mpsc::unbounded_channel();
        let (reports, reported) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the runtime of VRRP's second thread")?;
        let work = async move {
            match Netlink::connect() {
                Ok(netlink) => Work::new(netlink, watched, reports, pulse).run(to_close).await,
                Err(error) => tracing::error!("{}", chain(&error)),
            }
        };
        std::thread::Builder::new()
            .name("vrrp-hands".into())
            .spawn(move || runtime.block_on(work))
            .context("starting VRRP's second thread")?;
        Ok((Self { wanted, closing }, reported))
    }

    /// The end of a thread that there is not.
    #[cfg(test)]
    pub(super) fn of_a_test() -> (Self, mpsc::UnboundedReceiver<Report>) {
        let (wanted, _) = watch::channel(Wanted::default());
        let ((closing, _), (_, reported)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        (Self { wanted, closing }, reported)
    }

    /// This is wanted from now on.
    pub(super) fn want(&self, wanted: Wanted) {
        self.wanted.send_replace(wanted);
    }

    /// Closes sockets.
    pub(super) fn close(&self, opened: Opened) {
        // If the thread has ended they are closed here.
        let _ = self.closing.send(opened);
    }
}

/// The thread's own.
struct Work {
    netlink: Netlink,
    wanted: watch::Receiver<Wanted>,
    reports: mpsc::UnboundedSender<Report>,
    pulse: Pulse,
    holdings: Holdings,
    /// What has been opened: on which interface, and in which try.
    open: BTreeMap<Id, (u32, Endpoint, u32)>,
    /// The instances and interfaces that have been searched for what an earlier run has left.
    searched: BTreeSet<(Id, u32)>,
    /// The interfaces of which virtual ones without an instance are removed: all on which there has been an instance.
    parents: BTreeSet<u32>,
    /// What has been changed about those so that they speak for their own addresses only.
    silenced: BTreeMap<u32, Silenced>,
    /// Whether there have been virtual interfaces when the host was looked at last, or nobody has looked yet.
    may_have_virtual: bool,
    /// A virtual interface has just come: whoever configures new interfaces may not have seen it yet.
    has_added: bool,
    pause: Duration,
    again: Option<Instant>,
}

impl Work {
    fn new(
        netlink: Netlink,
        wanted: watch::Receiver<Wanted>,
        reports: mpsc::UnboundedSender<Report>,
        pulse: Pulse,
    ) -> Self {
        Self {
            netlink,
            wanted,
            reports,
            pulse,
            holdings: Holdings::default(),
            open: BTreeMap::new(),
            searched: BTreeSet::new(),
            parents: BTreeSet::new(),
            silenced: BTreeMap::new(),
            may_have_virtual: true,
            has_added: false,
            pause: FIRST_PAUSE,
            again: None,
        }
    }

    /// Works until nobody wants anything any more.
    async fn run(mut self, mut to_close: mpsc::UnboundedReceiver<Opened>) {
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.pulse.beat();
            let again = self.again;
            tokio::select! {
                changed = self.wanted.changed() => match changed {
                    Ok(()) => {
                        self.pause = FIRST_PAUSE;
                        self.round().await;
                    }
                    Err(_) => return,
                },
                () = until(again) => self.round().await,
                Some(opened) = to_close.recv() => drop(opened),
                _ = beat.tick() => {}
            }
        }
    }

    async fn round(&mut self) {
        self.again = None;
        let wanted = self.wanted.borrow_and_update().clone();
        let succeeded = match self.look(&wanted).await {
            Ok(seen) => self.settle(&wanted, seen).await,
            Err(error) => {
                let (round, cause) = (wanted.round, chain(&error));
                self.report(Report::Blind { round, cause });
                false
            }
        };
        if !succeeded {
            self.again = Some(Instant::now() + self.pause);
            self.pause = (self.pause * 2).min(REFRESH);
        } else if std::mem::take(&mut self.has_added) {
            self.again = Some(Instant::now() + SECOND_LOOK);
        }
    }

    /// Looks at the host, opens what is not open, and says what belongs where.
    async fn look(&mut self, wanted: &Wanted) -> Result<Seen, NetlinkError> {
        let surroundings = Surroundings::of(&self.netlink, wanted.interfaces()).await?;
        let existing = self.virtual_interfaces(wanted).await?;
        let mut places = BTreeMap::new();
        let mut needed = Vec::new();
        let mut opened = Vec::new();
        self.open.retain(|id, _| wanted.instances.contains_key(id));
        self.searched.retain(|(id, _)| wanted.instances.contains_key(id));
        for (&id, part) in &wanted.instances {
            let Some(link) = surroundings.link(&part.interface) else {
                self.open.remove(&id);
                continue;
            };
            let index = link.interface.index;
            self.parents.insert(index);
            let place = |&address: &IpAddr| Place {
                interface: index,
                virtual_router: None,
                address,
            };
            if self.searched.insert((id, index)) {
                for place in part.addresses.iter().map(place) {
                    self.holdings.clear(place, &part.name);
                }
            }
            if part.holds {
                let place = |address| Place {
                    virtual_router: part.virtual_mac.map(|_| part.endpoint.vrid),
                    ..place(address)
                };
                places.extend(part.addresses.iter().map(place).map(|it| (it, part.name.clone())));
                needed.extend(part.virtual_interface(link));
            }
            let sockets = (index, part.endpoint, part.attempt);
            if link.interface.mac.is_some() && self.open.get(&id) != Some(&sockets) {
                let new = Opened::open(part, index);
                if new.is_ok() {
                    self.open.insert(id, sockets);
                }
                opened.push((id, new));
            }
        }
        self.holdings.want(places);
        let addresses = surroundings.addresses.clone();
        self.report(Report::Looked { surroundings, opened });
        Ok(Seen {
            addresses,
            existing,
            needed,
        })
    }

    /// The virtual interfaces that there are. Where none is needed nobody depends on the answer.
    async fn virtual_interfaces(&mut self, wanted: &Wanted) -> Result<Vec<Existing>, NetlinkError> {
        let is_needed = wanted.instances.values().any(|part| part.virtual_mac.is_some());
        // A parent that is new may carry what an earlier run has left.
        let is_new = |id: &Id| !self.searched.iter().any(|(it, _)| it == id);
        if !is_needed && !self.may_have_virtual && !wanted.instances.keys().any(is_new) {
            return Ok(Vec::new());
        }
        match self.netlink.virtual_interfaces().await {
            Ok(existing) => {
                self.may_have_virtual = !existing.is_empty();
                Ok(existing)
            }
            Err(error) if is_needed => Err(error),
            Err(error) => {
                tracing::warn!("{}", chain(&error));
                Ok(Vec::new())
            }
        }
    }

    /// Puts on and takes off. All of it is tried. Returns whether nothing is left to do.
    async fn settle(&mut self, wanted: &Wanted, mut seen: Seen) -> bool {
        let present: Vec<Present> = seen.addresses.iter().map(|it| seen.present(it)).collect();
        let duties = self.holdings.duties(&present);
        let (mut there, mut not_added, mut not_removed) = (duties.there, BTreeMap::new(), BTreeMap::new());
        // First what somebody is waiting for: that an address is at two hosts for a moment does less harm than that it is at none.
        // Of these, what needs nothing else.
        let (at_once, on_virtual) = duties
            .add
            .into_iter()
            .partition::<Vec<_>, _>(|(place, _)| place.virtual_router.is_none());
        let mut raised = BTreeMap::new();
        let steps = at_once.into_iter().map(Some).chain([None]);
        for step in steps.chain(on_virtual.into_iter().map(Some)) {
            if self.is_outdated(wanted) {
                return true;
            }
            let Some((place, instance)) = step else {
                raised = self.raise(&mut seen).await;
                continue;
            };
            let carrier = match place.virtual_interface() {
                None => Ok(place.interface),
                // Of each place that is wanted, the virtual interface is needed.
                Some(of) => raised.get(&of).cloned().unwrap_or_else(|| Err(of.name())),
            };
            let address = place.address;
            let added = match carrier {
                Ok(interface) => {
                    let added = self.netlink.add_vip(interface, address).await;
                    added.map_err(|error| chain(&error))
                }
                Err(cause) => Err(cause),
            };
            match added {
                Ok(()) => {
                    tracing::info!(instance, %address, interface = wanted.interface(&instance), "added the address");
                    self.report(Report::There(place));
                    there.insert(place);
                }
                Err(cause) => {
                    not_added.insert(place, cause);
                }
            }
        }
        // What could not be made right about an interface whose addresses are there counts like an address that is not.
        for place in &there {
            let raised = place.virtual_interface().and_then(|of| raised.get(&of));
            if let Some(Err(cause)) = raised {
                not_added.insert(*place, cause.clone());
            }
        }
        let mut is_clean = true;
        for going in unwanted(&seen.existing, &seen.wanted(), &self.parents) {
            if self.is_outdated(wanted) {
                return true;
            }
            let (of, undoes) = (going.0.of, going.1 != Silenced::default());
            let lowered = virtual_interfaces::lower(&self.netlink, going, &seen.addresses).await;
            if undoes && lowered.is_ok() {
                self.silenced.remove(&of.parent);
            }
            if let Err(error) = lowered {
                let cause = chain(&error);
                tracing::debug!(interface = of.name(), cause, "the virtual interface stays");
                is_clean = false;
                let on_it = duties.remove.iter().map(|(place, _)| *place);
                let on_it = on_it.filter(|place| place.virtual_interface() == Some(of));
                not_removed.extend(on_it.map(|place| (place, cause.clone())));
            }
        }
        for (place, instance) in duties.remove {
            if self.is_outdated(wanted) {
                return true;
            }
            let Some(address) = seen.addresses.iter().find(|it| seen.is_at(it, place)) else {
                continue;
            };
            if not_removed.contains_key(&place) {
                continue;
            }
            // One that has gone with its interface is gone.
            match self.netlink.remove_address(address).await {
                Ok(()) => {
                    self.holdings.gone(place);
                    tracing::info!(instance, address = %place.address, interface = wanted.interface(&instance), "removed the address");
                }
                Err(error) => {
                    not_removed.insert(place, chain(&error));
                }
            }
        }
        let succeeded = is_clean && not_added.is_empty() && not_removed.is_empty();
        self.report(Report::Settled {
            round: wanted.round,
            there,
            not_added,
            not_removed,
        });
        succeeded
    }

    /// Sees to it that the virtual interfaces are there that have to be. Returns their indices, or why they are not.
    async fn raise(&mut self, seen: &mut Seen) -> BTreeMap<VirtualInterface, Result<u32, String>> {
        let before = seen.existing.len();
        let mut raised = BTreeMap::new();
        for needed in &seen.needed {
            let index =
                virtual_interfaces::raise(&self.netlink, needed, &mut seen.existing, &mut self.silenced);
            raised.insert(needed.of, index.await.map_err(|error| chain(&error)));
        }
        self.has_added |= seen.existing.len() > before;
        raised
    }

    /// Whether something else is wanted of the instances by now: that goes first.
    fn is_outdated(&self, wanted: &Wanted) -> bool {
        self.wanted.borrow().instances != wanted.instances
    }

    fn report(&self, report: Report) {
        // Whoever wanted to know has ended; so shall we.
        let _ = self.reports.send(report);
    }
}

/// What a look at the host has shown.
struct Seen {
    /// All addresses of the host.
    addresses: Vec<Address>,
    /// All virtual interfaces of ours.
    existing: Vec<Existing>,
    /// Those that there have to be.
    needed: Vec<Needed>,
}

impl Seen {
    fn present(&self, address: &Address) -> Present {
        let carrier = self.existing.iter().find(|it| it.index == address.interface);
        Present {
            place: Place {
                interface: carrier.map_or(address.interface, |it| it.of.parent),
                virtual_router: carrier.map(|it| it.of.vrid),
                address: address.address,
            },
            ours: address.ours,
        }
    }

    fn is_at(&self, address: &Address, place: Place) -> bool {
        self.present(address) == Present { place, ours: true }
    }

    fn wanted(&self) -> BTreeSet<VirtualInterface> {
        self.needed.iter().map(|needed| needed.of).collect()
    }
}

impl Part {
    /// The virtual interface that it needs over this one, if any.
    fn virtual_interface(&self, parent: &Link) -> Option<Needed> {
        self.virtual_mac.map(|_| Needed {
            of: VirtualInterface {
                parent: parent.interface.index,
                vrid: self.endpoint.vrid,
                is_ipv4: self.endpoint.is_ipv4,
            },
            instance: self.name.clone(),
            arp: parent.arp,
        })
    }
}

impl Wanted {
    fn interfaces(&self) -> BTreeSet<String> {
        let own = self.instances.values().map(|part| part.interface.clone());
        own.chain(self.tracked.iter().cloned()).collect()
    }

    /// The interface of an instance, for the log: one that is gone has none.
    fn interface(&self, instance: &str) -> Option<&str> {
        let mut parts = self.instances.values();
        Some(parts.find(|part| part.name == instance)?.interface.as_str())
    }
}

impl Opened {
    fn open(part: &Part, index: u32) -> Result<Self, VrrpError> {
        let interface = part.interface.as_str();
        Ok(Self {
            index,
            sockets: Sockets::open(interface, index, part.endpoint)?,
            announcer: Announcer::open(interface, index, part.virtual_mac)?,
        })
    }
}

impl Surroundings {
    /// What is true of these interfaces now.
    async fn of(netlink: &Netlink, interfaces: BTreeSet<String>) -> Result<Self, NetlinkError> {
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

    /// The interface of this name, if it exists.
    pub(super) fn link(&self, interface: &str) -> Option<&Link> {
        self.links.get(interface).and_then(Option::as_ref)
    }

    /// Whether an interface is up and somebody is at its other end.
    pub(super) fn has_link(&self, interface: &str) -> bool {
        self.link(interface)
            .is_some_and(|link| link.interface.up && link.carrier)
    }

    /// The addresses of an interface.
    pub(super) fn addresses(&self, interface: u32) -> Vec<Candidate> {
        let addresses = self.addresses.iter().filter(|it| it.interface == interface);
        addresses
            .map(|it| Candidate {
                address: it.address,
                flags: it.flags,
                ours: it.ours,
            })
            .collect()
    }
}
