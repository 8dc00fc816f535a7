//! The tables of two balancers of which one follows the other, in one process: everything of the state stream but the network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use lb_common::address::Address;
use lb_common::layout::{
    Affinity, ClientKey, FlowKey, FlowRecord, Forwarding, Node, Service, ServiceKey, Slot, Target, TargetName,
};
use lb_common::testing::HostTables;
use lb_common::testing::frame::BALANCER_MAC;
use lb_common::testing::tables::{AFFINE, AFFINE6, NAT, NAT_TARGET, NAT6, NAT6_TARGET, ONE, next_hop};
use lb_ctl::adapters::datapath::{Datapath, DatapathError, Link, MirroredTables, PeerSource};
use lb_ctl::adapters::kernel_clock;
use lb_ctl::core::placement::WriteTables as _;
use lb_ctl::core::plan::PlannedTarget;
use lb_ctl::core::sync::{Added, Inbox, Item, Message, Mirror, Outbox, WayToClient};

use crate::kernel_tables;

/// The index of the interface that packets of a test run come in on.
const INGRESS: u32 = 1;

/// The one whose tables are told of.
pub struct Owner {
    /// The program.
    pub kernel: Datapath,
    /// What tells of its tables.
    pub source: PeerSource,
    /// What it has not told yet.
    pub outbox: Outbox,
}

/// The one who is told.
pub struct Follower {
    /// The program.
    pub kernel: Datapath,
    /// What writes into its tables.
    pub tables: MirroredTables,
    services: BTreeMap<ServiceKey, Service>,
}

/// What was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// In how many messages.
    pub messages: u64,
    /// How many items.
    pub items: u64,
    /// In how many bytes.
    pub bytes: u64,
}

/// The services of [`tables`] that are told of. Each has an id of its own, unlike the others.
pub const TOLD: [SocketAddr; 5] = [ONE, AFFINE, AFFINE6, NAT, NAT6];

/// The same, by key.
pub fn told_services() -> [ServiceKey; TOLD.len()] {
    TOLD.map(|service| ServiceKey::tcp(service.ip().into(), service.port()))
}

/// The targets of [`tables`] from which and to which the slots of a service move, none of which is another's.
const MOVED: [(SocketAddr, u16, u16); 3] = [(ONE, 1, 2), (AFFINE, 10, 11), (AFFINE6, 12, 13)];

/// The tables of an owner without connections; the slots of services that do not translate all lead from one target to another.
pub fn tables() -> HostTables {
    let mut host = HostTables::fixture();
    host.flows.clear();
    host.returns.clear();
    host.live.clear();
    // Behind those that there are.
    for id in 10..14 {
        let backend = Address::v4([192, 0, 2, 100 + id]);
        let hop = next_hop([2, 0, 0, 1, 0, id]);
        host.targets
            .push(Target::new(backend, Forwarding::Dsr, Some(hop)));
    }
    for (service, settled, current) in MOVED {
        let moved = Slot {
            tracked: true,
            current,
            ..Slot::untracked(settled)
        };
        for index in host.service(service).slot_indices() {
            host.slots[index as usize] = moved.to_bits();
        }
    }
    host
}

impl Owner {
    /// A balancer with the host's tables that owns some of its services. Each of them must have an id of its own.
    pub fn of(host: &HostTables, flows: u32, services: &[ServiceKey]) -> Result<Self> {
        let host = &with(host, true);
        let kernel = loaded(host, flows)?;
        let source = kernel.peer_source()?;
        let mut outbox = Outbox::default();
        outbox.own(services.iter().map(|key| (*key, host.services[key])));
        Ok(Self {
            kernel,
            source,
            outbox,
        })
    }

    /// Tells a follower all that it has not been told yet.
    pub fn tell(&mut self, inbox: &mut Inbox, follower: &mut Follower) -> Result<Told> {
        let mut told = Told::default();
        loop {
            let items = self.outbox.next_batch(&mut self.source)?;
            if items.is_empty() {
                ensure!(self.outbox.is_empty(), "something is left, and is not told");
                while inbox.has_more(kernel_clock::ticks()) {
                    inbox.go_on(follower)?;
                }
                return Ok(told);
            }
            told.messages += 1;
            told.items += items.len() as u64;
            told.bytes += over_the_wire(items, |items| Ok(inbox.apply(items, follower)?))?;
        }
    }
}

/// Encodes a batch, and has somebody take in what is decoded. Returns how many bytes it has.
fn over_the_wire(items: Vec<Item>, take_in: impl FnOnce(&[Item]) -> Result<()>) -> Result<u64> {
    let bytes = Message::Batch { number: 0, items }.encode()?;
    match Message::decode(&bytes)? {
        Message::Batch { items, .. } => take_in(&items)?,
        other => anyhow::bail!("a batch has become {other:?}"),
    }
    Ok(bytes.len() as u64)
}

impl Follower {
    /// A balancer with the host's services, and its targets under [other ids](theirs).
    pub fn of(host: &HostTables, flows: u32) -> Result<Self> {
        let mut host = with(host, false);
        let targets = host.targets.clone();
        for (id, target) in (0..).zip(targets) {
            host.targets[usize::from(theirs(id))] = target;
        }
        host.flows.clear();
        host.returns.clear();
        host.live.clear();
        let kernel = loaded(&host, flows)?;
        let tables = kernel.mirrored_tables()?;
        Ok(Self {
            kernel,
            tables,
            services: host.services,
        })
    }
}

/// The id that the follower has given a target of the owner's.
pub const fn theirs(id: u16) -> u16 {
    match id {
        1 => 2,
        2 => 3,
        3 => 1,
        NAT_TARGET => NAT6_TARGET,
        NAT6_TARGET => NAT_TARGET,
        10 => 11,
        11 => 10,
        12 => 13,
        13 => 12,
        _ => id,
    }
}

fn with(host: &HostTables, listens: bool) -> HostTables {
    let mut host = host.clone();
    host.node = host.node.map(|node| Node {
        listens: u16::from(listens),
        ..node
    });
    host
}

/// The program with the host's tables and a name for each target.
fn loaded(host: &HostTables, flows: u32) -> Result<Datapath> {
    let mut kernel = kernel_tables::load(host, flows, 65_536)?;
    for (id, target) in (0..).zip(&host.targets).skip(1) {
        let service = match target.port() {
            0 => MOVED
                .iter()
                .find(|(_, settled, current)| [settled, current].contains(&&id))
                .map_or(ONE, |(service, ..)| *service),
            _ if target.backend().is_v4() => NAT,
            _ => NAT6,
        };
        let service = host.service(service).id;
        // As the backends' addresses follow from the ids of the owner, so do their names.
        let (address, port) = (IpAddr::from(target.backend()), target.port());
        let name = format!("backend-{address}").replace(':', "-");
        let name = TargetName::new(service, &name, address, port);
        let Some(name) = name else { continue };
        let live = kernel.live(id);
        kernel.introduce_target(&PlannedTarget {
            id,
            name,
            address,
            forwarding: Forwarding::Dsr,
            drains: false,
            is_checked: false,
        })?;
        kernel.write_target(id, *target)?;
        kernel.write_live(id, live);
    }
    kernel.set_links(vec![Link {
        index: Some(INGRESS),
        mac: BALANCER_MAC,
    }]);
    Ok(kernel)
}

impl Mirror for Follower {
    type Error = DatapathError;

    fn shared(&self, key: &ServiceKey) -> Option<Service> {
        self.services.get(key).copied()
    }

    fn followed(&self, key: &ServiceKey) -> Option<Service> {
        self.services.get(key).copied()
    }

    fn target(
        &mut self,
        service: u16,
        name: &str,
        address: IpAddr,
        port: u16,
    ) -> Result<Option<u16>, DatapathError> {
        let wanted = TargetName::new(service, name, address, port);
        let found = self.kernel.found()?.names;
        let known = found.iter().find(|(_, name)| Some(*name) == wanted);
        Ok(known.map(|(id, _)| *id))
    }

    fn slot(&self, index: u32) -> Result<Slot, DatapathError> {
        self.kernel.slot(index)
    }

    fn store_slot(&mut self, index: u32, slot: Slot) -> Result<(), DatapathError> {
        self.kernel.write_slot(index, slot)
    }

    fn put_flow(
        &mut self,
        key: &FlowKey,
        record: FlowRecord,
        way: Option<WayToClient>,
    ) -> Result<bool, DatapathError> {
        self.tables.put_flow(key, record, way)
    }

    fn add_flow(
        &mut self,
        key: &FlowKey,
        record: FlowRecord,
        way: Option<WayToClient>,
    ) -> Result<Added, DatapathError> {
        self.tables.add_flow(key, record, way)
    }

    fn remove_flow(&mut self, key: &FlowKey) -> Result<(), DatapathError> {
        self.tables.remove_flow(key)
    }

    fn remove_unused_flow(&mut self, key: &FlowKey, since: u32) -> Result<bool, DatapathError> {
        self.tables.remove_unused_flow(key, since)
    }

    fn put_client(&mut self, key: &ClientKey, home: Affinity) -> Result<(), DatapathError> {
        self.tables.put_client(key, home)
    }

    fn add_client(&mut self, key: &ClientKey, home: Affinity) -> Result<bool, DatapathError> {
        self.tables.add_client(key, home)
    }

    fn remove_client(&mut self, key: &ClientKey) -> Result<(), DatapathError> {
        self.tables.remove_client(key)
    }

    fn flows_of(&self, services: &BTreeSet<u16>) -> Result<Vec<FlowKey>, DatapathError> {
        self.tables.flows_of(services)
    }

    fn clients_of(&self, services: &BTreeSet<u16>) -> Result<Vec<ClientKey>, DatapathError> {
        self.tables.clients_of(services)
    }

    fn note_flow(&mut self, key: &FlowKey, _: u32) {
        self.tables.note_flow(key);
    }

    fn note_client(&mut self, key: &ClientKey) {
        self.tables.note_client(key);
    }

    fn now(&self) -> u32 {
        kernel_clock::ticks()
    }
}
