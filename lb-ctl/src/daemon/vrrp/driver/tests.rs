use std::{collections::BTreeMap, num::NonZeroU8};

use super::*;
use crate::{
    core::{
        config::{Vrrp, examples::with_vrrp},
        vrrp::{State, Subject},
    },
    daemon::vrrp::{
        programs::Overheard,
        testing::{backup, backup_of, instance},
    },
};

/// A driver of one group, which is a backup, and what it has hooks told. Its hands are the test's.
fn driver() -> (Driver, Overheard) {
    let (hands, reports) = Hands::of_a_test();
    let (notifier, told) = Notifier::overheard();
    let running = backup_of(instance(""), notifier.clone(), Duration::ZERO);
    let dependencies = Dependencies::default();
    let mut driver = Driver::idle(
        hands,
        reports,
        Board::default(),
        dependencies,
        notifier,
        Pulse::new(),
    );
    driver.groups.push(running);
    (driver, told)
}

fn settled(round: u64) -> Report {
    Report::Settled {
        round,
        there: BTreeSet::new(),
        not_added: BTreeMap::new(),
        not_removed: BTreeMap::new(),
    }
}

/// Of so much time that nobody else can be master.
fn become_master(driver: &mut Driver) {
    driver.groups[0].pass(Duration::from_secs(10));
    driver.attend();
}

/// Another instance is configured instead of the one that there is, and nobody can see whether its addresses have gone. Returns the round
/// in which that is so.
fn replace_unseen(driver: &mut Driver, change: impl FnOnce(&mut Vrrp)) -> u64 {
    let (left, _) = oneshot::channel();
    let mut config = instance("").config;
    change(&mut config);
    driver.obey(Order::Follow {
        instances: vec![config],
        shared: BTreeSet::new(),
        grace: None,
        left,
    });
    driver.attend();
    let round = driver.round;
    let cause = "no buffer space".to_owned();
    driver.on_report(Report::Blind { round, cause });
    driver.pass();
    round
}

#[tokio::test]
async fn hooks_wait_while_the_host_cannot_be_seen() {
    let (mut driver, mut told) = driver();
    become_master(&mut driver);
    told.states();
    let round = driver.round;
    let cause = "no buffer space".to_owned();
    driver.on_report(Report::Blind { round, cause });
    assert_eq!(told.states(), [], "no address has been put on");
    driver.on_report(settled(round));
    assert_eq!(told.states(), [State::Master]);
}

#[tokio::test]
async fn an_instance_that_begins_anew_is_told_of_after_the_end_of_the_former_one() {
    let (mut driver, mut told) = driver();
    become_master(&mut driver);
    driver.on_report(settled(driver.round));
    told.states();
    let round = replace_unseen(&mut driver, |config| config.vrid = NonZeroU8::new(2).unwrap());
    assert_eq!(told.states(), [], "the addresses are there still");
    driver.on_report(settled(round));
    driver.pass();
    assert_eq!(told.states(), [State::Init, State::Fault]);
}

#[tokio::test]
async fn nobody_waits_for_the_end_of_another_instance() {
    let (mut driver, mut told) = driver();
    become_master(&mut driver);
    driver.on_report(settled(driver.round));
    told.states();
    replace_unseen(&mut driver, |config| config.name = "b".to_owned());
    assert_eq!(
        told.states(),
        [State::Fault],
        "the other one's addresses are there still"
    );
}

#[tokio::test]
async fn what_a_script_says_of_which_nobody_asks_any_more_is_not_kept() {
    let (mut driver, _) = driver();
    let tracking = with_vrrp(
        "[[vrrp]]\nname = \"a\"\nvrid = 1\naddresses = [\"10.0.0.99\"]\n[[vrrp.track]]\nscript = [\"/bin/false\"]\nlower = 10\n",
    );
    let Subject::Script(script) = &tracking.vrrp[0].track[0].subject else {
        panic!("expected a script")
    };
    let verdict = || Order::Script(script.clone(), Err("ended with status 1".into()));
    let follow = |instances: Vec<Vrrp>| {
        let (left, _) = oneshot::channel();
        let shared = BTreeSet::new();
        Order::Follow {
            instances,
            shared,
            grace: None,
            left,
        }
    };
    driver.obey(follow(tracking.vrrp.clone()));
    driver.obey(verdict());
    assert!(driver.dependencies.scripts.contains_key(script));
    driver.obey(follow(vec![instance("").config]));
    // It was on its way.
    driver.obey(verdict());
    driver.obey(follow(tracking.vrrp.clone()));
    assert!(driver.dependencies.scripts.is_empty(), "nothing is known yet");
}

#[tokio::test]
async fn a_handover_holds_for_another_group_of_the_address_until_it_becomes_master() {
    let (mut driver, _) = driver();
    // What was master, and what is made of it by a reload.
    let make_anew = |driver: &mut Driver, vrid: u8, addresses: &[[u8; 4]]| {
        let mut config = instance("").config;
        config.vrid = NonZeroU8::new(vrid).unwrap();
        config.addresses = addresses.iter().map(|address| IpAddr::from(*address)).collect();
        let (left, _) = oneshot::channel();
        driver.obey(Order::Follow {
            instances: vec![config],
            shared: BTreeSet::new(),
            grace: None,
            left,
        });
        assert!(driver.groups.is_empty());
        driver.attend();
        driver.on_report(settled(driver.round));
        let yields = driver.groups[0].yielded().count() > 0;
        let (running, _) = backup(instance(""), Duration::ZERO);
        driver.groups = vec![running];
        become_master(driver);
        yields
    };
    let hand_over = |driver: &mut Driver| {
        become_master(driver);
        assert_eq!(driver.hand_over(None).unwrap(), ["a"]);
    };
    hand_over(&mut driver);
    assert!(make_anew(&mut driver, 2, &[[10, 0, 0, 99], [10, 0, 0, 98]]));
    assert!(
        !make_anew(&mut driver, 2, &[[10, 0, 0, 99]]),
        "it has been master since"
    );
    hand_over(&mut driver);
    assert!(
        !make_anew(&mut driver, 2, &[[10, 0, 0, 98]]),
        "it is another address"
    );
    assert!(
        !make_anew(&mut driver, 2, &[[10, 0, 0, 99]]),
        "it had no address that was handed over"
    );
}
