//! Placement by live connections: each new connection goes to the backend that has the fewest for its weight.
//!
//! There is no list of candidates. The `current` column of such a service's slots is *striped*: it names the eligible backends one
//! after the other, again and again, so that a *window* of as many slots as there are backends names each of them, and whatever
//! takes a backend out of the slots (its health, a drain, another tier) takes it out of the choice. A SYN looks at the window that
//! begins at its own slot, so that its hash decides between equals.
//!
//! The choice replaces the slot's `current` as the [slot rule](crate::slot_rule) sees it, for the SYN alone; the record that
//! the SYN makes says where the connection lives. All slots of the service are tracked, hence every connection has a record, and the
//! counts are those of the records: [`Live`] changes with them.
//!
//! A SYN is no connection yet. So that many at once do not all go to the backend that was the least loaded one before the first of them
//! was established, those of the current tick count as well. A flood of SYNs therefore only makes the shares more equal.

use crate::{
    decision::Tables,
    layout::{Live, NO_TARGET, Service, Slot},
};

/// The longest window. With more eligible backends than that, a connection gets the best of as many of them.
pub const MAX_CANDIDATES: u16 = 64;

/// How many slots the window of a service with so many backends has.
pub const fn candidates(backends: usize, slots: u32) -> u16 {
    let mut candidates = MAX_CANDIDATES;
    if backends < candidates as usize {
        #[expect(clippy::cast_possible_truncation, reason = "fewer than the longest window")]
        {
            candidates = backends as u16;
        }
    }
    if slots < candidates as u32 {
        #[expect(clippy::cast_possible_truncation, reason = "fewer than the longest window")]
        {
            candidates = slots as u16;
        }
    }
    // 0 would say that the service does not place connections so.
    if candidates == 0 { 1 } else { candidates }
}

/// Whether a service places each connection by live ones.
#[inline(always)]
pub const fn places_each(service: &Service) -> bool {
    service.candidates != 0
}

/// The first slot of the window that a new connection whose hash picks the slot `index` looks at: its own, unless the window would
/// end behind the service's last slot.
#[inline(always)]
pub const fn window(index: u32, service: &Service) -> u32 {
    let end = service.first_slot.wrapping_add(service.slots);
    let last = end.wrapping_sub(service.candidates as u32);
    if index > last { last } else { index }
}

/// The target with the fewest live connections for its weight, among those that the window of the slot `index` names and which take
/// new ones; of equals the first. Nobody, if none of them does.
#[inline(always)]
pub fn least(index: u32, service: &Service, tables: &impl Tables) -> u16 {
    let first = window(index, service);
    let now = tables.now();
    // 0, but read: with constants the kernel's verifier would follow every order in which the best one can change, which Linux 6.1
    // gives up.
    let nothing = u64::from(service.reserved);
    let mut best = service.reserved;
    let mut best_load = nothing;
    let mut best_weight = nothing;
    for place in 0..u32::from(MAX_CANDIDATES) {
        if place >= u32::from(service.candidates) {
            break;
        }
        let Some(Slot { current, .. }) = tables.slot(first.wrapping_add(place)) else {
            break;
        };
        let weight = match tables.target(current) {
            Some(target) if target.takes_new_flows() => u64::from(target.weight()),
            _ => continue,
        };
        let load = load(tables.live(current), now) + nothing;
        // By cross multiplication. The first one is better than none, and any better than one without a weight.
        if load * best_weight < best_load * weight || best == NO_TARGET {
            (best, best_load, best_weight) = (current, load, weight);
        }
    }
    best
}

/// What a target would have to do with one more connection: at least 1, and below 2^32.
#[inline(always)]
pub const fn load(live: Live, now: u32) -> u64 {
    live.connections() as u64 + live.beginning(now) as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        hash,
        layout::{ServiceKey, Target, live},
        testing::{
            HostTables,
            tables::{SLOTS, THREE, resolved_target},
        },
    };
    use proptest::prelude::*;
    use std::{collections::BTreeMap, vec, vec::Vec};

    const NOW: u32 = 5000;

    /// A service whose slots name so many targets in turn, from 1 on, and whose window is as long as it gets.
    fn tables(targets: u16) -> (HostTables, Service) {
        let mut tables = HostTables::fixture();
        tables.now = NOW;
        tables.live.clear();
        tables.targets = vec![Target::default()];
        tables
            .targets
            .resize(usize::from(targets) + 1, resolved_target().weighing(1));
        let entry = tables
            .services
            .get_mut(&ServiceKey::tcp(THREE.ip().into(), THREE.port()))
            .unwrap();
        entry.candidates = candidates(targets.into(), entry.slots);
        let entry = *entry;
        for index in 0..entry.slots {
            let slot = Slot {
                settled: NO_TARGET,
                tracked: true,
                ..Slot::untracked(u16::try_from(index).unwrap() % targets + 1)
            };
            tables.slots[(entry.first_slot + index) as usize] = slot.to_bits();
        }
        (tables, entry)
    }

    fn set(tables: &mut HostTables, target: u16, established: u32, beginning: u32, weight: u32) {
        let assigned = live::first_assigned(NOW) - 1 + beginning;
        let live = Live {
            established,
            assigned,
        };
        tables.live.insert(target, live);
        let entry = &mut tables.targets[usize::from(target)];
        *entry = entry.weighing(weight);
    }

    #[test]
    fn the_window_is_as_long_as_there_are_backends_within_bounds() {
        for (backends, slots, expected) in [
            (0, 251, 1),
            (1, 251, 1),
            (3, 251, 3),
            (64, 251, 64),
            (65, 251, 64),
            (1000, 65_537, 64),
            (9, 7, 7),
        ] {
            assert_eq!(candidates(backends, slots), expected, "{backends} {slots}");
        }
    }

    #[test]
    fn of_equals_the_slots_own_target_is_chosen() {
        let (tables, service) = tables(3);
        for index in 0..SLOTS - 3 {
            let expected = u16::try_from(index % 3).unwrap() + 1;
            assert_eq!(least(service.first_slot + index, &service, &tables), expected);
        }
    }

    #[test]
    fn where_nobody_takes_new_connections_nobody_is_chosen() {
        let (mut tables, service) = tables(3);
        tables.targets.fill(resolved_target().draining(true));
        assert_eq!(least(service.first_slot, &service, &tables), NO_TARGET);
        tables.targets.fill(Target::default());
        assert_eq!(
            least(service.first_slot, &service, &tables),
            NO_TARGET,
            "the next hops are unknown"
        );
        tables.slots.fill(Slot::untracked(NO_TARGET).to_bits());
        assert_eq!(least(service.first_slot, &service, &tables), NO_TARGET);
    }

    #[test]
    fn the_greatest_counts_and_weights_do_not_overflow() {
        let (mut tables, service) = tables(2);
        set(&mut tables, 1, i32::MAX.cast_unsigned(), 0xffff, u32::MAX);
        set(&mut tables, 2, i32::MAX.cast_unsigned(), 0xffff, u32::MAX - 1);
        assert_eq!(least(service.first_slot, &service, &tables), 1);
        assert_eq!(least(service.first_slot + 1, &service, &tables), 1);
    }

    /// Connections come, live as long as their client likes, and end. Returns the live ones by target, from 1 on.
    fn closed_loop(weights: &[u32], lives: &[u32], connections: u64) -> Vec<u32> {
        let targets = u16::try_from(weights.len()).unwrap();
        let (mut tables, service) = tables(targets);
        for (target, &weight) in (1..).zip(weights) {
            set(&mut tables, target, 0, 0, weight);
        }
        let mut ends = BTreeMap::<u64, Vec<u16>>::new();
        for number in 0..connections {
            for target in ends.remove(&number).unwrap_or_default() {
                tables.live.get_mut(&target).unwrap().established -= 1;
            }
            let flow = hash::mix(number);
            let index = service.first_slot + hash::slot(flow, service.slots);
            let target = least(index, &service, &tables);
            tables.live.get_mut(&target).unwrap().established += 1;
            let life = lives[usize::try_from(flow % lives.len() as u64).unwrap()];
            ends.entry(number + 1 + u64::from(life)).or_default().push(target);
        }
        (1..=targets).map(|id| tables.live(id).connections()).collect()
    }

    proptest! {
        /// The choice is a least one among those that take new connections.
        #[test]
        fn nobody_has_fewer_for_its_weight(
            targets in proptest::collection::vec((0u32..50, 0u32..50, 1u32..5, any::<bool>()), 1..20),
            slot in 0..SLOTS,
        ) {
            let count = u16::try_from(targets.len()).unwrap();
            let (mut tables, service) = tables(count);
            for (id, &(established, beginning, weight, sheds)) in (1..).zip(&targets) {
                set(&mut tables, id, established, beginning, weight);
                let entry = &mut tables.targets[usize::from(id)];
                *entry = entry.shedding(sheds);
            }
            let chosen = least(service.first_slot + slot, &service, &tables);
            let share = |id: u16| {
                let (established, beginning, weight, _) = targets[usize::from(id) - 1];
                (u64::from(established + beginning) + 1, u64::from(weight))
            };
            let open: Vec<u16> = (1..=count).filter(|id| !targets[usize::from(*id) - 1].3).collect();
            prop_assert_eq!(chosen == NO_TARGET, open.is_empty());
            for id in open {
                let ((mine, my_weight), (theirs, their_weight)) = (share(chosen), share(id));
                prop_assert!(mine * their_weight <= theirs * my_weight, "{} instead of {}", chosen, id);
            }
        }

        /// However long connections last, all targets have as many for their weight. Ends come where they like, so a few more or less.
        #[test]
        fn shares_are_level(
            weights in proptest::collection::vec(1u32..4, 2..9),
            lives in proptest::collection::vec(1u32..2000, 1..6),
        ) {
            let live = closed_loop(&weights, &lives, 6000);
            let shares = live.iter().zip(&weights).map(|(live, weight)| f64::from(*live) / f64::from(*weight));
            let (fewest, most) = shares.fold((f64::MAX, 0f64), |(least, most), share| (least.min(share), most.max(share)));
            prop_assert!(most - fewest <= 2.0 + 0.3 * most, "{:?} of {:?}", live, weights);
        }
    }
}
