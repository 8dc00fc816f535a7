//! What the client has seen so far, and the events that it reports.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::conversation::Identity;
use super::report::{Break, Event, Outcome, Progress, Short, Summary};

/// Keeps account of all connections.
pub struct Ledger {
    start: Instant,
    connections: Vec<Connection>,
    broken: Vec<Break>,
    longest_gap: Duration,
    /// When there was last a reply on any connection.
    last_reply: Option<Instant>,
    longest_silence: Duration,
    slowest_reply: Duration,
    short: BTreeMap<String, u64>,
    short_failures: u64,
    slowest_short_ms: u64,
    requests: u64,
    report: Box<dyn Fn(&Event)>,
}

/// A steady connection.
#[derive(Clone, Default)]
struct Connection {
    server: Option<String>,
    exchanges: u64,
    /// When the last reply was there, once there was one.
    replied: Option<Instant>,
    is_broken: bool,
}

impl Ledger {
    /// The ledger of this many steady connections, from now on; `report` gets every event.
    pub fn new(connections: u16, report: impl Fn(&Event) + 'static) -> Self {
        Self {
            start: Instant::now(),
            connections: vec![Connection::default(); usize::from(connections)],
            broken: Vec::new(),
            longest_gap: Duration::ZERO,
            last_reply: None,
            longest_silence: Duration::ZERO,
            slowest_reply: Duration::ZERO,
            short: BTreeMap::new(),
            short_failures: 0,
            slowest_short_ms: 0,
            requests: 0,
            report: Box::new(report),
        }
    }

    /// Milliseconds since the start.
    pub fn now(&self) -> u64 {
        milliseconds(self.start.elapsed())
    }

    /// A connection has had a reply of this server, after this time.
    pub fn exchanged(&mut self, connection: usize, server: Option<&Identity>, took: Duration) {
        let Some(connection) = self.connections.get_mut(connection) else {
            return;
        };
        let now = Instant::now();
        if let Some(before) = connection.replied.replace(now) {
            self.longest_gap = self.longest_gap.max(now - before);
        }
        if let Some(before) = self.last_reply.replace(now) {
            self.longest_silence = self.longest_silence.max(now - before);
        }
        if connection.server.is_none() {
            connection.server = server.map(|server| server.name.clone());
        }
        connection.exchanges += 1;
        self.slowest_reply = self.slowest_reply.max(took);
    }

    /// A connection is broken, for good.
    pub fn broken(&mut self, connection: usize, broken: Break) {
        if let Some(connection) = self.connections.get_mut(connection) {
            connection.is_broken = true;
        }
        (self.report)(&Event::Break(broken.clone()));
        self.broken.push(broken);
    }

    /// A short connection has ended.
    pub fn short(&mut self, short: Short) {
        match &short.outcome {
            Outcome::Server(server) => *self.short.entry(server.name.clone()).or_default() += 1,
            Outcome::Failure(_) => self.short_failures += 1,
        }
        self.slowest_short_ms = self.slowest_short_ms.max(short.took_ms);
        (self.report)(&Event::Short(short));
    }

    /// All connections have been begun.
    pub fn ready(&self) {
        (self.report)(&Event::Ready(self.progress()));
    }

    /// Somebody wants to know how things are.
    pub fn report_progress(&mut self) {
        self.requests += 1;
        (self.report)(&Event::Progress(self.progress()));
    }

    /// It is over.
    pub fn summarise(&self) {
        let now = Instant::now();
        // A connection that has been silent for long, and is not yet broken, counts as well.
        let open_gap = self
            .unbroken()
            .filter_map(|connection| Some(now - connection.replied?))
            .max();
        let longest_gap = self.longest_gap.max(open_gap.unwrap_or_default());
        (self.report)(&Event::Summary(Summary {
            progress: self.progress(),
            broken: self.broken.clone(),
            longest_gap_ms: milliseconds(longest_gap),
            longest_silence_ms: milliseconds(self.longest_silence),
            slowest_reply_ms: milliseconds(self.slowest_reply),
            short: self.short.clone(),
            short_failures: self.short_failures,
            slowest_short_ms: self.slowest_short_ms,
        }));
    }

    fn progress(&self) -> Progress {
        let exchanges = || self.unbroken().map(|connection| connection.exchanges);
        let mut servers = BTreeMap::new();
        for server in self.unbroken().filter_map(|connection| connection.server.clone()) {
            *servers.entry(server).or_default() += 1;
        }
        Progress {
            request: self.requests,
            at_ms: self.now(),
            connections: exchanges().map(|_| 1).sum(),
            exchanges: self
                .connections
                .iter()
                .map(|connection| connection.exchanges)
                .sum(),
            fewest: exchanges().min().unwrap_or_default(),
            most: exchanges().max().unwrap_or_default(),
            breaks: self.broken.len() as u64,
            servers,
        }
    }

    fn unbroken(&self) -> impl Iterator<Item = &Connection> {
        self.connections.iter().filter(|connection| !connection.is_broken)
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::steady::report::Cause;

    fn server(name: &str) -> Identity {
        Identity {
            name: name.to_owned(),
            serial: 1,
        }
    }

    fn broken(port: u16) -> Break {
        Break {
            port,
            at_ms: 1,
            server: None,
            exchange: 2,
            cause: Cause::Reset,
            detail: "reset".to_owned(),
        }
    }

    #[test]
    fn broken_connections_count_as_breaks_and_no_longer_as_connections() {
        let events = Rc::new(RefCell::new(Vec::new()));
        let told = Rc::clone(&events);
        let mut ledger = Ledger::new(3, move |event| told.borrow_mut().push(event.clone()));
        for (connection, name, exchanges) in [(0, "a", 2), (1, "a", 5), (2, "b", 1)] {
            for _ in 0..exchanges {
                ledger.exchanged(connection, Some(&server(name)), Duration::from_millis(3));
            }
        }
        ledger.broken(2, broken(12));
        ledger.report_progress();
        ledger.short(Short {
            at_ms: 1,
            took_ms: 9,
            outcome: Outcome::Failure(broken(13)),
        });
        ledger.short(Short {
            at_ms: 1,
            took_ms: 4,
            outcome: Outcome::Server(server("b")),
        });
        ledger.summarise();

        let events = events.borrow();
        assert_eq!(events[0], Event::Break(broken(12)));
        let Event::Progress(progress) = &events[1] else {
            panic!("{:?}", events[1])
        };
        assert_eq!(
            (progress.request, progress.connections, progress.breaks),
            (1, 2, 1)
        );
        assert_eq!((progress.exchanges, progress.fewest, progress.most), (8, 2, 5));
        assert_eq!(progress.servers, BTreeMap::from([("a".to_owned(), 2)]));
        let Event::Summary(summary) = &events[4] else {
            panic!("{:?}", events[4])
        };
        assert_eq!(summary.broken, [broken(12)]);
        assert_eq!(summary.short, BTreeMap::from([("b".to_owned(), 1)]));
        assert_eq!((summary.short_failures, summary.slowest_short_ms), (1, 9));
        assert_eq!(summary.slowest_reply_ms, 3);
    }
}
