//! Client affinity: which target a client's next connection gets, so that it finds its earlier ones' sessions.
//!
//! The flow hash of an affine service takes in the client's address only, so all connections of a client have one slot, and
//! as long as that does not move they have one target: an untracked slot needs nothing from here. In a tracked slot the client's
//! *home* takes the place of the slot's `current`, and the [slot rule](crate::slot_rule) does the rest. The home is
//!
//! - what is noted of the client, if one of its packets came within the timeout, and its target still takes new connections;
//! - else, during the slot's *grace period*, `settled`: the client may have been there just before the slot became tracked,
//!   when nothing was noted of anybody;
//! - else `current`.
//!
//! The grace period is as long as the timeout, so that afterwards all who are still at home on `settled` have been noted there.
//! The price of remembering nothing in untracked slots is that clients who are new then are taken for old ones.
//!
//! Notes are best effort: a flood of packets with forged sources can evict them, and with them the affinity of clients whose slot
//! has moved, but no connection.

use crate::{
    clock,
    layout::{Affinity, ClientKey, Slot},
    slot_rule::Records,
};

/// A tracked slot as new connections of a client see it: `current` is the client's home.
#[inline(always)]
pub fn seen_by(client: &ClientKey, slot: Slot, timeout: u32, records: &impl Records) -> Slot {
    let current = match records.affinity(client) {
        Some(noted) if is_fresh(noted, records.now(), timeout) => {
            if records.takes_new_flows(noted.target) {
                noted.target
            } else {
                slot.current
            }
        }
        _ if slot.grace != 0 && records.takes_new_flows(slot.settled) => slot.settled,
        _ => slot.current,
    };
    Slot { current, ..slot }
}

/// What is to be noted of a client of which a packet went to a target: handed over, if it is anything new, which it is once a tick, with
/// whether it is more than the time: another target, or the first one. A SYN is no such packet: anybody can send one in somebody's name.
///
/// A client that is at home elsewhere stays there: connections that outlive the drain of their backend must not bring the client
/// back to it, nor must packets that somebody sends in its name.
#[inline(always)]
pub fn note(
    client: &ClientKey,
    target: u16,
    timeout: u32,
    records: &impl Records,
    remember: impl FnOnce(&Affinity, bool),
) {
    let now = records.now();
    let (says_something, moves) = match records.affinity(client) {
        None => (true, true),
        Some(noted) if noted.target == target => (noted.last_seen != now, false),
        Some(noted) => (
            !(is_fresh(noted, now, timeout) && records.takes_new_flows(noted.target)),
            true,
        ),
    };
    if says_something && records.takes_new_flows(target) {
        let affinity = Affinity {
            target,
            reserved: 0,
            last_seen: now,
        };
        remember(&affinity, moves);
    }
}

/// Whether a client was there within the timeout.
#[inline(always)]
pub const fn is_fresh(noted: &Affinity, now: u32, timeout: u32) -> bool {
    clock::since(now, noted.last_seen) <= timeout
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        address::Address,
        layout::Target,
        testing::{HostTables, tables::resolved_target},
    };

    const NOW: u32 = 5000;
    const TIMEOUT: u32 = 840;
    const SLOT: Slot = Slot {
        settled: 1,
        current: 2,
        tracked: true,
        settled_seen: 0,
        grace: 0,
    };

    fn client() -> ClientKey {
        ClientKey::new(Address::v4([10, 0, 0, 1]), 7)
    }

    /// Targets 1 to 3, and what is noted of the client.
    fn tables(noted: Option<(u16, u32)>) -> HostTables {
        let mut tables = HostTables::default();
        tables.now = NOW;
        tables.targets = [
            Target::default(),
            resolved_target(),
            resolved_target(),
            resolved_target(),
        ]
        .into();
        let entry = noted.map(|(target, age)| {
            let affinity = Affinity {
                target,
                reserved: 0,
                last_seen: NOW.wrapping_sub(age),
            };
            (client(), affinity)
        });
        tables.affinity.extend(entry);
        tables
    }

    fn home(slot: Slot, tables: &HostTables) -> u16 {
        seen_by(&client(), slot, TIMEOUT, tables).current
    }

    fn noted(target: u16, tables: &HostTables) -> Option<Affinity> {
        let mut found = None;
        note(&client(), target, TIMEOUT, tables, |affinity, moves| {
            let before = tables.affinity.get(&client());
            assert_eq!(moves, before.is_none_or(|it| it.target != affinity.target));
            found = Some(*affinity);
        });
        found
    }

    #[test]
    fn a_client_is_at_home_where_it_was_noted_within_the_timeout() {
        for (age, expected) in [(0, 3), (TIMEOUT, 3), (TIMEOUT + 1, 2), (1u32.wrapping_neg(), 3)] {
            assert_eq!(home(SLOT, &tables(Some((3, age)))), expected, "{age} ticks ago");
        }
        assert_eq!(home(SLOT, &tables(None)), 2, "a stranger");
    }

    #[test]
    fn during_the_grace_period_strangers_are_at_home_on_settled() {
        let grace = Slot { grace: 1, ..SLOT };
        assert_eq!(home(grace, &tables(None)), 1);
        assert_eq!(
            home(grace, &tables(Some((2, TIMEOUT + 1)))),
            1,
            "nobody remembers it"
        );
        assert_eq!(home(grace, &tables(Some((2, 0)))), 2, "it is no stranger");
    }

    #[test]
    fn nobody_is_at_home_on_a_target_that_takes_no_new_connections() {
        for gone in [Target::default(), resolved_target().shedding(true)] {
            let mut tables = tables(Some((3, 0)));
            tables.targets[3] = gone;
            assert_eq!(home(SLOT, &tables), 2);
            assert_eq!(
                home(Slot { grace: 1, ..SLOT }, &tables),
                2,
                "it was not on settled"
            );
            tables.affinity.clear();
            tables.targets[1] = gone;
            assert_eq!(home(Slot { grace: 1, ..SLOT }, &tables), 2);
        }
    }

    #[test]
    fn a_client_is_noted_once_a_tick_where_its_packets_go() {
        let now = |target| {
            Some(Affinity {
                target,
                reserved: 0,
                last_seen: NOW,
            })
        };
        assert_eq!(noted(2, &tables(None)), now(2));
        assert_eq!(noted(2, &tables(Some((2, 1)))), now(2));
        assert_eq!(noted(2, &tables(Some((2, 0)))), None, "nothing new");
        assert_eq!(noted(2, &tables(Some((3, TIMEOUT)))), None, "it is at home on 3");
        assert_eq!(noted(2, &tables(Some((3, TIMEOUT + 1)))), now(2));
        let mut drained = tables(Some((3, 0)));
        drained.targets[3] = resolved_target().shedding(true);
        assert_eq!(noted(2, &drained), now(2));
        assert_eq!(noted(3, &drained), None, "nobody is at home there");
    }
}
