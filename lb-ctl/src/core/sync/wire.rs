//! The form of what crosses the wire: one message is one `postcard` value, at most [`LIMIT`] bytes long.
//!
//! A greeting is read whatever its version is, and so never changes but by fields at its end: what an older one does not say is left
//! empty, and what a later one says beyond is not looked at. Everything else is of the version that both have agreed on.

use std::{net::IpAddr, ops::RangeInclusive};

use serde::{Deserialize, Serialize};

use crate::core::operator::Word;

/// The versions of the protocol that this program speaks.
pub const VERSIONS: RangeInclusive<u16> = 1..=2;

/// From which version on [what begins elsewhere](Item::Unowned) is told.
pub(super) const TELLS_UNOWNED: u16 = 2;

/// The longest message, in bytes: what one encrypted frame of the transport has room for.
pub const LIMIT: usize = 65_000;

/// How many bytes of a batch are filled with items: the last one may be as long as the longest item is.
pub(super) const BATCH: usize = if cfg!(test) { 120 } else { 45_000 };

/// How many runs of slots an item has at most, so that it is far from [`LIMIT`].
pub(super) const RUNS: usize = 1_024;

/// What one balancer says to the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The first message of each side.
    Greeting(Greeting),
    /// Why there is no more to say. For people.
    Farewell(String),
    /// Something of the sender's state. An empty one is a sign of life.
    Batch {
        /// Counted from 0.
        number: u64,
        /// To be taken in together, in this order.
        items: Vec<Item>,
    },
    /// All batches up to this one have been taken in.
    Taken {
        /// Its number.
        number: u64,
    },
}

/// Who speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// The oldest version of the protocol that it speaks.
    pub oldest: u16,
    /// The newest one.
    pub newest: u16,
    /// `node.name`.
    pub node: String,
    /// The version of the program. For people.
    pub program: String,
    /// `datapath.hash_seed`: which slot a client has depends on it.
    pub hash_seed: u64,
    /// `datapath.slots_per_service`: the same.
    pub slots_per_service: u32,
    /// The names of `datapath.interfaces`, in their order. [Behind the others](Message::encode), since there are balancers that greet
    /// without them.
    #[serde(skip)]
    pub interfaces: Vec<String>,
}

/// A piece of state. Services and backends are introduced before they are referred to, by numbers of the sender's choice that count
/// for one connection. A later introduction replaces an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Item {
    /// Introduces a service that the sender owns.
    Service {
        /// From now on.
        id: u16,
        /// Its address.
        vip: IpAddr,
        /// Its port.
        port: u16,
    },
    /// Introduces a backend.
    Backend {
        /// From now on. Never 0, which is nobody.
        id: u16,
        /// Of this service.
        service: u16,
        /// What it is called.
        name: String,
        /// Its own address.
        address: IpAddr,
        /// The port on which it serves.
        port: u16,
    },
    /// The sender follows a service from now on that it did not follow, or did not have, when it was told of it: begin anew with it.
    Again {
        /// Its address.
        vip: IpAddr,
        /// Its port.
        port: u16,
    },
    /// What an operator has decided about a backend, on either balancer, whoever owns what.
    Decision(Word),
    /// All flows and clients of a service follow.
    Begin {
        /// The service.
        service: u16,
    },
    /// They have followed: those that were not named are no more.
    Complete {
        /// The service.
        service: u16,
    },
    /// How slots are.
    Slots {
        /// Of this service.
        service: u16,
        /// The first of them, counted from the service's first.
        first: u32,
        /// From there on.
        runs: Vec<Run>,
    },
    /// How a flow is; `None`: it has no record.
    Flow {
        /// Of this service.
        service: u16,
        /// The client's address.
        client: IpAddr,
        /// The client's port.
        port: u16,
        /// Its established record.
        flow: Option<Flow>,
    },
    /// Where a client is at home; `None`: nothing is noted of it.
    Client {
        /// Of this service.
        service: u16,
        /// Its address.
        client: IpAddr,
        /// What is noted.
        home: Option<Home>,
    },
    /// Introduces a service that the sender does not own. Its packets may come to the sender nevertheless; of flows and clients is told what has
    /// begun there, and nothing else. From version 2 on.
    Unowned {
        /// From now on.
        id: u16,
        /// Its address.
        vip: IpAddr,
        /// Its port.
        port: u16,
    },
}

/// Slots in a row that are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// How many.
    pub length: u32,
    /// The backend on which flows without a record live, or 0.
    pub settled: u16,
    /// The backend for new flows, or 0.
    pub current: u16,
    /// Whether the slots are tracked.
    pub tracked: bool,
    /// For how many ticks their grace period has lasted, if they are in one.
    pub grace: Option<u32>,
}

/// The established record of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Where it lives.
    pub backend: u16,
    /// Whether a FIN or RST was its last word.
    pub closing: bool,
    /// For how many ticks it has been silent.
    pub idle: u32,
    /// With `nat`, the VIP's port that stands for the client's, else 0.
    pub port: u16,
    /// With `nat`, how answers get to the client.
    pub way: Option<WayToClient>,
}

/// How answers get to the client of a translated connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayToClient {
    /// The MAC address of the client, or of the router before it.
    pub mac: [u8; 6],
    /// On which of the sender's `datapath.interfaces`, counted from 0; `None`: on the one that the answer came in on.
    pub interface: Option<u8>,
}

/// Where a client of a service with affinity is at home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// The backend.
    pub backend: u16,
    /// For how many ticks it has been silent.
    pub idle: u32,
}

/// Why bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// They are none, of this version.
    #[error("expected a message of the peer, found {length} bytes that are none: {reason}")]
    Form {
        /// How many.
        length: usize,
        /// What is wrong.
        reason: postcard::Error,
    },
    /// There is more than a message.
    #[error("expected one message of the peer, found {excess} bytes after it")]
    Excess {
        /// How many.
        excess: usize,
    },
    /// It would not fit a frame.
    #[error("expected a message of at most {LIMIT} bytes, found {length}")]
    Length {
        /// Its length.
        length: usize,
    },
}

impl Message {
    /// The bytes of a message.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let form = |reason| WireError::Form { length: 0, reason };
        let mut bytes = postcard::to_stdvec(self).map_err(form)?;
        if let Self::Greeting(Greeting { interfaces, .. }) = self
            && !interfaces.is_empty()
        {
            bytes = postcard::to_extend(interfaces, bytes).map_err(form)?;
        }
        match bytes.len() {
            length if length > LIMIT => Err(WireError::Length { length }),
            _ => Ok(bytes),
        }
    }

    /// The message that bytes are.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() > LIMIT {
            return Err(WireError::Length { length: bytes.len() });
        }
        let form = |reason| WireError::Form {
            length: bytes.len(),
            reason,
        };
        let (mut message, rest) = postcard::take_from_bytes(bytes).map_err(form)?;
        if rest.is_empty() {
            return Ok(message);
        }
        let Self::Greeting(greeting) = &mut message else {
            return Err(WireError::Excess { excess: rest.len() });
        };
        // A later version may have more to say still.
        (greeting.interfaces, _) = postcard::take_from_bytes(rest).map_err(form)?;
        Ok(message)
    }
}

impl Item {
    /// How many bytes it takes at most.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Slots { runs, .. } => 16 + runs.len() * 18,
            Self::Backend { name, .. } => 32 + name.len(),
            Self::Decision(word) => {
                64 + word.backend.len() + word.service.as_ref().map_or(0, String::len) + word.node.len()
            }
            Self::Service { .. }
            | Self::Again { .. }
            | Self::Begin { .. }
            | Self::Complete { .. }
            | Self::Unowned { .. } => 32,
            Self::Flow { .. } | Self::Client { .. } => 48,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::operator::{AdminWord, Order, WeightOrder};

    fn words() -> impl Strategy<Value = Word> {
        let admin = any::<Option<(u64, Option<u64>, bool)>>().prop_map(|order| {
            Order::Admin(order.map(|(lasted, left, soft)| AdminWord::Draining { lasted, left, soft }))
        });
        let weight = any::<Option<u32>>().prop_map(|order| Order::Weight(order.map(WeightOrder::Of)));
        let names = ("[a-z]{1,63}", prop::option::of("[a-z]{1,63}"), "[a-z]{1,63}");
        (names, any::<u64>(), prop_oneof![admin, weight]).prop_map(
            |((backend, service, node), time, order)| Word {
                backend,
                service,
                time,
                node,
                order,
            },
        )
    }

    fn items() -> impl Strategy<Value = Item> {
        let run = any::<(u32, u16, u16, bool, Option<u32>)>().prop_map(
            |(length, settled, current, tracked, grace)| Run {
                length,
                settled,
                current,
                tracked,
                grace,
            },
        );
        let way = any::<Option<([u8; 6], Option<u8>)>>()
            .prop_map(|way| way.map(|(mac, interface)| WayToClient { mac, interface }));
        let flow =
            (any::<(u16, bool, u32, u16)>(), way).prop_map(|((backend, closing, idle, port), way)| Flow {
                backend,
                closing,
                idle,
                port,
                way,
            });
        prop_oneof![
            any::<(u16, IpAddr, u16)>().prop_map(|(id, vip, port)| Item::Service { id, vip, port }),
            (any::<(u16, u16, IpAddr, u16)>(), "[a-z0-9.-]{1,63}").prop_map(
                |((id, service, address, port), name)| {
                    Item::Backend {
                        id,
                        service,
                        name,
                        address,
                        port,
                    }
                }
            ),
            any::<(u16, IpAddr, u16)>().prop_map(|(id, vip, port)| Item::Unowned { id, vip, port }),
            any::<(IpAddr, u16)>().prop_map(|(vip, port)| Item::Again { vip, port }),
            words().prop_map(Item::Decision),
            any::<u16>().prop_map(|service| Item::Begin { service }),
            any::<u16>().prop_map(|service| Item::Complete { service }),
            (any::<(u16, u32)>(), prop::collection::vec(run, 0..RUNS))
                .prop_map(|((service, first), runs)| Item::Slots { service, first, runs }),
            (any::<(u16, IpAddr, u16)>(), prop::option::of(flow)).prop_map(
                |((service, client, port), flow)| {
                    Item::Flow {
                        service,
                        client,
                        port,
                        flow,
                    }
                }
            ),
            any::<(u16, IpAddr, Option<(u16, u32)>)>().prop_map(|(service, client, home)| Item::Client {
                service,
                client,
                home: home.map(|(backend, idle)| Home { backend, idle }),
            }),
        ]
    }

    fn messages() -> impl Strategy<Value = Message> {
        prop_oneof![
            any::<(u16, u16, String, String, u64, u32, Vec<String>)>().prop_map(
                |(oldest, newest, node, program, hash_seed, slots_per_service, interfaces)| Message::Greeting(
                    Greeting {
                        oldest,
                        newest,
                        node,
                        program,
                        hash_seed,
                        slots_per_service,
                        interfaces,
                    }
                )
            ),
            ".*".prop_map(Message::Farewell),
            any::<u64>().prop_map(|number| Message::Taken { number }),
            (any::<u64>(), prop::collection::vec(items(), 0..3))
                .prop_map(|(number, items)| Message::Batch { number, items }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_said_is_heard(message in messages()) {
            let bytes = message.encode().unwrap();
            prop_assert_eq!(Message::decode(&bytes), Ok(message));
        }

        #[test]
        fn no_item_is_longer_than_it_says(item in items()) {
            let bytes = postcard::to_stdvec(&item).unwrap();
            prop_assert!(bytes.len() <= item.size(), "{} of {}", bytes.len(), item.size());
        }

        #[test]
        fn nothing_that_is_cut_off_is_a_message(message in messages(), cut: prop::sample::Index) {
            let bytes = message.encode().unwrap();
            let cut = cut.index(bytes.len());
            match Message::decode(&bytes[..cut]) {
                Err(_) => {}
                // Unless it is what one says that tells no interfaces.
                Ok(Message::Greeting(found)) => {
                    let Message::Greeting(said) = message else {
                        panic!("{message:?}");
                    };
                    let interfaces = Vec::new();
                    prop_assert_eq!(found, Greeting { interfaces, ..said });
                }
                Ok(found) => prop_assert!(false, "{found:?}"),
            }
        }

        #[test]
        fn noise_is_refused_or_read_but_never_more(bytes: Vec<u8>) {
            if let Ok(message) = Message::decode(&bytes) {
                // Numbers may have been padded.
                prop_assert!(message.encode().unwrap().len() <= bytes.len());
            }
        }
    }

    fn greeting(interfaces: &[&str]) -> Message {
        Message::Greeting(Greeting {
            oldest: 1,
            newest: 9,
            node: "lb2".to_owned(),
            program: "9.0.0".to_owned(),
            hash_seed: 1,
            slots_per_service: 65_537,
            interfaces: interfaces.iter().map(|&name| name.to_owned()).collect(),
        })
    }

    #[test]
    fn a_greeting_that_says_more_is_understood() {
        let greeting = greeting(&["eth0", "eth1"]);
        let mut bytes = greeting.encode().unwrap();
        bytes.extend([1, 2, 3]);
        assert_eq!(Message::decode(&bytes), Ok(greeting));
        let mut taken = Message::Taken { number: 1 }.encode().unwrap();
        taken.push(0);
        assert_eq!(Message::decode(&taken), Err(WireError::Excess { excess: 1 }));
    }

    /// Of a balancer that does not tell its interfaces, and does not look at what is behind all else.
    #[test]
    fn an_older_greeting_is_understood_and_ours_begins_like_it() {
        let older = b"\x00\x01\x09\x03lb2\x059.0.0\x01\x81\x80\x04";
        assert_eq!(Message::decode(older), Ok(greeting(&[])));
        let ours = greeting(&["eth0"]).encode().unwrap();
        assert_eq!(ours, [older.as_slice(), b"\x01\x04eth0"].concat());
    }

    #[test]
    fn gigantic_lengths_are_refused_before_anything_is_reserved() {
        // A batch that says it has 2^63 items.
        let bytes = [2, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert!(matches!(Message::decode(&bytes), Err(WireError::Form { .. })));
        assert_eq!(
            Message::decode(&vec![0; LIMIT + 1]),
            Err(WireError::Length { length: LIMIT + 1 })
        );
    }
}
