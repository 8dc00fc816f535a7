//! Tier 1: translated connections in the kernel. The same packets, one after the other and from both sides, through the XDP program
//! with its maps and through the decision with ordinary collections: same frames, same memory, and the same end of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;

use lab::agreement;
use lab::emulation::is_emulated;
use lab::kernel_clock::ticks;
use lab::kernel_tables;
use lb_common::counter::Counter;
use lb_common::headers::tcp::Flags;
use lb_common::layout::{FlowKey, ReturnKey, Service};
use lb_common::process::Action;
use lb_common::testing::cases::{CLIENT, CLIENT6};
use lb_common::testing::tables::{NAT, NAT_BACKEND, NAT_BACKEND6, NAT6};
use lb_common::testing::{Frame, HostTables};
use lb_ctl::adapters::datapath::Datapath;
use lb_ctl::core::census::{CLOSING_TIMEOUT, Census};
use proptest::prelude::*;

/// In ticks.
const IDLE_TIMEOUT: u32 = 1000;
const PORT: u16 = 40_000;

/// The program and the host's tables, filled alike, and one service.
struct Twins {
    kernel: Datapath,
    host: HostTables,
    client: SocketAddr,
    service: SocketAddr,
    backend: SocketAddr,
}

impl Twins {
    fn new(v6: bool) -> Self {
        let mut host = HostTables::fixture();
        // Only what the tests send.
        host.flows.clear();
        host.returns.clear();
        let kernel = kernel_tables::load(&host, 1024, 1024).unwrap();
        let (client, service, backend) = if v6 {
            (CLIENT6, NAT6, NAT_BACKEND6)
        } else {
            (CLIENT, NAT, NAT_BACKEND)
        };
        Self {
            kernel,
            host,
            client,
            service,
            backend,
        }
    }

    fn entry(&self) -> Service {
        self.host.service(self.service)
    }

    /// A client of this number, all with the same port.
    fn client(&self, number: u8) -> SocketAddr {
        let mut address = match self.client {
            SocketAddr::V4(client) => client.ip().to_ipv6_mapped().octets(),
            SocketAddr::V6(client) => client.ip().octets(),
        };
        address[15] = number;
        SocketAddr::new(
            std::net::IpAddr::from(std::net::Ipv6Addr::from(address)).to_canonical(),
            PORT,
        )
    }

    fn flow(&self, number: u8) -> FlowKey {
        FlowKey::new(self.client(number).ip().into(), PORT, self.entry().id)
    }

    fn return_key(&self, port: u16) -> ReturnKey {
        ReturnKey::new(
            self.backend.ip().into(),
            self.backend.port(),
            self.service.ip().into(),
            port,
        )
    }

    /// The port that stands for a client, by its record of either kind; 0 without one.
    fn port_of(&self, number: u8) -> u16 {
        let established = self.host.flows.get(&self.flow(number)).map(|it| it.port);
        let half_open = self.host.half_open.get(&self.flow(number)).map(|it| it.port);
        established.or(half_open).unwrap_or_default()
    }

    /// Sends a frame through both, which must agree, and returns whether it was transmitted.
    fn send(&mut self, frame: &Frame) -> bool {
        self.host.now = ticks();
        let action = agreement::send(&mut self.kernel, &mut self.host, &frame.bytes()).unwrap();
        matches!(action, Action::Transmit { .. })
    }

    fn client_sends(&mut self, number: u8, flags: u8, sequence: u32) -> bool {
        let frame = Frame::new(self.client(number), self.service)
            .flags(flags)
            .sequence(sequence)
            .payload(b"select 1");
        self.send(&frame)
    }

    fn backend_sends(&mut self, port: u16, flags: u8) -> bool {
        let frame = Frame::new(self.backend, SocketAddr::new(self.service.ip(), port))
            .flags(flags)
            .payload(b"1 row");
        self.send(&frame)
    }

    /// Compares what both remember of a client. Times may differ by the tick that began in between.
    fn compare(&self, number: u8) {
        let flow = self.flow(number);
        let kernel = self.kernel.flow_record(flow).unwrap();
        let host = self.host.flows.get(&flow);
        assert_eq!(
            kernel.map(|it| (it.target, it.closing != 0, it.port)),
            host.map(|it| (it.target, it.closing != 0, it.port))
        );
        if let (Some(kernel), Some(host)) = (kernel, host) {
            // Always odd, so that two follow each other at a distance of two.
            assert!(
                kernel.closing.wrapping_sub(host.closing) <= 2,
                "{kernel:?} {host:?}"
            );
        }
        let kernel = self.kernel.half_open_record(flow).unwrap();
        let host = self.host.half_open.get(&flow);
        assert_eq!(
            kernel.map(|it| (it.target, it.port, it.sequence)),
            host.map(|it| (it.target, it.port, it.sequence))
        );
        let key = self.return_key(self.port_of(number));
        assert_eq!(
            self.kernel.way_back(key).unwrap(),
            self.host.returns.get(&key).copied()
        );
        assert_eq!(
            self.kernel.half_open_way_back(key).unwrap(),
            self.host.half_open_returns.get(&key).copied()
        );
    }

    /// Which ways back there are to a port: established, half open.
    fn ways_back(&self, port: u16) -> (bool, bool) {
        let key = self.return_key(port);
        (
            self.kernel.way_back(key).unwrap().is_some(),
            self.kernel.half_open_way_back(key).unwrap().is_some(),
        )
    }

    /// Has both forget all connections.
    fn forget(&mut self) {
        self.pass(0, &[]);
        self.host.flows.clear();
        self.host.half_open.clear();
        self.host.returns.clear();
        self.host.half_open_returns.clear();
    }

    /// A pass over the kernel's records, that many ticks later.
    fn pass(&self, later: u32, services: &[Service]) {
        let census = Census::new(
            ticks() + later,
            IDLE_TIMEOUT,
            false,
            services.iter().copied(),
            BTreeSet::new(),
        );
        self.kernel.sweep().unwrap().run(census).unwrap();
    }
}

#[test]
fn a_connection_is_the_same_to_host_and_kernel_from_its_syn_to_its_end() {
    for v6 in [false, true] {
        let mut twins = Twins::new(v6);
        for number in [1, 2] {
            for _ in 0..2 {
                assert!(twins.client_sends(number, Flags::SYN, 100));
                twins.compare(number);
            }
            let port = twins.port_of(number);
            assert_eq!(port == PORT, number == 1, "the second finds the port taken");
            assert_eq!(twins.ways_back(port), (false, true));
            assert!(twins.backend_sends(port, Flags::SYN | Flags::ACK));
            assert!(twins.client_sends(number, Flags::ACK, 101));
            assert_eq!(twins.ways_back(port), (true, false));
            for _ in 0..2 {
                assert!(twins.backend_sends(port, Flags::ACK));
                assert!(twins.client_sends(number, Flags::ACK, 109));
            }
            twins.compare(number);
        }
        assert!(twins.backend_sends(PORT, Flags::FIN | Flags::ACK));
        twins.compare(1);
        assert!(twins.client_sends(2, Flags::RST, 110));
        twins.compare(2);
        // An RST of nobody, and a segment of nobody, which is answered by one.
        assert!(!twins.client_sends(3, Flags::RST, 7));
        assert!(twins.client_sends(3, Flags::ACK, 7));
        assert_eq!(twins.kernel.counter(Counter::DropNoRecord).unwrap(), 1);
        assert_eq!(twins.kernel.counter(Counter::ResetNoRecord).unwrap(), 1);
        assert!(
            !twins.backend_sends(PORT + 1, Flags::ACK),
            "an answer to nobody is the kernel's"
        );
    }
}

#[test]
fn ways_back_go_with_their_records() {
    for v6 in [false, true] {
        let mut twins = Twins::new(v6);
        let entry = twins.entry();
        twins.client_sends(1, Flags::SYN, 100);
        twins.client_sends(1, Flags::ACK, 101);
        twins.client_sends(2, Flags::SYN, 100);
        let ports = [1, 2].map(|number| twins.port_of(number));
        let ways_back = |twins: &Twins| ports.map(|port| twins.ways_back(port));
        twins.pass(0, &[entry]);
        assert_eq!(ways_back(&twins), [(true, false), (false, true)], "none is over");
        twins.pass(60, &[entry]);
        assert_eq!(
            ways_back(&twins),
            [(true, false), (false, false)],
            "a handshake that is not completed ends after a minute"
        );
        twins.client_sends(1, Flags::FIN | Flags::ACK, 102);
        twins.pass(CLOSING_TIMEOUT + 2, &[entry]);
        assert_eq!(
            ways_back(&twins),
            [(false, false); 2],
            "a closing one after eleven minutes"
        );

        twins.forget();
        twins.client_sends(1, Flags::SYN, 100);
        twins.client_sends(1, Flags::ACK, 101);
        twins.client_sends(2, Flags::SYN, 100);
        twins.pass(0, &[]);
        assert_eq!(ways_back(&twins), [(false, false); 2], "all with their service");
    }
}

/// Whatever comes from three clients and their backend, in whatever order.
#[test]
fn host_and_kernel_remember_the_same_of_any_packets() {
    let flags = prop_oneof![
        3 => Just(Flags::SYN),
        6 => Just(Flags::ACK),
        1 => Just(Flags::FIN | Flags::ACK),
        1 => Just(Flags::RST),
    ];
    let sequence = prop_oneof![Just(100u32), Just(101), Just(70_000), any::<u32>()];
    let packet = (any::<bool>(), 1u8..4, flags, sequence);
    let conversation = proptest::collection::vec(packet, 1..100);
    let mut config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if is_emulated() {
        config.cases = 4;
    }
    for v6 in [false, true] {
        let twins = RefCell::new(Twins::new(v6));
        proptest!(config.clone(), |(packets in &conversation)| {
            let twins = &mut *twins.borrow_mut();
            twins.forget();
            for (from_client, number, flags, sequence) in packets {
                if from_client {
                    twins.client_sends(number, flags, sequence);
                } else {
                    let port = twins.port_of(number);
                    twins.backend_sends(port, flags);
                }
                for number in 1..4 {
                    twins.compare(number);
                }
            }
        });
    }
}
