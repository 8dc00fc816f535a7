//! What is known of one backend of a service.

use std::{net::IpAddr, time::Duration};

use crate::core::{
    config::Backend,
    discovery::Announcement,
    health::{Event, Failure, Health, Member, Outcome, Standing, Start, Verdict},
    load::{self, Average, Level},
    operator::{Admin, Orders},
    status::CheckStatus,
};

/// Why the health of a backend is what an earlier daemon knew.
const BEFORE: &str = "was so before, and has not been checked yet";

/// A backend, and what is known of its health.
#[derive(Clone, Debug)]
pub struct ServingBackend {
    name: String,
    address: IpAddr,
    port: u16,
    weight: u32,
    tier: u8,
    orders: Orders,
    start: Start,
    health: Health,
    standing: Standing,
    since: Duration,
    cause: String,
    up_since: Option<Duration>,
    last_check: Option<LastCheck>,
    silence: Option<Silence>,
    /// How many client connections it has, by its last check, if that has asked.
    connections: Option<u64>,
    /// How busy it is, as far as it tells.
    load: Option<Average>,
    /// How much of its weight it has by its load.
    level: Level,
    announced: Option<Announced>,
    refuted: Refuted,
}

/// Somebody else says that a backend is shutting down.
#[derive(Clone, Debug)]
struct Announced {
    announcement: Announcement,
    since: Duration,
}

/// What its own checks have shown to be out of date of what others say: it has been away, and is back.
#[derive(Clone, Debug, Default)]
struct Refuted {
    /// Whatever was read up to then.
    until: Option<Duration>,
    /// Whatever is said of a process that is known to have ended, also by pages that are read later.
    process: Option<String>,
}

impl Refuted {
    fn covers(&self, announcement: &Announcement) -> bool {
        self.until.is_some_and(|until| announcement.read <= until)
            || self.process.as_ref() == Some(&announcement.process)
    }
}

/// A row of checks that nobody answered.
#[derive(Clone, Copy, Debug)]
struct Silence {
    /// When the last of them began.
    last: Duration,
    /// For how many of them our own network cannot be to blame: another backend has answered a check that began between the one
    /// before and this one.
    singular: u32,
}

/// The last check of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastCheck {
    /// When its result came.
    pub at: Duration,
    /// What it has found.
    pub status: CheckStatus,
}

/// What a check has found, and what follows from it for the backend.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// What the check has found, or why there was none.
    pub result: Result<&'a Outcome, &'a str>,
    /// What that has changed.
    pub events: &'a [Event],
    /// The backend's health now.
    pub health: Health,
    /// What that means for who serves.
    pub standing: Standing,
    /// How long the backend has been up; `None` if it is not up or was from the start.
    pub since_up: Option<Duration>,
    /// When the check began.
    pub began: Duration,
}

impl Observation<'_> {
    /// Whether nothing came back, not even a refusal; `None` if there was no check.
    pub(super) fn is_silent(&self) -> Option<bool> {
        let silent = Verdict::Failed(Failure::Silent);
        self.result.ok().map(|outcome| outcome.verdict == silent)
    }
}

impl ServingBackend {
    /// A backend that begins to be checked; without `start` it is not, and taken to be up.
    pub(super) fn new(backend: &Backend, start: Option<Start>, now: Duration) -> Self {
        let (health, cause) = match start {
            None => (Health::Up, "is not checked"),
            Some(Start::Cold | Start::Added) => (Health::Checking, "has not been checked yet"),
            Some(Start::Warm(health)) => (health, BEFORE),
            Some(Start::Spare) => (Health::Up, BEFORE),
        };
        Self {
            name: backend.name.clone(),
            address: backend.address,
            port: backend.port,
            weight: backend.weight,
            tier: backend.tier,
            orders: Orders::default(),
            start: start.unwrap_or(Start::Warm(Health::Up)),
            health,
            standing: match health {
                Health::Checking => Standing::Pending,
                Health::Up => Standing::Healthy,
                Health::Saturated => Standing::Saturated,
                Health::Quiescing | Health::Down => Standing::Unusable,
            },
            since: now,
            cause: cause.to_owned(),
            up_since: None,
            last_check: None,
            silence: None,
            connections: None,
            load: None,
            level: Level::CONFIGURED,
            announced: None,
            refuted: Refuted::default(),
        }
    }

    /// Whether it is the same backend as this one: what is known of the one is true of the other.
    pub(super) fn is(&self, backend: &Backend) -> bool {
        (&self.name, self.address, self.port) == (&backend.name, backend.address, backend.port)
    }

    /// Whether it is the same machine and port as this backend, whatever they are called.
    pub(super) fn is_at_place_of(&self, backend: &Backend) -> bool {
        (self.address, self.port) == (backend.address, backend.port)
    }

    /// The same backend with another weight, tier or name. Under another name its checks begin anew, from what is known.
    pub(super) fn follow(&self, backend: &Backend) -> Self {
        let is_renamed = self.name != backend.name && self.health != Health::Checking;
        Self {
            name: backend.name.clone(),
            weight: backend.weight,
            tier: backend.tier,
            start: if is_renamed {
                Start::Warm(self.health)
            } else {
                self.start
            },
            ..self.clone()
        }
    }

    /// Takes in what the operator has decided about it.
    pub(super) fn instruct(&mut self, orders: Orders) {
        self.orders = orders;
    }

    /// `stale` says for how long a load is good.
    pub(super) fn observe(&mut self, observation: Observation<'_>, stale: Duration, now: Duration) {
        for event in observation.events {
            match event {
                Event::Changed { from, cause, .. } => {
                    self.cause.clone_from(cause);
                    self.since = now;
                    // Not by whether its process is another one: not every check is told.
                    if *from == Health::Down {
                        self.refuted.until = Some(now);
                    }
                }
                Event::OtherFailure { cause, .. } => {
                    self.cause.clone_from(cause);
                    self.since = now;
                }
                Event::Restarted { .. } => {
                    // The load was the old process's.
                    (self.load, self.level) = (None, Level::CONFIGURED);
                    self.refuted.until = Some(now);
                    let process = self.announced.as_ref().map(|it| it.announcement.process.clone());
                    if let Some(process) = process.filter(|process| !process.is_empty()) {
                        self.refuted.process = Some(process);
                    }
                }
            }
        }
        let figures = observation.result.ok().and_then(|outcome| outcome.load);
        self.connections = figures.and_then(|figures| figures.connections);
        if let Some(load) = figures.as_ref().and_then(load::of) {
            let average = self.load.map(|average| average.and(load, now, stale));
            self.load = Some(average.unwrap_or(Average::new(load, now)));
        }
        self.health = observation.health;
        self.standing = observation.standing;
        // The first word counts: later ones may have waited longer, and the weight would shrink again.
        self.up_since = observation
            .since_up
            .map(|up| self.up_since.unwrap_or(now.saturating_sub(up)));
        self.last_check = Some(LastCheck {
            at: now,
            status: match observation.result {
                Ok(outcome) => outcome.into(),
                Err(reason) => CheckStatus {
                    ok: false,
                    latency_ms: 0,
                    seconds_ago: 0,
                    detail: reason.to_owned(),
                },
            },
        });
    }

    /// Has it come up, if it is still being checked for the first time, and through its slow start.
    pub(super) fn suppose_up(&mut self) {
        if self.standing == Standing::Pending {
            (self.health, self.standing) = (Health::Up, Standing::Healthy);
        }
        self.up_since = None;
    }

    /// Takes in whether somebody else says that it is shutting down, and who. Returns what its health has become, if that is another.
    pub(super) fn announce_quiescing(
        &mut self,
        said: Option<&Announcement>,
        now: Duration,
    ) -> Option<Health> {
        let before = self.health();
        let since = self.announced().map_or(now, |announced| announced.since);
        self.announced = said.map(|announcement| Announced {
            announcement: announcement.clone(),
            since,
        });
        Some(self.health()).filter(|health| *health != before)
    }

    /// What others say of it, as far as that counts: of one that is down, or has come back, its own check knows more.
    fn announced(&self) -> Option<&Announced> {
        self.announced
            .as_ref()
            .filter(|it| self.health != Health::Down && !self.refuted.covers(&it.announcement))
    }

    /// Takes in a check that nobody answered, and when the latest check began that any other backend answered.
    pub(super) fn count_silence(&mut self, began: Duration, sign_of_life: Option<Duration>) {
        let singular = self.silence.map_or(0, |silence| {
            let refuted = sign_of_life.is_some_and(|sign| sign > silence.last);
            silence.singular.saturating_add(refuted.into())
        });
        self.silence = Some(Silence {
            last: began,
            singular,
        });
    }

    pub(super) fn end_silence(&mut self) {
        self.silence = None;
    }

    /// How many of its last checks in a row nobody answered, while other backends answered theirs.
    pub(super) fn silences(&self) -> u32 {
        self.silence.map_or(0, |silence| silence.singular)
    }

    /// What counts when it is decided who serves.
    pub(super) fn member(&self) -> Member {
        Member {
            tier: self.tier,
            weight: self.weight(),
            standing: match self.orders.admin {
                Admin::Enabled => self.standing(),
                Admin::Draining | Admin::Disabled => Standing::Withdrawn,
            },
        }
    }

    /// Whether nothing new may go to it if it does not serve. Where it is only drained, that is for its health to say: a handshake
    /// that has begun there ends there.
    pub(super) fn sheds(&self) -> bool {
        match self.orders.admin {
            Admin::Enabled | Admin::Draining => self.standing() != Standing::Healthy,
            Admin::Disabled => true,
        }
    }

    /// Whether it is to be nobody's home any more: an operator drains it, or it has the weight 0.
    pub(super) fn drains(&self) -> bool {
        let is_drained = self.orders.admin == Admin::Draining && !self.orders.soft;
        is_drained || self.weight() == 0
    }

    /// What its health means for who serves, whatever the operator says.
    pub(super) fn standing(&self) -> Standing {
        self.announced().map_or(self.standing, |_| Standing::Unusable)
    }

    /// Its load, smoothed; `None` if it is not known any more, or never was.
    pub(super) fn load(&self, now: Duration, stale: Duration) -> Option<u64> {
        self.load
            .filter(|average| !average.is_stale(now, stale))
            .map(|average| average.load())
    }

    /// How many client connections it has, as it has told with its last load.
    pub fn connections(&self) -> Option<u64> {
        self.connections
    }

    /// How much of its weight it has by its load.
    pub(super) fn level(&self) -> Level {
        self.level
    }

    pub(super) fn set_level(&mut self, level: Level) {
        self.level = level;
    }

    /// Its name, unique within the service.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its own address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its weight: the operator's, or else the configured one.
    pub fn weight(&self) -> u32 {
        self.orders.weight.unwrap_or(self.weight)
    }

    /// What the operator lets it do.
    pub fn admin(&self) -> Admin {
        self.orders.admin
    }

    /// Its tier.
    pub fn tier(&self) -> u8 {
        self.tier
    }

    /// What was known of it at the start.
    pub fn start(&self) -> Start {
        self.start
    }

    /// Its health.
    pub fn health(&self) -> Health {
        self.announced().map_or(self.health, |_| Health::Quiescing)
    }

    /// Since when its health has been what it is, and for the same reason.
    pub fn since(&self) -> Duration {
        self.announced().map_or(self.since, |announced| announced.since)
    }

    /// Why its health is what it is, in a sentence that continues its name.
    pub fn cause(&self) -> &str {
        self.announced()
            .map_or(&self.cause, |announced| &announced.announcement.cause)
    }

    /// Since when it has been up, if it was not from the start.
    pub(super) fn up_since(&self) -> Option<Duration> {
        self.up_since
    }

    /// The last check; `None` before the first.
    pub fn last_check(&self) -> Option<&LastCheck> {
        self.last_check.as_ref()
    }
}
