//! The rule against clients, servers and a controller that do what they like, in any order.
//!
//! Clients open, use, end and reuse connections, new ones perhaps on a target of their own; SYNs are retransmitted, delayed and spoofed; packets are lost before
//! and behind the balancer; the controller moves slots, settles them when it may, and restarts. Whatever happens,
//! a packet of a live connection reaches the target on which it lives.

use proptest::prelude::*;
use std::{collections::BTreeMap, vec, vec::Vec};

use super::{Effect, Event, FIRST_WINDOW, IDLE, Records, choose};
use crate::{
    address::Address,
    decision::Memory,
    layout::{FlowKey, NO_TARGET, Slot, Target},
    testing::{HostTables, tables::resolved_target},
};

/// Targets 1 to 3.
const TARGETS: u16 = 3;
/// Client ports, all of which share the one slot: the worst case for the rule.
const PORTS: u16 = 6;
/// After how many ticks without a packet the controller takes it that no unrecorded connection is left.
const FLOW_IDLE_TIMEOUT: u32 = 300;

/// What happens next. Ports are taken modulo [`PORTS`], targets modulo [`TARGETS`].
#[derive(Clone, Debug)]
enum Step {
    /// The controller sends new connections somewhere else.
    Move(u16),
    /// The controller settles the slot, if it may.
    Settle,
    /// The controller restarts: it knows what the tables say, and nothing else.
    Restart,
    /// A client begins a connection with this number, if the port is free. Its SYN may be lost before the balancer or
    /// behind it.
    Open { port: u16, sequence: u32, lost: Lost },
    /// A client that waits for an answer sends its SYN again.
    Retransmit { port: u16, lost: Lost },
    /// A client sends this many bytes (an acknowledgement if 0), or completes the handshake.
    Send { port: u16, bytes: u16, lost: Lost },
    /// A client ends its connection and frees the port.
    Close { port: u16, reset: bool, lost: Lost },
    /// Somebody sends a FIN or RST in a client's name. Both ends ignore it.
    ForgeEnd { port: u16, sequence: u32 },
    /// Somebody sends a SYN in a client's name.
    Spoof { port: u16, sequence: u32 },
    /// Time passes.
    Wait(u16),
    /// Records begin or cease to run short.
    Short(bool),
    /// New connections are placed each by itself, and all recorded, or no longer: the slot stays tracked meanwhile.
    PlaceEach(bool),
    /// New connections from a port get this target, or the slot's: affinity. It is no concern of the rule why.
    Home { port: u16, target: Option<u16> },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Lost {
    Nowhere,
    BeforeTheBalancer,
    BehindIt,
}

fn step() -> impl Strategy<Value = Step> {
    let lost = prop_oneof![
        6 => Just(Lost::Nowhere),
        1 => Just(Lost::BeforeTheBalancer),
        1 => Just(Lost::BehindIt),
    ];
    // Numbers near the wrap and near each other are the interesting ones.
    let sequence = prop_oneof![any::<u32>(), 0u32..4, (u32::MAX - 3)..=u32::MAX];
    prop_oneof![
        3 => any::<u16>().prop_map(Step::Move),
        2 => Just(Step::Settle),
        1 => Just(Step::Restart),
        4 => (any::<u16>(), sequence.clone(), lost.clone())
            .prop_map(|(port, sequence, lost)| Step::Open { port, sequence, lost }),
        2 => (any::<u16>(), lost.clone()).prop_map(|(port, lost)| Step::Retransmit { port, lost }),
        8 => (any::<u16>(), any::<u16>(), lost.clone())
            .prop_map(|(port, bytes, lost)| Step::Send { port, bytes, lost }),
        2 => (any::<u16>(), any::<bool>(), lost)
            .prop_map(|(port, reset, lost)| Step::Close { port, reset, lost }),
        2 => (any::<u16>(), sequence).prop_map(|(port, sequence)| Step::Spoof { port, sequence }),
        1 => (any::<u16>(), any::<u32>()).prop_map(|(port, sequence)| Step::ForgeEnd { port, sequence }),
        2 => (0u16..200).prop_map(Step::Wait),
        1 => any::<bool>().prop_map(Step::Short),
        2 => any::<bool>().prop_map(Step::PlaceEach),
        1 => (any::<u16>(), any::<Option<u16>>()).prop_map(|(port, target)| Step::Home { port, target }),
    ]
}

/// A connection as its client knows it.
#[derive(Clone, Debug)]
struct Connection {
    first: u32,
    next: u32,
    /// The target that has the SYN, hence answers. `None` while every SYN was lost.
    home: Option<u16>,
    established: bool,
    last_sent: u32,
}

struct World {
    tables: HostTables,
    connections: BTreeMap<u16, Connection>,
    /// What ports get new connections elsewhere, and where.
    homes: BTreeMap<u16, u16>,
    /// Whether each new connection gets a record.
    places_each: bool,
}

impl World {
    fn new() -> Self {
        let mut tables = HostTables::default();
        tables.targets = vec![resolved_target(); usize::from(TARGETS) + 1];
        tables.targets[0] = Target::NONE;
        tables.slots.push(Slot::untracked(1).to_bits());
        Self {
            tables,
            connections: BTreeMap::new(),
            homes: BTreeMap::new(),
            places_each: false,
        }
    }

    fn slot(&self) -> Slot {
        Slot::from_bits(self.tables.slots[0])
    }

    fn set_slot(&mut self, slot: Slot) {
        self.tables.slots[0] = slot.to_bits();
    }

    /// Sends a packet through the balancer, and returns where it went.
    fn forward(&mut self, port: u16, event: Event) -> u16 {
        let slot = self.slot();
        if !slot.tracked {
            return slot.current;
        }
        let slot = match self.homes.get(&port) {
            Some(&current) if event.opens => Slot { current, ..slot },
            _ => slot,
        };
        let slot = if self.places_each && event.opens {
            Slot {
                settled: NO_TARGET,
                ..slot
            }
        } else {
            slot
        };
        let flow = key(port);
        let choice = choose(event, slot, &flow, &self.tables);
        self.tables.perform(&Memory {
            flow,
            slot: 0,
            effect: choice.effect,
        });
        choice.target
    }

    fn perform(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Move(target) => self.move_to(target % TARGETS + 1),
            Step::Settle => self.settle(),
            // All that decides is in the tables.
            Step::Restart => {}
            Step::Open { port, sequence, lost } => self.open(port % PORTS, sequence, lost),
            Step::Retransmit { port, lost } => self.retransmit(port % PORTS, lost)?,
            Step::Send { port, bytes, lost } => self.send(port % PORTS, bytes, lost)?,
            Step::Close { port, reset, lost } => self.close(port % PORTS, reset, lost)?,
            Step::Spoof { port, sequence } => self.spoof(port % PORTS, sequence),
            Step::ForgeEnd { port, sequence } => self.forge_end(port % PORTS, sequence),
            Step::Wait(ticks) => self.wait(u32::from(ticks)),
            Step::Short(short) => self.tables.short = short,
            Step::PlaceEach(each) => self.place_each(each),
            Step::Home { port, target } => {
                let target = target.map(|target| target % TARGETS + 1);
                self.homes.remove(&(port % PORTS));
                self.homes.extend(target.map(|target| (port % PORTS, target)));
            }
        }
        Ok(())
    }

    fn move_to(&mut self, target: u16) {
        let slot = self.slot();
        if slot.tracked || slot.current != target {
            let settled_seen = if slot.tracked {
                slot.settled_seen
            } else {
                truncated(self.tables.now)
            };
            self.set_slot(Slot {
                current: target,
                tracked: true,
                settled_seen,
                ..slot
            });
        }
    }

    /// The slot is tracked before connections are placed so.
    fn place_each(&mut self, each: bool) {
        let slot = self.slot();
        if each && !slot.tracked {
            self.set_slot(Slot {
                tracked: true,
                settled_seen: truncated(self.tables.now),
                ..slot
            });
        }
        self.places_each = each;
    }

    /// The controller's part of the rule: nothing recorded differs from `current`, and nothing unrecorded can be left.
    fn settle(&mut self) {
        let slot = self.slot();
        let idle = truncated(self.tables.now).wrapping_sub(slot.settled_seen);
        if self.places_each {
            if u32::from(idle) > FLOW_IDLE_TIMEOUT {
                self.set_slot(Slot {
                    settled: NO_TARGET,
                    ..slot
                });
            }
            return;
        }
        let nothing_recorded_elsewhere = self
            .tables
            .flows
            .values()
            .all(|record| record.target == slot.current)
            && self
                .tables
                .half_open
                .values()
                .all(|half_open| half_open.target == slot.current);
        let nothing_unrecorded =
            slot.settled == slot.current || slot.settled == NO_TARGET || u32::from(idle) > FLOW_IDLE_TIMEOUT;
        if slot.tracked && nothing_recorded_elsewhere && nothing_unrecorded {
            self.set_slot(Slot::untracked(slot.current));
            // What they say goes without saying now.
            self.tables.flows.clear();
            self.tables.half_open.clear();
        }
    }

    fn open(&mut self, port: u16, sequence: u32, lost: Lost) {
        if self.connections.contains_key(&port) {
            return;
        }
        let connection = Connection {
            first: sequence,
            next: sequence.wrapping_add(1),
            home: None,
            established: false,
            last_sent: self.tables.now,
        };
        self.connections.insert(port, connection);
        self.syn(port, lost);
    }

    fn retransmit(&mut self, port: u16, lost: Lost) -> Result<(), TestCaseError> {
        let Some(connection) = self
            .connections
            .get(&port)
            .filter(|connection| !connection.established)
        else {
            return Ok(());
        };
        // An answer may be on its way from the target that was recorded, so the SYN must go there again. Where nothing was
        // recorded, the answer must have been lost: see the module's documentation.
        let is_recorded = self.slot().tracked && self.tables.half_open(&key(port)).is_some();
        let expected = connection.home.filter(|_| is_recorded);
        if let Some(connection) = self.connections.get_mut(&port) {
            connection.home = expected;
        }
        let target = self.syn(port, lost);
        if let (Some(expected), Some(target)) = (expected, target) {
            prop_assert_eq!(
                target,
                expected,
                "a SYN of port {} was sent again elsewhere",
                port
            );
        }
        Ok(())
    }

    /// Sends a connection's SYN. Returns where it went, if it came as far as the balancer.
    fn syn(&mut self, port: u16, lost: Lost) -> Option<u16> {
        if lost == Lost::BeforeTheBalancer {
            return None;
        }
        let sequence = self.connections.get(&port)?.first;
        let target = self.forward(
            port,
            Event {
                opens: true,
                closes: false,
                sequence,
            },
        );
        if lost == Lost::Nowhere {
            let now = self.tables.now;
            let connection = self.connections.get_mut(&port)?;
            connection.home = Some(target);
            connection.last_sent = now;
        }
        Some(target)
    }

    fn send(&mut self, port: u16, bytes: u16, lost: Lost) -> Result<(), TestCaseError> {
        let now = self.tables.now;
        let Some(connection) = self.connections.get_mut(&port) else {
            return Ok(());
        };
        let Some(home) = connection.home else {
            return Ok(());
        };
        let sequence = connection.next;
        if lost == Lost::BeforeTheBalancer {
            // What is lost is sent again, so the number does not move on.
            return Ok(());
        }
        connection.last_sent = now;
        if lost == Lost::Nowhere {
            connection.established = true;
            connection.next = sequence.wrapping_add(u32::from(bytes));
        }
        let target = self.forward(
            port,
            Event {
                opens: false,
                closes: false,
                sequence,
            },
        );
        prop_assert_eq!(target, home, "a packet of port {} went astray", port);
        Ok(())
    }

    fn close(&mut self, port: u16, reset: bool, lost: Lost) -> Result<(), TestCaseError> {
        let Some(connection) = self.connections.remove(&port) else {
            return Ok(());
        };
        if let (Some(home), true) = (connection.home, lost != Lost::BeforeTheBalancer) {
            let sequence = connection.next;
            let target = self.forward(
                port,
                Event {
                    opens: false,
                    closes: true,
                    sequence,
                },
            );
            prop_assert_eq!(target, home, "the end of port {} went astray", port);
            if !reset {
                let sequence = sequence.wrapping_add(1);
                let target = self.forward(
                    port,
                    Event {
                        opens: false,
                        closes: false,
                        sequence,
                    },
                );
                prop_assert_eq!(
                    target,
                    home,
                    "the last acknowledgement of port {} went astray",
                    port
                );
            }
        }
        // Before a port is used again, its server has to forget it: TIME-WAIT lasts longer than a record is in use.
        self.wait(IDLE + 1);
        Ok(())
    }

    fn spoof(&mut self, port: u16, sequence: u32) {
        // Who guesses the numbers of a connection can do worse than this to it, and a connection that is only
        // beginning has nothing else than its number to be told by.
        if let Some(connection) = self.connections.get(&port) {
            let ahead = connection.next.wrapping_sub(sequence.wrapping_add(1));
            let guessed = ahead <= 2 * FIRST_WINDOW || ahead > u32::MAX - 2 * FIRST_WINDOW;
            if guessed || !connection.established {
                return;
            }
        }
        self.forward(
            port,
            Event {
                opens: true,
                closes: false,
                sequence,
            },
        );
    }

    /// Where it may be the end of a connection that is only beginning, the client is taken not to survive it.
    fn forge_end(&mut self, port: u16, sequence: u32) {
        if self
            .connections
            .get(&port)
            .is_none_or(|connection| connection.established)
        {
            self.forward(
                port,
                Event {
                    opens: false,
                    closes: true,
                    sequence,
                },
            );
        }
    }

    fn wait(&mut self, ticks: u32) {
        self.tables.now = self.tables.now.wrapping_add(ticks);
        // A client that is silent for as long as `flow_idle_timeout` is given up by the controller, as configured.
        let now = self.tables.now;
        self.connections
            .retain(|_, connection| now.wrapping_sub(connection.last_sent) < FLOW_IDLE_TIMEOUT);
    }
}

fn key(port: u16) -> FlowKey {
    FlowKey::new(Address::v4([10, 0, 0, 1]), port, 0)
}

fn truncated(ticks: u32) -> u16 {
    let [low, high, ..] = ticks.to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// Invariants that hold between any two steps.
fn check(world: &World) -> Result<(), TestCaseError> {
    let slot = world.slot();
    if !slot.tracked {
        prop_assert_eq!(slot.settled, slot.current);
    }
    for (&port, connection) in &world.connections {
        let (Some(home), true) = (connection.home, connection.established) else {
            continue;
        };
        match world.tables.flow(&key(port)) {
            None => prop_assert_eq!(home, slot.settled, "port {} lives without a record", port),
            Some(record) if slot.tracked => {
                prop_assert_eq!(home, record.target, "port {} has a record", port);
            }
            Some(_) => {}
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]
    #[test]
    fn no_live_connection_changes_its_target(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        let mut done = Vec::new();
        for step in &steps {
            world.perform(step)?;
            done.push(step);
            check(&world)?;
        }
    }
}

#[test]
fn effects_that_change_nothing_are_told_apart() {
    // Guards the world above: if nothing were ever recorded, the property would hold for the wrong reason.
    let mut world = World::new();
    world.move_to(2);
    world.open(0, 100, Lost::Nowhere);
    assert_eq!(world.tables.half_open.len(), 1);
    world.send(0, 10, Lost::Nowhere).expect("it goes to target 2");
    assert_eq!((world.tables.half_open.len(), world.tables.flows.len()), (0, 1));
    world.wait(1);
    let flow = key(1);
    let event = Event {
        opens: false,
        closes: false,
        sequence: 7,
    };
    let choice = choose(event, world.slot(), &flow, &world.tables);
    assert_eq!(choice.target, 1);
    assert!(matches!(choice.effect, Effect::Noted(note) if note.target == 1));
}
