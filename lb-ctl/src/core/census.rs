//! One pass over the records of both tables, and over the notes of clients: which are over, and what the others name.
//!
//! Half-open records must be passed before established ones. A record that becomes established meanwhile is then met twice
//! rather than never. Notes of clients come before both: a SYN that follows a note which ends meanwhile leaves a half-open record,
//! which is still to be met; a later one follows it no more.

mod following;

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    address::Address,
    affinity, clock, hash,
    layout::{Affinity, ClientKey, FlowKey, FlowRecord, HalfOpen, NO_TARGET, Service, Slot, flag},
};

pub use following::{Following, taken_over};

use super::{
    live_counts::{Differences, Met, Reading},
    slot_moves::Named,
};

/// After how many ticks a half-open record is over: a minute. A client sends its SYN again sooner.
pub const HALF_OPEN_TIMEOUT: u32 = 56;

/// After how many ticks without a packet the record of a closing connection is over: eleven minutes. Its last segments take two.
/// But anybody can forge a FIN or RST that both ends ignore (RFC 5961), and an idle Impala client speaks, by TCP's keepalive,
/// every ten.
pub const CLOSING_TIMEOUT: u32 = 620;

/// The same while records run short: two minutes.
pub const CLOSING_TIMEOUT_IN_NEED: u32 = 112;

/// Records run short above this fill, in percent, …
const SHORT_ABOVE: u64 = 90;
/// … until it falls below this one.
const SHORT_BELOW: u64 = 80;

/// A record of either table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// Of a connection of which there has been a SYN only.
    HalfOpen(HalfOpen),
    /// Of an established connection.
    Established(FlowRecord),
}

impl From<HalfOpen> for Record {
    fn from(record: HalfOpen) -> Self {
        Self::HalfOpen(record)
    }
}

impl From<FlowRecord> for Record {
    fn from(record: FlowRecord) -> Self {
        Self::Established(record)
    }
}

impl Record {
    const fn target(self) -> u16 {
        match self {
            Self::HalfOpen(record) => record.target,
            Self::Established(record) => record.target,
        }
    }
}

/// The rules of a pass, and what it has found.
#[derive(Clone, Debug)]
pub struct Census {
    now: u32,
    idle_timeout: u32,
    closing_timeout: u32,
    reset: BTreeSet<u16>,
    released: BTreeSet<u16>,
    /// By target whose process has been replaced: when the old one was last known to run.
    replaced: BTreeMap<u16, u32>,
    following: Following,
    services: BTreeMap<u16, Region>,
    flows: BTreeMap<u16, u64>,
    named: BTreeSet<u16>,
    established: u64,
    half_open: u64,
    clients: u64,
    live: Met,
    differences: Differences,
}

#[derive(Clone, Debug)]
struct Region {
    service: Service,
    /// By slot, counted from the service's first. Empty until there is a record.
    named: Vec<Named>,
}

impl Census {
    /// A pass that begins now (in ticks) over the records of these services. `idle_timeout` is in ticks; `reset` are the
    /// targets whose flows are to be reset, that is, forgotten. While records run `short`, closing ones are over sooner.
    pub fn new(
        now: u32,
        idle_timeout: u32,
        short: bool,
        services: impl IntoIterator<Item = Service>,
        reset: BTreeSet<u16>,
    ) -> Self {
        let region = |service: Service| {
            let named = Vec::new();
            (service.id, Region { service, named })
        };
        Self {
            now,
            idle_timeout,
            closing_timeout: if short {
                CLOSING_TIMEOUT_IN_NEED
            } else {
                CLOSING_TIMEOUT
            },
            reset,
            released: BTreeSet::new(),
            replaced: BTreeMap::new(),
            following: Following::default(),
            services: services.into_iter().map(region).collect(),
            flows: BTreeMap::new(),
            named: BTreeSet::new(),
            established: 0,
            half_open: 0,
            clients: 0,
            live: Met::default(),
            differences: Differences::new(),
        }
    }

    /// The same pass, in which also the clients of these targets lose their affinity: targets that take no new connections.
    #[must_use]
    pub fn releasing(self, targets: impl IntoIterator<Item = u16>) -> Self {
        let released = targets.into_iter().collect();
        Self { released, ..self }
    }

    /// With targets behind which another process serves now. Each comes with a time, in ticks, at which the old one still ran:
    /// connections that have been silent since before are void, because their next packet is answered with a reset, and so is the
    /// affinity of clients that have been: their sessions are gone.
    #[must_use]
    pub fn replacing(self, replaced: BTreeMap<u16, u32>) -> Self {
        Self { replaced, ..self }
    }

    /// With services that the other balancer owns or has owned.
    #[must_use]
    pub fn following(self, following: Following) -> Self {
        Self { following, ..self }
    }

    /// Whether what is noted of a client is over and can be deleted.
    pub fn is_client_over(
        &self,
        key: &ClientKey,
        noted: &Affinity,
        slot: impl Fn(u32) -> Option<Slot>,
    ) -> bool {
        let Some(Region { service, .. }) = self.services.get(&key.service()) else {
            return true;
        };
        if self.following.services.contains(&service.id) {
            return false;
        }
        let last_seen = self.following.last_seen(service.id, noted.last_seen, self.now);
        let noted = &Affinity { last_seen, ..*noted };
        let timeout = service.affinity_timeout;
        !affinity::is_fresh(noted, self.now, timeout)
            || self.released.contains(&noted.target)
            || self.reset.contains(&noted.target)
            || self.is_of_earlier_process(noted.target, noted.last_seen)
            || {
                // A slot that is not tracked says where all its clients are at home.
                let index = service.first_slot + slot_of(key.client(), 0, service);
                slot(index).is_some_and(|slot| !slot.tracked)
            }
    }

    /// Takes in what is noted of a client and stays.
    pub fn count_client(&mut self, key: &ClientKey, noted: &Affinity) {
        self.clients += 1;
        self.name(key.service(), noted.target, |service| {
            slot_of(key.client(), 0, service)
        });
    }

    /// Whether a record is over and can be deleted. `slot` tells what is in the table of slots now.
    pub fn is_over(&self, key: &FlowKey, record: Record, slot: impl Fn(u32) -> Option<Slot>) -> bool {
        let Some(Region { service, .. }) = self.services.get(&key.service()) else {
            // Its service is no longer there.
            return true;
        };
        let target = record.target();
        let used = match record {
            // What is half open is never told: it is our own.
            Record::HalfOpen(record) => record.opened,
            Record::Established(record) => self.following.last_seen(service.id, record.last_seen, self.now),
        };
        let age = self.age(used);
        let is_old = match record {
            Record::HalfOpen(_) => age > HALF_OPEN_TIMEOUT,
            Record::Established(record) => {
                age > self.idle_timeout || record.closing != 0 && age > self.closing_timeout
            }
        };
        if self.following.services.contains(&service.id) {
            return is_old && matches!(record, Record::HalfOpen(_));
        }
        if target == NO_TARGET || self.reset.contains(&target) || self.is_of_earlier_process(target, used) {
            return true;
        }
        is_old
            || !records_every_flow(service) && {
                let index = service.first_slot + slot_of(key.client(), key.client_port(), service);
                let is_unproved = self.following.unproved.contains(&service.id);
                slot(index).is_some_and(|slot| !slot.tracked && (is_unproved || slot.settled == target))
            }
    }

    /// Takes in a record that stays.
    pub fn count(&mut self, key: &FlowKey, record: Record) {
        let target = record.target();
        match record {
            Record::Established(record) => {
                self.established += 1;
                *self.flows.entry(target).or_default() += 1;
                if record.closing == 0 {
                    self.live.live(target);
                }
            }
            Record::HalfOpen(_) => {
                self.half_open += 1;
                self.live.half_open(target);
            }
        }
        self.name(key.service(), target, |service| {
            slot_of(key.client(), key.client_port(), service)
        });
    }

    /// Takes in what stood in the tables for a target before and after the pass.
    pub fn compare(&mut self, target: u16, before: Reading, after: Reading) {
        // Where the owner's word makes connections come and go, no SYN tells that a target was not quiet.
        if self.following.targets.contains(&target) {
            return;
        }
        if let Some(difference) = self.live.difference(target, before, after) {
            self.differences.insert(target, difference);
        }
    }

    /// By how much the counts of live connections differ from what was met, of targets of which that can be told.
    pub const fn differences(&self) -> &Differences {
        &self.differences
    }

    /// Takes in that something in a service's slot names a target.
    fn name(&mut self, service: u16, target: u16, slot_of: impl Fn(&Service) -> u32) {
        self.named.insert(target);
        if let Some(Region { service, named }) = self.services.get_mut(&service) {
            if named.is_empty() {
                named.resize(service.slots as usize, Named::Nothing);
            }
            if let Some(slot) = named.get_mut(slot_of(service) as usize) {
                *slot = slot.and(target);
            }
        }
    }

    /// When the pass began, in ticks.
    pub const fn now(&self) -> u32 {
        self.now
    }

    /// After how many ticks a flow counts as over.
    pub const fn idle_timeout(&self) -> u32 {
        self.idle_timeout
    }

    /// Whether a target's flows are to be reset.
    pub fn is_reset(&self, target: u16) -> bool {
        self.reset.contains(&target)
    }

    /// Whether a record names a target.
    pub fn names(&self, target: u16) -> bool {
        self.named.contains(&target)
    }

    /// What the records name in a service's slot, which is counted from the service's first.
    pub fn named_in(&self, service: u16, slot: u32) -> Named {
        self.services
            .get(&service)
            .and_then(|region| region.named.get(slot as usize))
            .copied()
            .unwrap_or_default()
    }

    /// How many established records name a target.
    pub fn flows(&self, target: u16) -> u64 {
        self.flows.get(&target).copied().unwrap_or_default()
    }

    /// How many established records there are.
    pub const fn established(&self) -> u64 {
        self.established
    }

    /// Of how many clients something is noted.
    pub const fn clients(&self) -> u64 {
        self.clients
    }

    /// How many half-open records there are.
    pub const fn half_open(&self) -> u64 {
        self.half_open
    }

    /// Whether what was last used then belonged to a process that a target's present one has replaced.
    fn is_of_earlier_process(&self, target: u16, used: u32) -> bool {
        self.replaced
            .get(&target)
            .is_some_and(|then| self.age(*then) < self.age(used))
    }

    /// The ticks since a time; 0 for packets that have come since the pass began.
    const fn age(&self, then: u32) -> u32 {
        clock::since(self.now, then)
    }
}

/// Whether each flow of a service has a record, as NAT needs it. Else a record in an untracked slot that names
/// the slot's target says nothing that the slot does not say.
pub const fn records_every_flow(service: &Service) -> bool {
    service.flags & flag::TRANSLATES != 0
}

/// The slot of a client's flow from this port, counted from its service's first.
pub fn slot_of(client: Address, port: u16, service: &Service) -> u32 {
    let flow = hash::flow(service.hash_seed, client, port & service.port_mask);
    hash::slot(flow, service.slots)
}

/// Whether records run short, when there are so many of them in a table with so much room, and they did or did not before.
pub fn run_short(before: bool, established: u64, room: u32) -> bool {
    let percent = established.saturating_mul(100) / u64::from(room.max(1));
    percent > SHORT_ABOVE || before && percent >= SHORT_BELOW
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u32 = 10_000;
    const IDLE: u32 = 1000;

    fn service(id: u16) -> Service {
        Service {
            hash_seed: 1,
            first_slot: 100,
            slots: 7,
            flags: 0,
            id,
            port_mask: u16::MAX,
            affinity_timeout: 0,
            candidates: 0,
            reserved: 0,
        }
    }

    fn census(every_flow: bool) -> Census {
        let flags = if every_flow { flag::TRANSLATES } else { 0 };
        let service = Service { flags, ..service(3) };
        Census::new(NOW, IDLE, false, [service], BTreeSet::from([9]))
    }

    fn key(service: u16) -> FlowKey {
        FlowKey::new(Address::v4([10, 0, 0, 1]), 40000, service)
    }

    fn established(target: u16, closing: u16, age: u32) -> Record {
        Record::Established(FlowRecord {
            target,
            closing,
            last_seen: NOW.wrapping_sub(age),
            port: 0,
            reserved: [0; 3],
        })
    }

    fn half_open(target: u16, age: u32) -> Record {
        Record::HalfOpen(HalfOpen {
            target,
            port: 0,
            sequence: 5,
            opened: NOW.wrapping_sub(age),
        })
    }

    const MOVING: Slot = Slot {
        settled: 1,
        current: 2,
        tracked: true,
        settled_seen: 0,
        grace: 0,
    };

    #[test]
    fn records_end_by_age() {
        let census = census(false);
        for (record, expected) in [
            (established(1, 0, IDLE), false),
            (established(1, 0, IDLE + 1), true),
            (established(1, 1, CLOSING_TIMEOUT), false),
            (established(1, 1, CLOSING_TIMEOUT + 1), true),
            (half_open(2, HALF_OPEN_TIMEOUT), false),
            (half_open(2, HALF_OPEN_TIMEOUT + 1), true),
            // Stored after the pass had begun.
            (established(1, 1, 1u32.wrapping_neg()), false),
            (half_open(2, 1u32.wrapping_neg()), false),
        ] {
            assert_eq!(
                census.is_over(&key(3), record, |_| Some(MOVING)),
                expected,
                "{record:?}"
            );
        }
    }

    #[test]
    fn records_end_with_their_service_and_with_a_target_that_is_reset() {
        let census = census(false);
        assert!(census.is_over(&key(4), established(1, 0, 0), |_| Some(MOVING)));
        assert!(census.is_over(&key(3), established(9, 0, 0), |_| Some(MOVING)));
        assert!(census.is_over(&key(3), half_open(NO_TARGET, 0), |_| Some(MOVING)));
    }

    #[test]
    fn connections_to_a_process_that_was_replaced_are_void_if_they_have_been_silent_since() {
        let census = census(false).replacing(BTreeMap::from([(1, NOW - 20)]));
        for (record, expected) in [
            (established(1, 0, 21), true),
            (established(1, 0, 20), false),
            (established(1, 0, 0), false),
            (established(2, 0, 21), false),
            (half_open(1, 21), true),
            (half_open(1, 20), false),
        ] {
            assert_eq!(
                census.is_over(&key(3), record, |_| Some(MOVING)),
                expected,
                "{record:?}"
            );
        }
    }

    #[test]
    fn what_an_untracked_slot_says_needs_no_record_unless_every_flow_has_one() {
        let untracked = |_| Some(Slot::untracked(1));
        assert!(census(false).is_over(&key(3), established(1, 0, 0), untracked));
        assert!(!census(false).is_over(&key(3), established(2, 0, 0), untracked));
        assert!(!census(true).is_over(&key(3), established(1, 0, 0), untracked));
    }

    #[test]
    fn what_stays_is_counted_by_target_and_slot() {
        let mut census = census(false);
        let slot = slot_of(key(3).client(), key(3).client_port(), &service(3));
        assert_eq!(census.named_in(3, slot), Named::Nothing);
        census.count(&key(3), half_open(2, 0));
        assert_eq!(census.named_in(3, slot), Named::One(2));
        assert_eq!(
            (census.flows(2), census.established(), census.names(2)),
            (0, 0, true)
        );
        census.count(&key(3), established(2, 0, 0));
        assert_eq!(census.named_in(3, slot), Named::One(2));
        census.count(&key(3), established(1, 0, 0));
        assert_eq!(census.named_in(3, slot), Named::Several);
        assert_eq!(
            (census.flows(1), census.flows(2), census.established()),
            (1, 1, 2)
        );
        assert!(!census.names(3));
    }

    #[test]
    fn what_is_noted_of_clients_ends_by_age_with_the_target_and_with_the_move() {
        const TIMEOUT: u32 = 840;
        let affine = Service {
            flags: flag::AFFINE,
            port_mask: 0,
            affinity_timeout: TIMEOUT,
            ..service(3)
        };
        let mut census = Census::new(NOW, IDLE, false, [affine], BTreeSet::from([9]))
            .releasing([8])
            .replacing(BTreeMap::from([(7, NOW - 20)]));
        let client = |service| ClientKey::new(Address::v4([10, 0, 0, 1]), service);
        let noted = |target, age| Affinity {
            target,
            reserved: 0,
            last_seen: NOW.wrapping_sub(age),
        };
        let moving = |_| Some(MOVING);
        for (service, target, age, expected) in [
            (3, 1, TIMEOUT, false),
            (3, 1, 1u32.wrapping_neg(), false),
            (3, 1, TIMEOUT + 1, true),
            (3, 8, 0, true),
            (3, 9, 0, true),
            (3, 7, 21, true),
            (3, 7, 20, false),
            (4, 1, 0, true),
        ] {
            let over = census.is_client_over(&client(service), &noted(target, age), moving);
            assert_eq!(over, expected, "{service} {target} {age}");
        }
        let untracked = |_| Some(Slot::untracked(1));
        assert!(census.is_client_over(&client(3), &noted(1, 0), untracked));

        census.count_client(&client(3), &noted(1, 0));
        let slot = slot_of(client(3).client(), 40000, &affine);
        assert_eq!(census.named_in(3, slot), Named::One(1), "whatever the port");
        assert_eq!(
            (census.names(1), census.established(), census.clients()),
            (true, 0, 1)
        );
    }

    #[test]
    fn what_the_other_balancer_tells_is_over_when_it_says_so() {
        let moving = |_| Some(MOVING);
        let untracked = |_| Some(Slot::untracked(1));
        let following = Following {
            services: BTreeSet::from([3]),
            targets: BTreeSet::from([1]),
            ..Following::default()
        };
        let mut followed = census(false)
            .releasing([1])
            .replacing(BTreeMap::from([(1, NOW)]))
            .following(following);
        for record in [established(1, 1, 2 * IDLE), established(9, 0, 0)] {
            assert!(!followed.is_over(&key(3), record, moving), "{record:?}");
            assert!(!followed.is_over(&key(3), record, untracked), "{record:?}");
        }
        let client = ClientKey::new(key(3).client(), 3);
        let noted = Affinity {
            target: 1,
            reserved: 0,
            last_seen: 0,
        };
        assert!(!followed.is_client_over(&client, &noted, untracked));
        // What it does not tell is our own, and so is whether there is a service.
        assert!(followed.is_over(&key(3), half_open(1, HALF_OPEN_TIMEOUT + 1), moving));
        assert!(!followed.is_over(&key(3), half_open(1, HALF_OPEN_TIMEOUT), untracked));
        assert!(followed.is_over(&key(4), established(1, 0, 0), moving));
        assert!(followed.is_client_over(&ClientKey::new(key(4).client(), 4), &noted, moving));
        // Its records come and go without a SYN.
        let reading = Reading::default();
        followed.count(&key(3), established(1, 0, 0));
        followed.compare(1, reading, reading);
        assert_eq!(followed.differences(), &Differences::new());
    }

    #[test]
    fn nothing_that_was_told_is_older_than_our_ownership() {
        const SINCE: u32 = 10;
        let of = |owned_since, unproved| {
            let following = Following {
                owned_since: BTreeMap::from([(3, owned_since)]),
                unproved,
                ..Following::default()
            };
            census(false)
                .replacing(BTreeMap::from([(1, NOW - 20)]))
                .following(following)
        };
        let taken_over = of(NOW - SINCE, BTreeSet::new());
        let moving = |_| Some(MOVING);
        for record in [established(1, 1, 2 * IDLE), established(2, 0, 2 * IDLE)] {
            assert!(!taken_over.is_over(&key(3), record, moving), "{record:?}");
        }
        assert!(of(NOW - 21, BTreeSet::new()).is_over(&key(3), established(1, 0, IDLE), moving));
        assert!(of(NOW - IDLE - 1, BTreeSet::new()).is_over(&key(3), established(2, 0, 2 * IDLE), moving));
        assert!(
            taken_over.is_over(&key(3), established(9, 0, 0), moving),
            "it is reset"
        );
        // A record that contradicts an untracked slot is one of which nobody told the end.
        let untracked = |_| Some(Slot::untracked(1));
        assert!(!taken_over.is_over(&key(3), established(2, 0, 0), untracked));
        let unproved = of(NOW - SINCE, BTreeSet::from([3]));
        assert!(unproved.is_over(&key(3), established(2, 0, 0), untracked));
        assert!(!unproved.is_over(&key(3), established(2, 0, 0), moving));
    }

    #[test]
    fn clients_of_a_service_that_is_taken_over_were_there_a_moment_ago() {
        let client = ClientKey::new(key(3).client(), 3);
        let noted = |last_seen| Affinity {
            target: 1,
            reserved: 0,
            last_seen,
        };
        assert_eq!(taken_over(&client, &noted(5), 3, NOW), Some(noted(NOW)));
        assert_eq!(taken_over(&client, &noted(NOW), 3, NOW), None);
        assert_eq!(taken_over(&client, &noted(5), 4, NOW), None, "of another service");
    }

    #[test]
    fn records_run_short_from_90_percent_down_to_80() {
        assert!(!run_short(false, 90, 100));
        assert!(run_short(false, 91, 100));
        assert!(run_short(true, 80, 100));
        assert!(!run_short(true, 79, 100));
        assert!(!run_short(false, 80, 100));
    }
}
