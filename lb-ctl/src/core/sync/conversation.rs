//! One connection between the two: who they are, which version they speak, what has been taken in, how far behind the other is.

use std::{collections::VecDeque, time::Duration};

use super::wire::{Greeting, Item, Message, TELLS_UNOWNED, VERSIONS};
use crate::core::config::{bad_name, is_name};

/// How many batches may be on their way. A peer that takes no more in gets no more.
const WINDOW: usize = 4;

/// After which silence of ours a sign of life is due.
const PULSE: Duration = Duration::from_secs(1);

/// After which silence of the peer's the connection is given up.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How many characters of what the peer says for people are kept. Our own reasons are shorter.
const BRIEF: usize = 500;

/// What both must have in common for slots of one to mean anything to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// `datapath.hash_seed`.
    pub hash_seed: u64,
    /// `datapath.slots_per_service`.
    pub slots_per_service: u32,
}

/// Why a connection comes to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConversationError {
    /// They have no version in common.
    #[error(
        "expected a peer that speaks one of the versions {} to {} of the protocol, found one that speaks {oldest} to {newest}: \
         upgrade the older of the two",
        VERSIONS.start(),
        VERSIONS.end()
    )]
    Version {
        /// The oldest version of the peer's.
        oldest: u16,
        /// The newest.
        newest: u16,
    },
    /// The peer has our own name.
    #[error(
        "expected a peer with another node.name than ours, found `{0}`: is peer.connect our own address?"
    )]
    Name(String),
    /// Nobody is called so.
    #[error("in what the peer says of its node.name: {0}")]
    BadName(String),
    /// The peer would look for each flow in another slot.
    #[error(
        "expected datapath.{key} to be {ours} as here, found that it is {theirs} on the peer: make them the same"
    )]
    Shape {
        /// Which key.
        key: &'static str,
        /// Ours.
        ours: String,
        /// The peer's.
        theirs: String,
    },
    /// A message that has no place there.
    #[error("expected {expected}, found another message of the peer")]
    Order {
        /// What would have had its place.
        expected: &'static str,
    },
    /// The peer says goodbye.
    #[error("the peer has ended it: {0}")]
    Farewell(String),
    /// The peer has said nothing for a while.
    #[error("expected a sign of life of the peer every {} s, found none for {} s", PULSE.as_secs(), PATIENCE.as_secs())]
    Silence,
}

/// What a message of the peer's is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It is one whom we can talk to.
    Peer {
        /// `node.name`.
        node: String,
        /// Its program's version.
        program: String,
        /// The names of its interfaces, in their order; none if it does not tell them.
        interfaces: Vec<String>,
    },
    /// Something of its state, to be [taken in](Conversation::taken).
    Items {
        /// The number of the batch.
        number: u64,
        /// What is in it.
        items: Vec<Item>,
    },
    /// It has taken in something of ours.
    Taken,
}

/// One connection. Times are since any moment that stays the same.
#[derive(Clone, Debug)]
pub struct Conversation {
    node: String,
    shape: Shape,
    has_greeted: bool,
    /// What both speak, once they have greeted.
    version: u16,
    /// The number of the next batch of ours.
    next: u64,
    /// When each batch was sent that has not been taken in, the oldest first.
    on_the_way: VecDeque<(u64, Duration)>,
    /// The number of the next batch of the peer's.
    expected: u64,
    /// How many batches of the peer's have been taken in.
    taken: u64,
    last_said: Duration,
    last_heard: Duration,
}

impl Conversation {
    /// A connection that begins now, of a node of this name with these interfaces, and the first message to send on it.
    pub fn begin(
        node: &str,
        program: &str,
        shape: Shape,
        interfaces: &[String],
        now: Duration,
    ) -> (Self, Message) {
        let greeting = Greeting {
            oldest: *VERSIONS.start(),
            newest: *VERSIONS.end(),
            node: node.to_owned(),
            program: program.to_owned(),
            hash_seed: shape.hash_seed,
            slots_per_service: shape.slots_per_service,
            interfaces: interfaces.to_vec(),
        };
        let conversation = Self {
            node: node.to_owned(),
            shape,
            has_greeted: false,
            version: *VERSIONS.start(),
            next: 0,
            on_the_way: VecDeque::new(),
            expected: 0,
            taken: 0,
            last_said: now,
            last_heard: now,
        };
        (conversation, Message::Greeting(greeting))
    }

    /// Takes in a message of the peer's.
    pub fn hear(&mut self, message: Message, now: Duration) -> Result<Heard, ConversationError> {
        self.last_heard = now;
        match message {
            Message::Farewell(why) => Err(ConversationError::Farewell(brief(&why))),
            Message::Greeting(greeting) if !self.has_greeted => self.greeted(greeting),
            _ if !self.has_greeted => Err(ConversationError::Order {
                expected: "a greeting first",
            }),
            Message::Greeting(_) => Err(ConversationError::Order {
                expected: "one greeting",
            }),
            Message::Batch { .. } if self.expected - self.taken >= WINDOW as u64 => {
                Err(ConversationError::Order {
                    expected: "no more batches before some have been taken in",
                })
            }
            Message::Batch { number, items } if number == self.expected => {
                self.expected += 1;
                Ok(Heard::Items { number, items })
            }
            Message::Batch { .. } => Err(ConversationError::Order {
                expected: "batches in their order",
            }),
            Message::Taken { number } if number < self.next => {
                self.on_the_way.retain(|(sent, _)| *sent > number);
                Ok(Heard::Taken)
            }
            Message::Taken { .. } => Err(ConversationError::Order {
                expected: "only what has been sent to be taken in",
            }),
        }
    }

    fn greeted(&mut self, greeting: Greeting) -> Result<Heard, ConversationError> {
        let Greeting {
            oldest,
            newest,
            node,
            program,
            hash_seed,
            slots_per_service,
            interfaces,
        } = greeting;
        if oldest > *VERSIONS.end() || newest < *VERSIONS.start() || oldest > newest {
            return Err(ConversationError::Version { oldest, newest });
        }
        if !is_name(&node) {
            return Err(ConversationError::BadName(bad_name(&node)));
        }
        if node == self.node {
            return Err(ConversationError::Name(node));
        }
        if hash_seed != self.shape.hash_seed {
            return Err(ConversationError::Shape {
                key: "hash_seed",
                ours: format!("{:#x}", self.shape.hash_seed),
                theirs: format!("{hash_seed:#x}"),
            });
        }
        if slots_per_service != self.shape.slots_per_service {
            return Err(ConversationError::Shape {
                key: "slots_per_service",
                ours: self.shape.slots_per_service.to_string(),
                theirs: slots_per_service.to_string(),
            });
        }
        self.has_greeted = true;
        self.version = newest.min(*VERSIONS.end());
        Ok(Heard::Peer {
            node,
            program: brief(&program),
            interfaces,
        })
    }

    /// Whether the peer understands what begins here though its service is not ours.
    pub const fn tells_unowned(&self) -> bool {
        self.version >= TELLS_UNOWNED
    }

    /// Whether a batch can be sent now.
    pub fn has_room(&self) -> bool {
        self.has_greeted && self.on_the_way.len() < WINDOW
    }

    /// The number of the batch that is sent next.
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Whether the peer has taken in all batches before the one with this number.
    pub fn has_taken_before(&self, number: u64) -> bool {
        self.on_the_way.front().is_none_or(|(sent, _)| *sent >= number)
    }

    /// The message that carries a batch, which is sent now.
    pub fn batch(&mut self, items: Vec<Item>, now: Duration) -> Message {
        let number = self.next;
        self.next += 1;
        self.on_the_way.push_back((number, now));
        self.last_said = now;
        Message::Batch { number, items }
    }

    /// The message that says that a batch of the peer's has been taken in.
    pub const fn taken(&mut self, number: u64, now: Duration) -> Message {
        self.taken = number.saturating_add(1);
        self.last_said = now;
        Message::Taken { number }
    }

    /// How long the oldest batch has been on its way that the peer has not taken in: no longer ago is what the peer knows, apart from
    /// what still waits to be sent.
    pub fn lag(&self, now: Duration) -> Duration {
        let oldest = self.on_the_way.front();
        oldest.map_or(Duration::ZERO, |(_, sent)| now.saturating_sub(*sent))
    }

    /// When something has to be done though nothing happens: [`Conversation::check`].
    pub fn due(&self) -> Duration {
        let end = self.last_heard + PATIENCE;
        if self.has_room() {
            end.min(self.last_said + PULSE)
        } else {
            end
        }
    }

    /// Whether an empty batch is due, as a sign of life; an error if the peer has given none for too long.
    pub fn check(&self, now: Duration) -> Result<bool, ConversationError> {
        if now.saturating_sub(self.last_heard) >= PATIENCE {
            return Err(ConversationError::Silence);
        }
        Ok(self.has_room() && now.saturating_sub(self.last_said) >= PULSE)
    }
}

/// The beginning of a text of the peer's that is for people: it may be as long as a message.
pub fn brief(text: &str) -> String {
    text.chars().take(BRIEF).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        hash_seed: 7,
        slots_per_service: 65_537,
    };
    const NOW: Duration = Duration::from_secs(100);

    fn begin(node: &str) -> (Conversation, Message) {
        let interfaces = ["eth0".to_owned(), "eth1".to_owned()];
        Conversation::begin(node, "1.0.0", SHAPE, &interfaces, NOW)
    }

    fn greeting() -> Greeting {
        let (_, message) = begin("lb2");
        match message {
            Message::Greeting(greeting) => greeting,
            other => panic!("{other:?}"),
        }
    }

    fn greeted() -> Conversation {
        let (mut conversation, _) = begin("lb1");
        let heard = conversation.hear(Message::Greeting(greeting()), NOW);
        let peer = Heard::Peer {
            node: "lb2".to_owned(),
            program: "1.0.0".to_owned(),
            interfaces: vec!["eth0".to_owned(), "eth1".to_owned()],
        };
        assert_eq!(heard, Ok(peer));
        conversation
    }

    #[test]
    fn only_who_can_make_something_of_it_is_talked_to() {
        let refuse = |change: fn(&mut Greeting)| {
            let (mut conversation, _) = begin("lb1");
            let mut greeting = greeting();
            change(&mut greeting);
            let error = conversation.hear(Message::Greeting(greeting), NOW).unwrap_err();
            assert!(!conversation.has_room(), "{error}");
            error.to_string()
        };
        assert!(refuse(|it| (it.oldest, it.newest) = (3, 4)).contains("speaks 3 to 4"));
        assert!(refuse(|it| it.oldest = 0xffff).contains("upgrade"));
        assert!(refuse(|it| it.node = "lb1".to_owned()).contains("our own address"));
        assert!(refuse(|it| it.node = "a\nb".to_owned()).contains("letters, digits"));
        assert!(refuse(|it| it.hash_seed = 8).contains("datapath.hash_seed to be 0x7"));
        assert!(refuse(|it| it.slots_per_service = 127).contains("found that it is 127"));
    }

    /// One that is upgraded later.
    #[test]
    fn an_older_peer_is_told_nothing_that_it_does_not_understand() {
        let (mut conversation, _) = begin("lb1");
        assert!(!conversation.tells_unowned());
        let older = Greeting {
            oldest: 1,
            newest: 1,
            ..greeting()
        };
        conversation.hear(Message::Greeting(older), NOW).unwrap();
        assert!(conversation.has_room() && !conversation.tells_unowned());
        assert!(greeted().tells_unowned());
    }

    #[test]
    fn what_is_said_for_people_is_cut_short() {
        let (mut conversation, _) = begin("lb1");
        let program = "1".repeat(60_000);
        let heard = conversation.hear(
            Message::Greeting(Greeting {
                program,
                ..greeting()
            }),
            NOW,
        );
        let Ok(Heard::Peer { program, .. }) = heard else {
            panic!("{heard:?}");
        };
        assert_eq!(program.len(), BRIEF);
        let farewell = Message::Farewell("é".repeat(30_000));
        let error = conversation.hear(farewell, NOW).unwrap_err().to_string();
        assert!(error.chars().count() < BRIEF + 50, "{error}");
    }

    #[test]
    fn nothing_is_taken_in_before_the_greeting_nor_out_of_order() {
        let batch = |number| Message::Batch {
            number,
            items: Vec::new(),
        };
        let (mut conversation, _) = begin("lb1");
        assert!(conversation.hear(batch(0), NOW).is_err());
        let order = |result| matches!(result, Err(ConversationError::Order { .. }));
        assert!(order(greeted().hear(Message::Greeting(greeting()), NOW)));
        assert!(order(greeted().hear(batch(1), NOW)));
        assert!(
            order(greeted().hear(Message::Taken { number: 0 }, NOW)),
            "nothing was sent"
        );
        let mut conversation = greeted();
        assert!(conversation.hear(batch(0), NOW).is_ok());
        assert!(
            order(conversation.hear(batch(0), NOW)),
            "a batch that comes again"
        );
    }

    #[test]
    fn who_sends_more_than_is_taken_in_is_given_up() {
        let batch = |number| Message::Batch {
            number,
            items: Vec::new(),
        };
        let mut conversation = greeted();
        for number in 0..WINDOW as u64 {
            assert!(conversation.hear(batch(number), NOW).is_ok());
        }
        let order = |result| matches!(result, Err(ConversationError::Order { .. }));
        assert!(order(conversation.clone().hear(batch(4), NOW)));
        conversation.taken(0, NOW);
        assert!(conversation.hear(batch(4), NOW).is_ok());
        assert!(order(conversation.hear(batch(5), NOW)));
    }

    #[test]
    fn who_takes_nothing_in_gets_nothing_more() {
        let mut conversation = greeted();
        let second = |seconds| NOW + Duration::from_secs(seconds);
        for number in 0..WINDOW as u64 {
            assert!(conversation.has_room());
            conversation.batch(Vec::new(), second(number));
        }
        assert!(!conversation.has_room());
        assert_eq!(conversation.due(), NOW + PATIENCE, "no sign of life can be given");
        assert_eq!(conversation.lag(second(4)), Duration::from_secs(4));
        conversation
            .hear(Message::Taken { number: 1 }, second(4))
            .unwrap();
        assert!(conversation.has_room());
        assert!(conversation.has_taken_before(2) && !conversation.has_taken_before(3));
        assert_eq!(conversation.lag(second(4)), Duration::from_secs(2));
        conversation
            .hear(Message::Taken { number: 3 }, second(4))
            .unwrap();
        assert_eq!(conversation.lag(second(9)), Duration::ZERO);
        assert!(conversation.has_taken_before(conversation.next()));
    }

    #[test]
    fn both_give_signs_of_life_and_miss_the_others() {
        let mut conversation = greeted();
        assert_eq!(conversation.due(), NOW + PULSE);
        assert_eq!(conversation.check(NOW), Ok(false));
        assert_eq!(conversation.check(NOW + PULSE), Ok(true));
        conversation.batch(Vec::new(), NOW + PULSE);
        assert_eq!(conversation.due(), NOW + PULSE * 2);
        assert_eq!(
            conversation.check(NOW + PATIENCE),
            Err(ConversationError::Silence)
        );
    }
}
