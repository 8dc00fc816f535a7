//! Which backends of a service get new connections, with which weight, and whose connections are given up, as reports on the
//! backends' health come in.
//!
//! | a backend | new connections | existing ones |
//! | --- | --- | --- |
//! | up, in the tier that serves | by its weight, at first only a part of it (`slow_start`) | stay |
//! | up, in another tier | none, unless affinity brings them | stay |
//! | checking, saturated, quiescing | none | stay |
//! | down: answers wrongly | none | stay: what it answers to the check need not be what it answers to clients |
//! | down: refuses, or is not the active one of its pair | none | given up, with `on_down = "reset"` |
//! | down: silent | none | the same, once `fall` of its checks were silent while others were answered: else it may be our network |
//! | kept in use by the guard | by its weight | stay |
//! | draining, by the operator's word | none | stay, as long as its health lets them |
//! | disabled, by the operator's word | none | given up |
//!
//! With `balance = "load"` each one's weight also follows its [load].
//!
//! Pure: points in time are durations since some fixed moment of the caller's monotonic clock.

mod backend;

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, time::Duration};

use super::{
    config::{Backend, Balance, CheckKind, HealthPolicy, OnDown, Service},
    discovery::Announcement,
    health::{Guard, Health, Member, Selection, Standing, Start, healthy_weights, select, slow_start},
    load::{self, Level, Levels},
    operator::{Admin, Orders},
};

pub use backend::{LastCheck, Observation, ServingBackend};

/// How long a service that is new waits for the first checks of all its backends, so that its slots are shared out once, and
/// not anew with each that comes up.
pub const FIRST_CHECKS: Duration = Duration::from_secs(1);

/// The backends of a service, and who of them serves.
#[derive(Clone, Debug)]
pub struct Serving {
    policy: HealthPolicy,
    is_checked: bool,
    fall: u32,
    /// In the order of the configuration.
    backends: Vec<ServingBackend>,
    active_tier: Option<u8>,
    guard: Option<Guard>,
    /// When the latest check began that had a sign of life from any backend.
    sign_of_life: Option<Duration>,
    /// Until when nobody serves, as the first checks are under way.
    waits_until: Option<Duration>,
    /// With `balance = "load"`.
    by_load: Option<ByLoad>,
}

/// How weights follow the load.
#[derive(Clone, Copy, Debug)]
struct ByLoad {
    levels: Levels,
    /// For how long a load is good.
    stale: Duration,
}

impl ByLoad {
    fn of(service: &Service, now: Duration) -> Option<Self> {
        (service.balance == Balance::Load).then(|| Self {
            levels: Levels::new(now),
            stale: load::STALE.max(service.check.pace.interval * 3),
        })
    }
}

/// What a backend's load has to do with its weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its load, in connections; `None` if it is not known.
    pub load: Option<u64>,
    /// How much of its weight it has.
    pub level: Level,
}

/// What is to be done for a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// By backend, in the order of the configuration.
    pub backends: Vec<Part>,
    /// What operators should know.
    pub notices: Vec<Notice>,
    /// When to decide anew, if no report comes earlier.
    pub next: Option<Duration>,
}

/// What is to be done for a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The weight with which it takes part.
    pub weight: u32,
    /// No new connection may go to it, whatever affinity says.
    pub sheds: bool,
    /// The same, except for handshakes that have begun there: it is drained, or has the weight 0.
    pub drains: bool,
    /// Its connections are given up.
    pub reset: bool,
}

/// Whether a pass over the records that gives up these targets' connections must have ended before their parts are these: it would
/// reset connections that may come. They come to whoever has a weight, but with affinity also to whoever has none.
pub fn must_await_pass<'a>(
    gives_up: &BTreeSet<u16>,
    parts: impl IntoIterator<Item = (u16, &'a Part)>,
) -> bool {
    parts
        .into_iter()
        .any(|(id, part)| !part.reset && gives_up.contains(&id))
}

/// Something about a service that operators should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Another tier serves.
    Tier {
        /// Before.
        from: u8,
        /// Now.
        to: u8,
        /// How much of each tier is healthy, in words.
        cause: String,
    },
    /// Backends are in use that would not be if there were enough others.
    GuardActive(Guard),
    /// There are enough others again.
    GuardInactive,
    /// Weights have followed the load.
    Load {
        /// The backend.
        name: String,
        /// Its load, in connections.
        load: Option<u64>,
        /// The part of its weight that it has now, in thousandths.
        thousandths: u32,
    },
}

impl Serving {
    /// A service. `start` says what is known of each backend.
    pub fn new(service: &Service, start: impl Fn(&Backend) -> Start, now: Duration) -> Self {
        let is_checked = service.check.kind != CheckKind::None;
        let backends: Vec<ServingBackend> = service
            .backends
            .iter()
            .map(|backend| ServingBackend::new(backend, is_checked.then(|| start(backend)), now))
            .collect();
        let serves = |backend: &&ServingBackend| {
            backend.health() == Health::Up && backend.weight() > 0 && backend.start() != Start::Spare
        };
        Self {
            policy: service.health,
            is_checked,
            fall: service.check.pace.fall,
            active_tier: backends.iter().filter(serves).map(ServingBackend::tier).min(),
            waits_until: backends
                .iter()
                .all(|backend| backend.start() == Start::Cold && is_checked)
                .then(|| now.saturating_add(FIRST_CHECKS)),
            backends,
            guard: None,
            sign_of_life: None,
            by_load: ByLoad::of(service, now),
        }
    }

    /// Takes the slots that each backend has for the work of an earlier run, whose weights followed the load.
    pub fn adopt_slots(&mut self, slots: impl Fn(&ServingBackend) -> u32) {
        if self.by_load.is_some() {
            let of = |backend: &ServingBackend| (backend.weight(), slots(backend));
            let found: Vec<(u32, u32)> = self.backends.iter().map(of).collect();
            for (backend, level) in self.backends.iter_mut().zip(load::of_slots(&found)) {
                backend.set_level(level);
            }
        }
    }

    /// The same service, configured in another way. Backends that stay keep what is known of them, also under another name.
    #[must_use]
    pub fn follow(&self, service: &Service, now: Duration) -> Self {
        let is_checked = service.check.kind != CheckKind::None;
        let backend = |configured: &Backend| {
            let mut earlier = self.backends.iter();
            let before = earlier.clone().find(|before| before.is(configured));
            match before.or_else(|| earlier.find(|before| before.is_at_place_of(configured))) {
                Some(before) if is_checked == self.is_checked => before.follow(configured),
                // It has served unchecked: that goes on until checks say otherwise.
                Some(_) => {
                    let start = is_checked.then_some(Start::Warm(Health::Up));
                    ServingBackend::new(configured, start, now)
                }
                None => ServingBackend::new(configured, is_checked.then_some(Start::Added), now),
            }
        };
        Self {
            policy: service.health,
            is_checked,
            fall: service.check.pace.fall,
            backends: service.backends.iter().map(backend).collect(),
            by_load: ByLoad::of(service, now).map(|new| ByLoad {
                levels: self.by_load.map_or(new.levels, |before| before.levels),
                ..new
            }),
            ..self.clone()
        }
    }

    /// Takes in what the operator has decided about each backend, by its name.
    pub fn instruct(&mut self, orders: impl Fn(&str) -> Orders) {
        for backend in &mut self.backends {
            let orders = orders(backend.name());
            backend.instruct(orders);
        }
    }

    /// Whether nobody would get new connections after the operator's word, though somebody does before it. Decides nothing.
    pub fn would_be_emptied(&self, orders: impl Fn(&str) -> Orders, now: Duration) -> bool {
        let serves = |mut serving: Self| {
            let parts = serving.decide(now).backends;
            parts.iter().any(|part| part.weight > 0)
        };
        let mut after = self.clone();
        after.instruct(orders);
        serves(self.clone()) && !serves(after)
    }

    /// Takes in what a check has found of a backend. Reports on strangers are ignored: they are from before a reload.
    pub fn observe(&mut self, name: &str, observation: Observation<'_>, now: Duration) {
        let stale = self.stale();
        let Some(backend) = self.backends.iter_mut().find(|backend| backend.name() == name) else {
            return;
        };
        match observation.is_silent() {
            Some(true) => backend.count_silence(observation.began, self.sign_of_life),
            Some(false) => {
                backend.end_silence();
                self.sign_of_life = self.sign_of_life.max(Some(observation.began));
            }
            None => {}
        }
        backend.observe(observation, stale, now);
    }

    /// Takes in whether somebody else says of a backend that it is shutting down, and who. Returns what its health has become, if that
    /// is another.
    pub fn announce_quiescing(
        &mut self,
        name: &str,
        said: Option<&Announcement>,
        now: Duration,
    ) -> Option<Health> {
        let mut backends = self.backends.iter_mut();
        let backend = backends.find(|backend| backend.name() == name)?;
        backend.announce_quiescing(said, now)
    }

    /// Decides who serves from now on.
    pub fn decide(&mut self, now: Duration) -> Decision {
        let members: Vec<Member> = self.backends.iter().map(ServingBackend::member).collect();
        let Selection {
            active_tier,
            in_use,
            guard,
        } = select(&members, self.policy.selection, self.active_tier);
        let mut notices = Vec::new();
        if let Some(from) = self.active_tier.replace(active_tier)
            && from != active_tier
        {
            notices.push(Notice::Tier {
                from,
                to: active_tier,
                cause: healthy_weights(&members),
            });
        }
        match (self.guard, guard) {
            (Some(_), None) => notices.push(Notice::GuardInactive),
            (before, Some(guard)) if before != Some(guard) => notices.push(Notice::GuardActive(guard)),
            _ => {}
        }
        self.guard = guard;
        self.waits_until = self
            .waits_until
            .filter(|until| now < *until && members.iter().any(|it| it.standing == Standing::Pending));
        let waits = self.waits_until.is_some();
        self.follow_load(&in_use, now, &mut notices);
        let parts = in_use.iter().zip(&self.backends).map(|(&in_use, backend)| Part {
            weight: if in_use && !waits {
                self.weight(backend, now)
            } else {
                0
            },
            sheds: !in_use && backend.sheds(),
            drains: backend.drains(),
            reset: !in_use && (backend.admin() == Admin::Disabled || self.gives_up(backend)),
        });
        Decision {
            backends: parts.collect(),
            notices,
            next: self.next_growth(now).into_iter().chain(self.waits_until).min(),
        }
    }

    /// With `balance = "load"`: decides how much of its weight each backend has.
    fn follow_load(&mut self, in_use: &[bool], now: Duration, notices: &mut Vec<Notice>) {
        let stale = self.stale();
        let Some(by_load) = &mut self.by_load else {
            return;
        };
        let member = |(backend, &in_use): (&ServingBackend, &bool)| load::Member {
            weight: backend.weight(),
            in_use,
            load: backend.load(now, stale),
            level: backend.level(),
        };
        let members: Vec<load::Member> = self.backends.iter().zip(in_use).map(member).collect();
        let levels = by_load.levels.decide(&members, now);
        for ((backend, member), level) in self.backends.iter_mut().zip(members).zip(levels) {
            if level != member.level && member.in_use {
                notices.push(Notice::Load {
                    name: backend.name().to_owned(),
                    load: member.load,
                    thousandths: level.thousandths(),
                });
            }
            backend.set_level(level);
        }
    }

    /// For how long a load is good.
    fn stale(&self) -> Duration {
        self.by_load.map_or(load::STALE, |by_load| by_load.stale)
    }

    /// The weight of a backend that serves. With a slow start all are multiplied, so that also a weight of 1 can grow; the same with
    /// weights that follow the load, so that it can shrink.
    fn weight(&self, backend: &ServingBackend, now: Duration) -> u32 {
        let mut weight = backend.weight();
        if !self.policy.slow_start.is_zero() {
            weight = weight.saturating_mul(self.parts(backend, now));
        }
        if self.by_load.is_some() {
            weight = weight.saturating_mul(backend.level().thousandths());
        }
        weight
    }

    /// How many of the [`slow_start::PARTS`] of its weight a backend has.
    fn parts(&self, backend: &ServingBackend, now: Duration) -> u32 {
        backend.up_since().map_or(slow_start::PARTS, |since| {
            slow_start::parts(now.saturating_sub(since), self.policy.slow_start)
        })
    }

    fn next_growth(&self, now: Duration) -> Option<Duration> {
        let growth = |since: Duration| {
            let next = slow_start::next_growth(now.saturating_sub(since), self.policy.slow_start)?;
            Some(since.saturating_add(next))
        };
        self.backends
            .iter()
            .filter_map(|backend| growth(backend.up_since()?))
            .min()
    }

    /// Whether the connections of a backend that is not in use are to be reset.
    fn gives_up(&self, backend: &ServingBackend) -> bool {
        self.policy.on_down == OnDown::Reset
            && backend.health() == Health::Down
            && match backend.standing() {
                Standing::Unusable => true,
                Standing::Silent => backend.silences() >= self.fall,
                _ => false,
            }
    }

    /// The weights once all backends whose first checks are under way are up, and have come through their slow start.
    pub fn weights_once_up(&self, now: Duration) -> Vec<u32> {
        let mut later = self.clone();
        later.waits_until = None;
        for backend in &mut later.backends {
            backend.suppose_up();
        }
        let parts = later.decide(now).backends;
        parts.into_iter().map(|part| part.weight).collect()
    }

    /// Whether its backends are checked.
    pub fn is_checked(&self) -> bool {
        self.is_checked
    }

    /// The tier that serves.
    pub fn active_tier(&self) -> u8 {
        self.active_tier.unwrap_or_default()
    }

    /// Set while backends are in use that would not be if there were enough others.
    pub fn guard(&self) -> Option<&Guard> {
        self.guard.as_ref()
    }

    /// Whether the first checks of a new service are still waited for.
    pub fn waits(&self) -> bool {
        self.waits_until.is_some()
    }

    /// The backends, in the order of the configuration.
    pub fn backends(&self) -> &[ServingBackend] {
        &self.backends
    }

    /// With `balance = "load"`: what a backend's load has to do with its weight.
    pub fn loaded(&self, backend: &ServingBackend, now: Duration) -> Option<Loaded> {
        self.by_load.map(|by_load| Loaded {
            load: backend.load(now, by_load.stale),
            level: backend.level(),
        })
    }

    /// How many of the [`slow_start::PARTS`] of its weight a backend has while it starts slowly; `None` once it is whole.
    pub fn slow_start(&self, backend: &ServingBackend, now: Duration) -> Option<u32> {
        Some(self.parts(backend, now)).filter(|&parts| parts < slow_start::PARTS)
    }
}
