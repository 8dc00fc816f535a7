//! Several members move together.

use super::*;

/// Two members at host 2, both of priority 128.
fn pair() -> Group {
    let members = [(settings(128), conditions(2)), (settings(128), conditions(2))];
    let mut group = Group::new(POLICY, members, ms(0));
    group.pass(ms(0));
    group
}

fn master_pair() -> (Group, Duration) {
    let mut group = pair();
    let now = group.due().unwrap();
    let actions = words(&group.pass(now));
    assert_eq!(actions[..2], ["advertise 0: 128", "advertise 1: 128"]);
    (group, now)
}

#[test]
fn a_group_takes_over_only_what_nobody_holds_any_part_of() {
    for member in [0, 1] {
        let mut group = pair();
        group.heard(member, heard(3, 200), ms(300));
        assert_eq!(group.pass(ms(350)), []);
        assert_eq!(group.due(), Some(ms(650)));
        group.pass(ms(650));
        assert_eq!(group.state(), State::Master);
    }
}

#[test]
fn a_group_goes_back_as_a_whole() {
    let (mut group, now) = master_pair();
    assert_eq!(
        words(&group.heard(0, heard(3, 200), now)),
        [
            "advertise 1: 0",
            "release",
            "master to backup: 192.0.2.3 advertises priority 200"
        ]
    );
    let (mut group, now) = master_pair();
    let broken = Conditions {
        fault: Some("eth1 is down".into()),
        ..conditions(2)
    };
    assert_eq!(
        words(&group.conditions(1, broken, now)),
        [
            "advertise 0: 0",
            "advertise 1: 0",
            "release",
            "master to fault: eth1 is down"
        ]
    );
}

#[test]
fn the_first_member_decides_as_long_as_it_hears_anybody() {
    let (mut group, began) = master_pair();
    // The first member hears a worse rival, the second a better one.
    for millisecond in (0..2000).step_by(100) {
        let now = began + ms(millisecond);
        group.heard(0, heard(3, 100), now);
        group.heard(1, heard(3, 200), now);
        assert_eq!(group.state(), State::Master);
    }
    // Then the first one hears nothing any more.
    let mut millisecond = 2000;
    while group.state() == State::Master {
        group.heard(1, heard(3, 200), began + ms(millisecond));
        millisecond += 100;
        assert!(millisecond < 3000);
    }
    assert_eq!(
        group.since(),
        began + ms(2400),
        "a Master_Down_Interval after 1,900"
    );
}

#[test]
fn who_comes_first_decides_after_a_reload_too() {
    let (mut group, now) = master_pair();
    group.reorder(&[1, 0]);
    assert_eq!(group.state(), State::Master);
    // What was the second member is the first one now, and decides.
    assert_eq!(
        words(&group.heard(0, heard(3, 200), now)),
        [
            "advertise 1: 0",
            "release",
            "master to backup: 192.0.2.3 advertises priority 200"
        ]
    );
}
