//! Single courses of events, told from begin to end. They also guard the world: if nothing ever moved, settled or went, its
//! properties would hold for the wrong reason.

use super::*;

#[test]
fn a_drained_backend_lives_as_long_as_its_connections_and_its_id_is_free_afterwards() {
    let mut world = World::new(ConfigDuration::from_millis(100_000));
    for port in 0..PORTS {
        world.open((0, port), 100, Lost::Nowhere);
        world.send((0, port), 10, Lost::Nowhere).expect("to its home");
    }
    let leaving = *world
        .connections
        .values()
        .find(|connection| connection.home.unwrap().name() == Some("b1"))
        .unwrap()
        .home
        .as_ref()
        .unwrap();
    let only_b0 = configuration(&[[Some(1), None, None, None], [None; 4], [None; 4]]).unwrap();
    world.configure(only_b0).unwrap();
    let tracked = |world: &World| {
        (0..SLOTS)
            .filter(|&index| world.kernel.load(index).tracked)
            .count()
    };
    assert!(tracked(&world) > 0);
    for _ in 0..10 {
        world.wait(FLOW_IDLE_TIMEOUT / 2);
        for port in 0..PORTS {
            world.send((0, port), 10, Lost::Nowhere).expect("to its home");
        }
        world.sweep(BTreeSet::new());
        check(&world).unwrap();
    }
    assert_eq!(world.connections.len(), usize::from(PORTS));
    assert!(
        world.placement.targets().any(|(_, name)| *name == leaving),
        "its connections live"
    );
    world
        .connections
        .retain(|_, connection| connection.home != Some(leaving));
    world.wait(FLOW_IDLE_TIMEOUT - 1);
    for port in 0..PORTS {
        world.send((0, port), 10, Lost::Nowhere).expect("to its home");
    }
    world.wait(2);
    world.sweep(BTreeSet::new());
    assert_eq!(tracked(&world), 0, "all slots have settled");
    world.sweep(BTreeSet::new());
    assert!(
        world.placement.targets().all(|(_, name)| *name != leaving),
        "its id is free"
    );
    check(&world).unwrap();
}

#[test]
fn a_client_keeps_its_backend_while_slots_move_until_it_is_drained_or_the_timeout_has_passed() {
    // Guards the simulation: the clients' homes must be others than where their slots lead.
    const TIMEOUT: u32 = 94;
    let configure = |world: &mut World, b0, b1| {
        let weights = [
            [Some(1), None, None, None],
            [None; 4],
            [Some(b0), Some(b1), None, None],
        ];
        world.perform(&Step::Configure(weights)).unwrap();
    };
    let connect = |world: &mut World, port: u16| {
        world.open((AFFINE, port), 100, Lost::Nowhere);
        world.send((AFFINE, port), 10, Lost::Nowhere).unwrap();
        let home = world.connections[&(AFFINE, port)].home.unwrap();
        world.close((AFFINE, port), Lost::Nowhere).unwrap();
        home.name().unwrap().to_owned()
    };
    let mut moved = 0;
    for client in 0..3 {
        let mut world = World::new(ConfigDuration::from_millis(100_000));
        configure(&mut world, 1, 0);
        assert_eq!(connect(&mut world, client), "b0");
        // Nearly all slots go to b1, and nobody was noted before.
        configure(&mut world, 1, 1000);
        let slot = |world: &World| world.kernel.load(world.key((AFFINE, client)).unwrap().1);
        if !slot(&world).tracked {
            continue;
        }
        moved += 1;
        for _ in 0..10 {
            world.sweep(BTreeSet::new());
            world.restart();
            assert_eq!(connect(&mut world, client), "b0");
        }
        assert!(
            slot(&world).tracked && slot(&world).grace == 0,
            "the grace period is over"
        );
        world.wait(TIMEOUT + 1);
        assert_eq!(connect(&mut world, client), "b1", "the timeout has passed");
        configure(&mut world, 1000, 1);
        assert_eq!(connect(&mut world, client), "b1", "it is at home there now");
        configure(&mut world, 1, 0);
        assert_eq!(connect(&mut world, client), "b0", "b1 is drained");
        configure(&mut world, 1, 1000);
        assert_eq!(connect(&mut world, client), "b0", "where it has been since");
        world.wait(FLOW_IDLE_TIMEOUT + 1);
        world.sweep(BTreeSet::new());
        assert!(!slot(&world).tracked, "nobody holds the slot any more");
    }
    assert!(moved > 0);
}

#[test]
fn a_slot_does_not_settle_while_a_client_is_at_home_elsewhere() {
    // Where the timeout is longer than those of records, affinity alone holds the slot.
    const TIMEOUT: u32 = 373;
    let mut world = World::new(ConfigDuration::from_millis(400_000));
    let configure = |world: &mut World, b1| {
        let weights = [
            [Some(1), None, None, None],
            [None; 4],
            [Some(1), Some(b1), None, None],
        ];
        world.perform(&Step::Configure(weights)).unwrap();
    };
    configure(&mut world, 0);
    let client = |world: &mut World, port| {
        world.open((AFFINE, port), 100, Lost::Nowhere);
        world.send((AFFINE, port), 10, Lost::Nowhere).unwrap();
        let home = world.connections.remove(&(AFFINE, port)).unwrap().home.unwrap();
        assert_eq!(home.name(), Some("b0"));
    };
    let slot = |world: &World, port| world.kernel.load(world.key((AFFINE, port)).unwrap().1);
    for port in 0..3 {
        client(&mut world, port);
    }
    configure(&mut world, 1000);
    let port = (0..3)
        .find(|&port| slot(&world, port).tracked)
        .expect("one of them moves");
    world.wait(FLOW_IDLE_TIMEOUT + 1);
    world.sweep(BTreeSet::new());
    assert_ne!(slot(&world, port).grace, 0);
    for _ in 0..3 {
        client(&mut world, port);
        world.wait(FLOW_IDLE_TIMEOUT + 1);
        world.sweep(BTreeSet::new());
        assert!(slot(&world, port).tracked, "it is at home on b0");
    }
    assert_eq!(slot(&world, port).grace, 0);
    world.wait(TIMEOUT - FLOW_IDLE_TIMEOUT);
    world.sweep(BTreeSet::new());
    assert!(!slot(&world, port).tracked);
}

#[test]
fn a_target_takes_new_flows_if_the_configuration_and_its_health_say_so() {
    let mut world = World::new(ConfigDuration::from_millis(100_000));
    let closed = configuration(&[[Some(0), Some(1), None, None], [None; 4], [None; 4]]).expect("a service");
    let takes = |world: &World| {
        let (first, _) = world.placement.targets().next().expect("a target");
        assert_ne!(
            world.placement.without_new_flows().any(|id| id == first),
            world.kernel.tables.targets[usize::from(first)].takes_new_flows()
        );
        world.kernel.tables.targets[usize::from(first)].takes_new_flows()
    };
    let open = world.config.clone();
    for (config, is_avoided, expected) in [
        (&open, false, true),
        (&open, true, false),
        (&closed, true, false),
        (&closed, false, false),
        (&open, false, true),
    ] {
        world.configure(config.clone()).expect("room");
        world.avoid(0, 0, is_avoided);
        assert_eq!(takes(&world), expected);
        // Another configuration is no reason to forget the health of anybody.
        world.configure(config.clone()).expect("room");
        assert_eq!(takes(&world), expected);
    }
    world.avoid(0, 0, true);
    world.configure(closed).expect("room");
    world.configure(open).expect("room");
    assert!(!takes(&world), "its health has not changed");
    world.restart();
    assert!(!takes(&world), "another controller knows of no change either");
    world.avoid(0, 0, false);
    assert!(takes(&world));
    world.restart();
    assert!(takes(&world));
}

#[test]
fn a_target_that_is_checked_takes_no_new_flows_before_its_health_says_so() {
    let mut world = World::new(ConfigDuration::from_millis(100_000));
    let mut config =
        configuration(&[[Some(1), Some(1), Some(1), None], [None; 4], [None; 4]]).expect("a service");
    config.services[0].check.kind = CheckKind::Tcp;
    world.configure(config).expect("room");
    let takes: Vec<bool> = world
        .placement
        .targets()
        .map(|(id, _)| world.kernel.tables.targets[usize::from(id)].takes_new_flows())
        .collect();
    assert_eq!(takes, [true, true, false], "the last one is new");
    let new = world.placement.without_new_flows().next().expect("the new one");
    world.avoid(0, 2, false);
    assert!(world.kernel.tables.targets[usize::from(new)].takes_new_flows());
    assert_eq!(world.placement.without_new_flows().count(), 0);
}
