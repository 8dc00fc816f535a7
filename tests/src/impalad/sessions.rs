//! Sessions and queries of one coordinator process.
//!
//! A session is a handle, not a connection: any connection may use it, and it outlives its last connection by
//! [`DISCONNECTED_SESSION_TIMEOUT`]. It exists nowhere else: the same handle means nothing to another coordinator. Time
//! comes in as an argument.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::failure::Failure;
use super::handle::{Handle, Id};
use super::statement::{Batch, Statement};

/// How long a session without any connection is kept: Impala's `--disconnected_session_timeout`.
pub const DISCONNECTED_SESSION_TIMEOUT: Duration = Duration::from_mins(15);

/// Names one client connection while it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// The sessions and queries that exist now.
#[derive(Debug, Default)]
pub struct Sessions {
    open: HashMap<Id, Session>,
    queries: HashMap<Id, Query>,
    queries_started: u64,
    queries_finished: u64,
}

#[derive(Debug)]
struct Session {
    secret: Id,
    connections: HashSet<ConnectionId>,
    /// When the last connection closed.
    disconnected: Option<Instant>,
}

/// A statement from its execution until it is closed.
#[derive(Debug)]
pub struct Query {
    session: Handle,
    statement: Statement,
    started: Instant,
    next_row: u64,
    cancelled: bool,
}

/// How far a query is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryState {
    /// No rows yet; there will be at this time.
    Running(Instant),
    /// Rows can be fetched, or have been.
    Finished,
    /// Cancelled by a client.
    Cancelled,
}

impl Sessions {
    /// Adds a session that this connection has opened.
    pub fn open(&mut self, session: Handle, connection: ConnectionId) {
        let connections = HashSet::from([connection]);
        self.open.insert(
            session.id,
            Session {
                secret: session.secret,
                connections,
                disconnected: None,
            },
        );
    }

    /// Checks that a session exists, and notes that this connection uses it.
    pub fn use_session(&mut self, session: Handle, connection: ConnectionId) -> Result<(), Failure> {
        let found = self
            .open
            .get_mut(&session.id)
            .filter(|found| found.secret == session.secret)
            .ok_or(Failure::InvalidSession(session.id))?;
        found.connections.insert(connection);
        found.disconnected = None;
        Ok(())
    }

    /// Ends a session and its queries.
    pub fn close(&mut self, session: Handle) -> Result<(), Failure> {
        if self
            .open
            .get(&session.id)
            .is_none_or(|found| found.secret != session.secret)
        {
            return Err(Failure::InvalidSession(session.id));
        }
        self.open.remove(&session.id);
        self.queries.retain(|_, query| query.session.id != session.id);
        Ok(())
    }

    /// Starts a query in a session.
    pub fn execute(
        &mut self,
        session: Handle,
        connection: ConnectionId,
        query: Id,
        sql: &str,
        now: Instant,
    ) -> Result<Handle, Failure> {
        self.use_session(session, connection)?;
        self.queries_started += 1;
        let statement = Statement::parse(sql)?;
        self.queries.insert(
            query,
            Query {
                session,
                statement,
                started: now,
                next_row: 0,
                cancelled: false,
            },
        );
        Ok(Handle {
            id: query,
            secret: session.secret,
        })
    }

    /// A query by its handle.
    pub fn query(&mut self, query: Handle) -> Result<&mut Query, Failure> {
        self.queries
            .get_mut(&query.id)
            .filter(|found| found.session.secret == query.secret)
            .ok_or(Failure::InvalidQuery(query.id))
    }

    /// Forgets a query.
    pub fn close_query(&mut self, query: Handle, now: Instant) -> Result<(), Failure> {
        let finished = self.query(query)?.state(now) == QueryState::Finished;
        self.queries.remove(&query.id);
        self.queries_finished += u64::from(finished);
        Ok(())
    }

    /// A connection closed. Its sessions stay, for a while.
    pub fn disconnect(&mut self, connection: ConnectionId, now: Instant) {
        for session in self.open.values_mut() {
            if session.connections.remove(&connection) && session.connections.is_empty() {
                session.disconnected = Some(now);
            }
        }
    }

    /// Removes the sessions whose time without a connection is over.
    pub fn expire(&mut self, now: Instant) {
        self.open.retain(|_, session| {
            session
                .disconnected
                .is_none_or(|since| now.saturating_duration_since(since) < DISCONNECTED_SESSION_TIMEOUT)
        });
        self.queries
            .retain(|_, query| self.open.contains_key(&query.session.id));
    }

    /// Sessions that exist.
    pub fn open_sessions(&self) -> usize {
        self.open.len()
    }

    /// Queries that are not closed.
    pub fn registered_queries(&self) -> usize {
        self.queries.len()
    }

    /// Queries that have no rows yet.
    pub fn running_queries(&self, now: Instant) -> usize {
        self.queries
            .values()
            .filter(|query| matches!(query.state(now), QueryState::Running(_)))
            .count()
    }

    /// Statements ever executed, refused ones too.
    pub fn queries_started(&self) -> u64 {
        self.queries_started
    }

    /// Queries ever closed after they had finished.
    pub fn queries_finished(&self) -> u64 {
        self.queries_finished
    }
}

impl Query {
    /// How far the query is.
    pub fn state(&self, now: Instant) -> QueryState {
        if self.cancelled {
            return QueryState::Cancelled;
        }
        // A sleep beyond the end of the clock is as good as one of a year.
        let end = self.started.checked_add(self.statement.run_time());
        let end = end.unwrap_or(now + Duration::from_hours(365 * 24));
        if now < end {
            QueryState::Running(end)
        } else {
            QueryState::Finished
        }
    }

    /// What it executes.
    pub fn statement(&self) -> Statement {
        self.statement
    }

    /// Stops it.
    pub fn cancel(&mut self) {
        self.cancelled = true;
    }

    /// The next rows. Whether there are any is for the caller to ask [`Self::state`].
    pub fn fetch(&mut self, coordinator: &str, max_rows: u64) -> Batch {
        let batch = self.statement.batch(coordinator, self.next_row, max_rows);
        self.next_row += batch.columns.first().map_or(0, |column| column.len() as u64);
        batch
    }

    /// Number of the row that the next fetch begins with.
    pub fn next_row(&self) -> u64 {
        self.next_row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: ConnectionId = ConnectionId(1);
    const TWO: ConnectionId = ConnectionId(2);

    fn handle() -> Handle {
        Handle {
            id: Id::random().unwrap(),
            secret: Id::random().unwrap(),
        }
    }

    fn with_session() -> (Sessions, Handle) {
        let (mut sessions, session) = (Sessions::default(), handle());
        sessions.open(session, ONE);
        (sessions, session)
    }

    #[test]
    fn a_session_needs_its_id_and_its_secret() {
        let (mut sessions, session) = with_session();
        let forged = Handle {
            id: session.id,
            secret: handle().secret,
        };
        for unknown in [handle(), forged] {
            let invalid = Failure::InvalidSession(unknown.id);
            assert_eq!(sessions.use_session(unknown, ONE), Err(invalid.clone()));
            assert_eq!(sessions.close(unknown), Err(invalid));
        }
        assert_eq!(sessions.use_session(session, TWO), Ok(()));
    }

    #[test]
    fn a_session_outlives_its_last_connection_by_its_timeout() {
        let (mut sessions, session) = with_session();
        let start = Instant::now();
        let almost = start + DISCONNECTED_SESSION_TIMEOUT.mul_f64(0.999);
        sessions.use_session(session, TWO).unwrap();
        sessions.disconnect(ONE, start);
        sessions.expire(start + DISCONNECTED_SESSION_TIMEOUT * 9);
        assert_eq!(sessions.open_sessions(), 1, "a connection is left");

        sessions.disconnect(TWO, start);
        sessions.expire(almost);
        assert_eq!(sessions.open_sessions(), 1, "the timeout is not over");

        sessions.use_session(session, ONE).unwrap();
        sessions.expire(start + DISCONNECTED_SESSION_TIMEOUT * 9);
        assert_eq!(sessions.open_sessions(), 1, "a connection is back");

        let query = sessions
            .execute(session, ONE, handle().id, "select rows(1)", start)
            .unwrap();
        sessions.disconnect(ONE, start);
        sessions.expire(start + DISCONNECTED_SESSION_TIMEOUT);
        assert_eq!((sessions.open_sessions(), sessions.registered_queries()), (0, 0));
        assert_eq!(
            sessions.query(query).unwrap_err(),
            Failure::InvalidQuery(query.id)
        );
    }

    #[test]
    fn a_sleep_runs_until_its_time_has_passed() {
        let (mut sessions, session) = with_session();
        let start = Instant::now();
        let query = sessions
            .execute(session, ONE, handle().id, "select sleep(100)", start)
            .unwrap();
        let (almost, end) = (
            start + Duration::from_millis(99),
            start + Duration::from_millis(100),
        );
        let query = sessions.query(query).unwrap();
        assert_eq!(query.state(almost), QueryState::Running(end));
        assert_eq!(query.state(end), QueryState::Finished);
        query.cancel();
        assert_eq!(query.state(end), QueryState::Cancelled);
    }

    #[test]
    fn the_longest_sleep_is_still_running_tomorrow() {
        let (mut sessions, session) = with_session();
        let start = Instant::now();
        let sql = format!("select sleep({})", i64::MAX);
        let query = sessions.execute(session, ONE, handle().id, &sql, start).unwrap();
        let tomorrow = start + Duration::from_hours(24);
        assert!(matches!(
            sessions.query(query).unwrap().state(tomorrow),
            QueryState::Running(_)
        ));
    }

    #[test]
    fn queries_are_counted_when_they_start_and_when_they_have_finished() {
        let (mut sessions, session) = with_session();
        let now = Instant::now();
        let done = sessions
            .execute(session, ONE, handle().id, "select coordinator()", now)
            .unwrap();
        let slow = sessions
            .execute(session, ONE, handle().id, "select sleep(1000)", now)
            .unwrap();
        assert!(
            sessions
                .execute(session, ONE, handle().id, "select 1", now)
                .is_err()
        );
        assert_eq!(
            (sessions.registered_queries(), sessions.running_queries(now)),
            (2, 1)
        );
        sessions.close_query(done, now).unwrap();
        sessions.close_query(slow, now).unwrap();
        assert_eq!(
            sessions.close_query(done, now),
            Err(Failure::InvalidQuery(done.id))
        );
        assert_eq!((sessions.queries_started(), sessions.queries_finished()), (3, 1));
    }

    #[test]
    fn closing_a_session_ends_its_queries_and_no_others() {
        let (mut sessions, session) = with_session();
        let (other, now) = (handle(), Instant::now());
        sessions.open(other, TWO);
        let mine = sessions
            .execute(session, ONE, handle().id, "select rows(9)", now)
            .unwrap();
        let theirs = sessions
            .execute(other, TWO, handle().id, "select rows(9)", now)
            .unwrap();
        sessions.close(session).unwrap();
        assert!(sessions.query(mine).is_err());
        assert_eq!(sessions.query(theirs).unwrap().fetch("c1", 5).columns[0].len(), 5);
        assert_eq!(sessions.query(theirs).unwrap().next_row(), 5);
    }
}
