//! The hands of VRRP: a second thread, which asks the kernel about its network configuration and changes it.
//!
//! The kernel has one lock for all of that, RTNL. Whoever needs it while somebody else has it, waits in a system call, for
//! as long as that may take, and with everything else that its thread has to do. So the thread that advertises never needs it: it says
//! what is [wanted](Wanted), as a whole, and gets [reports](Report). The latest word counts, and what was said before and has not been
//! done yet is never done.

mod work;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU8,
};

use anyhow::Context;
use tokio::sync::{mpsc, watch};

use self::work::Work;
use super::pulse::Pulse;
use crate::{
    adapters::{
        netlink::{Address, Link, Netlink, NetlinkError},
        vrrp::{Announcer, Endpoint, Sockets, VrrpError},
    },
    core::{
        cause::chain,
        interface::Mac,
        vrrp::{Candidate, Place, VirtualInterface},
    },
    daemon::virtual_interfaces::Needed,
};

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

impl Part {
    /// Where its addresses are on an interface, or on the virtual router's own one over it.
    fn places(&self, interface: u32, virtual_router: Option<NonZeroU8>) -> impl Iterator<Item = Place> {
        self.addresses.iter().map(move |&address| Place {
            interface,
            virtual_router,
            address,
        })
    }

    /// The virtual router, if it has an interface of its own.
    fn virtual_router(&self) -> Option<NonZeroU8> {
        self.virtual_mac.map(|_| self.endpoint.vrid)
    }

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

    /// Whether an interface has been looked at and is not there, not up, or nobody is at its other end. One on which an instance depends only
    /// now has not been looked at yet.
    pub(super) fn lacks_link(&self, interface: &str) -> bool {
        let has_link = |link: &Option<Link>| {
            let link = link.as_ref();
            link.is_some_and(|link| link.interface.up && link.carrier)
        };
        self.links.get(interface).is_some_and(|link| !has_link(link))
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
