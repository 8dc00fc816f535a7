//! What two balancers tell each other of decisions.
//!
//! Times cross as what has passed and what is left of them: the clocks of two hosts have nothing in common. A deadline is so late at the
//! other balancer as the word was on its way.

use serde::{Deserialize, Serialize};

use super::{
    AdminOrder, Decisions, Said, Subject, WeightOrder,
    register::{LATEST, Register, Stamp},
};
use crate::core::config::{MAX_WEIGHT, is_name};

/// About how many subjects words of the other balancer are taken in. Operators have their own to say beyond that.
const MOST_SUBJECTS: usize = 8_192;

/// The last word about something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// The backend's name.
    pub backend: String,
    /// The service; `None` for every one.
    pub service: Option<String>,
    /// When it was said: comparable with other words only.
    pub time: u64,
    /// The node by which it was said.
    pub node: String,
    /// What was said.
    pub order: Order,
}

/// What a word says about a backend; `None` takes back what was said before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// What it may do.
    Admin(Option<AdminWord>),
    /// Its weight.
    Weight(Option<WeightOrder>),
}

/// What a backend may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminWord {
    /// All, unlike what is said about it in every service.
    Enabled,
    /// Keep the flows that it has.
    Draining {
        /// For how many milliseconds it has been draining.
        lasted: u64,
        /// In how many milliseconds flows that are left are to be reset.
        left: Option<u64>,
        /// Whether clients that are at home there may still open connections.
        soft: bool,
    },
    /// Nothing.
    Disabled {
        /// For how many milliseconds it has been disabled.
        lasted: u64,
    },
}

/// What has become of words of the other balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The decisions with them; `None` if they change nothing.
    pub decisions: Option<Decisions>,
    /// How many cannot be taken in: there is no such weight, name or time, or no room.
    pub refused: usize,
}

impl Word {
    /// About what it is: a later word about the same replaces it.
    pub fn subject(&self) -> (&str, Option<&str>, bool) {
        let is_weight = matches!(self.order, Order::Weight(_));
        (&self.backend, self.service.as_deref(), is_weight)
    }

    fn is_sound(&self) -> bool {
        // A file of an earlier version has not kept by which node it was said.
        let node = Some(&self.node).filter(|node| !node.is_empty());
        let names = [Some(&self.backend), self.service.as_ref(), node];
        let is_weight = match self.order {
            Order::Weight(Some(WeightOrder::Of(weight))) => weight <= MAX_WEIGHT,
            Order::Weight(_) | Order::Admin(_) => true,
        };
        names.into_iter().flatten().all(|name| is_name(name)) && is_weight && self.time <= LATEST
    }
}

impl AdminOrder {
    const fn told(self, now: u64) -> AdminWord {
        match self {
            Self::Enabled => AdminWord::Enabled,
            Self::Draining {
                since,
                deadline,
                soft,
            } => AdminWord::Draining {
                lasted: now.saturating_sub(since),
                left: match deadline {
                    Some(deadline) => Some(deadline.saturating_sub(now)),
                    None => None,
                },
                soft,
            },
            Self::Disabled { since } => AdminWord::Disabled {
                lasted: now.saturating_sub(since),
            },
        }
    }

    fn heard(word: AdminWord, now: u64) -> Self {
        match word {
            AdminWord::Enabled => Self::Enabled,
            AdminWord::Draining { lasted, left, soft } => Self::Draining {
                since: now.saturating_sub(lasted),
                deadline: left.map(|left| now.saturating_add(left)),
                soft,
            },
            AdminWord::Disabled { lasted } => Self::Disabled {
                since: now.saturating_sub(lasted),
            },
        }
    }
}

impl Decisions {
    /// All words, at a time in milliseconds of Unix time. Also those that take something back: the other balancer may not know.
    pub fn words(&self, now: u64) -> Vec<Word> {
        self.words_since(&Self::default(), now)
    }

    /// The words that there were not before.
    pub fn words_since(&self, before: &Self, now: u64) -> Vec<Word> {
        let mut words = Vec::new();
        for (subject, said) in &self.subjects {
            let known = before.subjects.get(subject);
            let word = |stamp: &Stamp, order| Word {
                backend: subject.backend.clone(),
                service: subject.service.clone(),
                time: stamp.time,
                node: stamp.node.clone(),
                order,
            };
            let stamp = known.and_then(|known| known.admin.as_ref()).map(|it| &it.stamp);
            if let Some(admin) = said.admin.as_ref().filter(|it| Some(&it.stamp) != stamp) {
                let order = Order::Admin(admin.order.map(|order| order.told(now)));
                words.push(word(&admin.stamp, order));
            }
            let stamp = known.and_then(|known| known.weight.as_ref()).map(|it| &it.stamp);
            if let Some(weight) = said.weight.as_ref().filter(|it| Some(&it.stamp) != stamp) {
                let order = Order::Weight(weight.order);
                words.push(word(&weight.stamp, order));
            }
        }
        words
    }

    /// The decisions after words of the other balancer have been heard, at a time in milliseconds of Unix time. In whatever order, and
    /// however often, words are heard, the same comes of it.
    pub fn merged(&self, words: &[Word], now: u64) -> Merged {
        let (mut after, mut refused) = (self.clone(), 0);
        let mut is_changed = false;
        for word in words {
            let subject = Subject::new(&word.backend, word.service.as_deref());
            let has_room = after.subjects.len() < MOST_SUBJECTS || after.subjects.contains_key(&subject);
            if !word.is_sound() || !has_room {
                refused += 1;
                continue;
            }
            let stamp = Stamp {
                time: word.time,
                node: word.node.clone(),
            };
            let Said { admin, weight } = after.subjects.entry(subject).or_default();
            is_changed |= match word.order {
                Order::Admin(order) => {
                    let order = order.map(|it| AdminOrder::heard(it, now));
                    Register::join(admin, Register::of(order, stamp))
                }
                Order::Weight(order) => Register::join(weight, Register::of(order, stamp)),
            };
        }
        if is_changed {
            after.tidy();
        }
        Merged {
            decisions: Some(after).filter(|after| is_changed && after != self),
            refused,
        }
    }
}
