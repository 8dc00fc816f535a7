//! Tier 1: affinity in tracked slots. The same packets, one after the other, through the XDP program with its maps and through the
//! decision with ordinary collections: same bytes, same memory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lab::emulation::is_emulated;
use lab::kernel_clock::ticks;
use lab::kernel_tables;
use lab::xdp_action;
use lb_common::decision::{Verdict, decide};
use lb_common::forward::direct_server_return;
use lb_common::headers::tcp::Flags;
use lb_common::layout::{ClientKey, FlowKey, Service, ServiceKey, Slot, Target};
use lb_common::testing::tables::{AFFINE, AFFINE6};
use lb_common::testing::{Frame, HostTables};
use lb_ctl::adapters::datapath::Datapath;
use proptest::prelude::*;

/// The program and the host's tables, filled alike. All slots of the service are the same.
struct Twins {
    kernel: Datapath,
    host: HostTables,
    service: SocketAddr,
}

impl Twins {
    fn new(service: SocketAddr) -> Self {
        let host = HostTables::fixture();
        Self {
            kernel: kernel_tables::load(&host, 1024, 1024).unwrap(),
            host,
            service,
        }
    }

    fn entry(&self) -> Service {
        self.host.service(self.service)
    }

    fn set_slots(&mut self, slot: Slot) {
        let service = self.entry();
        for index in service.slot_indices() {
            self.host.slots[index as usize] = slot.to_bits();
            self.kernel.write_slot(index, slot).unwrap();
        }
    }

    fn shed(&mut self, id: u16, sheds: bool) {
        self.set_target(id, self.host.targets[usize::from(id)].shedding(sheds));
    }

    fn drain(&mut self, id: u16, drains: bool) {
        self.set_target(id, self.host.targets[usize::from(id)].draining(drains));
    }

    fn set_target(&mut self, id: u16, target: Target) {
        self.host.targets[usize::from(id)] = target;
        self.kernel.write_target(id, target).unwrap();
    }

    fn set_timeout(&mut self, ticks: u32) {
        let key = ServiceKey::tcp(self.service.ip().into(), self.service.port());
        let entry = Service {
            affinity_timeout: ticks,
            ..self.entry()
        };
        self.host.services.insert(key, entry);
        self.kernel.write_service(key, entry).unwrap();
    }

    /// Sends a segment through both, which must agree. Returns the target.
    fn send(&mut self, client: SocketAddr, flags: u8, sequence: u32) -> u16 {
        let frame = Frame::new(client, self.service)
            .flags(flags)
            .sequence(sequence)
            .bytes();
        self.host.now = ticks();
        let Verdict::Forward { id, target, .. } = decide(frame.as_slice(), &self.host) else {
            panic!("all targets of the service are resolved")
        };
        let mut expected = frame.clone();
        direct_server_return(expected.as_mut_slice(), target).unwrap();
        self.host.carry_out();
        let output = self.kernel.test_run(&frame).unwrap();
        assert_eq!(
            (output.action, output.frame),
            (xdp_action::TX, expected),
            "{client}, flags {flags:#x}, sequence {sequence}"
        );
        self.compare(client);
        id
    }

    /// Compares what both remember of a client and its flow. Times may differ by the tick that began in between.
    fn compare(&self, client: SocketAddr) {
        let service = self.entry().id;
        let key = ClientKey::new(client.ip().into(), service);
        let kernel = self.kernel.affinity(key).unwrap();
        let host = self.host.affinity.get(&key);
        assert_eq!(
            kernel.map(|it| it.target),
            host.map(|it| it.target),
            "client {client}"
        );
        if let (Some(kernel), Some(host)) = (kernel, host) {
            assert!(
                kernel.last_seen.wrapping_sub(host.last_seen) <= 1,
                "{kernel:?} {host:?}"
            );
        }
        let key = FlowKey::new(client.ip().into(), client.port(), service);
        assert_eq!(
            self.kernel.flow_record(key).unwrap().map(|it| it.target),
            self.host.flows.get(&key).map(|it| it.target),
            "{client}"
        );
        assert_eq!(
            self.kernel.half_open_record(key).unwrap().map(|it| it.target),
            self.host.half_open.get(&key).map(|it| it.target),
            "{client}"
        );
    }

    /// Opens a connection, sends a little and closes it. Returns the target.
    fn connect(&mut self, client: SocketAddr) -> u16 {
        let id = self.send(client, Flags::SYN, 100);
        for (flags, sequence) in [
            (Flags::ACK, 101),
            (Flags::ACK, 111),
            (Flags::FIN | Flags::ACK, 121),
            (Flags::ACK, 122),
        ] {
            assert_eq!(self.send(client, flags, sequence), id);
        }
        id
    }
}

fn tracked(settled: u16, current: u16, grace: u16) -> Slot {
    Slot {
        settled,
        current,
        tracked: true,
        settled_seen: 0,
        grace,
    }
}

/// The client with this number, at this port.
fn client(service: SocketAddr, number: u8, port: u16) -> SocketAddr {
    let address = if service.is_ipv6() {
        IpAddr::from([0x2001, 0xdb8, 7, 0, 0, 0, 0, number.into()])
    } else {
        IpAddr::from([198, 51, 100, number])
    };
    SocketAddr::new(address, port)
}

#[test]
fn a_client_goes_home_while_its_slot_moves_until_the_home_is_drained() {
    let mut twins = Twins::new(AFFINE);
    for service in [AFFINE, AFFINE6] {
        twins.service = service;
        twins.host.affinity.clear();
        let at = |port| client(service, 7, port);
        let mut port = 40_000;
        let mut connect = |twins: &mut Twins| {
            port += 1;
            twins.connect(at(port))
        };
        twins.set_slots(Slot::untracked(1));
        assert_eq!(connect(&mut twins), 1);
        assert!(twins.host.affinity.is_empty(), "an untracked slot says it all");

        twins.set_slots(tracked(1, 2, 1));
        assert_eq!(
            connect(&mut twins),
            1,
            "in the grace period it may have been there before"
        );
        twins.set_slots(tracked(1, 2, 0));
        assert_eq!(connect(&mut twins), 1, "it is noted there now");
        assert_eq!(
            twins.connect(client(service, 8, 40_000)),
            2,
            "a stranger goes to current"
        );
        twins.set_slots(tracked(1, 3, 0));
        assert_eq!(connect(&mut twins), 1);
        assert_eq!(
            twins.connect(client(service, 8, 40_001)),
            2,
            "neither settled nor current, but at home"
        );

        twins.drain(1, true);
        assert_eq!(connect(&mut twins), 3, "its home is drained");
        twins.drain(1, false);
        assert_eq!(connect(&mut twins), 3, "and no longer its home");
        twins.set_slots(tracked(1, 2, 0));
        twins.shed(3, true);
        assert_eq!(connect(&mut twins), 2, "its home is not well");
        twins.shed(3, false);
        assert_eq!(connect(&mut twins), 2, "and no longer its home");
    }
}

#[test]
fn a_handshake_that_has_begun_ends_on_a_target_that_drains_and_not_on_one_that_sheds() {
    let mut twins = Twins::new(AFFINE);
    twins.set_slots(tracked(1, 2, 0));
    let at = |port| client(AFFINE, 7, port);
    assert_eq!(twins.connect(at(40_000)), 2, "at home");
    twins.set_slots(tracked(1, 3, 0));
    for port in [40_001, 40_002] {
        assert_eq!(twins.send(at(port), Flags::SYN, 100), 2);
    }
    twins.drain(2, true);
    assert_eq!(twins.send(at(40_001), Flags::SYN, 100), 2, "a SYN again");
    assert_eq!(twins.send(at(40_003), Flags::SYN, 100), 3, "a new one");
    assert_eq!(
        twins.send(at(40_001), Flags::ACK, 101),
        2,
        "it goes on where it began"
    );
    twins.shed(2, true);
    assert_eq!(twins.send(at(40_002), Flags::SYN, 100), 3, "nobody answers there");
    assert_eq!(twins.send(at(40_001), Flags::ACK, 102), 2, "it is not given up");
    assert_eq!(twins.send(at(40_002), Flags::ACK, 101), 3);
    twins.shed(2, false);
    twins.drain(2, false);
    assert_eq!(twins.connect(at(40_004)), 3, "at home since");
}

#[test]
fn a_connection_that_outlives_its_backends_drain_does_not_bring_its_client_back() {
    let mut twins = Twins::new(AFFINE);
    let (old, new) = (client(AFFINE, 7, 40_000), client(AFFINE, 7, 40_001));
    twins.set_slots(tracked(1, 2, 0));
    assert_eq!(twins.send(old, Flags::ACK, 5000), 1, "from before the move");
    twins.shed(1, true);
    assert_eq!(twins.connect(new), 2);
    twins.shed(1, false);
    assert_eq!(twins.send(old, Flags::ACK, 5001), 1);
    assert_eq!(twins.connect(client(AFFINE, 7, 40_002)), 2);
}

#[test]
fn affinity_ends_with_its_timeout() {
    let mut twins = Twins::new(AFFINE);
    twins.set_timeout(1);
    twins.set_slots(tracked(1, 2, 0));
    assert_eq!(twins.connect(client(AFFINE, 7, 40_000)), 2);
    twins.set_slots(tracked(1, 3, 0));
    // Three ticks and a bit.
    std::thread::sleep(Duration::from_millis(3300));
    assert_eq!(twins.connect(client(AFFINE, 7, 40_001)), 3);
}

/// What happens next in the random sequence.
#[derive(Clone, Debug)]
enum Step {
    Move {
        settled: u16,
        current: u16,
        grace: bool,
    },
    Admit {
        target: u16,
        sheds: bool,
        drains: bool,
    },
    Send {
        number: u8,
        port: u16,
        flags: u8,
        sequence: u32,
    },
}

#[test]
fn host_and_kernel_note_the_same() {
    let twins = RefCell::new(Twins::new(AFFINE));
    for service in [AFFINE, AFFINE6] {
        twins.borrow_mut().service = service;
        let flags = proptest::sample::select(vec![
            Flags::SYN,
            Flags::ACK,
            Flags::ACK,
            Flags::FIN | Flags::ACK,
            Flags::RST,
        ]);
        let step = prop_oneof![
            1 => (1u16..4, 1u16..4, any::<bool>())
                .prop_map(|(settled, current, grace)| Step::Move { settled, current, grace }),
            1 => (1u16..4, any::<bool>(), any::<bool>())
                .prop_map(|(target, sheds, drains)| Step::Admit { target, sheds, drains }),
            8 => (any::<u8>(), 1u16..4, flags, 100u32..103)
                .prop_map(|(number, port, flags, sequence)| Step::Send { number, port, flags, sequence }),
        ];
        let config = ProptestConfig {
            cases: if is_emulated() { 1 } else { 64 },
            failure_persistence: None,
            ..ProptestConfig::default()
        };
        proptest!(config, |(steps in proptest::collection::vec(step, 1..60), few in 1u8..6)| {
            let twins = &mut *twins.borrow_mut();
            twins.set_slots(tracked(1, 2, 1));
            for step in steps {
                match step {
                    Step::Move { settled, current, grace } => {
                        twins.set_slots(tracked(settled, current, grace.into()));
                    }
                    Step::Admit { target, sheds, drains } => {
                        twins.shed(target, sheds);
                        twins.drain(target, drains);
                    }
                    Step::Send { number, port, flags, sequence } => {
                        // The fewer clients, the more is known of each.
                        twins.send(client(service, number % few, port), flags, sequence);
                    }
                }
            }
        });
        assert!(!twins.borrow().host.affinity.is_empty());
    }
}
