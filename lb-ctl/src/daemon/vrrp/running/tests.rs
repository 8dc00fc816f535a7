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

/// A master of two addresses whose sockets are open.
fn master_of_two(hands: &Hands) -> Running {
    let mut two = instance("");
    two.config.addresses.push(OTHER.into());
    let (mut running, _) = backup(Instance::new(two.id, two.config), Duration::ZERO);
    open(&mut running, hands);
    become_master(&mut running);
    running
}

/// Its sockets have been opened.
fn open(running: &mut Running, hands: &Hands) {
    let opened = Opened {
        index: 1,
        sockets: Sockets::of_a_pair(),
        announcer: Announcer::mute(),
    };
    running.instances_mut()[0].open(Ok(opened), hands);
}

/// This address has been put on.
fn take_in_one(running: &mut Running, address: [u8; 4]) {
    running.take_in_one(Place {
        interface: 1,
        virtual_router: None,
        address: address.into(),
    });
}

#[tokio::test]
async fn addresses_are_news_once_all_are_there() {
    let (hands, _reports) = Hands::of_a_test();
    let mut running = master_of_two(&hands);
    drop(running.snapshots(Instant::now()));
    take_in_one(&mut running, OWN);
    assert!(!running.is_news());
    take_in_one(&mut running, OTHER);
    assert!(running.is_news());
}

#[tokio::test]
async fn an_address_that_is_given_away_is_announced_no_more() {
    let (hands, _reports) = Hands::of_a_test();
    let mut running = master_of_two(&hands);
    for address in [OWN, OTHER] {
        take_in_one(&mut running, address);
    }
    let is_announced = |running: &Running| running.instances()[0].is_announced();
    assert!(is_announced(&running));
    let both = running.instances()[0].config.clone();
    reconfigure(&mut running, "", SOON);
    running.reconfigure(vec![both], SOON);
    assert!(!is_announced(&running), "it has not come back yet");
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

const GRACE: Duration = Duration::from_secs(30);

/// That the peer has told so much of an address, of which the controller has seen what has become of this group.
fn knowledge(running: &Running, address: [u8; 4], told: Told) -> Knowledge {
    let address = IpAddr::from(address);
    Knowledge {
        of_vips: [(address, told)].into(),
        seen: [(address, running.tenure(&running.instances[0]))].into(),
    }
}

const OWN: [u8; 4] = [10, 0, 0, 99];
const OTHER: [u8; 4] = [10, 0, 0, 98];

#[test]
fn a_master_is_left_alone_by_those_groups_that_have_not_been_told_everything() {
    let (mut running, _) = backup(instance("preempt_delay = \"0s\"\n"), Duration::ZERO);
    running.set_grace(Some(GRACE));
    let none = Knowledge::default();
    for (known, preempted) in [
        (none, false),
        (knowledge(&running, OTHER, Told::Everything), false),
        (knowledge(&running, OWN, Told::Everything), true),
        (knowledge(&running, OTHER, Told::Part), true),
        (knowledge(&running, OWN, Told::Part), false),
        (knowledge(&running, OWN, Told::Everything), true),
        (knowledge(&running, OWN, Told::Nothing), false),
    ] {
        running.take_in_knowledge(&known, Duration::ZERO);
        assert_eq!(preempts(&running, Duration::ZERO), preempted, "{known:?}");
    }
}

#[test]
fn of_several_addresses_that_counts_of_which_the_least_is_known() {
    let mut two = instance("preempt_delay = \"0s\"\n");
    two.config.addresses.push(OTHER.into());
    let (mut running, _) = backup(two, Duration::ZERO);
    running.set_grace(Some(GRACE));
    for (first, second) in [
        (Told::Everything, Told::Everything),
        (Told::Everything, Told::Nothing),
        (Told::Part, Told::Everything),
    ] {
        let mut known = knowledge(&running, OWN, first);
        let other = knowledge(&running, OTHER, second);
        known.of_vips.extend(other.of_vips);
        known.seen.extend(other.seen);
        running.take_in_knowledge(&known, Duration::ZERO);
        let expected = first == second;
        assert_eq!(
            preempts(&running, Duration::ZERO),
            expected,
            "{first:?} {second:?}"
        );
    }
}

#[test]
fn whoever_was_master_has_been_told_nothing_until_the_controller_knows_of_it() {
    let (mut running, _) = backup(instance("preempt_delay = \"0s\"\n"), Duration::ZERO);
    running.set_grace(Some(GRACE));
    let everything = |running: &Running| knowledge(running, OWN, Told::Everything);
    become_master(&mut running);
    let as_master = everything(&running);
    running.take_in_knowledge(&as_master, SOON);
    running.group.conditions(0, Conditions::default(), SOON);
    let good = running.instances[0].conditions.clone();
    running.group.conditions(0, good, SOON);
    assert_eq!(running.group.state(), State::Backup);
    for outdated in [Knowledge::default(), as_master] {
        running.take_in_knowledge(&outdated, SOON);
        assert!(!preempts(&running, SOON), "{outdated:?}");
    }
    let knowledge = everything(&running);
    running.take_in_knowledge(&knowledge, SOON);
    assert!(preempts(&running, SOON));
}

#[test]
fn what_was_known_when_another_group_had_the_address_is_outdated() {
    let (mut ended, _) = backup(instance(""), Duration::ZERO);
    become_master(&mut ended);
    let as_master = knowledge(&ended, OWN, Told::Everything);
    let mut anew = instance("preempt_delay = \"0s\"\n");
    anew.id += 1;
    let (mut running, _) = backup(anew, SOON);
    running.set_grace(Some(GRACE));
    running.take_in_knowledge(&as_master, SOON);
    assert!(!preempts(&running, SOON));
    let knowledge = knowledge(&running, OWN, Told::Everything);
    running.take_in_knowledge(&knowledge, SOON);
    assert!(preempts(&running, SOON));
}
