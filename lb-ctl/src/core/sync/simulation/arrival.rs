//! What a former owner tells while its service arrives here: its packets come here, and the owner's word may be older than what they have
//! done.

use std::net::IpAddr;

use lb_common::{
    address::Address,
    layout::{Affinity, ClientKey, ServiceKey, Slot},
};

use super::{
    SLOTS,
    node::{Node, flow, record},
};
use crate::core::sync::{Flow, Home, Inbox, Item, Run};

/// The service, by the former owner's id and by ours.
const THEIRS: u16 = 9;
const OURS: u16 = 1;
const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const PORT: u16 = 21_050;

fn client() -> IpAddr {
    flow(OURS, 5).client().into()
}

fn backend_address(number: u8) -> IpAddr {
    IpAddr::from([10, 1, 0, number])
}

/// The owner's backends are 1 and 2.
fn introduction() -> [Item; 4] {
    let backend = |number: u8| Item::Backend {
        id: number.into(),
        service: THEIRS,
        name: format!("impala{number}"),
        address: backend_address(number),
        port: PORT,
    };
    let service = Item::Service {
        id: THEIRS,
        vip: VIP,
        port: PORT,
    };
    [service, Item::Begin { service: THEIRS }, backend(1), backend(2)]
}

fn told(port: u16, backend: Option<u16>) -> Item {
    let on = |backend| Flow {
        backend,
        closing: false,
        idle: 0,
        port: 0,
        way: None,
    };
    Item::Flow {
        service: THEIRS,
        client: client(),
        port,
        flow: backend.map(on),
    }
}

fn at_home(backend: Option<u16>) -> Item {
    Item::Client {
        service: THEIRS,
        client: client(),
        home: backend.map(|backend| Home { backend, idle: 0 }),
    }
}

const fn run(settled: u16, current: u16, tracked: bool) -> Run {
    Run {
        length: 1,
        settled,
        current,
        tracked,
        grace: None,
    }
}

#[test]
fn nothing_that_has_come_here_is_replaced_or_deleted_while_a_service_arrives() {
    let mut peer = Node::of([OURS, 0], 40, 1_000);
    peer.follows = true;
    let key = ServiceKey::tcp(VIP.into(), PORT);
    let [here, there] =
        [1, 2].map(|number| peer.backend(OURS, &format!("impala{number}"), backend_address(number), PORT));
    let first = u32::from(OURS) * SLOTS;
    let [kept, new, unnamed] = [5, 6, 7].map(|port| flow(OURS, port));
    let home = ClientKey::new(Address::from(client()), OURS);
    let noted = Affinity {
        target: here,
        reserved: 0,
        last_seen: 3,
    };
    peer.flows.insert(kept, record(here, 3));
    peer.flows.insert(unnamed, record(here, 3));
    peer.clients.insert(home, noted);
    let tracked = Slot {
        tracked: true,
        current: there,
        ..Slot::untracked(here)
    };
    for (index, slot) in (first..).zip([tracked, tracked, Slot::untracked(here)]) {
        peer.slots.insert(index, slot);
    }
    let mut inbox = Inbox::default();
    inbox.apply(&introduction(), &mut peer).unwrap();
    inbox.arrive([key]);
    let slots = Item::Slots {
        service: THEIRS,
        first: 0,
        // One that has moved back, one that has settled elsewhere, and one that moves.
        runs: vec![run(1, 1, false), run(2, 2, false), run(1, 2, true)],
    };
    let complete = Item::Complete { service: THEIRS };
    let flows = [told(5, None), told(6, Some(2)), told(5, Some(2))];
    let clients = [at_home(None), at_home(Some(2))];
    let items: Vec<Item> = [slots]
        .into_iter()
        .chain(flows)
        .chain(clients)
        .chain([complete])
        .collect();
    inbox.apply(&items, &mut peer).unwrap();
    let slots = [0, 1, 2].map(|place| {
        let slot = peer.slots[&(first + place)];
        (slot.settled, slot.current, slot.tracked)
    });
    assert_eq!(
        slots,
        [(here, here, true), (here, there, true), (here, there, true)]
    );
    assert_eq!([peer.flows[&kept], peer.flows[&unnamed]], [record(here, 3); 2]);
    assert_eq!(peer.flows[&new].target, there);
    assert_eq!(peer.clients[&home], noted);
    assert!(inbox.is_complete(&key));

    // When it has turned back, the owner's word counts.
    inbox.arrive([]);
    inbox.apply(&[told(5, None), at_home(None)], &mut peer).unwrap();
    assert!(!peer.flows.contains_key(&kept) && peer.clients.is_empty());
}
