//! Clients in a closed loop: they come by the weights, make the load that the weights follow, and leave when they like.

use std::{cmp::Ordering, ops::Range, time::Duration};

use lb_common::hash;

use super::{average::QUERY, *};

/// How often coordinators are checked.
const CHECK: u64 = 2;

/// How sessions come and what they do.
#[derive(Clone, Debug)]
struct Clients {
    seed: u64,
    /// How many there are at a time, per backend.
    sessions: f64,
    /// How long a session lasts on average, in seconds. Some last ten times as long.
    duration: f64,
    /// One session in so many is a heavy one, with twenty queries at a time.
    heavy: u64,
    /// How much longer a session lasts on the first backend, which is a slow machine.
    slowness: f64,
}

impl Clients {
    /// Each session is like the others.
    fn alike(seed: u64, duration: f64) -> Self {
        Self {
            seed,
            sessions: 40.0,
            duration,
            heavy: u64::MAX,
            slowness: 1.0,
        }
    }
}

/// A session: on which backend, until when, and whether it is a heavy one.
struct Session {
    backend: usize,
    end: u64,
    heavy: bool,
    number: u64,
}

struct World {
    clients: Clients,
    /// Whether weights follow the load.
    follows: bool,
    members: Vec<Member>,
    averages: Vec<Average>,
    levels: Levels,
    sessions: Vec<Session>,
    came: u64,
    /// How often a level has changed.
    changes: u32,
    /// How often in the other direction than before.
    reversals: u32,
    directions: Vec<Ordering>,
}

/// Of 2^64.
fn uniform(bits: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "it is random")]
    let uniform = (bits >> 11) as f64 / (1_u64 << 53) as f64;
    uniform
}

impl World {
    fn new(clients: &Clients, weights: &[u32], follows: bool) -> Self {
        let count = weights.len();
        let member = |&weight: &u32| Member {
            weight,
            in_use: true,
            load: Some(0),
            level: Level::CONFIGURED,
        };
        Self {
            clients: clients.clone(),
            follows,
            members: weights.iter().map(member).collect(),
            averages: vec![Average::new(0, Duration::ZERO); count],
            levels: Levels::new(Duration::ZERO),
            sessions: Vec::new(),
            came: 0,
            changes: 0,
            reversals: 0,
            directions: vec![Ordering::Equal; count],
        }
    }

    /// A number that depends on nothing but what it is for, so that both worlds see the same clients.
    fn random(&self, what: u64, number: u64) -> u64 {
        hash::mix(hash::mix(self.clients.seed ^ what).wrapping_add(number))
    }

    fn second(&mut self, now: u64) {
        self.sessions.retain(|session| session.end > now);
        #[expect(clippy::cast_precision_loss, reason = "few backends")]
        let rate = self.clients.sessions * self.members.len() as f64 / self.clients.duration;
        // A few attempts in each second, of which each succeeds with the same chance: nearly a Poisson process.
        for attempt in 0..40 {
            if uniform(self.random(1, now * 40 + attempt)) < rate / 40.0 {
                self.come(now);
            }
        }
        if now.is_multiple_of(CHECK) {
            self.check(now);
        }
    }

    fn come(&mut self, now: u64) {
        self.came += 1;
        let number = self.came;
        let weights = |it: &Member| f64::from(it.weight * it.level.thousandths());
        let mut place = uniform(self.random(2, number)) * self.members.iter().map(weights).sum::<f64>();
        let mut backend = 0;
        while backend + 1 < self.members.len() && place >= weights(&self.members[backend]) {
            place -= weights(&self.members[backend]);
            backend += 1;
        }
        let long = self.random(3, number).is_multiple_of(20);
        let slowness = if backend == 0 { self.clients.slowness } else { 1.0 };
        let mean = self.clients.duration * slowness * if long { 10.0 } else { 0.53 };
        let duration = -mean * uniform(self.random(4, number)).max(1e-9).ln();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds")]
        let end = now + duration as u64 + 1;
        let heavy = self.random(5, number).is_multiple_of(self.clients.heavy);
        self.sessions.push(Session {
            backend,
            end,
            heavy,
            number,
        });
    }

    /// The load of each backend. Queries come and go within some ten seconds.
    fn loads(&self, now: u64) -> Vec<u64> {
        let mut loads = vec![0; self.members.len()];
        for session in &self.sessions {
            let queries = if session.heavy {
                20
            } else {
                u64::from(
                    self.random(6, session.number ^ (now / 10) << 32)
                        .is_multiple_of(5),
                )
            };
            loads[session.backend] += 1 + QUERY * queries;
        }
        loads
    }

    fn check(&mut self, now: u64) {
        let at = Duration::from_secs(now);
        for (index, load) in self.loads(now).into_iter().enumerate() {
            self.averages[index] = self.averages[index].and(load, at, STALE);
            self.members[index].load = Some(self.averages[index].load());
        }
        if !self.follows {
            return;
        }
        for (index, level) in self.levels.decide(&self.members, at).into_iter().enumerate() {
            let before = self.members[index].level;
            self.members[index].level = level;
            let direction = level.cmp(&before);
            if direction != Ordering::Equal {
                self.changes += 1;
                self.reversals += u32::from(direction == self.directions[index].reverse());
                self.directions[index] = direction;
            }
        }
    }

    /// By how much the load of the busiest is above what it should be, in parts of that.
    fn imbalance(&self, now: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let loads: Vec<f64> = self.loads(now).into_iter().map(|load| load as f64).collect();
        let weights: f64 = self.members.iter().map(|it| f64::from(it.weight)).sum();
        let fair = loads.iter().sum::<f64>() / weights;
        let excess = loads
            .iter()
            .zip(&self.members)
            .map(|(load, member)| load / (fair * f64::from(member.weight)).max(1.0));
        excess.fold(0.0, f64::max) - 1.0
    }

    /// Runs for some seconds, and returns the mean imbalance in them.
    fn run(&mut self, seconds: Range<u64>) -> f64 {
        let (mut sum, mut count) = (0.0, 0.0);
        for now in seconds {
            self.second(now);
            if now.is_multiple_of(60) {
                sum += self.imbalance(now);
                count += 1.0;
            }
        }
        sum / count
    }

    /// The first coordinator's process is replaced. Returns after how many seconds it has three quarters again of the load that it
    /// should have.
    fn restart(&mut self, now: u64) -> u64 {
        self.sessions.retain(|session| session.backend != 0);
        let count = u64::try_from(self.members.len()).unwrap();
        let has_enough = |loads: &[u64]| loads[0] >= loads.iter().sum::<u64>() / count / 4 * 3;
        let mut seconds = 0;
        while !has_enough(&self.loads(now + seconds)) {
            self.second(now + seconds);
            seconds += 1;
        }
        seconds
    }
}

const HOUR: u64 = 3600;

/// How long all sessions have been on their way before anything is measured.
const BEFORE: u64 = 4 * HOUR;

/// Both worlds, with the same clients: weights as configured, and weights that follow the load.
fn both(clients: &Clients, weights: &[u32]) -> [World; 2] {
    [false, true].map(|follows| World::new(clients, weights, follows))
}

#[test]
fn where_some_clients_are_heavy_load_is_spread_better_than_by_hash_alone() {
    let mut imbalance = [0.0, 0.0];
    for seed in 0..4 {
        let clients = Clients {
            heavy: 20,
            ..Clients::alike(seed, 3600.0)
        };
        for (world, imbalance) in both(&clients, &[1, 1, 1, 2]).iter_mut().zip(&mut imbalance) {
            world.run(0..BEFORE);
            *imbalance += world.run(BEFORE..BEFORE + 8 * HOUR) / 4.0;
        }
    }
    let [by_hash, by_load] = imbalance;
    assert!(by_load < 0.9 * by_hash, "{by_load} against {by_hash}");
}

#[test]
fn a_slow_machine_is_relieved_however_long_sessions_last_and_weights_do_not_swing() {
    for duration in [5.0, 20.0, 60.0, 300.0, 1200.0, 3600.0] {
        let clients = Clients {
            slowness: 3.0,
            ..Clients::alike(7, duration)
        };
        let [mut by_hash, mut by_load] = both(&clients, &[1, 1, 1]);
        let measured = BEFORE..BEFORE + 4 * HOUR;
        let imbalances = [&mut by_hash, &mut by_load].map(|world| {
            world.run(0..BEFORE);
            (world.changes, world.reversals) = (0, 0);
            world.run(measured.clone())
        });
        assert!(
            imbalances[1] < 0.75 * imbalances[0],
            "sessions of {duration} s: {imbalances:?}"
        );
        assert!(
            by_load.changes <= 12 && by_load.reversals <= 12,
            "sessions of {duration} s: {} changes of three levels in 4 hours, {} of them back",
            by_load.changes,
            by_load.reversals
        );
    }
}

#[test]
fn where_all_clients_are_alike_weights_hardly_ever_move() {
    for (seed, duration) in [(1, 20.0), (2, 120.0), (3, 1200.0), (4, 3600.0)] {
        let [mut by_hash, mut by_load] = both(&Clients::alike(seed, duration), &[1, 1, 1, 2]);
        let imbalances = [&mut by_hash, &mut by_load].map(|world| world.run(0..8 * HOUR));
        // 480 times in eight hours they might.
        assert!(
            by_load.changes <= 32,
            "sessions of {duration} s: {} changes",
            by_load.changes
        );
        assert!(
            imbalances[1] <= 1.05 * imbalances[0],
            "sessions of {duration} s: {imbalances:?}"
        );
    }
}

#[test]
fn a_coordinator_that_was_restarted_has_its_share_sooner() {
    let mut seconds = [0, 0];
    for seed in 0..4 {
        let clients = Clients::alike(seed, 3600.0);
        for (world, seconds) in both(&clients, &[1, 1, 1]).iter_mut().zip(&mut seconds) {
            world.run(0..BEFORE);
            *seconds += world.restart(BEFORE);
        }
    }
    let [by_hash, by_load] = seconds;
    assert!(by_load * 4 < by_hash * 3, "{by_load} against {by_hash} seconds");
}
