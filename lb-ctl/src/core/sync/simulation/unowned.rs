//! What begins with a balancer that does not own its service, told to the one that does.

use std::net::IpAddr;

use lb_common::{
    address::Address,
    layout::{Affinity, ClientKey, Slot, flag},
};

use super::{
    super::{Inbox, Item, Outbox},
    SLOTS,
    node::{Node, flow, record},
};

/// The services have these ids with the owner, and these with the other one.
const OWNERS: [u16; 2] = [3, 5];
const OTHERS: [u16; 2] = [1, 0];

/// Who follows the first service, and may have its packets for a moment, and what it tells.
struct Visited {
    node: Node,
    outbox: Outbox,
}

impl Visited {
    fn new() -> Self {
        let mut node = Node {
            follows: true,
            ..Node::of(OTHERS, 40, 17)
        };
        for number in [1, 2] {
            node.backend(OTHERS[0], &format!("impala{number}"), backend(number), 21050);
        }
        let mut outbox = Outbox::default();
        outbox.watch(node.services.iter().map(|(key, entry)| (*key, *entry)));
        outbox.own([]);
        Self { node, outbox }
    }

    /// A connection begins.
    fn open(&mut self, port: u16, backend: u16) {
        let key = flow(OTHERS[0], port);
        let record = record(40 + backend, self.node.now);
        self.node.flows.insert(key, record);
        self.node.changes.flow(key);
    }

    fn tell(&mut self, owner: &mut Node, inbox: &mut Inbox) -> Vec<Item> {
        let mut told = Vec::new();
        loop {
            let items = self.outbox.next_batch(&mut self.node).unwrap();
            if items.is_empty() {
                assert!(self.outbox.is_empty());
                return told;
            }
            inbox.apply(&items, owner).unwrap();
            told.extend(items);
        }
    }
}

fn backend(number: u8) -> IpAddr {
    IpAddr::from([10, 1, 0, number])
}

/// An owner with the same backends, all of whose slots are tracked, or none.
fn owner(tracked: bool) -> Node {
    let mut owner = Node::of(OWNERS, 0, 1_000);
    let [settled, current] =
        [1, 2].map(|number| owner.backend(OWNERS[0], &format!("impala{number}"), backend(number), 21050));
    let slot = Slot {
        current,
        tracked,
        ..Slot::untracked(settled)
    };
    let first = u32::from(OWNERS[0]) * SLOTS;
    owner
        .slots
        .extend((first..first + SLOTS).map(|index| (index, slot)));
    owner
}

fn targets(node: &Node) -> Vec<(u16, u16)> {
    let flows = node.flows.iter();
    flows
        .map(|(key, record)| (key.client_port(), record.target))
        .collect()
}

#[test]
fn the_owner_hears_of_what_begins_elsewhere_and_knows_better() {
    let (mut owner, mut inbox, mut visited) = (owner(true), Inbox::default(), Visited::new());
    owner.flows.insert(flow(OWNERS[0], 5), record(1, 3));
    visited.open(5, 2);
    visited.open(6, 2);
    // Over before it could be told, and something that has not changed.
    visited.node.changes.flow(flow(OTHERS[0], 7));
    visited.node.flows.insert(flow(OTHERS[0], 8), record(42, 3));
    let home = ClientKey::new(Address::from(IpAddr::from([10, 9, 0, 1])), OTHERS[0]);
    let noted = Affinity {
        target: 41,
        reserved: 0,
        last_seen: 3,
    };
    visited.node.clients.insert(home, noted);
    visited.node.changes.client(home);
    let told = visited.tell(&mut owner, &mut inbox);
    assert!(matches!(told.first(), Some(Item::Unowned { .. })), "{told:?}");
    assert_eq!(targets(&owner), [(5, 1), (6, 2)]);
    let clients: Vec<u16> = owner.clients.values().map(|noted| noted.target).collect();
    assert_eq!(clients, [1]);
    // It tells on what was new to it.
    let on = owner.changes.take();
    assert_eq!(on.flows(), [flow(OWNERS[0], 6)]);
    assert_eq!(on.clients().len(), 1);
    let key = *owner.services.keys().next().unwrap();
    let is_told = |inbox: &Inbox| inbox.is_complete(&key) || inbox.is_incomplete(&key);
    assert!(!is_told(&inbox), "it is not the peer's");
    // That they are over is not told: the owner has seen their packets later.
    visited.node.flows.clear();
    visited.node.changes.flow(flow(OTHERS[0], 6));
    assert_eq!(visited.tell(&mut owner, &mut inbox), []);
    assert_eq!(targets(&owner).len(), 2);
    // Nor does it have to begin with anything when somebody else owns the service.
    inbox.forget(&key);
    visited.open(9, 1);
    visited.tell(&mut owner, &mut inbox);
    assert_eq!(targets(&owner), [(5, 1), (6, 2), (9, 1)]);
}

/// Nobody would look at it, until the slot moves: then it would be wrong.
#[test]
fn a_record_that_does_not_count_is_not_taken_in() {
    let (mut owner, mut inbox, mut visited) = (owner(false), Inbox::default(), Visited::new());
    visited.open(5, 2);
    visited.tell(&mut owner, &mut inbox);
    assert_eq!(targets(&owner), []);
    // One of a translated connection always counts.
    for service in owner.services.values_mut() {
        service.flags = flag::TRANSLATES;
    }
    visited.open(5, 2);
    visited.tell(&mut owner, &mut inbox);
    assert_eq!(targets(&owner), [(5, 2)]);
}

/// A former owner has not told everything when the peer says that it is the owner.
#[test]
fn what_was_still_to_be_told_of_a_service_that_is_not_ours_any_more_is_told() {
    let (mut owner, mut inbox, mut visited) = (owner(true), Inbox::default(), Visited::new());
    let services: Vec<_> = visited
        .node
        .services
        .iter()
        .map(|(key, entry)| (*key, *entry))
        .collect();
    visited.outbox.watch([]);
    visited.outbox.own(services.clone());
    visited.tell(&mut owner, &mut inbox);
    visited.open(5, 2);
    // More than a batch has room for, so that some are left.
    (10..30).for_each(|port| visited.open(port, 2));
    let items = visited.outbox.next_batch(&mut visited.node).unwrap();
    inbox.apply(&items, &mut owner).unwrap();
    assert!(!visited.outbox.is_empty());
    visited.outbox.watch(services);
    visited.outbox.own([]);
    let told = visited.tell(&mut owner, &mut inbox);
    assert!(matches!(told.first(), Some(Item::Unowned { .. })), "{told:?}");
    assert!(!told.iter().any(|item| matches!(item, Item::Begin { .. })));
    // What it had told before as the owner, too: we own it.
    assert_eq!(targets(&owner).len(), 21);
}

/// Each takes itself for the master: what begins with the other one is added, and nothing is replaced or deleted.
#[test]
fn of_two_owners_each_hears_of_what_begins_with_the_other() {
    let (mut owner, mut inbox, mut visited) = (owner(true), Inbox::default(), Visited::new());
    owner.flows.insert(flow(OWNERS[0], 5), record(1, 3));
    owner.flows.insert(flow(OWNERS[0], 4), record(1, 3));
    visited.open(5, 2);
    let services: Vec<_> = visited
        .node
        .services
        .iter()
        .map(|(key, entry)| (*key, *entry))
        .collect();
    let slots = owner.slots.clone();
    // Silent for long, and perhaps over.
    visited.open(8, 2);
    visited.node.flows.get_mut(&flow(OTHERS[0], 8)).unwrap().last_seen = 3;
    visited.outbox.watch([]);
    visited.outbox.own(services);
    visited.open(6, 2);
    visited.tell(&mut owner, &mut inbox);
    visited.open(7, 2);
    visited.node.flows.remove(&flow(OTHERS[0], 6));
    visited.node.changes.flow(flow(OTHERS[0], 6));
    visited.tell(&mut owner, &mut inbox);
    assert_eq!(targets(&owner), [(4, 1), (5, 1), (6, 2), (7, 2)]);
    assert_eq!(owner.slots, slots);
    assert_eq!(
        owner.changes.take().flows(),
        [flow(OWNERS[0], 6), flow(OWNERS[0], 7)]
    );
}
