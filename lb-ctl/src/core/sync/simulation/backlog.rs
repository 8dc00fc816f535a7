//! What there is takes long to be told. Neither does what changes wait for it, nor anybody for the rest of it when there is none.

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::layout::{NO_TARGET, Service, ServiceKey, Slot};

use super::{
    super::Item,
    Link, SLOTS,
    node::{Node, flow, record},
};

/// The ports of flows, in the order in which a batch tells of them, and whether they live.
fn told_flows(items: &[Item]) -> Vec<(u16, bool)> {
    let told = items.iter().filter_map(|item| match item {
        Item::Flow { port, flow, .. } => Some((*port, flow.is_some())),
        _ => None,
    });
    told.collect()
}

#[test]
fn what_changes_while_all_is_told_does_not_wait_for_it() {
    let mut owner = Node::of([3, 5], 0, 1);
    let target = owner.backend(3, "impala1", IpAddr::from([10, 1, 0, 1]), 21050);
    let record = record(target, 0);
    // Of the second service there is one flow, of the first there are more than some batches hold.
    owner.flows.insert(flow(5, 7), record);
    owner.flows.extend((0..100).map(|port| (flow(3, port), record)));
    let mut link = Link::between(&owner);
    let services: BTreeMap<ServiceKey, Service> = owner.services.clone();
    link.outbox.own(
        services
            .iter()
            .map(|(key, entry)| (*key, *entry))
            .filter(|(_, entry)| entry.id == 5),
    );
    while !link.outbox.next_batch(&mut owner).unwrap().is_empty() {}
    link.outbox.own(services);
    for _ in 0..3 {
        link.outbox.next_batch(&mut owner).unwrap();
    }
    // One that is new, of a service that is being told of, behind all others by its key; and one that has ended, of the other
    // service, since its slot has settled.
    owner.flows.insert(flow(3, 9_999), record);
    owner.changes.flow(flow(3, 9_999));
    owner.slots.insert(5 * SLOTS + 2, Slot::untracked(NO_TARGET));
    owner.changes.slot(5 * SLOTS + 2);
    owner.flows.remove(&flow(5, 7));
    owner.changes.flow(flow(5, 7));
    // Batches are small here: it takes two.
    let mut items = link.outbox.next_batch(&mut owner).unwrap();
    items.extend(link.outbox.next_batch(&mut owner).unwrap());
    let told = told_flows(&items);
    assert_eq!(told.first(), Some(&(9_999, true)), "{items:?}");
    let place = |wanted: fn(&Item) -> bool| items.iter().position(wanted).expect("to be told");
    let settled = place(|item| {
        matches!(
            item,
            Item::Slots {
                service: 5,
                first: 2,
                ..
            }
        )
    });
    let ended = place(|item| {
        matches!(
            item,
            Item::Flow {
                service: 5,
                port: 7,
                flow: None,
                ..
            }
        )
    });
    assert!(settled < ended, "{items:?}");
    // What is being told of comes to its end, each once, and only then its slots.
    let (mut listed, mut has_slots) = (Vec::new(), false);
    loop {
        let items = link.outbox.next_batch(&mut owner).unwrap();
        if items.is_empty() {
            break;
        }
        let told = told_flows(&items);
        assert!(!has_slots || told.is_empty(), "{items:?}");
        has_slots |= items.iter().any(|item| matches!(item, Item::Slots { .. }));
        listed.extend(told);
    }
    assert!(has_slots && listed.len() > 50, "{listed:?}");
    assert!(
        listed.iter().all(|(port, lives)| *port < 100 && *lives),
        "{listed:?}"
    );
    assert!(listed.is_sorted_by(|one, other| one.0 < other.0), "{listed:?}");
    assert!(link.outbox.is_empty());
}

#[test]
fn what_an_owner_ceases_to_tell_of_is_not_waited_for() {
    let mut owner = Node::of([3, 5], 0, 1);
    let target = owner.backend(3, "impala1", IpAddr::from([10, 1, 0, 1]), 21050);
    let record = record(target, 0);
    owner.flows.extend((0..100).map(|port| (flow(3, port), record)));
    let mut peer = Node::follower(17);
    let mut link = Link::between(&owner);
    for _ in 0..3 {
        assert!(link.tell(&mut owner, &mut peer));
    }
    let is_incomplete = |link: &Link, key: &ServiceKey| link.inbox.is_incomplete(key);
    assert!(owner.services.keys().any(|key| is_incomplete(&link, key)));
    // The other one is told of to its end, and then comes a sign of life.
    let stays = owner.services.iter().filter(|(_, entry)| entry.id == 5);
    link.outbox.own(stays.map(|(key, entry)| (*key, *entry)));
    while link.tell(&mut owner, &mut peer) {}
    link.inbox.apply(&[], &mut peer).unwrap();
    assert!(!owner.services.keys().any(|key| is_incomplete(&link, key)));
    assert_eq!(link.inbox.complete().count(), 1);
    // What there was stays: connections may come back to it.
    assert!(!peer.flows.is_empty());
    // It tells of it again.
    link.outbox
        .own(owner.services.iter().map(|(key, entry)| (*key, *entry)));
    while link.tell(&mut owner, &mut peer) {}
    link.delete_unnamed(&mut peer);
    assert_eq!(link.inbox.complete().count(), 2);
    assert_eq!(peer.told(), owner.told());
}

#[test]
fn more_than_may_wait_is_told_from_the_beginning() {
    let mut owner = Node::of([3, 5], 0, 1);
    let mut peer = Node::follower(17);
    let target = owner.backend(3, "impala1", IpAddr::from([10, 1, 0, 1]), 21050);
    let record = record(target, 0);
    let mut link = Link::between(&owner);
    while link.tell(&mut owner, &mut peer) {}
    // The peer takes a batch in only now and then.
    let mut is_told_anew = false;
    for round in 0..4 {
        for port in 0..50 {
            let key = flow(3, 1_000 * round + port);
            if port < 5 {
                owner.flows.insert(key, record);
            }
            owner.changes.flow(key);
        }
        let items = link.outbox.clone().next_batch(&mut owner.clone()).unwrap();
        is_told_anew |= items.iter().any(|item| matches!(item, Item::Begin { .. }));
        link.tell(&mut owner, &mut peer);
    }
    assert!(is_told_anew);
    while link.tell(&mut owner, &mut peer) {}
    assert_eq!(peer.told(), owner.told());
    assert_eq!(peer.flows.len(), 20);
}

#[test]
fn what_there_is_is_told_also_if_changes_never_end() {
    let mut owner = Node::of([3, 5], 0, 1);
    let mut peer = Node::follower(17);
    let target = owner.backend(3, "impala1", IpAddr::from([10, 1, 0, 1]), 21050);
    let record = record(target, 0);
    owner.flows.extend((0..30).map(|port| (flow(3, port), record)));
    let mut link = Link::between(&owner);
    for _ in 0..60 {
        // More than a batch has room for.
        for port in 0..5 {
            owner.changes.flow(flow(3, port));
        }
        link.tell(&mut owner, &mut peer);
    }
    assert_eq!(peer.flows.len(), 30);
    assert_eq!(link.inbox.complete().count(), 2);
}
