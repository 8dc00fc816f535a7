//! The controller's half of the moves against the data path's real decision, in any order of events.
//!
//! Operators change the configuration, backends come, go and come back; clients open, use, end and reuse connections; SYNs are
//! retransmitted and spoofed; packets are lost before and behind the balancer; records are swept and run out; the controller is
//! killed between any two writes and starts again with what the tables say. Whatever happens, a packet of a live connection
//! reaches the backend on which it lives, an id is never taken for another backend's, and a client of a service with affinity
//! whose backend takes new connections gets no other one within the timeout.

mod clients;
pub(super) mod configuration;
mod homes;
mod invariants;
pub(super) mod kernel;
mod pair;
mod stories;

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    decision::Tables as _,
    layout::{FlowKey, NO_TARGET, ServiceKey, Slot, TargetName},
    slot_rule::Records as _,
};
use proptest::prelude::*;

use super::{Departing, Moved, NoRoom, Placement};
use crate::core::plan::{Plan, Shares};
use crate::core::{
    census::{Census, Record, run_short, taken_over},
    config::{Balance, CheckKind, Config, ConfigDuration},
    sync::Changes,
};
use configuration::{configuration, service_address};
use homes::Homes;
use invariants::{check, check_currents};
use kernel::Kernel;

/// Few, so that ports share them: the worst case for the rule.
pub(super) const SLOTS: u32 = 7;
pub(super) const MAX_SERVICES: u32 = 3;
/// Tight: what is leaving makes room scarce.
pub(super) const MAX_BACKENDS: u32 = 9;
/// Room for established records.
const ROOM: u16 = 10;
const PORTS: u16 = 8;
const SERVICES: u16 = 3;
/// The service with affinity. It has a few clients only, the worst case for it.
const AFFINE: u16 = 2;
const BACKENDS: usize = 4;
/// In ticks.
const FLOW_IDLE_TIMEOUT: u32 = 300;

/// By service, by backend: the weight, if the backend is configured. A service without a weight above 0 is not.
type Weights = [[Option<u32>; BACKENDS]; SERVICES as usize];

/// What happens next. Services are taken modulo [`SERVICES`], ports modulo [`PORTS`].
#[derive(Clone, Debug)]
enum Step {
    /// An operator reloads.
    Configure(Weights),
    /// An operator has a service place each connection by live ones, or no longer.
    PlaceEach(u16, bool),
    /// The same, and the controller is killed after so many writes.
    KilledWhilePlacingEach(u16, bool, u32),
    /// The controller is killed after so many writes of a reload. The next one starts with the same configuration.
    KilledWhileConfiguring(Weights, u32),
    /// The records are swept.
    Sweep,
    /// While the records are swept, a backend is taken out for its health and comes back, and a client comes in between.
    SweepWhileHealthChanges {
        choice: u16,
        client: Client,
        sequence: u32,
    },
    /// A backend is taken out, and its connections are given up.
    Reset(u16),
    /// The controller is killed and starts again.
    Restart,
    Open {
        client: Client,
        sequence: u32,
        lost: Lost,
    },
    Retransmit {
        client: Client,
        lost: Lost,
    },
    Send {
        client: Client,
        bytes: u16,
        lost: Lost,
    },
    Close {
        client: Client,
        lost: Lost,
    },
    /// Somebody sends a SYN in a client's name.
    Spoof {
        client: Client,
        sequence: u32,
    },
    Wait(u16),
}

/// A service's number and a client's port.
type Client = (u16, u16);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Lost {
    Nowhere,
    BeforeTheBalancer,
    BehindIt,
}

fn step() -> impl Strategy<Value = Step> {
    let lost = || {
        prop_oneof![
            6 => Just(Lost::Nowhere),
            1 => Just(Lost::BeforeTheBalancer),
            1 => Just(Lost::BehindIt),
        ]
    };
    let weights = || {
        let weight = prop_oneof![2 => Just(None), 4 => (1u32..3).prop_map(Some), 1 => Just(Some(0))];
        let service = proptest::array::uniform4(weight);
        proptest::array::uniform3(service)
    };
    let client = || (0..SERVICES, 0..PORTS);
    let sequence = || prop_oneof![any::<u32>(), 0u32..4, (u32::MAX - 3)..=u32::MAX];
    prop_oneof![
        3 => weights().prop_map(Step::Configure),
        1 => (weights(), 0u32..60).prop_map(|(weights, writes)| Step::KilledWhileConfiguring(weights, writes)),
        1 => (0..SERVICES, any::<bool>()).prop_map(|(service, each)| Step::PlaceEach(service, each)),
        1 => (0..SERVICES, any::<bool>(), 0u32..40)
            .prop_map(|(service, each, writes)| Step::KilledWhilePlacingEach(service, each, writes)),
        4 => Just(Step::Sweep),
        2 => (any::<u16>(), client(), sequence())
            .prop_map(|(choice, client, sequence)| Step::SweepWhileHealthChanges { choice, client, sequence }),
        1 => any::<u16>().prop_map(Step::Reset),
        1 => Just(Step::Restart),
        6 => (client(), sequence(), lost()).prop_map(|(client, sequence, lost)| Step::Open { client, sequence, lost }),
        2 => (client(), lost()).prop_map(|(client, lost)| Step::Retransmit { client, lost }),
        10 => (client(), any::<u16>(), lost()).prop_map(|(client, bytes, lost)| Step::Send { client, bytes, lost }),
        2 => (client(), lost()).prop_map(|(client, lost)| Step::Close { client, lost }),
        2 => (client(), sequence()).prop_map(|(client, sequence)| Step::Spoof { client, sequence }),
        3 => prop_oneof![0u16..20, 0u16..200].prop_map(Step::Wait),
    ]
}

/// A connection as its client knows it.
#[derive(Clone, Debug)]
struct Connection {
    /// Tells it from others of the same client and port.
    number: u64,
    first: u32,
    next: u32,
    /// Who has the SYN, hence answers. `None` while every SYN was lost.
    home: Option<TargetName>,
    established: bool,
    last_sent: u32,
}

struct World {
    kernel: Kernel,
    placement: Placement,
    config: Config,
    short: bool,
    /// The timeout of the service with affinity. It may be longer or shorter than those of records.
    affinity_timeout: ConfigDuration,
    /// Which services place each connection by live ones.
    places_each: [bool; SERVICES as usize],
    homes: Homes,
    connections: BTreeMap<Client, Connection>,
    /// How many connections have been opened.
    opened: u64,
    /// Which services are this balancer's; `None` if there is no other one.
    owns: Option<[bool; SERVICES as usize]>,
    /// How many controllers there have been.
    controllers: u32,
    /// What the other one is to be told of because it was added for it.
    told_on: Changes,
}

impl World {
    fn new(affinity_timeout: ConfigDuration) -> Self {
        let config =
            configuration(&[[Some(1), Some(1), None, None], [None; 4], [None; 4]]).expect("a service");
        let mut world = Self {
            kernel: Kernel::new(),
            placement: Placement::empty(&config.datapath),
            config: config.clone(),
            short: false,
            affinity_timeout,
            places_each: [false; SERVICES as usize],
            homes: Homes::default(),
            connections: BTreeMap::new(),
            opened: 0,
            owns: None,
            controllers: 1,
            told_on: Changes::default(),
        };
        world.configure(config).expect("room");
        world
    }

    fn perform(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Configure(ref weights) => {
                if let Some(config) = configuration(weights) {
                    let before = (self.kernel.tables.clone(), self.placement.clone());
                    if self.configure(config).is_err() {
                        prop_assert_eq!(&before.0.slots, &self.kernel.tables.slots);
                        prop_assert_eq!(&before.0.services, &self.kernel.tables.services);
                        prop_assert_eq!(before.1, self.placement.clone());
                    }
                }
            }
            Step::KilledWhileConfiguring(ref weights, writes) => {
                if let Some(config) = configuration(weights) {
                    self.configure_until_killed(config, writes);
                }
            }
            Step::PlaceEach(service, each) => {
                self.places_each[usize::from(service)] = each;
                self.configure(self.config.clone()).expect("nobody is new");
            }
            Step::KilledWhilePlacingEach(service, each, writes) => {
                self.places_each[usize::from(service)] = each;
                self.configure_until_killed(self.config.clone(), writes);
            }
            Step::Sweep => self.sweep(BTreeSet::new()),
            Step::SweepWhileHealthChanges {
                choice,
                client,
                sequence,
            } => self.sweep_while_health_changes(choice, client, sequence)?,
            Step::Reset(choice) => self.reset(choice),
            Step::Restart => self.restart(),
            Step::Open {
                client,
                sequence,
                lost,
            } => self.open(client, sequence, lost),
            Step::Retransmit { client, lost } => self.retransmit(client, lost)?,
            Step::Send { client, bytes, lost } => self.send(client, bytes, lost)?,
            Step::Close { client, lost } => self.close(client, lost)?,
            Step::Spoof { client, sequence } => self.spoof(client, sequence),
            Step::Wait(ticks) => self.wait(ticks.into()),
        }
        self.homes.leave_those_that_shed(&self.kernel);
        self.end_idle_connections();
        Ok(())
    }

    fn configure_until_killed(&mut self, config: Config, writes: u32) {
        self.kernel.writes_left = Some(writes);
        let result = self.configure(config);
        self.kernel.writes_left = None;
        if result.is_ok() {
            self.restart();
        }
    }

    /// Applies a configuration, unless there is no room for it. A controller that is killed meanwhile has taken it.
    fn configure(&mut self, mut config: Config) -> Result<(), NoRoom> {
        for service in &mut config.services {
            service.affinity_timeout = self.affinity_timeout;
            let number = usize::from(service.port - service_address(0).port());
            service.balance = if self.places_each[number] {
                Balance::LeastConnections
            } else {
                Balance::Hash
            };
        }
        let plan = self.placement.plan(&config, &Shares::configured(&config))?;
        let now = self.kernel.tables.now;
        let foreseen = self.foresee(&plan);
        let introduced = self.placement.introduce(&plan, &mut self.kernel);
        // A controller that was killed is not asked what it did.
        if introduced.is_ok()
            && let Ok(moved) = self.placement.apply(&plan, now, &mut self.kernel)
        {
            assert_eq!(moved, foreseen, "what happens is what was foretold");
        }
        self.config = config;
        self.drop_connections_without_service();
        self.follow(|owns| !owns);
        Ok(())
    }

    /// The id of a service, if it is configured.
    fn service_id(&self, service: u16) -> Option<u16> {
        let address = service_address(service);
        let key = ServiceKey::tcp(address.ip().into(), address.port());
        Some(self.placement.service(&key)?.id)
    }

    /// Follows services that have an owner, according to whether that is this balancer.
    fn follow(&mut self, is_followed: impl Fn(bool) -> bool) {
        for (service, owns) in (0..).zip(self.owns.into_iter().flatten()) {
            if let Some(id) = self.service_id(service).filter(|_| is_followed(owns)) {
                self.placement.follow(id);
            }
        }
    }

    /// Takes over a service, as far as its writes succeed.
    fn take_over(&mut self, service: u16) -> Result<(), kernel::Killed> {
        let Some(id) = self.service_id(service) else {
            return Ok(());
        };
        let now = self.kernel.tables.now;
        self.placement.take_over(id, now, &mut self.kernel)?;
        self.refresh_clients(service);
        Ok(())
    }

    /// Takes the clients of a service, whose packets come to us from now on, to have been there now.
    fn refresh_clients(&mut self, service: u16) {
        let now = self.kernel.tables.now;
        if let Some(id) = self.service_id(service) {
            for (key, noted) in &mut self.kernel.tables.affinity {
                *noted = taken_over(key, noted, id, now).unwrap_or(*noted);
            }
        }
    }

    /// What the plan would do to all slots.
    fn foresee(&self, plan: &Plan) -> Moved {
        let mut sum = Moved::default();
        for service in &plan.services {
            let foreseen = self
                .placement
                .foresee(service, self.kernel.tables.now, &self.kernel);
            let Moved {
                moved,
                tracked,
                slots,
            } = foreseen.expect("nothing is written").moved;
            sum.moved += moved;
            sum.tracked += tracked;
            sum.slots += slots;
        }
        sum
    }

    fn drop_connections_without_service(&mut self) {
        let services = &self.kernel.tables.services;
        let is_there = |service: u16| {
            let address = service_address(service);
            services.contains_key(&ServiceKey::tcp(address.ip().into(), address.port()))
        };
        self.connections.retain(|&(service, _), _| is_there(service));
        if !is_there(AFFINE) {
            self.homes = Homes::default();
        }
    }

    /// Passes over all records, and deletes those that are over.
    fn pass(&mut self, reset: BTreeSet<u16>) -> Census {
        let tables = &mut self.kernel.tables;
        let mut census = Census::new(
            tables.now,
            FLOW_IDLE_TIMEOUT,
            tables.short,
            self.placement.services().copied(),
            reset,
        )
        .releasing(self.placement.without_new_flows())
        .following(self.placement.following());
        let slots = tables.slots.clone();
        let slot = |index: u32| slots.get(index as usize).map(|bits| Slot::from_bits(*bits));
        tables.affinity.retain(|key, noted| {
            let keep = !census.is_client_over(key, noted, slot);
            if keep {
                census.count_client(key, noted);
            }
            keep
        });
        tables
            .half_open
            .retain(|key, record| keep(&mut census, key, (*record).into(), slot));
        let mut deleted = Vec::new();
        tables.flows.retain(|key, record| {
            let keep = keep(&mut census, key, (*record).into(), slot);
            deleted.extend((!keep).then_some(*record));
            keep
        });
        for record in deleted {
            tables.count_live(Some(record), None);
        }
        census
    }

    fn sweep(&mut self, reset: BTreeSet<u16>) {
        let departing = self
            .placement
            .begin_pass(&self.kernel)
            .expect("nobody is killed here");
        let census = self.pass(reset);
        self.homes.forget_those_that_shed(&self.kernel);
        self.finish_pass(&departing, &census);
        self.short = run_short(self.short, census.established(), ROOM.into());
        self.kernel.tables.short = self.short;
    }

    fn sweep_while_health_changes(
        &mut self,
        choice: u16,
        client: Client,
        sequence: u32,
    ) -> Result<(), TestCaseError> {
        let departing = self
            .placement
            .begin_pass(&self.kernel)
            .expect("nobody is killed here");
        let census = self.pass(BTreeSet::new());
        self.homes.forget_those_that_shed(&self.kernel);
        let service = usize::from(choice) % self.config.services.len();
        let configured = Shares::configured(&self.config);
        let mut without = configured.of(service).to_vec();
        let index = usize::from(choice) / 7 % without.len();
        without[index] = 0;
        if without.iter().any(|weight| *weight > 0) {
            self.avoid(service, index, true);
            self.share_out(service, &without);
        }
        self.open(client, sequence, Lost::Nowhere);
        self.send(client, 10, Lost::Nowhere)?;
        self.avoid(service, index, false);
        self.share_out(service, configured.of(service));
        self.finish_pass(&departing, &census);
        Ok(())
    }

    fn finish_pass(&mut self, departing: &Departing, census: &Census) {
        let swept = self
            .placement
            .finish_pass(departing, census, &mut self.kernel)
            .expect("nobody is killed here");
        // What was taken over is shared out by our own plan now.
        let shares = Shares::configured(&self.config);
        for service in 0..self.config.services.len() {
            let port = self.config.services[service].port - service_address(0).port();
            if self.service_id(port).is_some_and(|id| swept.proved.contains(&id)) {
                self.share_out(service, shares.of(service));
            }
        }
    }

    fn avoid(&mut self, service: usize, backend: usize, is_avoided: bool) {
        let shares = Shares::configured(&self.config);
        let plan = self.placement.plan(&self.config, &shares).expect("it is in use");
        let id = plan.services[service].targets[backend];
        self.placement
            .avoid(id, is_avoided, &mut self.kernel)
            .expect("nobody is killed here");
        self.homes.leave_those_that_shed(&self.kernel);
    }

    fn share_out(&mut self, service: usize, weights: &[u32]) {
        let shares = Shares::configured(&self.config);
        let mut plan = self
            .placement
            .plan(&self.config, &shares)
            .expect("it is in the tables");
        let planned = &mut plan.services[service];
        planned.share_out(&self.config.services[service].backends, weights);
        self.placement
            .share_out(planned, self.kernel.tables.now, &mut self.kernel)
            .expect("nobody is killed here");
    }

    /// Takes a backend out whose flows are to be reset, as long as another one is left.
    fn reset(&mut self, choice: u16) {
        let mut config = self.config.clone();
        let service = &mut config.services[usize::from(choice) % self.config.services.len()];
        let index = usize::from(choice) / 7 % service.backends.len();
        let backend = service.backends.remove(index);
        if service.backends.iter().all(|backend| backend.weight == 0) || self.configure(config).is_err() {
            return;
        }
        let address = backend.address;
        let reset: BTreeSet<u16> = self
            .placement
            .targets()
            .filter(|(id, name)| name.address() == address && !self.placement.configured.contains(id))
            .map(|(id, _)| id)
            .collect();
        let names: BTreeSet<TargetName> = reset
            .iter()
            .map(|id| self.kernel.names[usize::from(*id)])
            .collect();
        self.sweep(reset);
        self.connections
            .retain(|_, connection| connection.home.is_none_or(|home| !names.contains(&home)));
    }

    /// A new controller: it knows its configuration, what the tables say, and nothing else.
    fn restart(&mut self) {
        self.controllers += 1;
        self.placement =
            Placement::adopt(&self.config.datapath, &self.kernel.found()).expect("the sizes are the same");
        // Whose services are has to be found out again.
        self.follow(|_| true);
        self.pass(BTreeSet::new());
        self.placement
            .forget_orphans(&mut self.kernel)
            .expect("nobody is killed here");
        let targets = self.kernel.tables.targets.iter().zip(0..);
        let shedding = targets.filter(|(target, _)| target.sheds());
        self.placement.go_on_avoiding(shedding.map(|(_, id)| id));
        let config = self.config.clone();
        self.configure(config).expect("what had room before has it again");
        for (service, owns) in (0..).zip(self.owns.into_iter().flatten()) {
            if owns {
                self.take_over(service).expect("nobody is killed here");
            }
        }
        self.short = self.kernel.tables.short;
    }
}

fn keep(census: &mut Census, key: &FlowKey, record: Record, slot: impl Fn(u32) -> Option<Slot>) -> bool {
    let keep = !census.is_over(key, record, slot);
    if keep {
        census.count(key, record);
    }
    keep
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]
    #[test]
    fn no_live_connection_changes_its_target(
        steps in proptest::collection::vec(step(), 1..80),
        affinity_seconds in proptest::sample::select(vec![100, 200, 400]),
    ) {
        let mut world = World::new(ConfigDuration::from_millis(affinity_seconds * 1000));
        for step in &steps {
            world.perform(step)?;
            check(&world)?;
            check_currents(&world)?;
        }
    }
}
