//! What a program of the operator's is told of changes of state, and in which order.

use std::time::Duration;

use super::transition::{State, Transition};
use crate::core::command::Command;

/// A program that is run at each change of an instance's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The program.
    pub command: Command,
    /// How long it may run.
    pub timeout: Duration,
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The instance.
    pub instance: String,
    /// What has changed.
    pub transition: Transition,
    /// The instance's priority now, lowered by what is missing.
    pub priority: u8,
}

impl Notice {
    /// What follows the configured arguments: the same four words that keepalived appends.
    pub fn arguments(&self) -> [String; 4] {
        let state = match self.transition.to {
            State::Init => "STOP",
            State::Backup => "BACKUP",
            State::Master => "MASTER",
            State::Fault => "FAULT",
        };
        [
            "INSTANCE".into(),
            self.instance.clone(),
            state.into(),
            self.priority.to_string(),
        ]
    }

    /// The same and more, as variables of the environment.
    pub fn variables(&self) -> [(&'static str, String); 6] {
        let Transition { from, to, cause, .. } = &self.transition;
        [
            ("LB_INSTANCE", self.instance.clone()),
            ("LB_STATE", to.to_string()),
            ("LB_PREVIOUS_STATE", from.to_string()),
            ("LB_PRIORITY", self.priority.to_string()),
            ("LB_CAUSE", cause.name().to_owned()),
            ("LB_CAUSE_TEXT", cause.to_string()),
        ]
    }
}

/// The notices of one instance: one is delivered at a time, in order. While that takes longer than the state lasts, the latest one
/// takes the place of those before it.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    is_delivering: bool,
    waiting: Option<Notice>,
}

/// What becomes of a new notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Posted {
    /// It is to be delivered now.
    Deliver(Notice),
    /// It waits for the end of the delivery before it.
    Waits {
        /// The one that nobody will be told of.
        passed_over: Option<Notice>,
    },
}

impl Outbox {
    /// Takes a notice in.
    pub fn post(&mut self, notice: Notice) -> Posted {
        if self.is_delivering {
            let passed_over = self.waiting.replace(notice);
            return Posted::Waits { passed_over };
        }
        self.is_delivering = true;
        Posted::Deliver(notice)
    }

    /// The delivery has ended, however. Returns what is to be delivered next.
    pub fn delivered(&mut self) -> Option<Notice> {
        let next = self.waiting.take();
        self.is_delivering = next.is_some();
        next
    }

    /// Whether there is nothing left to be delivered.
    pub fn is_idle(&self) -> bool {
        !self.is_delivering
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::vrrp::Cause;

    fn notice(from: State, to: State, priority: u8) -> Notice {
        Notice {
            instance: "pair".into(),
            transition: Transition {
                from,
                to,
                at: Duration::ZERO,
                cause: Cause::Fault("the link of eth1 is down".into()),
            },
            priority,
        }
    }

    #[test]
    fn whoever_knows_the_scripts_of_keepalived_finds_the_same_words() {
        let words = |to| notice(State::Backup, to, 90).arguments().join(" ");
        assert_eq!(
            State::ALL.map(words),
            [
                "INSTANCE pair STOP 90",
                "INSTANCE pair BACKUP 90",
                "INSTANCE pair MASTER 90",
                "INSTANCE pair FAULT 90"
            ]
        );
        let variables = notice(State::Master, State::Fault, 90).variables();
        let variables = variables.map(|(name, value)| format!("{name}={value}"));
        assert_eq!(
            variables.join("\n"),
            "LB_INSTANCE=pair\nLB_STATE=fault\nLB_PREVIOUS_STATE=master\nLB_PRIORITY=90\nLB_CAUSE=fault\n\
             LB_CAUSE_TEXT=the link of eth1 is down"
        );
    }

    proptest! {
        /// Whatever comes when: one at a time, in order, the last one in any case, and each is delivered or said to be passed over.
        #[test]
        fn the_latest_state_is_always_told_of(posts in prop::collection::vec(any::<bool>(), 1..50)) {
            let mut outbox = Outbox::default();
            let (mut sent, mut delivered, mut passed_over) = (0_u8, Vec::new(), Vec::new());
            let mut delivering = false;
            for post in posts {
                if post {
                    sent += 1;
                    match outbox.post(notice(State::Backup, State::Master, sent)) {
                        Posted::Deliver(notice) => {
                            prop_assert!(!delivering);
                            delivering = true;
                            delivered.push(notice.priority);
                        }
                        Posted::Waits { passed_over: over } => {
                            prop_assert!(delivering);
                            passed_over.extend(over.map(|notice| notice.priority));
                        }
                    }
                } else if delivering {
                    let next = outbox.delivered();
                    delivering = next.is_some();
                    delivered.extend(next.map(|notice| notice.priority));
                }
            }
            while delivering {
                let next = outbox.delivered();
                delivering = next.is_some();
                delivered.extend(next.map(|notice| notice.priority));
            }
            prop_assert!(outbox.is_idle());
            prop_assert!(delivered.is_sorted());
            prop_assert_eq!(delivered.last().copied(), (sent > 0).then_some(sent));
            let mut all = [delivered, passed_over].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (1..=sent).collect::<Vec<_>>());
        }
    }
}
