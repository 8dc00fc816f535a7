//! The reason for which a packet has its target, in one sentence.

use lb_common::{
    affinity, clock,
    layout::{Affinity, ClientKey, FlowKey, FlowRecord, HalfOpen, NO_TARGET, SettledFlow, Slot},
    slot_rule::{Event, IDLE, Records, continues},
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
    /// The target that the slot gives to a new connection of this client, and why that one.
    home: (u16, Home),
    /// Records are running short, and the settled target can do without.
    saves_records: bool,
    /// The service translates: each of its connections has a record, and no slot is asked about them.
    translates: bool,
    /// Whether the target of the half-open record can have answered.
    is_answered: bool,
}

/// Why a new connection of a client gets its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    /// It is what the slot gives to new connections.
    Slot,
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
    /// `translates` and `affinity_timeout` are the service's.
    pub(super) fn of(
        slot: Slot,
        translates: bool,
        key: &FlowKey,
        affinity_timeout: u32,
        records: &'a impl Records,
    ) -> Self {
        // A record without a port is of a time when the service did not translate.
        let counts = |port: u16| !translates || port != 0;
        let client = ClientKey::new(key.client(), key.service());
        let noted = match affinity_timeout {
            0 => None,
            _ => records.affinity(&client),
        };
        let home = if slot.tracked && affinity_timeout != 0 {
            let target = affinity::seen_by(&client, slot, affinity_timeout, records).current;
            let fresh = noted.filter(|noted| affinity::is_fresh(noted, records.now(), affinity_timeout));
            let why = match fresh {
                Some(noted) if records.takes_new_flows(noted.target) => Home::Noted,
                Some(_) => Home::Lost,
                None if slot.grace != 0 && records.takes_new_flows(slot.settled) => Home::Grace,
                None => Home::Slot,
            };
            (target, why)
        } else {
            (slot.current, Home::Slot)
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
            saves_records: records.is_short() && records.is_alive(slot.settled),
            translates,
        }
    }

    /// The part of the slot rule that applies. That it leads where the rule itself leads is a property under test.
    pub(super) fn rule(&self, event: Event) -> Rule {
        let Slot { settled, tracked, .. } = self.slot;
        let current = if tracked { self.home.0 } else { self.slot.current };
        match (self.record, self.half_open) {
            _ if !tracked && !self.translates => Rule::Untracked(current),
            (Some(record), _) if self.is_in_use(record) => Rule::RecordInUse(record.target),
            (_, Some(half_open)) if event.opens && self.is_answered => Rule::SynAgain(half_open.target),
            (Some(_), _) if event.opens => Rule::Replaces(current),
            (None, _) if event.opens && self.translates => Rule::New(current),
            (None, None) if event.opens && settled == current => Rule::NotMoved(settled),
            (None, None) if event.opens && self.saves_records => Rule::SavesRecord(settled),
            (None, _) if event.opens => Rule::New(current),
            (_, Some(half_open)) if continues(event, half_open) => Rule::Continues(half_open.target),
            (Some(record), _) => Rule::OldRecord(record.target),
            (None, _) if self.translates => Rule::Unknown,
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
        let elsewhere = if self.slot.current == rule.target() {
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
            Rule::Unknown => "no record: every connection of a service that translates has one".to_owned(),
            Rule::New(_) => format!("{}, and are recorded", self.new_connections(names)),
        }
    }

    /// Why new connections of this client get their target.
    fn new_connections(&self, names: &Names<'_>) -> String {
        let (target, why) = self.home;
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

    /// How long a time is past, for people.
    fn ago(&self, then: u32) -> String {
        format!("{} s", seconds(clock::since(self.now, then)))
    }
}
