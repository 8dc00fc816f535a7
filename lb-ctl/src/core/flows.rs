//! The connections of which the tables know: the answer to `lb-ctl flows`, as its JSON has it. Field names are a contract.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    clock,
    layout::{FlowKey, FlowRecord, HalfOpen, SettledFlow, Slot},
};
use serde::{Deserialize, Serialize};

use super::{
    census::{CLOSING_TIMEOUT_IN_NEED, HALF_OPEN_TIMEOUT},
    time::seconds,
};

/// What an operator asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// Only flows of this service.
    pub service: Option<String>,
    /// Only flows of this backend, in whatever service.
    pub backend: Option<String>,
    /// How many flows to list. Counted are all.
    pub limit: usize,
}

/// What is known of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlowState {
    /// It has a record.
    Established,
    /// It has been seen to end: a FIN or RST.
    Closing,
    /// There has been a SYN only.
    HalfOpen,
    /// It is older than its slot's move: it has no record, and lives on the slot's settled backend.
    Unrecorded,
}

impl FlowState {
    /// The state of a flow with an established record.
    pub(super) const fn of_record(closing: u16) -> Self {
        match closing {
            0 => Self::Established,
            _ => Self::Closing,
        }
    }

    /// The word for it, as JSON has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::Closing => "closing",
            Self::HalfOpen => "half-open",
            Self::Unrecorded => "unrecorded",
        }
    }
}

/// The flows, and how many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// The first of them: by service, backend, and the time since their last packet.
    pub flows: Vec<FlowStatus>,
    /// How many more there are.
    pub more: usize,
    /// How many each backend has, of those that have any.
    pub backends: Vec<BackendFlows>,
}

/// One flow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FlowStatus {
    /// The service's name.
    pub service: String,
    /// The backend's name.
    pub backend: String,
    /// Seconds since the last packet.
    pub idle_seconds: u64,
    /// The client's address and port.
    pub client: SocketAddr,
    /// What is known of it.
    pub state: FlowState,
    /// With `nat`, the VIP's port that stands for the client's.
    pub nat_port: Option<u16>,
}

/// How many flows a backend of a service has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendFlows {
    /// The service's name.
    pub service: String,
    /// The backend's name.
    pub backend: String,
    /// Flows with a record.
    pub established: u64,
    /// Flows that have been seen to end.
    pub closing: u64,
    /// Flows of which there has been a SYN only.
    pub half_open: u64,
    /// Flows without a record.
    pub unrecorded: u64,
}

/// What is in the tables.
#[derive(Clone, Debug, Default)]
pub struct FlowTables {
    /// The established records.
    pub established: Vec<(FlowKey, FlowRecord)>,
    /// The half-open records.
    pub half_open: Vec<(FlowKey, HalfOpen)>,
    /// The notes of flows without a record.
    pub settled: Vec<(FlowKey, SettledFlow)>,
    /// The time, in ticks.
    pub now: u32,
}

/// What else has to be known to tell about flows.
pub struct Context<'a> {
    /// The name of the service with this id, if there is one.
    pub service: &'a dyn Fn(u16) -> Option<String>,
    /// The name of the backend with this target id.
    pub backend: &'a dyn Fn(u16) -> String,
    /// The slot of a flow, if its service has one.
    pub slot: &'a dyn Fn(&FlowKey) -> Option<Slot>,
    /// After how many ticks without a packet an unrecorded flow is taken to be over.
    pub idle_timeout: u32,
}

/// What one table says about one flow.
struct Entry<'a> {
    key: &'a FlowKey,
    target: u16,
    last_seen: u32,
    state: FlowState,
    /// The VIP's port that stands for the client's; 0 if none does.
    port: u16,
}

/// Lists and counts flows.
pub fn list(tables: &FlowTables, query: &Query, context: &Context<'_>) -> Flows {
    let mut flows: Vec<FlowStatus> = entries(tables, context)
        .filter_map(|entry| status(&entry, tables.now, context))
        .filter(|flow| {
            query
                .service
                .as_ref()
                .is_none_or(|service| *service == flow.service)
        })
        .filter(|flow| {
            query
                .backend
                .as_ref()
                .is_none_or(|backend| *backend == flow.backend)
        })
        .collect();
    flows.sort_unstable();
    let backends = count(&flows);
    let more = flows.len().saturating_sub(query.limit);
    flows.truncate(query.limit);
    Flows {
        flows,
        more,
        backends,
    }
}

/// The flows of which the tables know: target, state, and seconds since the last packet.
pub(super) fn of_targets<'a>(
    tables: &'a FlowTables,
    context: &'a Context<'_>,
) -> impl Iterator<Item = (u16, FlowState, u64)> {
    entries(tables, context)
        .filter(|entry| (context.service)(entry.key.service()).is_some())
        .map(|entry| {
            let idle = seconds(clock::since(tables.now, entry.last_seen));
            (entry.target, entry.state, idle)
        })
}

/// What is in the tables and means anything.
fn entries<'a>(tables: &'a FlowTables, context: &'a Context<'_>) -> impl Iterator<Item = Entry<'a>> {
    let age = |since| match clock::since(tables.now, since) {
        // Read a tick later than the time was.
        ahead if ahead > u32::MAX / 2 => 0,
        age => age,
    };
    let recorded: BTreeSet<&FlowKey> = tables.established.iter().map(|(key, _)| key).collect();
    let established = tables.established.iter().map(|(key, record)| Entry {
        key,
        target: record.target,
        last_seen: record.last_seen,
        state: FlowState::of_record(record.closing),
        port: record.port,
    });
    let half_open = tables
        .half_open
        .iter()
        .filter(move |(_, half_open)| age(half_open.opened) <= HALF_OPEN_TIMEOUT)
        .map(|(key, half_open)| Entry {
            key,
            target: half_open.target,
            last_seen: half_open.opened,
            state: FlowState::HalfOpen,
            port: half_open.port,
        });
    // A note outlives what it says: its flow may have got a record, its slot may have settled.
    let is_true = move |key: &FlowKey, note: &SettledFlow| {
        let patience = if note.closing == 0 {
            context.idle_timeout
        } else {
            CLOSING_TIMEOUT_IN_NEED
        };
        age(note.last_seen) <= patience
            && !recorded.contains(key)
            && (context.slot)(key).is_some_and(|slot| slot.tracked && slot.settled == note.target)
    };
    let settled = tables
        .settled
        .iter()
        .filter(move |(key, note)| is_true(key, note))
        .map(|(key, note)| Entry {
            key,
            target: note.target,
            last_seen: note.last_seen,
            state: match note.closing {
                0 => FlowState::Unrecorded,
                _ => FlowState::Closing,
            },
            port: 0,
        });
    established.chain(half_open).chain(settled)
}

/// A flow as operators see it; `None` if its service is gone.
fn status(entry: &Entry<'_>, now: u32, context: &Context<'_>) -> Option<FlowStatus> {
    Some(FlowStatus {
        service: (context.service)(entry.key.service())?,
        backend: (context.backend)(entry.target),
        idle_seconds: seconds(clock::since(now, entry.last_seen)),
        client: SocketAddr::new(IpAddr::from(entry.key.client()), entry.key.client_port()),
        state: entry.state,
        nat_port: (entry.port != 0).then_some(entry.port),
    })
}

/// How many flows each backend has.
fn count(flows: &[FlowStatus]) -> Vec<BackendFlows> {
    let mut backends = BTreeMap::<(&str, &str), BackendFlows>::new();
    for flow in flows {
        let counts = backends
            .entry((&flow.service, &flow.backend))
            .or_insert_with(|| BackendFlows {
                service: flow.service.clone(),
                backend: flow.backend.clone(),
                ..BackendFlows::default()
            });
        *match flow.state {
            FlowState::Established => &mut counts.established,
            FlowState::Closing => &mut counts.closing,
            FlowState::HalfOpen => &mut counts.half_open,
            FlowState::Unrecorded => &mut counts.unrecorded,
        } += 1;
    }
    backends.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::address::Address;

    const NOW: u32 = 100_000;
    const IDLE_TIMEOUT: u32 = 1000;

    fn key(port: u16) -> FlowKey {
        FlowKey::new(Address::v4([198, 51, 100, 7]), port, 0)
    }

    fn record(target: u16, age: u32, closing: u16) -> FlowRecord {
        FlowRecord {
            target,
            closing,
            last_seen: NOW - age,
            port: 0,
            reserved: [0; 3],
        }
    }

    fn half_open(age: u32) -> HalfOpen {
        HalfOpen {
            target: 2,
            port: 0,
            sequence: 7,
            opened: NOW - age,
        }
    }

    fn note(target: u16, age: u32, closing: u16) -> SettledFlow {
        SettledFlow {
            target,
            closing,
            last_seen: NOW - age,
        }
    }

    /// Slots of odd ports are tracked, from target 1 to 2.
    fn listed(tables: &FlowTables, query: &Query) -> Flows {
        let context = Context {
            service: &|id| (id == 0).then(|| "impala".to_owned()),
            backend: &|id| format!("impala{id}"),
            slot: &|key| {
                Some(Slot {
                    settled: 1,
                    current: 2,
                    tracked: key.client_port() % 2 == 1,
                    settled_seen: 0,
                    grace: 0,
                })
            },
            idle_timeout: IDLE_TIMEOUT,
        };
        list(tables, query, &context)
    }

    fn all() -> Query {
        Query {
            limit: 100,
            ..Query::default()
        }
    }

    /// Port, backend and state of each flow.
    fn shown(flows: &Flows) -> Vec<(u16, &str, FlowState)> {
        flows
            .flows
            .iter()
            .map(|flow| (flow.client.port(), flow.backend.as_str(), flow.state))
            .collect()
    }

    #[test]
    fn every_kind_is_shown_by_backend_and_idle_time_and_counted() {
        let tables = FlowTables {
            established: vec![(key(1), record(2, 9, 0)), (key(2), record(2, 5, 1))],
            half_open: vec![(key(3), half_open(1))],
            settled: vec![(key(5), note(1, 14, 0))],
            now: NOW,
        };
        let flows = listed(&tables, &all());
        assert_eq!(
            shown(&flows),
            [
                (5, "impala1", FlowState::Unrecorded),
                (3, "impala2", FlowState::HalfOpen),
                (2, "impala2", FlowState::Closing),
                (1, "impala2", FlowState::Established),
            ]
        );
        assert_eq!(flows.flows[0].idle_seconds, 15);
        let [one, two] = &flows.backends[..] else {
            panic!("two backends have flows: {:?}", flows.backends)
        };
        assert_eq!((one.backend.as_str(), one.unrecorded), ("impala1", 1));
        assert_eq!((two.established, two.closing, two.half_open), (1, 1, 1));
    }

    #[test]
    fn a_limit_hides_flows_but_counts_them() {
        let tables = FlowTables {
            established: (1..=5).map(|port| (key(port), record(2, 0, 0))).collect(),
            now: NOW,
            ..FlowTables::default()
        };
        let flows = listed(&tables, &Query { limit: 2, ..all() });
        assert_eq!((flows.flows.len(), flows.more), (2, 3));
        assert_eq!(flows.backends[0].established, 5);
    }

    #[test]
    fn filters_leave_the_rest_out_of_the_counts_too() {
        let tables = FlowTables {
            established: vec![(key(1), record(1, 0, 0)), (key(3), record(2, 0, 0))],
            now: NOW,
            ..FlowTables::default()
        };
        let only = |service: Option<&str>, backend: Option<&str>| {
            let query = Query {
                service: service.map(str::to_owned),
                backend: backend.map(str::to_owned),
                ..all()
            };
            listed(&tables, &query)
        };
        assert_eq!(only(Some("impala"), None).flows.len(), 2);
        assert_eq!(only(Some("hive"), None), Flows::default());
        let one = only(None, Some("impala1"));
        assert_eq!((one.flows.len(), one.backends.len()), (1, 1));
    }

    #[test]
    fn notes_that_are_no_longer_true_are_not_shown() {
        let untrue = [
            (key(1), note(1, IDLE_TIMEOUT + 1, 0)),
            (key(3), note(1, CLOSING_TIMEOUT_IN_NEED + 1, 1)),
            (key(5), note(3, 0, 0)),
            (key(6), note(1, 0, 0)),
        ];
        let mut tables = FlowTables {
            settled: untrue.into(),
            now: NOW,
            ..FlowTables::default()
        };
        assert_eq!(listed(&tables, &all()), Flows::default());
        tables.settled = vec![(key(7), note(1, 0, 0))];
        assert_eq!(listed(&tables, &all()).flows.len(), 1);
        tables.established = vec![(key(7), record(2, 0, 0))];
        assert_eq!(
            shown(&listed(&tables, &all())),
            [(7, "impala2", FlowState::Established)]
        );
    }

    #[test]
    fn a_clock_that_is_a_tick_behind_makes_nobody_old() {
        let tables = FlowTables {
            half_open: vec![(key(1), half_open(0))],
            settled: vec![(key(3), note(1, 0, 0))],
            now: NOW - 1,
            ..FlowTables::default()
        };
        let flows = listed(&tables, &all());
        assert_eq!(flows.flows.len(), 2);
        assert!(flows.flows.iter().all(|flow| flow.idle_seconds == 0));
    }

    #[test]
    fn what_is_left_of_a_syn_is_not_shown_for_ever() {
        let tables = FlowTables {
            half_open: vec![
                (key(1), half_open(HALF_OPEN_TIMEOUT)),
                (key(3), half_open(HALF_OPEN_TIMEOUT + 1)),
            ],
            now: NOW,
            ..FlowTables::default()
        };
        assert_eq!(
            shown(&listed(&tables, &all())),
            [(1, "impala2", FlowState::HalfOpen)]
        );
    }
}
