//! Why a flow goes where it goes: the answer to `lb-ctl explain`, as its JSON has it. Field names are a contract.
//!
//! Where a packet goes is decided by the very function that the XDP program runs ([`decide`]), on the same tables. Only the
//! reason is found here.

mod probe;
mod reason;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    clock,
    counter::Counter,
    decision::{Tables, Verdict, decide},
    hash,
    layout::{FlowKey, NO_TARGET, ServiceKey, Slot, Target, flag, forward},
    slot_rule::Event,
};
use serde::{Deserialize, Serialize};

use super::{flows::FlowState, interface::format_mac, time::seconds};
use reason::{Choice, Found, Rule};

/// What an operator asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// The client's address and port.
    pub client: SocketAddr,
    /// The service's name.
    pub service: String,
}

/// The service of which a flow is, as far as the configuration knows it.
#[derive(Clone, Copy, Debug)]
pub struct ServiceOfFlow<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its virtual address.
    pub vip: IpAddr,
    /// Its port.
    pub port: u16,
    /// How packets reach its backends.
    pub forward: &'a str,
}

/// How people call what the tables have numbers for.
pub struct Names<'a> {
    /// The backend with this target id.
    pub backend: &'a dyn Fn(u16) -> String,
    /// The interface with this index; 0 stands for the one that a packet came in on.
    pub interface: &'a dyn Fn(u32) -> String,
}

/// Everything that matters to one flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The client's address and port.
    pub client: SocketAddr,
    /// The service's name.
    pub service: String,
    /// Its virtual address.
    pub vip: IpAddr,
    /// Its port.
    pub port: u16,
    /// How packets reach its backends.
    pub forward: String,
    /// The flow's hash: 16 hexadecimal digits.
    pub hash: String,
    /// The slot that the hash picks, counted from the service's first.
    pub slot: u32,
    /// How many slots the service has.
    pub slots: u32,
    /// Whether the slot consults the flow table.
    pub tracked: bool,
    /// The backend on which the slot's connections without a record live; `null` for none.
    pub settled: Option<String>,
    /// The backend that the slot gives to new connections; `null` for none.
    pub current: Option<String>,
    /// Among which backends a new connection chooses, with `balance = "least-connections"`; else nobody.
    #[serde(default)]
    pub candidates: Vec<CandidateStatus>,
    /// Where the client is at home; `null` without affinity.
    pub affinity: Option<AffinityStatus>,
    /// What is known of the flow: at most one entry of each state.
    pub records: Vec<RecordStatus>,
    /// What becomes of the next packet of the connection.
    pub packet: Fate,
    /// What becomes of a SYN of the same client, from the same port.
    pub new_connection: Fate,
}

/// A backend among which a new connection chooses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidateStatus {
    /// Its name.
    pub backend: String,
    /// Its live connections: those with an established record, and those that began in this second or so.
    pub connections: u64,
    /// Its share of them.
    pub weight: u32,
    /// Whether it can get one more.
    pub takes_new_connections: bool,
}

/// Where a client of a service with affinity is at home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AffinityStatus {
    /// For how many seconds after its last packet a client keeps its backend.
    pub timeout_seconds: u64,
    /// The backend on which the client was noted. Nothing is noted of clients of untracked slots: the slot's backend is theirs.
    pub backend: Option<String>,
    /// Seconds since then.
    pub idle_seconds: Option<u64>,
    /// Whether clients of whom nothing is noted are at home on the settled backend.
    pub grace_period: bool,
}

/// What is known of the flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordStatus {
    /// The kind of record.
    pub state: FlowState,
    /// The backend that it names.
    pub backend: String,
    /// Seconds since the last packet.
    pub idle_seconds: u64,
    /// With `nat`, the VIP's port that stands for the client's.
    pub nat_port: Option<u16>,
}

/// What becomes of a packet, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fate {
    /// forward | drop | reset | pass.
    pub action: String,
    /// The backend that gets it.
    pub backend: Option<String>,
    /// The MAC address to which it is sent.
    pub next_hop: Option<String>,
    /// The interface on which it leaves.
    pub egress: Option<String>,
    /// The counter under which it is dropped or answered.
    pub counter: Option<String>,
    /// One sentence.
    pub reason: String,
}

/// Explains a flow; `None` if the tables do not have the service.
pub fn explain(
    client: SocketAddr,
    service: &ServiceOfFlow<'_>,
    tables: &impl Tables,
    names: &Names<'_>,
) -> Option<Explanation> {
    let &ServiceOfFlow {
        name,
        vip,
        port,
        forward,
    } = service;
    let entry = tables.service(&ServiceKey::tcp(vip.into(), port))?;
    let flow = hash::flow(
        entry.hash_seed,
        client.ip().into(),
        client.port() & entry.port_mask,
    );
    let slot = hash::slot(flow, entry.slots);
    let index = entry.first_slot + slot;
    let found = Found::of(
        tables.slot(index)?,
        index,
        &FlowKey::new(client.ip().into(), client.port(), entry.id),
        entry,
        tables,
    );
    let fate = |event| fate(event, client, SocketAddr::new(vip, port), &found, tables, names);
    // What the client sends next, if the half-open record is of its own SYN.
    let sequence = found
        .half_open
        .map_or(0, |half_open| half_open.sequence.wrapping_add(1));
    let Slot {
        settled,
        current,
        tracked,
        ..
    } = found.slot;
    Some(Explanation {
        client,
        service: name.to_owned(),
        vip,
        port,
        forward: forward.to_owned(),
        hash: format!("{flow:016x}"),
        slot,
        slots: entry.slots,
        tracked,
        settled: backend(settled, names),
        current: backend(current, names),
        candidates: candidates(&found, names),
        affinity: affinity(entry.affinity_timeout, &found, names),
        records: records(&found, names),
        packet: fate(Event {
            opens: false,
            closes: false,
            sequence,
        }),
        new_connection: fate(Event {
            opens: true,
            closes: false,
            sequence,
        }),
    })
}

/// The name of a target, unless it is nobody.
fn backend(id: u16, names: &Names<'_>) -> Option<String> {
    (id != NO_TARGET).then(|| (names.backend)(id))
}

/// Among whom a new connection chooses, for people.
fn candidates(found: &Found<'_>, names: &Names<'_>) -> Vec<CandidateStatus> {
    let status = |it: &Choice| CandidateStatus {
        backend: (names.backend)(it.target),
        connections: it.connections,
        weight: it.weight,
        takes_new_connections: it.takes_new_flows,
    };
    found.candidates.iter().map(status).collect()
}

/// Where the client is at home, for people.
fn affinity(timeout: u32, found: &Found<'_>, names: &Names<'_>) -> Option<AffinityStatus> {
    (timeout != 0).then(|| AffinityStatus {
        timeout_seconds: seconds(timeout),
        backend: found.noted.map(|noted| (names.backend)(noted.target)),
        idle_seconds: found
            .noted
            .map(|noted| seconds(clock::since(found.now, noted.last_seen))),
        grace_period: found.slot.tracked && found.slot.grace != 0,
    })
}

/// All that is known of the flow, for people.
fn records(found: &Found<'_>, names: &Names<'_>) -> Vec<RecordStatus> {
    let status = |state, target, since, port: u16| RecordStatus {
        state,
        backend: (names.backend)(target),
        idle_seconds: seconds(clock::since(found.now, since)),
        nat_port: (port != 0).then_some(port),
    };
    let established = found.record.map(|record| {
        let state = FlowState::of_record(record.closing);
        status(state, record.target, record.last_seen, record.port)
    });
    let half_open = found.half_open.map(|half_open| {
        status(
            FlowState::HalfOpen,
            half_open.target,
            half_open.opened,
            half_open.port,
        )
    });
    let noted = found
        .note
        .filter(|note| found.record.is_none() && note.target == found.slot.settled)
        .map(|note| status(FlowState::Unrecorded, note.target, note.last_seen, 0));
    established.into_iter().chain(half_open).chain(noted).collect()
}

/// What the data path does with a packet of the flow.
fn fate(
    event: Event,
    client: SocketAddr,
    service: SocketAddr,
    found: &Found<'_>,
    tables: &impl Tables,
    names: &Names<'_>,
) -> Fate {
    let nothing = Fate {
        action: "pass".to_owned(),
        backend: None,
        next_hop: None,
        egress: None,
        counter: None,
        reason:
            "the daemon has not told the kernel this host's MAC address yet: the kernel gets every packet"
                .to_owned(),
    };
    let Some(node) = tables.node() else {
        return nothing;
    };
    let frame = probe::frame(event, client, service, node);
    let why = found.why(event, names);
    let dropped = |counter: Counter| Fate {
        action: "drop".to_owned(),
        counter: Some(counter.name().to_owned()),
        reason: format!(
            "{why}; but it is dropped ({})",
            counter.meaning().trim_end_matches('.')
        ),
        ..nothing.clone()
    };
    let reset = |sent: Counter| Fate {
        action: "reset".to_owned(),
        counter: Some(sent.name().to_owned()),
        reason: format!("{why}; so the client is told by a TCP reset"),
        ..nothing.clone()
    };
    let forwarded = |id: u16, target: &Target| Fate {
        action: "forward".to_owned(),
        backend: Some((names.backend)(id)),
        next_hop: target.next_hop().map(format_mac),
        egress: Some((names.interface)(target.egress())),
        reason: why.clone(),
        ..nothing.clone()
    };
    match decide(frame.as_slice(), tables) {
        // The probe is TCP, so no question of ICMP.
        Verdict::Pass | Verdict::Icmp | Verdict::TranslateToClient => nothing,
        Verdict::Drop(counter) => dropped(counter),
        Verdict::Reset { sent, .. } => reset(sent),
        Verdict::Forward { id, target, .. } => forwarded(id, target),
        // What is more, only the connection's records say.
        Verdict::TranslateToBackend { service } => match found.rule(event) {
            Rule::Unknown => reset(Counter::ResetNoRecord),
            rule if rule.target() == NO_TARGET && service.flags & flag::RESETS != 0 => {
                reset(Counter::ResetSent)
            }
            rule if rule.target() == NO_TARGET => dropped(Counter::DropNoBackend),
            rule => match tables.target(rule.target()) {
                Some(target) if target.forward() != forward::NAT => dropped(Counter::DropTableInconsistent),
                Some(target) if target.is_resolved() => forwarded(rule.target(), target),
                Some(_) => dropped(Counter::DropNextHopUnknown),
                None => dropped(Counter::DropTableInconsistent),
            },
        },
    }
}
