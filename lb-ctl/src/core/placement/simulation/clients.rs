//! Clients, and what they expect of the balancer.

use std::net::SocketAddr;

use lb_common::{
    address::Address,
    decision::{Verdict, decide},
    headers::tcp::Flags,
    layout::{FlowKey, ServiceKey, TargetName},
    slot_rule::{FIRST_WINDOW, IDLE, Records as _},
    testing::Frame,
};
use proptest::prelude::*;

use super::{
    AFFINE, Client, Connection, FLOW_IDLE_TIMEOUT, Lost, ROOM, World, configuration::service_address,
};
use crate::core::census::HALF_OPEN_TIMEOUT;

impl World {
    pub(super) fn key(&self, (service, port): Client) -> Option<(FlowKey, u32)> {
        let address = service_address(service);
        let entry = self
            .kernel
            .tables
            .services
            .get(&ServiceKey::tcp(address.ip().into(), address.port()))?;
        let client = client_address(port);
        let port = client.port() & entry.port_mask;
        let hash = lb_common::hash::flow(entry.hash_seed, client.ip().into(), port);
        let index = entry.first_slot + lb_common::hash::slot(hash, entry.slots);
        let key = FlowKey::new(Address::from(client.ip()), client.port(), entry.id);
        Some((key, index))
    }

    /// Sends a packet through the balancer, and returns to whom it went. A connection that could not be recorded because
    /// the table is full is no longer followed: it may break, says the counter of such packets.
    pub(super) fn forward(&mut self, client: Client, flags: u8, sequence: u32) -> TargetName {
        let target = self.try_to_forward(client, flags, sequence);
        target.expect("it is a packet of a connection")
    }

    /// The same; `None` for a SYN that is refused. A service that places each connection and has just been taken over does so if all who
    /// got new ones from its former owner take none, until its slots may move.
    fn try_to_forward(&mut self, client: Client, flags: u8, sequence: u32) -> Option<TargetName> {
        if client.0 == AFFINE {
            // What is noted is noted once a tick: two packets in one would be hard to tell apart.
            self.kernel.tables.now = self.kernel.tables.now.wrapping_add(1);
        }
        let homes = self.homes_for_a_new_connection(client);
        let frame = Frame::new(client_address(client.1), service_address(client.0))
            .flags(flags)
            .sequence(sequence);
        let stands_still = self
            .service_id(client.0)
            .is_some_and(|id| self.placement.stands_still(id));
        let may_be_refused = flags == Flags::SYN && self.places_each[usize::from(client.0)] && stands_still;
        let tables = &mut self.kernel.tables;
        let id = match decide(frame.bytes().as_slice(), tables) {
            Verdict::Forward { id, .. } => id,
            Verdict::Reset { .. } if may_be_refused => return None,
            verdict => panic!("{verdict:?} for {client:?}"),
        };
        tables.carry_out();
        let target = self.kernel.names[usize::from(id)];
        if flags & Flags::SYN == 0 {
            self.show(client, target);
        } else if let Some(homes) = homes {
            assert!(
                homes.contains(&target),
                "{client:?} was at home on {homes:?}, and its new connection went to {target:?}"
            );
        }
        let tables = &self.kernel.tables;
        if flags & Flags::SYN == 0 && tables.flows.len() >= usize::from(ROOM) {
            let (key, index) = self.key(client).expect("it was forwarded");
            let tables = &self.kernel.tables;
            let half_open = tables
                .half_open(&key)
                .is_some_and(|record| sequence.wrapping_sub(record.sequence.wrapping_add(1)) <= FIRST_WINDOW);
            if self.kernel.load(index).tracked && half_open {
                self.connections.remove(&client);
            }
        }
        Some(target)
    }

    pub(super) fn open(&mut self, client: Client, sequence: u32, lost: Lost) {
        if self.connections.contains_key(&client) || self.key(client).is_none() {
            return;
        }
        self.opened += 1;
        let connection = Connection {
            number: self.opened,
            first: sequence,
            next: sequence.wrapping_add(1),
            home: None,
            established: false,
            last_sent: self.kernel.tables.now,
        };
        self.connections.insert(client, connection);
        self.syn(client, lost);
    }

    pub(super) fn retransmit(&mut self, client: Client, lost: Lost) -> Result<(), TestCaseError> {
        let Some(connection) = self.connections.get(&client).filter(|it| !it.established) else {
            return Ok(());
        };
        // Where nothing was recorded, the first answer must have been lost: see `lb_common::slot_rule`.
        let is_recorded = self.key(client).is_some_and(|(key, index)| {
            self.kernel.load(index).tracked && self.kernel.tables.half_open(&key).is_some()
        });
        let expected = connection.home.filter(|_| is_recorded);
        if let Some(connection) = self.connections.get_mut(&client) {
            connection.home = expected;
        }
        let target = self.syn(client, lost);
        if let (Some(expected), Some(target)) = (expected, target) {
            prop_assert_eq!(target, expected, "a SYN of {:?} was sent again elsewhere", client);
        }
        Ok(())
    }

    fn syn(&mut self, client: Client, lost: Lost) -> Option<TargetName> {
        if lost == Lost::BeforeTheBalancer {
            return None;
        }
        let sequence = self.connections.get(&client)?.first;
        let Some(target) = self.try_to_forward(client, Flags::SYN, sequence) else {
            self.connections.remove(&client);
            return None;
        };
        if lost == Lost::Nowhere {
            let now = self.kernel.tables.now;
            let connection = self.connections.get_mut(&client)?;
            connection.home = Some(target);
            connection.last_sent = now;
        }
        Some(target)
    }

    pub(super) fn send(&mut self, client: Client, bytes: u16, lost: Lost) -> Result<(), TestCaseError> {
        let now = self.kernel.tables.now;
        let Some(connection) = self.connections.get_mut(&client) else {
            return Ok(());
        };
        let Some(home) = connection.home.filter(|_| lost != Lost::BeforeTheBalancer) else {
            return Ok(());
        };
        let sequence = connection.next;
        connection.last_sent = now;
        if lost == Lost::Nowhere {
            connection.established = true;
            connection.next = sequence.wrapping_add(bytes.into());
        }
        let target = self.forward(client, Flags::ACK, sequence);
        prop_assert_eq!(target, home, "a packet of {:?} went astray", client);
        Ok(())
    }

    pub(super) fn close(&mut self, client: Client, lost: Lost) -> Result<(), TestCaseError> {
        let Some(connection) = self.connections.remove(&client) else {
            return Ok(());
        };
        if let (Some(home), true) = (connection.home, lost != Lost::BeforeTheBalancer) {
            let target = self.forward(client, Flags::FIN | Flags::ACK, connection.next);
            prop_assert_eq!(target, home, "the end of {:?} went astray", client);
            let after = self.forward(client, Flags::ACK, connection.next.wrapping_add(1));
            prop_assert_eq!(after, home, "the last acknowledgement of {:?}", client);
        }
        // Before a port is used again, its server has to forget it: TIME-WAIT lasts longer than a record is in use.
        self.wait(IDLE + 1);
        Ok(())
    }

    pub(super) fn spoof(&mut self, client: Client, sequence: u32) {
        if self.key(client).is_none() {
            return;
        }
        // Who guesses the numbers of a connection can do worse than this to it, and a connection that is only beginning
        // has nothing else than its number to be told by.
        if let Some(connection) = self.connections.get(&client) {
            let ahead = connection.next.wrapping_sub(sequence.wrapping_add(1));
            let guessed = ahead <= 2 * FIRST_WINDOW || ahead > u32::MAX - 2 * FIRST_WINDOW;
            if guessed || !connection.established {
                return;
            }
        }
        self.try_to_forward(client, Flags::SYN, sequence);
    }

    /// Time passes. A client that is silent for as long as `flow_idle_timeout` is given up, as configured, and so is a
    /// handshake that takes more than a minute.
    pub(super) fn wait(&mut self, ticks: u32) {
        let tables = &mut self.kernel.tables;
        tables.now = tables.now.wrapping_add(ticks);
        self.end_idle_connections();
    }

    /// Nobody may count on a connection that has been idle for longer than the balancer is told to remember it.
    pub(super) fn end_idle_connections(&mut self) {
        let now = self.kernel.tables.now;
        self.connections.retain(|_, connection| {
            let silent = now.wrapping_sub(connection.last_sent);
            silent
                < if connection.established {
                    FLOW_IDLE_TIMEOUT
                } else {
                    HALF_OPEN_TIMEOUT
                }
        });
    }
}

/// Three clients share the ports.
pub(super) fn client_address(port: u16) -> SocketAddr {
    let host = if port.is_multiple_of(3) {
        1
    } else {
        2 + port.to_be_bytes()[1] % 2
    };
    SocketAddr::from(([10, 0, 0, host], 40_000 + port))
}
