//! What the peer has, and its owner does not name: it is deleted, without that all else waits for it.

use std::net::IpAddr;

use lb_common::{
    address::Address,
    layout::{FlowKey, ServiceKey},
};

use super::{
    super::{Flow, Inbox, Item},
    node::{Node, flow, record},
};

/// A peer that has many records of one service, of which its owner names the first and says that this was all.
fn told_of_one_of(records: u16) -> (Inbox, Node, ServiceKey) {
    let mut peer = Node::follower(100);
    let target = peer.backend(1, "impala1", IpAddr::from([10, 1, 0, 1]), 21050);
    for port in 0..records {
        let record = record(target, u32::from(port));
        peer.flows.insert(flow(1, port), record);
    }
    let introduction = Item::Service {
        id: 3,
        vip: IpAddr::from([10, 0, 0, 1]),
        port: 21050,
    };
    let backend = Item::Backend {
        id: 9,
        service: 3,
        name: "impala1".to_owned(),
        address: IpAddr::from([10, 1, 0, 1]),
        port: 21050,
    };
    let items = [
        introduction,
        Item::Begin { service: 3 },
        backend,
        live(0),
        Item::Complete { service: 3 },
    ];
    let mut inbox = Inbox::default();
    inbox.apply(&items, &mut peer).unwrap();
    (inbox, peer, ServiceKey::tcp(Address::v4([10, 0, 0, 1]), 21050))
}

/// A flow of the service that the owner calls number 3, to the backend that it calls number 9.
fn live(port: u16) -> Item {
    let flow = Flow {
        backend: 9,
        closing: false,
        idle: 0,
        port: 0,
        way: None,
    };
    Item::Flow {
        service: 3,
        client: IpAddr::from([10, 9, 0, 1]),
        port,
        flow: Some(flow),
    }
}

#[test]
fn what_was_not_named_is_deleted_piece_by_piece_and_not_what_is_named_meanwhile() {
    let (mut inbox, mut peer, key) = told_of_one_of(10);
    assert!(!inbox.is_complete(&key) && inbox.is_incomplete(&key) && inbox.has_more(peer.now));
    let mut left = vec![peer.flows.len()];
    inbox.go_on(&mut peer).unwrap();
    left.push(peer.flows.len());
    // One that would be next, and one that has been.
    inbox.apply(&[live(1), live(3)], &mut peer).unwrap();
    while inbox.has_more(peer.now) {
        inbox.go_on(&mut peer).unwrap();
        left.push(peer.flows.len());
    }
    assert_eq!(left, [10, 8, 7, 5, 3]);
    assert!(inbox.is_complete(&key) && !inbox.is_incomplete(&key));
    let ports: Vec<u16> = peer.flows.keys().map(FlowKey::client_port).collect();
    assert_eq!(ports, [0, 1, 3]);
}

#[test]
fn before_a_takeover_all_of_it_is_deleted_but_for_what_has_been_used_a_moment_ago() {
    let (mut inbox, mut peer, key) = told_of_one_of(100);
    inbox.finish(Some(&key), &mut peer).unwrap();
    assert!(!inbox.has_more(peer.now));
    let ports: Vec<u16> = peer.flows.keys().map(FlowKey::client_port).collect();
    // Ports are the times, and it is 100.
    assert_eq!(ports, [0, 96, 97, 98, 99]);

    // What a service of ours has is none of the peer's business.
    let (mut inbox, mut peer, _) = told_of_one_of(10);
    peer.follows = false;
    inbox.go_on(&mut peer).unwrap();
    assert!(!inbox.has_more(peer.now));
    assert_eq!(peer.flows.len(), 10);
}

/// It may have begun here, and be on its way to the owner, who names it then.
#[test]
fn what_has_been_used_a_moment_ago_waits_until_it_could_have_been_named() {
    let (mut inbox, mut peer, key) = told_of_one_of(100);
    let ports = |peer: &Node| peer.flows.keys().map(FlowKey::client_port).collect::<Vec<_>>();
    while inbox.has_more(peer.now) {
        inbox.go_on(&mut peer).unwrap();
    }
    assert_eq!(ports(&peer), [0, 96, 97, 98, 99]);
    assert!(inbox.is_incomplete(&key));
    // The owner names one, and another is used still.
    inbox.apply(&[live(97)], &mut peer).unwrap();
    let wait = inbox.due(peer.now).unwrap();
    assert!(wait > 0);
    peer.now += wait;
    peer.flows.get_mut(&flow(1, 98)).unwrap().last_seen = peer.now;
    while inbox.has_more(peer.now) {
        inbox.go_on(&mut peer).unwrap();
    }
    assert_eq!(ports(&peer), [0, 97, 98]);
    assert!(inbox.is_complete(&key) && inbox.due(peer.now).is_none());
}

#[test]
fn when_all_has_been_named_after_all_it_is_complete() {
    for spares in [false, true] {
        let (mut inbox, mut peer, key) = told_of_one_of(100);
        while spares && inbox.has_more(peer.now) {
            inbox.go_on(&mut peer).unwrap();
        }
        let named: Vec<Item> = (1..100).map(live).collect();
        inbox.apply(&named, &mut peer).unwrap();
        assert!(!inbox.is_complete(&key));
        assert_eq!(
            inbox.due(peer.now),
            Some(0),
            "that nothing is left is to be noticed"
        );
        inbox.go_on(&mut peer).unwrap();
        assert!(inbox.is_complete(&key) && inbox.due(peer.now).is_none());
    }
}
