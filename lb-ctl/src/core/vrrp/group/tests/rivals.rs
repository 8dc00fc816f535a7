//! A master hears another one.

use super::*;

#[test]
fn of_two_masters_the_lower_priority_then_the_lower_address_goes_back() {
    for (rival, yields) in [
        (heard(3, 129), true),
        (heard(1, 129), true),
        (heard(3, 128), true),
        (heard(1, 128), false),
        (heard(3, 127), false),
    ] {
        let (mut group, began) = master(POLICY, 128);
        let now = began + ms(50);
        let actions = words(&group.heard(0, rival, now));
        if yields {
            let cause = format!("{} advertises priority {}", rival.from, rival.priority);
            assert_eq!(
                actions,
                ["release".to_owned(), format!("master to backup: {cause}")]
            );
            assert_eq!(group.due(), Some(now + ms(350)));
        } else {
            assert_eq!(actions, ["advertise 0: 128"], "{rival:?}");
            assert_eq!(group.due(), Some(began + INTERVAL), "the announcement");
        }
    }
}

#[test]
fn of_two_owners_the_lower_address_goes_back() {
    let mut group = Group::new(POLICY, [(settings(255), conditions(2))], ms(0));
    group.pass(ms(0));
    assert_eq!(
        words(&group.heard(0, heard(1, 255), ms(50))),
        ["advertise 0: 255"]
    );
    let actions = words(&group.heard(0, heard(3, 255), ms(60)));
    assert_eq!(
        actions,
        ["release", "master to backup: 192.0.2.3 advertises priority 255"]
    );
    // It goes on following, and takes over when the other one is gone.
    for now in [160, 260] {
        assert_eq!(group.heard(0, heard(3, 255), ms(now)), []);
    }
    group.pass(group.due().unwrap());
    assert_eq!(group.state(), State::Master);
}

#[test]
fn a_flood_of_a_rivals_packets_is_answered_four_times_an_interval() {
    for priority in [0, 100] {
        let (mut group, began) = master(POLICY, 128);
        let mut answers = 0;
        for millisecond in 1..=1000 {
            let actions = group.heard(0, heard(3, priority), began + ms(millisecond));
            answers += words(&actions)
                .iter()
                .filter(|word| word.starts_with("advertise"))
                .count();
        }
        assert_eq!(answers, 40, "1 s has ten intervals");
    }
}

#[test]
fn neighbours_are_told_again_after_a_rival() {
    let (mut group, began) = master(POLICY, 128);
    let early = group.heard(0, heard(3, 100), began + ms(50));
    assert!(!early.contains(&Action::Announce), "they have just been told");
    let later = group.heard(0, heard(3, 100), began + ms(20_000));
    assert!(later.contains(&Action::Announce));
}
