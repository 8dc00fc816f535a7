//! A peer that has the key, and means us no good, or is mad: it is refused, or costs little.

use std::net::IpAddr;

use proptest::prelude::*;

use super::{
    super::{ApplyError, Flow, Home, Inbox, Item, Run},
    SLOTS,
    node::Node,
};
use crate::core::config::MAX_SERVICES;

fn service(id: u16, last: u8) -> Item {
    Item::Service {
        id,
        vip: IpAddr::from([10, 0, 0, last]),
        port: 21050,
    }
}

fn backend(id: u16, service: u16, name: &str) -> Item {
    Item::Backend {
        id,
        service,
        name: name.to_owned(),
        address: IpAddr::from([10, 1, 0, 1]),
        port: 1,
    }
}

fn slots(service: u16, first: u32, length: u32, current: u16) -> Item {
    Item::Slots {
        service,
        first,
        runs: vec![Run {
            length,
            settled: 0,
            current,
            tracked: true,
            grace: None,
        }],
    }
}

fn begin(service: u16) -> Item {
    Item::Begin { service }
}

#[test]
fn a_peer_that_talks_nonsense_is_refused() {
    let nonsense = |items: &[Item]| {
        let mut node = Node::follower(17);
        let mut inbox = Inbox::default();
        let introductions = [
            service(9, 1),
            service(10, 2),
            begin(9),
            begin(10),
            backend(6, 10, "impala1"),
        ];
        inbox.apply(&introductions, &mut node).unwrap();
        inbox.apply(items, &mut node).unwrap_err()
    };
    assert_eq!(nonsense(&[slots(8, 0, 1, 0)]), ApplyError::Service(8));
    assert_eq!(nonsense(&[slots(9, 0, 1, 7)]), ApplyError::Backend(7));
    assert_eq!(
        nonsense(&[slots(9, 0, 1, 6)]),
        ApplyError::Backend(6),
        "it is another service's"
    );
    let beyond = |last| ApplyError::Slots { slots: SLOTS, last };
    assert_eq!(nonsense(&[slots(9, 1, SLOTS, 0)]), beyond(u64::from(SLOTS)));
    assert_eq!(
        nonsense(&[slots(9, u32::MAX, u32::MAX, 0)]),
        beyond(u64::from(u32::MAX) * 2 - 1)
    );
    assert_eq!(nonsense(&[backend(0, 9, "impala1")]), ApplyError::Nobody);
    for name in ["", "a b", "..", "a\nb", &"a".repeat(64)] {
        let refused = nonsense(&[backend(3, 9, name)]);
        assert!(matches!(refused, ApplyError::Name(_)), "{refused:?}");
        assert!(refused.to_string().len() < 400, "{refused}");
    }
}

#[test]
fn a_peer_that_has_slots_written_again_and_again_is_refused() {
    let mut node = Node::follower(17);
    let mut inbox = Inbox::default();
    let introductions = [service(9, 1), service(10, 2), begin(9), begin(10)];
    inbox.apply(&introductions, &mut node).unwrap();
    // Every slot of both, in pieces, and in the next batch again.
    let all = [
        slots(9, 0, 2, 0),
        slots(10, 0, SLOTS, 0),
        slots(9, 2, SLOTS - 2, 0),
    ];
    inbox.apply(&all, &mut node).unwrap();
    inbox.apply(&all, &mut node).unwrap();
    assert_eq!(std::mem::take(&mut node.stored), 4 * SLOTS);
    let again = [slots(9, 0, SLOTS, 0), slots(9, 0, SLOTS, 0)];
    let repeated = ApplyError::Repeated {
        first: 0,
        untold: u64::from(SLOTS),
    };
    assert_eq!(inbox.apply(&again, &mut node), Err(repeated.clone()));
    // Under another number it is the same service.
    let again = [
        slots(9, 0, SLOTS, 0),
        service(11, 1),
        begin(11),
        slots(11, 0, SLOTS, 0),
    ];
    assert_eq!(inbox.apply(&again, &mut node), Err(repeated));
    assert_eq!(node.stored, 2 * SLOTS);
}

#[test]
fn a_peer_with_more_services_than_there_can_be_is_refused() {
    let mut node = Node::of([1, 0], 40, 17);
    let mut inbox = Inbox::default();
    let service = |id: u16, port| Item::Service {
        id,
        vip: IpAddr::from([10, 0, 0, 1]),
        port,
    };
    let most = u16::try_from(MAX_SERVICES).unwrap();
    // As many again, under the same numbers, and all of them again, under others.
    for (ids, ports) in [(0, 0), (0, most), (most, most)] {
        let items: Vec<Item> = (0..most)
            .map(|number| service(ids + number, ports + number))
            .collect();
        inbox.apply(&items, &mut node).unwrap();
    }
    let one_more = [service(0, 0)];
    assert_eq!(inbox.apply(&one_more, &mut node), Err(ApplyError::Services));
}

/// One that has been told of all of the three services, two of which are ours, and of a backend of each.
fn introduced(node: &mut Node) -> Inbox {
    let mut inbox = Inbox::default();
    let services = (1..4).map(|id| service(id, u8::try_from(id).unwrap()));
    let backends = (1..4).map(|id| backend(id, id, "impala1"));
    let items: Vec<Item> = services.chain(backends).chain((1..4).map(begin)).collect();
    inbox.apply(&items, node).unwrap();
    node.passes.take();
    inbox
}

/// Anything, about few numbers, so that much of it means something.
fn items() -> impl Strategy<Value = Item> {
    let id = || 0..4_u16;
    let known = || 1..4_u16;
    let address = || (1..4_u8).prop_map(|last| IpAddr::from([10, 9, 0, last]));
    let run = (0..SLOTS, id(), id(), any::<bool>()).prop_map(|(length, settled, current, tracked)| Run {
        length,
        settled,
        current,
        tracked,
        grace: None,
    });
    let flow = (id(), any::<bool>(), any::<u16>()).prop_map(|(backend, closing, port)| Flow {
        backend,
        closing,
        idle: 0,
        port,
        way: None,
    });
    let home = id().prop_map(|backend| Home { backend, idle: 0 });
    prop_oneof![
        1 => (id(), 1..4_u8).prop_map(|(id, last)| service(id, last)),
        1 => (id(), 1..4_u8).prop_map(|(id, last)| {
            Item::Unowned { id, vip: IpAddr::from([10, 0, 0, last]), port: 21050 }
        }),
        2 => (known(), known(), "[a-z][a-z ]").prop_map(|(id, service, name)| backend(id, service, &name)),
        2 => known().prop_map(begin),
        1 => known().prop_map(|service| Item::Complete { service }),
        4 => (known(), 0..SLOTS, prop::collection::vec(run, 0..4))
            .prop_map(|(service, first, runs)| Item::Slots { service, first, runs }),
        4 => (known(), address(), any::<u16>(), prop::option::of(flow))
            .prop_map(|(service, client, port, flow)| Item::Flow { service, client, port, flow }),
        2 => (known(), address(), prop::option::of(home))
            .prop_map(|(service, client, home)| Item::Client { service, client, home }),
    ]
}

proptest! {
    #[test]
    fn whatever_a_batch_says_it_costs_no_more_than_the_tables_are_large(
        batches in prop::collection::vec(prop::collection::vec(items(), 0..60), 1..6)
    ) {
        let mut node = Node::follower(17);
        let mut inbox = introduced(&mut node);
        for items in &batches {
            let result = inbox.apply(items, &mut node);
            prop_assert!(node.passes.take() <= 1);
            prop_assert!(std::mem::take(&mut node.stored) <= 2 * SLOTS);
            if result.is_err() {
                // The connection ends.
                inbox = introduced(&mut node);
            }
        }
    }
}
