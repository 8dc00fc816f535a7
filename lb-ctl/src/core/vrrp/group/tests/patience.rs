//! For how long one that has not been told everything leaves a master of lower priority alone.

use super::*;

const GRACE: Duration = Duration::from_secs(30);

/// When a backup takes over from a master of lower priority that it hears from this time on, if it does within two minutes.
fn preempts_at(group: &Group, began: Time) -> Option<Time> {
    let mut group = group.clone();
    (0..1200).map(|step| began + INTERVAL * step).find(|now| {
        group.heard(0, heard(3, 100), *now);
        group.pass(*now);
        group.state() == State::Master
    })
}

/// It preempts that late after its grace has begun: once a master is missed.
fn is_after_grace(preempts_at: Option<Time>, grace_begins: Time) -> bool {
    preempts_at.is_some_and(|at| {
        let late = at.saturating_sub(grace_begins);
        late >= GRACE && late < GRACE + INTERVAL * 5
    })
}

/// What is missing while it is at fault.
fn broken() -> Conditions {
    Conditions {
        fault: Some("broken".into()),
        ..conditions(2)
    }
}

#[test]
fn who_has_not_been_told_everything_leaves_a_master_alone_and_replaces_one_that_is_silent() {
    for (told, patience) in [
        (Told::Everything, Some(Duration::ZERO)),
        (Told::Nothing, Some(GRACE)),
        (Told::Part, None),
    ] {
        let mut group = backup(POLICY, 128);
        group.set_grace(Some(GRACE));
        group.set_told(told, ms(0));
        let expected = patience.map(|patience| ms(100) + patience);
        match (preempts_at(&group, ms(100)), expected) {
            (None, None) => {}
            (Some(at), Some(expected)) => {
                assert!(at >= expected && at < expected + INTERVAL * 5, "{told:?}: {at:?}");
            }
            (at, _) => panic!("{told:?}: {at:?}"),
        }
        for now in 1..20 {
            group.heard(0, heard(3, 128), ms(100 * now));
            assert_eq!(group.pass(ms(100 * now)), []);
        }
        let silent = group.due().unwrap();
        assert_eq!(silent, ms(1900 + 350), "{told:?}");
        group.pass(silent);
        assert_eq!(group.state(), State::Master, "{told:?}");
    }
}

#[test]
fn without_a_peer_nobody_is_waited_for() {
    for told in [Told::Everything, Told::Nothing, Told::Part] {
        let mut group = backup(POLICY, 128);
        group.set_told(told, ms(0));
        assert!(preempts_at(&group, ms(100)) < Some(ms(600)), "{told:?}");
        let mut owner = Group::new(POLICY, [(settings(255), conditions(2))], ms(0));
        owner.set_told(told, ms(0));
        owner.pass(ms(0));
        assert_eq!(owner.state(), State::Master, "{told:?}");
    }
}

#[test]
fn who_is_told_everything_waits_no_longer() {
    let mut group = backup(POLICY, 128);
    group.set_grace(Some(GRACE));
    for now in 1..=20 {
        group.heard(0, heard(3, 100), ms(100 * now));
    }
    group.set_told(Told::Part, ms(2000));
    group.set_told(Told::Everything, ms(2000));
    assert!(preempts_at(&group, ms(2100)) < Some(ms(2600)));
    // The connection is lost before it comes to that.
    group.set_told(Told::Nothing, ms(2000));
    assert!(is_after_grace(preempts_at(&group, ms(2100)), ms(2000)));
}

#[test]
fn the_grace_counts_from_when_a_worse_master_is_heard_first() {
    for begins_again in [false, true] {
        let mut group = backup(POLICY, 128);
        group.set_grace(Some(GRACE));
        // It has heard a better one for longer than the grace, and nothing from its peer.
        for now in 1..=400 {
            group.heard(0, heard(3, 200), ms(100 * now));
        }
        let grace_begins = ms(if begins_again { 60_000 } else { 40_100 });
        if begins_again {
            group.heard(0, heard(3, 100), ms(40_100));
            group.heard(0, heard(3, 200), ms(40_200));
        }
        assert!(is_after_grace(preempts_at(&group, grace_begins), grace_begins));
    }
}

#[test]
fn what_is_said_again_puts_nothing_off() {
    let mut group = backup(POLICY, 128);
    group.set_grace(Some(GRACE));
    let preempts_at = (1..400).map(|step| INTERVAL * step).find(|now| {
        group.set_told(Told::Nothing, *now);
        group.heard(0, heard(3, 100), *now);
        group.pass(*now);
        group.state() == State::Master
    });
    assert!(is_after_grace(preempts_at, INTERVAL));
}

#[test]
fn who_was_master_has_been_told_nothing() {
    for grace in [None, Some(GRACE)] {
        let (mut group, began) = master(POLICY, 128);
        group.set_grace(grace);
        group.set_told(Told::Everything, began);
        // It goes back, and then hears only somebody worse: preempting would be its right.
        group.heard(0, heard(3, 200), began);
        assert_eq!(group.state(), State::Backup);
        let preempts_at = preempts_at(&group, began + INTERVAL);
        match grace {
            None => assert!(preempts_at < Some(began + INTERVAL * 6)),
            Some(_) => assert!(is_after_grace(preempts_at, began + INTERVAL)),
        }
    }
}

#[test]
fn however_long_it_was_at_fault_who_comes_back_waits_for_its_peer() {
    for away in [Duration::ZERO, GRACE / 2, GRACE, GRACE * 4] {
        for priority in [128, 255] {
            let mut group = Group::new(POLICY, [(settings(priority), conditions(2))], ms(0));
            group.pass(ms(0));
            group.pass(ms(350));
            assert_eq!(group.state(), State::Master);
            group.set_grace(Some(GRACE));
            let lost = ms(400);
            group.conditions(0, broken(), lost);
            assert_eq!(group.state(), State::Fault);
            // The connection to the peer is lost as well.
            group.set_told(Told::Nothing, lost);
            let back = lost + away;
            group.conditions(0, conditions(2), back);
            assert_eq!(group.state(), State::Backup, "{away:?} {priority}");
            let at = preempts_at(&group, back);
            assert!(is_after_grace(at, back), "{away:?} {priority}: {at:?}");
            let mut told = group.clone();
            told.set_told(Told::Everything, back);
            assert!(preempts_at(&told, back) < Some(back + INTERVAL * 5));
            // Nobody is waited for who is silent.
            group.pass(group.due().unwrap());
            assert_eq!(group.state(), State::Master);
        }
    }
}

#[test]
fn who_owns_the_addresses_begins_as_master_only_if_there_is_nothing_to_be_told() {
    for (grace, told, expected) in [
        (None, Told::Nothing, State::Master),
        (Some(GRACE), Told::Nothing, State::Backup),
        (Some(GRACE), Told::Part, State::Backup),
        (Some(GRACE), Told::Everything, State::Master),
    ] {
        let mut group = Group::new(POLICY, [(settings(255), conditions(2))], ms(0));
        group.set_grace(grace);
        group.set_told(told, ms(0));
        let mut recovers = group.clone();
        group.pass(ms(0));
        assert_eq!(group.state(), expected, "{grace:?} {told:?}");
        recovers.conditions(0, broken(), ms(0));
        recovers.pass(ms(0));
        assert_eq!(recovers.state(), State::Fault);
        recovers.conditions(0, conditions(2), ms(100_000));
        assert_eq!(recovers.state(), expected, "{grace:?} {told:?}");
        if let Some(silent) = recovers.due() {
            recovers.pass(silent);
        }
        assert_eq!(recovers.state(), State::Master, "if nobody else is");
    }
}

#[test]
fn who_owns_the_addresses_and_has_handed_them_over_listens_first() {
    let mut group = Group::new(POLICY, [(settings(255), conditions(2))], ms(0));
    let began = ms(0);
    group.pass(began);
    group.hand_over(began).unwrap();
    group.conditions(0, broken(), began);
    group.conditions(0, conditions(2), began + INTERVAL);
    assert_eq!(group.state(), State::Backup);
    assert_eq!(preempts_at(&group, began + INTERVAL), None);
    group.pass(group.due().unwrap());
    assert_eq!(group.state(), State::Master, "if nobody else is");
}
