//! What holds whatever happens.

use super::*;

/// Invariants that hold between any two steps.
pub(super) fn check(world: &World) -> Result<(), TestCaseError> {
    let kernel = &world.kernel;
    let name = |id: u16| kernel.names[usize::from(id)];
    for service in kernel.services() {
        for index in service.slot_indices() {
            let slot = kernel.load(index);
            prop_assert!(slot.tracked || slot.settled == slot.current);
            // Of a slot that is or was of a service that places each connection, all of which have a record.
            let nobody_unrecorded = slot.tracked && slot.settled == NO_TARGET;
            let settled = Some(slot.settled).filter(|_| !nobody_unrecorded);
            for id in settled.into_iter().chain([slot.current]) {
                prop_assert_ne!(id, NO_TARGET);
                prop_assert_eq!(name(id).service(), service.id);
                prop_assert!(name(id).name().is_some(), "slot {} names nobody", index);
            }
        }
        let established = kernel
            .tables
            .flows
            .iter()
            .map(|(key, record)| (key, record.target));
        let half_open = kernel
            .tables
            .half_open
            .iter()
            .map(|(key, record)| (key, record.target));
        for (key, target) in established
            .chain(half_open)
            .filter(|(key, _)| key.service() == service.id)
        {
            prop_assert_eq!(name(target).service(), service.id);
            prop_assert!(name(target).name().is_some(), "a record names nobody");
            let port = key.client_port() & service.port_mask;
            let hash = lb_common::hash::flow(service.hash_seed, key.client(), port);
            let slot = kernel.load(service.first_slot + lb_common::hash::slot(hash, service.slots));
            prop_assert!(
                slot.tracked || slot.settled == target || world.placement.stands_still(service.id),
                "an untracked slot has a record elsewhere"
            );
        }
    }
    let mut live = BTreeMap::<u16, u32>::new();
    for record in kernel.tables.flows.values().filter(|record| record.closing == 0) {
        *live.entry(record.target).or_default() += 1;
    }
    for id in 0..=u16::try_from(MAX_BACKENDS).unwrap() {
        let counted = kernel.tables.live(id).connections();
        prop_assert_eq!(
            counted,
            live.get(&id).copied().unwrap_or_default(),
            "target {}",
            id
        );
    }
    for (&client, connection) in &world.connections {
        let (Some(home), true, Some((key, index))) =
            (connection.home, connection.established, world.key(client))
        else {
            continue;
        };
        let slot = kernel.load(index);
        match kernel.tables.flow(&key) {
            Some(record) if slot.tracked => prop_assert_eq!(home, name(record.target)),
            _ => prop_assert_eq!(home, name(slot.settled), "{:?} lives without a record", client),
        }
    }
    Ok(())
}

/// Invariant 5: what a slot gives to new connections follows from the configuration alone, and so does who gets none.
pub(super) fn check_currents(world: &World) -> Result<(), TestCaseError> {
    let fresh = Placement::empty(&world.config.datapath)
        .plan(&world.config, &Shares::configured(&world.config))
        .expect("room in empty tables");
    let names: BTreeMap<u16, TargetName> = fresh
        .targets
        .iter()
        .map(|target| (target.id, target.name))
        .collect();
    let ours = world
        .placement
        .plan(&world.config, &Shares::configured(&world.config))
        .expect("it is in use");
    for (id, name) in world.placement.targets() {
        let takes_new_flows = ours
            .targets
            .iter()
            .any(|target| target.id == id && !target.drains);
        let target = world.kernel.tables.targets[usize::from(id)];
        prop_assert_eq!(target.takes_new_flows(), takes_new_flows, "{:?}", name);
    }
    for service in &fresh.services {
        let Some(entry) = world.kernel.tables.services.get(&service.key) else {
            return Err(TestCaseError::fail("a service is missing"));
        };
        prop_assert_eq!(entry.candidates, service.entry.candidates);
        if world.placement.stands_still(entry.id) {
            continue;
        }
        for (index, target) in (entry.first_slot..).zip(&service.slots) {
            prop_assert!(entry.candidates == 0 || world.kernel.load(index).tracked);
            let found = world.kernel.names[usize::from(world.kernel.load(index).current)];
            prop_assert_eq!(found.name(), names[target].name());
        }
    }
    Ok(())
}
