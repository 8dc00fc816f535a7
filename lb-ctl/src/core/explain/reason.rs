//! The reason for which a packet has its target, in one sentence.

use lb_common::{
    affinity, clock,
    decision::{Tables, seen_by_new_flow},
    layout::{
        Affinity, ClientKey, FlowKey, FlowRecord, HalfOpen, NO_TARGET, Service, SettledFlow, Slot, Target,
        flag,
    },
    least_connections,
    slot_rule::{Event, IDLE, continues},
};

use super::Names;
use crate::core::time::seconds;

/// What the tables have about a flow.
pub(super) struct Found<'a> {
    pub(super) slot: Slot,
    pub(super) record: Option<&'a FlowRecord>,
    pub(super) half_open: Option<&'a HalfOpen>,
    pub(super) note: Option<&'a SettledFlow>,
    pub(super) now: u32,
    /// What is noted of the client, if the service has affinity.
    pub(super) noted: Option<&'a Affinity>,
    /// The slot as a new connection of this client sees it, and why its `current` is what it is.
    home: (Slot, Home),
    /// Among whom a new connection chooses, if the service places each by live ones.
    pub(super) candidates: Vec<Choice>,
    /// Records are running short, and the settled target can do without.
    saves_records: bool,
    /// Each connection in the slot has a record: the service translates, or places each and nobody is left from before.
    records_all: bool,
    /// Whether the target of the half-open record can have answered.
    is_answered: bool,
}

/// A target among which a new connection chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// Its id.
    pub(super) target: u16,
    /// Its live connections, those that are just beginning included.
    pub(super) connections: u64,
    /// By what they are divided.
    pub(super) weight: u32,
    /// Whether it can get one more.
    pub(super) takes_new_flows: bool,
}

/// Why a new connection of a client gets its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    /// It is what the slot gives to new connections.
    Slot,
    /// It has the fewest connections for its weight.
    Fewest,
    /// The client is noted there.
    Noted,
    /// The client is noted elsewhere, where no new connections are taken.
    Lost,
    /// Nothing is noted of the client, and the slot is in its grace period.
    Grace,
}

/// Which part of the slot rule applies, and the target that it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// All packets of the slot go to one target.
    Untracked(u16),
    /// The record decides alone.
    RecordInUse(u16),
    /// The packet continues a SYN that was given to this target.
    Continues(u16),
    /// A record that closes or is idle, and nobody has taken its place.
    OldRecord(u16),
    /// There is no record.
    NoRecord(u16),
    /// A SYN goes where the one before went.
    SynAgain(u16),
    /// A SYN, for which a record that closes or is idle gives way.
    Replaces(u16),
    /// A SYN of a slot whose settled target is its current one.
    NotMoved(u16),
    /// A SYN that does without a record.
    SavesRecord(u16),
    /// A SYN.
    New(u16),
    /// Each connection of the service has a record, except this one.
    Unknown,
}

impl Rule {
    pub(super) const fn target(self) -> u16 {
        match self {
            Self::Untracked(target)
            | Self::RecordInUse(target)
            | Self::Continues(target)
            | Self::OldRecord(target)
            | Self::NoRecord(target)
            | Self::SynAgain(target)
            | Self::Replaces(target)
            | Self::NotMoved(target)
            | Self::SavesRecord(target)
            | Self::New(target) => target,
            Self::Unknown => NO_TARGET,
        }
    }
}

impl<'a> Found<'a> {
    /// What the tables have about a flow of the service, whose hash picks the slot `index` with this content.
    pub(super) fn of(
        slot: Slot,
        index: u32,
        key: &FlowKey,
        service: &Service,
        records: &'a impl Tables,
    ) -> Self {
        let affinity_timeout = service.affinity_timeout;
        let translates = service.flags & flag::TRANSLATES != 0;
        let places_each = least_connections::places_each(service);
        // A record without a port is of a time when the service did not translate.
        let counts = |port: u16| !translates || port != 0;
        let client = ClientKey::new(key.client(), key.service());
        let noted = match affinity_timeout {
            0 => None,
            _ => records.affinity(&client),
        };
        let by_default = if places_each { Home::Fewest } else { Home::Slot };
        let seen = if slot.tracked || translates {
            seen_by_new_flow(slot, key, index, service, records)
        } else {
            slot
        };
        let home = if slot.tracked && affinity_timeout != 0 {
            let fresh = noted.filter(|noted| affinity::is_fresh(noted, records.now(), affinity_timeout));
            let why = match fresh {
                Some(noted) if records.takes_new_flows(noted.target) => Home::Noted,
                Some(_) => Home::Lost,
                None if slot.grace != 0 && records.takes_new_flows(slot.settled) => Home::Grace,
                None => by_default,
            };
            (seen, why)
        } else {
            (seen, by_default)
        };
        Self {
            noted,
            home,
            slot,
            record: records.flow(key).filter(|record| counts(record.port)),
            half_open: records.half_open(key).filter(|half_open| counts(half_open.port)),
            is_answered: records
                .half_open(key)
                .is_some_and(|half_open| records.is_alive(half_open.target)),
            note: records.settled_flow(key),
            now: records.now(),
            candidates: if places_each {
                candidates(index, service, records)
            } else {
                Vec::new()
            },
            saves_records: records.is_short() && records.takes_new_flows(seen.settled),
            records_all: translates || places_each && slot.tracked && slot.settled == NO_TARGET,
        }
    }

    /// The part of the slot rule that applies. That it leads where the rule itself leads is a property under test.
    pub(super) fn rule(&self, event: Event) -> Rule {
        let tracked = self.slot.tracked;
        let Slot { settled, current, .. } = if event.opens { self.home.0 } else { self.slot };
        match (self.record, self.half_open) {
            _ if !tracked && !self.records_all => Rule::Untracked(current),
            (Some(record), _) if self.is_in_use(record) => Rule::RecordInUse(record.target),
            (_, Some(half_open)) if event.opens && self.is_answered => Rule::SynAgain(half_open.target),
            (Some(_), _) if event.opens => Rule::Replaces(current),
            (None, _) if event.opens && self.records_all => Rule::New(current),
            (None, None) if event.opens && settled == current => Rule::NotMoved(settled),
            (None, None) if event.opens && self.saves_records => Rule::SavesRecord(settled),
            (None, _) if event.opens => Rule::New(current),
            (_, Some(half_open)) if continues(event, half_open) => Rule::Continues(half_open.target),
            (Some(record), _) => Rule::OldRecord(record.target),
            (None, _) if self.records_all => Rule::Unknown,
            (None, _) => Rule::NoRecord(settled),
        }
    }

    const fn is_in_use(&self, record: &FlowRecord) -> bool {
        record.closing == 0 && clock::since(self.now, record.last_seen) <= IDLE
    }

    /// The reason for which a packet has its target.
    pub(super) fn why(&self, event: Event, names: &Names<'_>) -> String {
        let rule = self.rule(event);
        let name = |target| match target {
            NO_TARGET => "nobody".to_owned(),
            target => (names.backend)(target),
        };
        let target = name(rule.target());
        let current = name(self.slot.current);
        let elsewhere = if self.slot.current == rule.target() || !self.candidates.is_empty() {
            String::new()
        } else {
            format!(", though new connections of this slot go to {current}")
        };
        let record = self.record.map(|record| {
            let ago = self.ago(record.last_seen);
            match record.closing {
                0 => format!("its established record, last used {ago} ago,"),
                _ => format!("its record, which is closing, last used {ago} ago,"),
            }
        });
        let record = record.unwrap_or_default();
        let syn = self.half_open.map(|half_open| self.ago(half_open.opened));
        let syn = syn.unwrap_or_default();
        match rule {
            Rule::Untracked(_) => format!("untracked slot: every packet goes to {target}"),
            Rule::RecordInUse(_) if event.opens => {
                format!("{record} names {target}, which knows whether the connection still exists{elsewhere}")
            }
            Rule::RecordInUse(_) | Rule::OldRecord(_) => format!("{record} names {target}{elsewhere}"),
            Rule::Continues(_) => format!(
                "its SYN of {syn} ago was given to {target}, and a packet that continues it follows it{elsewhere}"
            ),
            Rule::NoRecord(_) => {
                format!("no record: connections from before the move live on {target}{elsewhere}")
            }
            Rule::SynAgain(_) => {
                format!(
                    "a SYN of {syn} ago was given to {target}, and one that is sent again follows it{elsewhere}"
                )
            }
            Rule::Replaces(_) => {
                format!(
                    "{record} gives way to a new connection, and {}",
                    self.new_connections(names)
                )
            }
            Rule::NotMoved(_) => {
                format!(
                    "{}, where those without a record live as well",
                    self.new_connections(names)
                )
            }
            Rule::SavesRecord(_) => format!(
                "records are running short, so new connections stay on {target}, which needs none, instead of {current}"
            ),
            Rule::Unknown => "no record: every connection of this service has one".to_owned(),
            Rule::New(_) => format!("{}, and are recorded", self.new_connections(names)),
        }
    }

    /// Why new connections of this client get their target.
    fn new_connections(&self, names: &Names<'_>) -> String {
        let (Slot { current: target, .. }, why) = self.home;
        let name = |target| match target {
            NO_TARGET => "nobody".to_owned(),
            target => (names.backend)(target),
        };
        let target = name(target);
        let noted = self
            .noted
            .map(|noted| (name(noted.target), self.ago(noted.last_seen)));
        match (why, noted) {
            (Home::Noted, Some((_, ago))) => format!(
                "this client is at home on {target}, where it was last seen {ago} ago: its new connections go there"
            ),
            (Home::Lost, Some((lost, _))) if !self.candidates.is_empty() => format!(
                "this client was at home on {lost}, which takes no new connections: {}",
                self.fewest(&target, &name)
            ),
            (Home::Fewest, _) => self.fewest(&target, &name),
            (Home::Lost, Some((lost, _))) => format!(
                "this client was at home on {lost}, which takes no new connections: those of this slot go to {target}"
            ),
            (Home::Grace, _) => format!(
                "whoever was here before the slot moved is at home on {target} for a while, and this client may have been: its \
                 new connections go there"
            ),
            _ => format!("new connections of this slot go to {target}"),
        }
    }

    /// Why a new connection gets the target that has the fewest.
    fn fewest(&self, target: &str, name: &impl Fn(u16) -> String) -> String {
        let takes_new_flows = self.candidates.iter().filter(|it| it.takes_new_flows);
        let candidates: Vec<String> = takes_new_flows
            .map(|it| format!("{} {} of weight {}", name(it.target), it.connections, it.weight))
            .collect();
        if candidates.is_empty() {
            return "no backend takes new connections".to_owned();
        }
        format!(
            "new connections go to the backend with the fewest live ones for its weight, {target} ({})",
            candidates.join(", ")
        )
    }

    /// How long a time is past, for people.
    fn ago(&self, then: u32) -> String {
        format!("{} s", seconds(clock::since(self.now, then)))
    }
}

/// Among whom a new connection whose hash picks the slot `index` chooses: each target once, in the order in which they are looked at.
fn candidates(index: u32, service: &Service, tables: &impl Tables) -> Vec<Choice> {
    let first = least_connections::window(index, service);
    let mut candidates = Vec::<Choice>::new();
    for index in (first..).take(service.candidates.into()) {
        let Some(Slot { current: target, .. }) = tables.slot(index) else {
            break;
        };
        if target == NO_TARGET || candidates.iter().any(|it| it.target == target) {
            continue;
        }
        candidates.extend(tables.target(target).map(|entry: &Target| Choice {
            target,
            // Without the one that is to come.
            connections: least_connections::load(tables.live(target), tables.now()) - 1,
            weight: entry.weight(),
            takes_new_flows: entry.takes_new_flows(),
        }));
    }
    candidates
}
