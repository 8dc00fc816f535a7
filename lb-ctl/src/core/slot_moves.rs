//! How a slot gets from one target to another without breaking a connection, and when it has arrived.
//!
//! The data path's half of this is [`lb_common::slot_rule`]: what a packet of a tracked slot does. Here is the controller's
//! half: what it stores into a slot. `settled` changes by settling only, whoever asks for what.

use lb_common::{
    layout::{NO_TARGET, Service, Slot, flag},
    least_connections::places_each,
};

/// A slot keeps the time modulo 2^16 ticks. What seems to lie this far in the past was in truth stored by a packet since
/// the time was read. 10 minutes, far less than the 1.5 hours between the longest `flow_idle_timeout` and the wrap.
const AHEAD: u16 = 560;

/// Set in a slot's grace period, beside the time at which it began.
const GRACE: u16 = 1 << 14;

/// The bits of that time.
const QUARTERS: u16 = GRACE - 1;

/// What the records of a slot's flows name, of whatever table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Named {
    /// There are no records.
    #[default]
    Nothing,
    /// All name this target.
    One(u16),
    /// They differ.
    Several,
}

impl Named {
    /// What they name together with one more record.
    #[must_use]
    pub fn and(self, target: u16) -> Self {
        match self {
            Self::Nothing => Self::One(target),
            Self::One(other) if other == target => self,
            Self::One(_) | Self::Several => Self::Several,
        }
    }
}

/// What flows without a record there can be on a slot's settled target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrecorded {
    /// Some, as long as there have been packets lately.
    Possible,
    /// None: the service has a record of each of its flows. Clients of whom nothing is noted may be at home there all the same.
    Nothing,
    /// None that matter: the target is down, and its flows are to be reset. Nobody is at home there any more.
    Reset,
}

/// What to store into a slot of a service so that new connections go to `target`, or may if it is their choice; `None` if they do
/// already.
pub fn following(slot: Slot, target: u16, now: u32, service: &Service) -> Option<Slot> {
    let is_affine = service.flags & flag::AFFINE != 0;
    if places_each(service) {
        placed(slot, target, now, is_affine)
    } else {
        moved(slot, target, now, is_affine)
    }
}

/// What to store into a slot so that new connections go to `target`; `None` if they do already.
///
/// `is_affine` says that the slot is of a service with affinity, so that a grace period begins when it becomes tracked.
/// `now` is the time in ticks. The kernel program stores `settled_seen` at the same time as we store the whole slot. That it
/// was used now is true of a slot that has been untracked, and for any other only makes it settle later.
pub fn moved(slot: Slot, target: u16, now: u32, is_affine: bool) -> Option<Slot> {
    if slot.current == target {
        return None;
    }
    // Nobody lives in a slot that has been empty, so nobody has to be told apart.
    if !slot.tracked && slot.settled == NO_TARGET {
        return Some(Slot::untracked(target));
    }
    Some(Slot {
        settled: slot.settled,
        current: target,
        tracked: true,
        settled_seen: truncated(now),
        // Whoever has come later than the first move has been noted.
        grace: match slot.tracked {
            true => slot.grace,
            false if is_affine => GRACE | quarter(now),
            false => 0,
        },
    })
}

/// The same for a slot of a service that places each connection by live ones: `target` is what the slot contributes to the choice.
///
/// Such a slot is tracked from the beginning, so that every connection has a record, also one to the target on which those without a
/// record live.
pub fn placed(slot: Slot, target: u16, now: u32, is_affine: bool) -> Option<Slot> {
    if slot.tracked {
        return moved(slot, target, now, is_affine);
    }
    Some(Slot {
        settled: slot.settled,
        current: target,
        tracked: true,
        settled_seen: truncated(now),
        // Nobody is at home where nobody lives.
        grace: if is_affine && slot.settled != NO_TARGET {
            GRACE | quarter(now)
        } else {
            0
        },
    })
}

/// What to store into a slot of such a service once nobody without a record can be left on the settled target; `None` as long as
/// that is not certain, or if it is known. The slot stays tracked. Otherwise as [`settled`].
pub fn vacated(slot: Slot, now: u32, idle_timeout: u32, unrecorded: Unrecorded) -> Option<Slot> {
    let is_empty = match unrecorded {
        Unrecorded::Reset => true,
        Unrecorded::Nothing => slot.grace == 0,
        Unrecorded::Possible => slot.grace == 0 && idle(slot.settled_seen, now) > idle_timeout,
    };
    (slot.tracked && slot.settled != NO_TARGET && is_empty).then_some(Slot {
        settled: NO_TARGET,
        ..slot
    })
}

/// What to store into a slot whose grace period is over; `None` if it is not, or there is none. `timeout` is the service's, in
/// ticks.
pub fn grace_over(slot: Slot, now: u32, timeout: u32) -> Option<Slot> {
    let quarters = quarter(now).wrapping_sub(slot.grace) & QUARTERS;
    // It has lasted for more than this.
    let ticks = (u32::from(quarters) * 4).saturating_sub(4);
    (slot.grace != 0 && ticks >= timeout).then_some(Slot { grace: 0, ..slot })
}

/// For how many ticks a slot's grace period has lasted, as exactly as the slot knows; `None` if it is in none.
pub fn grace_age(slot: Slot, now: u32) -> Option<u32> {
    let quarters = quarter(now).wrapping_sub(slot.grace) & QUARTERS;
    (slot.grace != 0).then_some(u32::from(quarters) * 4)
}

/// What a slot keeps of a grace period that has lasted for so many ticks.
pub const fn grace_of(age: u32, now: u32) -> u16 {
    GRACE | quarter(now.wrapping_sub(age))
}

/// What to store into a tracked slot once all its flows are on `current`; `None` as long as that is not certain.
///
/// `named` is what its records and its clients' affinity name; `idle_timeout` is in ticks; `unrecorded` says what flows without a
/// record there can be on the settled target. Where these are to be reset and records still name others, the slot stays tracked,
/// but what has no record goes to `current` at once, to be reset there.
pub fn settled(
    slot: Slot,
    named: Named,
    now: u32,
    idle_timeout: u32,
    unrecorded: Unrecorded,
) -> Option<Slot> {
    let recorded = match named {
        Named::Nothing => true,
        Named::One(target) => target == slot.current,
        Named::Several => false,
    };
    let is_reset = unrecorded == Unrecorded::Reset;
    // With a target that is reset go both its flows and its clients' affinity.
    let is_gone = is_reset || slot.settled == slot.current || slot.settled == NO_TARGET;
    let is_empty = unrecorded == Unrecorded::Nothing || idle(slot.settled_seen, now) > idle_timeout;
    let is_homeless = slot.grace == 0;
    if !slot.tracked || !(is_gone || is_empty && is_homeless) {
        None
    } else if recorded {
        Some(Slot::untracked(slot.current))
    } else {
        (is_reset && slot.settled != slot.current).then_some(Slot {
            settled: slot.current,
            ..slot
        })
    }
}

/// The same slot, whose settled path counts as used now.
pub fn used(slot: Slot, now: u32) -> Slot {
    Slot {
        settled_seen: truncated(now),
        ..slot
    }
}

/// For how many ticks a slot's settled path has not been used. Beyond 2^16 it begins at 0 again: such a slot settles
/// later than it could, never earlier.
pub(super) fn idle(settled_seen: u16, now: u32) -> u32 {
    let idle = truncated(now).wrapping_sub(settled_seen);
    if idle > u16::MAX - AHEAD {
        0
    } else {
        u32::from(idle)
    }
}

/// A time as a slot keeps it of its grace period: in units of four ticks, modulo 2^14 of them, which is as long as 2^16 ticks.
const fn quarter(ticks: u32) -> u16 {
    let [low, high, ..] = (ticks >> 2).to_le_bytes();
    u16::from_le_bytes([low, high]) & QUARTERS
}

/// A time as a slot keeps it.
pub(super) fn truncated(ticks: u32) -> u16 {
    let [low, high, ..] = ticks.to_le_bytes();
    u16::from_le_bytes([low, high])
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u32 = 0x1_0100;
    const TIMEOUT: u32 = 1000;

    fn tracked(settled: u16, current: u16, settled_seen: u16) -> Slot {
        Slot {
            settled,
            current,
            tracked: true,
            settled_seen,
            grace: 0,
        }
    }

    #[test]
    fn a_slot_that_moves_keeps_its_settled_target() {
        let moved = |slot, target, now| moved(slot, target, now, false);
        let first = moved(Slot::untracked(1), 2, NOW);
        assert_eq!(first, Some(tracked(1, 2, 0x100)));
        let again = moved(tracked(1, 2, 7), 3, NOW);
        assert_eq!(again, Some(tracked(1, 3, 0x100)));
        let back = moved(tracked(1, 2, 7), 1, NOW);
        assert_eq!(back, Some(tracked(1, 1, 0x100)));
        assert_eq!(moved(tracked(1, 2, 7), 2, NOW), None);
        assert_eq!(moved(Slot::untracked(2), 2, NOW), None);
    }

    #[test]
    fn an_empty_slot_is_filled_at_once_and_a_full_one_emptied_with_care() {
        let moved = |slot, target, now| moved(slot, target, now, true);
        assert_eq!(moved(Slot::default(), 4, NOW), Some(Slot::untracked(4)));
        assert_eq!(
            moved(Slot::untracked(4), NO_TARGET, NOW),
            Some(Slot {
                grace: GRACE | 0x40,
                ..tracked(4, NO_TARGET, 0x100)
            })
        );
    }

    #[test]
    fn the_grace_period_of_an_affine_slot_begins_with_its_first_move_and_lasts_for_the_timeout() {
        let first = moved(Slot::untracked(1), 2, NOW, true).unwrap();
        assert_ne!(first.grace, 0);
        let again = moved(first, 3, NOW + 500, true).unwrap();
        assert_eq!(again.grace, first.grace);
        for begin in [NOW, NOW + 1, NOW + 3, 0xffff, 0x1_0000, u32::MAX] {
            let slot = moved(Slot::untracked(1), 2, begin, true).unwrap();
            for timeout in [1, 839, 840, 60_000] {
                for during in [0, timeout / 2, timeout] {
                    assert_eq!(
                        grace_over(slot, begin.wrapping_add(during), timeout),
                        None,
                        "{begin} {timeout}"
                    );
                }
                let over = grace_over(slot, begin.wrapping_add(timeout + 8), timeout);
                assert_eq!(over, Some(Slot { grace: 0, ..slot }), "{begin} {timeout}");
            }
        }
        assert_eq!(grace_over(tracked(1, 2, 0), NOW, 0), None, "there was none");
        let later = moved(Slot { grace: 0, ..first }, 3, NOW + 500, true).unwrap();
        assert_eq!(later.grace, 0, "it does not come back while the slot is tracked");
    }

    #[test]
    fn a_grace_period_goes_on_by_another_clock_as_long_as_by_its_own() {
        assert_eq!(grace_age(tracked(1, 2, 0), NOW), None);
        let begun = moved(Slot::untracked(1), 2, NOW, true).unwrap();
        for lasted in [0, 1, 3, 4, 839, 60_000] {
            let age = grace_age(begun, NOW + lasted).unwrap();
            assert!(age.abs_diff(lasted) < 4, "{age} {lasted}");
            for other in [0, 5, NOW, u32::MAX] {
                let there = Slot {
                    grace: grace_of(age, other),
                    ..begun
                };
                assert!(grace_age(there, other).unwrap().abs_diff(lasted) < 4);
                assert_eq!(grace_over(there, other, lasted + 4), None);
                assert!(grace_over(there, other.wrapping_add(16), lasted + 4).is_some());
            }
        }
    }

    #[test]
    fn no_slot_settles_in_its_grace_period_while_somebody_can_be_at_home_elsewhere() {
        let long_ago = truncated(NOW - TIMEOUT - 1);
        let slot = Slot {
            grace: GRACE,
            ..tracked(1, 2, long_ago)
        };
        assert_eq!(
            settled(slot, Named::Nothing, NOW, TIMEOUT, Unrecorded::Possible),
            None
        );
        let arrived = Some(Slot::untracked(2));
        assert_eq!(
            settled(slot, Named::Nothing, NOW, TIMEOUT, Unrecorded::Reset),
            arrived,
            "it is reset"
        );
        assert_eq!(
            settled(slot, Named::Nothing, NOW, TIMEOUT, Unrecorded::Nothing),
            None,
            "that all its flows are recorded does not say that nobody is at home there"
        );
        let back = Slot { settled: 2, ..slot };
        assert_eq!(
            settled(back, Named::Nothing, NOW, TIMEOUT, Unrecorded::Possible),
            arrived
        );
        let over = Slot { grace: 0, ..slot };
        assert_eq!(
            settled(over, Named::Nothing, NOW, TIMEOUT, Unrecorded::Possible),
            arrived
        );
    }

    #[test]
    fn it_settles_only_when_nobody_is_left_elsewhere() {
        let long_ago = truncated(NOW - TIMEOUT - 1);
        let slot = tracked(1, 2, long_ago);
        let arrived = Some(Slot::untracked(2));
        for (named, expected) in [
            (Named::Nothing, arrived),
            (Named::One(2), arrived),
            (Named::One(1), None),
            (Named::Several, None),
        ] {
            assert_eq!(
                settled(slot, named, NOW, TIMEOUT, Unrecorded::Possible),
                expected,
                "{named:?}"
            );
        }
        let recently = tracked(1, 2, truncated(NOW - TIMEOUT));
        let released = Slot {
            settled: 2,
            ..recently
        };
        for named in [Named::One(3), Named::Several] {
            assert_eq!(
                settled(recently, named, NOW, TIMEOUT, Unrecorded::Reset),
                Some(released),
                "who has no record lived on the dead one"
            );
            assert_eq!(
                settled(released, named, NOW, TIMEOUT, Unrecorded::Reset),
                None,
                "once is enough"
            );
            assert_eq!(
                settled(recently, named, NOW, TIMEOUT, Unrecorded::Nothing),
                None,
                "clients may be at home on the settled target"
            );
        }
        assert_eq!(
            settled(recently, Named::Nothing, NOW, TIMEOUT, Unrecorded::Possible),
            None
        );
        assert_eq!(
            settled(recently, Named::Nothing, NOW, TIMEOUT, Unrecorded::Reset),
            arrived
        );
        assert_eq!(
            settled(recently, Named::Nothing, NOW, TIMEOUT, Unrecorded::Nothing),
            arrived
        );
        let back = tracked(2, 2, truncated(NOW));
        assert_eq!(
            settled(back, Named::One(2), NOW, TIMEOUT, Unrecorded::Possible),
            arrived
        );
        assert_eq!(
            settled(
                Slot::untracked(2),
                Named::Nothing,
                NOW,
                TIMEOUT,
                Unrecorded::Possible
            ),
            None
        );
    }

    #[test]
    fn a_slot_of_a_service_that_places_each_connection_is_tracked_from_the_beginning() {
        let placed = |slot, target| placed(slot, target, NOW, false);
        assert_eq!(placed(Slot::default(), 4), Some(tracked(NO_TARGET, 4, 0x100)));
        assert_eq!(placed(Slot::untracked(4), 5), Some(tracked(4, 5, 0x100)));
        assert_eq!(
            placed(Slot::untracked(4), 4),
            Some(tracked(4, 4, 0x100)),
            "those from before have no record"
        );
        assert_eq!(placed(tracked(4, 5, 7), 5), None);
        assert_eq!(placed(tracked(4, 5, 7), 6), Some(tracked(4, 6, 0x100)));
        let affine = super::placed(Slot::untracked(4), 4, NOW, true).unwrap();
        assert_ne!(affine.grace, 0, "its clients are at home there");
        assert_eq!(super::placed(Slot::default(), 4, NOW, true).unwrap().grace, 0);
    }

    #[test]
    fn such_a_slot_is_vacated_when_nobody_without_a_record_is_left_and_stays_tracked() {
        let long_ago = truncated(NOW - TIMEOUT - 1);
        for current in [1, 2] {
            let (recent, old) = (
                tracked(1, current, truncated(NOW - TIMEOUT)),
                tracked(1, current, long_ago),
            );
            let empty = |slot| {
                Some(Slot {
                    settled: NO_TARGET,
                    ..slot
                })
            };
            let vacated = |slot, unrecorded| vacated(slot, NOW, TIMEOUT, unrecorded);
            assert_eq!(vacated(recent, Unrecorded::Possible), None);
            assert_eq!(vacated(old, Unrecorded::Possible), empty(old));
            assert_eq!(vacated(recent, Unrecorded::Reset), empty(recent));
            assert_eq!(vacated(recent, Unrecorded::Nothing), empty(recent));
            let grace = Slot { grace: GRACE, ..old };
            assert_eq!(
                vacated(grace, Unrecorded::Possible),
                None,
                "somebody may be at home there"
            );
            assert_eq!(
                vacated(tracked(NO_TARGET, current, long_ago), Unrecorded::Possible),
                None
            );
        }
    }

    #[test]
    fn a_packet_that_came_after_the_time_was_read_is_not_taken_for_an_old_one() {
        let slot = tracked(1, 2, truncated(NOW + 1));
        assert_eq!(
            settled(slot, Named::Nothing, NOW, TIMEOUT, Unrecorded::Possible),
            None
        );
    }
}
