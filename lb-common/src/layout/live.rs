//! How many connections a target has.

/// The number of [ticks](crate::clock::ticks) at which [`Live::assigned`] counts, in its upper half.
const TICK_SHIFT: u32 = 16;

/// The number of SYNs in the lower half of [`Live::assigned`].
const COUNT: u32 = 0xffff;

/// Where that stays, a little below its end: several CPUs may count at the same time, and must not count into the tick.
const MOST: u32 = COUNT - 0xff;

/// The live connections of a target: an entry of the table of them.
///
/// Each half is changed by atomic instructions only, by every CPU and the controller at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Live {
    /// How many established records name the target and are not closing, as a signed number: two CPUs may count the end of a connection
    /// before its beginning. [`Live::connections`] is what to read.
    pub established: u32,
    /// How many SYNs the target was given in the tick that is in the upper 16 bits, less those that have become established.
    pub assigned: u32,
}

impl Live {
    /// The live connections that have a record.
    #[inline(always)]
    pub const fn connections(self) -> u32 {
        let established = self.established.cast_signed();
        if established < 0 {
            0
        } else {
            established.cast_unsigned()
        }
    }

    /// The connections that have been begun in this tick, and of whose end or success nothing is known.
    #[inline(always)]
    pub const fn beginning(self, now: u32) -> u32 {
        if is_of_tick(self.assigned, now) {
            self.assigned & COUNT
        } else {
            0
        }
    }
}

/// Whether SYNs are counted for this tick already.
#[inline(always)]
pub const fn is_of_tick(assigned: u32, now: u32) -> bool {
    assigned >> TICK_SHIFT == now & COUNT
}

/// Whether one more SYN of the same tick can be counted.
#[inline(always)]
pub const fn has_room(assigned: u32) -> bool {
    assigned & COUNT < MOST
}

/// Whether there is a SYN of this tick that can be taken back.
#[inline(always)]
pub const fn can_take_back(assigned: u32, now: u32) -> bool {
    is_of_tick(assigned, now) && assigned & COUNT != 0
}

/// The first SYN of a tick.
#[inline(always)]
pub const fn first_assigned(now: u32) -> u32 {
    now << TICK_SHIFT | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_below_zero_is_none() {
        let live = |established: i32| Live {
            established: established.cast_unsigned(),
            assigned: 0,
        };
        assert_eq!(live(-1).connections(), 0);
        assert_eq!(live(0).connections(), 0);
        assert_eq!(live(7).connections(), 7);
    }

    #[test]
    fn syns_are_counted_for_one_tick() {
        for now in [0, 7, 0xffff, 0x1_0000, u32::MAX] {
            let live = Live {
                established: 0,
                assigned: first_assigned(now),
            };
            assert_eq!(live.beginning(now), 1);
            assert_eq!(live.beginning(now.wrapping_add(1)), 0);
            assert!(can_take_back(live.assigned, now));
            assert!(!can_take_back(live.assigned, now.wrapping_add(1)));
            assert!(!can_take_back(live.assigned - 1, now), "there is none");
        }
        assert!(!has_room(first_assigned(9) + MOST));
    }
}
