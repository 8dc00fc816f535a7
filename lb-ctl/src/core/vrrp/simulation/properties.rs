//! What holds of them, whatever happens.

use proptest::prelude::*;

use super::*;
use crate::core::vrrp::Interval;

const INTERVAL: Duration = Duration::from_millis(100);

const POLICY: Policy = Policy {
    preempt: true,
    preempt_delay: Duration::ZERO,
    start_delay: Duration::ZERO,
    refresh: Duration::from_mins(1),
};

fn setup(policy: Policy, priorities: &[u8], centiseconds: u16) -> Setup {
    let settings = |&priority: &u8| Settings {
        priority: NonZeroU8::new(priority).unwrap(),
        interval: Interval::from_centiseconds(centiseconds).unwrap(),
    };
    Setup {
        policy,
        settings: priorities.iter().map(settings).collect(),
        grace: None,
    }
}

/// Single instances of these priorities, that advertise every 100 ms and have agreed on a master.
fn settled(policy: Policy, priorities: &[u8], seed: u64) -> World {
    let setups: Vec<Setup> = priorities
        .iter()
        .map(|priority| setup(policy, &[*priority], 10))
        .collect();
    let mut world = World::new(&setups, seed);
    world.run(INTERVAL * 10);
    assert_eq!(world.masters().len(), 1);
    world
}

/// The `Master_Down_Interval` of a priority at 100 ms.
fn master_down(priority: u8) -> Duration {
    Interval::from_duration(INTERVAL)
        .unwrap()
        .master_down(NonZeroU8::new(priority).unwrap())
}

#[test]
fn the_best_backup_follows_a_dead_master_within_its_master_down_interval() {
    for seed in 0..50 {
        let mut world = settled(POLICY, &[50, 200, 100, 150], seed);
        assert_eq!(world.masters(), [1]);
        world.run(Duration::from_millis(seed));
        world.kill(1);
        let died = world.now;
        world.run(master_down(150) + CALM.delay);
        assert_eq!(world.masters(), [3]);
        world.run(INTERVAL * 20);
        assert_eq!(world.masters(), [3]);
        let since = world.nodes[3].group.as_ref().unwrap().since();
        assert!(
            since > died + INTERVAL * 2,
            "a master that has advertised just now is not dead"
        );
        assert!(matches!(world.cause(3), Some(Cause::Silence { master: Some(_) })));
    }
}

#[test]
fn one_that_leaves_is_followed_within_an_interval() {
    let mut world = settled(POLICY, &[50, 200, 150], 1);
    world.stop(1);
    world.run(INTERVAL + CALM.delay);
    assert_eq!(world.masters(), [2]);
    assert!(matches!(world.cause(2), Some(Cause::Left { .. })));
}

#[test]
fn a_healed_network_has_one_master_within_an_interval() {
    for seed in 0..50 {
        let mut world = settled(POLICY, &[100, 200, 200], seed);
        world.parts[0] = vec![0, 1, 2];
        world.run(INTERVAL * 10);
        assert_eq!(world.masters(), [0, 1, 2], "alone, each must be");
        world.parts[0] = vec![0; 3];
        world.run(INTERVAL + CALM.delay);
        assert_eq!(world.masters(), [2], "equal priorities: the higher address");
        let before = world.transitions();
        world.run(INTERVAL * 50);
        assert_eq!(world.transitions(), before);
    }
}

#[test]
fn a_better_one_that_comes_back_takes_over_at_once_later_or_never() {
    for (policy, at_first, at_last) in [
        (POLICY, 1, 1),
        (
            Policy {
                preempt_delay: Duration::from_secs(3),
                ..POLICY
            },
            0,
            1,
        ),
        (
            Policy {
                preempt: false,
                ..POLICY
            },
            0,
            0,
        ),
    ] {
        let mut world = settled(policy, &[100, 200], 3);
        world.kill(1);
        world.run(INTERVAL * 10);
        assert_eq!(world.masters(), [0]);
        world.start(1);
        world.run(master_down(200) + CALM.delay * 2);
        assert_eq!(world.masters(), [at_first], "{policy:?}");
        world.run(Duration::from_secs(10));
        assert_eq!(world.masters(), [at_last], "{policy:?}");
    }
}

#[test]
fn a_handover_holds_until_it_is_handed_back() {
    let mut world = settled(POLICY, &[100, 200], 4);
    world.hand_over(1);
    world.run(INTERVAL);
    assert_eq!(world.masters(), [0], "though it is the worse one");
    world.run(INTERVAL * 100);
    assert_eq!(world.masters(), [0]);
    world.hand_over(0);
    world.run(INTERVAL);
    assert_eq!(world.masters(), [1]);
    world.run(INTERVAL * 100);
    assert_eq!(world.masters(), [1]);
}

#[test]
fn a_handover_of_which_nobody_hears_succeeds_nevertheless() {
    let mut world = settled(POLICY, &[100, 200], 5);
    world.trouble = Trouble {
        loss: 100,
        row: 1,
        ..CALM
    };
    world.hand_over(1);
    world.trouble = CALM;
    world.run(INTERVAL * 10);
    assert_eq!(world.masters(), [0]);
}

#[test]
fn a_handover_to_nobody_is_taken_back() {
    let mut world = settled(POLICY, &[200], 6);
    world.hand_over(0);
    world.run(INTERVAL * 5);
    assert_eq!(world.masters(), [0]);
}

#[test]
fn one_that_wakes_late_gives_way_to_a_better_one_or_takes_back() {
    let mut world = settled(POLICY, &[100, 200], 7);
    world.sleep(1, INTERVAL * 20);
    world.run(INTERVAL * 10);
    assert_eq!(world.masters(), [0, 1], "one of them does nothing");
    world.run(INTERVAL * 15);
    assert_eq!(world.masters(), [1]);
}

/// Both groups are the better one in one of their networks.
#[test]
fn groups_that_disagree_about_who_is_better_settle_nevertheless() {
    for (first, second) in [([100, 100], [100, 100]), ([200, 100], [100, 200])] {
        let mut world = World::new(&[setup(POLICY, &first, 10), setup(POLICY, &second, 10)], 8);
        // Apart, both become master; then they meet.
        world.parts = vec![vec![0, 1]; 2];
        world.run(INTERVAL * 10);
        assert_eq!(world.masters(), [0, 1]);
        world.parts = vec![vec![0; 2]; 2];
        let before = world.transitions();
        world.run(INTERVAL * 100);
        assert_eq!(world.masters().len(), 1);
        assert_eq!(world.transitions(), before + 1, "one of them goes back, once");
    }
}

/// What happens to the world.
#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Kill(usize),
    Stop(usize),
    Start(usize),
    Sleep(usize, u64),
    HandOver(usize),
    Lower(usize, u8),
    Fault(usize, usize, bool),
    Trouble(u64, u64, u64),
    Parts(usize, Vec<u8>),
    Tell(usize, Told),
}

fn any_told() -> impl Strategy<Value = Told> {
    prop_oneof![Just(Told::Everything), Just(Told::Nothing), Just(Told::Part)]
}

fn any_step(nodes: usize, members: usize) -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u64..2000).prop_map(Step::Wait),
        1 => (0..nodes).prop_map(Step::Kill),
        1 => (0..nodes).prop_map(Step::Stop),
        2 => (0..nodes).prop_map(Step::Start),
        1 => (0..nodes, 0_u64..3000).prop_map(|(node, long)| Step::Sleep(node, long)),
        1 => (0..nodes).prop_map(Step::HandOver),
        1 => (0..nodes, 0_u8..=255).prop_map(|(node, by)| Step::Lower(node, by)),
        1 => (0..nodes, 0..members, any::<bool>()).prop_map(|(node, member, is)| Step::Fault(node, member, is)),
        1 => (0_u64..100, 0_u64..50, 1_u64..300).prop_map(|(loss, repeats, ms)| Step::Trouble(loss, repeats, ms)),
        1 => (0..members, prop::collection::vec(0_u8..3, nodes)).prop_map(|(member, parts)| Step::Parts(member, parts)),
        1 => (0..nodes, any_told()).prop_map(|(node, told)| Step::Tell(node, told)),
    ]
}

/// One thing that happens in a sound network.
fn any_event(nodes: usize) -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..nodes).prop_map(Step::Kill),
        1 => (0..nodes).prop_map(Step::Stop),
        1 => (0..nodes).prop_map(Step::Start),
        1 => (0..nodes).prop_map(Step::HandOver),
        1 => (0..nodes, 0_u8..=255).prop_map(|(node, by)| Step::Lower(node, by)),
        1 => (0..nodes, any::<bool>()).prop_map(|(node, is)| Step::Fault(node, 0, is)),
        1 => (0..nodes, any_told()).prop_map(|(node, told)| Step::Tell(node, told)),
        2 => Just(Step::Parts(0, vec![0; nodes])),
    ]
}

fn any_setup(members: usize) -> impl Strategy<Value = Setup> {
    let priority = prop_oneof![Just(100_u8), Just(200), Just(254), 1_u8..=254];
    (
        any::<bool>(),
        prop_oneof![2 => Just(0_u64), 1 => 0_u64..1500],
        prop_oneof![2 => Just(0_u64), 1 => 0_u64..1500],
        priority,
        1_u16..=20,
        // For so long is waited until the end is looked at.
        prop::option::of((0_u64..1500).prop_map(Duration::from_millis)),
    )
        .prop_map(
            move |(preempt, preempt_delay, start_delay, priority, centiseconds, grace)| {
                let policy = Policy {
                    preempt,
                    preempt_delay: Duration::from_millis(preempt_delay),
                    start_delay: Duration::from_millis(start_delay),
                    ..POLICY
                };
                Setup {
                    grace,
                    ..setup(policy, &vec![priority; members], centiseconds)
                }
            },
        )
}

fn carry_out(world: &mut World, step: &Step) {
    match *step {
        Step::Wait(ms) => world.run(Duration::from_millis(ms)),
        Step::Kill(node) => world.kill(node),
        Step::Stop(node) => world.stop(node),
        Step::Start(node) => world.start(node),
        Step::Sleep(node, ms) => world.sleep(node, Duration::from_millis(ms)),
        Step::HandOver(node) => world.hand_over(node),
        Step::Lower(node, by) => {
            for member in 0..world.parts.len() {
                world.set_conditions(node, member, |conditions| conditions.lowered = by);
            }
        }
        Step::Fault(node, member, is) => world.set_conditions(node, member, |conditions| {
            conditions.fault = is.then(|| "broken".into());
        }),
        Step::Trouble(loss, repeats, ms) => {
            world.trouble = Trouble {
                loss,
                row: u32::MAX,
                repeats,
                delay: Duration::from_millis(ms),
            };
        }
        Step::Parts(member, ref parts) => world.parts[member].clone_from(parts),
        Step::Tell(node, told) => world.tell(node, told),
    }
}

/// Runs the world until nothing is left of its troubles but a network in parts; then for as long as an election may take.
fn converge(world: &mut World, elections: u32) {
    // What is still under way, and who still sleeps.
    world.trouble = CALM;
    world.run(Duration::from_secs(3));
    // Whoever is being told has been told, or the connection is lost.
    for number in 0..world.nodes.len() {
        let told = if number % 2 == 0 {
            Told::Everything
        } else {
            Told::Nothing
        };
        world.tell(number, told);
    }
    let intervals = world.nodes.iter().flat_map(|node| &node.setup.settings);
    let slowest = intervals
        .map(|settings| settings.interval.duration())
        .max()
        .unwrap();
    let delays = world.nodes.iter().map(|node| {
        let Setup { policy, grace, .. } = &node.setup;
        policy.preempt_delay.max(grace.unwrap_or_default()) + policy.start_delay
    });
    world.run(slowest * 4 * elections + delays.max().unwrap() + CALM.delay * 10);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// One master in each part of the network that has anybody who may be, the best one if it preempts; and it stays.
    #[test]
    fn after_any_troubles_each_part_of_the_network_has_one_master(
        (setups, steps) in (1_usize..=4).prop_flat_map(|nodes| (
            prop::collection::vec(any_setup(1), nodes),
            prop::collection::vec(any_step(nodes, 1), 0..25),
        )),
        seed: u64,
    ) {
        let mut world = World::new(&setups, seed);
        for step in &steps {
            carry_out(&mut world, step);
        }
        converge(&mut world, 2);
        for part in 0..3 {
            let inside = |number: &usize| world.parts[0][*number] == part;
            let eligible: Vec<usize> = (0..setups.len())
                .filter(inside)
                .filter(|number| matches!(world.state(*number), Some(State::Backup | State::Master)))
                .collect();
            let masters: Vec<usize> = world.masters().into_iter().filter(inside).collect();
            prop_assert_eq!(masters.len(), usize::from(!eligible.is_empty()), "masters {:?} of {:?}", masters, eligible);
            for number in eligible {
                let group = world.nodes[number].group.as_ref().unwrap();
                if world.nodes[number].setup.policy.preempt && !group.yields() {
                    prop_assert!(world.priority(number) <= world.priority(masters[0]));
                }
            }
        }
        let before = world.transitions();
        world.run(Duration::from_secs(20));
        prop_assert_eq!(world.transitions(), before, "flapping");
    }

    /// Whatever has been before: if nothing is lost and everybody hears everybody, one thing that happens is over within the
    /// `Master_Down_Interval` of the worst backup at the longest interval; of an operator's handover, within an interval more.
    #[test]
    fn in_a_sound_network_nothing_takes_longer_than_the_worst_master_down_interval(
        (setups, steps, last) in (1_usize..=4).prop_flat_map(|nodes| (
            prop::collection::vec(any_setup(1), nodes),
            prop::collection::vec(any_step(nodes, 1), 0..15),
            any_event(nodes),
        )),
        seed: u64,
    ) {
        let prompt = |mut setup: Setup| {
            setup.policy = Policy { preempt: setup.policy.preempt, ..POLICY };
            // However long: a master that is left alone is one.
            setup.grace = setup.grace.map(|_| Duration::from_secs(5));
            setup
        };
        let setups: Vec<Setup> = setups.into_iter().map(prompt).collect();
        let mut world = World::new(&setups, seed);
        for step in &steps {
            carry_out(&mut world, step);
        }
        // The event may be that a network in parts heals; others meet one that is whole.
        if !matches!(last, Step::Parts(..)) {
            world.parts[0].fill(0);
        }
        converge(&mut world, 2);
        carry_out(&mut world, &last);
        let slowest = setups.iter().map(|setup| setup.settings[0].interval).max().unwrap();
        let worst = (0..setups.len()).filter_map(|number| NonZeroU8::new(world.priority(number))).min();
        let handed_over = if matches!(last, Step::HandOver(_)) { slowest.duration() } else { Duration::ZERO };
        let bound = slowest.master_down(worst.unwrap_or(NonZeroU8::MIN)) + handed_over;
        world.run(bound + CALM.delay * 10);
        let is_eligible = |number: &usize| matches!(world.state(*number), Some(State::Backup | State::Master));
        let eligible = (0..setups.len()).filter(is_eligible).count();
        prop_assert_eq!(world.masters().len(), eligible.min(1), "masters {:?} of {}", world.masters(), eligible);
    }

    /// Groups of two in two networks that fall apart each by itself: no part of either has two masters.
    #[test]
    fn groups_agree_whichever_networks_are_in_parts(
        (setups, steps) in (1_usize..=3).prop_flat_map(|nodes| (
            prop::collection::vec(any_setup(2), nodes),
            prop::collection::vec(any_step(nodes, 2), 0..25),
        )),
        seed: u64,
    ) {
        let mut world = World::new(&setups, seed);
        for step in &steps {
            carry_out(&mut world, step);
        }
        converge(&mut world, 6);
        for parts in &world.parts {
            for part in 0..3 {
                let masters = world.masters().into_iter().filter(|number| parts[*number] == part).count();
                prop_assert!(masters <= 1, "{} masters in one part", masters);
            }
        }
        if world.parts[0] == world.parts[1] {
            let may = (0..setups.len()).any(|number| world.state(number) == Some(State::Backup));
            prop_assert!(!may || !world.masters().is_empty());
        }
        let before = world.transitions();
        world.run(Duration::from_secs(20));
        prop_assert_eq!(world.transitions(), before, "flapping");
    }

    /// Up to two advertisements in a row are lost, all are late by less than the best backup's skew: no reason to move.
    #[test]
    fn a_bad_network_is_no_reason_to_move(seed: u64, loss in 1_u64..=100, repeats in 0_u64..100) {
        let mut world = settled(POLICY, &[200, 100, 50, 100], seed);
        let before = world.transitions();
        world.trouble = Trouble {
            loss,
            row: 2,
            repeats,
            // The skew at priority 100 is 60.9 ms.
            delay: Duration::from_millis(60),
        };
        world.run(INTERVAL * 200);
        prop_assert_eq!(world.transitions(), before);
        prop_assert_eq!(world.masters(), vec![0]);
    }
}
