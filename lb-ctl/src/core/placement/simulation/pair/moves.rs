//! Services move from one balancer to the other, and their clients hear of it.

use super::*;

impl Pair {
    /// Through whom the packets of a client come, or would.
    pub(super) fn node_of(&self, client: Client) -> usize {
        let owner = self.owner[usize::from(client.0)];
        let is_at = |node: usize| self.balancers[node].world.connections.contains_key(&client);
        let has_heard = is_at(1 - owner) || !is_at(owner) && client.1 % 2 == 1;
        if self.arriving.contains(&client.0) && has_heard {
            1 - owner
        } else {
            owner
        }
    }

    /// Says at whom what is arriving.
    fn tell_arrivals(&mut self) {
        for (node, balancer) in self.balancers.iter_mut().enumerate() {
            let arriving = self.arriving.iter().copied();
            let here = arriving.filter(|service| self.owner[usize::from(*service)] != node);
            balancer.inbox.arrive(here.map(key_of));
        }
    }

    /// Who owns a service does so no more, but tells on; packets of its clients come to the other one.
    pub(super) fn arrive(&mut self, service: u16) {
        if !self.arriving.insert(service) {
            return;
        }
        let before = self.owner[usize::from(service)];
        // The former owner follows, and knows what lived when it did not.
        let former = &mut self.balancers[before];
        let followed = former.followed();
        former.set_owned(service, false);
        former.hands_over.insert(service);
        former.world.follow(|owns| !owns);
        former.own();
        former.ask(&followed);
        self.meet_packets(service, 1 - before);
        self.tell_arrivals();
    }

    /// Packets to a service come to a balancer from now on.
    fn meet_packets(&mut self, service: u16, node: usize) {
        let next = &mut self.balancers[node];
        next.delete_unnamed(true);
        let tables = next.world.kernel.tables.clone();
        next.world.refresh_clients(service);
        next.note_changes(&tables);
        self.ticks_since_arrival = 0;
    }

    /// A client hears of it: the packets of its connection come to the other one, and it lives on if that knows it.
    pub(super) fn hear(&mut self, client: Client) {
        let owner = self.owner[usize::from(client.0)];
        if self.arriving.contains(&client.0)
            && let Some(connection) = self.balancers[owner].world.connections.remove(&client)
        {
            self.pass_on(client, &connection, owner);
        }
    }

    /// The packets of a connection come through the other one.
    fn pass_on(&mut self, client: Client, connection: &Connection, from: usize) {
        let former = &mut self.balancers[from];
        let former_now = former.world.kernel.tables.now;
        if connection.established {
            former.known.insert(client, connection.number);
        }
        let next = &mut self.balancers[1 - from];
        let is_known = next.known.remove(&client) == Some(connection.number);
        let Some(home) = next.home(client).filter(|_| is_known) else {
            return;
        };
        self.takeovers.survivors += 1;
        let key = next.world.key(client).expect("it has a home").0;
        self.takeovers.recorded += usize::from(next.world.kernel.tables.flows.contains_key(&key));
        let now = next.world.kernel.tables.now;
        let connection = Connection {
            home: Some(home),
            last_sent: now.wrapping_sub(former_now.wrapping_sub(connection.last_sent)),
            ..connection.clone()
        };
        next.world.connections.insert(client, connection);
    }

    /// The rest of the clients hear of it, and the other one says that it is the owner.
    pub(super) fn take_over(&mut self, service: u16, writes: Option<u32>) {
        self.arrive(service);
        self.arriving.remove(&service);
        self.tell_arrivals();
        let before = self.owner[usize::from(service)];
        let after = 1 - before;
        self.owner[usize::from(service)] = after;
        let former = &mut self.balancers[before];
        former.hands_over.remove(&service);
        let connections = former.take_connections(service);
        if service == AFFINE {
            former.world.homes = Homes::default();
        }
        former.own();

        let was_killed = self.begin_to_own(service, after, writes);
        for (client, connection) in connections {
            self.pass_on(client, &connection, before);
        }
        self.balancers[after]
            .known
            .retain(|client, _| client.0 != service);
        self.balancers[after].own();
        if was_killed {
            self.break_off();
        }
    }

    /// A balancer owns a service from now on. Returns whether its controller was killed.
    fn begin_to_own(&mut self, service: u16, node: usize, writes: Option<u32>) -> bool {
        let next = &mut self.balancers[node];
        next.delete_unnamed(true);
        next.set_owned(service, true);
        let tables = next.world.kernel.tables.clone();
        next.world.kernel.writes_left = writes;
        let taken_over = next.world.take_over(service);
        next.world.kernel.writes_left = None;
        if taken_over.is_err() {
            next.world.restart();
        }
        next.note_changes(&tables);
        taken_over.is_err()
    }

    /// The former owner has it back, and its clients hear of that.
    pub(super) fn turn_back(&mut self, service: u16) {
        if !self.arriving.remove(&service) {
            return;
        }
        self.tell_arrivals();
        let owner = self.owner[usize::from(service)];
        let (key, other) = (key_of(service), &mut self.balancers[1 - owner]);
        if other.followed().contains(&key) {
            other.inbox.forget(&key);
            other.outbox.ask(key);
        }
        let connections = other.take_connections(service);
        if service == AFFINE {
            other.world.homes = Homes::default();
        }
        self.meet_packets(service, owner);
        self.balancers[owner].hands_over.remove(&service);
        self.begin_to_own(service, owner, None);
        for (client, connection) in connections {
            self.pass_on(client, &connection, 1 - owner);
        }
        self.balancers[owner].own();
    }
}
