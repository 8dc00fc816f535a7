//! Changes of state of which nobody has been told yet, since the addresses have not followed.

use std::collections::VecDeque;

use super::transition::Transition;

/// The changes, in their order. What is to be done of addresses is ordered in rounds; who hears of a change may rely on the round that
/// performs it, whatever was ordered before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Untold {
    changes: VecDeque<(Transition, Need)>,
    /// Nobody is told of any before the end of this round, or of a later one.
    held_back: Option<u64>,
}

/// What a change waits for, besides those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Nothing: no address comes or goes by it.
    Nothing,
    /// A round that has not been ordered yet.
    Order,
    /// The end of this round, or of a later one.
    Round(u64),
}

impl Untold {
    /// Others are told of their changes first, which this round performs.
    pub fn hold_back(&mut self, round: u64) {
        self.held_back = Some(round);
    }

    /// The state has changed, and addresses come or go by that, or do not.
    pub fn push(&mut self, transition: Transition, moves_addresses: bool) {
        let need = if moves_addresses {
            Need::Order
        } else {
            Need::Nothing
        };
        self.changes.push_back((transition, need));
    }

    /// This round does all that has not been ordered before.
    pub fn ordered(&mut self, round: u64) {
        let needs = self.changes.iter_mut().map(|(_, need)| need);
        for need in needs.filter(|need| **need == Need::Order) {
            *need = Need::Round(round);
        }
    }

    /// This round has ended, and with it those before.
    pub fn done(&mut self, round: u64) {
        self.held_back = self.held_back.filter(|until| *until > round);
        for (_, need) in &mut self.changes {
            if matches!(need, Need::Round(needed) if *needed <= round) {
                *need = Need::Nothing;
            }
        }
    }

    /// Nothing can be waited for any more.
    pub fn give_up(&mut self) {
        self.held_back = None;
        for (_, need) in &mut self.changes {
            *need = Need::Nothing;
        }
    }

    /// The next change to be told of. None is told of before those that preceded it.
    #[must_use]
    pub fn take(&mut self) -> Option<Transition> {
        let (_, need) = self.changes.front()?;
        if *need != Need::Nothing || self.held_back.is_some() {
            return None;
        }
        self.changes.pop_front().map(|(transition, _)| transition)
    }

    /// Whether all have been told of.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::core::vrrp::{Cause, State};

    fn to(state: State) -> Transition {
        Transition {
            from: State::Init,
            to: state,
            at: Duration::ZERO,
            cause: Cause::Started,
        }
    }

    fn told(untold: &mut Untold) -> Vec<State> {
        std::iter::from_fn(|| untold.take())
            .map(|transition| transition.to)
            .collect()
    }

    #[test]
    fn each_change_waits_for_the_round_that_performs_it() {
        let mut untold = Untold::default();
        untold.push(to(State::Backup), false);
        assert_eq!(told(&mut untold), [State::Backup], "there is nothing to wait for");
        untold.push(to(State::Master), true);
        untold.ordered(7);
        // It comes while round 7 is under way, and is ordered with round 8.
        untold.push(to(State::Fault), true);
        assert_eq!(told(&mut untold), []);
        untold.done(7);
        assert_eq!(told(&mut untold), [State::Master]);
        untold.ordered(8);
        untold.done(7);
        assert_eq!(told(&mut untold), []);
        untold.done(8);
        assert_eq!(told(&mut untold), [State::Fault]);
        assert!(untold.is_empty());
    }

    #[test]
    fn a_later_round_does_for_an_earlier_one_that_was_passed_over() {
        let mut untold = Untold::default();
        untold.push(to(State::Master), true);
        untold.ordered(1);
        untold.push(to(State::Backup), true);
        untold.ordered(2);
        untold.done(2);
        assert_eq!(told(&mut untold), [State::Master, State::Backup]);
    }

    #[test]
    fn what_moves_nothing_still_waits_its_turn_but_not_for_ever() {
        let mut untold = Untold::default();
        untold.push(to(State::Fault), true);
        untold.push(to(State::Backup), false);
        untold.ordered(1);
        assert_eq!(told(&mut untold), []);
        untold.give_up();
        assert_eq!(told(&mut untold), [State::Fault, State::Backup]);
    }
    #[test]
    fn who_is_held_back_waits_for_the_others_round_and_tells_all() {
        let mut untold = Untold::default();
        untold.hold_back(3);
        untold.push(to(State::Fault), false);
        untold.done(2);
        assert_eq!(told(&mut untold), []);
        untold.done(3);
        assert_eq!(told(&mut untold), [State::Fault]);
        untold.hold_back(4);
        untold.push(to(State::Init), false);
        untold.give_up();
        assert_eq!(told(&mut untold), [State::Init]);
    }
}
