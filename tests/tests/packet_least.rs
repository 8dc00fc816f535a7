//! Tier 1: placement by live connections. The same packets, one after the other, through the XDP program with its maps and through
//! the decision with ordinary collections: same choice, same memory, same counts; and the counts are those of the records.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use lab::agreement;
use lab::emulation::is_emulated;
use lab::kernel_clock::{ticks, within_a_tick};
use lab::kernel_tables;
use lb_common::headers::tcp::Flags;
use lb_common::layout::{FlowKey, Live, NO_TARGET, Return, ReturnKey, Service, ServiceKey, Slot, Target};
use lb_common::process::Action;
use lb_common::testing::tables::{AFFINE, NAT, SLOTS, TARGETS, THREE, THREE6, nat_target};
use lb_common::testing::{Frame, HostTables};
use lb_common::translation::is_way_back_of;
use lb_ctl::adapters::datapath::Datapath;
use lb_ctl::core::census::Census;
use lb_ctl::core::live_counts::Reconciliation;
use proptest::prelude::*;

/// In ticks.
const IDLE_TIMEOUT: u32 = 1000;

/// The program and the host's tables, filled alike, and a service with three targets that places each connection.
struct Twins {
    kernel: Datapath,
    host: HostTables,
    service: SocketAddr,
}

impl Twins {
    /// With room for so many established records.
    fn new(service: SocketAddr, flows: u32) -> Self {
        let mut host = HostTables::fixture();
        host.flows.clear();
        host.returns.clear();
        host.live.clear();
        if service == NAT {
            for (id, number) in (1..4).zip(101u8..) {
                let backend = SocketAddr::from(([192, 0, 2, number], 21050));
                host.targets[id] = nat_target(backend, [2, 0, 0, 1, 0, number]);
            }
        }
        for target in &mut host.targets {
            *target = target.weighing(1);
        }
        let key = ServiceKey::tcp(service.ip().into(), service.port());
        let entry = host.services.get_mut(&key).unwrap();
        entry.candidates = 3;
        for index in 0..entry.slots {
            let slot = Slot {
                settled: NO_TARGET,
                current: u16::try_from(index % 3).unwrap() + 1,
                tracked: true,
                settled_seen: 0,
                grace: 0,
            };
            host.slots[(entry.first_slot + index) as usize] = slot.to_bits();
        }
        host.room = Some(flows as usize);
        let kernel = kernel_tables::load(&host, flows, 1024).unwrap();
        Self {
            kernel,
            host,
            service,
        }
    }

    fn entry(&self) -> Service {
        self.host.service(self.service)
    }

    fn client(&self, number: u16) -> SocketAddr {
        let [high, low] = number.to_be_bytes();
        let address = match self.service {
            SocketAddr::V4(_) => IpAddr::from([198, 51, high, low]),
            SocketAddr::V6(_) => IpAddr::from([0x2001, 0xdb8, 7, 0, 0, 0, 0, number]),
        };
        SocketAddr::new(address, 40_000)
    }

    fn flow(&self, number: u16) -> FlowKey {
        FlowKey::new(self.client(number).ip().into(), 40_000, self.entry().id)
    }

    /// Changes a target on both sides.
    fn change(&mut self, id: u16, change: impl Fn(Target) -> Target) {
        let target = change(self.host.targets[usize::from(id)]);
        self.host.targets[usize::from(id)] = target;
        self.kernel.write_target(id, target).unwrap();
    }

    /// Sends a segment of a client through both, which must agree on everything.
    fn send(&mut self, number: u16, flags: u8, sequence: u32) -> Action {
        within_a_tick();
        let frame = Frame::new(self.client(number), self.service)
            .flags(flags)
            .sequence(sequence)
            .bytes();
        self.host.now = ticks();
        let action = agreement::send(&mut self.kernel, &mut self.host, &frame).unwrap();
        let flow = self.flow(number);
        let kernel = self.kernel.flow_record(flow).unwrap();
        let host = self.host.flows.get(&flow);
        assert_eq!(
            kernel.map(|it| (it.target, it.closing != 0)),
            host.map(|it| (it.target, it.closing != 0))
        );
        let kernel = self.kernel.half_open_record(flow).unwrap();
        assert_eq!(
            kernel.map(|it| it.target),
            self.host.half_open.get(&flow).map(|it| it.target)
        );
        for id in 0..TARGETS {
            let host = self.host.live.get(&id).copied().unwrap_or_default();
            assert_eq!(self.kernel.live(id), host, "target {id}");
        }
        action
    }

    /// Opens and establishes a connection, and returns its target.
    fn connect(&mut self, number: u16) -> u16 {
        self.send(number, Flags::SYN, 100);
        self.send(number, Flags::ACK, 101);
        self.kernel
            .flow_record(self.flow(number))
            .unwrap()
            .unwrap()
            .target
    }

    /// A pass over the records, and what the controller does to the counts after it.
    fn reconcile(&self, reconciliation: &mut Reconciliation) {
        let census = Census::new(ticks(), IDLE_TIMEOUT, false, [self.entry()], BTreeSet::new());
        let census = self.kernel.sweep().unwrap().run(census).unwrap();
        for (id, missing) in reconciliation.after(census.differences()) {
            self.kernel.correct_live(id, missing);
        }
    }

    /// Has both count so many more connections of a target than there are.
    fn miscount(&mut self, id: u16, more: i32) {
        let live = self.host.live.entry(id).or_default();
        live.established = live.established.wrapping_add_signed(more);
        self.kernel.write_live(id, *live);
    }

    fn close(&mut self, number: u16) {
        self.send(number, Flags::FIN | Flags::ACK, 111);
    }

    fn connections(&self) -> [u32; 3] {
        [1, 2, 3].map(|id| self.kernel.live(id).connections())
    }

    /// What the records of the kernel's table say.
    fn census(&self) -> [u32; 3] {
        let mut counts = [0; 3];
        let records = self.kernel.flow_reader().unwrap().established().unwrap();
        for (_, record) in records.iter().filter(|(_, record)| record.closing == 0) {
            counts[usize::from(record.target) - 1] += 1;
        }
        counts
    }

    /// Deletes the records that are over, as the controller does, `after` so many ticks without a packet.
    fn sweep(&mut self, after: u32, reset: BTreeSet<u16>) {
        let services = [self.entry()];
        let census = Census::new(ticks().wrapping_add(after), IDLE_TIMEOUT, false, services, reset);
        self.kernel.sweep().unwrap().run(census.clone()).unwrap();
        let slots = self.host.slots.clone();
        let over: Vec<FlowKey> = self
            .host
            .flows
            .iter()
            .filter(|(key, record)| {
                census.is_over(key, (**record).into(), |index| {
                    Some(Slot::from_bits(slots[index as usize]))
                })
            })
            .map(|(key, _)| *key)
            .collect();
        for key in over {
            let before = self.host.flows.remove(&key);
            self.host.count_live(before, None);
        }
        self.host
            .half_open
            .retain(|key, record| !census.is_over(key, (*record).into(), |_| None));
        self.host
            .affinity
            .retain(|key, noted| !census.is_client_over(key, noted, |_| None));
        let (flows, half_open) = (&self.host.flows, &self.host.half_open);
        let is_needed = |key: &ReturnKey, way_back: &Return| {
            let flow = way_back.flow();
            let established = flows.get(&flow).map(|it| (it.target, it.port));
            let half_open = half_open.get(&flow).map(|it| (it.target, it.port));
            let mut records = established.into_iter().chain(half_open);
            records.any(|(target, port)| is_way_back_of(key, way_back, target, port))
        };
        self.host.returns.retain(|key, way_back| is_needed(key, way_back));
        self.host
            .half_open_returns
            .retain(|key, way_back| is_needed(key, way_back));
    }
}

#[test]
fn connections_are_level_whatever_their_hash_and_stay_so_as_they_end() {
    for service in [THREE, THREE6, NAT, AFFINE] {
        let mut twins = Twins::new(service, 1024);
        // Affinity would keep clients together; with as many clients as connections it has nothing to say.
        let homes: Vec<u16> = (0..30).map(|number| twins.connect(number)).collect();
        assert_eq!(twins.connections(), [10; 3], "{service}");
        // All of one target's.
        for number in (0..30).filter(|number| homes[usize::from(*number)] == 2) {
            twins.close(number);
        }
        assert_eq!(twins.connections(), [10, 0, 10]);
        for number in 100..110 {
            assert_eq!(twins.connect(number), 2, "{service}");
        }
        assert_eq!(twins.connections(), [10; 3]);
        assert_eq!(twins.census(), [10; 3]);
    }
}

#[test]
fn weights_are_respected() {
    let mut twins = Twins::new(THREE, 1024);
    for (id, weight) in [(1, 10), (2, 20), (3, 30)] {
        twins.change(id, |target| target.weighing(weight));
    }
    for number in 0..60 {
        twins.connect(number);
    }
    assert_eq!(twins.connections(), [10, 20, 30]);
}

#[test]
fn a_burst_is_spread_before_any_of_it_is_established() {
    let mut twins = Twins::new(THREE, 1024);
    for number in 0..6 {
        twins.connect(number);
    }
    let mut targets = BTreeMap::<u16, u32>::new();
    let begin = ticks();
    for number in 100..160 {
        twins.send(number, Flags::SYN, 100);
        *targets
            .entry(twins.host.half_open[&twins.flow(number)].target)
            .or_default() += 1;
    }
    // Where a tick has begun meanwhile it begins anew, as level as before.
    let ticks = ticks().wrapping_sub(begin) + 1;
    assert!(
        targets.values().all(|count| count.abs_diff(20) <= ticks),
        "{targets:?}"
    );
}

#[test]
fn who_takes_no_new_connections_gets_none_though_it_has_the_fewest() {
    let mut twins = Twins::new(THREE, 1024);
    for number in 0..12 {
        twins.connect(number);
    }
    twins.change(1, |target| target.shedding(true));
    twins.change(2, |target| target.draining(true));
    for number in 0..12 {
        twins.close(number);
    }
    for number in 100..110 {
        assert_eq!(twins.connect(number), 3);
    }
}

#[test]
fn what_no_record_names_is_reset_and_leaves_nothing() {
    let mut twins = Twins::new(THREE, 1024);
    let reset = twins.send(1, Flags::ACK, 500);
    assert_eq!(reset, Action::Transmit { egress: 0 }, "an RST back");
    assert!(twins.host.settled_flows.is_empty());
    assert!(twins.kernel.settled_flow(twins.flow(1)).unwrap().is_none());
}

#[test]
fn a_connection_that_cannot_be_recorded_is_not_counted() {
    let mut twins = Twins::new(THREE, 4);
    for number in 0..4 {
        twins.connect(number);
    }
    twins.send(10, Flags::SYN, 100);
    twins.send(10, Flags::ACK, 101);
    assert_eq!(twins.connections().iter().sum::<u32>(), 4);
    assert_eq!(twins.connections(), twins.census());
}

#[test]
fn a_wrong_count_is_corrected_once_two_passes_have_found_it() {
    let mut twins = Twins::new(THREE, 1024);
    for number in 0..30 {
        twins.connect(number);
    }
    twins.close(0);
    let right = twins.connections();
    let mut reconciliation = Reconciliation::default();
    // As a controller leaves them that is killed between deleting a record and counting it, and as nothing does.
    twins.miscount(1, 1);
    twins.miscount(2, -20);
    let wrong = twins.connections();
    twins.reconcile(&mut reconciliation);
    assert_eq!(twins.connections(), wrong, "it might be over by itself");
    twins.reconcile(&mut reconciliation);
    assert_eq!(twins.connections(), right);
    assert_eq!(twins.connections(), twins.census());
    twins.reconcile(&mut reconciliation);
    twins.reconcile(&mut reconciliation);
    assert_eq!(twins.connections(), right, "once");
}

#[test]
fn the_count_of_a_target_with_a_handshake_under_way_is_left_alone() {
    let mut twins = Twins::new(THREE, 1024);
    for number in 0..30 {
        twins.connect(number);
    }
    let mut reconciliation = Reconciliation::default();
    twins.miscount(3, -5);
    // It has the fewest.
    twins.send(100, Flags::SYN, 100);
    for _ in 0..3 {
        twins.reconcile(&mut reconciliation);
    }
    assert_eq!(twins.connections(), [10, 10, 5]);
    twins.send(100, Flags::ACK, 101);
    for _ in 0..2 {
        twins.reconcile(&mut reconciliation);
    }
    assert_eq!(twins.connections(), [10, 10, 11]);
    assert_eq!(twins.connections(), twins.census());
}

/// What happens next in the random sequence.
#[derive(Clone, Debug)]
enum Step {
    Send { number: u16, flags: u8, sequence: u32 },
    Weigh { target: u16, weight: u32 },
    Shed { target: u16, sheds: bool },
    Slot { index: u32, settled: u16, current: u16 },
    Sweep { after: u32, reset: Option<u16> },
}

fn step() -> impl Strategy<Value = Step> {
    let flags = proptest::sample::select(vec![
        Flags::SYN,
        Flags::SYN,
        Flags::ACK,
        Flags::ACK,
        Flags::ACK,
        Flags::FIN | Flags::ACK,
        Flags::RST,
    ]);
    let after = proptest::sample::select(vec![0, 57, 700, 1001]);
    prop_oneof![
        20 => (0u16..30, flags, 100u32..103)
            .prop_map(|(number, flags, sequence)| Step::Send { number, flags, sequence }),
        1 => (1u16..4, 0u32..50).prop_map(|(target, weight)| Step::Weigh { target, weight }),
        1 => (1u16..4, any::<bool>()).prop_map(|(target, sheds)| Step::Shed { target, sheds }),
        1 => (0..SLOTS, 0u16..4, 0u16..4)
            .prop_map(|(index, settled, current)| Step::Slot { index, settled, current }),
        1 => (after, proptest::option::of(1u16..4)).prop_map(|(after, reset)| Step::Sweep { after, reset }),
    ]
}

#[test]
fn host_and_kernel_choose_and_count_alike_and_the_counts_are_those_of_the_records() {
    // Each needs a program, which the verifier of an emulated machine takes long for.
    let services: &[_] = if is_emulated() {
        &[NAT]
    } else {
        &[THREE, THREE6, NAT, AFFINE]
    };
    for &service in services {
        let twins = RefCell::new(Twins::new(service, 1024));
        let config = ProptestConfig {
            cases: if is_emulated() { 4 } else { 12 },
            failure_persistence: None,
            ..ProptestConfig::default()
        };
        let seen = RefCell::new(0);
        proptest!(config, |(steps in proptest::collection::vec(step(), 1..80))| {
            let twins = &mut *twins.borrow_mut();
            let first = twins.entry().first_slot;
            for step in steps {
                match step {
                    Step::Send { number, flags, sequence } => {
                        twins.send(number, flags, sequence);
                    }
                    Step::Weigh { target, weight } => twins.change(target, |it| it.weighing(weight)),
                    Step::Shed { target, sheds } => twins.change(target, |it| it.shedding(sheds)),
                    Step::Slot { index, settled, current } => {
                        let slot = Slot { settled, current, tracked: true, settled_seen: 0, grace: 0 };
                        twins.host.slots[(first + index) as usize] = slot.to_bits();
                        twins.kernel.write_slot(first + index, slot).unwrap();
                    }
                    Step::Sweep { after, reset } => twins.sweep(after, reset.into_iter().collect()),
                }
                prop_assert_eq!(twins.connections(), twins.census());
                *seen.borrow_mut() += twins.connections().iter().sum::<u32>();
            }
        });
        assert!(*seen.borrow() > 0, "there were connections");
        assert_eq!(twins.borrow().kernel.live(NO_TARGET), Live::default());
    }
}
