//! Two balancers with ids, sizes and clocks of their own, and a connection that breaks again and again: whatever happens, the peer
//! could take over between any two batches, and in the end knows all that the owner knows.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    convert::Infallible,
    net::IpAddr,
    time::Duration,
};

use lb_common::{
    address::Address,
    layout::{Affinity, ClientKey, FlowKey, FlowRecord, NO_TARGET, Service, ServiceKey, Slot, TargetName},
};
use proptest::prelude::*;

use super::{
    ApplyError, Changes, Conversation, Heard, Inbox, Item, Message, Mirror, Outbox, Run, Shape, Source,
    WayToClient,
};

const SLOTS: u32 = 5;
const BACKENDS: u16 = 3;
const CLIENTS: u16 = 10;
const SHAPE: Shape = Shape {
    hash_seed: 1,
    slots_per_service: SLOTS,
};

/// One balancer's tables.
#[derive(Clone, Debug, Default)]
struct Node {
    services: BTreeMap<ServiceKey, Service>,
    names: BTreeMap<u16, TargetName>,
    slots: BTreeMap<u32, Slot>,
    flows: BTreeMap<FlowKey, FlowRecord>,
    clients: BTreeMap<ClientKey, Affinity>,
    changes: Changes,
    now: u32,
    /// The id that the next backend gets.
    next: u16,
    /// Whether everything is somebody else's.
    follows: bool,
}

impl Node {
    /// With two services, whose ids are these.
    fn of(ids: [u16; 2], next: u16, now: u32) -> Self {
        let mut node = Self {
            now,
            next,
            ..Self::default()
        };
        for (number, id) in (1..).zip(ids) {
            let service = Service {
                hash_seed: 1,
                first_slot: u32::from(id) * SLOTS,
                slots: SLOTS,
                flags: 0,
                id,
                port_mask: u16::MAX,
                affinity_timeout: 100,
                candidates: 0,
                reserved: 0,
            };
            node.services
                .insert(ServiceKey::tcp(Address::v4([10, 0, 0, number]), 21050), service);
        }
        node
    }

    fn backend(&mut self, service: u16, name: &str, address: IpAddr, port: u16) -> u16 {
        let wanted = TargetName::new(service, name, address, port).unwrap();
        if let Some((&id, _)) = self.names.iter().find(|(_, name)| **name == wanted) {
            return id;
        }
        self.next += 1;
        self.names.insert(self.next, wanted);
        self.next
    }

    fn text(&self, target: u16) -> String {
        match self.names.get(&target) {
            Some(name) => format!("{} {}", name.name().unwrap(), name.address()),
            None => "nobody".to_owned(),
        }
    }

    /// Everything, by name.
    fn told(&self) -> BTreeMap<String, String> {
        let mut told = BTreeMap::new();
        for (key, service) in &self.services {
            for place in 0..SLOTS {
                let slot = self
                    .slots
                    .get(&(service.first_slot + place))
                    .copied()
                    .unwrap_or_default();
                let (settled, current) = (self.text(slot.settled), self.text(slot.current));
                let text = format!("{settled} {current} {}", slot.tracked);
                told.insert(format!("slot {:?} {place}", key.address()), text);
            }
            let flows = self.flows.iter().filter(|(flow, _)| flow.service() == service.id);
            for (flow, record) in flows {
                let name = format!(
                    "flow {:?} {:?} {}",
                    key.address(),
                    flow.client(),
                    flow.client_port()
                );
                let text = format!("{} {}", self.text(record.target), record.closing != 0);
                told.insert(name, text);
            }
            let clients = self
                .clients
                .iter()
                .filter(|(client, _)| client.service() == service.id);
            for (client, noted) in clients {
                let name = format!("client {:?} {:?}", key.address(), client.client());
                told.insert(name, self.text(noted.target));
            }
        }
        told
    }

    /// Where the packets of a flow go. A flow's slot is its port's.
    fn home(&self, key: &ServiceKey, client_port: u16) -> String {
        let service = &self.services[key];
        let index = service.first_slot + u32::from(client_port) % SLOTS;
        let slot = self.slots.get(&index).copied().unwrap_or_default();
        let record = self.flows.get(&flow(service.id, client_port));
        let target = match record {
            Some(record) if slot.tracked => record.target,
            _ => slot.settled,
        };
        self.text(target)
    }
}

fn flow(service: u16, port: u16) -> FlowKey {
    FlowKey::new(Address::v4([10, 9, 0, 1]), port, service)
}

impl Source for Node {
    type Error = Infallible;

    fn changes(&mut self) -> Changes {
        self.changes.take()
    }

    fn slot(&self, index: u32) -> Result<Slot, Infallible> {
        Ok(self.slots.get(&index).copied().unwrap_or_default())
    }

    fn name(&self, target: u16) -> Result<Option<TargetName>, Infallible> {
        Ok(self.names.get(&target).copied())
    }

    fn flow(&self, key: &FlowKey) -> Result<Option<FlowRecord>, Infallible> {
        Ok(self.flows.get(key).copied())
    }

    fn client(&self, key: &ClientKey) -> Result<Option<Affinity>, Infallible> {
        Ok(self.clients.get(key).copied())
    }

    fn way_to_client(&self, _: &FlowKey, _: &FlowRecord) -> Result<Option<WayToClient>, Infallible> {
        Ok(None)
    }

    fn flows_of(&self, services: &BTreeSet<u16>) -> Result<Vec<FlowKey>, Infallible> {
        let flows = self.flows.keys().filter(|key| services.contains(&key.service()));
        Ok(flows.copied().collect())
    }

    fn clients_of(&self, services: &BTreeSet<u16>) -> Result<Vec<ClientKey>, Infallible> {
        let clients = self
            .clients
            .keys()
            .filter(|key| services.contains(&key.service()));
        Ok(clients.copied().collect())
    }

    fn now(&self) -> u32 {
        self.now
    }
}

impl Mirror for Node {
    type Error = Infallible;

    fn followed(&self, key: &ServiceKey) -> Option<Service> {
        self.services.get(key).filter(|_| self.follows).copied()
    }

    fn target(
        &mut self,
        service: u16,
        name: &str,
        address: IpAddr,
        port: u16,
    ) -> Result<Option<u16>, Infallible> {
        Ok(Some(self.backend(service, name, address, port)))
    }

    fn store_slot(&mut self, index: u32, slot: Slot) -> Result<(), Infallible> {
        self.slots.insert(index, slot);
        Ok(())
    }

    fn put_flow(
        &mut self,
        key: &FlowKey,
        record: FlowRecord,
        _: Option<WayToClient>,
    ) -> Result<bool, Infallible> {
        self.flows.insert(*key, record);
        Ok(true)
    }

    fn remove_flow(&mut self, key: &FlowKey) -> Result<(), Infallible> {
        self.flows.remove(key);
        Ok(())
    }

    fn put_client(&mut self, key: &ClientKey, home: Affinity) -> Result<(), Infallible> {
        self.clients.insert(*key, home);
        Ok(())
    }

    fn remove_client(&mut self, key: &ClientKey) -> Result<(), Infallible> {
        self.clients.remove(key);
        Ok(())
    }

    fn flows_of(&self, service: u16) -> Result<Vec<FlowKey>, Infallible> {
        Source::flows_of(self, &BTreeSet::from([service]))
    }

    fn clients_of(&self, service: u16) -> Result<Vec<ClientKey>, Infallible> {
        Source::clients_of(self, &BTreeSet::from([service]))
    }

    fn now(&self) -> u32 {
        self.now
    }
}

/// A connection between the two.
struct Link {
    outbox: Outbox,
    inbox: Inbox,
    from_owner: Conversation,
    from_peer: Conversation,
}

impl Link {
    fn between(owner: &Node) -> Self {
        let (mut from_owner, hello) = Conversation::begin("lb1", "1", SHAPE, Duration::ZERO);
        let (mut from_peer, answer) = Conversation::begin("lb2", "1", SHAPE, Duration::ZERO);
        from_peer.hear(hello, Duration::ZERO).unwrap();
        from_owner.hear(answer, Duration::ZERO).unwrap();
        let mut outbox = Outbox::default();
        outbox.own(owner.services.iter().map(|(key, entry)| (*key, *entry)));
        Self {
            outbox,
            inbox: Inbox::default(),
            from_owner,
            from_peer,
        }
    }

    /// One batch, over the wire, in bytes. Whether there was one.
    fn tell(&mut self, owner: &mut impl Source<Error = Infallible>, peer: &mut Node) -> bool {
        let items = self.outbox.next_batch(owner).unwrap();
        if items.is_empty() {
            return false;
        }
        assert!(self.from_owner.has_room());
        let bytes = self.from_owner.batch(items, Duration::ZERO).encode().unwrap();
        let heard = self
            .from_peer
            .hear(Message::decode(&bytes).unwrap(), Duration::ZERO);
        let Ok(Heard::Items { number, items }) = heard else {
            panic!("{heard:?}");
        };
        self.inbox.apply(&items, peer).unwrap();
        let taken = self.from_peer.taken(number, Duration::ZERO);
        self.from_owner.hear(taken, Duration::ZERO).unwrap();
        true
    }
}

/// What happens on the owner's side, or to the connection. The first number of each chooses a service.
#[derive(Clone, Debug)]
enum Step {
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
    const fn is_the_owners(&self) -> bool {
        !matches!(self, Self::Tell(_) | Self::Break)
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
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
struct World {
    owner: Node,
    live: BTreeMap<(ServiceKey, u16), Live>,
    /// How many connections have been opened.
    opened: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Live {
    home: String,
    /// Tells it from others of the same client and port.
    number: u64,
}

impl World {
    fn service(&self, number: usize) -> (ServiceKey, Service) {
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

    fn take(&mut self, step: &Step) {
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
                    let record = FlowRecord {
                        target: slot.current,
                        closing: 0,
                        last_seen: self.owner.now,
                        port: 0,
                        reserved: [0; 3],
                    };
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
struct Busy {
    world: RefCell<World>,
    next: RefCell<VecDeque<Step>>,
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

proptest! {
    #[test]
    fn the_peer_could_take_over_whatever_happens(steps in steps()) {
        let owner = Node::of([3, 5], 0, 1_000_000);
        let mut peer = Node { follows: true, ..Node::of([1, 0], 40, 17) };
        let mut link = Link::between(&owner);
        let world = World { owner, live: BTreeMap::new(), opened: 0 };
        let mut source = Busy { world: RefCell::new(world), next: RefCell::default() };
        // The connections of which the peer has been told, as far as they still live.
        let mut known = BTreeMap::new();
        let mut steps = VecDeque::from(steps);
        while let Some(step) = steps.pop_front() {
            match step {
                Step::Tell(meanwhile) => {
                    let meanwhile = meanwhile.min(steps.len());
                    source.next.borrow_mut().extend(steps.drain(..meanwhile).filter(Step::is_the_owners));
                    while link.tell(&mut source, &mut peer) {
                        let world = source.world.borrow();
                        known.retain(|connection, live| world.live.get(connection) == Some(live));
                        for ((key, port), live) in &known {
                            prop_assert_eq!(&peer.home(key, *port), &live.home, "port {} between batches", port);
                        }
                    }
                    source.next.borrow_mut().drain(..).for_each(|step| source.world.borrow_mut().take(&step));
                    while link.tell(&mut source, &mut peer) {}
                    let world = source.world.borrow();
                    for ((key, port), live) in &world.live {
                        prop_assert_eq!(&peer.home(key, *port), &live.home, "port {}", port);
                    }
                    prop_assert_eq!(peer.told(), world.owner.told());
                    prop_assert_eq!(link.inbox.complete().count(), 2);
                    prop_assert_eq!(link.inbox.lost(), 0);
                    known.clone_from(&world.live);
                }
                Step::Break => link = Link::between(&source.world.borrow().owner),
                step => source.world.borrow_mut().take(&step),
            }
        }
    }
}

/// In a word: without the second look at what has changed, the peer hears that the record is gone before it hears why.
#[test]
fn the_end_of_a_record_is_not_told_before_the_settling_that_made_it_superfluous() {
    let owner = Node::of([3, 5], 0, 1);
    let mut peer = Node {
        follows: true,
        ..Node::of([1, 0], 40, 17)
    };
    let mut link = Link::between(&owner);
    let mut world = World {
        owner,
        live: BTreeMap::new(),
        opened: 0,
    };
    for place in [0, 1] {
        world.take(&Step::Move(0, place, 1));
        world.take(&Step::Move(0, place, 2));
    }
    world.take(&Step::Open(0, 0));
    world.take(&Step::Open(0, 1));
    let (key, service) = world.service(0);
    let home = world.live[&(key, 1)].home.clone();
    let mut source = Busy {
        world: RefCell::new(world),
        next: RefCell::default(),
    };
    while link.tell(&mut source, &mut peer) {}
    assert_eq!(peer.home(&key, 1), home);
    for port in [0, 1] {
        source
            .world
            .borrow_mut()
            .owner
            .changes
            .flow(flow(service.id, port));
    }
    // The first step happens after the look at the changes, the second after the one at the first flow.
    *source.next.borrow_mut() = [Step::End(1, 9), Step::Settle(0, 1)].into();
    link.tell(&mut source, &mut peer);
    assert!(source.next.borrow().is_empty());
    assert_eq!(peer.home(&key, 1), home);
}

#[test]
fn what_changes_faster_than_it_is_told_is_told_once() {
    let mut owner = Node::of([3, 5], 0, 1);
    let mut peer = Node {
        follows: true,
        ..Node::of([1, 0], 40, 17)
    };
    let mut link = Link::between(&owner);
    while link.tell(&mut owner, &mut peer) {}
    for _ in 0..1000 {
        owner.slots.insert(3 * SLOTS, Slot::untracked(NO_TARGET));
        owner.changes.slot(3 * SLOTS);
        owner.changes.flow(flow(3, 1));
    }
    let items = link.outbox.next_batch(&mut owner).unwrap();
    assert_eq!(items.len(), 2, "{items:?}");
}

#[test]
fn a_peer_that_talks_nonsense_is_refused() {
    let nonsense = |items: &[Item]| {
        let mut node = Node {
            follows: true,
            ..Node::of([1, 0], 40, 17)
        };
        let mut inbox = Inbox::default();
        let introduction = Item::Service {
            id: 9,
            vip: IpAddr::from([10, 0, 0, 1]),
            port: 21050,
        };
        inbox.apply(&[introduction], &mut node).unwrap();
        inbox.apply(items, &mut node).unwrap_err()
    };
    let slots = |service, first, length, current| Item::Slots {
        service,
        first,
        runs: vec![Run {
            length,
            settled: 0,
            current,
            tracked: true,
            grace: None,
        }],
    };
    assert_eq!(nonsense(&[slots(8, 0, 1, 0)]), ApplyError::Service(8));
    assert_eq!(nonsense(&[slots(9, 0, 1, 7)]), ApplyError::Backend(7));
    let beyond = |last| ApplyError::Slots { slots: SLOTS, last };
    assert_eq!(nonsense(&[slots(9, 1, SLOTS, 0)]), beyond(u64::from(SLOTS)));
    assert_eq!(
        nonsense(&[slots(9, u32::MAX, u32::MAX, 0)]),
        beyond(u64::from(u32::MAX) * 2 - 1)
    );
    let nobody = Item::Backend {
        id: 0,
        service: 9,
        name: "impala1".to_owned(),
        address: IpAddr::from([10, 1, 0, 1]),
        port: 1,
    };
    assert_eq!(nonsense(&[nobody]), ApplyError::Name("impala1".to_owned()));
}

#[test]
fn services_that_we_own_or_have_not_are_left_alone() {
    let mut owner = Node::of([3, 5], 0, 1);
    let target = owner.backend(3, "impala1", IpAddr::from([10, 1, 0, 1]), 21050);
    owner.slots.insert(3 * SLOTS, Slot::untracked(target));
    let mut peer = Node::of([1, 0], 40, 17);
    let before = peer.told();
    let mut link = Link::between(&owner);
    while link.tell(&mut owner, &mut peer) {}
    assert_eq!(peer.told(), before);
    assert!(peer.names.is_empty());
}
