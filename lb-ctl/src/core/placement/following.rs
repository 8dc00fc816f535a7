//! Services that the other balancer owns: it says how their slots are, and we *follow*, so that we can take over at any moment.
//!
//! What our own configuration and health checks would make of such a service waits: its slots, records and notes are the owner's to
//! change. Its entry, its prefixes and the entries of its targets are ours all the same, so that they are right when we
//! [take it over](Placement::take_over).
//!
//! The owner may send connections to backends that our configuration does not name, because a reload has reached only one of the two, or
//! the owner has discovered somebody first. Such a *foreign* target gets an id here, and counts as leaving from the first moment: it
//! drains, nobody checks it, and its id is free again once nothing names it.

use lb_common::layout::{Forwarding, NO_TARGET, TargetName};

use super::{Placement, WriteTables};
use crate::core::{census::Following, plan::PlannedTarget, slot_moves};

/// Our id of a backend that the other balancer names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetOfPeer {
    /// It has one.
    Known(u16),
    /// It has got one just now. Its next hop is still to be looked for.
    Introduced(PlannedTarget),
    /// There is no room for it, or no such service.
    NoRoom,
}

impl TargetOfPeer {
    /// The id; `None` if there is none.
    pub const fn id(self) -> Option<u16> {
        match self {
            Self::Known(id) | Self::Introduced(PlannedTarget { id, .. }) => Some(id),
            Self::NoRoom => None,
        }
    }
}

impl Placement {
    /// From now on the other balancer says how a service is, which must be in the table. Also while a pass over the records is under way:
    /// it settles none of the service's slots.
    pub fn follow(&mut self, service: u16) {
        if self.services.values().any(|entry| entry.id == service) {
            self.followed.insert(service);
            self.owned_since.remove(&service);
            self.unproved.remove(&service);
        }
    }

    /// Whether the other balancer says how a service is.
    pub fn is_followed(&self, service: u16) -> bool {
        self.followed.contains(&service)
    }

    /// What a pass over the records has to know of what the other balancer has told.
    pub fn following(&self) -> Following {
        let targets = self
            .targets()
            .filter(|(_, name)| self.is_followed(name.service()));
        Following {
            services: self.followed.clone(),
            targets: targets.map(|(id, _)| id).collect(),
            owned_since: self.owned_since.clone(),
            unproved: self.unproved.clone(),
        }
    }

    /// Whether the slots of a service stay as they are, whatever is planned: the other balancer says how it is, or has said so until a
    /// moment ago.
    pub fn stands_still(&self, service: u16) -> bool {
        self.is_followed(service) || self.unproved.contains(&service)
    }

    /// Whether services that we have taken over wait for a pass over the records.
    pub fn awaits_proof(&self) -> bool {
        !self.unproved.is_empty()
    }

    /// We own a service from now on. Its slots stay as the owner has told them until a pass over the records has begun and ended, which
    /// is to be soon. [Then](super::Swept::proved) they are to be [shared out](Self::share_out), as after a restart.
    ///
    /// The owner may not have lived to tell everything: that a slot has settled, but not which records have ended. A record that we knew
    /// before may contradict an untracked slot so. As long as the slot stands still nobody looks at the record, and the pass
    /// deletes it.
    ///
    /// A slot's settled path may have been used a moment ago, where we did not see it. So it counts as used now, and the pass over the
    /// records that may be under way settles nothing. For the same reason nothing that was told is
    /// [older](Following::owned_since) than our ownership.
    pub fn take_over<T: WriteTables>(
        &mut self,
        service: u16,
        now: u32,
        tables: &mut T,
    ) -> Result<(), T::Error> {
        let Some(entry) = self.services.values().find(|entry| entry.id == service).copied() else {
            return Ok(());
        };
        self.moved.insert(service);
        self.owned_since.insert(service, now);
        self.unproved.insert(service);
        for index in entry.slot_indices() {
            let slot = tables.slot(index)?;
            if slot.tracked {
                // A packet that is the first one to come meanwhile stores the same.
                tables.store_slot(index, slot_moves::used(slot, now))?;
            }
        }
        self.followed.remove(&service);
        Ok(())
    }

    /// A record of a flow of this slot, by its place in the table, has come from elsewhere. The pass over the records that may be under way has
    /// perhaps missed it, and so does not settle the slot.
    pub fn record_added(&mut self, slot: u32) {
        self.added.insert(slot);
    }

    /// Our id of a backend that the owner of a followed service names: its own, or a free one if it is foreign. `forwarding` is how
    /// packets of its service would reach it.
    ///
    /// What is written with the id must be written before the next pass over the records [begins](Self::begin_pass), and so may not be
    /// kept for longer: the pass under way does not free it, later ones do if nothing names it.
    pub fn target_of_peer<T: WriteTables>(
        &mut self,
        name: TargetName,
        forwarding: Forwarding,
        tables: &mut T,
    ) -> Result<TargetOfPeer, T::Error> {
        let known = self.targets().find(|(_, known)| **known == name);
        if let Some(id) = known.map(|(id, _)| id) {
            self.named_by_peer.insert(id);
            return Ok(TargetOfPeer::Known(id));
        }
        let has_service = self.services().any(|entry| entry.id == name.service());
        let Some(id) = self.free_target(NO_TARGET).filter(|_| has_service) else {
            return Ok(TargetOfPeer::NoRoom);
        };
        let target = PlannedTarget {
            id,
            name,
            address: name.address(),
            forwarding,
            drains: true,
            // Nobody would ever find it well.
            is_checked: false,
        };
        self.introduce_target(&target, tables)?;
        self.draining.insert(id);
        tables.drain(id, true)?;
        self.named_by_peer.insert(id);
        Ok(TargetOfPeer::Introduced(target))
    }
}

#[cfg(test)]
mod tests;
