//! Services in all conditions.

use super::*;
use Standing::{Failing, Healthy, Pending, Saturated, Silent, Unusable, Withdrawn};
use proptest::prelude::*;

const AUTO: Policy = Policy {
    min_healthy: Fraction::HALF,
    failback: Failback::Auto,
};
const MANUAL: Policy = Policy {
    min_healthy: Fraction::HALF,
    failback: Failback::Manual,
};
const UNGUARDED: Policy = Policy {
    min_healthy: Fraction::ZERO,
    failback: Failback::Auto,
};

fn tier(number: u8, standings: &[Standing]) -> Vec<Member> {
    let member = |&standing| Member {
        tier: number,
        weight: 1,
        standing,
    };
    standings.iter().map(member).collect()
}

/// Indices of those in use.
fn used(members: &[Member], policy: Policy) -> Vec<usize> {
    let selection = select(members, policy, None);
    (0..members.len())
        .filter(|&index| selection.in_use[index])
        .collect()
}

fn active(tiers: [&[Standing]; 2], policy: Policy, previous: Option<u8>) -> u8 {
    let members = [tier(0, tiers[0]), tier(1, tiers[1])].concat();
    select(&members, policy, previous).active_tier
}

#[test]
fn fractions_are_written_as_in_the_configuration() {
    let shown = [0, 1, 250, 500, 990, 1000, 2000].map(|it| Fraction::from_thousandths(it).to_string());
    assert_eq!(shown, ["0.0", "0.001", "0.25", "0.5", "0.99", "1.0", "1.0"]);
}

#[test]
fn a_failing_minority_is_taken_out() {
    let members = tier(0, &[Healthy, Failing, Healthy, Saturated]);
    assert_eq!(used(&members, AUTO), [0, 2]);
    assert_eq!(select(&members, AUTO, None).guard, None);
}

#[test]
fn a_failing_majority_stays_in_use_and_the_guard_says_so() {
    let members = tier(0, &[Healthy, Failing, Failing, Unusable]);
    assert_eq!(used(&members, AUTO), [0, 1, 2]);
    let guard = select(&members, AUTO, None).guard.unwrap();
    assert_eq!(
        guard.to_string(),
        "healthy weight 1 of 4, min_healthy = 0.5: in use although they are saturated 0, although they fail their checks 2"
    );
}

#[test]
fn saturated_backends_are_used_before_failing_ones() {
    assert_eq!(
        used(&tier(0, &[Healthy, Saturated, Failing, Failing]), AUTO),
        [0, 1]
    );
    assert_eq!(
        used(&tier(0, &[Healthy, Saturated, Failing, Failing, Failing]), AUTO),
        [0, 1, 2, 3, 4]
    );
}

#[test]
fn without_the_guard_failing_backends_are_never_used_but_saturated_ones_as_a_last_resort() {
    assert_eq!(used(&tier(0, &[Healthy, Saturated, Failing]), UNGUARDED), [0]);
    assert_eq!(used(&tier(0, &[Unusable, Saturated, Failing]), UNGUARDED), [1]);
    assert_eq!(used(&tier(0, &[Unusable, Failing]), UNGUARDED), [] as [usize; 0]);
}

#[test]
fn silent_backends_are_used_only_when_nobody_gives_a_sign_of_life() {
    assert_eq!(used(&tier(0, &[Silent, Silent, Withdrawn]), AUTO), [0, 1]);
    let guard = select(&tier(0, &[Silent, Silent]), AUTO, None).guard.unwrap();
    assert_eq!(guard.silent, 2);
    assert!(guard.to_string().contains("own network may be cut"), "{guard}");
    for alive in [Healthy, Pending, Saturated, Failing, Unusable] {
        let members = tier(0, &[Silent, alive]);
        assert!(!select(&members, AUTO, None).in_use[0], "{alive:?}");
    }
    assert_eq!(used(&tier(0, &[Silent]), UNGUARDED), [] as [usize; 0]);
    assert_eq!(active([&[Silent], &[Unusable]], AUTO, Some(1)), 0);
    assert_eq!(
        used(&[tier(0, &[Silent]), tier(1, &[Unusable])].concat(), AUTO),
        [] as [usize; 0],
        "the refusal of the other tier shows that the network works"
    );
}

#[test]
fn weights_count_and_not_heads() {
    let mut members = tier(0, &[Healthy, Failing, Failing]);
    members[0].weight = 3;
    assert_eq!(used(&members, AUTO), [0]);
    members[0].weight = 0;
    assert_eq!(used(&members, AUTO), [0, 1, 2]);
}

#[test]
fn what_the_operator_withdrew_is_not_missed() {
    assert_eq!(
        used(&tier(0, &[Healthy, Failing, Withdrawn, Withdrawn]), AUTO),
        [0]
    );
}

#[test]
fn nobody_is_in_use_before_the_first_success() {
    assert_eq!(used(&tier(0, &[Pending, Pending]), AUTO), [] as [usize; 0]);
    assert_eq!(used(&tier(0, &[Pending, Healthy, Pending, Failing]), AUTO), [1]);
}

#[test]
fn backends_that_join_do_not_push_out_who_serves() {
    // The failing one is all there is until the others have answered.
    assert_eq!(used(&tier(0, &[Failing, Pending, Pending]), AUTO), [0]);
}

#[test]
fn the_next_tier_serves_when_the_first_has_too_few() {
    assert_eq!(active([&[Healthy, Healthy], &[Healthy]], AUTO, None), 0);
    assert_eq!(active([&[Healthy, Unusable], &[Healthy]], AUTO, None), 0);
    assert_eq!(
        active([&[Healthy, Unusable, Unusable], &[Healthy]], AUTO, Some(0)),
        1
    );
    assert_eq!(active([&[Withdrawn, Withdrawn], &[Healthy]], AUTO, Some(0)), 1);
}

#[test]
fn a_recovered_tier_takes_over_by_itself_or_not() {
    let recovered: [&[Standing]; 2] = [&[Healthy, Healthy], &[Healthy]];
    assert_eq!(active(recovered, AUTO, Some(1)), 0);
    assert_eq!(active(recovered, MANUAL, Some(1)), 1);
    assert_eq!(active(recovered, MANUAL, None), 0);
    assert_eq!(active([&[Healthy, Healthy], &[Unusable]], MANUAL, Some(1)), 0);
}

#[test]
fn at_the_start_the_first_tier_is_waited_for() {
    // Otherwise the standby would serve for good, with manual failback, because it was checked first.
    for policy in [AUTO, MANUAL] {
        assert_eq!(active([&[Pending, Pending], &[Healthy]], policy, None), 0);
        assert_eq!(
            active([&[Unusable, Pending, Unusable], &[Healthy]], policy, None),
            1
        );
    }
}

#[test]
fn added_backends_do_not_make_the_standby_serve() {
    assert_eq!(
        active([&[Healthy, Pending, Pending], &[Healthy]], AUTO, Some(0)),
        0
    );
    assert_eq!(
        active([&[Pending, Pending], &[Healthy]], AUTO, Some(1)),
        1,
        "nor end its service"
    );
}

#[test]
fn when_no_tier_is_healthy_enough_the_best_one_serves() {
    let few: &[Standing] = &[Healthy, Unusable, Unusable];
    assert_eq!(active([few, few], AUTO, Some(1)), 0);
    assert_eq!(active([few, few], MANUAL, Some(1)), 1);
    assert_eq!(active([&[Failing, Failing], few], AUTO, Some(0)), 1);
    assert_eq!(active([&[Failing], &[Saturated]], AUTO, Some(0)), 1);
    assert_eq!(active([&[Unusable], &[Failing]], AUTO, Some(0)), 1);
    assert_eq!(active([&[Unusable], &[Unusable]], AUTO, Some(0)), 0);
}

#[test]
fn a_service_without_backends_has_nobody_in_use() {
    let selection = select(&[], AUTO, None);
    assert_eq!(
        (selection.active_tier, selection.in_use.len(), selection.guard),
        (0, 0, None)
    );
}

fn any_member() -> impl Strategy<Value = Member> {
    let standing = prop::sample::select(vec![
        Healthy, Pending, Saturated, Failing, Silent, Unusable, Withdrawn,
    ]);
    (0_u8..3, 0_u32..4, standing).prop_map(|(tier, weight, standing)| Member {
        tier,
        weight,
        standing,
    })
}

fn any_policy() -> impl Strategy<Value = Policy> {
    (0_u16..=1000, any::<bool>()).prop_map(|(thousandths, auto)| Policy {
        min_healthy: Fraction::from_thousandths(thousandths),
        failback: if auto { Failback::Auto } else { Failback::Manual },
    })
}

proptest! {
    #[test]
    fn a_service_is_never_empty_while_a_backend_could_serve(
        members in prop::collection::vec(any_member(), 0..12),
        policy in any_policy(),
        previous in prop::option::of(0_u8..4),
    ) {
        let selection = select(&members, policy, previous);
        let carries = |member: &Member| match member.standing {
            Healthy | Saturated => member.weight > 0,
            Failing => member.weight > 0 && policy.min_healthy > Fraction::ZERO,
            Silent => member.weight > 0 && policy.min_healthy > Fraction::ZERO && gives_no_sign_of_life(&members),
            Pending | Unusable | Withdrawn => false,
        };
        let serving = members.iter().zip(&selection.in_use).any(|(member, &used)| used && member.weight > 0);
        // A tier that is waited for is the only exception, and only until its checks have come to an end.
        let waiting = members.iter().any(|member| member.standing == Pending && member.tier == selection.active_tier);
        if !waiting {
            prop_assert_eq!(serving, members.iter().any(carries));
        }
        let in_tier = members.iter().filter(|member| member.tier == selection.active_tier);
        prop_assert_eq!(serving, in_tier.clone().any(carries));
    }

    #[test]
    fn only_members_of_the_active_tier_that_may_serve_are_in_use(
        members in prop::collection::vec(any_member(), 0..12),
        policy in any_policy(),
        previous in prop::option::of(0_u8..4),
    ) {
        let selection = select(&members, policy, previous);
        let mut exceptions = 0;
        for (member, used) in members.iter().zip(&selection.in_use) {
            if *used {
                prop_assert_eq!(member.tier, selection.active_tier);
                prop_assert!(matches!(member.standing, Healthy | Saturated | Failing | Silent));
                exceptions += usize::from(member.standing != Healthy && member.weight > 0);
            } else if member.tier == selection.active_tier {
                prop_assert_ne!(member.standing, Healthy);
            }
        }
        let reported = selection.guard.map_or(0, |guard| guard.saturated + guard.failing + guard.silent);
        prop_assert_eq!(reported, exceptions);
    }

    #[test]
    fn a_choice_that_is_made_again_is_the_same(
        members in prop::collection::vec(any_member(), 1..12),
        policy in any_policy(),
        previous in prop::option::of(0_u8..4),
    ) {
        let first = select(&members, policy, previous);
        let second = select(&members, policy, Some(first.active_tier));
        prop_assert_eq!(first, second);
    }

    #[test]
    fn manual_failback_stays_while_the_tier_is_healthy_enough(
        members in prop::collection::vec(any_member(), 1..12),
        thousandths in 0_u16..=1000,
        previous in 0_u8..3,
    ) {
        let policy = Policy { min_healthy: Fraction::from_thousandths(thousandths), failback: Failback::Manual };
        if Tier::of(&members, previous).is_sufficient(policy) {
            prop_assert_eq!(select(&members, policy, Some(previous)).active_tier, previous);
        }
    }

    #[test]
    fn automatic_failback_forgets_the_past_once_all_are_checked(
        members in prop::collection::vec(any_member().prop_filter("checked", |it| it.standing != Pending), 1..12),
        thousandths in 0_u16..=1000,
        previous in 0_u8..3,
    ) {
        let policy = Policy { min_healthy: Fraction::from_thousandths(thousandths), failback: Failback::Auto };
        let total: u32 = members.iter().filter(|it| it.standing != Withdrawn).map(|it| it.weight).sum();
        if total > 0 {
            prop_assert_eq!(select(&members, policy, Some(previous)), select(&members, policy, None));
        }
    }
}
