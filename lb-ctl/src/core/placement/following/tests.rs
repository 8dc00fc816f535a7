//! What a follower leaves alone, whom it gives ids, and what it does when it takes over.

use std::{collections::BTreeSet, net::IpAddr};

use lb_common::layout::{ServiceKey, Slot};

use super::*;
use crate::core::{
    census::Census,
    placement::simulation::{
        MAX_BACKENDS,
        configuration::configuration,
        kernel::{Kernel, Killed},
    },
    plan::{Plan, Shares},
};

const SERVICE: u16 = 0;
const NOW: u32 = 5000;
const IDLE: u32 = 100;

/// A balancer with a service that has these of `b0` to `b3`.
struct Balancer {
    kernel: Kernel,
    placement: Placement,
    plan: Plan,
}

fn plan(placement: &Placement, weights: [Option<u32>; 4]) -> Plan {
    let config = configuration(&[weights, [None; 4], [None; 4]]).expect("a service");
    placement
        .plan(&config, &Shares::configured(&config))
        .expect("room")
}

impl Balancer {
    fn new(weights: [Option<u32>; 4]) -> Self {
        let config = configuration(&[weights, [None; 4], [None; 4]]).expect("a service");
        let mut balancer = Self {
            kernel: Kernel::new(),
            placement: Placement::empty(&config.datapath),
            plan: Plan::default(),
        };
        balancer.configure(weights);
        balancer
    }

    fn configure(&mut self, weights: [Option<u32>; 4]) {
        self.plan = plan(&self.placement, weights);
        self.placement
            .introduce(&self.plan, &mut self.kernel)
            .expect("it lives");
        self.placement
            .apply(&self.plan, NOW, &mut self.kernel)
            .expect("it lives");
    }

    fn slots(&self) -> Vec<Slot> {
        let service = self.placement.services().next().expect("the service");
        service
            .slot_indices()
            .map(|index| self.kernel.load(index))
            .collect()
    }

    fn store(&mut self, slot: Slot) {
        let service = *self.placement.services().next().expect("the service");
        for index in service.slot_indices() {
            self.kernel.store_slot(index, slot).expect("it lives");
        }
    }

    /// All slots are on their way from the first backend to the second.
    fn move_all(&mut self) {
        self.store(Slot {
            settled: self.plan.targets[0].id,
            current: self.plan.targets[1].id,
            tracked: true,
            settled_seen: 0,
            grace: 0,
        });
    }

    fn peers(&mut self, backend: &str) -> TargetOfPeer {
        let name = TargetName::new(SERVICE, backend, IpAddr::from([192, 0, 2, 200]), 21_000);
        self.placement
            .target_of_peer(name.expect("a name"), Forwarding::Dsr, &mut self.kernel)
            .expect("it lives")
    }

    /// A pass over no records, at this time.
    fn pass(&mut self, now: u32) -> crate::core::placement::Swept {
        let departing = self.placement.begin_pass(&self.kernel).expect("it lives");
        self.finish(&departing, now)
    }

    fn finish(
        &mut self,
        departing: &crate::core::placement::Departing,
        now: u32,
    ) -> crate::core::placement::Swept {
        let services = self.placement.services().copied();
        let census = Census::new(now, IDLE, false, services, BTreeSet::new());
        self.placement
            .finish_pass(departing, &census, &mut self.kernel)
            .expect("it lives")
    }
}

#[test]
fn neither_reloads_nor_health_nor_passes_change_the_slots_of_a_service_that_is_followed() {
    let mut balancer = Balancer::new([Some(1), Some(1), None, None]);
    balancer.placement.follow(SERVICE);
    balancer.placement.follow(7);
    assert_eq!(
        balancer.placement.followed,
        BTreeSet::from([SERVICE]),
        "there is no other"
    );
    let [settled, current] = [balancer.plan.targets[0].id, balancer.plan.targets[1].id];
    let told = Slot {
        settled,
        current,
        tracked: true,
        settled_seen: 0,
        grace: 1,
    };
    balancer.store(told);
    balancer.configure([None, None, Some(1), None]);
    let mut planned = balancer.plan.services[0].clone();
    planned.slots.fill(settled);
    let foreseen = balancer
        .placement
        .foresee(&planned, NOW, &balancer.kernel)
        .expect("it lives");
    assert_eq!(foreseen, super::super::Foreseen::default());
    let moved = balancer.placement.share_out(&planned, NOW, &mut balancer.kernel);
    assert_eq!(moved.expect("it lives").moved, 0);
    for _ in 0..3 {
        let swept = balancer.pass(NOW + 60_000);
        assert_eq!(swept, crate::core::placement::Swept::default());
    }
    assert!(balancer.slots().iter().all(|slot| *slot == told));

    // Its end is our configuration's to say.
    let other = [[None; 4], [Some(1), None, None, None], [None; 4]];
    let config = configuration(&other).expect("a service");
    let plan = balancer
        .placement
        .plan(&config, &Shares::configured(&config))
        .expect("room");
    balancer
        .placement
        .introduce(&plan, &mut balancer.kernel)
        .expect("it lives");
    balancer
        .placement
        .apply(&plan, NOW, &mut balancer.kernel)
        .expect("it lives");
    assert!(balancer.placement.followed.is_empty());
}

#[test]
fn a_service_that_was_taken_over_stands_still_for_one_pass_and_nothing_settles_by_what_was_told() {
    let mut balancer = Balancer::new([Some(1), Some(1), None, None]);
    balancer.placement.follow(SERVICE);
    balancer.move_all();
    let planned = balancer.plan.services[0].clone();
    let share_out = |balancer: &mut Balancer| {
        let moved = balancer.placement.share_out(&planned, NOW, &mut balancer.kernel);
        moved.expect("it lives").moved
    };
    // A pass is under way.
    let departing = balancer.placement.begin_pass(&balancer.kernel).expect("it lives");
    balancer.kernel.writes_left = Some(3);
    let killed = balancer.placement.take_over(SERVICE, NOW, &mut balancer.kernel);
    assert!(matches!(killed, Err(Killed)) && balancer.placement.is_followed(SERVICE));
    balancer.kernel.writes_left = None;
    balancer
        .placement
        .take_over(SERVICE, NOW, &mut balancer.kernel)
        .expect("it lives");
    assert!(!balancer.placement.is_followed(SERVICE));
    assert_eq!(
        balancer.placement.following().owned_since.get(&SERVICE),
        Some(&NOW)
    );
    assert_eq!(share_out(&mut balancer), 0);
    let swept = balancer.finish(&departing, NOW + IDLE + 1);
    assert_eq!(
        (swept.settled, swept.proved.len()),
        (0, 0),
        "that pass began too early"
    );
    let swept = balancer.pass(NOW + IDLE);
    assert_eq!((swept.settled, swept.proved), (0, BTreeSet::from([SERVICE])));
    assert!(share_out(&mut balancer) > 0);
    assert!(balancer.pass(NOW + IDLE).proved.is_empty(), "once");
    assert!(balancer.slots().iter().any(|slot| slot.tracked));
    balancer.pass(NOW + IDLE + 1);
    assert!(balancer.slots().iter().all(|slot| !slot.tracked));
}

/// The pass may have been past where it is now.
#[test]
fn a_slot_to_which_a_record_has_come_during_a_pass_does_not_settle_by_it() {
    let mut balancer = Balancer::new([Some(1), Some(1), None, None]);
    balancer.move_all();
    let first = balancer
        .placement
        .services()
        .next()
        .expect("the service")
        .first_slot;
    let departing = balancer.placement.begin_pass(&balancer.kernel).expect("it lives");
    balancer.placement.record_added(first);
    balancer.finish(&departing, NOW + IDLE + 1);
    let tracked: Vec<bool> = balancer.slots().iter().map(|slot| slot.tracked).collect();
    assert_eq!(tracked.iter().filter(|is| **is).count(), 1);
    assert!(tracked[0]);
    balancer.pass(NOW + IDLE + 1);
    assert!(balancer.slots().iter().all(|slot| !slot.tracked));
}

#[test]
fn a_backend_that_only_the_owner_has_is_leaving_and_its_id_is_free_when_nothing_names_it() {
    let mut balancer = Balancer::new([Some(1), None, None, None]);
    balancer.placement.follow(SERVICE);
    let TargetOfPeer::Introduced(foreign) = balancer.peers("foreign") else {
        panic!("it is new");
    };
    assert!(balancer.kernel.tables.targets[usize::from(foreign.id)].drains());
    assert_eq!(balancer.peers("foreign"), TargetOfPeer::Known(foreign.id));
    let leaving: Vec<u16> = balancer.placement.leaving(SERVICE).map(|(id, _)| id).collect();
    assert_eq!(leaving, [foreign.id]);
    // It is named as long as a slot does, by a pass that began before it was, and for one more after that.
    balancer.store(Slot::untracked(foreign.id));
    assert_eq!(balancer.pass(NOW).forgotten, []);
    balancer.store(Slot::untracked(balancer.plan.targets[0].id));
    assert_eq!(
        balancer.pass(NOW).forgotten,
        [],
        "packets may have read the slot a moment ago"
    );
    let departing = balancer.placement.begin_pass(&balancer.kernel).expect("it lives");
    assert_eq!(balancer.peers("foreign").id(), Some(foreign.id));
    assert_eq!(
        balancer.finish(&departing, NOW).forgotten,
        [],
        "it was named meanwhile"
    );
    assert_eq!(balancer.pass(NOW).forgotten, [(foreign.id, foreign.name)]);
    assert_eq!(balancer.placement.leaving(SERVICE).count(), 0);
    // Another one may have it.
    assert_eq!(balancer.peers("stranger").id(), Some(foreign.id));
}

#[test]
fn there_may_be_no_room_for_the_owners_backends() {
    let mut balancer = Balancer::new([Some(1), None, None, None]);
    balancer.placement.follow(SERVICE);
    for number in 1..MAX_BACKENDS {
        assert!(balancer.peers(&format!("foreign{number}")).id().is_some());
    }
    assert_eq!(balancer.peers("last"), TargetOfPeer::NoRoom);
    let address = IpAddr::from([192, 0, 2, 1]);
    let of_another = TargetName::new(SERVICE + 1, "b0", address, 1).expect("a name");
    let mut balancer = Balancer::new([Some(1), None, None, None]);
    let target = balancer
        .placement
        .target_of_peer(of_another, Forwarding::Dsr, &mut balancer.kernel);
    assert_eq!(
        target.expect("it lives"),
        TargetOfPeer::NoRoom,
        "there is no such service"
    );
    let key = ServiceKey::tcp(IpAddr::from([192, 0, 2, 10]).into(), 21_000);
    assert!(balancer.placement.service(&key).is_some());
}
