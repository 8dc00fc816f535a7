//! The kernel's tables in memory, written by the controller as the real ones are.

use lb_common::{
    decision::Tables as _,
    layout::{ALLOWED_ROOM, AllowedKey, Node, Service, ServiceKey, Slot, Target, TargetName},
    slot_rule::Records as _,
    testing::{HostTables, frame::BALANCER_MAC, tables::resolved_target},
};

use super::{MAX_BACKENDS, MAX_SERVICES, ROOM, SLOTS};
use crate::core::{
    placement::{Found, WriteTables},
    plan::PlannedTarget,
};

/// The kernel, as far as the controller sees it.
pub(in crate::core::placement) struct Kernel {
    pub(in crate::core::placement) tables: HostTables,
    pub(in crate::core::placement) names: Vec<TargetName>,
    /// After how many more writes the controller is killed.
    pub(in crate::core::placement) writes_left: Option<u32>,
}

#[derive(Debug)]
pub(in crate::core::placement) struct Killed;

impl Kernel {
    pub(in crate::core::placement) fn new() -> Self {
        let mut tables = HostTables::default();
        tables.slots = vec![0; (SLOTS * MAX_SERVICES) as usize];
        tables.targets = vec![Target::default(); MAX_BACKENDS as usize + 1];
        tables.node = Some(Node::new([BALANCER_MAC], false));
        tables.room = Some(ROOM.into());
        Self {
            tables,
            names: vec![TargetName::NOBODY; MAX_BACKENDS as usize + 1],
            writes_left: None,
        }
    }

    fn write(&mut self) -> Result<(), Killed> {
        match &mut self.writes_left {
            Some(0) => Err(Killed),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(in crate::core::placement) fn found(&self) -> Found {
        let names = (0..).zip(&self.names).filter(|(_, name)| name.name().is_some());
        Found {
            services: self
                .tables
                .services
                .iter()
                .map(|(key, service)| (*key, *service))
                .collect(),
            allowed: self.tables.allowed.iter().copied().collect(),
            names: names.map(|(id, name)| (id, *name)).collect(),
        }
    }

    pub(in crate::core::placement) fn services(&self) -> impl Iterator<Item = &Service> {
        self.tables
            .services
            .iter()
            .filter(|(key, _)| key.is_service())
            .map(|(_, service)| service)
    }

    pub(in crate::core::placement) fn load(&self, index: u32) -> Slot {
        Slot::from_bits(self.tables.slots[index as usize])
    }

    /// Whether a backend gets new connections.
    pub(super) fn takes_new_flows(&self, name: &TargetName) -> bool {
        (0..)
            .zip(&self.names)
            .any(|(id, other)| other == name && self.tables.takes_new_flows(id))
    }

    /// Invariant 4: whether a slot or a record names a target.
    fn names_target(&self, id: u16) -> bool {
        let slots = self.services().any(|service| {
            service.slot_indices().any(|index| {
                let slot = self.load(index);
                slot.settled == id || slot.current == id
            })
        });
        slots
            || self.tables.flows.values().any(|record| record.target == id)
            || self.tables.half_open.values().any(|record| record.target == id)
            || self.tables.affinity.values().any(|noted| noted.target == id)
    }
}

impl WriteTables for Kernel {
    type Error = Killed;

    fn slot(&self, index: u32) -> Result<Slot, Killed> {
        Ok(self.load(index))
    }

    fn store_slot(&mut self, index: u32, slot: Slot) -> Result<(), Killed> {
        self.write()?;
        self.tables.slots[index as usize] = slot.to_bits();
        Ok(())
    }

    fn replace_slot(&mut self, index: u32, expected: Slot, slot: Slot) -> Result<bool, Killed> {
        assert_eq!(self.load(index), expected);
        self.store_slot(index, slot).map(|()| true)
    }

    fn write_service(&mut self, key: ServiceKey, service: Service) -> Result<(), Killed> {
        self.write()?;
        self.tables.services.insert(key, service);
        Ok(())
    }

    fn remove_service(&mut self, key: ServiceKey) -> Result<(), Killed> {
        self.write()?;
        self.tables.services.remove(&key);
        Ok(())
    }

    fn allow(&mut self, prefix: &AllowedKey) -> Result<(), Killed> {
        self.write()?;
        self.tables.allowed.insert(*prefix);
        assert!(self.tables.allowed.len() <= ALLOWED_ROOM as usize);
        Ok(())
    }

    fn disallow(&mut self, prefix: &AllowedKey) -> Result<(), Killed> {
        self.write()?;
        self.tables.allowed.remove(prefix);
        Ok(())
    }

    fn introduce_target(&mut self, target: &PlannedTarget) -> Result<(), Killed> {
        self.write()?;
        let id = target.id;
        assert!(!self.names_target(id), "target id {id} is used while it is named");
        assert_eq!(self.tables.live(id).connections(), 0, "target {id}");
        self.tables.live.remove(&id);
        self.tables.targets[usize::from(id)] = resolved_target().shedding(target.is_checked);
        self.names[usize::from(id)] = target.name;
        Ok(())
    }

    fn drain(&mut self, id: u16, drains: bool) -> Result<(), Killed> {
        self.write()?;
        let target = &mut self.tables.targets[usize::from(id)];
        *target = target.draining(drains);
        Ok(())
    }

    fn weigh(&mut self, id: u16, weight: u32) -> Result<(), Killed> {
        self.write()?;
        let target = &mut self.tables.targets[usize::from(id)];
        *target = target.weighing(weight);
        Ok(())
    }

    fn shed(&mut self, id: u16, sheds: bool) -> Result<(), Killed> {
        self.write()?;
        let target = &mut self.tables.targets[usize::from(id)];
        *target = target.shedding(sheds);
        Ok(())
    }

    fn forget_target(&mut self, id: u16) -> Result<(), Killed> {
        self.write()?;
        assert!(
            !self.names_target(id),
            "target id {id} is forgotten while it is named"
        );
        self.tables.targets[usize::from(id)] = Target::default();
        self.names[usize::from(id)] = TargetName::NOBODY;
        Ok(())
    }
}
