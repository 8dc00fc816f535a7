use super::*;
use lb_common::{
    address::Address,
    decision::seen_by_new_flow,
    layout::{Affinity, ClientKey, FlowRecord, Forwarding, HalfOpen, Live, SettledFlow},
    process::{Action, process},
    slot_rule::{IDLE, choose},
    testing::{
        HostTables,
        cases::{CLIENT, CLIENT6},
        tables::{
            AFFINE, AFFINE6, AFFINITY_TIMEOUT, NAT, NAT_BACKEND, NAT_BACKEND6, NAT_TARGET, NAT6, NAT6_TARGET,
            NONE, ONE, ONE6, SLOTS, TARGETS, THREE, UNRESOLVED, UNRESOLVED_TARGET, nat_target,
        },
    },
};
use proptest::prelude::*;

const NOW: u32 = 100_000;

fn service_at(address: SocketAddr) -> ServiceOfFlow<'static> {
    ServiceOfFlow {
        name: "impala",
        vip: address.ip(),
        port: address.port(),
        forward: "dsr",
    }
}

fn explained(client: SocketAddr, service: SocketAddr, tables: &HostTables) -> Explanation {
    let names = Names {
        backend: &|id| format!("impala{id}"),
        interface: &|index| format!("eth{index}"),
    };
    explain(client, &service_at(service), tables, &names).expect("the service is in the tables")
}

/// The fixture, with all slots of a service like this, and what is known of the client's flow.
fn tables(
    service: SocketAddr,
    client: SocketAddr,
    slot: Slot,
    record: Option<FlowRecord>,
    half_open: Option<HalfOpen>,
) -> HostTables {
    let mut tables = HostTables::fixture();
    tables.now = NOW;
    let entry = tables.service(service);
    let first = entry.first_slot as usize;
    tables.slots[first..first + SLOTS as usize].fill(slot.to_bits());
    let key = FlowKey::new(client.ip().into(), client.port(), entry.id);
    tables.flows.extend(record.map(|record| (key, record)));
    tables
        .half_open
        .extend(half_open.map(|half_open| (key, half_open)));
    tables
}

fn tracked(settled: u16, current: u16) -> Slot {
    Slot {
        settled,
        current,
        tracked: true,
        settled_seen: 0,
        grace: 0,
    }
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

fn half_open(target: u16, age: u32) -> HalfOpen {
    HalfOpen {
        target,
        port: 0,
        sequence: 7000,
        opened: NOW - age,
    }
}

/// Backend and reason of a packet and of a new connection.
fn reasons(slot: Slot, record: Option<FlowRecord>, half_open: Option<HalfOpen>) -> [(String, String); 2] {
    let found = explained(CLIENT, ONE, &tables(ONE, CLIENT, slot, record, half_open));
    [found.packet, found.new_connection].map(|fate| (fate.backend.unwrap_or_default(), fate.reason))
}

fn owned(backend: &str, reason: &str) -> (String, String) {
    (backend.to_owned(), reason.to_owned())
}

#[test]
fn an_untracked_slot_has_one_answer() {
    let found = explained(CLIENT, ONE, &HostTables::fixture());
    assert!(!found.tracked && found.records.is_empty());
    assert_eq!(found.packet, found.new_connection);
    assert_eq!(found.packet.action, "forward");
    assert_eq!(found.packet.backend.as_deref(), Some("impala1"));
    assert_eq!(found.packet.next_hop.as_deref(), Some("02:00:00:01:00:01"));
    assert_eq!(found.packet.egress.as_deref(), Some("eth0"));
    assert_eq!(
        found.packet.reason,
        "untracked slot: every packet goes to impala1"
    );
    assert_eq!((found.slots, found.hash.len()), (SLOTS, 16));
    let six = explained(CLIENT6, ONE6, &HostTables::fixture());
    assert_eq!(six.packet.backend.as_deref(), Some("impala1"));
}

#[test]
fn a_flow_without_a_record_is_from_before_the_move() {
    let [packet, syn] = reasons(tracked(1, 3), None, None);
    let reason = "no record: connections from before the move live on impala1, \
                  though new connections of this slot go to impala3";
    assert_eq!(packet, owned("impala1", reason));
    assert_eq!(
        syn,
        owned(
            "impala3",
            "new connections of this slot go to impala3, and are recorded"
        )
    );
}

#[test]
fn a_record_in_use_decides_for_every_packet() {
    let [packet, syn] = reasons(tracked(2, 3), Some(record(1, 12, 0)), None);
    let reason = "its established record, last used 12 s ago, names impala1, \
                  though new connections of this slot go to impala3";
    assert_eq!(packet, owned("impala1", reason));
    assert_eq!(syn.0, "impala1");
    assert!(
        syn.1.contains("which knows whether the connection still exists"),
        "{}",
        syn.1
    );
}

#[test]
fn an_old_record_gives_way() {
    let [packet, syn] = reasons(tracked(2, 3), Some(record(1, 1, 1)), None);
    assert_eq!(packet.0, "impala1");
    assert!(
        packet
            .1
            .starts_with("its record, which is closing, last used 1 s ago,"),
        "{}",
        packet.1
    );
    assert_eq!(syn.0, "impala3");
    assert!(syn.1.contains("gives way to a new connection"), "{}", syn.1);
}

#[test]
fn a_half_open_record_is_followed() {
    let found = explained(
        CLIENT,
        ONE,
        &tables(ONE, CLIENT, tracked(1, 3), None, Some(half_open(2, 3))),
    );
    assert_eq!(
        (
            found.packet.backend.as_deref(),
            found.new_connection.backend.as_deref()
        ),
        (Some("impala2"), Some("impala2"))
    );
    assert!(
        found.packet.reason.contains("continues it"),
        "{}",
        found.packet.reason
    );
    let [record] = &found.records[..] else {
        panic!("one record: {:?}", found.records)
    };
    assert_eq!((record.state, record.idle_seconds), (FlowState::HalfOpen, 3));
}

#[test]
fn a_clients_home_is_shown_and_named_as_the_reason() {
    let slot = |grace| Slot {
        grace,
        ..tracked(1, 3)
    };
    let with = |grace, noted: Option<(u16, u32)>| {
        let mut tables = tables(AFFINE, CLIENT, slot(grace), None, None);
        let entry = tables.service(AFFINE);
        let noted = noted.map(|(target, age)| {
            let affinity = Affinity {
                target,
                reserved: 0,
                last_seen: NOW - age,
            };
            (ClientKey::new(CLIENT.ip().into(), entry.id), affinity)
        });
        tables.affinity.extend(noted);
        tables
    };
    let shown = |tables: &HostTables| {
        let found = explained(CLIENT, AFFINE, tables);
        let backend = found.new_connection.backend.unwrap_or_default();
        (backend, found.new_connection.reason, found.affinity.unwrap())
    };

    let (backend, reason, status) = shown(&with(1, Some((2, 14))));
    assert_eq!(backend, "impala2");
    assert_eq!(
        reason,
        "this client is at home on impala2, where it was last seen 15 s ago: its new connections go there, and are recorded"
    );
    let expected = AffinityStatus {
        timeout_seconds: 900,
        backend: Some("impala2".to_owned()),
        idle_seconds: Some(15),
        grace_period: true,
    };
    assert_eq!(status, expected);

    let (backend, reason, status) = shown(&with(1, None));
    assert_eq!((backend.as_str(), status.backend), ("impala1", None));
    assert!(
        reason.starts_with("whoever was here before the slot moved is at home on impala1"),
        "{reason}"
    );

    let (backend, reason, _) = shown(&with(0, Some((2, AFFINITY_TIMEOUT + 1))));
    assert_eq!(backend, "impala3");
    assert_eq!(
        reason,
        "new connections of this slot go to impala3, and are recorded"
    );

    let mut drained = with(0, Some((2, 0)));
    drained.targets[2] = drained.targets[2].shedding(true);
    let (backend, reason, _) = shown(&drained);
    assert_eq!(backend, "impala3");
    assert!(
        reason.contains("was at home on impala2, which takes no new connections"),
        "{reason}"
    );

    assert_eq!(explained(CLIENT, ONE, &HostTables::fixture()).affinity, None);
}

#[test]
fn what_is_noted_of_a_flow_is_shown() {
    let mut tables = tables(ONE, CLIENT, tracked(1, 3), None, None);
    let key = FlowKey::new(CLIENT.ip().into(), CLIENT.port(), 0);
    let note = SettledFlow {
        target: 1,
        closing: 0,
        last_seen: NOW - 14,
    };
    tables.settled_flows.insert(key, note);
    let found = explained(CLIENT, ONE, &tables);
    assert_eq!(
        found.records,
        [RecordStatus {
            state: FlowState::Unrecorded,
            backend: "impala1".to_owned(),
            idle_seconds: 15,
            nat_port: None,
        }]
    );
}

#[test]
fn a_drop_names_its_counter() {
    let tables = HostTables::fixture();
    let none = explained(CLIENT, NONE, &tables);
    assert_eq!((none.packet.action.as_str(), none.current), ("drop", None));
    assert_eq!(none.packet.counter.as_deref(), Some("drop_no_backend"));
    let unresolved = explained(CLIENT, UNRESOLVED, &tables);
    assert_eq!(
        unresolved.packet.counter.as_deref(),
        Some("drop_next_hop_unknown")
    );
    assert!(
        unresolved.packet.reason.contains("impala4"),
        "{}",
        unresolved.packet.reason
    );
}

#[test]
fn a_service_that_is_not_in_the_tables_has_no_explanation() {
    let names = Names {
        backend: &|id| id.to_string(),
        interface: &|index| index.to_string(),
    };
    let nowhere = SocketAddr::from(([192, 0, 2, 99], 1));
    let found = explain(CLIENT, &service_at(nowhere), &HostTables::fixture(), &names);
    assert_eq!(found, None);
}

fn any_slot() -> impl Strategy<Value = Slot> {
    (0u16..4, 1u16..4, any::<bool>()).prop_map(|(settled, current, tracked)| Slot {
        settled: if tracked { settled } else { current },
        current,
        tracked,
        settled_seen: 0,
        grace: 0,
    })
}

fn any_record() -> impl Strategy<Value = FlowRecord> {
    (1u16..4, 0..2 * IDLE, 0u16..2).prop_map(|(target, age, closing)| record(target, age, closing))
}

fn any_half_open() -> impl Strategy<Value = HalfOpen> {
    (1u16..4, 0..2 * IDLE, any::<u32>()).prop_map(|(target, age, sequence)| HalfOpen {
        sequence,
        ..half_open(target, age)
    })
}

proptest! {
    /// What is explained is what happens: the slot is the packet's, the target the decision's, and the reason leads to it.
    #[test]
    fn the_explanation_is_the_decision(
        service in prop_oneof![Just(ONE), Just(THREE), Just(ONE6), Just(AFFINE), Just(AFFINE6)],
        host: u8,
        port: u16,
        slot in proptest::option::of(any_slot()),
        record in proptest::option::of(any_record()),
        half_open in proptest::option::of(any_half_open()),
        noted in proptest::option::of((1u16..4, 0..2 * AFFINITY_TIMEOUT)),
        grace in 0u16..2,
        candidates in proptest::sample::select(vec![0u16, 0, 1, 3]),
        live: [u16; 3],
        shedding in proptest::option::of(1u16..4),
        draining in proptest::option::of(1u16..4),
        short: bool,
        opens: bool,
        sequence: u32,
    ) {
        let address = if service.is_ipv6() { IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 7, u16::from(host)]) } else { IpAddr::from([198, 51, 100, host]) };
        let client = SocketAddr::new(address, port);
        let slot = slot.map(|slot| Slot { grace: if slot.tracked { grace } else { 0 }, ..slot });
        let mut tables = match slot {
            Some(slot) => tables(service, client, slot, record, half_open),
            // The fixture's own slots differ from each other: only the right one leads to the right target.
            None => HostTables::fixture(),
        };
        tables.short = short;
        let key = ServiceKey::tcp(service.ip().into(), service.port());
        // Of a service that places each connection all slots are tracked.
        if slot.is_some_and(|slot| slot.tracked) {
            tables.services.get_mut(&key).unwrap().candidates = candidates;
            for (target, established) in (1..).zip(live) {
                tables.live.insert(target, Live { established: established.into(), assigned: 0 });
            }
        }
        let entry = tables.services[&key];
        if let Some((target, age)) = noted {
            let affinity = Affinity { target, reserved: 0, last_seen: NOW - age };
            tables.affinity.insert(ClientKey::new(client.ip().into(), entry.id), affinity);
        }
        if let Some(id) = shedding {
            let target = &mut tables.targets[usize::from(id)];
            *target = target.shedding(true);
        }
        if let Some(id) = draining {
            let target = &mut tables.targets[usize::from(id)];
            *target = target.draining(true);
        }
        let found = explained(client, service, &tables);
        let decided = |opens| {
            let sequence = half_open.filter(|_| slot.is_some()).map_or(0, |it| it.sequence.wrapping_add(1));
            let frame = probe::frame(Event { opens, closes: false, sequence }, client, service, tables.node.as_ref().unwrap());
            match decide(frame.as_slice(), &tables) {
                Verdict::Forward { id, .. } => Some(format!("impala{id}")),
                _ => None,
            }
        };
        prop_assert_eq!(&found.packet.backend, &decided(false));
        prop_assert_eq!(&found.new_connection.backend, &decided(true));
        if slot.is_none() {
            prop_assert_eq!(&found.current, &found.packet.backend);
        }

        let slot = slot.unwrap_or(tracked(1, 2));
        let key = FlowKey::new(Address::from(client.ip()), client.port(), entry.id);
        let event = Event { opens, closes: false, sequence };
        if slot.tracked {
            let hash = hash::flow(entry.hash_seed, client.ip().into(), client.port() & entry.port_mask);
            let index = entry.first_slot + hash::slot(hash, entry.slots);
            let rule = Found::of(slot, index, &key, &entry, &tables).rule(event);
            let seen = if opens {
                seen_by_new_flow(slot, &key, index, &entry, &tables)
            } else {
                slot
            };
            prop_assert_eq!(rule.target(), choose(event, seen, &key, &tables).target, "{:?}", rule);
        }
    }
}

/// A record of a time when the service did not translate has no port.
fn any_nat_port() -> impl Strategy<Value = u16> {
    prop_oneof![4 => Just(40_000), 1 => Just(0)]
}

proptest! {
    /// Of a service that translates, too, what is explained is what happens; except that an explanation does not see that a half-open
    /// connection has lost its port to another, in a flood.
    #[test]
    fn the_explanation_of_a_translated_connection_is_its_fate(
        v6: bool,
        current in prop_oneof![1 => Just(NO_TARGET), 1 => Just(UNRESOLVED_TARGET), 4 => NAT_TARGET..=NAT6_TARGET],
        resets: bool,
        record in proptest::option::of((NAT_TARGET..=NAT6_TARGET, 0..2 * IDLE, 0u16..2, any_nat_port())),
        half_open in proptest::option::of((NAT_TARGET..=NAT6_TARGET, 0..2 * IDLE, any_nat_port())),
    ) {
        let (client, service) = if v6 { (CLIENT6, NAT6) } else { (CLIENT, NAT) };
        let record = record.map(|(target, age, closing, port)| FlowRecord { port, ..self::record(target, age, closing) });
        let half_open = half_open.map(|(target, age, port)| HalfOpen { port, ..self::half_open(target, age) });
        let mut tables = tables(service, client, Slot::untracked(current), record, half_open);
        if resets {
            tables.services.get_mut(&ServiceKey::tcp(service.ip().into(), service.port())).unwrap().flags |= flag::RESETS;
        }
        tables.returns.clear();
        // Both of one family.
        tables.targets[usize::from(NAT_TARGET)] = nat_target(if v6 { NAT_BACKEND6 } else { NAT_BACKEND }, [2; 6]);
        tables.targets[usize::from(NAT6_TARGET)] = nat_target(if v6 { NAT_BACKEND6 } else { NAT_BACKEND }, [4; 6]);
        let unresolved = Forwarding::Nat { port: 21_050 };
        tables.targets[usize::from(UNRESOLVED_TARGET)] = Target::new(service.ip().into(), unresolved, None);
        let found = explained(client, service, &tables);
        let has_port = record.is_some_and(|record| record.port != 0);
        prop_assert_eq!(has_port, found.records.iter().any(|it| it.state != FlowState::HalfOpen && it.nat_port.is_some()));
        let sequence = half_open.filter(|it| it.port != 0).map_or(0, |it| it.sequence.wrapping_add(1));
        for (opens, explained) in [(false, &found.packet), (true, &found.new_connection)] {
            let event = Event { opens, closes: false, sequence };
            let tables = tables.clone();
            let mut frame = probe::frame(event, client, service, tables.node.as_ref().unwrap());
            let action = process(&mut frame, &tables);
            let backend = (1..TARGETS).find(|&id| tables.forwarded(id).packets > 0).map(|id| format!("impala{id}"));
            let counter = Counter::ALL.iter().find(|&&it| it != Counter::RecordLost && tables.counted(it) > 0);
            let action = match action {
                Action::Pass => "pass",
                Action::Drop => "drop",
                Action::Transmit { .. } if backend.is_some() => "forward",
                Action::Transmit { .. } => "reset",
            };
            prop_assert_eq!(
                (explained.action.as_str(), &explained.backend, explained.counter.as_deref()),
                (action, &backend, counter.map(|it| it.name())),
                "{}", explained.reason
            );
        }
    }
}

#[test]
fn a_translated_connection_is_explained_by_its_record() {
    let slot = Slot::untracked(NAT_TARGET);
    let unknown = explained(CLIENT, NAT, &tables(NAT, CLIENT, slot, None, None));
    assert_eq!(unknown.packet.action, "reset");
    assert_eq!(
        unknown.packet.reason,
        "no record: every connection of this service has one; so the client is told by a TCP reset"
    );
    assert_eq!(unknown.new_connection.backend.as_deref(), Some("impala8"));
    let record = FlowRecord {
        port: 40_000,
        ..record(NAT_TARGET, 3, 0)
    };
    let known = explained(CLIENT, NAT, &tables(NAT, CLIENT, slot, Some(record), None));
    assert_eq!(known.packet.backend.as_deref(), Some("impala8"));
    assert_eq!(
        known.packet.reason,
        "its established record, last used 3 s ago, names impala8"
    );
    assert_eq!(known.records[0].nat_port, Some(40_000));
}

#[test]
fn the_fewest_connections_are_named_as_the_reason() {
    let mut tables = tables(THREE, CLIENT, tracked(NO_TARGET, 1), None, None);
    let key = ServiceKey::tcp(THREE.ip().into(), THREE.port());
    let entry = tables.services.get_mut(&key).unwrap();
    entry.candidates = 3;
    let first = entry.first_slot as usize;
    for (index, word) in tables.slots[first..first + SLOTS as usize].iter_mut().enumerate() {
        let current = u16::try_from(index % 3).unwrap() + 1;
        *word = tracked(NO_TARGET, current).to_bits();
    }
    for (target, established) in [(1, 7), (2, 9), (3, 8)] {
        tables.live.insert(
            target,
            Live {
                established,
                assigned: 0,
            },
        );
    }
    for (target, weight) in [(1, 1), (2, 2), (3, 1)] {
        tables.targets[target] = tables.targets[target].weighing(weight);
    }
    let found = explained(CLIENT, THREE, &tables);
    assert_eq!(
        found.new_connection.backend.as_deref(),
        Some("impala2"),
        "ten are five for its weight"
    );
    let reason = &found.new_connection.reason;
    for part in [
        "fewest live ones for its weight, impala2",
        "impala1 7 of weight 1",
        "impala2 9 of weight 2",
    ] {
        assert!(reason.contains(part), "{reason}");
    }
    assert_eq!(found.candidates.len(), 3);
    assert_eq!(found.packet.action, "reset");
    assert_eq!(
        found.packet.reason,
        "no record: every connection of this service has one; so the client is told by a TCP reset"
    );
}
