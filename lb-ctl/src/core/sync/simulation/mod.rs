//! Two balancers with ids, sizes and clocks of their own, and a connection that breaks again and again: whatever happens, the peer
//! could take over between any two batches, and in the end knows all that the owner knows.

mod arrival;
mod backlog;
mod malice;
mod node;
mod unnamed;
mod unowned;
mod world;

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    net::IpAddr,
    time::Duration,
};

use lb_common::layout::{FlowKey, NO_TARGET, ServiceKey, Slot};
use proptest::prelude::*;

use super::{Conversation, Flow, Heard, Inbox, Item, Message, Outbox, Places, Shape, Source, WayToClient};
use crate::core::operator::{Action, Admin, Command, Decisions};
use node::{Node, flow, record};
use world::{Busy, Step, World, steps};

const SLOTS: u32 = 5;
const BACKENDS: u16 = 3;
const CLIENTS: u16 = 10;
const SHAPE: Shape = Shape {
    hash_seed: 1,
    slots_per_service: SLOTS,
};

/// A connection between the two.
struct Link {
    outbox: Outbox,
    inbox: Inbox,
    from_owner: Conversation,
    from_peer: Conversation,
}

impl Link {
    fn between(owner: &Node) -> Self {
        let (mut from_owner, hello) = Conversation::begin("lb1", "1", SHAPE, &[], Duration::ZERO);
        let (mut from_peer, answer) = Conversation::begin("lb2", "1", SHAPE, &[], Duration::ZERO);
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
        self.inbox.go_on(peer).unwrap();
        let taken = self.from_peer.taken(number, Duration::ZERO);
        self.from_owner.hear(taken, Duration::ZERO).unwrap();
        true
    }

    /// The peer deletes what it has not been told of, long after anything was used.
    fn delete_unnamed(&mut self, peer: &mut Node) {
        peer.now += 1_000;
        while self.inbox.has_more(peer.now) {
            self.inbox.go_on(peer).unwrap();
        }
    }
}

proptest! {
    #[test]
    fn the_peer_could_take_over_whatever_happens(steps in steps()) {
        let owner = Node::of([3, 5], 0, 1_000_000);
        let mut peer = Node::follower(17);
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
                    if meanwhile % 2 == 0 {
                        link.delete_unnamed(&mut peer);
                    } else {
                        // Later than anything was used.
                        peer.now += 1_000;
                        link.inbox.finish(None, &mut peer).unwrap();
                    }
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
    let mut peer = Node::follower(17);
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
    let mut peer = Node::follower(17);
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
fn the_tables_are_passed_over_once_for_all_services_that_an_owner_begins_with() {
    let mut peer = Node::follower(17);
    let target = peer.backend(1, "impala1", IpAddr::from([10, 1, 0, 1]), 21050);
    let record = record(target, 0);
    for port in 0..3 {
        peer.flows.insert(flow(1, port), record);
    }
    let introduction = |id, last| Item::Service {
        id,
        vip: IpAddr::from([10, 0, 0, last]),
        port: 21050,
    };
    let begin = |service| Item::Begin { service };
    let mut inbox = Inbox::default();
    let beginning = [introduction(3, 1), begin(3), introduction(5, 2), begin(5)];
    inbox.apply(&beginning, &mut peer).unwrap();
    assert_eq!(peer.passes.take(), 1);
    let backend = Item::Backend {
        id: 9,
        service: 3,
        name: "impala1".to_owned(),
        address: IpAddr::from([10, 1, 0, 1]),
        port: 21050,
    };
    let told = |port, flow| Item::Flow {
        service: 3,
        client: IpAddr::from([10, 9, 0, 1]),
        port,
        flow,
    };
    let live = Flow {
        backend: 9,
        closing: false,
        idle: 0,
        port: 0,
        way: None,
    };
    let complete = |service| Item::Complete { service };
    // One stays, one has ended, nothing is said of the third; and one is new.
    let rest = [
        backend,
        told(0, Some(live)),
        told(1, None),
        told(7, Some(live)),
        complete(3),
        complete(5),
        complete(5),
    ];
    inbox.apply(&rest, &mut peer).unwrap();
    while inbox.has_more(peer.now) {
        inbox.go_on(&mut peer).unwrap();
    }
    assert_eq!(peer.passes.take(), 0);
    assert_eq!(inbox.complete().count(), 2);
    let left: Vec<u16> = peer.flows.keys().map(FlowKey::client_port).collect();
    assert_eq!(left, [0, 7]);
}

#[test]
fn a_way_to_a_client_leads_over_our_interface_of_that_name() {
    let told = |inbox: &mut Inbox, interface| {
        let mut peer = Node::follower(17);
        let way = WayToClient {
            mac: [2; 6],
            interface,
        };
        let items = [
            Item::Service {
                id: 3,
                vip: IpAddr::from([10, 0, 0, 1]),
                port: 21050,
            },
            Item::Begin { service: 3 },
            Item::Backend {
                id: 9,
                service: 3,
                name: "impala1".to_owned(),
                address: IpAddr::from([10, 1, 0, 1]),
                port: 21050,
            },
            Item::Flow {
                service: 3,
                client: IpAddr::from([10, 9, 0, 1]),
                port: 7,
                flow: Some(Flow {
                    backend: 9,
                    closing: false,
                    idle: 0,
                    port: 40_000,
                    way: Some(way),
                }),
            },
        ];
        inbox.apply(&items, &mut peer).unwrap();
        peer.ways[&flow(1, 7)].interface
    };
    let names = |names: [&str; 2]| names.map(str::to_owned);
    let places = Places::by_name(&names(["eth1", "eth0"]), &names(["eth0", "eth1"])).unwrap();
    assert_eq!(told(&mut Inbox::of(places.clone()), Some(0)), Some(1));
    assert_eq!(
        told(&mut Inbox::of(places.clone()), Some(2)),
        None,
        "it has no third one"
    );
    assert_eq!(told(&mut Inbox::of(places), None), None);
    assert_eq!(told(&mut Inbox::of(Places::Same), Some(1)), Some(1));
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

#[test]
fn what_came_while_both_were_owners_is_told_again_and_until_then_nothing_is_taken_in() {
    let mut owner = Node::of([3, 5], 0, 1);
    let target = owner.backend(3, "impala1", IpAddr::from([10, 1, 0, 1]), 21050);
    let moved = |owner: &mut Node, place| {
        owner.slots.insert(3 * SLOTS + place, Slot::untracked(target));
        owner.changes.slot(3 * SLOTS + place);
    };
    moved(&mut owner, 0);
    let mut peer = Node::of([1, 0], 40, 17);
    let mut link = Link::between(&owner);
    while link.tell(&mut owner, &mut peer) {}
    // From now on the peer follows.
    peer.follows = true;
    let before = peer.told();
    let mut outbox = Outbox::default();
    for key in peer.services.keys() {
        link.inbox.forget(key);
        outbox.ask(*key);
    }
    let incomplete = |link: &Link, peer: &Node| {
        let is_incomplete = |key: &&ServiceKey| link.inbox.is_incomplete(key);
        peer.services.keys().filter(is_incomplete).count()
    };
    assert_eq!(link.inbox.complete().count(), 0);
    assert_eq!(
        incomplete(&link, &peer),
        0,
        "nobody may be the owner, and nothing follow"
    );
    moved(&mut owner, 1);
    while link.tell(&mut owner, &mut peer) {}
    assert_eq!(peer.told(), before, "it means nothing without the rest");
    // The end of what it told before may have been under way.
    let id = *owner.services.values().map(|service| &service.id).next().unwrap();
    let end = Item::Complete { service: id };
    link.inbox.apply(&[end], &mut peer).unwrap();
    assert_eq!(incomplete(&link, &peer), 0);
    assert!(!outbox.is_empty());
    let asking = outbox.next_batch(&mut peer).unwrap();
    assert!(outbox.is_empty());
    let mut inbox = Inbox::default();
    inbox.apply(&asking, &mut owner).unwrap();
    let asked = inbox.take_asked();
    assert_eq!(asked.len(), 2);
    assert!(inbox.take_asked().is_empty());
    for key in &asked {
        link.outbox.tell_again(key);
    }
    while link.tell(&mut owner, &mut peer) {}
    link.delete_unnamed(&mut peer);
    assert_eq!(peer.told(), owner.told());
    assert_eq!(link.inbox.complete().count(), 2);
    link.outbox.own([]);
    link.outbox.tell_again(&asked.into_iter().next().unwrap());
    assert!(link.outbox.is_empty(), "it is nobody's to tell");
}

#[test]
fn decisions_are_told_before_all_else_and_once_in_their_last_form() {
    let mut node = Node::of([3, 5], 0, 1);
    let command = |backend: &str, action| Command {
        backend: backend.to_owned(),
        service: None,
        action,
        force: false,
    };
    let mut decisions = Decisions::default();
    for number in 0..20 {
        let command = command(&format!("impala{number}"), Action::Disable);
        decisions = decisions.after(&command, 5, "lb2").unwrap();
    }
    let mut link = Link::between(&node);
    link.outbox
        .own(node.services.iter().map(|(key, entry)| (*key, *entry)));
    link.outbox.decide(decisions.words(7));
    let before = decisions.clone();
    decisions = decisions
        .after(&command("impala3", Action::Enable), 8, "lb2")
        .unwrap();
    link.outbox.decide(decisions.words_since(&before, 9));
    let mut peer = Node::of([1, 0], 40, 17);
    let (mut heard, mut has_services) = (Vec::new(), false);
    while link.tell(&mut node, &mut peer) {
        let words = link.inbox.take_decided();
        assert!(!has_services || words.is_empty());
        has_services = words.is_empty();
        heard.extend(words);
    }
    assert_eq!(heard.len(), 20);
    let there = Decisions::default().merged(&heard, 1_000).decisions.unwrap();
    assert_eq!(there.orders("s", "impala3", 1_000).admin, Admin::Enabled);
    assert_eq!(there.subjects().count(), 19);
}
