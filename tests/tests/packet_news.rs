//! Tier 1: what the program tells whoever listens. The same packets, one after the other, through the XDP program and through the
//! decision with ordinary collections: the same news, in the same order, and none when nobody listens.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use lab::agreement;
use lab::emulation::is_emulated;
use lab::kernel_clock::{ticks, within_a_tick};
use lab::kernel_tables;
use lb_common::headers::tcp::Flags;
use lb_common::layout::{Changed, ClientKey, FlowKey, Node, Service, Slot};
use lb_common::testing::cases::CLIENT;
use lb_common::testing::tables::{AFFINE, AFFINE6, NAT, NAT_BACKEND, NAT6, ONE, ONE6};
use lb_common::testing::{Frame, HostTables};
use lb_ctl::adapters::datapath::{Datapath, PeerSource};
use lb_ctl::core::census::{CLOSING_TIMEOUT, Census};
use lb_ctl::core::sync::Source as _;
use proptest::prelude::*;

/// Where all slots of the services without translation lead.
const MOVED: Slot = Slot {
    settled: 1,
    current: 2,
    tracked: true,
    settled_seen: 0,
    grace: 0,
};

/// The program and the host's tables, filled alike, and who listens to the program.
struct Twins {
    kernel: Datapath,
    host: HostTables,
    source: PeerSource,
}

impl Twins {
    fn new(listens: bool) -> Self {
        let mut host = HostTables::fixture();
        host.flows.clear();
        host.returns.clear();
        host.node = host.node.map(|node| Node {
            listens: u16::from(listens),
            ..node
        });
        for service in [ONE, ONE6, AFFINE, AFFINE6] {
            for index in host.service(service).slot_indices() {
                host.slots[index as usize] = MOVED.to_bits();
            }
        }
        let kernel = kernel_tables::load(&host, 1024, 1024).unwrap();
        let mut source = kernel.peer_source().unwrap();
        assert_eq!(source.changes().is_anything(), listens, "all is new at first");
        Self { kernel, host, source }
    }

    /// Sends a client's segment through both, which must agree on it.
    fn client_sends(&mut self, client: SocketAddr, service: SocketAddr, flags: u8, sequence: u32) {
        let frame = Frame::new(client, service).flags(flags).sequence(sequence);
        self.send(&frame);
    }

    fn send(&mut self, frame: &Frame) {
        self.host.now = ticks();
        agreement::send(&mut self.kernel, &mut self.host, &frame.bytes()).unwrap();
    }

    /// What both have told since this was last asked, which must be the same.
    fn news(&mut self) -> (Vec<FlowKey>, Vec<ClientKey>) {
        let told = self.source.changes();
        assert!(!told.is_anything() && told.slots().is_empty(), "{told:?}");
        let news = std::mem::take(&mut self.host.news);
        let changed = || news.iter().map(|it| it.changed().unwrap());
        let flows: Vec<FlowKey> = changed()
            .filter_map(|it| match it {
                Changed::Flow(key) => Some(key),
                Changed::Client(_) => None,
            })
            .collect();
        let clients: Vec<ClientKey> = changed()
            .filter_map(|it| match it {
                Changed::Client(key) => Some(key),
                Changed::Flow(_) => None,
            })
            .collect();
        assert_eq!((told.flows(), told.clients()), (&flows[..], &clients[..]));
        (flows, clients)
    }

    /// A pass over the kernel's records, that many ticks later.
    fn pass(&self, later: u32, services: &[SocketAddr]) {
        let services: Vec<Service> = services.iter().map(|it| self.host.service(*it)).collect();
        let census = Census::new(ticks() + later, 10_000, false, services, BTreeSet::new());
        self.kernel.sweep().unwrap().run(census).unwrap();
    }

    /// Has both forget all connections and clients.
    fn forget(&mut self) {
        self.pass(0, &[]);
        self.source.changes();
        self.host.flows.clear();
        self.host.half_open.clear();
        self.host.returns.clear();
        self.host.half_open_returns.clear();
        self.host.affinity.clear();
    }

    fn key(&self, client: SocketAddr, service: SocketAddr) -> FlowKey {
        FlowKey::new(client.ip().into(), client.port(), self.host.service(service).id)
    }

    fn client_key(&self, client: IpAddr, service: SocketAddr) -> ClientKey {
        ClientKey::new(client.into(), self.host.service(service).id)
    }
}

/// Waits until the program notices that it is a tick later.
fn pass_a_tick() {
    let tick = ticks();
    while ticks() == tick {
        sleep(Duration::from_millis(50));
    }
    within_a_tick();
}

#[test]
fn a_connection_is_told_when_it_is_established_and_when_it_closes_and_not_in_between() {
    let mut twins = Twins::new(true);
    for service in [ONE, NAT] {
        let key = twins.key(CLIENT, service);
        twins.client_sends(CLIENT, service, Flags::SYN, 100);
        assert_eq!(twins.news().0, [], "anybody can send a SYN");
        twins.client_sends(CLIENT, service, Flags::ACK, 101);
        assert_eq!(twins.news().0, [key]);
        for sequence in 102..110 {
            twins.client_sends(CLIENT, service, Flags::ACK, sequence);
        }
        assert_eq!(twins.news().0, []);
        twins.client_sends(CLIENT, service, Flags::FIN | Flags::ACK, 110);
        assert_eq!(twins.news().0, [key]);
        twins.client_sends(CLIENT, service, Flags::FIN | Flags::ACK, 110);
        assert_eq!(twins.news().0, [], "it was closing already");
        twins.client_sends(CLIENT, service, Flags::SYN, 900);
        twins.client_sends(CLIENT, service, Flags::ACK, 901);
        assert_eq!(twins.news().0, [key], "the next one between the same ports");
    }
}

#[test]
fn what_is_told_can_be_looked_up_at_once() {
    let mut twins = Twins::new(true);
    twins.client_sends(CLIENT, NAT, Flags::SYN, 100);
    twins.client_sends(CLIENT, NAT, Flags::ACK, 101);
    let key = twins.key(CLIENT, NAT);
    assert_eq!(twins.news().0, [key]);
    let record = twins.source.flow(&key).unwrap().unwrap();
    let way = twins.source.way_to_client(&key, &record).unwrap().unwrap();
    assert_eq!(way.mac, lb_common::testing::frame::CLIENT_MAC);
    // The test's frames come in on an interface that is none of ours.
    assert_eq!(way.interface, None);
}

#[test]
fn answers_close_a_connection_too_and_a_way_back_that_moves_is_told() {
    let mut twins = Twins::new(true);
    let key = twins.key(CLIENT, NAT);
    twins.client_sends(CLIENT, NAT, Flags::SYN, 100);
    twins.client_sends(CLIENT, NAT, Flags::ACK, 101);
    assert_eq!(twins.news().0, [key]);

    // A tick later it comes through another router.
    pass_a_tick();
    let frame = Frame::new(CLIENT, NAT)
        .flags(Flags::ACK)
        .sequence(102)
        .from([2, 0, 0, 9, 9, 9]);
    twins.send(&frame);
    assert_eq!(twins.news().0, [key]);
    let record = twins.source.flow(&key).unwrap().unwrap();
    let way = twins.source.way_to_client(&key, &record).unwrap().unwrap();
    assert_eq!(way.mac, [2, 0, 0, 9, 9, 9]);

    let answer =
        Frame::new(NAT_BACKEND, SocketAddr::new(NAT.ip(), record.port)).flags(Flags::FIN | Flags::ACK);
    twins.send(&answer);
    assert_eq!(twins.news().0, [key]);
}

#[test]
fn a_client_is_told_when_it_has_a_home_and_when_that_is_another() {
    let mut twins = Twins::new(true);
    let client = twins.client_key(CLIENT.ip(), AFFINE);
    let connect = |twins: &mut Twins, port| {
        let from = SocketAddr::new(CLIENT.ip(), port);
        twins.client_sends(from, AFFINE, Flags::SYN, 100);
        twins.client_sends(from, AFFINE, Flags::ACK, 101);
        twins.news()
    };
    assert_eq!(connect(&mut twins, 1000).1, [client]);
    let (flows, clients) = connect(&mut twins, 1001);
    assert_eq!((flows.len(), clients.len()), (1, 0), "it is at home there");
    pass_a_tick();
    twins.client_sends(SocketAddr::new(CLIENT.ip(), 1001), AFFINE, Flags::ACK, 102);
    assert_eq!(twins.news().1, [], "that it was there again is no news");

    // Its home is drained, so it gets another.
    let drained = twins.host.targets[2].draining(true);
    twins.host.targets[2] = drained;
    twins.kernel.write_target(2, drained).unwrap();
    for index in twins.host.service(AFFINE).slot_indices() {
        let slot = Slot { current: 3, ..MOVED };
        twins.host.slots[index as usize] = slot.to_bits();
        twins.kernel.write_slot(index, slot).unwrap();
    }
    let slots = twins.source.changes();
    let range = twins.host.service(AFFINE).slot_indices();
    assert_eq!(slots.slots(), [range], "and so are slots");
    assert_eq!(connect(&mut twins, 1002).1, [client]);
}

#[test]
fn untracked_slots_tell_nothing() {
    let mut twins = Twins::new(true);
    for index in twins.host.service(ONE).slot_indices() {
        twins.host.slots[index as usize] = Slot::untracked(1).to_bits();
        twins.kernel.write_slot(index, Slot::untracked(1)).unwrap();
    }
    twins.source.changes();
    for (flags, sequence) in [
        (Flags::SYN, 100),
        (Flags::ACK, 101),
        (Flags::FIN | Flags::ACK, 102),
    ] {
        twins.client_sends(CLIENT, ONE, flags, sequence);
    }
    assert_eq!(twins.news(), (vec![], vec![]));
}

#[test]
fn nobody_is_told_anything_who_does_not_listen() {
    let mut twins = Twins::new(false);
    let talk = |twins: &mut Twins, port| {
        for service in [ONE, NAT, AFFINE] {
            let client = SocketAddr::new(CLIENT.ip(), port);
            twins.client_sends(client, service, Flags::SYN, 100);
            twins.client_sends(client, service, Flags::ACK, 101);
            twins.client_sends(client, service, Flags::FIN | Flags::ACK, 102);
        }
    };
    talk(&mut twins, 1000);
    twins.kernel.write_slot(0, MOVED).unwrap();
    assert_eq!(twins.news(), (vec![], vec![]));

    // Whoever begins to listen has to be told all, whatever it has heard before. What else is written to the node does not end it.
    for round in 0..2 {
        twins.kernel.listen(true).unwrap();
        twins.kernel.write_node(&twins.host.node.unwrap()).unwrap();
        assert!(twins.source.changes().is_anything());
        assert!(twins.source.changes().is_empty());
        talk(&mut twins, 2000 + round);
        twins.kernel.write_slot(1, MOVED).unwrap();
        let told = twins.source.changes();
        // Where the client is at home was noted before.
        assert_eq!((told.flows().len(), told.clients().len()), (6, 0));
        let expected = 1..2;
        assert_eq!(told.slots(), [expected]);
        talk(&mut twins, 3000 + round);
        twins.kernel.listen(false).unwrap();
        talk(&mut twins, 4000 + round);
        assert!(twins.source.changes().is_empty(), "nor what it was told before");
    }
}

#[test]
fn what_was_lost_is_known_to_be() {
    let mut twins = Twins::new(true);
    twins.client_sends(CLIENT, ONE, Flags::SYN, 100);
    twins.client_sends(CLIENT, ONE, Flags::ACK, 101);
    twins.news();
    // A connection that closes and begins again, and again.
    let go_round = |twins: &mut Twins, rounds: std::ops::Range<u32>| {
        for sequence in rounds.map(|round| 1000 * round) {
            for (flags, sequence) in [
                (Flags::FIN | Flags::ACK, 102),
                (Flags::SYN, sequence),
                (Flags::ACK, sequence + 1),
            ] {
                let frame = Frame::new(CLIENT, ONE).flags(flags).sequence(sequence).bytes();
                agreement::in_kernel(&mut twins.kernel, &frame).unwrap();
            }
        }
    };
    for rounds in [1..2000, 2000..4000] {
        let expected = 2 * rounds.len();
        go_round(&mut twins, rounds);
        assert_eq!(twins.source.changes().flows().len(), expected);
        assert_eq!(twins.source.lost(), 0);
    }
    go_round(&mut twins, 4000..9000);
    assert!(twins.source.lost() > 1000, "{}", twins.source.lost());
    let told = twins.source.changes();
    assert!(told.is_anything());
    assert!(twins.source.changes().is_empty());
    twins.host.news.clear();
    twins.client_sends(CLIENT, ONE, Flags::FIN | Flags::ACK, 103);
    assert_eq!(twins.source.changes().flows(), [twins.key(CLIENT, ONE)]);
}

#[test]
fn a_pass_tells_what_it_deletes() {
    let mut twins = Twins::new(true);
    for service in [ONE, NAT, AFFINE] {
        twins.client_sends(CLIENT, service, Flags::SYN, 100);
        twins.client_sends(CLIENT, service, Flags::ACK, 101);
    }
    twins.client_sends(CLIENT, ONE, Flags::FIN | Flags::ACK, 102);
    twins.news();
    let all = [ONE, NAT, AFFINE];
    twins.pass(0, &all);
    assert_eq!(twins.news(), (vec![], vec![]), "none is over");
    twins.pass(CLOSING_TIMEOUT + 2, &all);
    let told = twins.source.changes();
    assert_eq!(told.flows(), [twins.key(CLIENT, ONE)], "one was closing");
    twins.pass(0, &[]);
    let told = twins.source.changes();
    assert_eq!(told.clients(), [twins.client_key(CLIENT.ip(), AFFINE)]);
    let mut flows = told.flows().to_vec();
    flows.sort_unstable();
    let mut expected = [NAT, AFFINE].map(|service| twins.key(CLIENT, service));
    expected.sort_unstable();
    assert_eq!(flows, expected, "the others go with their services");
}

/// Whatever clients and a backend send to services of all kinds, in whatever order.
#[test]
fn host_and_kernel_tell_the_same_of_any_packets() {
    let flags = prop_oneof![
        3 => Just(Flags::SYN),
        6 => Just(Flags::ACK),
        2 => Just(Flags::FIN | Flags::ACK),
        1 => Just(Flags::RST),
    ];
    let sequence = prop_oneof![4 => Just(100u32), 8 => Just(101), 1 => any::<u32>()];
    let service = prop_oneof![
        Just(ONE),
        Just(ONE6),
        Just(AFFINE),
        Just(AFFINE6),
        Just(NAT),
        Just(NAT6)
    ];
    let packet = (service, any::<bool>(), 1u8..3, flags, sequence);
    let conversation = proptest::collection::vec(packet, 1..100);
    let mut config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if is_emulated() {
        config.cases = 4;
    }
    let twins = RefCell::new(Twins::new(true));
    let told = RefCell::new(BTreeSet::new());
    proptest!(config, |(packets in conversation)| {
        let twins = &mut *twins.borrow_mut();
        twins.forget();
        for (service, by_client, number, flags, sequence) in packets {
            let client: IpAddr = match service {
                SocketAddr::V4(_) => [198, 51, 100, number].into(),
                SocketAddr::V6(_) => [0x2001, 0xdb8, 7, 0, 0, 0, 0, u16::from(number)].into(),
            };
            let client = SocketAddr::new(client, 40_000);
            if by_client || service != NAT {
                twins.client_sends(client, service, flags, sequence);
            } else {
                let record = twins.host.flows.get(&twins.key(client, service)).copied();
                let port = record.map_or(1, |record| record.port);
                twins.send(&Frame::new(NAT_BACKEND, SocketAddr::new(NAT.ip(), port)).flags(flags));
            }
            let (flows, clients) = twins.news();
            told.borrow_mut().extend(flows.iter().map(FlowKey::service));
            told.borrow_mut().extend(clients.iter().map(|key| 100 + key.service()));
        }
    });
    // Flows of both families and of all kinds, and clients.
    assert!(is_emulated() || told.borrow().len() == 7, "{:?}", told.borrow());
}
