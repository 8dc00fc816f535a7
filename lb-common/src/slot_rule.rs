//! Which target a packet of a tracked slot goes to, and what is to be remembered of it.
//!
//! A tracked slot has two targets: `settled`, on which live all connections that nobody has recorded, and `current`, which
//! new ones get. So that a slot can move without breaking a connection:
//!
//! - A SYN makes a *half-open* record of the target it was given and of its sequence number. Only a packet that continues
//!   that number, within the first window, turns it into an *established* record. A spoofed or delayed SYN is never
//!   continued, so it cannot pull a live connection to another target.
//! - An established record in use decides alone. One that is closing, or idle for a minute, gives way to a new connection
//!   between the same ports, once that has proved itself by its number. Anybody can forge a FIN or RST that both ends ignore
//!   (RFC 5961), so a connection that goes on for a minute after one is taken to be alive again.
//! - Whatever has no record goes to `settled`. So that operators see who still lives there, it is *noted*: once a tick, SYNs
//!   not, and nothing is ever decided by it.
//!
//! What it cannot tell: a SYN that was forwarded before its slot was tracked left no record. If it is sent again after the
//! slot has moved, while the first answer is on its way, two targets answer, and the client is reset once it continues
//! with the first. That takes a handshake of more than a second across a move. The like holds for a network that delays a
//! duplicate of a SYN until after a move, for a connection that has sent less than a window by then.
//!
//! The rule only decides. What it wants remembered is an [`Effect`], which whoever owns the tables carries out.

use crate::{
    clock,
    layout::{Affinity, ClientKey, FlowKey, FlowRecord, HalfOpen, NO_TARGET, SettledFlow, Slot},
};

/// After how many ticks without a packet an established record gives way to a new connection: a minute.
pub const IDLE: u32 = 56;

/// How far the first packets of a connection may be ahead of its SYN. The window of a SYN-ACK is never scaled
/// (RFC 7323, 2.2), so a client cannot send more before it has heard from the server again.
pub const FIRST_WINDOW: u32 = 65_535;

/// What the rule needs to know about a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whether it asks for a new connection: SYN without ACK.
    pub opens: bool,
    /// Whether it ends one: FIN or RST.
    pub closes: bool,
    /// Its sequence number.
    pub sequence: u32,
}

/// The records that the rule looks up, each at most once and only if it matters.
///
/// By reference: a record that is copied only if it is there makes the compiler copy undefined values around, which the
/// kernel's verifier refuses.
pub trait Records {
    /// The established record of a flow.
    fn flow(&self, key: &FlowKey) -> Option<&FlowRecord>;
    /// The half-open record of a flow.
    fn half_open(&self, key: &FlowKey) -> Option<&HalfOpen>;
    /// What was noted of a flow without a record.
    fn settled_flow(&self, key: &FlowKey) -> Option<&SettledFlow>;
    /// What is noted of a client of an affine service.
    fn affinity(&self, key: &ClientKey) -> Option<&Affinity>;
    /// The time, in [ticks](clock::ticks).
    fn now(&self) -> u32;
    /// Whether records are running short, so that new connections should do without where they can.
    fn is_short(&self) -> bool;
    /// Whether a target can and may be sent what has begun there: a SYN again.
    fn is_alive(&self, target: u16) -> bool;
    /// Whether it may also be given new connections that its slot's `current` should get: it is alive, and not being drained. One that is drained
    /// softly takes them: its clients may go on coming.
    fn takes_new_flows(&self, target: u16) -> bool;
}

/// What is to be remembered of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Nothing,
    /// The settled path was used: the slot's `settled_seen` becomes now.
    SettledUsed,
    /// The settled path was used, and by whom is to be noted: as [`Effect::SettledUsed`], and the note replaces an earlier one.
    Noted(SettledFlow),
    /// The flow's established record was used: it was seen now.
    Seen,
    /// The flow is ending: its established record was seen now, and gives way from now on.
    Closing,
    /// The flow was not ending: its established record was seen now, and decides alone again.
    Reopened,
    /// The flow gets a half-open record, in place of an earlier one.
    Open(HalfOpen),
    /// The flow gets an established record, in place of an earlier one and of the half-open one.
    Establish(FlowRecord),
}

/// What a packet does to its flow's established record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It was seen now.
    Seen,
    /// It was seen now, and gives way from now on.
    Closing,
    /// It was seen now, and decides alone again.
    Reopened,
}

impl Use {
    /// By a packet that comes now.
    #[inline(always)]
    pub(crate) const fn of(record: &FlowRecord, closes: bool, now: u32) -> Self {
        if closes {
            Self::Closing
        } else if record.closing != 0 && has_outlived(record.closing, now) {
            Self::Reopened
        } else {
            Self::Seen
        }
    }
}

/// The rule's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The target's id.
    pub target: u16,
    /// What is to be remembered, whether or not the target can be reached.
    pub effect: Effect,
}

/// Decides about a packet of a tracked slot, for whoever only wants to look.
pub fn choose(event: Event, slot: Slot, key: &FlowKey, records: &impl Records) -> Choice {
    let mut effect = Effect::Nothing;
    let target = apply(event, slot, key, records, |it| effect = it);
    Choice { target, effect }
}

/// Decides about a packet of a tracked slot: returns the target's id, and hands over what is to be remembered.
///
/// Handed over where it arises, instead of returned with the id: a result that carries a record only sometimes makes the
/// compiler copy undefined values around, which the kernel's verifier refuses.
#[inline(always)]
pub fn apply(
    event: Event,
    slot: Slot,
    key: &FlowKey,
    records: &impl Records,
    remember: impl FnOnce(Effect),
) -> u16 {
    let now = records.now();
    let record = records.flow(key);
    match record {
        Some(record) if is_in_use(record, now) => {
            // The target knows whether the connection exists. A SYN, which anybody can spoof, keeps no record alive.
            if !event.opens {
                seen(event, record, now, remember);
            }
            record.target
        }
        _ if event.opens => open(event, slot, key, record.is_some(), now, records, remember),
        _ => follow(event, slot, key, record, now, records, remember),
    }
}

/// The target on which a flow lives, for what is about it but not of it: looks at records and changes nothing.
///
/// Whatever is wrong about it is only that an error misses its connection: for a minute, where somebody has sent a SYN in a
/// client's name.
#[inline(always)]
pub fn home(slot: Slot, key: &FlowKey, records: &impl Records) -> u16 {
    let now = records.now();
    let record = records.flow(key);
    if let Some(record) = record
        && is_in_use(record, now)
    {
        return record.target;
    }
    // Its connection is being opened, or has been given up.
    if let Some(half_open) = records.half_open(key)
        && clock::since(now, half_open.opened) <= IDLE
    {
        return half_open.target;
    }
    record.map_or(slot.settled, |record| record.target)
}

/// Whether a record decides alone: neither closing nor idle.
#[inline(always)]
pub const fn is_in_use(record: &FlowRecord, now: u32) -> bool {
    record.closing == 0 && clock::since(now, record.last_seen) <= IDLE
}

/// A time as a record keeps it in which a FIN or RST was seen: in ticks modulo 2^16, odd so that it is never 0.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "kept modulo 2^16")]
pub const fn closing_since(now: u32) -> u16 {
    now as u16 | 1
}

/// Whether a packet that comes now shows that a FIN or RST was none: it is more than a minute younger, and whoever has ended
/// a connection has no more to say by then. The time is kept for 9 hours, much longer than such a record is.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "kept modulo 2^16")]
const fn has_outlived(closing: u16, now: u32) -> bool {
    let passed = (now as u16).wrapping_sub(closing);
    passed > IDLE as u16 && passed <= u16::MAX / 2
}

/// What a packet does to its flow's record.
#[inline(always)]
fn seen(event: Event, record: &FlowRecord, now: u32, remember: impl FnOnce(Effect)) {
    match Use::of(record, event.closes, now) {
        Use::Closing => remember(Effect::Closing),
        Use::Reopened => remember(Effect::Reopened),
        Use::Seen if record.last_seen != now => remember(Effect::Seen),
        // Most packets come in the same tick as the one before.
        Use::Seen => {}
    }
}

/// What a packet without a record does to its slot.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the slot keeps the time modulo 2^16"
)]
fn settled_used(slot: Slot, now: u32, remember: impl FnOnce(Effect)) {
    // Most packets come in the same tick as the one before. Written once, the slot's cache line stays shared.
    if slot.settled_seen != now as u16 {
        remember(Effect::SettledUsed);
    }
}

/// What a packet other than a SYN does to its slot, and to the note of its flow, when it has no record.
#[inline(always)]
fn settled_used_by(
    event: Event,
    slot: Slot,
    key: &FlowKey,
    now: u32,
    records: &impl Records,
    remember: impl FnOnce(Effect),
) {
    if is_worth_a_note(event, slot.settled, records.settled_flow(key), now) {
        remember(Effect::Noted(SettledFlow {
            target: slot.settled,
            closing: u16::from(event.closes),
            last_seen: now,
        }));
    } else {
        settled_used(slot, now, remember);
    }
}

/// Whether a packet on the settled path, to `target`, tells more than what has been noted of its flow.
///
/// The end of a flow stays noted although its last acknowledgements follow. Whoever uses the port later than that is another flow.
#[inline(always)]
fn is_worth_a_note(event: Event, target: u16, earlier: Option<&SettledFlow>, now: u32) -> bool {
    match earlier {
        None => true,
        Some(note) if note.target != target => true,
        Some(note) if note.closing != 0 => clock::since(now, note.last_seen) > IDLE,
        Some(note) => event.closes || note.last_seen != now,
    }
}

/// A SYN without a record in use.
#[inline(always)]
fn open(
    event: Event,
    slot: Slot,
    key: &FlowKey,
    has_record: bool,
    now: u32,
    records: &impl Records,
    remember: impl FnOnce(Effect),
) -> u16 {
    let target = match records.half_open(key) {
        // A retransmission, or another attempt from the same port: the newest number counts. Where nobody can have
        // answered the earlier one there is nothing to be true to.
        Some(earlier) if records.is_alive(earlier.target) => earlier.target,
        // An old record would get the new connection's packets: it has to be overruled, wherever that goes. So has a
        // half-open one.
        earlier if has_record || earlier.is_some() => slot.current,
        // Without a record it goes to `settled`: nothing to remember if it belongs there, or may. A drain goes before: it waits for
        // the last connection, and the table has a tenth of its room left when records run short.
        _ if slot.current == slot.settled
            || (records.is_short() && records.takes_new_flows(slot.settled)) =>
        {
            settled_used(slot, now, remember);
            return slot.settled;
        }
        _ => slot.current,
    };
    if target == NO_TARGET {
        return target;
    }
    remember(Effect::Open(HalfOpen {
        target,
        port: 0,
        sequence: event.sequence,
        opened: now,
    }));
    target
}

/// Any other packet without a record in use.
#[inline(always)]
fn follow(
    event: Event,
    slot: Slot,
    key: &FlowKey,
    record: Option<&FlowRecord>,
    now: u32,
    records: &impl Records,
    remember: impl FnOnce(Effect),
) -> u16 {
    if let Some(half_open) = records.half_open(key)
        && continues(event, half_open)
    {
        let target = half_open.target;
        remember(Effect::Establish(FlowRecord {
            target,
            closing: if event.closes { closing_since(now) } else { 0 },
            last_seen: now,
            port: half_open.port,
            reserved: [0; 3],
        }));
        return target;
    }
    if let Some(record) = record {
        // It closes, or has been idle. A record that closes stays so for now; an idle flow that speaks again is in use.
        seen(event, record, now, remember);
        record.target
    } else {
        // Of nobody there is nothing to note.
        if slot.settled != NO_TARGET {
            settled_used_by(event, slot, key, now, records, remember);
        }
        slot.settled
    }
}

/// Whether a packet continues the SYN of a half-open record.
#[inline(always)]
pub const fn continues(event: Event, half_open: &HalfOpen) -> bool {
    let distance = event.sequence.wrapping_sub(half_open.sequence.wrapping_add(1));
    distance <= FIRST_WINDOW
}

#[cfg(test)]
mod simulation;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        address::Address,
        decision::Memory,
        layout::Target,
        testing::{HostTables, tables::resolved_target},
    };

    const SYN: Event = Event {
        opens: true,
        closes: false,
        sequence: 1000,
    };
    const SLOT: Slot = Slot {
        settled: 1,
        current: 2,
        tracked: true,
        settled_seen: 0,
        grace: 0,
    };
    const NOW: u32 = 500;

    fn key() -> FlowKey {
        FlowKey::new(Address::v4([10, 0, 0, 1]), 40000, 7)
    }

    fn data(sequence: u32) -> Event {
        Event {
            opens: false,
            closes: false,
            sequence,
        }
    }

    fn tables() -> HostTables {
        let targets = [Target::default(), resolved_target(), resolved_target()];
        let mut tables = HostTables::default();
        tables.now = NOW;
        tables.targets = targets.into();
        tables
    }

    fn with_record(last_seen: u32, closing: u16) -> HostTables {
        let mut tables = tables();
        tables.flows.insert(
            key(),
            FlowRecord {
                target: 1,
                closing,
                last_seen,
                port: 0,
                reserved: [0; 3],
            },
        );
        tables
    }

    fn with_half_open(target: u16) -> HostTables {
        let mut tables = tables();
        let half_open = HalfOpen {
            target,
            port: 0,
            sequence: 1000,
            opened: NOW,
        };
        tables.half_open.insert(key(), half_open);
        tables
    }

    fn opened(target: u16) -> Choice {
        let half_open = HalfOpen {
            target,
            port: 0,
            sequence: 1000,
            opened: NOW,
        };
        Choice {
            target,
            effect: Effect::Open(half_open),
        }
    }

    #[test]
    fn a_new_connection_goes_to_current_and_is_noted() {
        assert_eq!(choose(SYN, SLOT, &key(), &tables()), opened(2));
    }

    #[test]
    fn a_packet_without_a_record_goes_to_settled() {
        let choice = choose(data(5), SLOT, &key(), &tables());
        assert_eq!(
            choice,
            Choice {
                target: 1,
                effect: Effect::Noted(note(NOW, 0))
            }
        );
    }

    fn note(last_seen: u32, closing: u16) -> SettledFlow {
        SettledFlow {
            target: 1,
            closing,
            last_seen,
        }
    }

    #[test]
    fn a_flow_on_the_settled_path_is_noted_once_a_tick_and_its_end_stays_noted() {
        let end = Event {
            closes: true,
            ..data(5)
        };
        let after = |earlier, event| {
            let mut tables = tables();
            tables.settled_flows.insert(key(), earlier);
            choose(event, SLOT, &key(), &tables).effect
        };
        assert_eq!(after(note(NOW, 0), data(5)), Effect::SettledUsed);
        assert_eq!(after(note(NOW - 1, 0), data(5)), Effect::Noted(note(NOW, 0)));
        assert_eq!(after(note(NOW, 0), end), Effect::Noted(note(NOW, 1)));
        for event in [data(5), end, SYN] {
            assert!(!matches!(after(note(NOW - IDLE, 1), event), Effect::Noted(_)));
        }
        assert_eq!(
            after(note(NOW - IDLE - 1, 1), data(5)),
            Effect::Noted(note(NOW, 0)),
            "the port is used again"
        );
        let elsewhere = SettledFlow {
            target: 3,
            ..note(NOW, 0)
        };
        assert_eq!(after(elsewhere, data(5)), Effect::Noted(note(NOW, 0)));
    }

    #[test]
    fn a_connection_that_goes_on_for_a_minute_after_its_end_has_not_ended() {
        let end = Event {
            closes: true,
            ..data(5)
        };
        let mut tables = with_record(NOW, 0);
        let effect = |tables: &HostTables, event| choose(event, SLOT, &key(), tables).effect;
        assert_eq!(effect(&tables, end), Effect::Closing);
        tables.perform(&Memory {
            flow: key(),
            slot: 0,
            effect: Effect::Closing,
        });
        // The mark is up to a tick older than the end.
        tables.now = NOW + IDLE;
        assert_eq!(
            effect(&tables, data(5)),
            Effect::Seen,
            "the last acknowledgements"
        );
        tables.now = NOW + IDLE + 2;
        assert_eq!(effect(&tables, data(5)), Effect::Reopened);
        assert_eq!(
            effect(&tables, end),
            Effect::Closing,
            "sent again, or another one"
        );
        assert_eq!(choose(data(5), SLOT, &key(), &tables).target, 1);
        tables.perform(&Memory {
            flow: key(),
            slot: 0,
            effect: Effect::Reopened,
        });
        let record = tables.flows[&key()];
        assert_eq!((record.closing, record.last_seen), (0, NOW + IDLE + 2));
    }

    #[test]
    fn a_syn_is_true_to_an_earlier_one_that_can_have_been_answered() {
        let mut tables = tables();
        tables.half_open.insert(
            key(),
            HalfOpen {
                target: 1,
                port: 0,
                sequence: 1000,
                opened: NOW,
            },
        );
        assert_eq!(choose(SYN, SLOT, &key(), &tables).target, 1);
        tables.targets[1] = Target::default();
        assert_eq!(
            choose(SYN, SLOT, &key(), &tables),
            Choice {
                target: 2,
                effect: Effect::Open(HalfOpen {
                    target: 2,
                    port: 0,
                    sequence: 1000,
                    opened: NOW,
                }),
            }
        );
    }

    #[test]
    fn nothing_is_remembered_of_who_was_given_to_nobody() {
        let slot = Slot {
            current: NO_TARGET,
            ..SLOT
        };
        assert_eq!(
            choose(SYN, slot, &key(), &tables()),
            Choice {
                target: NO_TARGET,
                effect: Effect::Nothing,
            }
        );
    }

    #[test]
    fn a_record_that_another_cpu_has_just_seen_is_in_use() {
        let tables = with_record(NOW + 1, 0);
        assert_eq!(choose(SYN, SLOT, &key(), &tables).target, 1);
    }

    #[test]
    fn a_record_in_use_gets_every_packet_a_syn_included_which_keeps_nothing_alive() {
        let tables = with_record(NOW - IDLE, 0);
        assert_eq!(
            choose(data(5), SLOT, &key(), &tables),
            Choice {
                target: 1,
                effect: Effect::Seen
            }
        );
        assert_eq!(
            choose(SYN, SLOT, &key(), &tables),
            Choice {
                target: 1,
                effect: Effect::Nothing
            }
        );
        let end = Event {
            closes: true,
            ..data(5)
        };
        assert_eq!(
            choose(end, SLOT, &key(), &tables),
            Choice {
                target: 1,
                effect: Effect::Closing
            }
        );
    }

    #[test]
    fn a_record_that_is_idle_or_closing_gives_way_to_a_new_connection() {
        assert_eq!(
            choose(SYN, SLOT, &key(), &with_record(NOW - IDLE - 1, 0)),
            opened(2)
        );
        assert_eq!(choose(SYN, SLOT, &key(), &with_record(NOW, 1)), opened(2));
    }

    #[test]
    fn it_gives_way_only_to_a_packet_that_continues_the_new_number() {
        let mut tables = with_record(NOW - IDLE - 1, 0);
        tables.half_open = with_half_open(2).half_open;
        let established = FlowRecord {
            target: 2,
            closing: 0,
            last_seen: NOW,
            port: 0,
            reserved: [0; 3],
        };
        for sequence in [1001, 1001 + FIRST_WINDOW] {
            let choice = choose(data(sequence), SLOT, &key(), &tables);
            assert_eq!(
                choice,
                Choice {
                    target: 2,
                    effect: Effect::Establish(established)
                }
            );
        }
        for sequence in [1000, 1002 + FIRST_WINDOW] {
            let choice = choose(data(sequence), SLOT, &key(), &tables);
            assert_eq!(
                choice,
                Choice {
                    target: 1,
                    effect: Effect::Seen
                }
            );
        }
    }

    #[test]
    fn a_retransmitted_syn_follows_its_record_though_the_slot_has_moved() {
        let moved = Slot { current: 3, ..SLOT };
        assert_eq!(choose(SYN, moved, &key(), &with_half_open(2)), opened(2));
    }

    #[test]
    fn a_flow_lives_where_its_packets_go() {
        assert_eq!(home(SLOT, &key(), &tables()), 1);
        assert_eq!(home(SLOT, &key(), &with_half_open(3)), 3);
        let mut stale = with_half_open(3);
        stale.now = NOW + IDLE + 1;
        assert_eq!(
            home(SLOT, &key(), &stale),
            1,
            "nobody waits for a handshake that long"
        );
        for (last_seen, closing, beside_a_syn) in [(NOW, 0, 1), (NOW, 1, 3), (NOW - IDLE - 1, 0, 3)] {
            let moved = Slot { settled: 2, ..SLOT };
            let mut tables = with_record(last_seen, closing);
            assert_eq!(home(moved, &key(), &tables), 1);
            tables.half_open = with_half_open(3).half_open;
            assert_eq!(home(moved, &key(), &tables), beside_a_syn);
        }
    }

    #[test]
    fn where_settled_is_current_a_new_connection_needs_no_record() {
        let slot = Slot { current: 1, ..SLOT };
        assert_eq!(
            choose(SYN, slot, &key(), &tables()),
            Choice {
                target: 1,
                effect: Effect::SettledUsed
            }
        );
        // Unless an old one would get its packets.
        assert_eq!(choose(SYN, slot, &key(), &with_record(NOW, 1)), opened(1));
    }

    #[test]
    fn when_records_are_short_new_connections_go_to_settled_if_that_takes_any() {
        let mut tables = tables();
        tables.short = true;
        assert_eq!(
            choose(SYN, SLOT, &key(), &tables),
            Choice {
                target: 1,
                effect: Effect::SettledUsed
            }
        );
        for unwilling in [
            Target::default(),
            resolved_target().draining(true),
            resolved_target().shedding(true),
        ] {
            tables.targets[1] = unwilling;
            assert_eq!(choose(SYN, SLOT, &key(), &tables), opened(2), "{unwilling:?}");
        }
    }
}
