//! Masters of lower priority.

use super::*;

#[test]
fn a_master_of_lower_priority_is_preempted() {
    let mut group = backup(POLICY, 128);
    for now in [100, 200, 300] {
        group.heard(0, heard(3, 127), ms(now));
    }
    group.pass(ms(350));
    assert_eq!(group.cause().to_string(), "192.0.2.3 has the lower priority 127");
}

#[test]
fn one_of_the_same_priority_is_not_whatever_its_address() {
    for host in [1, 3] {
        let mut group = backup(POLICY, 128);
        group.heard(0, heard(host, 128), ms(100));
        assert_eq!(group.due(), Some(ms(450)));
    }
}

#[test]
fn without_preemption_any_master_is_followed() {
    let policy = Policy {
        preempt: false,
        ..POLICY
    };
    let mut group = backup(policy, 128);
    group.heard(0, heard(3, 1), ms(100));
    assert_eq!(group.due(), Some(ms(450)));
    group.pass(ms(450));
    assert_eq!(group.cause().to_string(), "192.0.2.3 advertises no more");
}

#[test]
fn preemption_is_delayed_from_the_first_advertisement_of_lower_priority() {
    let policy = Policy {
        preempt_delay: ms(1000),
        ..POLICY
    };
    let mut group = backup(policy, 128);
    let mut now = 100;
    while group.state() == State::Backup {
        assert!(now < 2000);
        group.heard(0, heard(3, 100), ms(now));
        now += 100;
        if group.due().unwrap() < ms(now) {
            group.pass(group.due().unwrap());
        }
    }
    // The delay ends 1,000 ms after the first at 100; the last that counts is at 1,000, and 350 ms later it is missed.
    assert_eq!(group.since(), ms(1350));
    assert_eq!(group.cause().to_string(), "192.0.2.3 has the lower priority 100");
}

#[test]
fn a_delayed_preemption_waits_for_no_dead_master() {
    let policy = Policy {
        preempt_delay: Duration::from_hours(1),
        ..POLICY
    };
    let mut group = backup(policy, 128);
    group.heard(0, heard(3, 100), ms(100));
    assert_eq!(group.due(), Some(ms(450)));
}
