//! Tier 1: passes over the kernel's records, of connections that the XDP program has recorded.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::Range;

use lab::kernel_clock::ticks;
use lab::kernel_tables;
use lab::xdp_action;
use lb_common::headers::tcp::Flags;
use lb_common::layout::{FlowKey, Service, ServiceKey, Slot};
use lb_common::testing::cases::CLIENT;
use lb_common::testing::tables::ONE;
use lb_common::testing::{Frame, HostTables};
use lb_ctl::adapters::datapath::Datapath;
use lb_ctl::core::census::{CLOSING_TIMEOUT, Census};

/// In ticks.
const IDLE_TIMEOUT: u32 = 1000;

/// More than a batch of them.
const PORTS: Range<u16> = 10_000..20_000;

/// The program, with all slots of one service on their way from target 1 to target 2.
struct Kernel {
    datapath: Datapath,
    service: Service,
}

impl Kernel {
    fn new(flows: u32) -> Self {
        let host = HostTables::fixture();
        let sizes = kernel_tables::sizes(&host, flows, 65_536).unwrap();
        let mut datapath = Datapath::load(sizes).expect("tests need root");
        for (id, &target) in (0..).zip(&host.targets) {
            datapath.write_target(id, target).unwrap();
        }
        let key = ServiceKey::tcp(ONE.ip().into(), ONE.port());
        let service = host.services[&key];
        datapath.write_service(key, service).unwrap();
        datapath.write_node(&host.node.unwrap()).unwrap();
        let mut kernel = Self { datapath, service };
        kernel.set_slots(Slot {
            settled: 1,
            current: 2,
            tracked: true,
            settled_seen: 0,
            grace: 0,
        });
        kernel
    }

    fn set_slots(&mut self, slot: Slot) {
        for index in self.service.slot_indices() {
            self.datapath.write_slot(index, slot).unwrap();
        }
    }

    fn send(&mut self, port: u16, flags: u8, sequence: u32) {
        let frame = Frame::new(SocketAddr::new(CLIENT.ip(), port), ONE)
            .flags(flags)
            .sequence(sequence);
        assert_eq!(
            self.datapath.test_run(&frame.bytes()).unwrap().action,
            xdp_action::TX
        );
    }

    /// Begins connections from these ports.
    fn open(&mut self, ports: Range<u16>) {
        for port in ports {
            self.send(port, Flags::SYN, 100);
        }
    }

    /// Completes their handshakes.
    fn establish(&mut self, ports: Range<u16>) {
        for port in ports {
            self.send(port, Flags::ACK, 101);
        }
    }

    /// A pass that takes the time to be so many ticks later than it is.
    fn pass(&self, later: u32, service: Service, reset: &[u16]) -> Census {
        let reset: BTreeSet<u16> = reset.iter().copied().collect();
        let census = Census::new(ticks() + later, IDLE_TIMEOUT, false, [service], reset);
        self.datapath.sweep().unwrap().run(census).unwrap()
    }

    fn records(&self) -> (usize, usize) {
        let key = |port| FlowKey::new(CLIENT.ip().into(), port, self.service.id);
        let half_open = PORTS.filter(|&port| self.datapath.half_open_record(key(port)).unwrap().is_some());
        let established = PORTS.filter(|&port| self.datapath.flow_record(key(port)).unwrap().is_some());
        (half_open.count(), established.count())
    }
}

#[test]
fn a_pass_counts_every_record_and_deletes_those_that_are_over() {
    let mut kernel = Kernel::new(65_536);
    kernel.open(PORTS);
    kernel.establish(PORTS.start..PORTS.end - 1000);
    assert_eq!(kernel.records(), (1000, 9000));
    let census = kernel.pass(0, kernel.service, &[]);
    assert_eq!((census.established(), census.flows(2)), (9000, 9000));
    assert!(census.names(2) && !census.names(1));
    assert_eq!(kernel.records(), (1000, 9000), "none is over");

    // After a minute and a bit, the handshakes that were not completed are.
    let census = kernel.pass(60, kernel.service, &[]);
    assert_eq!(census.established(), 9000);
    assert_eq!(kernel.records(), (0, 9000));
    kernel.send(PORTS.start, Flags::FIN | Flags::ACK, 101);
    kernel.pass(CLOSING_TIMEOUT + 2, kernel.service, &[]);
    assert_eq!(kernel.records(), (0, 8999), "one was closing");
    let census = kernel.pass(IDLE_TIMEOUT + 2, kernel.service, &[]);
    assert_eq!((census.established(), kernel.records()), (0, (0, 0)));
}

#[test]
fn records_go_with_their_service_with_a_reset_target_and_with_their_use() {
    let mut kernel = Kernel::new(65_536);
    let ports = || PORTS.start..PORTS.start + 100;
    let other = Service {
        id: 9,
        ..kernel.service
    };
    kernel.open(ports());
    kernel.establish(ports());
    assert_eq!(kernel.pass(0, other, &[]).established(), 0);
    assert_eq!(kernel.records(), (0, 0), "of a service that is gone");

    kernel.open(ports());
    kernel.establish(ports());
    assert_eq!(kernel.pass(0, kernel.service, &[1]).established(), 100);
    assert_eq!(kernel.pass(0, kernel.service, &[2]).established(), 0);

    kernel.open(ports());
    kernel.establish(ports());
    kernel.set_slots(Slot::untracked(1));
    assert_eq!(kernel.pass(0, kernel.service, &[]).established(), 100);
    kernel.set_slots(Slot::untracked(2));
    assert_eq!(kernel.pass(0, kernel.service, &[]).established(), 0);
    assert_eq!(kernel.records(), (0, 0), "what the slots say needs no record");
}

#[test]
fn a_full_table_of_records_is_read_to_its_end() {
    let mut kernel = Kernel::new(1024);
    kernel.open(PORTS);
    kernel.establish(PORTS);
    let census = kernel.pass(0, kernel.service, &[]);
    // A preallocated hash map holds its size, and a few in the free lists of the CPUs.
    assert!(
        (1000..=1024 + 64).contains(&census.established()),
        "{}",
        census.established()
    );
    assert_eq!(census.established(), kernel.records().1 as u64);
}
