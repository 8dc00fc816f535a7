//! Clients, backends, a controller and time do what they like, in any order: what comes out of translation is what the other
//! side can use.
//!
//! Checksums are computed anew by the builder of frames: each translated frame must be the one that it builds between the
//! translated endpoints, byte by byte.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use proptest::prelude::*;

use super::return_key;
use crate::{
    address::Address,
    counter::Counter,
    headers::tcp::Flags,
    layout::{FlowKey, FlowRecord, Return, ReturnKey, Slot},
    process::{Action, process},
    slot_rule::IDLE,
    testing::{
        Frame, HostTables,
        frame::{BALANCER_MAC, CLIENT_MAC},
        tables::{NAT, NAT6, VIP, VIP6, nat_target},
    },
};

/// Targets of the IPv4 service are 1 and 2, those of the IPv6 service 3 and 4.
const TARGETS: u16 = 4;
/// Clients of each family.
const CLIENTS: u8 = 3;
/// Ports of each client: few, so that clients meet on them.
const PORTS: [u16; 2] = [40_000, 8007];

/// What happens next. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Step {
    /// A client begins a connection with this number.
    Open { client: u8, port: u8, sequence: u32 },
    /// A client sends its last SYN again.
    Retransmit { client: u8, port: u8 },
    /// A client continues its connection.
    Send {
        client: u8,
        port: u8,
        payload: u8,
        flags: u8,
    },
    /// A backend answers the last packet that it has received of a client.
    Answer {
        client: u8,
        port: u8,
        payload: u8,
        flags: u8,
    },
    /// The controller gives new connections to the other target.
    Move,
    /// Half-open records and ways back are evicted, each of them or none.
    Evict { records: bool, ways_back: bool },
    /// Time passes.
    Wait(u8),
    /// The client's packets come from another router.
    Router(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop_oneof![
        6 => Just(Flags::ACK),
        1 => Just(Flags::ACK | Flags::FIN),
        1 => Just(Flags::RST),
    ];
    let answer = prop_oneof![
        3 => Just(Flags::ACK | Flags::SYN),
        4 => Just(Flags::ACK),
        1 => Just(Flags::ACK | Flags::FIN),
        1 => Just(Flags::RST),
    ];
    prop_oneof![
        4 => (any::<u8>(), any::<u8>(), any::<u32>())
            .prop_map(|(client, port, sequence)| Step::Open { client, port, sequence }),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(client, port)| Step::Retransmit { client, port }),
        8 => (any::<u8>(), any::<u8>(), any::<u8>(), flags)
            .prop_map(|(client, port, payload, flags)| Step::Send { client, port, payload, flags }),
        6 => (any::<u8>(), any::<u8>(), any::<u8>(), answer)
            .prop_map(|(client, port, payload, flags)| Step::Answer { client, port, payload, flags }),
        1 => Just(Step::Move),
        1 => any::<(bool, bool)>().prop_map(|(records, ways_back)| Step::Evict { records, ways_back }),
        1 => any::<u8>().prop_map(Step::Wait),
        1 => any::<u8>().prop_map(Step::Router),
    ]
}

/// What a client knows of its connection, and what its backend has seen of it last.
#[derive(Clone, Copy, Debug)]
struct Connection {
    sequence: u32,
    /// The target and the VIP's port; `None` until a packet has come through.
    seen: Option<(u16, u16)>,
    /// Whether the balancer has a record of it.
    established: bool,
}

struct World {
    tables: HostTables,
    connections: BTreeMap<(SocketAddr, SocketAddr), Connection>,
    router: [u8; 6],
}

/// A client, by number and port, and its service.
fn parties(client: u8, port: u8) -> (SocketAddr, SocketAddr) {
    let port = PORTS[usize::from(port) % PORTS.len()];
    let number = client / 2 % CLIENTS;
    if client.is_multiple_of(2) {
        let address = Ipv4Addr::new(198, 51, 100, number);
        (SocketAddr::from((address, port)), NAT)
    } else {
        let address = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, number.into());
        (SocketAddr::from((address, port)), NAT6)
    }
}

fn backend(id: u16) -> SocketAddr {
    let address = if id <= 2 {
        IpAddr::from(Ipv4Addr::new(192, 0, 2, 200 + id.to_be_bytes()[1]))
    } else {
        IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 2, id))
    };
    // One of each pair is on one machine, on another port.
    SocketAddr::new(address, 21_050 + id % 2)
}

fn mac(id: u16) -> [u8; 6] {
    let [high, low] = id.to_be_bytes();
    [2, 0, 0, 2, high, low]
}

impl World {
    fn new() -> Self {
        let mut tables = HostTables::fixture();
        tables.returns.clear();
        tables.flows.clear();
        tables.now = 1000;
        tables.targets.truncate(1);
        tables
            .targets
            .extend((1..=TARGETS).map(|id| nat_target(backend(id), mac(id))));
        let mut world = Self {
            tables,
            connections: BTreeMap::new(),
            router: CLIENT_MAC,
        };
        world.set_slots(0);
        world
    }

    fn set_slots(&mut self, turn: u16) {
        for (service, first) in [(NAT, 1), (NAT6, 3)] {
            for index in self.tables.service(service).slot_indices() {
                self.tables.slots[index as usize] = Slot::untracked(first + turn).to_bits();
            }
        }
    }

    fn process(&mut self, frame: &Frame) -> (Action, Vec<u8>) {
        let mut bytes = frame.bytes();
        let action = process(&mut bytes, &self.tables);
        self.tables.carry_out();
        (action, bytes)
    }

    fn perform(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Open {
                client,
                port,
                sequence,
            } => {
                let (client, service) = parties(client, port);
                let connection = Connection {
                    sequence,
                    seen: None,
                    established: false,
                };
                self.connections.insert((client, service), connection);
                self.syn(client, service)?;
            }
            Step::Retransmit { client, port } => {
                let (client, service) = parties(client, port);
                self.syn(client, service)?;
            }
            Step::Send {
                client,
                port,
                payload,
                flags,
            } => self.send(parties(client, port), payload, flags)?,
            Step::Answer {
                client,
                port,
                payload,
                flags,
            } => self.answer(parties(client, port), payload, flags)?,
            Step::Move => {
                let slot = Slot::from_bits(self.tables.slots[self.first_slot() as usize]);
                self.set_slots(2 - slot.current);
            }
            Step::Evict { records, ways_back } => {
                if records {
                    self.tables.half_open.clear();
                }
                if ways_back {
                    self.tables.half_open_returns.clear();
                }
                if records || ways_back {
                    // What is half open may be lost. Established connections must not notice.
                    self.connections.retain(|_, connection| connection.established);
                }
            }
            Step::Wait(ticks) => self.tables.now += u32::from(ticks),
            Step::Router(number) => self.router = [2, 0, 0, 3, 0, number],
        }
        self.no_two_flows_share_a_way_back()
    }

    fn first_slot(&self) -> u32 {
        self.tables.service(NAT).first_slot
    }

    fn frame(&self, client: SocketAddr, service: SocketAddr) -> Frame {
        Frame::new(client, service).from(self.router)
    }

    /// A SYN goes somewhere, and again to the same place.
    fn syn(&mut self, client: SocketAddr, service: SocketAddr) -> Result<(), TestCaseError> {
        let Some(&connection) = self.connections.get(&(client, service)) else {
            return Ok(());
        };
        if connection.established {
            // Only what was sent before the handshake had ended can still be on its way.
            return Ok(());
        }
        let frame = self
            .frame(client, service)
            .flags(Flags::SYN)
            .sequence(connection.sequence);
        let had_record = self.record(client, service).is_some();
        let (target, port) = self.forwarded(&frame, service, |frame| {
            frame.flags(Flags::SYN).sequence(connection.sequence)
        })?;
        if let Some(seen) = connection.seen
            && !had_record
        {
            prop_assert_eq!(
                (target, port),
                seen,
                "a SYN that is sent again goes where it went"
            );
        }
        prop_assert_ne!(port, service.port(), "the service's own port stands for nobody");
        if let Some(connection) = self.connections.get_mut(&(client, service)) {
            connection.seen = Some((target, port));
        }
        Ok(())
    }

    /// A packet of a client that continues its connection reaches the target that the connection is on.
    fn send(
        &mut self,
        (client, service): (SocketAddr, SocketAddr),
        payload: u8,
        flags: u8,
    ) -> Result<(), TestCaseError> {
        let payload = std::vec![payload; usize::from(payload)];
        let dress = |frame: Frame, sequence| frame.flags(flags).sequence(sequence).payload(&payload);
        let Some(&connection) = self.connections.get(&(client, service)) else {
            // Nobody knows it, unless it is the rest of an earlier one.
            if self.record(client, service).is_none()
                && !self.tables.half_open.contains_key(&key(client, service))
            {
                let (expected, counter) = if flags & Flags::RST == 0 {
                    (Action::Transmit { egress: 0 }, Counter::ResetNoRecord)
                } else {
                    (Action::Drop, Counter::DropNoRecord)
                };
                let before = self.tables.counted(counter);
                let (action, _) = self.process(&dress(self.frame(client, service), 7));
                prop_assert_eq!(action, expected);
                prop_assert_eq!(self.tables.counted(counter), before + 1);
            }
            return Ok(());
        };
        let Some(seen) = connection.seen else {
            return Ok(());
        };
        let in_use = self.record(client, service).filter(|record| {
            !connection.established && record.closing == 0 && self.tables.now - record.last_seen <= IDLE
        });
        if let Some(earlier) = in_use {
            // An earlier connection of the same port is in use: the new one does not come into being before that has ended, and
            // its packets are that one's.
            prop_assert_eq!(seen, (earlier.target, earlier.port));
        }
        let sequence = connection.sequence.wrapping_add(1);
        let frame = dress(self.frame(client, service), sequence);
        let went = self.forwarded(&frame, service, |frame| dress(frame, sequence))?;
        prop_assert_eq!(went, seen, "a connection stays where it began");
        let record = self.record(client, service);
        prop_assert_eq!(record.map(|record| (record.target, record.port)), Some(seen));
        let way_back = self.tables.returns.get(&self.return_key(service, seen));
        prop_assert_eq!(way_back.map(Return::flow), Some(key(client, service)));
        if let Some(connection) = self.connections.get_mut(&(client, service)) {
            connection.established = true;
        }
        if flags & (Flags::FIN | Flags::RST) != 0 {
            prop_assert_eq!(record.map(|record| record.closing != 0), Some(true));
        }
        if flags & Flags::RST != 0 {
            self.connections.remove(&(client, service));
        }
        Ok(())
    }

    /// What the connection's backend answers reaches the client, from the service, by the way that its packets came.
    fn answer(
        &mut self,
        (client, service): (SocketAddr, SocketAddr),
        payload: u8,
        flags: u8,
    ) -> Result<(), TestCaseError> {
        let payload = std::vec![payload; usize::from(payload)];
        let dress = |frame: Frame| frame.flags(flags).sequence(9).payload(&payload);
        let Some(&Connection {
            seen: Some((target, port)),
            established,
            ..
        }) = self.connections.get(&(client, service))
        else {
            return Ok(());
        };
        let vip = SocketAddr::new(service.ip(), port);
        let before = self.tables.counted(Counter::AnswerForwarded);
        let (action, bytes) = self.process(&dress(Frame::new(backend(target), vip)));
        prop_assert!(matches!(action, Action::Transmit { .. }), "{action:?}");
        let addresses = <[u8; 6]>::try_from(&bytes[..6]).unwrap();
        let expected = dress(Frame::new(service, client))
            .from(BALANCER_MAC)
            .destination(addresses)
            .hop_limit(63);
        prop_assert_eq!(bytes, expected.bytes());
        prop_assert_eq!(self.tables.counted(Counter::AnswerForwarded), before + 1);
        if established && flags & (Flags::FIN | Flags::RST) != 0 {
            prop_assert_eq!(
                self.record(client, service).map(|record| record.closing != 0),
                Some(true)
            );
        }
        Ok(())
    }

    /// Sends a client's packet. It must leave as `dress` makes it between the VIP and the backend of some target. Returns the target, and
    /// the VIP's port.
    fn forwarded(
        &mut self,
        frame: &Frame,
        service: SocketAddr,
        dress: impl FnOnce(Frame) -> Frame,
    ) -> Result<(u16, u16), TestCaseError> {
        let (action, bytes) = self.process(frame);
        prop_assert_eq!(action, Action::Transmit { egress: 0 });
        let target = (1..=TARGETS).find(|&id| mac(id) == bytes[..6]);
        let target = target.ok_or_else(|| TestCaseError::fail("it went to nobody"))?;
        let header = if service.is_ipv4() { 14 + 20 } else { 14 + 40 };
        let port = u16::from_be_bytes([bytes[header], bytes[header + 1]]);
        let source = SocketAddr::new(service.ip(), port);
        let expected = dress(Frame::new(source, backend(target)))
            .from(BALANCER_MAC)
            .destination(mac(target))
            .hop_limit(63);
        prop_assert_eq!(bytes, expected.bytes());
        Ok((target, port))
    }

    fn record(&self, client: SocketAddr, service: SocketAddr) -> Option<FlowRecord> {
        self.tables.flows.get(&key(client, service)).copied()
    }

    fn return_key(&self, service: SocketAddr, (target, port): (u16, u16)) -> ReturnKey {
        return_key(
            &self.tables.targets[usize::from(target)],
            service.ip().into(),
            port,
        )
    }

    /// Each record has a way back of its own.
    fn no_two_flows_share_a_way_back(&self) -> Result<(), TestCaseError> {
        let mut keys = BTreeSet::new();
        for (flow, record) in &self.tables.flows {
            let vip = if flow.client().is_v4() { VIP } else { VIP6 };
            let key = self.return_key(SocketAddr::new(vip, 0), (record.target, record.port));
            prop_assert!(keys.insert(key), "{:?} is shared", key);
            let way_back = self.tables.returns.get(&key);
            prop_assert_eq!(way_back.map(Return::flow), Some(*flow));
        }
        // Those that are left over belong to earlier connections of clients that have another record now.
        let mut others = self.tables.returns.iter().filter(|(key, _)| !keys.contains(key));
        prop_assert!(others.all(|(_, way_back)| self.tables.flows.contains_key(&way_back.flow())));
        Ok(())
    }
}

/// The key of a client's flow. The services have the ids of [`HostTables::fixture`].
fn key(client: SocketAddr, service: SocketAddr) -> FlowKey {
    let service = if service.is_ipv4() { 5 } else { 6 };
    FlowKey::new(Address::from(client.ip()), client.port(), service)
}

proptest! {
    #[test]
    fn both_directions_reach_whom_they_are_for(steps in proptest::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        for step in steps {
            world.perform(&step)?;
        }
    }
}

#[test]
fn answers_follow_a_client_that_comes_from_another_router_a_tick_later() {
    let mut world = World::new();
    let (client, service) = parties(0, 0);
    world.connections.insert(
        (client, service),
        Connection {
            sequence: 5,
            seen: None,
            established: false,
        },
    );
    world.syn(client, service).unwrap();
    world.send((client, service), 1, Flags::ACK).unwrap();
    let next_hop = |world: &mut World| {
        let (target, port) = world.connections[&(client, service)].seen.unwrap();
        let vip = SocketAddr::new(service.ip(), port);
        world.process(&Frame::new(backend(target), vip)).1[..6].to_vec()
    };
    assert_eq!(next_hop(&mut world), CLIENT_MAC);
    world.router = [2, 0, 0, 3, 0, 1];
    world.send((client, service), 1, Flags::ACK).unwrap();
    assert_eq!(next_hop(&mut world), CLIENT_MAC, "once per tick is enough");
    world.tables.now += 1;
    world.send((client, service), 1, Flags::ACK).unwrap();
    assert_eq!(next_hop(&mut world), [2, 0, 0, 3, 0, 1]);
}

#[test]
fn clients_that_share_a_port_get_others_until_all_that_are_tried_are_taken() {
    let mut world = World::new();
    // As many clients as there are ports to try, and more, all with the same port.
    let mut ports = BTreeSet::new();
    for number in 0..200u8 {
        let client = SocketAddr::from(([203, 0, 113, number], 40_000));
        for (flags, sequence) in [(Flags::SYN, 1), (Flags::ACK, 2)] {
            let frame = world.frame(client, NAT).flags(flags).sequence(sequence);
            let (_, port) = world
                .forwarded(&frame, NAT, |frame| frame.flags(flags).sequence(sequence))
                .unwrap();
            ports.insert(port);
        }
        assert_eq!(ports.len(), usize::from(number) + 1, "each has its own");
    }
    assert!(ports.contains(&40_000));
    world.no_two_flows_share_a_way_back().unwrap();
}

#[test]
fn a_flood_of_syns_does_not_use_up_the_ports() {
    let mut world = World::new();
    // Every port of the VIP is held by somebody who has sent a SYN only.
    let template = {
        let (client, service) = parties(0, 0);
        world.process(&world.frame(client, service).flags(Flags::SYN));
        let (_, &way_back) = world.tables.half_open_returns.first_key_value().unwrap();
        Return {
            client: Address::v4([203, 0, 113, 1]),
            ..way_back
        }
    };
    world.tables.half_open.clear();
    for port in 1..=u16::MAX {
        let key = world.return_key(NAT, (1, port));
        world.tables.half_open_returns.insert(key, template);
    }
    let client = SocketAddr::from(([198, 51, 100, 77], 40_000));
    for (flags, sequence) in [(Flags::SYN, 1), (Flags::ACK, 2), (Flags::ACK, 70_000)] {
        let frame = world.frame(client, NAT).flags(flags).sequence(sequence);
        world
            .forwarded(&frame, NAT, |frame| frame.flags(flags).sequence(sequence))
            .unwrap();
    }
}
