//! Services that are configured in another way.

use super::*;

#[test]
fn a_reload_keeps_what_is_known_of_backends_that_stay() {
    let mut world = World::up("", &[0, 0, 0]);
    world.truth[1] = REFUSED;
    world.pass(A_WHILE);
    let mut new = service("", &[0, 0, 0, 0]);
    new.backends[0].weight = 5;
    new.backends[2].address = [10, 0, 0, 77].into();
    let mut followed = world.serving.follow(&new, world.now);
    let healths: Vec<Health> = followed.backends().iter().map(ServingBackend::health).collect();
    assert_eq!(
        healths,
        [Health::Up, Health::Down, Health::Checking, Health::Checking],
        "another address is another backend"
    );
    assert_eq!(
        followed.backends()[1].since(),
        world.serving.backends()[1].since()
    );
    let weights: Vec<u32> = followed
        .decide(world.now)
        .backends
        .iter()
        .map(|part| part.weight)
        .collect();
    assert_eq!(weights, [5, 0, 0, 0]);
    assert_eq!(followed.backends()[3].start(), Start::Added);
}

#[test]
fn what_weights_there_will_be_once_those_that_are_new_are_up() {
    let world = World::up("slow_start = \"90s\"", &[0, 0]);
    let mut new = service("slow_start = \"90s\"", &[0, 0, 0]);
    new.backends[1].weight = 3;
    let mut followed = world.serving.follow(&new, world.now);
    let at_once: Vec<u32> = followed
        .decide(world.now)
        .backends
        .iter()
        .map(|part| part.weight)
        .collect();
    assert_eq!(at_once, [10, 30, 0]);
    assert_eq!(followed.weights_once_up(world.now), [10, 30, 10]);
    assert_eq!(
        followed.backends()[2].health(),
        Health::Checking,
        "it was only asked"
    );
}

#[test]
fn backends_that_have_served_unchecked_go_on_when_checks_begin() {
    let mut unchecked = service("", &[0, 0]);
    unchecked.check.kind = CheckKind::None;
    let serving = Serving::new(&unchecked, |_| Start::Cold, Duration::ZERO);
    assert!(!serving.is_checked() && !serving.waits());
    let mut checked = serving.follow(&service("", &[0, 0]), Duration::ZERO);
    let weights: Vec<u32> = checked
        .decide(Duration::ZERO)
        .backends
        .iter()
        .map(|part| part.weight)
        .collect();
    assert_eq!(weights, [1, 1]);
    assert_eq!(checked.backends()[0].start(), Start::Warm(Health::Up));
}

#[test]
fn another_name_for_a_backend_does_not_take_it_out() {
    let mut world = World::up("", &[0, 0]);
    world.truth[1] = SILENT;
    world.pass(A_WHILE);
    let mut renamed = service("", &[0, 0]);
    for backend in &mut renamed.backends {
        backend.name = format!("new-{}", backend.name);
    }
    let mut serving = world.serving.follow(&renamed, world.now);
    let weights: Vec<u32> = serving
        .decide(world.now)
        .backends
        .iter()
        .map(|it| it.weight)
        .collect();
    assert_eq!(weights, [1, 0]);
    let starts: Vec<(&str, Start)> = serving
        .backends()
        .iter()
        .map(|it| (it.name(), it.start()))
        .collect();
    assert_eq!(
        starts,
        [
            ("new-b0", Start::Warm(Health::Up)),
            ("new-b1", Start::Warm(Health::Down))
        ]
    );
}
