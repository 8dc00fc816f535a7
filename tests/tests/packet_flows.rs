//! Tier 1: tracked slots in the kernel. The same packets, one after the other, through the XDP program with its maps and
//! through the decision with ordinary collections: same fate, same memory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::cell::RefCell;
use std::net::SocketAddr;

use lab::kernel_clock::ticks;
use lab::kernel_tables;
use lab::xdp_action;
use lb_common::counter::Counter;
use lb_common::decision::{Verdict, decide};
use lb_common::forward::direct_server_return;
use lb_common::headers::tcp::Flags;
use lb_common::layout::{FlowKey, Slot};
use lb_common::process::{Action, process};
use lb_common::testing::cases::{CLIENT, CLIENT6};
use lb_common::testing::tables::{ONE, ONE6, TARGETS};
use lb_common::testing::{Frame, HostTables, IcmpError};
use lb_ctl::adapters::datapath::Datapath;
use proptest::prelude::*;

/// The program and the host's tables, filled alike; the slots of one service are all tracked, from target 1 to target 2.
struct Twins {
    kernel: Datapath,
    host: HostTables,
    service: SocketAddr,
    client: SocketAddr,
}

impl Twins {
    fn new(client: SocketAddr, service: SocketAddr, flows: u32) -> Self {
        let mut host = HostTables::fixture();
        // Only those that the tests make.
        host.flows.clear();
        host.returns.clear();
        let kernel = kernel_tables::load(&host, flows, 1024).unwrap();
        Self {
            kernel,
            host,
            service,
            client,
        }
    }

    /// Gives all slots of the service this content, on both sides.
    fn set_slots(&mut self, slot: Slot) {
        for index in self.slots() {
            self.host.slots[index as usize] = slot.to_bits();
            self.kernel.write_slot(index, slot).unwrap();
        }
    }

    /// The service's slots.
    fn slots(&self) -> std::ops::Range<u32> {
        let service = self.host.service(self.service);
        service.slot_indices()
    }

    fn key(&self, port: u16) -> FlowKey {
        FlowKey::new(self.client.ip().into(), port, 0)
    }

    /// Sends a segment through both, which must agree. Returns the target, if it was forwarded.
    fn send(&mut self, port: u16, flags: u8, sequence: u32) -> Option<u16> {
        let client = SocketAddr::new(self.client.ip(), port);
        let frame = Frame::new(client, self.service)
            .flags(flags)
            .sequence(sequence)
            .bytes();
        self.host.now = ticks();
        let (target, expected) = match decide(frame.as_slice(), &self.host) {
            Verdict::Forward { id, target, .. } => {
                let mut expected = frame.clone();
                direct_server_return(expected.as_mut_slice(), target).unwrap();
                (Some(id), expected)
            }
            _ => (None, frame.clone()),
        };
        self.host.carry_out();
        let output = self.kernel.test_run(&frame).unwrap();
        assert_eq!(output.action == xdp_action::TX, target.is_some());
        assert_eq!(
            output.frame, expected,
            "port {port}, flags {flags:#x}, sequence {sequence}"
        );
        self.compare(port);
        target
    }

    /// Sends an ICMP error about a flow through both, which must agree. Returns the target, if it was forwarded.
    fn send_error(&mut self, port: u16) -> Option<u16> {
        let client = SocketAddr::new(self.client.ip(), port);
        let frame = IcmpError::about(client, self.service).quote(8).bytes();
        self.host.now = ticks();
        let mut expected = frame.clone();
        let action = process(&mut expected, &self.host);
        let output = self.kernel.test_run(&frame).unwrap();
        assert_eq!(
            output.action == xdp_action::TX,
            matches!(action, Action::Transmit { .. })
        );
        assert_eq!(output.frame, expected, "an error about port {port}");
        self.compare(port);
        let leads_there = |id: &u16| self.host.targets[usize::from(*id)].addresses() == output.frame[..12];
        (1..TARGETS).find(leads_there)
    }

    /// Compares what both remember of a flow. Times may differ by the tick that began in between.
    fn compare(&self, port: u16) {
        let key = self.key(port);
        let kernel = self.kernel.flow_record(key).unwrap();
        let host = self.host.flows.get(&key);
        assert_eq!(
            kernel.map(|it| (it.target, it.closing != 0)),
            host.map(|it| (it.target, it.closing != 0)),
            "port {port}"
        );
        if let (Some(kernel), Some(host)) = (kernel, host) {
            assert!(
                kernel.last_seen.wrapping_sub(host.last_seen) <= 1
                    // Always odd, so that two follow each other at a distance of two.
                    && kernel.closing.wrapping_sub(host.closing) <= 2,
                "{kernel:?} {host:?}"
            );
        }
        let kernel = self.kernel.half_open_record(key).unwrap();
        let host = self.host.half_open.get(&key);
        assert_eq!(
            kernel.map(|it| (it.target, it.sequence)),
            host.map(|it| (it.target, it.sequence)),
            "port {port}"
        );
        let kernel = self.kernel.settled_flow(key).unwrap();
        let host = self.host.settled_flows.get(&key);
        assert_eq!(
            kernel.map(|it| (it.target, it.closing)),
            host.map(|it| (it.target, it.closing)),
            "port {port}"
        );
    }
}

fn tracked(settled: u16, current: u16) -> Slot {
    Slot {
        settled,
        current,
        tracked: true,
        settled_seen: 0,
        grace: 0,
    }
}

#[test]
fn old_connections_stay_and_new_ones_go_to_the_new_target() {
    for (client, service) in [(CLIENT, ONE), (CLIENT6, ONE6)] {
        let mut twins = Twins::new(client, service, 1024);
        twins.set_slots(tracked(1, 2));
        assert_eq!(
            twins.send(1000, Flags::ACK, 5),
            Some(1),
            "an old connection has no record"
        );
        assert_eq!(
            twins.send(2000, Flags::SYN, 100),
            Some(2),
            "a new one goes to the new target"
        );
        assert_eq!(twins.send(2000, Flags::SYN, 100), Some(2), "its SYN again, too");
        assert_eq!(
            twins.send(2000, Flags::ACK, 500_000),
            Some(1),
            "what does not continue it is not its"
        );
        assert_eq!(
            twins.send(2000, Flags::ACK, 101),
            Some(2),
            "what does makes it known"
        );
        assert_eq!(
            twins.send(2000, Flags::ACK, 500_000),
            Some(2),
            "from then on all is its"
        );
        twins.set_slots(tracked(1, 3));
        assert_eq!(
            twins.send(2000, Flags::ACK, 500_001),
            Some(2),
            "also when the slot moves on"
        );
        assert_eq!(twins.send(2000, Flags::FIN | Flags::ACK, 500_001), Some(2));
        assert_eq!(
            twins.send(2000, Flags::SYN, 900_000),
            Some(3),
            "once it ends its port is free"
        );
        assert_eq!(
            twins.send(2000, Flags::ACK, 500_002),
            Some(2),
            "though the last acknowledgement finds its way"
        );
        assert_eq!(twins.send(2000, Flags::ACK, 900_001), Some(3));
        assert_eq!(
            twins.send(1000, Flags::ACK, 6),
            Some(1),
            "and the old connection is where it was"
        );
    }
}

#[test]
fn the_settled_path_leaves_its_time_in_the_slot_and_nothing_else_there() {
    let mut twins = Twins::new(CLIENT, ONE, 1024);
    let before = tracked(1, 2);
    twins.set_slots(before);
    twins.send(1000, Flags::ACK, 5);
    let service = twins.host.service(ONE);
    let indices = service.slot_indices();
    let changed: Vec<Slot> = indices
        .map(|index| twins.kernel.slot(index).unwrap())
        .filter(|slot| *slot != before)
        .collect();
    let [slot] = changed[..] else {
        panic!("one slot was used, these changed: {changed:?}")
    };
    assert_eq!(
        Slot {
            settled_seen: 0,
            ..slot
        },
        before
    );
    let now = ticks() & 0xffff;
    assert!(
        now.wrapping_sub(u32::from(slot.settled_seen)) & 0xffff <= 1,
        "{slot:?} at {now}"
    );
}

#[test]
fn flows_without_a_record_are_noted_until_they_end_and_syns_are_not() {
    let mut twins = Twins::new(CLIENT, ONE, 1024);
    twins.set_slots(tracked(1, 2));
    assert_eq!(twins.send(1000, Flags::ACK, 5), Some(1));
    assert_eq!(twins.send(2000, Flags::SYN, 100), Some(2));
    let noted = |twins: &Twins, port| {
        let note = twins.kernel.settled_flow(twins.key(port)).unwrap();
        note.map(|note| (note.target, note.closing))
    };
    assert_eq!(noted(&twins, 1000), Some((1, 0)));
    assert_eq!(noted(&twins, 2000), None);
    twins.send(1000, Flags::FIN | Flags::ACK, 6);
    assert_eq!(noted(&twins, 1000), Some((1, 1)));
    twins.send(1000, Flags::ACK, 7);
    assert_eq!(
        noted(&twins, 1000),
        Some((1, 1)),
        "the last acknowledgement does not revive it"
    );
    twins.set_slots(Slot::untracked(1));
    twins.send(3000, Flags::ACK, 5);
    assert_eq!(noted(&twins, 3000), None, "an untracked slot notes nothing");
}

#[test]
fn when_records_are_short_new_connections_stay_on_the_settled_target() {
    let mut twins = Twins::new(CLIENT, ONE, 1024);
    twins.set_slots(tracked(1, 2));
    twins.kernel.set_records_short(true).unwrap();
    twins.host.short = true;
    assert_eq!(twins.send(1000, Flags::SYN, 5), Some(1));
    assert_eq!(twins.send(1000, Flags::ACK, 6), Some(1));

    // A drain goes before.
    let draining = twins.host.targets[1].draining(true);
    twins.host.targets[1] = draining;
    twins.kernel.write_target(1, draining).unwrap();
    assert_eq!(twins.send(1000, Flags::ACK, 7), Some(1), "it stays");
    assert_eq!(twins.send(1001, Flags::SYN, 5), Some(2));
    assert_eq!(twins.send(1001, Flags::ACK, 6), Some(2));
    assert_eq!(
        twins.kernel.flow_record(twins.key(1001)).unwrap().unwrap().target,
        2
    );
}

#[test]
fn a_connection_that_cannot_be_recorded_is_counted() {
    let mut twins = Twins::new(CLIENT, ONE, 1);
    twins.set_slots(tracked(1, 2));
    let establish = |twins: &mut Twins, port: u16| {
        let client = SocketAddr::new(CLIENT.ip(), port);
        for (flags, sequence) in [(Flags::SYN, 100), (Flags::ACK, 101)] {
            let frame = Frame::new(client, ONE).flags(flags).sequence(sequence).bytes();
            twins.kernel.test_run(&frame).unwrap();
        }
    };
    // The kernel keeps a few spare elements for each CPU, so it takes some more than one.
    for port in 1..=200 {
        establish(&mut twins, port);
    }
    let lost = twins.kernel.counter(Counter::RecordLost).unwrap();
    let recorded = (1..=200)
        .filter(|&port| twins.kernel.flow_record(twins.key(port)).unwrap().is_some())
        .count();
    assert!(recorded >= 1 && lost >= 1);
    assert_eq!(lost + recorded as u64, 200, "each is recorded or counted");
}

#[test]
fn all_flows_can_be_listed_however_many() {
    // More than the kernel hands out at once.
    const FLOWS: u16 = 10_000;
    let mut twins = Twins::new(CLIENT, ONE, 16_384);
    assert!(
        twins
            .kernel
            .flow_reader()
            .unwrap()
            .established()
            .unwrap()
            .is_empty()
    );
    twins.set_slots(tracked(1, 2));
    for port in 1..=FLOWS {
        twins.send(port, Flags::SYN, 100);
        twins.send(port, Flags::ACK, 101);
    }
    twins.send(50_000, Flags::ACK, 5);
    twins.send(50_001, Flags::SYN, 5);
    let found = twins.kernel.flow_reader().unwrap();
    let mut established = found.established().unwrap();
    established.sort_unstable_by_key(|(key, _)| *key);
    let keys: Vec<FlowKey> = established.iter().map(|(key, _)| *key).collect();
    let expected: Vec<FlowKey> = twins.host.flows.keys().copied().collect();
    assert!(
        keys == expected,
        "expected {} flows, found {}",
        expected.len(),
        keys.len()
    );
    assert!(established.iter().all(|(_, record)| record.target == 2));
    let [(key, note)] = found.settled().unwrap()[..] else {
        panic!("one flow has no record")
    };
    assert_eq!((key, note.target), (twins.key(50_000), 1));
    let [(key, half_open)] = found.half_open().unwrap()[..] else {
        panic!("one flow is half open")
    };
    assert_eq!((key, half_open.sequence), (twins.key(50_001), 5));
}

#[test]
fn a_flood_of_syns_pushes_out_no_established_connection() {
    let mut twins = Twins::new(CLIENT, ONE, 1024);
    twins.set_slots(tracked(1, 2));
    for port in 1..=100 {
        twins.send(port, Flags::SYN, 100);
        assert_eq!(twins.send(port, Flags::ACK, 101), Some(2));
    }
    for spoofed in 0..20_000u32 {
        let [_, a, b, c] = spoofed.to_be_bytes();
        let client = SocketAddr::from(([203, a, b, c], 40_000));
        let frame = Frame::new(client, ONE)
            .flags(Flags::SYN)
            .sequence(spoofed)
            .bytes();
        twins.kernel.test_run(&frame).unwrap();
    }
    for port in 1..=100 {
        assert_eq!(twins.send(port, Flags::ACK, 102), Some(2), "port {port}");
    }
    assert_eq!(
        twins.send(101, Flags::SYN, 100),
        Some(2),
        "and new ones still come in"
    );
    assert_eq!(twins.send(101, Flags::ACK, 101), Some(2));
}

#[test]
fn an_icmp_error_follows_its_flow_and_leaves_nothing_behind() {
    for (client, service) in [(CLIENT, ONE), (CLIENT6, ONE6)] {
        let mut twins = Twins::new(client, service, 1024);
        twins.set_slots(tracked(1, 2));
        assert_eq!(twins.send_error(1000), Some(1), "an old connection has no record");
        assert_eq!(twins.send(2000, Flags::SYN, 100), Some(2));
        assert_eq!(twins.send_error(2000), Some(2), "a half-open one has one");
        assert_eq!(twins.send(2000, Flags::ACK, 101), Some(2));
        twins.set_slots(tracked(1, 3));
        assert_eq!(twins.send_error(2000), Some(2), "so has an established one");
        assert_eq!(twins.send(2000, Flags::FIN | Flags::ACK, 101), Some(2));
        assert_eq!(twins.send_error(2000), Some(2), "and one that ends");
        let slots = twins.host.service(service);
        twins.set_slots(tracked(1, 2));
        twins.send_error(3000);
        for index in slots.slot_indices() {
            assert_eq!(
                twins.kernel.slot(index).unwrap(),
                tracked(1, 2),
                "the settled path was not used"
            );
        }
        assert_eq!(twins.kernel.counter(Counter::IcmpErrorForwarded).unwrap(), 5);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Send { port: u16, flags: u8, sequence: u32 },
    Slots { settled: u16, current: u16 },
    Short(bool),
}

#[test]
fn host_and_kernel_remember_the_same() {
    let twins = RefCell::new(Twins::new(CLIENT, ONE, 4096));
    let flags = prop_oneof![
        3 => Just(Flags::SYN),
        4 => Just(Flags::ACK),
        1 => Just(Flags::FIN | Flags::ACK),
        1 => Just(Flags::RST),
        1 => any::<u8>(),
    ];
    let step = prop_oneof![
        8 => (1u16..5, flags, prop_oneof![0u32..4, any::<u32>()])
            .prop_map(|(port, flags, sequence)| Step::Send { port, flags, sequence }),
        1 => (0u16..4, 0u16..4).prop_map(|(settled, current)| Step::Slots { settled, current }),
        1 => any::<bool>().prop_map(Step::Short),
    ];
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(steps in proptest::collection::vec(step, 1..60))| {
        let twins = &mut *twins.borrow_mut();
        twins.set_slots(tracked(1, 2));
        for step in steps {
            match step {
                Step::Send { port, flags, sequence } => {
                    twins.send(port, flags, sequence);
                }
                Step::Slots { settled, current } => twins.set_slots(tracked(settled, current)),
                Step::Short(short) => {
                    twins.kernel.set_records_short(short).unwrap();
                    twins.host.short = short;
                }
            }
        }
    });
}
