use super::*;
use crate::{
    adapters::vrrp::{Announcer, Sockets},
    core::vrrp::{Conditions, Heard},
    daemon::vrrp::{
        hands::Opened,
        testing::{backup, instance},
    },
};

const SOON: Duration = Duration::from_secs(10);

/// As the only one of its group, from now on.
fn reconfigure(running: &mut Running, keys: &str, now: Duration) {
    running.reconfigure(vec![instance(keys).config], now);
}

/// It becomes master, since nobody else is there.
fn become_master(running: &mut Running) {
    running.pass(SOON);
    assert!(running.is_master());
}

#[test]
fn hooks_are_told_of_a_change_once_the_round_has_ended_that_performs_it() {
    let (mut running, mut told) = backup(instance(""), Duration::ZERO);
    assert_eq!(told.states(), [State::Backup], "no address comes or goes by it");
    become_master(&mut running);
    assert!(running.hands_are_needed());
    running.hands_work(1);
    running.hand_over(SOON).unwrap();
    assert!(running.hands_are_needed());
    running.hands_work(2);
    running.hands_are_done(1);
    assert_eq!(told.states(), [State::Master], "the addresses are there still");
    running.hands_are_done(2);
    assert_eq!(told.states(), [State::Backup]);
    assert!(!running.has_notices());
}

/// Its addresses could not be put on for so long that it has given up.
fn give_up(running: &mut Running) {
    let taking = &mut running.instances_mut()[0].taking;
    taking.failed("no memory", SOON);
    taking.failed("no memory", SOON + Duration::from_secs(1));
    assert!(taking.fault().is_some());
}

#[test]
fn a_reload_gives_another_try_to_other_addresses_only() {
    let (mut running, _) = backup(instance(""), Duration::ZERO);
    give_up(&mut running);
    let fault = |running: &Running| running.instances()[0].taking.fault().is_some();
    // The same again, which a daemon that has to catch up says every few seconds; and something else about it.
    for keys in ["", "priority = 50\n"] {
        reconfigure(&mut running, keys, SOON);
        assert!(fault(&running), "{keys}");
    }
    let mut other = instance("").config;
    other.addresses.push([10, 0, 0, 98].into());
    running.reconfigure(vec![other.clone()], SOON);
    assert!(!fault(&running));
    give_up(&mut running);
    other.addresses.reverse();
    running.reconfigure(vec![other], SOON);
    assert!(fault(&running), "another order is no other addresses");
}

#[tokio::test]
async fn sockets_that_nobody_can_listen_to_are_asked_for_again() {
    let (mut running, _) = backup(instance(""), Duration::ZERO);
    let (hands, _reports) = Hands::of_a_test();
    let parts = |running: &Running| running.parts().collect::<Vec<_>>();
    for _ in 0..2 {
        let asked = parts(&running);
        let opened = Opened {
            index: 1,
            sockets: Sockets::of_a_file(),
            announcer: Announcer::mute(),
        };
        running.instances_mut()[0].open(Ok(opened), &hands);
        assert_ne!(parts(&running), asked, "the hands take it that they are open");
    }
}

/// Whether it takes over from a master of lower priority, which it hears from this time on.
fn preempts(running: &Running, began: Duration) -> bool {
    let mut group = running.group.clone();
    let heard = Heard {
        from: [10, 0, 0, 3].into(),
        priority: 50,
        interval: running.instances[0].config.settings.interval,
        checksum: running.instances[0].config.checksum,
    };
    (1..20).any(|step| {
        let now = began + Duration::from_millis(250) * step;
        group.heard(0, heard, now);
        group.pass(now);
        group.state() == State::Master
    })
}

#[test]
fn a_master_is_left_alone_by_those_groups_that_are_behind() {
    let (mut running, _) = backup(instance("preempt_delay = \"0s\"\n"), Duration::ZERO);
    for (address, preempted) in [([10, 0, 0, 98], true), ([10, 0, 0, 99], false)] {
        running.take_in_knowledge(&Knowledge {
            behind: [address.into()].into(),
            ..Knowledge::default()
        });
        assert_eq!(preempts(&running, Duration::ZERO), preempted, "{address:?}");
    }
    running.take_in_knowledge(&Knowledge::default());
    assert!(preempts(&running, Duration::ZERO));
}

#[test]
fn whoever_was_master_is_behind_until_the_controller_knows_of_it() {
    let (mut running, _) = backup(instance("preempt_delay = \"0s\"\n"), Duration::ZERO);
    running.set_grace(Some(Duration::from_secs(30)));
    let seen = |running: &Running| {
        let tenure = running.tenure(&running.instances[0]);
        let seen = [(IpAddr::from([10, 0, 0, 99]), tenure)].into();
        Knowledge {
            seen,
            ..Knowledge::default()
        }
    };
    become_master(&mut running);
    let as_master = seen(&running);
    running.group.conditions(0, Conditions::default(), SOON);
    let good = running.instances[0].conditions.clone();
    running.group.conditions(0, good, SOON);
    assert_eq!(running.group.state(), State::Backup);
    for outdated in [Knowledge::default(), as_master] {
        running.take_in_knowledge(&outdated);
        assert!(!preempts(&running, SOON), "{outdated:?}");
    }
    let knowledge = seen(&running);
    running.take_in_knowledge(&knowledge);
    assert!(preempts(&running, SOON));
}
