use std::num::NonZeroU8;

use super::*;

const INTERVAL: Duration = Duration::from_millis(100);

/// Their source, of which the last byte tells them apart.
fn address(host: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, host])
}

fn settings(priority: u8) -> Settings {
    Settings {
        priority: NonZeroU8::new(priority).unwrap(),
        interval: Interval::from_centiseconds(10).unwrap(),
    }
}

fn conditions(host: u8) -> Conditions {
    Conditions {
        source: Some(address(host)),
        ..Conditions::default()
    }
}

const POLICY: Policy = Policy {
    preempt: true,
    preempt_delay: Duration::ZERO,
    start_delay: Duration::ZERO,
    refresh: Duration::from_mins(1),
};

fn heard(host: u8, priority: u8) -> Heard {
    Heard {
        from: address(host),
        priority,
        interval: Interval::from_centiseconds(10).unwrap(),
        checksum: super::super::ChecksumForm::Message,
    }
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// What actions come to, in words.
fn words(actions: &[Action]) -> Vec<String> {
    let word = |action: &Action| match action {
        Action::Advertise { member, priority } => format!("advertise {member}: {priority}"),
        Action::Take => "take".into(),
        Action::Announce => "announce".into(),
        Action::Release => "release".into(),
        Action::Changed(Transition { from, to, cause, .. }) => format!("{from} to {to}: {cause}"),
    };
    actions.iter().map(word).collect()
}

/// A backup of this priority at host 2, begun at 0.
fn backup(policy: Policy, priority: u8) -> Group {
    let mut group = Group::new(policy, [(settings(priority), conditions(2))], ms(0));
    assert_eq!(words(&group.pass(ms(0))), ["init to backup: started"]);
    group
}

/// A master of this priority at host 2, since the time returned.
fn master(policy: Policy, priority: u8) -> (Group, Duration) {
    let mut group = backup(policy, priority);
    let now = group.due().unwrap();
    group.pass(now);
    assert_eq!(group.state(), State::Master);
    (group, now)
}

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
