//! What happens to the owner, also while it is read.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    convert::Infallible,
    net::IpAddr,
};

use lb_common::{
    address::Address,
    layout::{Affinity, ClientKey, FlowKey, FlowRecord, NO_TARGET, Service, ServiceKey, Slot, TargetName},
};
use proptest::prelude::*;

use super::{
    super::{Changes, Source, WayToClient},
    BACKENDS, CLIENTS, SLOTS,
    node::{Node, flow, record},
};

/// What happens on the owner's side, or to the connection. The first number of each chooses a service.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A slot that is not tracked moves to a backend; one that is changes its current one.
    Move(usize, u32, u16),
    /// A slot settles on its current backend, and what records it made superfluous are deleted.
    Settle(usize, u32),
    /// A connection opens.
    Open(usize, u16),
    /// A connection ends, and its record with it.
    End(usize, u16),
    /// A client is noted somewhere, or forgotten.
    Note(usize, u16, Option<u16>),
    /// The peer is told, while so many of the next steps happen.
    Tell(usize),
    /// The connection breaks, and another one is made.
    Break,
    /// News were lost.
    Lose,
}

impl Step {
    /// Whether it happens on the owner's side.
    pub(super) const fn is_the_owners(&self) -> bool {
        !matches!(self, Self::Tell(_) | Self::Break)
    }
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let service = || 0..2_usize;
    let step = prop_oneof![
        2 => (service(), 0..SLOTS, 0..=BACKENDS).prop_map(|(service, slot, to)| Step::Move(service, slot, to)),
        5 => (service(), 0..SLOTS).prop_map(|(service, slot)| Step::Settle(service, slot)),
        9 => (service(), 0..CLIENTS).prop_map(|(service, port)| Step::Open(service, port)),
        6 => (service(), 0..CLIENTS).prop_map(|(service, port)| Step::End(service, port)),
        2 => (service(), 0..CLIENTS, prop::option::of(1..=BACKENDS))
            .prop_map(|(service, client, at)| Step::Note(service, client, at)),
        4 => (0..120_usize).prop_map(Step::Tell),
        1 => Just(Step::Break),
        3 => Just(Step::Lose),
    ];
    prop::collection::vec(step, 0..600)
}

/// The owner, and where its live connections are: by service and port.
pub(super) struct World {
    pub(super) owner: Node,
    pub(super) live: BTreeMap<(ServiceKey, u16), Live>,
    /// How many connections have been opened.
    pub(super) opened: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) home: String,
    /// Tells it from others of the same client and port.
    number: u64,
}

impl World {
    pub(super) fn service(&self, number: usize) -> (ServiceKey, Service) {
        let (key, service) = self.owner.services.iter().nth(number).unwrap();
        (*key, *service)
    }

    fn target(&mut self, service: u16, number: u16) -> u16 {
        if number == 0 {
            return NO_TARGET;
        }
        let address = IpAddr::from([10, 1, 0, u8::try_from(number).unwrap()]);
        let name = format!("impala{number}");
        self.owner.backend(service, &name, address, 21050)
    }

    fn store(&mut self, index: u32, slot: Slot) {
        self.owner.slots.insert(index, slot);
        self.owner.changes.slot(index);
    }

    pub(super) fn take(&mut self, step: &Step) {
        match *step {
            Step::Move(service, place, to) => {
                let (_, service) = self.service(service);
                let target = self.target(service.id, to);
                let index = service.first_slot + place;
                let slot = self.owner.slots.get(&index).copied().unwrap_or_default();
                if !slot.tracked && slot.settled == NO_TARGET {
                    self.store(index, Slot::untracked(target));
                } else if slot.current != target {
                    let moved = Slot {
                        current: target,
                        tracked: true,
                        ..slot
                    };
                    self.store(index, moved);
                }
            }
            Step::Settle(service, place) => {
                let (key, service) = self.service(service);
                let index = service.first_slot + place;
                let slot = self.owner.slots.get(&index).copied().unwrap_or_default();
                // Only if all live connections of the slot are on `current`.
                let current = self.owner.text(slot.current);
                let mut of_slot = self
                    .live
                    .iter()
                    .filter(|((of, port), _)| *of == key && u32::from(*port) % SLOTS == place);
                if slot.tracked && of_slot.all(|(_, live)| live.home == current) {
                    self.store(index, Slot::untracked(slot.current));
                    for port in (0..CLIENTS).filter(|port| u32::from(*port) % SLOTS == place) {
                        self.forget(service.id, port);
                    }
                }
            }
            Step::Open(service, port) => {
                let (key, service) = self.service(service);
                let index = service.first_slot + u32::from(port) % SLOTS;
                let slot = self.owner.slots.get(&index).copied().unwrap_or_default();
                if slot.current == NO_TARGET || self.live.contains_key(&(key, port)) {
                    return;
                }
                if slot.tracked && slot.current != slot.settled {
                    let record = record(slot.current, self.owner.now);
                    self.owner.flows.insert(flow(service.id, port), record);
                    self.owner.changes.flow(flow(service.id, port));
                }
                self.opened += 1;
                let live = Live {
                    home: self.owner.text(slot.current),
                    number: self.opened,
                };
                self.live.insert((key, port), live);
            }
            Step::End(service, port) => {
                let (key, service) = self.service(service);
                if self.live.remove(&(key, port)).is_some() {
                    self.forget(service.id, port);
                }
            }
            Step::Note(service, client, at) => {
                let (_, service) = self.service(service);
                let key = ClientKey::new(Address::v4([10, 9, 1, u8::try_from(client).unwrap()]), service.id);
                if let Some(number) = at {
                    let target = self.target(service.id, number);
                    let noted = Affinity {
                        target,
                        reserved: 0,
                        last_seen: self.owner.now,
                    };
                    self.owner.clients.insert(key, noted);
                } else {
                    self.owner.clients.remove(&key);
                }
                self.owner.changes.client(key);
            }
            Step::Lose => self.owner.changes.anything(),
            Step::Tell(_) | Step::Break => {}
        }
    }

    fn forget(&mut self, service: u16, port: u16) {
        let key = flow(service, port);
        if self.owner.flows.remove(&key).is_some() {
            self.owner.changes.flow(key);
        }
    }
}

/// The owner as a source in which things happen while it is read: a step after each look.
pub(super) struct Busy {
    pub(super) world: RefCell<World>,
    pub(super) next: RefCell<VecDeque<Step>>,
}

impl Busy {
    fn go_on(&self) {
        if let Some(step) = self.next.borrow_mut().pop_front() {
            self.world.borrow_mut().take(&step);
        }
    }

    fn look<T>(&self, at: impl FnOnce(&Node) -> T) -> T {
        let seen = at(&self.world.borrow().owner);
        self.go_on();
        seen
    }
}

impl Source for Busy {
    type Error = Infallible;

    fn changes(&mut self) -> Changes {
        let changes = self.world.borrow_mut().owner.changes.take();
        self.go_on();
        changes
    }

    fn slot(&self, index: u32) -> Result<Slot, Infallible> {
        self.look(|owner| owner.slot(index))
    }

    fn name(&self, target: u16) -> Result<Option<TargetName>, Infallible> {
        self.look(|owner| owner.name(target))
    }

    fn flow(&self, key: &FlowKey) -> Result<Option<FlowRecord>, Infallible> {
        self.look(|owner| owner.flow(key))
    }

    fn client(&self, key: &ClientKey) -> Result<Option<Affinity>, Infallible> {
        self.look(|owner| owner.client(key))
    }

    fn way_to_client(&self, key: &FlowKey, record: &FlowRecord) -> Result<Option<WayToClient>, Infallible> {
        self.look(|owner| owner.way_to_client(key, record))
    }

    fn flows_of(&self, services: &BTreeSet<u16>) -> Result<Vec<FlowKey>, Infallible> {
        self.look(|owner| Source::flows_of(owner, services))
    }

    fn clients_of(&self, services: &BTreeSet<u16>) -> Result<Vec<ClientKey>, Infallible> {
        self.look(|owner| Source::clients_of(owner, services))
    }

    fn now(&self) -> u32 {
        Source::now(&self.world.borrow().owner)
    }
}
