//! When a backup takes over, and what a master does from then on.

use super::*;

#[test]
fn a_backup_that_hears_nobody_takes_over_after_the_master_down_interval() {
    let mut group = backup(POLICY, 128);
    assert_eq!(group.due(), Some(ms(350)));
    assert_eq!(group.pass(ms(349)), []);
    assert_eq!(
        words(&group.pass(ms(350))),
        [
            "advertise 0: 128",
            "take",
            "announce",
            "backup to master: nobody advertises"
        ]
    );
    assert_eq!(words(&group.pass(ms(450))), ["advertise 0: 128", "announce"]);
    assert_eq!(words(&group.pass(ms(550))), ["advertise 0: 128"]);
}

#[test]
fn the_owner_waits_for_nobody() {
    let mut group = Group::new(POLICY, [(settings(255), conditions(2))], ms(0));
    assert_eq!(
        words(&group.pass(ms(0))).last().unwrap(),
        "init to master: priority 255 waits for nobody"
    );
}

#[test]
fn it_takes_part_only_after_the_start_delay() {
    let policy = Policy {
        start_delay: ms(5000),
        ..POLICY
    };
    let mut group = Group::new(policy, [(settings(255), conditions(2))], ms(0));
    assert_eq!(group.due(), Some(ms(5000)));
    assert_eq!(group.pass(ms(4999)), []);
    assert_eq!(group.state(), State::Init);
    group.pass(ms(5000));
    assert_eq!(group.state(), State::Master);
}

#[test]
fn the_interval_is_learned_from_the_master() {
    let mut group = backup(POLICY, 128);
    let slow = Heard {
        interval: Interval::from_centiseconds(100).unwrap(),
        ..heard(3, 200)
    };
    assert_eq!(group.heard(0, slow, ms(10)), []);
    assert_eq!(group.due(), Some(ms(10 + 3500)));
    let view = group.member(0).unwrap();
    assert_eq!(view.master, Some((address(3), 200)));
    assert_eq!(view.interval.centiseconds(), 100);
    group.pass(ms(3510));
    assert_eq!(group.state(), State::Master);
    assert_eq!(
        group.member(0).unwrap().due,
        Some(ms(3510) + INTERVAL),
        "its own interval as master"
    );
}

#[test]
fn a_master_that_leaves_is_followed_by_the_best_backup_within_the_skew() {
    let mut group = backup(POLICY, 128);
    group.heard(0, heard(3, 200), ms(10));
    group.heard(0, heard(3, 0), ms(20));
    assert_eq!(group.due(), Some(ms(70)));
    group.heard(0, heard(3, 0), ms(60));
    assert_eq!(group.due(), Some(ms(70)), "saying it again puts nothing off");
    group.pass(ms(70));
    assert_eq!(group.cause().to_string(), "192.0.2.3 has left");
}

#[test]
fn who_has_left_long_ago_calls_no_election() {
    let mut group = backup(POLICY, 100);
    group.heard(0, heard(4, 200), ms(10));
    let due = group.due();
    group.heard(0, heard(3, 0), ms(20));
    assert_eq!(group.due(), due);
    // Unless the other one has been silent too long itself.
    let late = due.unwrap();
    group.heard(0, heard(3, 0), late);
    assert!(group.due() > due);
}

#[test]
fn lateness_does_not_add_up_and_a_stall_is_followed_by_no_burst() {
    let (mut group, began) = master(POLICY, 128);
    let mut sent = Vec::new();
    for late in [3, 7, 99, 0, 350, 0] {
        let now = group.member(0).unwrap().due.unwrap() + ms(late);
        let actions = group.pass(now);
        assert!(actions.contains(&Action::Advertise {
            member: 0,
            priority: 128
        }));
        sent.push(now.saturating_sub(began).as_millis());
        let again = group.pass(now);
        assert_eq!(again, [], "one for each time");
    }
    assert_eq!(sent, [103, 207, 399, 400, 850, 950]);
}

#[test]
fn neighbours_are_told_at_once_then_again_and_then_now_and_then() {
    let (mut group, began) = master(POLICY, 128);
    let mut told = Vec::new();
    let end = began + Duration::from_mins(3);
    while let Some(due) = group.due().filter(|due| *due < end) {
        let announces = group.pass(due).contains(&Action::Announce);
        told.extend(announces.then(|| due.as_millis() - began.as_millis()));
    }
    assert_eq!(told, [100, 1000, 5000, 65_000, 125_000]);
}
