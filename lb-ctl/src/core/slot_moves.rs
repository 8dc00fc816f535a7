//! How a slot gets from one target to another without breaking a connection, and when it has arrived.
//!
//! The data path's half of this is [`lb_common::slot_rule`]: what a packet of a tracked slot does. Here is the controller's
//! half: what it stores into a slot. `settled` changes by settling only, whoever asks for what.

use lb_common::layout::{NO_TARGET, Slot};

/// A slot keeps the time modulo 2^16 ticks. What seems to lie this far in the past was in truth stored by a packet since
/// the time was read. 10 minutes, far less than the 1.5 hours between the longest `flow_idle_timeout` and the wrap.
const AHEAD: u16 = 560;

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

/// What to store into a slot so that new connections go to `target`; `None` if they do already.
///
/// `now` is the time in ticks. The kernel program stores `settled_seen` at the same time as we store the whole slot. That it
/// was used now is true of a slot that has been untracked, and for any other only makes it settle later.
pub fn moved(slot: Slot, target: u16, now: u32) -> Option<Slot> {
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
    })
}

/// What to store into a tracked slot once all its flows are on `current`; `None` as long as that is not certain.
///
/// `named` is what its records name; `idle_timeout` is in ticks; `settled_is_empty` says that no flow without a record matters on
/// the settled target: each flow has one, or the target is down and its flows are to be reset. Where records still name others,
/// the slot stays tracked, but what has no record goes to `current` at once, to be reset there.
pub fn settled(
    slot: Slot,
    named: Named,
    now: u32,
    idle_timeout: u32,
    settled_is_empty: bool,
) -> Option<Slot> {
    let recorded = match named {
        Named::Nothing => true,
        Named::One(target) => target == slot.current,
        Named::Several => false,
    };
    let unrecorded = slot.settled == slot.current
        || slot.settled == NO_TARGET
        || settled_is_empty
        || idle(slot.settled_seen, now) > idle_timeout;
    if !slot.tracked || !unrecorded {
        None
    } else if recorded {
        Some(Slot::untracked(slot.current))
    } else {
        (settled_is_empty && slot.settled != slot.current).then_some(Slot {
            settled: slot.current,
            ..slot
        })
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

/// A time as a slot keeps it.
fn truncated(ticks: u32) -> u16 {
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
        }
    }

    #[test]
    fn a_slot_that_moves_keeps_its_settled_target() {
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
        assert_eq!(moved(Slot::default(), 4, NOW), Some(Slot::untracked(4)));
        assert_eq!(
            moved(Slot::untracked(4), NO_TARGET, NOW),
            Some(tracked(4, NO_TARGET, 0x100))
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
            assert_eq!(settled(slot, named, NOW, TIMEOUT, false), expected, "{named:?}");
        }
        let recently = tracked(1, 2, truncated(NOW - TIMEOUT));
        assert_eq!(settled(recently, Named::Nothing, NOW, TIMEOUT, false), None);
        assert_eq!(settled(recently, Named::Nothing, NOW, TIMEOUT, true), arrived);
        let released = Slot {
            settled: 2,
            ..recently
        };
        for named in [Named::One(3), Named::Several] {
            assert_eq!(
                settled(recently, named, NOW, TIMEOUT, true),
                Some(released),
                "who has no record lived on the dead one"
            );
            assert_eq!(
                settled(released, named, NOW, TIMEOUT, true),
                None,
                "once is enough"
            );
        }
        let back = tracked(2, 2, truncated(NOW));
        assert_eq!(settled(back, Named::One(2), NOW, TIMEOUT, false), arrived);
        assert_eq!(
            settled(Slot::untracked(2), Named::Nothing, NOW, TIMEOUT, false),
            None
        );
    }

    #[test]
    fn a_packet_that_came_after_the_time_was_read_is_not_taken_for_an_old_one() {
        let slot = tracked(1, 2, truncated(NOW + 1));
        assert_eq!(settled(slot, Named::Nothing, NOW, TIMEOUT, false), None);
    }
}
