//! Services whose backends operators take out and bring back.

use super::*;

impl World {
    /// Takes in these words about the first backends, and decides.
    fn instruct(&mut self, words: &[Admin]) {
        let orders = orders(words);
        self.serving.instruct(orders);
        self.decide();
    }
}

fn orders(words: &[Admin]) -> impl Fn(&str) -> Orders {
    |name| {
        let index: usize = name[1..].parse().unwrap();
        Orders {
            admin: words.get(index).copied().unwrap_or_default(),
            ..Orders::default()
        }
    }
}

use Admin::{Disabled, Draining, Enabled};

#[test]
fn who_is_drained_gets_nothing_new_and_keeps_what_it_has_unless_it_dies() {
    let mut world = World::up("", &[0, 0, 0]);
    world.instruct(&[Draining]);
    let part = world.decision.backends[0];
    assert_eq!(
        (part.weight, part.sheds, part.drains, part.reset),
        (0, false, true, false),
        "handshakes that have begun there end there"
    );
    assert_eq!(world.weights(), [0, 1, 1]);
    world.truth[0] = REFUSED;
    world.pass(A_WHILE);
    assert!(
        world.decision.backends[0].reset,
        "its clients are to notice that it is dead"
    );
    world.truth[0] = Healthy;
    world.pass(A_WHILE);
    assert!(!world.decision.backends[0].reset);
    world.instruct(&[]);
    assert_eq!(world.weights(), [1, 1, 1]);
}

#[test]
fn who_is_disabled_is_given_up_whatever_the_policy() {
    let mut world = World::up("on_down = \"keep\"", &[0, 0]);
    world.instruct(&[Disabled]);
    let part = world.decision.backends[0];
    assert_eq!(
        (part.weight, part.sheds, part.drains, part.reset),
        (0, true, false, true)
    );
    world.instruct(&[Enabled]);
    assert_eq!(world.decision.backends, World::up("", &[0, 0]).decision.backends);
}

#[test]
fn who_is_taken_out_is_not_missed() {
    let mut world = World::up("", &[0, 0, 0, 0]);
    world.instruct(&[Draining, Disabled, Draining]);
    world.pass(A_WHILE);
    assert_eq!((world.weights(), world.serving.guard()), (vec![0, 0, 0, 1], None));
    // The guard is for those that fail, not for those that are taken out.
    world.truth[3] = FAILING;
    world.pass(A_WHILE);
    assert_eq!(world.weights(), [0, 0, 0, 1]);
    assert!(world.serving.guard().is_some());
    for verdict in [SILENT, REFUSED] {
        world.truth = vec![verdict; 4];
        world.pass(A_WHILE);
        assert_eq!(world.weights()[..3], [0, 0, 0], "{verdict:?}");
    }
}

#[test]
fn the_next_tier_serves_where_one_is_taken_out_whole() {
    let mut world = World::up("", &[0, 0, 1]);
    let taken_out = [Draining, Disabled];
    assert!(!world.serving.would_be_emptied(orders(&taken_out), world.now));
    world.instruct(&taken_out);
    assert_eq!(world.weights(), [0, 0, 1]);
    assert!(
        world
            .serving
            .would_be_emptied(orders(&[Draining, Disabled, Draining]), world.now)
    );
    assert_eq!(world.weights(), [0, 0, 1], "asking changes nothing");
    world.truth[2] = REFUSED;
    world.pass(A_WHILE);
    assert!(
        !world
            .serving
            .would_be_emptied(orders(&[Draining, Disabled, Draining]), world.now),
        "it is empty already"
    );
}

#[test]
fn the_operators_weight_counts_until_it_is_taken_back_whatever_is_configured() {
    let mut world = World::up("", &[0, 0]);
    let weigh = |weight| {
        move |name: &str| Orders {
            weight: (name == "b0").then_some(weight).flatten(),
            ..Orders::default()
        }
    };
    world.serving.instruct(weigh(Some(7)));
    world.decide();
    assert_eq!(world.weights(), [7, 1]);
    world.serving = world.serving.follow(&service("", &[0, 0]), world.now);
    world.decide();
    assert_eq!(world.weights(), [7, 1], "after a reload");
    world.serving.instruct(weigh(Some(0)));
    world.decide();
    assert_eq!(world.weights(), [0, 1]);
    world.serving.instruct(weigh(None));
    world.decide();
    assert_eq!(world.weights(), [1, 1]);
}

#[test]
fn who_is_enabled_again_waits_for_the_pass_that_gives_it_up_whether_its_tier_serves_or_not() {
    let mut world = World::up("affinity = \"client\"", &[0, 1]);
    let ids = [7, 8];
    let must_await = |world: &World, gives_up: &[u16]| {
        let gives_up = gives_up.iter().copied().collect();
        must_await_pass(&gives_up, ids.into_iter().zip(&world.decision.backends))
    };
    world.instruct(&[Enabled, Disabled]);
    assert!(world.decision.backends[1].reset);
    assert!(!must_await(&world, &[8]), "it is given up all the same");
    world.instruct(&[]);
    let spare = world.decision.backends[1];
    assert_eq!(
        (spare.weight, spare.sheds),
        (0, false),
        "affinity brings clients there"
    );
    assert!(must_await(&world, &[8]));
    assert!(!must_await(&world, &[9]), "another service's");
}
