//! One decision at a time.

use proptest::prelude::*;

use super::*;
use crate::core::health::Load;

const START: Duration = Duration::from_secs(1000);

fn member(weight: u32, load: impl Into<Option<u64>>, level: Level) -> Member {
    Member {
        weight,
        in_use: true,
        load: load.into(),
        level,
    }
}

/// The levels after an interval.
fn next(members: &[Member]) -> Vec<Level> {
    Levels::new(START).decide(members, START + INTERVAL)
}

/// The levels that stay once these loads have been there for long.
fn settled(backends: &[(u32, u64)]) -> Vec<Level> {
    let mut levels = vec![Level::CONFIGURED; backends.len()];
    for _ in 0..20 {
        let members: Vec<Member> = backends
            .iter()
            .zip(&levels)
            .map(|(&(weight, load), &level)| member(weight, load, level))
            .collect();
        levels = next(&members);
    }
    levels
}

fn any_level() -> impl Strategy<Value = Level> {
    prop::sample::select(Level::all().collect::<Vec<_>>())
}

fn any_member() -> impl Strategy<Value = Member> {
    (1_u32..=1000, 0_u64..2000, any_level()).prop_map(|(weight, load, level)| member(weight, load, level))
}

#[test]
fn figures_become_one_number() {
    let figures = Load {
        connections: Some(30),
        waiting_connections: Some(2),
        queries: Some(5),
        queued_queries: Some(1),
        fragments: Some(1000),
        sessions: Some(1000),
    };
    assert_eq!(of(&figures), Some(30 + 2 + 4 * (5 + 1)));
    let few = Load {
        connections: Some(3),
        queries: Some(1),
        ..Load::default()
    };
    assert_eq!(of(&few), Some(7), "what Impala leaves out is none");
    for missing in [
        Load { queries: None, ..few },
        Load {
            connections: None,
            ..few
        },
        Load::default(),
    ] {
        assert_eq!(of(&missing), None);
    }
}

#[test]
fn an_average_follows_and_forgets() {
    let first = Average::new(10, START);
    assert_eq!(first.load(), 10);
    let later = first.and(110, START + SMOOTHING, STALE);
    assert_eq!(later.load(), 73, "all but a third");
    let much_later = first.and(110, START + STALE + Duration::from_secs(1), STALE);
    assert_eq!(much_later.load(), 110, "what was before the pause is forgotten");
    assert!(!first.is_stale(START + STALE, STALE));
    assert!(
        first.and(50, START, STALE).load() == 10,
        "a second figure of the same moment adds nothing"
    );
}

#[test]
fn equal_load_means_the_configured_weights() {
    for backends in [
        &[(1, 40), (1, 40), (1, 40)][..],
        &[(1, 40), (2, 80), (4, 160)],
        &[(1, 0), (1, 0)],
    ] {
        assert_eq!(settled(backends), vec![Level::CONFIGURED; backends.len()]);
        for level in Level::all() {
            let mut levels = vec![level; backends.len()];
            for _ in 0..10 {
                let members: Vec<Member> = backends
                    .iter()
                    .zip(&levels)
                    .map(|(&(weight, load), &level)| member(weight, load, level))
                    .collect();
                levels = next(&members);
            }
            assert_eq!(levels, vec![Level::CONFIGURED; backends.len()], "from {level:?}");
        }
    }
}

#[test]
fn an_idle_one_gets_more_and_a_busy_one_less() {
    let levels = settled(&[(1, 0), (1, 60), (1, 60)]);
    assert!(levels[0] >= Level::nearest(3.0), "{levels:?}");
    assert_eq!(
        levels[1..],
        [Level::CONFIGURED; 2],
        "they are as busy as most: {levels:?}"
    );
    let levels = settled(&[(1, 400), (1, 20), (1, 20)]);
    assert!(levels[0] <= Level::nearest(-4.0), "{levels:?}");
    assert_eq!(levels[1], Level::HIGHEST);
}

#[test]
fn little_load_is_nobodys_trouble() {
    assert_eq!(settled(&[(1, 0), (1, 4), (1, 2)]), [Level::CONFIGURED; 3]);
}

#[test]
fn who_does_not_tell_its_load_has_the_configured_weight_and_is_no_measure_for_others() {
    let members = [
        member(1, None, Level::LOWEST),
        member(1, 40, Level::CONFIGURED),
        member(1, 40, Level::CONFIGURED),
    ];
    assert_eq!(next(&members), [Level::CONFIGURED; 3]);
}

#[test]
fn who_gets_no_new_connections_keeps_its_level_and_is_no_measure_for_others() {
    let mut members = [
        member(1, 1000, Level::LOWEST),
        member(0, 1000, Level::HIGHEST),
        member(1, 40, Level::CONFIGURED),
        member(1, 40, Level::CONFIGURED),
    ];
    members[0].in_use = false;
    assert_eq!(next(&members), members.map(|it| it.level));
}

#[test]
fn levels_stay_for_an_interval() {
    let mut levels = Levels::new(START);
    let decide = |levels: &mut Levels, level, tenths| {
        let members = [member(1, 500, level), member(1, 0, Level::CONFIGURED)];
        levels.decide(&members, START + INTERVAL * tenths / 10)
    };
    assert_eq!(
        decide(&mut levels, Level::CONFIGURED, 9),
        [Level::CONFIGURED; 2],
        "the first figures say little"
    );
    let first = decide(&mut levels, Level::CONFIGURED, 11);
    assert!(first[0] < Level::CONFIGURED && first[1] > Level::CONFIGURED);
    assert_eq!(decide(&mut levels, Level::HIGHEST, 20)[0], Level::HIGHEST);
    assert!(decide(&mut levels, Level::HIGHEST, 21)[0] < Level::HIGHEST);
}

#[test]
fn levels_are_a_fourth_of_a_doubling_apart_and_bounded() {
    assert_eq!(
        (
            Level::LOWEST.thousandths(),
            Level::CONFIGURED.thousandths(),
            Level::HIGHEST.thousandths()
        ),
        (WHOLE / 4, WHOLE, 2 * WHOLE)
    );
    for level in Level::all() {
        let exact = f64::from(WHOLE) * (f64::from(level) / PER_DOUBLING).exp2();
        assert!((f64::from(level.thousandths()) - exact).abs() <= 0.5, "{level:?}");
    }
}

/// Where connections are so short that the load follows the weights at once.
#[test]
fn a_machine_that_is_slow_by_nature_is_not_tossed_about() {
    for slowness in [1.3, 1.7, 2.0, 3.0, 5.0, 10.0] {
        let mut levels = Levels::new(START);
        let mut now = START;
        let mut members = [member(1, 0, Level::CONFIGURED); 3];
        let mut seen = Vec::new();
        for _ in 0..60 {
            now += INTERVAL;
            let total: u32 = members.iter().map(|it| it.level.thousandths()).sum();
            for (member, slowness) in members.iter_mut().zip([slowness, 1.0, 1.0]) {
                let load = 300.0 * slowness * f64::from(member.level.thousandths()) / f64::from(total);
                member.load = Some(to_load(load));
            }
            let decided = levels.decide(&members, now);
            for (member, level) in members.iter_mut().zip(decided) {
                member.level = level;
            }
            seen.push(members.map(|it| it.level));
        }
        seen.dedup();
        assert!(seen.len() < 8, "slowness {slowness}: {seen:?}");
        assert!(members[0].level <= members[1].level);
    }
}

fn to_load(load: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a small load"
    )]
    let load = load.round() as u64;
    load
}

proptest! {
    #[test]
    fn any_loads_lead_to_bounded_levels(
        members in prop::collection::vec(
            (0_u32..=1000, any::<bool>(), prop::option::of(any::<u64>()), any_level())
                .prop_map(|(weight, in_use, load, level)| Member { weight, in_use, load, level }),
            0..8,
        ),
    ) {
        let levels = next(&members);
        prop_assert_eq!(levels.len(), members.len());
        for (member, level) in members.iter().zip(levels) {
            prop_assert!((Level::LOWEST..=Level::HIGHEST).contains(&level));
            prop_assert!(takes_part(member) || level == member.level);
            prop_assert!(!takes_part(member) || member.load.is_some() || level == Level::CONFIGURED);
        }
    }

    #[test]
    fn more_load_is_never_more_weight_for_itself_nor_less_for_others(
        mut members in prop::collection::vec(any_member(), 1..8), more in 1_u64..1000,
    ) {
        let before = next(&members);
        members[0].load = members[0].load.map(|load| load + more);
        let after = next(&members);
        prop_assert!(after[0] <= before[0]);
        for (before, after) in before.iter().zip(&after).skip(1) {
            prop_assert!(after >= before);
        }
    }

    #[test]
    fn the_order_of_the_backends_does_not_matter(
        mut members in prop::collection::vec(any_member(), 1..8), places in 0_usize..8,
    ) {
        let mut levels = next(&members);
        let places = places % members.len();
        members.rotate_left(places);
        levels.rotate_left(places);
        prop_assert_eq!(next(&members), levels);
    }

    #[test]
    fn only_ratios_of_weights_matter(
        members in prop::collection::vec(any_member(), 1..8), factor in prop::sample::select(vec![2_u32, 4, 8]),
    ) {
        let heavier: Vec<Member> =
            members.iter().map(|it| Member { weight: it.weight * factor, ..*it }).collect();
        prop_assert_eq!(next(&heavier), next(&members));
    }

    #[test]
    fn constant_load_leads_to_constant_levels(
        mut members in prop::collection::vec(any_member(), 1..8),
    ) {
        let step = |members: &mut Vec<Member>| {
            let levels = next(members);
            for (member, level) in members.iter_mut().zip(levels) {
                member.level = level;
            }
        };
        for _ in 0..10 {
            step(&mut members);
        }
        let before = members.clone();
        step(&mut members);
        prop_assert_eq!(members, before);
    }

    /// Load that goes up and down by a third from one check to the next.
    #[test]
    fn noise_moves_no_slot(
        weights in prop::collection::vec(1_u32..5, 2..6),
        noise in prop::collection::vec(-0.3_f64..0.3, 600),
    ) {
        let mut levels = Levels::new(START);
        let mut now = START;
        let mut members: Vec<Member> = weights.iter().map(|&weight| member(weight, 0, Level::CONFIGURED)).collect();
        let mut averages = vec![Average::new(100, now); members.len()];
        for (member, average) in members.iter().zip(&mut averages) {
            *average = Average::new(u64::from(member.weight) * 50, now);
        }
        for noise in noise.chunks_exact(members.len()) {
            now += Duration::from_secs(2);
            for ((member, average), noise) in members.iter_mut().zip(&mut averages).zip(noise) {
                let load = f64::from(member.weight) * 50.0 * (1.0 + noise);
                *average = average.and(to_load(load), now, STALE);
                member.load = Some(average.load());
            }
            prop_assert_eq!(levels.decide(&members, now), vec![Level::CONFIGURED; members.len()]);
        }
    }

    /// A controller that starts anew takes the levels from the slots, and moves none.
    #[test]
    fn levels_are_found_again_in_the_slots(
        backends in prop::collection::vec((prop::sample::select(vec![1_u32, 2, 3, 10, 100]), any_level()), 1..8),
        absent in any::<bool>(),
    ) {
        let slots: u64 = 65_537;
        let weight = |&(weight, level): &(u32, Level)| u64::from(weight) * u64::from(level.thousandths());
        let total: u64 = backends.iter().map(weight).sum();
        let mut found: Vec<(u32, u32)> = backends
            .iter()
            .map(|it| (it.0, u32::try_from(weight(it) * slots / total).unwrap()))
            .collect();
        if absent {
            found.push((7, 0));
            found.push((0, 0));
        }
        let levels = of_slots(&found);
        prop_assert_eq!(levels.len(), found.len());
        let again: u64 =
            found.iter().zip(&levels).map(|((weight, _), level)| u64::from(*weight) * u64::from(level.thousandths())).sum();
        let taken: u64 = found.iter().zip(&levels).filter(|((_, slots), _)| *slots == 0)
            .map(|((weight, _), level)| u64::from(*weight) * u64::from(level.thousandths())).sum();
        for ((weight, before), level) in found.iter().zip(&levels) {
            if *before > 0 {
                let after = u64::from(*weight) * u64::from(level.thousandths()) * slots / (again - taken);
                prop_assert!(after.abs_diff(u64::from(*before)) <= slots / 200, "{found:?} {levels:?}");
            }
        }
    }
}
