//! What the hands do: they look at the host, open what is not open, and put on and take off what the latest word says.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval},
};

use super::{Id, Opened, Pulse, Report, Surroundings, Wanted};
use crate::{
    adapters::{
        netlink::{Address, Netlink, NetlinkError},
        vrrp::Endpoint,
    },
    core::{
        cause::chain,
        vrrp::{Duties, Existing, Holdings, Place, Present, Silenced, VirtualInterface, unwanted},
    },
    daemon::{
        controller::{REFRESH, until},
        virtual_interfaces::{self, Needed},
        vrrp::pulse::BEAT,
    },
};

/// How soon what has failed is tried again, at first. The pause doubles up to [`REFRESH`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// How long after a virtual interface has come the host is looked at once more: whoever configures new interfaces on this host, from udev's
/// rules for example, sets kernel parameters that we have set, a moment later, and without that anybody is told.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// The thread's own.
pub(super) struct Work {
    netlink: Netlink,
    wanted: watch::Receiver<Wanted>,
    reports: mpsc::UnboundedSender<Report>,
    pulse: Pulse,
    holdings: Holdings,
    /// What has been opened: on which interface, and in which try.
    open: BTreeMap<Id, (u32, Endpoint, u32)>,
    /// The instances and interfaces that have been searched for what an earlier run has left.
    searched: BTreeSet<(Id, u32)>,
    /// The interfaces of which virtual ones without an instance are removed: all on which there has been an instance, and their names then.
    parents: BTreeMap<u32, String>,
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
    pub(super) fn new(
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
            parents: BTreeMap::new(),
            silenced: BTreeMap::new(),
            may_have_virtual: true,
            has_added: false,
            pause: FIRST_PAUSE,
            again: None,
        }
    }

    /// Works until nobody wants anything any more.
    pub(super) async fn run(mut self, mut to_close: mpsc::UnboundedReceiver<Opened>) {
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.pulse.beat();
            let again = self.again;
            tokio::select! {
                changed = self.wanted.changed() => match changed {
                    Ok(()) => {
                        self.pause = FIRST_PAUSE;
                        self.round(&mut to_close).await;
                    }
                    Err(_) => return,
                },
                () = until(again) => self.round(&mut to_close).await,
                Some(opened) = to_close.recv() => drop(opened),
                _ = beat.tick() => {}
            }
        }
    }

    async fn round(&mut self, to_close: &mut mpsc::UnboundedReceiver<Opened>) {
        self.again = None;
        let wanted = self.wanted.borrow_and_update().clone();
        // What was to be closed when this was said is closed before anything is opened.
        while let Ok(opened) = to_close.try_recv() {
            drop(opened);
        }
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
            self.parents.insert(index, part.interface.clone());
            if self.searched.insert((id, index)) {
                for place in part.places(index, None) {
                    self.holdings.clear(place, &part.name);
                }
            }
            if part.holds {
                let own = part.places(index, part.virtual_router());
                places.extend(own.map(|place| (place, part.name.clone())));
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
        let is_needed = wanted.instances.values().any(|part| part.virtual_mac.is_some())
            || self.silenced.values().any(|it| *it != Silenced::default());
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
    async fn settle(&mut self, wanted: &Wanted, seen: Seen) -> bool {
        // What else is wanted by now goes first.
        self.try_to_settle(wanted, seen).await.unwrap_or(true)
    }

    async fn try_to_settle(&mut self, wanted: &Wanted, mut seen: Seen) -> Result<bool, Outdated> {
        let present: Vec<Present> = seen.addresses.iter().map(|it| seen.present(it)).collect();
        let Duties { add, remove, there } = self.holdings.duties(&present);
        let mut outcome = Outcome {
            there,
            ..Outcome::default()
        };
        // First what somebody is waiting for: that an address is at two hosts for a moment does less harm than that it is at none.
        // Of these, what needs nothing else.
        let (at_once, on_virtual) = add
            .into_iter()
            .partition(|(place, _)| place.virtual_router.is_none());
        self.put_on(wanted, at_once, &Raised::new(), &mut outcome).await?;
        self.refuse_outdated(wanted)?;
        let raised = self.raise(&mut seen).await;
        self.put_on(wanted, on_virtual, &raised, &mut outcome).await?;
        // What could not be made right about an interface whose addresses are there counts like an address that is not.
        for place in &outcome.there {
            let raised = place.virtual_interface().and_then(|of| raised.get(&of));
            if let Some(Err(cause)) = raised {
                outcome.not_added.insert(*place, cause.clone());
            }
        }
        let are_lowered = self.lower(wanted, &seen, &remove, &mut outcome).await?;
        self.take_off(wanted, &seen, remove, &mut outcome).await?;
        let Outcome {
            there,
            not_added,
            not_removed,
        } = outcome;
        let succeeded = are_lowered && not_added.is_empty() && not_removed.is_empty();
        self.report(Report::Settled {
            round: wanted.round,
            there,
            not_added,
            not_removed,
        });
        Ok(succeeded)
    }

    /// Puts addresses on, each on its interface, of which `raised` are the virtual ones.
    async fn put_on(
        &self,
        wanted: &Wanted,
        places: Vec<(Place, String)>,
        raised: &Raised,
        outcome: &mut Outcome,
    ) -> Result<(), Outdated> {
        for (place, instance) in places {
            self.refuse_outdated(wanted)?;
            let address = place.address;
            let carrier = match place.virtual_interface() {
                None => Ok(place.interface),
                // Of each place that is wanted, the virtual interface is needed.
                Some(of) => raised.get(&of).cloned().unwrap_or_else(|| Err(of.name())),
            };
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
                    outcome.there.insert(place);
                }
                Err(cause) => {
                    outcome.not_added.insert(place, cause);
                }
            }
        }
        Ok(())
    }

    /// Removes the virtual interfaces that are not needed any more, with their addresses. Returns whether all could be.
    async fn lower(
        &mut self,
        wanted: &Wanted,
        seen: &Seen,
        remove: &[(Place, String)],
        outcome: &mut Outcome,
    ) -> Result<bool, Outdated> {
        let mut are_lowered = true;
        let parents = self.parents.keys().copied().collect();
        for (existing, silenced) in unwanted(&seen.existing, &seen.wanted(), &parents) {
            self.refuse_outdated(wanted)?;
            let of = existing.of;
            let lowered =
                virtual_interfaces::lower(&self.netlink, (existing, silenced), &seen.addresses).await;
            if let Err(error) = lowered {
                let cause = chain(&error);
                tracing::debug!(interface = of.name(), cause, "the virtual interface stays");
                are_lowered = false;
                let on_it = remove.iter().map(|(place, _)| *place);
                let on_it = on_it.filter(|place| place.virtual_interface() == Some(of));
                outcome
                    .not_removed
                    .extend(on_it.map(|place| (place, cause.clone())));
            } else if silenced != Silenced::default() {
                self.silenced.remove(&of.parent);
            }
        }
        Ok(are_lowered && self.unsilence_bereft(wanted, seen).await)
    }

    /// Gives those parents their voices back of which somebody else has deleted the last virtual interface. Returns whether all have them.
    async fn unsilence_bereft(&mut self, wanted: &Wanted, seen: &Seen) -> bool {
        let mut have_voices = true;
        let of_ipv4 = seen.existing.iter().map(|it| it.of).chain(seen.wanted());
        let of_ipv4 = of_ipv4.filter(|of| of.is_ipv4);
        let parents: BTreeSet<u32> = of_ipv4.map(|of| of.parent).collect();
        for (parent, silenced) in self.silenced.clone() {
            if parents.contains(&parent) {
                continue;
            }
            match virtual_interfaces::unsilence(&self.netlink, parent, silenced).await {
                Ok(()) => {
                    self.silenced.remove(&parent);
                }
                Err(error) => {
                    let cause = chain(&error);
                    let name = self.parents.get(&parent).map_or("", String::as_str);
                    match silenced.remedy(name) {
                        // This may be the daemon's end, after which nobody tries again.
                        Some(remedy) if wanted.instances.is_empty() && self.pause == FIRST_PAUSE => {
                            tracing::warn!(
                                interface = name,
                                cause,
                                "the interface speaks for its own addresses only, as a virtual MAC address had needed it; unless the next try \
                             succeeds, undo that with `{remedy}`"
                            );
                        }
                        Some(_) | None => {
                            tracing::debug!(interface = name, cause, "a parent stays silent");
                        }
                    }
                    have_voices = false;
                }
            }
        }
        have_voices
    }

    /// Takes addresses off, as far as they are not known to stay with their interface.
    async fn take_off(
        &mut self,
        wanted: &Wanted,
        seen: &Seen,
        places: Vec<(Place, String)>,
        outcome: &mut Outcome,
    ) -> Result<(), Outdated> {
        for (place, instance) in places {
            self.refuse_outdated(wanted)?;
            let Some(address) = seen.addresses.iter().find(|it| seen.is_at(it, place)) else {
                continue;
            };
            if outcome.not_removed.contains_key(&place) {
                continue;
            }
            // One that has gone with its interface is gone.
            match self.netlink.remove_address(address).await {
                Ok(()) => {
                    self.holdings.gone(place);
                    tracing::info!(instance, address = %place.address, interface = wanted.interface(&instance), "removed the address");
                }
                Err(error) => {
                    outcome.not_removed.insert(place, chain(&error));
                }
            }
        }
        Ok(())
    }

    /// Sees to it that the virtual interfaces are there that have to be. Returns their indices, or why they are not.
    async fn raise(&mut self, seen: &mut Seen) -> Raised {
        let before = seen.existing.len();
        let mut raised = Raised::new();
        for needed in &seen.needed {
            let index =
                virtual_interfaces::raise(&self.netlink, needed, &mut seen.existing, &mut self.silenced);
            raised.insert(needed.of, index.await.map_err(|error| chain(&error)));
        }
        self.has_added |= seen.existing.len() > before;
        raised
    }

    /// Whether something else is wanted of the instances by now: that goes first.
    fn refuse_outdated(&self, wanted: &Wanted) -> Result<(), Outdated> {
        if self.wanted.borrow().instances == wanted.instances {
            Ok(())
        } else {
            Err(Outdated)
        }
    }

    fn report(&self, report: Report) {
        // Whoever wanted to know has ended; so shall we.
        let _ = self.reports.send(report);
    }
}

/// Something else is wanted by now.
struct Outdated;

/// The virtual interfaces that are needed: their indices, or why they are not there.
type Raised = BTreeMap<VirtualInterface, Result<u32, String>>;

/// What has been done.
#[derive(Default)]
struct Outcome {
    /// What is where it belongs.
    there: BTreeSet<Place>,
    /// What could not be put on, and why.
    not_added: BTreeMap<Place, String>,
    /// What could not be taken off, and why.
    not_removed: BTreeMap<Place, String>,
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
