//! Tier 1: two balancers' tables, of which one follows the other. What the program has recorded with the owner is told, by everything
//! of the state stream but the network; then the follower's program gets the same packets, and does the same with them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use lab::emulation::is_emulated;
use lab::kernel_clock::ticks;
use lab::mirroring::{self, Follower, Owner, TOLD, theirs};
use lb_common::headers::tcp::Flags;
use lb_common::layout::{Affinity, ClientKey, FlowKey, FlowRecord, ReturnKey};
use lb_common::testing::cases::CLIENT;
use lb_common::testing::frame::CLIENT_MAC;
use lb_common::testing::tables::{AFFINE, NAT, NAT_BACKEND, NAT_BACKEND6, NAT_TARGET, NAT6, ONE};
use lb_common::testing::{Frame, HostTables};
use lb_ctl::adapters::datapath::Datapath;
use lb_ctl::core::census::{CLOSING_TIMEOUT, Census};
use lb_ctl::core::sync::{Added, Inbox, WayToClient};
use proptest::prelude::*;

const FLOWS: u32 = 4096;

/// Two balancers, and one connection between them.
struct Pair {
    host: HostTables,
    owner: Owner,
    follower: Follower,
    inbox: Inbox,
}

impl Pair {
    fn new(follower_flows: u32) -> Self {
        let host = mirroring::tables();
        Self {
            owner: Owner::of(&host, FLOWS, &mirroring::told_services()).unwrap(),
            follower: Follower::of(&host, follower_flows).unwrap(),
            inbox: Inbox::default(),
            host,
        }
    }

    /// Has the owner's program deal with a frame. Returns what it makes of it.
    fn send(&mut self, frame: &Frame) -> Vec<u8> {
        self.owner.kernel.test_run(&frame.bytes()).unwrap().frame
    }

    fn client_sends(&mut self, client: SocketAddr, service: SocketAddr, flags: u8, sequence: u32) {
        self.send(&Frame::new(client, service).flags(flags).sequence(sequence));
    }

    fn connect(&mut self, client: SocketAddr, service: SocketAddr) {
        self.client_sends(client, service, Flags::SYN, 100);
        self.client_sends(client, service, Flags::ACK, 101);
    }

    fn tell(&mut self) {
        self.owner.tell(&mut self.inbox, &mut self.follower).unwrap();
    }

    fn flow(&self, client: SocketAddr, service: SocketAddr) -> FlowKey {
        FlowKey::new(client.ip().into(), client.port(), self.host.service(service).id)
    }

    /// A pass over the owner's records, that many ticks later.
    fn pass(&self, later: u32) {
        let services = TOLD.map(|it| self.host.service(it));
        let census = Census::new(ticks() + later, 100_000, false, services, BTreeSet::new());
        self.owner.kernel.sweep().unwrap().run(census).unwrap();
    }

    /// The follower has what the owner has, in its own words.
    fn compare(&self) {
        let flows = |kernel: &Datapath| {
            let mut flows = kernel.flow_reader().unwrap().established().unwrap();
            flows.sort_unstable_by_key(|(key, _)| *key);
            flows
        };
        let in_words = |(key, record): &(FlowKey, FlowRecord), id: u16| {
            (*key, id, record.port, record.closing != 0, record.last_seen)
        };
        let expected: Vec<_> = flows(&self.owner.kernel)
            .iter()
            .map(|it| in_words(it, theirs(it.1.target)))
            .collect();
        let found: Vec<_> = flows(&self.follower.kernel)
            .iter()
            .map(|it| in_words(it, it.1.target))
            .collect();
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(
                (found.0, found.1, found.2, found.3),
                (expected.0, expected.1, expected.2, expected.3)
            );
            // That a record was used again is not told.
            assert!(found.4 <= expected.4 + 1, "{found:?} {expected:?}");
        }
        for id in (1..).take(self.host.targets.len() - 1) {
            let (one, other) = (self.owner.kernel.live(id), self.follower.kernel.live(theirs(id)));
            assert_eq!(one.connections(), other.connections(), "target {id}");
        }
        let ways_back = |kernel: &Datapath| {
            let ways_back = kernel.ways_back().unwrap();
            let mut ways_back: Vec<_> = ways_back
                .into_iter()
                .map(|(key, it)| (key, it.flow(), it.addresses, it.egress, it.service_port))
                .collect();
            ways_back.sort_unstable();
            ways_back
        };
        assert_eq!(ways_back(&self.owner.kernel), ways_back(&self.follower.kernel));
    }

    /// What the owner's program makes of a frame, the follower's does too.
    fn compare_on(&mut self, frame: &Frame) {
        let expected = self.owner.kernel.test_run(&frame.bytes()).unwrap();
        assert_eq!(self.follower.kernel.test_run(&frame.bytes()).unwrap(), expected);
    }
}

fn client(service: SocketAddr, number: u8, port: u16) -> SocketAddr {
    let address: IpAddr = match service {
        SocketAddr::V4(_) => [198, 51, 100, number].into(),
        SocketAddr::V6(_) => [0x2001, 0xdb8, 7, 0, 0, 0, 0, u16::from(number)].into(),
    };
    SocketAddr::new(address, port)
}

#[test]
fn a_follower_carries_every_connection_on() {
    let mut pair = Pair::new(FLOWS);
    let established: Vec<(SocketAddr, SocketAddr)> = TOLD
        .iter()
        .flat_map(|&service| [(1, 1000), (2, 1000), (2, 1001)].map(|(n, p)| (client(service, n, p), service)))
        .collect();
    for (client, service) in &established {
        pair.connect(*client, *service);
    }
    pair.tell();
    pair.compare();
    assert_eq!(pair.inbox.complete().count(), TOLD.len());
    assert_eq!(pair.inbox.lost(), 0);

    // More, with the connection already there.
    for (client, service) in &established[..5] {
        pair.client_sends(*client, *service, Flags::FIN | Flags::ACK, 102);
    }
    let later: Vec<(SocketAddr, SocketAddr)> = TOLD.iter().map(|&it| (client(it, 3, 1000), it)).collect();
    for (client, service) in &later {
        pair.connect(*client, *service);
    }
    pair.tell();
    pair.compare();

    for (client, service) in established.iter().chain(&later) {
        pair.compare_on(&Frame::new(*client, *service).flags(Flags::ACK).sequence(103));
        let record = pair
            .owner
            .kernel
            .flow_record(pair.flow(*client, *service))
            .unwrap();
        let port = record.unwrap().port;
        assert_eq!(port != 0, [NAT, NAT6].contains(service));
        if port != 0 {
            let backend = if service.is_ipv4() {
                NAT_BACKEND
            } else {
                NAT_BACKEND6
            };
            let answer = Frame::new(backend, SocketAddr::new(service.ip(), port));
            pair.compare_on(&answer.flags(Flags::ACK).payload(b"1 row"));
        }
    }

    pair.pass(CLOSING_TIMEOUT + 2);
    pair.tell();
    pair.compare();
    assert_eq!(
        pair.follower.tables.flows_of(&BTreeSet::from([0])).unwrap().len(),
        4 - 3
    );
}

#[test]
fn clients_are_at_home_with_the_follower_where_they_are_with_the_owner() {
    let mut pair = Pair::new(FLOWS);
    for number in 1..5 {
        pair.connect(client(AFFINE, number, 1000), AFFINE);
    }
    pair.tell();
    let service = pair.host.service(AFFINE).id;
    let key = |number| ClientKey::new(client(AFFINE, number, 0).ip().into(), service);
    for number in 1..5 {
        let home = pair.owner.kernel.affinity(key(number)).unwrap().unwrap();
        let followed = pair.follower.kernel.affinity(key(number)).unwrap().unwrap();
        assert_eq!(followed.target, theirs(home.target));
        // A new connection.
        let syn = Frame::new(client(AFFINE, number, 2000), AFFINE).flags(Flags::SYN);
        pair.compare_on(&syn);
    }
    let tables = &mut pair.follower.tables;
    tables.remove_client(&key(1)).unwrap();
    tables.remove_client(&key(1)).unwrap();
    let old = Affinity {
        target: 1,
        reserved: 0,
        last_seen: 7,
    };
    let other = ClientKey::new(client(AFFINE, 2, 0).ip().into(), service + 1);
    tables.put_client(&key(2), old).unwrap();
    tables.put_client(&other, old).unwrap();
    // Later than what the program has noted.
    let now = ticks().wrapping_add(1000);
    tables.refresh_clients(&[service].into(), now).unwrap();
    let noted = |key| pair.follower.kernel.affinity(key).unwrap();
    assert_eq!(noted(key(1)), None);
    assert_eq!(
        noted(key(2)),
        Some(Affinity {
            last_seen: now,
            ..old
        })
    );
    assert_eq!(noted(key(3)).unwrap().last_seen, now);
    assert_eq!(noted(other), Some(old));
    let mut clients = pair
        .follower
        .tables
        .clients_of(&BTreeSet::from([service]))
        .unwrap();
    clients.sort_unstable();
    assert_eq!(clients, [key(2), key(3), key(4)]);
}

const WAY: WayToClient = WayToClient {
    mac: CLIENT_MAC,
    interface: Some(0),
};

const fn record(target: u16, port: u16, closing: u16) -> FlowRecord {
    FlowRecord {
        target,
        closing,
        last_seen: 7,
        port,
        reserved: [0; 3],
    }
}

/// The key of the way back of a port of the service [`NAT`].
fn return_key(port: u16) -> ReturnKey {
    ReturnKey::new(NAT_BACKEND.ip().into(), NAT_BACKEND.port(), NAT.ip().into(), port)
}

#[test]
fn live_connections_are_counted_once_whatever_is_told_of_them() {
    let mut pair = Pair::new(FLOWS);
    let flow = pair.flow(CLIENT, ONE);
    let tables = &mut pair.follower.tables;
    let live = |kernel: &Datapath| [1, 2].map(|id| kernel.live(id).established);
    for (put, expected) in [
        (Some(record(1, 0, 0)), [1, 0]),
        (Some(record(1, 0, 0)), [1, 0]),
        (Some(record(2, 0, 0)), [0, 1]),
        (Some(record(2, 0, 9)), [0, 0]),
        (Some(record(2, 0, 9)), [0, 0]),
        (Some(record(2, 0, 0)), [0, 1]),
        (None, [0, 0]),
        (None, [0, 0]),
        (Some(record(2, 0, 9)), [0, 0]),
        (None, [0, 0]),
    ] {
        match put {
            Some(record) => assert!(tables.put_flow(&flow, record, None).unwrap()),
            None => tables.remove_flow(&flow).unwrap(),
        }
        assert_eq!(live(&pair.follower.kernel), expected, "{put:?}");
        assert_eq!(pair.follower.kernel.flow_record(flow).unwrap(), put);
    }
}

#[test]
fn a_way_back_comes_and_goes_with_its_record() {
    let mut pair = Pair::new(FLOWS);
    let flow = pair.flow(CLIENT, NAT);
    let id = theirs(NAT_TARGET);
    let present = |pair: &Pair| {
        [5000, 5001].map(|port| pair.follower.kernel.way_back(return_key(port)).unwrap().is_some())
    };
    let put = |pair: &mut Pair, record, way| pair.follower.tables.put_flow(&flow, record, way).unwrap();
    assert!(put(&mut pair, record(id, 5000, 0), Some(WAY)));
    assert_eq!(present(&pair), [true, false]);
    // By another router, and later without a word about it.
    let elsewhere = WayToClient {
        mac: [2, 0, 0, 9, 9, 9],
        interface: Some(7),
    };
    for way in [Some(elsewhere), None] {
        assert!(put(&mut pair, record(id, 5000, 0), way));
        let way_back = pair.follower.kernel.way_back(return_key(5000)).unwrap().unwrap();
        assert_eq!(way_back.client_mac(), [2, 0, 0, 9, 9, 9]);
        assert_eq!(way_back.egress, 0, "there is no such interface");
    }
    assert!(put(&mut pair, record(id, 5001, 0), Some(WAY)));
    assert_eq!(
        present(&pair),
        [false, true],
        "the connection has another port now"
    );
    pair.follower.tables.remove_flow(&flow).unwrap();
    assert_eq!(present(&pair), [false, false]);
    // Of a target that does not translate, or does not exist, there is none.
    for target in [1, 20, u16::MAX] {
        assert!(put(&mut pair, record(target, 5000, 0), Some(WAY)));
        assert!(pair.follower.kernel.ways_back().unwrap().is_empty());
    }
}

#[test]
fn a_port_has_one_connection() {
    let mut pair = Pair::new(FLOWS);
    let id = theirs(NAT_TARGET);
    let [one, other] = [1, 2].map(|number| pair.flow(client(NAT, number, 1000), NAT));
    let tables = &mut pair.follower.tables;
    assert!(tables.put_flow(&one, record(id, 5000, 0), Some(WAY)).unwrap());
    // Its owner has given the port away: the end of the first one has only not been told yet.
    assert!(tables.put_flow(&other, record(id, 5000, 0), Some(WAY)).unwrap());
    let kernel = &pair.follower.kernel;
    assert_eq!(kernel.flow_record(one).unwrap(), None);
    assert_eq!(kernel.way_back(return_key(5000)).unwrap().unwrap().flow(), other);
    assert_eq!(kernel.live(id).established, 1);
    tables.remove_flow(&one).unwrap();
    assert!(kernel.way_back(return_key(5000)).unwrap().is_some());

    // A connection of another service is none of the owner's business.
    let stranger = FlowKey::new(CLIENT.ip().into(), 1000, 99);
    assert!(tables.put_flow(&stranger, record(id, 5001, 0), None).unwrap());
    let mut way_back = kernel.way_back(return_key(5000)).unwrap().unwrap();
    (way_back.client, way_back.client_port, way_back.service) = (CLIENT.ip().into(), 1000, 99);
    pair.follower
        .kernel
        .write_way_back(return_key(5001), way_back)
        .unwrap();
    let tables = &mut pair.follower.tables;
    assert!(!tables.put_flow(&one, record(id, 5001, 0), Some(WAY)).unwrap());
    let kernel = &pair.follower.kernel;
    assert_eq!(kernel.flow_record(one).unwrap(), None);
    assert_eq!(kernel.way_back(return_key(5001)).unwrap(), Some(way_back));
    // But one that no record names is nobody's.
    tables.remove_flow(&stranger).unwrap();
    assert!(tables.put_flow(&one, record(id, 5001, 0), Some(WAY)).unwrap());
    assert_eq!(kernel.way_back(return_key(5001)).unwrap().unwrap().flow(), one);
}

#[test]
fn what_has_come_here_stays_when_the_former_owner_tells_on() {
    let mut pair = Pair::new(FLOWS);
    let id = theirs(NAT_TARGET);
    let [one, other] = [1, 2].map(|number| pair.flow(client(NAT, number, 1000), NAT));
    let now = ticks();
    let record = |port, closing| FlowRecord {
        last_seen: now,
        ..record(id, port, closing)
    };
    let tables = &mut pair.follower.tables;
    assert_eq!(
        tables.add_flow(&one, record(5000, 0), Some(WAY)).unwrap(),
        Added::New
    );
    let kernel = &pair.follower.kernel;
    assert_eq!(kernel.flow_record(one).unwrap(), Some(record(5000, 0)));
    assert_eq!(kernel.way_back(return_key(5000)).unwrap().unwrap().flow(), one);
    assert_eq!(kernel.live(id).established, 1);
    // It has a record, and another has its port.
    assert_eq!(
        tables.add_flow(&one, record(5001, 9), Some(WAY)).unwrap(),
        Added::Present
    );
    assert_eq!(
        tables.add_flow(&other, record(5000, 0), Some(WAY)).unwrap(),
        Added::NoRoom
    );
    assert_eq!(kernel.flow_record(one).unwrap(), Some(record(5000, 0)));
    assert_eq!(kernel.flow_record(other).unwrap(), None);
    assert_eq!(kernel.ways_back().unwrap().len(), 1);
    assert_eq!(kernel.live(id).established, 1);
    // What was seen before that does not count, neither its end nor an earlier connection.
    let older = |port, closing| FlowRecord {
        last_seen: now.wrapping_sub(9),
        ..record(port, closing)
    };
    assert_eq!(
        tables.add_flow(&one, older(5000, 9), Some(WAY)).unwrap(),
        Added::Present
    );
    assert_eq!(kernel.flow_record(one).unwrap(), Some(record(5000, 0)));
    // But its end has been seen there, and then another connection from the same port.
    assert_eq!(
        tables.add_flow(&one, record(5000, 9), Some(WAY)).unwrap(),
        Added::New
    );
    assert_eq!(kernel.flow_record(one).unwrap(), Some(record(5000, 9)));
    assert_eq!(kernel.live(id).established, 0);
    assert_eq!(
        tables.add_flow(&one, older(5001, 0), Some(WAY)).unwrap(),
        Added::Present
    );
    assert_eq!(
        tables.add_flow(&one, record(5001, 0), Some(WAY)).unwrap(),
        Added::New
    );
    assert_eq!(kernel.flow_record(one).unwrap(), Some(record(5001, 0)));
    assert_eq!(kernel.live(id).established, 1);
    let present = [5000, 5001].map(|port| kernel.way_back(return_key(port)).unwrap().is_some());
    assert_eq!(present, [false, true]);
    // A way back that no record names is nobody's.
    let way_back = kernel.way_back(return_key(5001)).unwrap().unwrap();
    tables.remove_flow(&one).unwrap();
    pair.follower
        .kernel
        .write_way_back(return_key(5001), way_back)
        .unwrap();
    let tables = &mut pair.follower.tables;
    assert_eq!(
        tables.add_flow(&other, record(5001, 0), Some(WAY)).unwrap(),
        Added::New
    );
    let kernel = &pair.follower.kernel;
    assert_eq!(kernel.way_back(return_key(5001)).unwrap().unwrap().flow(), other);

    let home = |target, last_seen| Affinity {
        target,
        reserved: 0,
        last_seen,
    };
    let client = ClientKey::new(CLIENT.ip().into(), one.service());
    let tables = &mut pair.follower.tables;
    for (told, is_new) in [(home(1, 7), true), (home(2, 9), false)] {
        assert_eq!(tables.add_client(&client, told).unwrap(), is_new);
        assert_eq!(pair.follower.kernel.affinity(client).unwrap(), Some(home(1, 7)));
    }
}

#[test]
fn where_there_is_no_room_nothing_is_left_behind() {
    let mut pair = Pair::new(64);
    let id = theirs(NAT_TARGET);
    let flows: Vec<FlowKey> = (0..1000)
        .map(|port| pair.flow(client(NAT, 1, port), NAT))
        .collect();
    let mut taken = BTreeSet::new();
    for (flow, port) in flows.iter().zip(5000..) {
        if pair
            .follower
            .tables
            .put_flow(flow, record(id, port, 0), Some(WAY))
            .unwrap()
        {
            taken.insert(*flow);
        }
    }
    let kernel = &pair.follower.kernel;
    assert!((1..1000).contains(&taken.len()), "{}", taken.len());
    let recorded: BTreeSet<FlowKey> = pair
        .follower
        .tables
        .flows_of(&BTreeSet::from([flows[0].service()]))
        .unwrap()
        .into_iter()
        .collect();
    assert_eq!(recorded, taken);
    let ways_back: BTreeSet<FlowKey> = kernel
        .ways_back()
        .unwrap()
        .iter()
        .map(|(_, it)| it.flow())
        .collect();
    assert_eq!(ways_back, taken);
    assert_eq!(kernel.live(id).established as usize, taken.len());
    for flow in &taken {
        pair.follower.tables.remove_flow(flow).unwrap();
    }
    assert!(pair.follower.kernel.ways_back().unwrap().is_empty());
}

/// Whatever clients and backends send, and whenever it is told.
#[test]
fn a_follower_knows_what_its_owner_does() {
    #[derive(Clone, Debug)]
    enum Step {
        Client(SocketAddr, u8, u8, u32),
        Backend(SocketAddr, u8, u8),
        Pass(u32),
        Tell,
    }
    let flags = || {
        prop_oneof![
            3 => Just(Flags::SYN),
            6 => Just(Flags::ACK),
            2 => Just(Flags::FIN | Flags::ACK),
            1 => Just(Flags::RST),
        ]
    };
    let sequence = prop_oneof![4 => Just(100u32), 8 => Just(101), 1 => any::<u32>()];
    let step = prop_oneof![
        20 => (prop::sample::select(&TOLD[..]), 1u8..5, flags(), sequence)
            .prop_map(|(service, number, flags, sequence)| Step::Client(service, number, flags, sequence)),
        5 => (prop::sample::select(&[NAT, NAT6][..]), 1u8..5, flags())
            .prop_map(|(service, number, flags)| Step::Backend(service, number, flags)),
        1 => Just(Step::Pass(0)),
        1 => Just(Step::Pass(CLOSING_TIMEOUT + 2)),
        3 => Just(Step::Tell),
    ];
    let mut config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if is_emulated() {
        config.cases = 4;
    }
    let pair = RefCell::new(Pair::new(FLOWS));
    proptest!(config, |(steps in prop::collection::vec(step, 1..60))| {
        let pair = &mut *pair.borrow_mut();
        for step in steps {
            match step {
                Step::Client(service, number, flags, sequence) => {
                    // One port for all, so that translation has to find others.
                    pair.client_sends(client(service, number, 1000), service, flags, sequence);
                }
                Step::Backend(service, number, flags) => {
                    let flow = pair.flow(client(service, number, 1000), service);
                    let record = pair.owner.kernel.flow_record(flow).unwrap();
                    let port = record.map_or(1, |record| record.port);
                    let backend = if service.is_ipv4() { NAT_BACKEND } else { NAT_BACKEND6 };
                    pair.send(&Frame::new(backend, SocketAddr::new(service.ip(), port)).flags(flags));
                }
                Step::Pass(later) => pair.pass(later),
                Step::Tell => pair.tell(),
            }
        }
        // The ways back that no record names are not told.
        pair.pass(0);
        pair.tell();
        pair.compare();
    });
}
