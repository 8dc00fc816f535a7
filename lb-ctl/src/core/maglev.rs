//! Which backend gets which slot: Maglev hashing with weights.
//!
//! After D. Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), section 3.4:
//! every backend has a permutation of the slots that follows from its name alone, and the backends take turns in claiming
//! the first slot of their permutation that is still free. A backend that leaves frees its slots, and nearly all other
//! slots stay where they are. Weights decide how often it is a backend's turn, and how many slots it gets in the end: its
//! share rounded down or up, so that no backend is off by a whole slot.
//!
//! Two balancers with the same names, weights, seed and number of slots compute the same table, whatever the order
//! of the backends in their configurations.

use lb_common::hash;

/// A backend that takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// The name, from which the permutation follows. Unique among the candidates.
    pub name: &'a str,
    /// The share of slots, relative to the sum of all weights.
    pub weight: u32,
}

/// Gives each of `slots` slots to one of the candidates: the result holds indices into `candidates`.
///
/// Empty when no candidate has a weight above 0. `slots` must be a prime number of at least 2, or permutations would miss
/// slots; the configuration sees to it.
pub fn table(candidates: &[Candidate<'_>], seed: u64, slots: u32) -> Vec<usize> {
    let mut turns: Vec<Turns> = candidates
        .iter()
        .enumerate()
        .filter(|(_, candidate)| candidate.weight > 0)
        .map(|(index, candidate)| Turns::new(index, candidate, seed, slots))
        .collect();
    // Who comes first in a round must not depend on the order in a configuration file.
    turns.sort_unstable_by_key(|turns| candidates[turns.candidate].name);
    let Some(most) = turns.iter().map(|turns| turns.weight).max() else {
        return Vec::new();
    };
    set_quotas(&mut turns, slots);

    let mut free = FreeSlots::all(slots);
    let mut left = slots;
    // All of them are written: the quotas amount to as many.
    let mut owners = vec![0; slots as usize];
    while left > 0 {
        for turns in &mut turns {
            // The heaviest backend gets one slot in each round, the others one whenever their credit suffices.
            turns.credit += turns.weight;
            if turns.credit < most || turns.quota == 0 {
                continue;
            }
            turns.credit -= most;
            turns.quota -= 1;
            owners[turns.claim(&mut free)] = turns.candidate;
            left -= 1;
        }
    }
    owners
}

/// The slots that nobody has, a bit for each: nearly all of the time goes into looking for one, and so they stay in the fastest cache.
struct FreeSlots(Vec<u64>);

impl FreeSlots {
    fn all(slots: u32) -> Self {
        Self(vec![u64::MAX; slots.div_ceil(u64::BITS) as usize])
    }

    /// Returns whether the slot was free. It is not any more.
    fn take(&mut self, slot: usize) -> bool {
        let word = &mut self.0[slot / 64];
        let bit = 1 << (slot % 64);
        let was_free = *word & bit != 0;
        *word &= !bit;
        was_free
    }
}

/// Shares the slots out by weight: each candidate's share rounded down, and the slots that are left over one each to
/// those with the largest remainders.
fn set_quotas(turns: &mut [Turns], slots: u32) {
    let total: u64 = turns.iter().map(|turns| turns.weight).sum();
    let mut left_over = u64::from(slots);
    for turns in turns.iter_mut() {
        turns.quota = u64::from(slots) * turns.weight / total;
        left_over -= turns.quota;
    }
    let mut by_remainder: Vec<&mut Turns> = turns.iter_mut().collect();
    // Stable: equal remainders are served in the order of the names.
    by_remainder.sort_by_key(|turns| std::cmp::Reverse(u64::from(slots) * turns.weight % total));
    for turns in by_remainder {
        if left_over == 0 {
            break;
        }
        turns.quota += 1;
        left_over -= 1;
    }
}

/// A candidate's way through its permutation.
struct Turns {
    candidate: usize,
    weight: u64,
    /// How many slots are still to be claimed.
    quota: u64,
    credit: u64,
    next: usize,
    skip: usize,
    slots: usize,
}

impl Turns {
    #[expect(clippy::cast_possible_truncation, reason = "remainders of a 32-bit divisor")]
    fn new(index: usize, candidate: &Candidate<'_>, seed: u64, slots: u32) -> Self {
        let offset = hash::name(seed, candidate.name);
        // The paper wants two independent hashes of the name; the second one is mixed out of the first.
        let skip = hash::mix(offset ^ seed.rotate_left(32));
        let modulus = u64::from(slots);
        Self {
            candidate: index,
            weight: u64::from(candidate.weight),
            quota: 0,
            credit: 0,
            next: (offset % modulus) as usize,
            skip: (skip % (modulus - 1)) as usize + 1,
            slots: slots as usize,
        }
    }

    /// Claims the next slot of the permutation that nobody has. There must be one.
    fn claim(&mut self, free: &mut FreeSlots) -> usize {
        loop {
            let slot = self.next;
            let next = slot + self.skip;
            self.next = if next >= self.slots {
                next - self.slots
            } else {
                next
            };
            if free.take(slot) {
                return slot;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SLOTS: u32 = 65_537;

    fn names(count: usize) -> Vec<String> {
        (1..=count).map(|number| format!("impala{number}")).collect()
    }

    fn equal(names: &[String]) -> Vec<Candidate<'_>> {
        names.iter().map(|name| Candidate { name, weight: 1 }).collect()
    }

    fn share(table: &[usize], candidate: usize) -> usize {
        table.iter().filter(|&&owner| owner == candidate).count()
    }

    #[test]
    fn equal_weights_differ_by_one_slot_at_most() {
        let names = names(7);
        let table = table(&equal(&names), 1, SLOTS);
        assert_eq!(table.len(), SLOTS as usize);
        let shares: Vec<usize> = (0..7).map(|candidate| share(&table, candidate)).collect();
        assert!(
            shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1,
            "{shares:?}"
        );
    }

    #[test]
    fn nobody_to_serve_is_an_empty_table() {
        assert!(table(&[], 1, 251).is_empty());
        assert!(
            table(
                &[Candidate {
                    name: "impala1",
                    weight: 0
                }],
                1,
                251
            )
            .is_empty()
        );
    }

    #[test]
    fn removing_one_of_ten_backends_moves_little_else() {
        let names = names(10);
        let all = equal(&names);
        let before = table(&all, 1, SLOTS);
        let after = table(&all[..9], 1, SLOTS);
        let moved = before
            .iter()
            .zip(&after)
            .filter(|(before, after)| **before != 9 && before != after)
            .count();
        // The paper's figure 12 shows a few percent for tables that are large against the number of backends.
        assert!(
            moved < SLOTS as usize / 20,
            "{moved} slots moved between backends that stayed"
        );
    }

    /// Held by both balancers of a pair through upgrades: a change here moves live connections.
    #[test]
    fn golden_table() {
        let names = names(3);
        let weighted: Vec<_> = names
            .iter()
            .zip([1, 2, 3])
            .map(|(name, weight)| Candidate { name, weight })
            .collect();
        assert_eq!(table(&weighted, 42, 23), GOLDEN);
    }

    /// Computed by an independent implementation of the description above.
    const GOLDEN: [usize; 23] = [
        0, 2, 2, 1, 2, 2, 1, 1, 2, 0, 1, 2, 0, 2, 1, 2, 1, 2, 2, 1, 2, 1, 0,
    ];

    proptest! {
        #[test]
        fn shares_follow_weights(weights in proptest::collection::vec(0u32..=100, 1..20), seed: u64) {
            let names = names(weights.len());
            let candidates: Vec<_> =
                names.iter().zip(&weights).map(|(name, &weight)| Candidate { name, weight }).collect();
            let total: u32 = weights.iter().sum();
            let table = table(&candidates, seed, 1009);
            if total == 0 {
                prop_assert!(table.is_empty());
                return Ok(());
            }
            for (candidate, &weight) in weights.iter().enumerate() {
                let ideal = f64::from(weight) / f64::from(total) * 1009.0;
                let found = f64::from(u32::try_from(share(&table, candidate)).unwrap());
                prop_assert!((found - ideal).abs() < 1.0, "weight {weight} of {total}: {found} slots, ideal {ideal}");
            }
        }

        #[test]
        fn the_order_of_backends_does_not_matter(
            weights in proptest::collection::vec(1u32..=5, 2..10), seed: u64, rotation in 1usize..9,
        ) {
            let names = names(weights.len());
            let mut candidates: Vec<_> =
                names.iter().zip(&weights).map(|(name, &weight)| Candidate { name, weight }).collect();
            let by_name = |candidates: &[Candidate<'_>]| -> Vec<String> {
                table(candidates, seed, 251).into_iter().map(|owner| candidates[owner].name.to_owned()).collect()
            };
            let before = by_name(&candidates);
            let middle = rotation % candidates.len();
            candidates.rotate_left(middle);
            prop_assert_eq!(before, by_name(&candidates));
        }
    }
}
