//! Whether the counts of live connections are those of the records, and what is to be added where they are not.
//!
//! A count changes with its record, but not in the same step: a controller that is killed between deleting a record and counting
//! that, two CPUs that replace one record at once, or a FIN that comes while its record is being deleted leave a count that is off
//! by one for ever. So each pass over the records compares, without stopping anybody.
//!
//! A pass meets each record at a moment of its own, while connections come and go. Where they do, it finds another number than the
//! count without anything being wrong; to add the difference would make the error that it is to mend. So a difference says
//! something only about a target that was *quiet* while the pass went over the established records:
//!
//! - No connection to it has become established. That takes a half-open record, and so either one that the pass over the half-open
//!   records, which comes first, has met, or a SYN since then, which is counted as a new flow.
//! - None has ended, and the pass has deleted none: without a beginning to hide it, either would show in the count.
//!
//! Then the records that count were the same all the time, and the pass has met them all. What is left are a CPU between the change of
//! its record and the count of it, and a connection that goes on after a forged FIN, which is a beginning without a SYN, at the same time
//! as another ends. Both are over in a moment, so what two quiet passes find alike, seconds apart, is neither.
//!
//! A target that is never quiet, of which a handshake is under way whenever a pass comes, keeps its error. It is small beside so many
//! connections, and the first quiet moments mend it.
//!
//! The difference is added, atomically, and not stored as a number: by then connections have come and gone.

use std::collections::BTreeMap;

/// What stood in the tables for a target at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// [`Live::established`](lb_common::layout::Live::established), read next to the pass over the established records.
    pub established: u32,
    /// The SYNs that were forwarded to it ever, read outside of the passes over records of either kind.
    pub new_flows: u64,
}

/// What a pass has met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Met {
    live: BTreeMap<u16, u32>,
    half_open: BTreeMap<u16, u32>,
}

impl Met {
    /// A record of a connection to this target that is established, and not closing.
    pub fn live(&mut self, target: u16) {
        *self.live.entry(target).or_default() += 1;
    }

    /// A half-open record of a connection to this target.
    pub fn half_open(&mut self, target: u16) {
        *self.half_open.entry(target).or_default() += 1;
    }

    /// What has to be added to the target's count for it to be that of the records; `None` if the target was not quiet.
    pub fn difference(&self, target: u16, before: Reading, after: Reading) -> Option<i32> {
        let is_quiet = before == after && !self.half_open.contains_key(&target);
        let live = self.live.get(&target).copied().unwrap_or_default();
        is_quiet.then(|| live.wrapping_sub(after.established).cast_signed())
    }
}

/// What the targets that were quiet in a pass lack, by id: 0 if their count is right.
pub type Differences = BTreeMap<u16, i32>;

/// The memory from pass to pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciliation {
    /// Of the last pass in which the target was quiet, unless the count was right.
    suspected: Differences,
}

impl Reconciliation {
    /// What is to be added to which targets' counts, now that a pass has found these differences.
    pub fn after(&mut self, found: &Differences) -> Differences {
        let mut corrections = Differences::new();
        for (&target, &difference) in found {
            let suspected = self.suspected.remove(&target);
            if difference == 0 {
                continue;
            }
            if suspected == Some(difference) {
                corrections.insert(target, difference);
            } else {
                self.suspected.insert(target, difference);
            }
        }
        corrections
    }

    /// Forgets a target whose id is free again: what is suspected of it says nothing about the next one.
    pub fn forget(&mut self, target: u16) {
        self.suspected.remove(&target);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TARGET: u16 = 7;

    /// So many live records, and what was read.
    fn met(live: u32) -> Met {
        let mut met = Met::default();
        (0..live).for_each(|_| met.live(TARGET));
        met
    }

    fn reading(established: u32, new_flows: u64) -> Reading {
        Reading {
            established,
            new_flows,
        }
    }

    #[test]
    fn a_difference_says_nothing_of_a_target_that_was_not_quiet() {
        let difference = |met: &Met, before, after| met.difference(TARGET, before, after);
        assert_eq!(difference(&met(3), reading(5, 9), reading(5, 9)), Some(-2));
        assert_eq!(
            difference(&met(3), reading(5, 9), reading(4, 9)),
            None,
            "one has ended"
        );
        assert_eq!(
            difference(&met(3), reading(5, 9), reading(5, 10)),
            None,
            "one may have begun"
        );
        let mut handshake = met(3);
        handshake.half_open(TARGET);
        assert_eq!(difference(&handshake, reading(5, 9), reading(5, 9)), None);
        handshake.half_open(8);
        assert_eq!(handshake.difference(9, reading(0, 0), reading(0, 0)), Some(0));
    }

    #[test]
    fn a_count_below_zero_is_raised() {
        let below = 1u32.wrapping_neg();
        assert_eq!(
            met(2).difference(TARGET, reading(below, 0), reading(below, 0)),
            Some(3)
        );
        assert_eq!(
            met(0).difference(TARGET, reading(below, 0), reading(below, 0)),
            Some(1)
        );
    }

    #[test]
    fn two_quiet_passes_have_to_agree() {
        let mut reconciliation = Reconciliation::default();
        let mut after = |found: &[(u16, i32)]| {
            let found = found.iter().copied().collect();
            reconciliation.after(&found).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(after(&[(1, 2), (2, -1), (3, 1), (4, 5)]), []);
        assert_eq!(
            after(&[(1, 2), (2, 1), (3, 0)]),
            [(1, 2)],
            "2 and 3 have changed, 4 was not quiet"
        );
        assert_eq!(
            after(&[(1, 2), (2, 1), (3, 1), (4, 5)]),
            [(2, 1), (4, 5)],
            "1 begins anew"
        );
        assert_eq!(after(&[(1, 0), (2, 0), (3, 1), (4, 0)]), [(3, 1)]);
        assert_eq!(reconciliation, Reconciliation::default());
    }

    #[test]
    fn what_is_suspected_of_a_target_says_nothing_about_the_next_one_of_its_id() {
        let mut reconciliation = Reconciliation::default();
        let found = Differences::from([(1, 2), (2, 1)]);
        assert_eq!(reconciliation.after(&found), Differences::new());
        reconciliation.forget(1);
        assert_eq!(reconciliation.after(&found), Differences::from([(2, 1)]));
    }

    /// A connection, as far as the count is concerned.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum State {
        Nothing,
        HalfOpen,
        Live,
        Closing,
    }

    /// One target's records and count, in a kernel that counts without an error but for what is done to it.
    #[derive(Debug)]
    struct World {
        connections: Vec<State>,
        live: u32,
        new_flows: u64,
        /// What the count is off by.
        error: i32,
    }

    impl World {
        /// A connection goes on to its next state.
        fn proceed(&mut self, connection: usize) {
            let state = &mut self.connections[connection];
            *state = match *state {
                State::Nothing | State::Closing => {
                    self.new_flows += 1;
                    State::HalfOpen
                }
                State::HalfOpen => {
                    self.live = self.live.wrapping_add(1);
                    State::Live
                }
                State::Live => {
                    self.live = self.live.wrapping_sub(1);
                    State::Closing
                }
            };
        }

        fn damage(&mut self, error: i32) {
            self.live = self.live.wrapping_add_signed(error);
            self.error += error;
        }

        fn reading(&self, new_flows: u64) -> Reading {
            reading(self.live, new_flows)
        }

        /// A pass, before each look of which some connections proceed.
        fn pass(&mut self, meanwhile: &[Vec<usize>]) -> Differences {
            let mut meanwhile = meanwhile.iter();
            let mut look = |world: &mut Self| {
                for &connection in meanwhile.next().into_iter().flatten() {
                    world.proceed(connection);
                }
            };
            let (mut met, syns) = (Met::default(), self.new_flows);
            for index in 0..self.connections.len() {
                look(self);
                if self.connections[index] == State::HalfOpen {
                    met.half_open(TARGET);
                }
            }
            look(self);
            let before = self.reading(syns);
            for index in 0..self.connections.len() {
                look(self);
                if self.connections[index] == State::Live {
                    met.live(TARGET);
                }
            }
            look(self);
            let after = self.reading(0);
            look(self);
            let after = Reading {
                new_flows: self.new_flows,
                ..after
            };
            met.difference(TARGET, before, after)
                .into_iter()
                .map(|difference| (TARGET, difference))
                .collect()
        }

        fn correct(&mut self, corrections: &Differences) {
            let correction = corrections.get(&TARGET).copied().unwrap_or_default();
            assert!(correction == 0 || correction == -self.error, "{self:?}");
            self.damage(correction);
        }
    }

    const CONNECTIONS: usize = 4;

    proptest! {
        /// Whatever comes and goes while passes look, nothing is ever added but what is missing; and once nothing comes and goes,
        /// two passes find that.
        #[test]
        fn a_correction_is_what_the_count_is_off_by(
            passes in proptest::collection::vec(
                (
                    prop_oneof![3 => Just(0), 1 => -2i32..3],
                    proptest::collection::vec(
                        prop_oneof![4 => Just(vec![]), 1 => proptest::collection::vec(0..CONNECTIONS, 0..4)],
                        2 * CONNECTIONS + 3,
                    ),
                ),
                1..40,
            ),
        ) {
            let mut world = World { connections: vec![State::Nothing; CONNECTIONS], live: 0, new_flows: 0, error: 0 };
            let mut reconciliation = Reconciliation::default();
            for (error, meanwhile) in passes {
                world.damage(error);
                let found = world.pass(&meanwhile);
                for difference in found.values() {
                    prop_assert_eq!(*difference, -world.error);
                }
                world.correct(&reconciliation.after(&found));
            }
            for connection in 0..CONNECTIONS {
                while world.connections[connection] == State::HalfOpen {
                    world.proceed(connection);
                }
            }
            for _ in 0..3 {
                let found = world.pass(&[]);
                world.correct(&reconciliation.after(&found));
            }
            prop_assert_eq!(world.error, 0);
            let live = world.connections.iter().filter(|state| **state == State::Live).count();
            prop_assert_eq!(world.live as usize, live);
        }
    }
}
