//! What is said on a connection, without the connection: requests, replies, and what is wrong with a reply.
//!
//! A request is a line `NUMBER PAYLOAD`. The reply is the line `NUMBER PAYLOAD NAME SERIAL`: the request, then the
//! server's name and the number that the server has given to the connection.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::random::Random;

/// The longest payload, in bytes: more than fits one segment on an Ethernet, so that some requests take two.
pub const LONGEST_PAYLOAD: usize = 2000;

/// Longer than any reply, in bytes.
pub const LONGEST_REPLY: usize = LONGEST_PAYLOAD + 512;

/// How many bytes around a difference a message shows.
const SHOWN: usize = 24;

/// One end of a connection, as the server names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    /// The server's name, without white space.
    pub name: String,
    /// The connection's number among all that this server process has accepted, counted from 1.
    pub serial: u64,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.serial)
    }
}

/// What is wrong with a reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is not the reply to the request.
    #[error("{0}")]
    WrongBytes(String),
    /// Another connection's end has sent it.
    #[error("expected an answer of {expected}, found one of {found}")]
    OtherServer {
        /// Who has answered so far.
        expected: Identity,
        /// Who answers now.
        found: Identity,
    },
}

/// A connection's side of the client.
#[derive(Clone, Debug)]
pub struct Conversation {
    random: Random,
    /// Number and text of the last request.
    number: u64,
    request: Vec<u8>,
    server: Option<Identity>,
}

impl Conversation {
    /// A conversation whose payloads are given by the seed.
    pub fn of(seed: u64) -> Self {
        Self {
            random: Random::of(seed),
            number: 0,
            request: Vec::new(),
            server: None,
        }
    }

    /// Makes the next request, of random length and content.
    pub fn request(&mut self) -> &[u8] {
        const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
        self.number += 1;
        let length = 1 + self.random.below(LONGEST_PAYLOAD);
        self.request.clear();
        self.request
            .extend_from_slice(format!("{} ", self.number).as_bytes());
        let end = self.request.len() + length;
        while self.request.len() < end {
            let bits = self.random.next();
            let digits = bits
                .to_le_bytes()
                .map(|byte| DIGITS[usize::from(byte) % DIGITS.len()]);
            let missing = digits.len().min(end - self.request.len());
            self.request.extend_from_slice(&digits[..missing]);
        }
        self.request.push(b'\n');
        &self.request
    }

    /// Examines the reply to the last request.
    pub fn examine(&mut self, reply: &[u8]) -> Result<(), Fault> {
        let asked = self.request.strip_suffix(b"\n").unwrap_or(&self.request);
        let Some(found) = reply
            .strip_prefix(asked)
            .and_then(|rest| rest.strip_prefix(b" "))
            .and_then(parse_identity)
        else {
            return Err(Fault::WrongBytes(difference(self.number, asked, reply)));
        };
        match &self.server {
            None => self.server = Some(found),
            Some(expected) if *expected == found => {}
            Some(expected) => {
                return Err(Fault::OtherServer {
                    expected: expected.clone(),
                    found,
                });
            }
        }
        Ok(())
    }

    /// Who answers, once somebody has.
    pub fn server(&self) -> Option<&Identity> {
        self.server.as_ref()
    }

    /// How many requests have been made.
    pub fn number(&self) -> u64 {
        self.number
    }
}

/// The server's reply to a request, which ends with a line feed like the request.
pub fn reply(request: &[u8], server: &Identity) -> Vec<u8> {
    let request = request.strip_suffix(b"\n").unwrap_or(request);
    [request, format!(" {server}\n").as_bytes()].concat()
}

/// Reads `NAME SERIAL` and the line feed, exactly as a server writes them.
fn parse_identity(text: &[u8]) -> Option<Identity> {
    let text = std::str::from_utf8(text).ok()?;
    let (name, serial) = text.strip_suffix('\n')?.split_once(' ')?;
    let identity = Identity {
        name: name.to_owned(),
        serial: serial.parse().ok()?,
    };
    // Not "+7", not "007".
    (!name.is_empty() && serial == identity.serial.to_string()).then_some(identity)
}

/// Where a reply departs from what it should be.
fn difference(number: u64, expected: &[u8], found: &[u8]) -> String {
    let same = expected.iter().zip(found).take_while(|(a, b)| a == b).count();
    let part = |text: &[u8]| {
        let from = same.saturating_sub(SHOWN).min(text.len());
        let to = (same + SHOWN).min(text.len());
        text[from..to].escape_ascii().to_string()
    };
    format!(
        "reply {number} differs from byte {same} on: expected \"{}\" there and then the server's identity, found \"{}\" \
         in {} bytes",
        part(expected),
        part(found),
        found.len()
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn server(name: &str, serial: u64) -> Identity {
        Identity {
            name: name.to_owned(),
            serial,
        }
    }

    #[test]
    fn a_server_that_stays_the_same_is_right() {
        let mut conversation = Conversation::of(1);
        assert_eq!(conversation.server(), None);
        for number in 1..100 {
            let answer = reply(conversation.request(), &server("backend1", 7));
            assert!(answer.len() < LONGEST_REPLY);
            assert_eq!(conversation.examine(&answer), Ok(()));
            assert_eq!(conversation.number(), number);
        }
        assert_eq!(conversation.server(), Some(&server("backend1", 7)));
    }

    #[test]
    fn another_server_and_another_connection_of_the_same_are_told_apart() {
        for found in [server("backend2", 7), server("backend1", 8)] {
            let mut conversation = Conversation::of(1);
            let expected = server("backend1", 7);
            let answer = reply(conversation.request(), &expected);
            conversation.examine(&answer).unwrap();
            let answer = reply(conversation.request(), &found);
            let fault = Fault::OtherServer { expected, found };
            assert_eq!(conversation.examine(&answer), Err(fault));
        }
    }

    #[test]
    fn the_reply_to_an_earlier_request_is_wrong() {
        let mut conversation = Conversation::of(1);
        let late = reply(conversation.request(), &server("backend1", 7));
        conversation.request();
        let fault = conversation.examine(&late).unwrap_err().to_string();
        assert!(fault.starts_with("reply 2 differs from byte 0 on"), "{fault}");
    }

    #[test]
    fn requests_differ_between_connections_and_some_exceed_a_segment() {
        let (mut one, mut other) = (Conversation::of(1), Conversation::of(2));
        let lengths: Vec<_> = (0..100).map(|_| one.request().len()).collect();
        assert!(lengths.iter().any(|&length| length > 1460) && lengths.iter().any(|&length| length < 500));
        assert_ne!(Conversation::of(1).request(), other.request());
    }

    proptest! {
        #[test]
        fn no_damage_goes_unnoticed(seed: u64, at: prop::sample::Index, change in 1u8..) {
            let mut conversation = Conversation::of(seed);
            let identity = server("backend1", 7);
            let first = reply(conversation.request(), &identity);
            conversation.examine(&first).unwrap();
            let good = reply(conversation.request(), &identity);
            let mut bad = good.clone();
            let at = at.index(bad.len());
            bad[at] ^= change;
            prop_assert!(conversation.examine(&bad).is_err(), "byte {at} of {}", bad.len());
            bad.truncate(at);
            prop_assert!(conversation.examine(&bad).is_err(), "cut at {at}");
            prop_assert!(conversation.examine(&good).is_ok());
        }
    }
}
