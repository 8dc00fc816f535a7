//! What changes about an instance: its conditions, its settings, and an operator's mind.

use super::*;

#[test]
fn a_fault_takes_the_addresses_off_and_its_end_begins_anew() {
    let (mut group, began) = master(POLICY, 128);
    let broken = Conditions {
        fault: Some("eth0 is down".into()),
        ..conditions(2)
    };
    let now = began + ms(30);
    assert_eq!(
        words(&group.conditions(0, broken.clone(), now)),
        ["advertise 0: 0", "release", "master to fault: eth0 is down"]
    );
    assert_eq!(group.due(), None);
    assert_eq!(group.heard(0, heard(3, 1), now), []);
    assert_eq!(group.conditions(0, broken, now), [], "no news");
    assert_eq!(
        words(&group.conditions(0, conditions(2), now)),
        ["fault to backup: nothing is missing any more"]
    );
    assert_eq!(group.due(), Some(now + ms(350)));
    let without = Conditions::default();
    assert_eq!(
        words(&group.conditions(0, without, now)),
        ["backup to fault: the interface has no address to send from"]
    );
}

#[test]
fn a_lowered_priority_is_told_at_once_and_never_below_1() {
    let (mut group, began) = master(POLICY, 128);
    let lowered = |lowered| Conditions {
        lowered,
        ..conditions(2)
    };
    assert_eq!(
        words(&group.conditions(0, lowered(50), began)),
        ["advertise 0: 78"]
    );
    assert_eq!(
        words(&group.conditions(0, lowered(255), began)),
        ["advertise 0: 1"]
    );
    assert_eq!(group.conditions(0, lowered(200), began), []);
    let mut backup = backup(POLICY, 128);
    backup.conditions(0, lowered(64), ms(0));
    assert_eq!(backup.due(), Some(ms(375)), "as one of priority 64");
    backup.conditions(0, lowered(0), ms(0));
    assert_eq!(backup.due(), Some(ms(350)));
}

#[test]
fn nothing_lowers_the_owners_priority() {
    let lowered = Conditions {
        lowered: 100,
        ..conditions(2)
    };
    let group = Group::new(POLICY, [(settings(255), lowered)], ms(0));
    assert_eq!(group.member(0).unwrap().priority, 255);
}

#[test]
fn other_settings_count_from_the_next_packet_on() {
    let (mut group, now) = master(POLICY, 128);
    let faster = Settings {
        interval: Interval::MIN,
        ..settings(90)
    };
    assert_eq!(
        words(&group.configure(POLICY, &[faster], now)),
        ["advertise 0: 90"]
    );
    assert_eq!(group.due(), Some(now + ms(10)));
    assert_eq!(group.configure(POLICY, &[faster], now), []);
}

#[test]
fn who_has_handed_over_leaves_the_next_master_alone() {
    let (mut group, now) = master(POLICY, 128);
    assert_eq!(
        words(&group.hand_over(now).unwrap()),
        [
            "advertise 0: 0",
            "release",
            "master to backup: handed over by an operator"
        ]
    );
    assert_eq!(
        group.due(),
        Some(now + ms(450)),
        "later than any other that has not heard that we leave"
    );
    assert_eq!(group.hand_over(now), Err(NotMaster(State::Backup)));
    group.heard(0, heard(3, 1), now + ms(100));
    assert_eq!(group.due(), Some(now + ms(450)));
    assert!(group.yields());
    group.pass(now + ms(450));
    assert_eq!(group.state(), State::Master);
    assert!(!group.yields(), "it has been needed after all");
}

#[test]
fn the_end_leaves_nothing_behind() {
    let (mut group, now) = master(POLICY, 128);
    assert_eq!(
        words(&group.stop(now)),
        ["advertise 0: 0", "release", "master to init: stopped"]
    );
    assert_eq!(group.due(), None);
    assert_eq!(group.stop(now), []);
    let mut backup = backup(POLICY, 128);
    assert_eq!(words(&backup.stop(now)), ["backup to init: stopped"]);
}
