//! The writes that bring the tables from one state to the next, in an order in which none of them does harm.

use std::collections::BTreeSet;

use lb_common::{
    layout::{AllowedKey, NO_TARGET, Service, ServiceKey, Slot, TargetName, flag},
    least_connections::places_each,
};

use super::{Placement, allowing, foreseen::becomes_tracked};
use crate::core::{
    census::Census,
    plan::{Plan, PlannedService, PlannedTarget},
    slot_moves::{self, Unrecorded},
};

/// The kernel's tables, as the controller changes them. Each method leaves them in order, whether or not another follows.
pub trait WriteTables {
    /// Why the tables could not be accessed.
    type Error;

    /// Reads a slot.
    fn slot(&self, index: u32) -> Result<Slot, Self::Error>;
    /// Writes a slot, atomically.
    fn store_slot(&mut self, index: u32, slot: Slot) -> Result<(), Self::Error>;
    /// Writes a slot if it holds `expected`, atomically. Returns whether it did.
    fn replace_slot(&mut self, index: u32, expected: Slot, slot: Slot) -> Result<bool, Self::Error>;
    /// Writes an entry of the service table.
    fn write_service(&mut self, key: ServiceKey, service: Service) -> Result<(), Self::Error>;
    /// Removes an entry of the service table, if it is there.
    fn remove_service(&mut self, key: ServiceKey) -> Result<(), Self::Error>;
    /// Allows the use of a restricted service from a prefix.
    fn allow(&mut self, prefix: &AllowedKey) -> Result<(), Self::Error>;
    /// No longer allows it from a prefix, if it did.
    fn disallow(&mut self, prefix: &AllowedKey) -> Result<(), Self::Error>;
    /// Begins to use a target id: its counters are zero, it has no live connections, its next hop is unknown, it sheds if it is
    /// checked, and from then on it stands for somebody.
    fn introduce_target(&mut self, target: &PlannedTarget) -> Result<(), Self::Error>;
    /// Stops new flows to a target, except those that have begun, or lets them in again. Whether it sheds stays as it is.
    fn drain(&mut self, id: u16, drains: bool) -> Result<(), Self::Error>;
    /// Stops new flows to a target because of its health, or lets them in again. Whether it drains stays as it is.
    fn shed(&mut self, id: u16, sheds: bool) -> Result<(), Self::Error>;
    /// Gives a target a share of the connections that are placed by live ones.
    fn weigh(&mut self, id: u16, weight: u32) -> Result<(), Self::Error>;
    /// Ends to use a target id: no packet can be sent to it, and it stands for nobody.
    fn forget_target(&mut self, id: u16) -> Result<(), Self::Error>;
}

/// What became of the slots when a configuration was applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// How many slots give their new connections to another target now. Those of new services are not among them.
    pub moved: u64,
    /// How many slots were not tracked and are now.
    pub tracked: u64,
    /// How many slots there were to move.
    pub slots: u64,
}

impl Moved {
    /// Counts a slot, and what is stored into it, if anything.
    pub(super) fn count(&mut self, before: Slot, after: Option<Slot>) {
        self.slots += 1;
        if let Some(after) = after {
            self.moved += u64::from(before.current != after.current);
            self.tracked += u64::from(becomes_tracked(before, after));
        }
    }
}

/// What a pass over the records has led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// How many slots have settled.
    pub settled: u32,
    /// Targets whose ids are free again.
    pub forgotten: Vec<(u16, TargetName)>,
    /// Services that we have [taken over](Placement::take_over) and whose slots may move from now on: they are to be shared out.
    pub proved: BTreeSet<u16>,
}

/// Ids that can be free after a pass over the records: nothing but records can still name them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Departing {
    targets: BTreeSet<u16>,
    services: BTreeSet<u16>,
    /// Services that had been taken over before the pass.
    unproved: BTreeSet<u16>,
}

impl Placement {
    /// Gives ids to targets that are new in a plan, so that their next hops can be looked for. Nothing names them yet.
    pub fn introduce<T: WriteTables>(&mut self, plan: &Plan, tables: &mut T) -> Result<(), T::Error> {
        for target in &plan.targets {
            if self.targets.get(&target.id) != Some(&target.name) {
                self.introduce_target(target, tables)?;
            }
        }
        Ok(())
    }

    pub(super) fn introduce_target<T: WriteTables>(
        &mut self,
        target: &PlannedTarget,
        tables: &mut T,
    ) -> Result<(), T::Error> {
        tables.introduce_target(target)?;
        self.targets.insert(target.id, target.name);
        if target.is_checked {
            self.avoided.insert(target.id);
        }
        Ok(())
    }

    /// Makes the tables what a plan says. Its targets must have been [introduced](Self::introduce).
    ///
    /// Slots go first: a new service is visible to packets only once its slots are there. A removed one loses its slots only
    /// when packets do not find it any more. Those of a service that we [follow](Self::follow) stay as they are.
    pub fn apply<T: WriteTables>(
        &mut self,
        plan: &Plan,
        now: u32,
        tables: &mut T,
    ) -> Result<Moved, T::Error> {
        // Until all is written, whoever applies it goes on with what was configured before: nobody of that is leaving yet.
        let configured: BTreeSet<u16> = plan.targets.iter().map(|target| target.id).collect();
        self.configured.extend(&configured);
        let mut moved = Moved::default();
        self.drain(plan, tables)?;
        let allowed = allowing::of(plan);
        self.allow(&allowed, tables)?;
        for service in &plan.services {
            if self.services.contains_key(&service.key) {
                self.move_slots(service, now, tables, &mut moved)?;
            } else {
                // Of a service that had its id, and of whose removal an earlier run did not see the end.
                let id = service.entry.id;
                self.disallow(
                    |prefix| prefix.service() == id && !allowed.contains(prefix),
                    tables,
                )?;
                for (index, &target) in (service.entry.first_slot..).zip(&service.slots) {
                    let slot = slot_moves::following(Slot::default(), target, now, &service.entry);
                    tables.store_slot(index, slot.unwrap_or_default())?;
                }
                Self::weigh(service, tables)?;
            }
            let vip = Service {
                slots: 0,
                ..service.entry
            };
            tables.write_service(service.vip_key, vip)?;
            self.vips.insert(service.vip_key);
            tables.write_service(service.key, service.entry)?;
            self.services.insert(service.key, service.entry);
        }
        self.remove_services(plan, tables)?;
        self.disallow(|prefix| !allowed.contains(prefix), tables)?;
        self.configured = configured;
        Ok(moved)
    }

    /// Stops new flows to targets that get no slots: those that are leaving, and those with the weight 0. First of all, so that
    /// clients which are at home there are so no longer when the slots move.
    fn drain<T: WriteTables>(&mut self, plan: &Plan, tables: &mut T) -> Result<(), T::Error> {
        let open: BTreeSet<u16> = plan
            .targets
            .iter()
            .filter(|target| !target.drains)
            .map(|target| target.id)
            .collect();
        let ids = self.targets.keys().copied();
        self.draining = ids.filter(|id| !open.contains(id)).collect();
        for &id in self.targets.keys() {
            tables.drain(id, self.drains(id))?;
        }
        Ok(())
    }

    pub(super) fn drains(&self, id: u16) -> bool {
        self.draining.contains(&id) || self.withdrawn.contains(&id)
    }

    /// Takes in whether a target is drained, by an operator or by its weight. Counts for more than the weight in the configuration, which
    /// an operator may have replaced.
    pub fn withdraw<T: WriteTables>(
        &mut self,
        id: u16,
        is_withdrawn: bool,
        tables: &mut T,
    ) -> Result<(), T::Error> {
        if !self.targets.contains_key(&id) {
            return Ok(());
        }
        if is_withdrawn {
            self.withdrawn.insert(id);
        } else {
            self.withdrawn.remove(&id);
            if self.configured.contains(&id) {
                self.draining.remove(&id);
            }
        }
        tables.drain(id, self.drains(id))
    }

    /// Takes in which targets were drained by an earlier run. They stay so until somebody [says](Self::withdraw) whether they are.
    pub fn go_on_withdrawing(&mut self, targets: impl IntoIterator<Item = u16>) {
        self.withdrawn.extend(targets);
    }

    /// Takes in whether the health of a target lets no new flows to it.
    pub fn avoid<T: WriteTables>(
        &mut self,
        id: u16,
        is_avoided: bool,
        tables: &mut T,
    ) -> Result<(), T::Error> {
        if !self.targets.contains_key(&id) {
            return Ok(());
        }
        if is_avoided {
            self.avoided.insert(id);
        } else {
            self.avoided.remove(&id);
        }
        tables.shed(id, is_avoided)
    }

    /// Takes in which targets got no new flows from an earlier run. They get none until their health [says](Self::avoid) that they
    /// may.
    pub fn go_on_avoiding(&mut self, targets: impl IntoIterator<Item = u16>) {
        self.avoided.extend(targets);
    }

    fn remove_services<T: WriteTables>(&mut self, plan: &Plan, tables: &mut T) -> Result<(), T::Error> {
        let keys: BTreeSet<ServiceKey> = plan.services.iter().map(|service| service.key).collect();
        let vips: BTreeSet<ServiceKey> = plan.services.iter().map(|service| service.vip_key).collect();
        for vip in self.vips.difference(&vips) {
            tables.remove_service(*vip)?;
        }
        self.vips = vips;
        let removed = self.services.iter().filter(|(key, _)| !keys.contains(key));
        for (key, entry) in removed.map(|(key, entry)| (*key, *entry)).collect::<Vec<_>>() {
            tables.remove_service(key)?;
            self.services.remove(&key);
            self.followed.remove(&entry.id);
            self.owned_since.remove(&entry.id);
            self.unproved.remove(&entry.id);
            self.leaving_services.insert(entry.id);
            for index in entry.slot_indices() {
                tables.store_slot(index, Slot::untracked(NO_TARGET))?;
            }
        }
        Ok(())
    }

    /// Moves the slots of a service to where a plan has them, because other backends of it are to serve, or with other weights.
    /// Also while a pass over the records is under way: that pass settles none of the service's slots, since it may have
    /// missed a record of a slot that has moved and come back. Of a service that we [follow](Self::follow) they stay where they are.
    pub fn share_out<T: WriteTables>(
        &mut self,
        service: &PlannedService,
        now: u32,
        tables: &mut T,
    ) -> Result<Moved, T::Error> {
        let mut moved = Moved::default();
        if self.services.contains_key(&service.key) {
            self.move_slots(service, now, tables, &mut moved)?;
        }
        Ok(moved)
    }

    fn move_slots<T: WriteTables>(
        &mut self,
        service: &PlannedService,
        now: u32,
        tables: &mut T,
        moved: &mut Moved,
    ) -> Result<(), T::Error> {
        Self::weigh(service, tables)?;
        if self.stands_still(service.entry.id) {
            return Ok(());
        }
        let mut is_noted = false;
        for (index, &target) in (service.entry.first_slot..).zip(&service.slots) {
            let before = tables.slot(index)?;
            let after = slot_moves::following(before, target, now, &service.entry);
            if let Some(slot) = after {
                // Before the first of them, and not for each of so many.
                if !is_noted {
                    self.moved.insert(service.entry.id);
                    is_noted = true;
                }
                tables.store_slot(index, slot)?;
            }
            moved.count(before, after);
        }
        Ok(())
    }

    /// Gives the targets of a service that places each connection their shares.
    fn weigh<T: WriteTables>(service: &PlannedService, tables: &mut T) -> Result<(), T::Error> {
        if places_each(&service.entry) {
            let taking_part = service.targets.iter().zip(&service.weights);
            for (&id, &weight) in taking_part.filter(|(_, weight)| **weight > 0) {
                tables.weigh(id, weight)?;
            }
        }
        Ok(())
    }

    /// What can be free after a pass over the records that begins now. Until it is [finished](Self::finish_pass) no
    /// configuration may be applied, though a service may be [shared out](Self::share_out).
    pub fn begin_pass<T: WriteTables>(&mut self, tables: &T) -> Result<Departing, T::Error> {
        let leaving = self.targets.keys().filter(|id| !self.configured.contains(id));
        let mut targets: BTreeSet<u16> = leaving.copied().collect();
        if !targets.is_empty() {
            // By id. There may be millions of slots, which name few targets.
            let mut named = vec![false; usize::from(u16::MAX) + 1];
            for service in self.services.values() {
                for index in service.slot_indices() {
                    let slot = tables.slot(index)?;
                    for id in [slot.settled, slot.current] {
                        named[usize::from(id)] = true;
                    }
                }
            }
            targets.retain(|id| !named[usize::from(*id)]);
        }
        self.moved.clear();
        self.added.clear();
        self.named_by_peer.clear();
        let unnamed = std::mem::replace(&mut self.unnamed, targets.clone());
        // The owner may have changed the slots of a service that we follow just now: packets that have read the old ones must be through.
        let is_followed = |id: &u16| {
            let name = self.targets.get(id);
            name.is_some_and(|name| self.is_followed(name.service()))
        };
        targets.retain(|id| !is_followed(id) || unnamed.contains(id));
        Ok(Departing {
            targets,
            services: self.leaving_services.clone(),
            unproved: self.unproved.clone(),
        })
    }

    /// Draws the conclusions from a pass over the records: settles the slots whose flows have all arrived, and frees ids
    /// that nothing names any more.
    pub fn finish_pass<T: WriteTables>(
        &mut self,
        departing: &Departing,
        census: &Census,
        tables: &mut T,
    ) -> Result<Swept, T::Error> {
        let mut swept = Swept::default();
        let (moved, followed) = (&self.moved, &self.followed);
        for service in self
            .services
            .values()
            .filter(|service| !moved.contains(&service.id) && !followed.contains(&service.id))
        {
            for slot in 0..service.slots {
                let index = service.first_slot + slot;
                let mut found = tables.slot(index)?;
                if !found.tracked || self.added.contains(&index) {
                    continue;
                }
                if let Some(over) = slot_moves::grace_over(found, census.now(), service.affinity_timeout)
                    && tables.replace_slot(index, found, over)?
                {
                    found = over;
                }
                let named = census.named_in(service.id, slot);
                let unrecorded = if census.is_reset(found.settled) {
                    Unrecorded::Reset
                } else if service.flags & flag::TRANSLATES != 0 {
                    Unrecorded::Nothing
                } else {
                    Unrecorded::Possible
                };
                let (now, idle_timeout) = (census.now(), census.idle_timeout());
                let settled = if places_each(service) {
                    slot_moves::vacated(found, now, idle_timeout, unrecorded)
                } else {
                    slot_moves::settled(found, named, now, idle_timeout, unrecorded)
                };
                // A packet that has used the settled path since then keeps the slot from settling.
                if let Some(settled) = settled
                    && tables.replace_slot(index, found, settled)?
                {
                    swept.settled += 1;
                }
            }
        }
        for &id in &departing.targets {
            if !census.names(id) && !self.named_by_peer.contains(&id) {
                tables.forget_target(id)?;
                self.draining.remove(&id);
                self.avoided.remove(&id);
                self.withdrawn.remove(&id);
                let name = self.targets.remove(&id);
                swept.forgotten.extend(name.map(|name| (id, name)));
            }
        }
        // What contradicted their slots has been deleted by this pass.
        swept.proved = self.unproved.intersection(&departing.unproved).copied().collect();
        self.unproved.retain(|id| !departing.unproved.contains(id));
        // Their records have been deleted by this pass.
        self.leaving_services
            .retain(|id| !departing.services.contains(id));
        Ok(swept)
    }
}

#[cfg(test)]
mod tests {
    use super::super::simulation::{configuration::configuration, kernel::Kernel};
    use super::*;
    use crate::core::plan::Shares;

    #[test]
    fn nobody_is_leaving_before_the_last_write_of_a_change() {
        let of = |backends| configuration(&[backends, [None; 4], [None; 4]]).expect("a service");
        let (old, new) = (
            of([Some(1), Some(1), None, None]),
            of([Some(1), None, Some(1), None]),
        );
        let plan = |placement: &Placement, config| placement.plan(config, &Shares::configured(config));
        let mut failures = 0;
        loop {
            let (mut kernel, mut placement) = (Kernel::new(), Placement::empty(&old.datapath));
            let before = plan(&placement, &old).expect("room");
            placement.introduce(&before, &mut kernel).expect("it lives");
            placement.apply(&before, 0, &mut kernel).expect("it lives");
            let after = plan(&placement, &new).expect("room");
            placement.introduce(&after, &mut kernel).expect("it lives");
            kernel.writes_left = Some(failures);
            let applied = placement.apply(&after, 1, &mut kernel);
            kernel.writes_left = None;
            let leaving: Vec<&str> = placement.leaving(0).filter_map(|(_, name)| name.name()).collect();
            if applied.is_ok() {
                assert_eq!(leaving, ["b1"]);
                break;
            }
            assert_eq!(leaving, Vec::<&str>::new(), "after {failures} writes");
            let departing = placement.begin_pass(&kernel).expect("it lives");
            assert_eq!(departing.targets, BTreeSet::new(), "after {failures} writes");
            // It is tried again.
            placement.apply(&after, 2, &mut kernel).expect("it lives");
            assert_eq!(placement.leaving(0).count(), 1);
            failures += 1;
        }
        assert!(failures > 5, "{failures}");
    }
}
