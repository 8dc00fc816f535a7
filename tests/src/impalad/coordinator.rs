//! One coordinator process: its sessions, its queries, and the state that an operator or a test puts it in.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::handle::{Handle, Id};
use super::sessions::{ConnectionId, QueryState, Sessions};
use super::statement::{Batch, Statement};

/// How long `FetchResults` waits for the first row: Impala's `FETCH_ROWS_TIMEOUT_MS`.
const FETCH_ROWS_TIMEOUT: Duration = Duration::from_secs(10);

/// What the coordinator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// All is well.
    Serving,
    /// New sessions, statements and probes fail; fetch, cancel and close work; `/healthz` says OK. A real coordinator exits
    /// when its queries are done or its deadline has passed; this one stays until it is told otherwise.
    ShuttingDown,
    /// All service threads are taken: a new connection waits, unanswered. Connections that have a thread keep it.
    Saturated,
    /// `/healthz` answers 503, as before the statestore has registered the daemon. Everything else works.
    NotReady,
}

/// The figures that the web pages show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The coordinator's name.
    pub name: String,
    /// What it does.
    pub mode: Mode,
    /// When the process started; another value means another process.
    pub process_start_time: String,
    /// Sessions that exist.
    pub open_sessions: usize,
    /// Queries that are not closed.
    pub queries_registered: usize,
    /// Queries that have no rows yet.
    pub queries_running: usize,
    /// Statements executed since the start.
    pub queries_started: u64,
    /// Queries closed after they had finished, since the start.
    pub queries_finished: u64,
}

/// The coordinator, shared by its service threads and its web pages.
#[derive(Debug)]
pub struct Coordinator {
    name: String,
    process: Mutex<Process>,
    /// Told whenever a fetch that waits may have to look again.
    changed: Condvar,
}

/// All that a restart forgets.
#[derive(Debug)]
struct Process {
    mode: Mode,
    start_time: SystemTime,
    sessions: Sessions,
}

impl Process {
    #[expect(clippy::disallowed_methods, reason = "the time of the start is only shown")]
    fn start() -> Self {
        Self {
            mode: Mode::Serving,
            start_time: SystemTime::now(),
            sessions: Sessions::default(),
        }
    }

    fn check_not_shutting_down(&self) -> Result<(), Failure> {
        match self.mode {
            Mode::ShuttingDown => Err(Failure::ShuttingDown {
                queries: self.sessions.registered_queries(),
            }),
            Mode::Serving | Mode::Saturated | Mode::NotReady => Ok(()),
        }
    }
}

impl Coordinator {
    /// A coordinator that serves.
    pub fn new(name: String) -> Self {
        Self {
            name,
            process: Mutex::new(Process::start()),
            changed: Condvar::new(),
        }
    }

    /// The process, with the sessions removed whose time is over.
    fn process(&self) -> MutexGuard<'_, Process> {
        // A panic elsewhere left no invariant broken: every change is one call into `Sessions`.
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        process.sessions.expire(Instant::now());
        process
    }

    /// The coordinator's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Changes what the coordinator does.
    pub fn set_mode(&self, mode: Mode) {
        self.process().mode = mode;
    }

    /// Forgets everything, as a new process has.
    pub fn restart(&self) {
        let mut process = self.process();
        // Never the same start time again, whatever the clock does: it is how others notice the restart.
        let earliest = process.start_time + Duration::from_micros(1);
        *process = Process::start();
        process.start_time = process.start_time.max(earliest);
        drop(process);
        self.changed.notify_all();
    }

    /// The figures of this moment.
    pub fn snapshot(&self) -> Snapshot {
        let process = self.process();
        Snapshot {
            name: self.name.clone(),
            mode: process.mode,
            process_start_time: timestamp(process.start_time),
            open_sessions: process.sessions.open_sessions(),
            queries_registered: process.sessions.registered_queries(),
            queries_running: process.sessions.running_queries(Instant::now()),
            queries_started: process.sessions.queries_started(),
            queries_finished: process.sessions.queries_finished(),
        }
    }

    /// `OpenSession`. `new` is the handle that the session is to have.
    pub fn open_session(&self, connection: ConnectionId, new: Handle) -> Result<Handle, Failure> {
        let mut process = self.process();
        process.check_not_shutting_down()?;
        process.sessions.open(new, connection);
        Ok(new)
    }

    /// `CloseSession`.
    pub fn close_session(&self, session: Handle) -> Result<(), Failure> {
        let result = self.process().sessions.close(session);
        self.changed.notify_all();
        result
    }

    /// Checks a session handle for `GetInfo`, which is what the health probe calls.
    pub fn check_session(&self, connection: ConnectionId, session: Handle) -> Result<(), Failure> {
        self.process().sessions.use_session(session, connection)
    }

    /// Fails when new sessions and statements are refused. Impala asks this before it looks at the request's handle.
    pub fn check_not_shutting_down(&self) -> Result<(), Failure> {
        self.process().check_not_shutting_down()
    }

    /// `ExecuteStatement`. `new` is the id that the query is to have.
    pub fn execute(
        &self,
        connection: ConnectionId,
        session: Handle,
        new: Id,
        sql: &str,
    ) -> Result<Handle, Failure> {
        let mut process = self.process();
        process.check_not_shutting_down()?;
        process
            .sessions
            .execute(session, connection, new, sql, Instant::now())
    }

    /// `GetOperationStatus`.
    pub fn query_state(&self, query: Handle) -> Result<QueryState, Failure> {
        Ok(self.process().sessions.query(query)?.state(Instant::now()))
    }

    /// `GetResultSetMetadata`.
    pub fn statement(&self, query: Handle) -> Result<Statement, Failure> {
        Ok(self.process().sessions.query(query)?.statement())
    }

    /// `FetchResults`: waits for rows, but not for ever; then an empty batch says that there will be more.
    pub fn fetch(&self, query: Handle, max_rows: u64) -> Result<Batch, Failure> {
        let give_up = Instant::now() + FETCH_ROWS_TIMEOUT;
        let mut process = self.process();
        loop {
            let now = Instant::now();
            let found = process.sessions.query(query)?;
            match found.state(now) {
                QueryState::Cancelled => return Err(Failure::Cancelled),
                QueryState::Finished => return Ok(found.fetch(&self.name, max_rows)),
                QueryState::Running(_) if now >= give_up => {
                    return Ok(Batch {
                        more: true,
                        ..found.fetch(&self.name, 0)
                    });
                }
                QueryState::Running(end) => {
                    let wait = end.min(give_up).saturating_duration_since(now);
                    (process, _) = self
                        .changed
                        .wait_timeout(process, wait)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// `CancelOperation`.
    pub fn cancel(&self, query: Handle) -> Result<(), Failure> {
        self.process().sessions.query(query)?.cancel();
        self.changed.notify_all();
        Ok(())
    }

    /// `CloseOperation`.
    pub fn close_query(&self, query: Handle) -> Result<(), Failure> {
        let result = self.process().sessions.close_query(query, Instant::now());
        self.changed.notify_all();
        result
    }

    /// A client connection closed.
    pub fn disconnect(&self, connection: ConnectionId) {
        self.process().sessions.disconnect(connection, Instant::now());
    }
}

/// A point in time as Impala's pages write it, here in UTC.
fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_micros(time)
        .to_string()
        .replace('T', " ")
        .replace('Z', "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::impalad::statement::ColumnValues;
    use std::sync::Arc;
    use std::thread;

    const CONNECTION: ConnectionId = ConnectionId(1);

    fn id() -> Id {
        Id::random().unwrap()
    }

    fn with_session() -> (Arc<Coordinator>, Handle) {
        let coordinator = Arc::new(Coordinator::new("c1".to_owned()));
        let session = coordinator
            .open_session(
                CONNECTION,
                Handle {
                    id: id(),
                    secret: id(),
                },
            )
            .unwrap();
        (coordinator, session)
    }

    #[test]
    fn a_shutdown_refuses_new_work_and_finishes_the_old() {
        let (coordinator, session) = with_session();
        let query = coordinator
            .execute(CONNECTION, session, id(), "select coordinator()")
            .unwrap();
        coordinator.set_mode(Mode::ShuttingDown);
        let refused = Err(Failure::ShuttingDown { queries: 1 });
        assert_eq!(coordinator.open_session(CONNECTION, session), refused);
        assert_eq!(
            coordinator.execute(CONNECTION, session, id(), "select rows(1)"),
            refused
        );
        let batch = coordinator.fetch(query, 10).unwrap();
        assert_eq!(batch.columns, [ColumnValues::String(vec!["c1".to_owned()])]);
        coordinator.cancel(query).unwrap();
        coordinator.close_query(query).unwrap();
        coordinator.close_session(session).unwrap();
    }

    #[test]
    fn a_fetch_waits_for_the_first_row() {
        let (coordinator, session) = with_session();
        let start = Instant::now();
        let query = coordinator
            .execute(CONNECTION, session, id(), "select sleep(40)")
            .unwrap();
        let batch = coordinator.fetch(query, 10).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(40));
        assert_eq!(
            (batch.columns, batch.more),
            (vec![ColumnValues::Boolean(vec![true])], false)
        );
    }

    #[test]
    fn cancel_close_and_restart_end_a_waiting_fetch() {
        for (end, failure) in [
            (
                (|coordinator, query| coordinator.cancel(query).unwrap()) as fn(&Coordinator, Handle),
                "Cancelled",
            ),
            (
                |coordinator, query| coordinator.close_query(query).unwrap(),
                "Invalid query handle",
            ),
            (|coordinator, _| coordinator.restart(), "Invalid query handle"),
        ] {
            let (coordinator, session) = with_session();
            let query = coordinator
                .execute(CONNECTION, session, id(), "select sleep(600000)")
                .unwrap();
            let waiting = thread::spawn({
                let coordinator = Arc::clone(&coordinator);
                move || coordinator.fetch(query, 10).unwrap_err().to_string()
            });
            end(&coordinator, query);
            let message = waiting.join().unwrap();
            assert!(message.starts_with(failure), "{message}");
        }
    }

    #[test]
    fn a_restart_forgets_sessions_and_counters_and_has_a_new_start_time() {
        let (coordinator, session) = with_session();
        coordinator
            .execute(CONNECTION, session, id(), "select rows(1)")
            .unwrap();
        coordinator.set_mode(Mode::ShuttingDown);
        let before = coordinator.snapshot();
        coordinator.restart();
        let after = coordinator.snapshot();
        assert_ne!(after.process_start_time, before.process_start_time);
        assert_eq!((before.open_sessions, before.queries_started), (1, 1));
        assert_eq!(
            (after.open_sessions, after.queries_started, after.mode),
            (0, 0, Mode::Serving)
        );
        assert_eq!(
            coordinator.check_session(CONNECTION, session),
            Err(Failure::InvalidSession(session.id))
        );
    }

    #[test]
    fn start_times_are_written_with_microseconds() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_000_000_000_000_001);
        assert_eq!(timestamp(time), "2001-09-09 01:46:40.000001");
    }
}
