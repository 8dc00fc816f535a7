//! Services whose weights follow the load.

use super::*;

/// What there is after a long time with these loads.
fn after_an_hour_of(world: &mut World, loads: &[Option<u64>]) -> Vec<u32> {
    world.loads = loads.to_vec();
    world.pass(Duration::from_hours(1));
    world.weights()
}

#[test]
fn weights_follow_the_load() {
    let mut world = World::up(BY_LOAD, &[0, 0, 0, 1]);
    assert_eq!(world.weights(), [1000, 1000, 1000, 0]);
    let equal = [Some(30), Some(30), Some(30), Some(9999)];
    assert_eq!(after_an_hour_of(&mut world, &equal), [1000, 1000, 1000, 0]);
    assert_eq!(world.notices, []);
    let weights = after_an_hour_of(&mut world, &[Some(300), Some(5), Some(30), None]);
    assert!(
        weights[0] < 600 && weights[1] == 2000 && weights[3] == 0,
        "{weights:?}"
    );
    let told = world.notices.iter().rev().find_map(|notice| match notice {
        Notice::Load {
            name, thousandths, ..
        } if name == "b1" => Some(*thousandths),
        _ => None,
    });
    assert_eq!(told, Some(2000), "{:?}", world.notices);
    let loaded = world.serving.loaded(&world.serving.backends()[0], world.now);
    let loaded = loaded.expect("weights follow the load");
    assert_eq!((loaded.load, loaded.level.thousandths()), (Some(300), weights[0]));
    assert_eq!(after_an_hour_of(&mut world, &equal), [1000, 1000, 1000, 0]);
}

#[test]
fn who_does_not_tell_its_load_has_its_configured_weight() {
    let mut world = World::up(BY_LOAD, &[0, 0, 0]);
    let weights = after_an_hour_of(&mut world, &[Some(300), Some(30), Some(30)]);
    assert!(weights[0] < 600, "{weights:?}");
    let weights = after_an_hour_of(&mut world, &[None, Some(30), Some(30)]);
    assert_eq!(weights, [1000, 1000, 1000]);
    let unknown = world.serving.loaded(&world.serving.backends()[0], world.now);
    assert_eq!(unknown.map(|loaded| loaded.load), Some(None));
}

#[test]
fn load_slow_start_and_tiers_go_together() {
    let mut world = World::up(&format!("{BY_LOAD}\nslow_start = \"90s\""), &[0, 0, 1]);
    let weights = after_an_hour_of(&mut world, &[Some(300), Some(30), Some(30)]);
    assert!(weights[0] < 8000 && weights[1] > 10_000, "{weights:?}");
    world.truth[0] = REFUSED;
    world.pass(A_WHILE);
    assert_eq!(world.weights()[0], 0);
    world.truth[0] = Healthy;
    world.pass(Duration::from_secs(5));
    assert_eq!(
        world.weights()[0],
        weights[0] / 10,
        "the first tenth of what it had by its load"
    );
    world.truth[..2].fill(REFUSED);
    world.pass(A_WHILE);
    assert_eq!(world.weights()[..2], [0, 0]);
    assert!(world.weights()[2] > 0);
}

#[test]
fn a_reload_and_a_restart_keep_the_levels() {
    let mut world = World::up(BY_LOAD, &[0, 0, 0]);
    let weights = after_an_hour_of(&mut world, &[Some(300), Some(30), Some(30)]);
    let of = |serving: &mut Serving| -> Vec<u32> {
        let parts = serving.decide(world.now).backends;
        parts.iter().map(|part| part.weight).collect()
    };
    let mut followed = world.serving.follow(&service(BY_LOAD, &[0, 0, 0]), world.now);
    assert_eq!(of(&mut followed), weights);
    let mut by_hash = followed.follow(&service("", &[0, 0, 0]), world.now);
    assert_eq!(of(&mut by_hash), [1, 1, 1]);

    let service = service(BY_LOAD, &[0, 0, 0]);
    let mut restarted = Serving::new(&service, |_| Start::Warm(Health::Up), world.now);
    let total: u32 = weights.iter().sum();
    restarted.adopt_slots(|backend| {
        let index = usize::from(backend.name().as_bytes()[1] - b'0');
        65_537 * weights[index] / total
    });
    assert_eq!(of(&mut restarted), weights);
}
