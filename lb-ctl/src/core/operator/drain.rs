//! How far a drain is: what is known of the flows that are left on a backend, and when that can be believed to be none.
//!
//! A flow from before the drain has no record, and is known from its next packet on (see [`lb_common::slot_rule`]). So
//! "no flow is known" is not yet "no flow is left": one that is silent would be missed. What makes it certain is an [`End`].

use serde::{Deserialize, Serialize};

use super::Admin;
use crate::core::{
    flows::{Context, FlowState, FlowTables, of_targets},
    health::Load,
    slot_moves::idle,
    time::seconds,
};
use lb_common::layout::Slot;

/// After how many ticks without a packet from any flow nobody is taken to be left: eleven minutes. Clients of Impala send TCP's
/// keepalives every ten.
pub const QUIET: u32 = 620;

/// Seconds by which the moment of a check and that of a packet may seem to be the other way round.
const SLACK: u64 = 2;

/// What an operator asks: how far are the drains of this backend?
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainQuery {
    /// The backend's name.
    pub backend: String,
    /// Only in this service.
    pub service: Option<String>,
}

/// How far the drains of a backend are. Field names are a contract.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainStatus {
    /// In each service in which the backend stands.
    pub backends: Vec<BackendDrain>,
}

/// How far the drain of a backend of a service is. Field names are a contract.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendDrain {
    /// The service's name.
    pub service: String,
    /// The backend's name.
    pub backend: String,
    /// What the operator lets it do.
    pub admin: Admin,
    /// In how many seconds the flows that are left will be reset; `null` if never.
    pub deadline_seconds: Option<u64>,
    /// How many flows are known that have not been seen to end: those below but the closing ones.
    pub left: u64,
    /// Flows with a record.
    pub established: u64,
    /// Flows without a record, that have sent a packet since the slots moved.
    pub unrecorded: u64,
    /// Flows of which there has been a SYN only.
    pub half_open: u64,
    /// Flows that have been seen to end.
    pub closing: u64,
    /// Seconds since the last packet of the flow that has sent last, of those that are left.
    pub youngest_seconds: Option<u64>,
    /// The same of the one that has been silent for longest.
    pub oldest_seconds: Option<u64>,
    /// Seconds since the last packet of any flow without a record; `null` if nothing without a record can be there.
    pub quiet_seconds: Option<u64>,
    /// What the backend itself counts; `null` unless its check asks for it (`type = "impala"`).
    pub own: Option<OwnCounts>,
    /// Set once no flow is left: how that is known.
    pub end: Option<End>,
}

/// What a coordinator counts itself, on all its client ports, those included that nobody reaches through this balancer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnCounts {
    /// Client connections. Health checks are among them while they last.
    pub connections: Option<u64>,
    /// Sessions. One that was not closed outlives its connection by a quarter of an hour.
    pub sessions: Option<u64>,
    /// Queries that are not closed.
    pub queries: Option<u64>,
    /// How many seconds ago the check began that has asked.
    pub seconds_ago: u64,
    /// Whether they say something about the drain: they are younger, and the backend drains in all services.
    pub tell: bool,
}

impl OwnCounts {
    /// The counts of a check.
    pub fn of(load: Load, seconds_ago: u64, tell: bool) -> Self {
        Self {
            connections: load.connections,
            sessions: load.sessions,
            queries: load.queries,
            seconds_ago,
            tell,
        }
    }
}

/// How it is known that no flow is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// Every flow has a record, and there is none.
    Recorded,
    /// No slot leads there any more: all were silent for `flow_idle_timeout`, or have been reset.
    Settled,
    /// The backend itself counts no connection, or no session and no query.
    Counted,
    /// Nobody has sent a packet for [`QUIET`], in which clients with TCP keepalive do.
    Quiet,
}

/// How the slots of a service lead to a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotsOfTarget {
    /// How many give it new flows.
    pub current: u32,
    /// How many lead flows without a record there.
    pub settled: u32,
    /// Ticks since any of the latter has done so.
    quiet: Option<u32>,
}

impl SlotsOfTarget {
    /// Counts the slots of a service at a time, in ticks.
    pub fn count(slots: impl Iterator<Item = Slot>, target: u16, now: u32) -> Self {
        let mut counts = Self::default();
        for slot in slots {
            counts.current += u32::from(slot.current == target);
            if slot.settled == target {
                counts.settled += 1;
                let quiet = if slot.tracked {
                    idle(slot.settled_seen, now)
                } else {
                    0
                };
                counts.quiet = Some(counts.quiet.map_or(quiet, |earlier| earlier.min(quiet)));
            }
        }
        counts
    }
}

/// A backend of a service whose drain is asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetOfDrain {
    /// Its target id.
    pub id: u16,
    /// The service's name.
    pub service: String,
    /// The backend's name.
    pub backend: String,
    /// What the operator lets it do.
    pub admin: Admin,
    /// In how many seconds its flows will be reset.
    pub deadline_seconds: Option<u64>,
    /// Whether every flow of the service has a record.
    pub records_every_flow: bool,
    /// How the service's slots lead to it.
    pub slots: SlotsOfTarget,
    /// What it counts itself.
    pub own: Option<OwnCounts>,
}

/// How far drains are.
pub fn drain_status(
    tables: &FlowTables,
    context: &Context<'_>,
    targets: impl IntoIterator<Item = TargetOfDrain>,
) -> DrainStatus {
    let mut drains: Vec<(TargetOfDrain, BackendDrain)> = targets
        .into_iter()
        .map(|target| {
            let drain = BackendDrain {
                service: target.service.clone(),
                backend: target.backend.clone(),
                admin: target.admin,
                deadline_seconds: target.deadline_seconds,
                quiet_seconds: target.slots.quiet.map(seconds),
                own: target.own,
                ..BackendDrain::default()
            };
            (target, drain)
        })
        .collect();
    for (target, state, idle_seconds) in of_targets(tables, context) {
        if let Some((_, drain)) = drains.iter_mut().find(|(it, _)| it.id == target) {
            drain.take_in(state, idle_seconds);
        }
    }
    let backends = drains.into_iter().map(|(target, drain)| BackendDrain {
        end: drain.end(&target),
        ..drain
    });
    DrainStatus {
        backends: backends.collect(),
    }
}

impl BackendDrain {
    fn take_in(&mut self, state: FlowState, idle_seconds: u64) {
        *match state {
            FlowState::Established => &mut self.established,
            FlowState::HalfOpen => &mut self.half_open,
            FlowState::Unrecorded => &mut self.unrecorded,
            FlowState::Closing => {
                self.closing += 1;
                return;
            }
        } += 1;
        self.left += 1;
        self.youngest_seconds = Some(
            self.youngest_seconds
                .map_or(idle_seconds, |it| it.min(idle_seconds)),
        );
        self.oldest_seconds = Some(
            self.oldest_seconds
                .map_or(idle_seconds, |it| it.max(idle_seconds)),
        );
    }

    /// How it is known that nobody is left, if it is.
    fn end(&self, target: &TargetOfDrain) -> Option<End> {
        let TargetOfDrain {
            records_every_flow,
            slots,
            ..
        } = *target;
        if self.admin == Admin::Enabled || slots.current > 0 {
            return None;
        }
        let own = self.own.filter(|own| own.tell);
        if let Some(own) = own {
            // Whatever is known of a flow that the backend had no longer when it counted, its end was not seen here.
            let sent_since = |it: u64| it <= own.seconds_ago.saturating_add(SLACK);
            if own.connections == Some(0) && !self.youngest_seconds.is_some_and(sent_since) {
                return Some(End::Counted);
            }
            if self.left == 0 && own.sessions == Some(0) && own.queries == Some(0) {
                return Some(End::Counted);
            }
        }
        if self.left > 0 {
            None
        } else if records_every_flow {
            Some(End::Recorded)
        } else if slots.settled == 0 {
            Some(End::Settled)
        } else {
            // Somebody who has a session there is silent, or has come another way. Whoever waits is about to stop it.
            let is_used = own.is_some_and(|own| own.sessions > Some(0) || own.queries > Some(0));
            let is_quiet = slots.quiet.is_some_and(|quiet| quiet > QUIET);
            (is_quiet && !is_used).then_some(End::Quiet)
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_common::{
        address::Address,
        layout::{FlowKey, FlowRecord, SettledFlow},
    };

    use super::*;

    const NOW: u32 = 0x1_8000;
    /// The same as slots keep it.
    const SEEN_NOW: u16 = 0x8000;
    const DRAINED: u16 = 1;

    fn slot(settled: u16, current: u16, ago: u16) -> Slot {
        Slot {
            settled,
            current,
            tracked: settled != current,
            settled_seen: SEEN_NOW.wrapping_sub(ago),
            grace: 0,
        }
    }

    fn key(port: u16) -> FlowKey {
        FlowKey::new(Address::v4([198, 51, 100, 7]), port, 0)
    }

    fn note(age: u32, closing: u16) -> SettledFlow {
        SettledFlow {
            target: DRAINED,
            closing,
            last_seen: NOW - age,
        }
    }

    fn record(target: u16, age: u32) -> FlowRecord {
        FlowRecord {
            target,
            closing: 0,
            last_seen: NOW - age,
            port: 0,
            reserved: [0; 3],
        }
    }

    /// A drained backend on whose slots nobody has sent for so many ticks.
    fn target(quiet: u16) -> TargetOfDrain {
        TargetOfDrain {
            id: DRAINED,
            service: "s".into(),
            backend: "b".into(),
            admin: Admin::Draining,
            slots: SlotsOfTarget::count(
                [slot(DRAINED, 2, quiet), slot(DRAINED, 3, 9999), slot(2, 2, 0)].into_iter(),
                DRAINED,
                NOW,
            ),
            ..TargetOfDrain::default()
        }
    }

    fn counts(connections: u64, sessions: u64, seconds_ago: u64) -> OwnCounts {
        OwnCounts {
            connections: Some(connections),
            sessions: Some(sessions),
            queries: Some(0),
            seconds_ago,
            tell: true,
        }
    }

    fn status(settled: Vec<(FlowKey, SettledFlow)>, target: TargetOfDrain) -> BackendDrain {
        let tables = FlowTables {
            established: vec![(key(900), record(2, 0))],
            settled,
            now: NOW,
            ..FlowTables::default()
        };
        of(&tables, target)
    }

    fn of(tables: &FlowTables, target: TargetOfDrain) -> BackendDrain {
        let context = Context {
            service: &|_| Some("s".to_owned()),
            backend: &|_| "b".to_owned(),
            slot: &|_| Some(slot(DRAINED, 2, 0)),
            idle_timeout: 20_000,
        };
        drain_status(tables, &context, [target]).backends.remove(0)
    }

    #[test]
    fn flows_are_counted_by_what_is_known_of_them() {
        let flows = vec![
            (key(1), note(14, 0)),
            (key(2), note(280, 0)),
            (key(3), note(1, 1)),
        ];
        let drain = status(flows, target(14));
        assert_eq!((drain.left, drain.unrecorded, drain.closing), (2, 2, 1));
        assert_eq!(
            (drain.youngest_seconds, drain.oldest_seconds),
            (Some(15), Some(300))
        );
        assert_eq!((drain.quiet_seconds, drain.end), (Some(15), None));
    }

    #[test]
    fn nobody_known_is_not_nobody_left_until_it_has_been_quiet_for_long() {
        let quiet = |ticks| status(Vec::new(), target(ticks)).end;
        assert_eq!(quiet(620), None);
        assert_eq!(quiet(621), Some(End::Quiet));
        let known = status(vec![(key(1), note(700, 0))], target(621));
        assert_eq!(known.end, None, "somebody is known, though silent");
        let with = |own, quiet| {
            let own = Some(own);
            let target = TargetOfDrain { own, ..target(quiet) };
            status(Vec::new(), target).end
        };
        assert_eq!(
            with(counts(1, 1, 1), 621),
            None,
            "who has come another way, or is silent"
        );
        assert_eq!(with(counts(1, 0, 1), 0), Some(End::Counted));
        assert_eq!(with(counts(0, 1, 1), 0), Some(End::Counted));
        let unrelated = OwnCounts {
            tell: false,
            ..counts(0, 0, 1)
        };
        assert_eq!(with(unrelated, 0), None);
    }

    #[test]
    fn whoever_has_sent_since_the_backend_counted_none_is_left() {
        let with = |age, own| {
            let own = Some(own);
            status(vec![(key(1), note(age, 0))], TargetOfDrain { own, ..target(0) }).end
        };
        assert_eq!(with(3, counts(0, 0, 2)), None);
        assert_eq!(
            with(20, counts(0, 0, 2)),
            Some(End::Counted),
            "its end was not seen"
        );
        assert_eq!(with(20, counts(1, 0, 2)), None);
    }

    #[test]
    fn records_of_every_flow_and_slots_that_lead_elsewhere_leave_no_doubt() {
        let every = |target: TargetOfDrain| TargetOfDrain {
            records_every_flow: true,
            ..target
        };
        assert_eq!(status(Vec::new(), every(target(0))).end, Some(End::Recorded));
        let tables = FlowTables {
            established: vec![(key(1), record(DRAINED, 0))],
            now: NOW,
            ..FlowTables::default()
        };
        assert_eq!(of(&tables, every(target(0))).end, None);
        let gone = |target: TargetOfDrain| TargetOfDrain {
            slots: SlotsOfTarget::default(),
            ..target
        };
        assert_eq!(of(&tables, gone(target(0))).end, None);
        assert_eq!(status(Vec::new(), gone(target(0))).end, Some(End::Settled));
    }

    #[test]
    fn who_serves_is_not_drained() {
        let enabled = TargetOfDrain {
            admin: Admin::Enabled,
            ..target(9999)
        };
        assert_eq!(status(Vec::new(), enabled).end, None);
        let current = TargetOfDrain {
            slots: SlotsOfTarget::count([slot(2, DRAINED, 9999)].into_iter(), DRAINED, NOW),
            ..target(0)
        };
        assert_eq!(status(Vec::new(), current).end, None);
    }
}
