//! Services through their lives, in simulated time: the monitors of their backends check when they are due.

mod announcements;
mod load;
mod orders;
mod reload;

use super::*;
use crate::core::{
    config::{Config, HostDefaults, parse},
    health::{Failure, Load, Monitor, Outcome, Verdict},
};
use Verdict::{Healthy, Quiescing, Saturated};
use proptest::prelude::*;

const FAILING: Verdict = Verdict::Failed(Failure::Failing);
const REFUSED: Verdict = Verdict::Failed(Failure::Unreachable);
const SILENT: Verdict = Verdict::Failed(Failure::Silent);
const STANDBY: Verdict = Verdict::Failed(Failure::Standby);

const BY_LOAD: &str = "balance = \"load\"";

/// How long a check takes.
const LATENCY: Duration = Duration::from_millis(1);

/// Long enough for every backend to be believed what it is.
const A_WHILE: Duration = Duration::from_secs(20);

fn config(keys: &str, backends: &str) -> Config {
    let check = if keys.contains(BY_LOAD) { "impala" } else { "tcp" };
    let text = format!(
        "[datapath]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"s\"\nvip = \"10.0.0.99\"\nport = 1\n{keys}\n\
         [service.check]\ntype = \"{check}\"\n{backends}"
    );
    let host = HostDefaults {
        node_name: "lb".into(),
    };
    parse("lb.toml", &text, &host).unwrap()
}

/// Backends `b0`, `b1`, … of these tiers.
fn service(keys: &str, tiers: &[u8]) -> Service {
    let backend = |(index, tier): (usize, &u8)| {
        format!(
            "[[service.backend]]\nname = \"b{index}\"\naddress = \"10.0.0.{}\"\ntier = {tier}\n",
            index + 1
        )
    };
    let backends: Vec<String> = tiers.iter().enumerate().map(backend).collect();
    config(keys, &backends.concat()).services.remove(0)
}

struct World {
    serving: Serving,
    monitors: Vec<Monitor>,
    /// What a check of each backend finds.
    truth: Vec<Verdict>,
    /// How many connections each backend has, if it tells.
    loads: Vec<Option<u64>>,
    /// When the process of each backend started, if it tells.
    processes: Vec<Option<&'static str>>,
    now: Duration,
    decision: Decision,
    notices: Vec<Notice>,
}

impl World {
    fn new(service: &Service, start: Start) -> Self {
        let now = Duration::from_secs(1000);
        let mut serving = Serving::new(service, |_| start, now);
        let monitor = |backend: &Backend| Monitor::new(&backend.name, 7, service.check.pace, start, now);
        Self {
            monitors: service.backends.iter().map(monitor).collect(),
            truth: vec![Healthy; service.backends.len()],
            loads: vec![None; service.backends.len()],
            processes: vec![None; service.backends.len()],
            decision: serving.decide(now),
            serving,
            now,
            notices: Vec::new(),
        }
    }

    /// A service that has been up for long.
    fn up(keys: &str, tiers: &[u8]) -> Self {
        let mut world = Self::new(&service(keys, tiers), Start::Cold);
        world.pass(A_WHILE);
        world
    }

    /// Lets this time pass.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// The next thing that happens until then. Returns whether there was one.
    fn step(&mut self, end: Duration) -> bool {
        let check = self.monitors.iter().map(Monitor::next_check).min().unwrap();
        let next = self.decision.next.map_or(check, |next| next.min(check));
        if next > end {
            return false;
        }
        assert!(next >= self.now, "nothing is due in the past");
        self.now = next;
        for index in 0..self.monitors.len() {
            if self.monitors[index].next_check() <= self.now {
                self.check(index);
            }
        }
        self.decide();
        true
    }

    fn check(&mut self, index: usize) {
        let load = self.loads[index].map(|connections| Load {
            connections: Some(connections),
            queries: Some(0),
            ..Load::default()
        });
        let outcome = Outcome {
            load,
            process_start_time: self.processes[index].map(str::to_owned),
            ..Outcome::new(self.truth[index], LATENCY, "found")
        };
        let monitor = &mut self.monitors[index];
        let ended = self.now + LATENCY;
        let events = monitor.observe(&outcome, self.now, ended);
        let observation = Observation {
            result: Ok(&outcome),
            events: &events,
            health: monitor.health(),
            standing: monitor.standing(),
            since_up: monitor.up_since().map(|since| ended.saturating_sub(since)),
            began: self.now,
        };
        self.serving.observe(&format!("b{index}"), observation, ended);
    }

    fn decide(&mut self) {
        self.decision = self.serving.decide(self.now);
        self.notices.append(&mut self.decision.notices);
        if let Some(next) = self.decision.next {
            assert!(next > self.now, "a decision that is due again at once");
        }
    }

    fn weights(&self) -> Vec<u32> {
        self.decision.backends.iter().map(|part| part.weight).collect()
    }

    fn sheds(&self) -> Vec<bool> {
        self.decision.backends.iter().map(|part| part.sheds).collect()
    }

    fn reset(&self) -> Vec<bool> {
        self.decision.backends.iter().map(|part| part.reset).collect()
    }
}

#[test]
fn a_new_service_serves_once_all_first_checks_are_done_and_all_at_once() {
    let mut world = World::new(&service("", &[0, 0, 0]), Start::Cold);
    let end = world.now + A_WHILE;
    let mut seen = vec![world.weights()];
    while world.step(end) {
        seen.push(world.weights());
    }
    seen.dedup();
    assert_eq!(seen, [[0, 0, 0], [1, 1, 1]]);
}

#[test]
fn a_new_service_does_not_wait_for_long() {
    let mut world = World::new(&service("", &[0, 0]), Start::Cold);
    world.truth[1] = SILENT;
    world.pass(FIRST_CHECKS);
    assert_eq!(world.weights(), [1, 0]);
}

#[test]
fn after_a_restart_of_the_controller_everybody_serves_on_until_checks_say_otherwise() {
    let mut world = World::new(&service("", &[0, 0, 0]), Start::Warm(Health::Up));
    assert_eq!(world.weights(), [1, 1, 1]);
    world.truth = vec![Healthy, REFUSED, Healthy];
    world.pass(A_WHILE);
    assert_eq!(world.weights(), [1, 0, 1]);
}

#[test]
fn a_spare_backend_is_up_after_a_restart_and_makes_no_tier_serve() {
    for (keys, serving, expected) in [
        ("", 0, [1, 0]),
        ("failback = \"manual\"", 0, [1, 0]),
        // The lower tier has recovered.
        ("", 1, [1, 0]),
        ("failback = \"manual\"", 1, [0, 1]),
    ] {
        let service = service(keys, &[0, 1]);
        let start = |backend: &Backend| {
            if backend.tier == serving {
                Start::Warm(Health::Up)
            } else {
                Start::Spare
            }
        };
        let mut after = Serving::new(&service, start, Duration::ZERO);
        let decision = after.decide(Duration::ZERO);
        let weights: Vec<u32> = decision.backends.iter().map(|part| part.weight).collect();
        assert_eq!(weights, expected, "{keys}, tier {serving} was serving");
        assert!(
            decision.backends.iter().all(|part| !part.sheds),
            "clients at home there stay so"
        );
    }
}

#[test]
fn what_becomes_of_a_backend_that_is_not_well() {
    for (truth, reset, words) in [
        (Saturated, false, "alive"),
        (Quiescing, false, "finishes what it has begun"),
        (FAILING, false, "what it answers to clients may be right"),
        (REFUSED, true, "nobody is there"),
        (STANDBY, true, "clients must find the active one"),
        (SILENT, true, "gone, since the other one answers"),
    ] {
        let mut world = World::up("", &[0, 0, 0]);
        assert_eq!(world.weights(), [1, 1, 1]);
        world.truth[0] = truth;
        world.pass(A_WHILE);
        assert_eq!(world.weights(), [0, 1, 1], "{words}");
        assert_eq!(world.sheds(), [true, false, false], "{words}");
        assert_eq!(world.reset(), [reset, false, false], "{words}");
        assert_eq!(world.serving.guard(), None, "{words}");
        world.truth[0] = Healthy;
        world.pass(A_WHILE);
        assert_eq!(world.weights(), [1, 1, 1], "{words}");
        assert_eq!(
            (world.sheds(), world.reset()),
            (vec![false; 3], vec![false; 3]),
            "{words}"
        );
    }
}

#[test]
fn connections_are_kept_if_the_operator_wants_that() {
    let mut world = World::up("on_down = \"keep\"", &[0, 0, 0]);
    world.truth[0] = REFUSED;
    world.pass(A_WHILE);
    assert_eq!((world.weights(), world.reset()), (vec![0, 1, 1], vec![false; 3]));
}

#[test]
fn when_our_own_network_is_cut_nobody_is_taken_out_and_no_connection_is_given_up() {
    for keys in ["", "failback = \"manual\""] {
        let mut world = World::up(keys, &[0, 0, 0, 1]);
        world.truth = vec![SILENT; 4];
        let end = world.now + A_WHILE;
        while world.step(end) {
            assert_eq!(
                world.reset(),
                [false; 4],
                "also while they are found silent one after the other"
            );
            assert!(
                world.weights().iter().any(|weight| *weight > 0),
                "the service is never empty"
            );
        }
        let guard = world.serving.guard().expect("the guard is active");
        assert!(guard.to_string().contains("own network may be cut"), "{guard}");
        // It comes back bit by bit.
        for index in 0..4 {
            world.truth[index] = Healthy;
            let end = world.now + Duration::from_secs(1);
            while world.step(end) {
                assert_eq!(
                    world.reset(),
                    [false; 4],
                    "nor while they come back one after the other"
                );
            }
        }
        world.pass(A_WHILE);
        assert!(world.notices.contains(&Notice::GuardInactive));
        // With manual failback, whichever tier answers first serves.
        let expected = if world.serving.active_tier() == 0 {
            [1, 1, 1, 0]
        } else {
            [0, 0, 0, 1]
        };
        assert_eq!(world.weights(), expected);
        assert!(!keys.is_empty() || world.serving.active_tier() == 0);
    }
}

#[test]
fn backends_that_fail_together_stay_in_use() {
    let mut world = World::up("", &[0, 0, 0]);
    world.truth = vec![FAILING; 3];
    world.pass(A_WHILE);
    assert_eq!(world.weights(), [1, 1, 1]);
    assert!(matches!(
        world.notices.last(),
        Some(Notice::GuardActive(Guard { failing: 3, .. }))
    ));
    assert_eq!((world.sheds(), world.reset()), (vec![false; 3], vec![false; 3]));
}

#[test]
fn all_that_refuse_are_taken_out_all_the_same() {
    let mut world = World::up("", &[0, 0]);
    world.truth = vec![REFUSED; 2];
    world.pass(A_WHILE);
    assert_eq!((world.weights(), world.reset()), (vec![0, 0], vec![true, true]));
}

#[test]
fn the_next_tier_takes_over_and_gives_back() {
    for (failback, after) in [("auto", vec![1, 1, 0]), ("manual", vec![0, 0, 1])] {
        let mut world = World::up(&format!("failback = \"{failback}\""), &[0, 0, 1]);
        assert_eq!((world.weights(), world.serving.active_tier()), (vec![1, 1, 0], 0));
        assert_eq!(
            world.sheds(),
            [false; 3],
            "who is up in another tier keeps its clients"
        );
        world.truth[0] = REFUSED;
        world.pass(A_WHILE);
        assert_eq!(world.weights(), [0, 1, 0], "half is enough");
        world.truth[1] = REFUSED;
        world.pass(A_WHILE);
        assert_eq!((world.weights(), world.serving.active_tier()), (vec![0, 0, 1], 1));
        assert_eq!(
            world.notices,
            [Notice::Tier {
                from: 0,
                to: 1,
                cause: "healthy weight: 0 of 2 in tier 0, 1 of 1 in tier 1".into()
            }]
        );
        world.truth = vec![Healthy; 3];
        world.pass(A_WHILE);
        assert_eq!(world.weights(), after, "{failback}");
    }
}

#[test]
fn the_active_one_of_a_pair_is_followed() {
    let mut world = World::up("min_healthy = 0", &[0, 0]);
    world.truth = vec![Healthy, STANDBY];
    world.pass(A_WHILE);
    assert_eq!((world.weights(), world.reset()), (vec![1, 0], vec![false, true]));
    world.truth = vec![STANDBY, Healthy];
    world.pass(A_WHILE);
    assert_eq!((world.weights(), world.reset()), (vec![0, 1], vec![true, false]));
}

#[test]
fn who_comes_back_gets_its_share_in_steps() {
    let mut world = World::up("slow_start = \"90s\"", &[0, 0]);
    assert_eq!(
        world.weights(),
        [10, 10],
        "who was there from the start does not start slowly"
    );
    world.truth[0] = REFUSED;
    world.pass(A_WHILE);
    assert_eq!(world.weights(), [0, 10]);
    world.truth[0] = Healthy;
    let end = world.now + Duration::from_secs(200);
    let mut seen = vec![world.weights()];
    while world.step(end) {
        seen.push(world.weights());
        let backend = &world.serving.backends()[0];
        let tenths = world.serving.slow_start(backend, world.now);
        assert_eq!(
            tenths,
            Some(world.weights()[0]).filter(|tenths| *tenths < 10 && backend.health() == Health::Up)
        );
    }
    seen.dedup();
    let expected: Vec<Vec<u32>> = (0..=10).map(|tenths| vec![tenths, 10]).collect();
    assert_eq!(seen, expected, "no step back, and none left out");
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    prop::sample::select(vec![
        Healthy, Healthy, Healthy, Saturated, Quiescing, FAILING, REFUSED, SILENT, STANDBY,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Backends change as they like. Whatever happens, a connection that lives on a backend which answers as clients need it is
    /// never given up, a service with anybody healthy serves, and nobody serves who must not.
    #[test]
    fn whoever_may_serve_serves_and_only_the_dead_are_given_up(
        tiers in prop::collection::vec(0_u8..2, 1..6),
        slow in any::<bool>(),
        changes in prop::collection::vec((0_usize..6, any_verdict(), 0_u64..30_000), 1..30),
    ) {
        let keys = if slow { "slow_start = \"30s\"" } else { "" };
        let mut world = World::up(keys, &tiers);
        for (index, verdict, pause) in changes {
            let index = index % tiers.len();
            world.truth[index] = verdict;
            let end = world.now + Duration::from_millis(pause);
            while world.step(end) {
                for (part, backend) in world.decision.backends.iter().zip(world.serving.backends()) {
                    let health = backend.health();
                    prop_assert!(part.weight == 0 || !part.reset);
                    prop_assert!(part.weight == 0 || !part.sheds);
                    prop_assert!(!part.reset || health == Health::Down);
                    prop_assert!(part.weight == 0 || backend.tier() == world.serving.active_tier());
                    prop_assert!(part.weight == 0 || !matches!(health, Health::Checking | Health::Quiescing));
                }
                let somebody = world.serving.backends().iter().any(|it| it.health() == Health::Up);
                prop_assert!(!somebody || world.weights().iter().any(|weight| *weight > 0));
            }
            world.now = end;
        }
        // Once all is quiet, the result follows from the truth.
        world.truth = vec![Healthy; tiers.len()];
        world.pass(Duration::from_mins(1));
        let lowest = *tiers.iter().min().unwrap();
        let whole = if slow { 10 } else { 1 };
        let expected: Vec<u32> = tiers.iter().map(|tier| if *tier == lowest { whole } else { 0 }).collect();
        prop_assert_eq!(world.weights(), expected);
        prop_assert_eq!(world.reset(), vec![false; tiers.len()]);
    }
}
