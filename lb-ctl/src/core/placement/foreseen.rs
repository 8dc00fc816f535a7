//! What would become of slots: computed as it is done, but not done.

use std::collections::BTreeMap;

use lb_common::layout::{Slot, flag};
use serde::{Deserialize, Serialize};

use super::{
    Placement,
    steps::{Moved, WriteTables},
};
use crate::core::{plan::PlannedService, slot_moves};

/// A number of connections, and how it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowsTracked {
    /// How many.
    pub count: u64,
    /// Whether that is certain. Else it is estimated by the connections that coordinators have, by their own figures, and by the
    /// share of their slots.
    pub known: bool,
}

/// Whether a slot consults the flow table from now on, and did not before.
pub(super) const fn becomes_tracked(before: Slot, after: Slot) -> bool {
    after.tracked && !before.tracked
}

/// What would become of the slots of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Foreseen {
    /// How many would move.
    pub moved: Moved,
    /// By target: how many slots it has that are not tracked, and how many of these would become so.
    untracked: BTreeMap<u16, (u64, u64)>,
    /// Whether each connection has a record anyway.
    translates: bool,
}

impl Foreseen {
    /// How many connections live in the slots that would become tracked; `None` if that is not known. `connections` tells how many
    /// connections a target has.
    ///
    /// Those of an untracked slot are recorded nowhere. They are taken to be spread over their target's slots alike.
    pub fn flows_tracked(&self, connections: impl Fn(u16) -> Option<u64>) -> Option<FlowsTracked> {
        let leaving = self.untracked.iter().filter(|(_, (_, leaving))| *leaving > 0);
        let mut leaving = leaving.peekable();
        if self.translates || leaving.peek().is_none() {
            return Some(FlowsTracked {
                count: 0,
                known: true,
            });
        }
        let of = |(id, (slots, leaving)): (&u16, &(u64, u64))| {
            let connections = u128::from(connections(*id)?);
            let count = (connections * u128::from(*leaving)).div_ceil(u128::from(*slots));
            u64::try_from(count).ok()
        };
        Some(FlowsTracked {
            count: leaving.map(of).sum::<Option<u64>>()?,
            known: false,
        })
    }
}

impl Placement {
    /// What would become of the slots of a service if they were [moved](Self::apply) to where a plan has them. Changes nothing.
    pub fn foresee<T: WriteTables>(
        &self,
        service: &PlannedService,
        now: u32,
        tables: &T,
    ) -> Result<Foreseen, T::Error> {
        let mut foreseen = Foreseen {
            translates: service.entry.flags & flag::TRANSLATES != 0,
            ..Foreseen::default()
        };
        if !self.services.contains_key(&service.key) || self.stands_still(service.entry.id) {
            // Nobody uses it yet, or the other balancer says how it is, or has just said so.
            return Ok(foreseen);
        }
        // By id. There may be millions of slots, which name few targets.
        let mut untracked = vec![(0, 0); usize::from(u16::MAX) + 1];
        for (index, &target) in (service.entry.first_slot..).zip(&service.slots) {
            let before = tables.slot(index)?;
            let after = slot_moves::following(before, target, now, &service.entry);
            if !before.tracked {
                let (slots, leaving) = &mut untracked[usize::from(before.current)];
                *slots += 1;
                *leaving += u64::from(after.is_some_and(|after| becomes_tracked(before, after)));
            }
            foreseen.moved.count(before, after);
        }
        let named = (0..=u16::MAX).zip(untracked);
        foreseen.untracked = named.filter(|(_, (slots, _))| *slots > 0).collect();
        Ok(foreseen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreseen(untracked: &[(u16, (u64, u64))]) -> Foreseen {
        Foreseen {
            untracked: untracked.iter().copied().collect(),
            ..Foreseen::default()
        }
    }

    #[test]
    fn connections_are_estimated_by_the_share_of_their_targets_slots() {
        let connections = |id: u16| (id != 3).then_some(u64::from(id) * 100);
        let estimated = |count| Some(FlowsTracked { count, known: false });
        let none = Some(FlowsTracked {
            count: 0,
            known: true,
        });
        assert_eq!(
            foreseen(&[(1, (1000, 250)), (2, (1000, 1)), (3, (1000, 0))]).flows_tracked(connections),
            estimated(25 + 1)
        );
        assert_eq!(foreseen(&[(1, (10, 0))]).flows_tracked(connections), none);
        assert_eq!(
            foreseen(&[(1, (10, 5)), (3, (10, 5))]).flows_tracked(connections),
            None,
            "what one does not tell nobody knows"
        );
        let translating = Foreseen {
            translates: true,
            ..foreseen(&[(3, (10, 5))])
        };
        assert_eq!(translating.flows_tracked(connections), none);
    }
}
