use super::*;
use crate::daemon::vrrp::testing::{backup, instance};

const SOON: Duration = Duration::from_secs(10);

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
