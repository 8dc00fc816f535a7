//! Two balancers, of which each owns some services and follows the others, told by way of [`sync`](crate::core::sync).
//!
//! All that happens to one balancer happens to either; the connection between them breaks, tells a part, or loses news; services are
//! taken over back and forth at any moment, by a controller that may be killed meanwhile; or they arrive first, while one client after the
//! other hears of it, and perhaps turn back. The two have ids of their own, and
//! configurations that are only sometimes the same. Whatever happens, a connection that the other balancer has been told of once is known
//! there as long as it lives, and so lives on when it takes over.

mod balancer;
mod moves;
mod stories;

use super::*;
use crate::core::sync::{Inbox, Outbox};
use balancer::{Balancer, Tables, key_of};

/// In ticks.
const LONGEST_ARRIVAL: u32 = 3;

/// What happens next. Balancers are numbered 0 and 1.
#[derive(Clone, Debug)]
enum PairStep {
    /// To a balancer.
    To(usize, Step),
    /// To the owner of a client's service.
    Client(Step),
    /// A balancer tells the other one so much.
    Tell(usize, usize),
    /// A balancer tells the other one all.
    TellAll(usize),
    /// Time passes, in which every client sends something.
    Live(u16),
    /// Who does not own a service takes it over. The controller is killed after so many writes, if at all; if not, a pass over the records
    /// may follow at once.
    TakeOver(u16, Option<u32>, bool),
    /// A service begins to arrive at who does not own it.
    Arrive(u16),
    /// A client hears of it.
    Hear(Client),
    /// Its former owner has it back before it has arrived, and its clients hear of that.
    TurnBack(u16),
    /// The connection between the two breaks, and another one is made.
    Break,
    /// News of a balancer were lost.
    Lose(usize),
}

fn pair_step() -> impl Strategy<Value = PairStep> {
    let node = || 0..2_usize;
    prop_oneof![
        24 => (node(), step()).prop_map(|(node, step)| match step {
            Step::Open { .. }
            | Step::Retransmit { .. }
            | Step::Send { .. }
            | Step::Close { .. }
            | Step::Spoof { .. } => PairStep::Client(step),
            step => PairStep::To(node, step),
        }),
        3 => (node(), 1..9_usize).prop_map(|(node, batches)| PairStep::Tell(node, batches)),
        5 => node().prop_map(PairStep::TellAll),
        3 => (100..280_u16).prop_map(PairStep::Live),
        3 => (0..SERVICES, prop::option::weighted(0.2, 0..12_u32), any::<bool>())
            .prop_map(|(service, writes, sweeps)| PairStep::TakeOver(service, writes, sweeps)),
        3 => (0..SERVICES).prop_map(PairStep::Arrive),
        6 => (0..SERVICES, 0..PORTS).prop_map(PairStep::Hear),
        1 => (0..SERVICES).prop_map(PairStep::TurnBack),
        1 => Just(PairStep::Break),
        1 => node().prop_map(PairStep::Lose),
    ]
}

struct Pair {
    balancers: [Balancer; 2],
    /// By service.
    owner: [usize; SERVICES as usize],
    /// The services that are arriving at who is not their owner yet.
    arriving: BTreeSet<u16>,
    /// How many ticks ago the last of them began to.
    ticks_since_arrival: u32,
    takeovers: Takeovers,
}

/// What keeps the property from holding for the wrong reason.
#[derive(Clone, Copy, Debug, Default)]
struct Takeovers {
    /// How many connections have lived on.
    survivors: usize,
    /// How many of these by a record.
    recorded: usize,
}

fn is_same(one: &TargetName, other: &TargetName) -> bool {
    (one.name(), one.address(), one.port()) == (other.name(), other.address(), other.port())
}

impl Pair {
    fn new(affinity_timeout: ConfigDuration) -> Self {
        let config = |weights| configuration(&weights).expect("a service");
        let first = [
            [Some(1), Some(1), None, None],
            [None; 4],
            [Some(1), Some(1), None, None],
        ];
        let second = [
            [None; 4],
            [Some(1), None, None, Some(1)],
            [Some(1), None, None, None],
        ];
        let balancers = [
            (0_u32, [first, second, first]),
            (1_000_000, [second, second, first]),
        ];
        let balancers = balancers.map(|(now, configurations)| {
            let mut world = World::new(affinity_timeout);
            world.opened = u64::from(now) << 32;
            world.kernel.tables.now = now;
            world.owns = Some([now == 0; SERVICES as usize]);
            // So that the two have other ids.
            for weights in configurations {
                world.configure(config(weights)).expect("room");
                for _ in 0..3 {
                    world.sweep(BTreeSet::new());
                }
            }
            let mut balancer = Balancer {
                world,
                changes: Changes::default(),
                outbox: Outbox::default(),
                inbox: Inbox::default(),
                hands_over: BTreeSet::new(),
                known: BTreeMap::new(),
            };
            balancer.own();
            balancer
        });
        Self {
            balancers,
            owner: [0; SERVICES as usize],
            arriving: BTreeSet::new(),
            ticks_since_arrival: 0,
            takeovers: Takeovers::default(),
        }
    }

    fn perform(&mut self, step: &PairStep) -> Result<(), TestCaseError> {
        match *step {
            PairStep::To(node, ref step) => {
                let step = match *step {
                    Step::SweepWhileHealthChanges { client, .. } if self.node_of(client) != node => {
                        &Step::Sweep
                    }
                    ref step => step,
                };
                let before = self.balancers[node].followed();
                let controllers = self.balancers[node].world.controllers;
                self.let_happen(node, |world| world.perform(step))?;
                if self.balancers[node].world.controllers == controllers {
                    self.balancers[node].own();
                    self.balancers[node].ask(&before);
                } else {
                    self.break_off();
                }
            }
            PairStep::Client(ref step) => {
                let client = match *step {
                    Step::Open { client, .. }
                    | Step::Retransmit { client, .. }
                    | Step::Send { client, .. }
                    | Step::Close { client, .. }
                    | Step::Spoof { client, .. } => client,
                    ref other => panic!("{other:?} is no client's"),
                };
                self.let_happen(self.node_of(client), |world| world.perform(step))?;
            }
            PairStep::Tell(from, batches) => {
                for _ in 0..batches {
                    self.tell(from);
                }
            }
            PairStep::TellAll(from) => {
                // What the other one asks for comes first.
                self.tell(1 - from);
                while self.tell(from) || self.balancers[1 - from].delete_unnamed(false) {
                    self.check_known()?;
                }
                self.take_for_known(from)?;
            }
            PairStep::Live(ticks) => {
                self.end_arrivals();
                self.let_happen(0, |world| world.perform(&Step::Wait(ticks)))?;
                for node in 0..2 {
                    let clients: Vec<Client> =
                        self.balancers[node].world.connections.keys().copied().collect();
                    for client in clients {
                        let step = Step::Send {
                            client,
                            bytes: 10,
                            lost: Lost::Nowhere,
                        };
                        self.let_happen(node, |world| world.perform(&step))?;
                    }
                }
            }
            PairStep::TakeOver(service, writes, sweeps) => {
                self.take_over(service, writes);
                if sweeps {
                    let owner = self.owner[usize::from(service)];
                    self.let_happen(owner, |world| world.perform(&Step::Sweep))?;
                }
            }
            PairStep::Arrive(service) => self.arrive(service),
            PairStep::Hear(client) => self.hear(client),
            PairStep::TurnBack(service) => self.turn_back(service),
            PairStep::Break => self.break_off(),
            PairStep::Lose(node) => self.balancers[node].changes.anything(),
        }
        if self.ticks_since_arrival > LONGEST_ARRIVAL {
            self.end_arrivals();
        }
        self.check_known()?;
        for Balancer { world, .. } in &self.balancers {
            check(world)?;
            check_currents(world)?;
        }
        Ok(())
    }

    /// Something happens to a balancer. As much time passes for the other one.
    fn let_happen(
        &mut self,
        node: usize,
        what: impl FnOnce(&mut World) -> Result<(), TestCaseError>,
    ) -> Result<(), TestCaseError> {
        let balancer = &mut self.balancers[node];
        let before = balancer.world.kernel.tables.clone();
        let result = what(&mut balancer.world);
        let passed = balancer.world.kernel.tables.now.wrapping_sub(before.now);
        balancer.note_changes(&before);
        self.balancers[1 - node].world.wait(passed);
        self.ticks_since_arrival = self.ticks_since_arrival.saturating_add(passed);
        result
    }

    /// Nothing arrives for long.
    fn end_arrivals(&mut self) {
        for service in self.arriving.clone() {
            self.take_over(service, None);
        }
    }

    /// The connection breaks. Nobody tells on of what is arriving.
    fn break_off(&mut self) {
        self.end_arrivals();
        for balancer in &mut self.balancers {
            balancer.delete_unnamed(true);
            balancer.inbox = Inbox::default();
            balancer.outbox = Outbox::default();
            balancer.own();
        }
    }

    /// One batch. Whether there was one.
    fn tell(&mut self, from: usize) -> bool {
        let [one, other] = &mut self.balancers;
        let (owner, peer) = if from == 0 { (one, other) } else { (other, one) };
        let mut source = Tables {
            kernel: &owner.world.kernel,
            changes: &mut owner.changes,
        };
        let items = owner
            .outbox
            .next_batch(&mut source)
            .expect("nobody is killed here");
        peer.inbox
            .apply(&items, &mut peer.world)
            .expect("nothing is wrong with it");
        for key in peer.inbox.take_asked() {
            peer.outbox.tell_again(&key);
        }
        let told_on = peer.world.told_on.take();
        told_on.flows().iter().for_each(|key| peer.changes.flow(*key));
        told_on.clients().iter().for_each(|key| peer.changes.client(*key));
        peer.delete_unnamed(false);
        !items.is_empty()
    }

    /// The other one has been told all, and so knows all connections that live.
    fn take_for_known(&mut self, from: usize) -> Result<(), TestCaseError> {
        let connections = self.balancers[from].world.connections.clone();
        let settled: BTreeMap<Client, Option<TargetName>> = connections
            .keys()
            .map(|client| (*client, self.balancers[from].settled(*client)))
            .collect();
        let peer = &mut self.balancers[1 - from];
        let nothing_lost = peer.inbox.lost() == 0;
        for (client, connection) in connections {
            let owns = self.owner[usize::from(client.0)] == from;
            let arrives = self.arriving.contains(&client.0);
            let Some(home) = connection
                .home
                .filter(|_| connection.established && (owns || arrives))
            else {
                continue;
            };
            let Some(found) = peer.home(client) else { continue };
            // Of what begins where it arrives news may have been lost.
            if owns && nothing_lost && !(arrives && peer.may_know_better(client, settled[&client])) {
                prop_assert!(is_same(&home, &found), "{:?} was told as at {:?}", client, found);
            }
            if is_same(&home, &found) {
                peer.known.insert(client, connection.number);
            }
        }
        Ok(())
    }

    /// What is known stays so.
    fn check_known(&mut self) -> Result<(), TestCaseError> {
        for node in 0..2 {
            let mut known = std::mem::take(&mut self.balancers[node].known);
            let (balancer, owner) = (&self.balancers[node], &self.balancers[1 - node]);
            let live = |client: &Client, number: &u64| {
                let connection = owner.world.connections.get(client)?;
                connection.home.filter(|_| connection.number == *number)
            };
            // Not, either, what has been configured away.
            known.retain(|client, number| live(client, number).is_some() && balancer.home(*client).is_some());
            for (client, number) in &known {
                let (home, found) = (live(client, number), balancer.home(*client));
                let is_right = home
                    .zip(found)
                    .is_some_and(|(home, found)| is_same(&home, &found));
                prop_assert!(
                    is_right,
                    "{:?} lives on {:?}, and {} says {:?}",
                    client,
                    home,
                    node,
                    found
                );
            }
            self.balancers[node].known = known;
        }
        Ok(())
    }

    /// Clients of the first service open connections and send something.
    fn connect(&mut self, ports: std::ops::Range<u16>) {
        for port in ports {
            let (client, lost) = ((0, port), Lost::Nowhere);
            let open = Step::Open {
                client,
                sequence: 5,
                lost,
            };
            let send = Step::Send {
                client,
                bytes: 10,
                lost,
            };
            for step in [open, send] {
                self.perform(&PairStep::Client(step)).expect("nothing is wrong");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]
    #[test]
    fn no_live_connection_that_was_told_changes_its_target(
        steps in proptest::collection::vec(pair_step(), 1..160),
        affinity_seconds in proptest::sample::select(vec![100, 200, 400]),
    ) {
        let mut pair = Pair::new(ConfigDuration::from_millis(affinity_seconds * 1000));
        for step in &steps {
            pair.perform(step)?;
        }
    }
}
