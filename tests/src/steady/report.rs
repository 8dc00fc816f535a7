//! What the client reports: a line of JSON for each event.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::conversation::Identity;

/// One line of the client's output. Times are milliseconds since the client's start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Every connection is made and has had its first reply, or is broken already.
    Ready(Progress),
    /// A connection is broken.
    Break(Break),
    /// A short connection has ended, as it should or not.
    Short(Short),
    /// The answer to SIGUSR1.
    Progress(Progress),
    /// The last line, after SIGTERM.
    Summary(Summary),
}

/// What became of the steady connections so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// How many signals have been answered with this one, so that an answer can be told from an earlier one.
    pub request: u64,
    /// When, in milliseconds.
    pub at_ms: u64,
    /// How many connections there are that are not broken.
    pub connections: u64,
    /// How many exchanges all together have finished.
    pub exchanges: u64,
    /// The finished exchanges of that unbroken connection which has the fewest.
    pub fewest: u64,
    /// And of the one with the most.
    pub most: u64,
    /// How many connections are broken.
    pub breaks: u64,
    /// The unbroken connections of each server, by its name.
    pub servers: BTreeMap<String, u64>,
}

/// How a connection broke.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Break {
    /// The connection's port on the client.
    pub port: u16,
    /// When it was noticed, in milliseconds.
    pub at_ms: u64,
    /// Who had answered until then, if anybody had.
    pub server: Option<Identity>,
    /// The request that failed, or the last before an end that came in between; counted from 1.
    pub exchange: u64,
    /// What kind of break it is.
    pub cause: Cause,
    /// What exactly was seen.
    pub detail: String,
}

/// The kinds of breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The connection could not be made.
    NotConnected,
    /// It was reset.
    Reset,
    /// It was closed by the other end.
    Closed,
    /// A reply did not come in time.
    Timeout,
    /// A reply was not what was asked for, or came without being asked for.
    WrongBytes,
    /// Another server, or another connection's end on the same, has replied.
    OtherServer,
    /// The system reported another error.
    System,
}

/// A connection for one exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Short {
    /// When it was begun, in milliseconds.
    pub at_ms: u64,
    /// What it took from the SYN to the reply, in milliseconds.
    pub took_ms: u64,
    /// Who answered, or how it failed.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// How a short connection ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// This server has answered.
    Server(Identity),
    /// It failed.
    Failure(Break),
}

/// All that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// What became of the steady connections.
    #[serde(flatten)]
    pub progress: Progress,
    /// The broken ones, in the order of their breaks.
    pub broken: Vec<Break>,
    /// The longest time between two replies on one connection, in milliseconds; it includes the pause between
    /// exchanges.
    pub longest_gap_ms: u64,
    /// The longest time in which there was no reply on any connection, in milliseconds: with hundreds of connections, for how long
    /// nothing got through.
    pub longest_silence_ms: u64,
    /// The longest time between a request and its reply, in milliseconds.
    pub slowest_reply_ms: u64,
    /// How many short connections each server has answered.
    pub short: BTreeMap<String, u64>,
    /// How many short connections failed. Each is in an event of its own.
    pub short_failures: u64,
    /// The longest that a short connection took, in milliseconds.
    pub slowest_short_ms: u64,
}

impl Event {
    /// Reads a line of output; `None` if it is something else, such as an error message.
    pub fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_back(event: &Event) -> Option<Event> {
        Event::parse(&serde_json::to_string(event).unwrap())
    }

    #[test]
    fn events_are_read_back() {
        let broken = Break {
            port: 10_001,
            at_ms: 12,
            server: None,
            exchange: 1,
            cause: Cause::Timeout,
            detail: "no reply".to_owned(),
        };
        let progress = Progress {
            request: 1,
            at_ms: 5,
            connections: 2,
            exchanges: 9,
            fewest: 4,
            most: 5,
            breaks: 1,
            servers: BTreeMap::from([("backend1".to_owned(), 2)]),
        };
        let identity = Identity {
            name: "backend1".to_owned(),
            serial: 3,
        };
        let short = |outcome| Short {
            at_ms: 1,
            took_ms: 2,
            outcome,
        };
        let summary = Summary {
            progress: progress.clone(),
            broken: vec![broken.clone()],
            longest_gap_ms: 1,
            longest_silence_ms: 1,
            slowest_reply_ms: 2,
            short: BTreeMap::new(),
            short_failures: 0,
            slowest_short_ms: 0,
        };
        for event in [
            Event::Ready(progress.clone()),
            Event::Break(broken.clone()),
            Event::Short(short(Outcome::Server(identity))),
            Event::Short(short(Outcome::Failure(broken))),
            Event::Progress(progress),
            Event::Summary(summary),
        ] {
            assert_eq!(read_back(&event), Some(event));
        }
        assert_eq!(Event::parse("steady: cannot bind"), None);
    }
}
