//! A steady load of short sessions: each connects, opens a session, executes one query, fetches its result and leaves.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow};
use socket2::{Domain, Socket, Type};

use super::hs2::{ClientError, Session};
use crate::balancing::PATIENCE;
use crate::hosts::lab::Host;

/// Large enough for a client, small enough for hundreds of them.
const STACK: usize = 256 << 10;

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It had no connection yet.
    Connecting,
    /// It had one, and was not open yet.
    Opening,
    /// It was open; its query was not accepted yet.
    Executing,
    /// Its query was accepted: whatever failed then has lost a query.
    Running,
    /// Everything has succeeded.
    Done,
}

/// One session, when it is over.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The client's port.
    pub port: u16,
    /// When it began to connect, by the wall clock, as logs have it.
    pub began: SystemTime,
    /// When it was over.
    pub ended: SystemTime,
    /// How far it has come.
    pub stage: Stage,
    /// What has failed; empty if nothing has.
    pub failure: String,
}

/// The load, as long as it is not [ended](Queries::end).
#[derive(Debug)]
pub struct Queries {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    from: Ipv4Addr,
    service: SocketAddr,
    statement: String,
    /// From the begin of one session to the begin of the next.
    pause: Duration,
    /// When the next session is to begin.
    next: Mutex<Instant>,
    ends: AtomicBool,
    finished: Mutex<Vec<Finished>>,
}

impl Queries {
    /// Begins so many sessions a second from a host, as long as no more than `clients` have not finished. A machine that is too
    /// busy for them gets fewer, and none later to make up for these.
    pub fn begin(
        client: &Host,
        service: SocketAddr,
        statement: &str,
        rate: u32,
        clients: u16,
    ) -> Result<Self> {
        // Each session leaves a port behind that is free again after a minute.
        client.run(&["sysctl", "-q", "-w", "net.ipv4.ip_local_port_range=1024 65535"])?;
        let shared = Arc::new(Shared {
            from: client.v4(),
            service,
            statement: statement.to_owned(),
            pause: Duration::from_secs(1) / rate,
            next: Mutex::new(Instant::now()),
            ends: AtomicBool::new(false),
            finished: Mutex::default(),
        });
        let start = || {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .stack_size(STACK)
                .spawn(move || shared.work())
        };
        // Threads are in the namespace of the one that starts them.
        let threads: Result<_, _> = client.enter(|| (0..clients).map(|_| start()).collect())?;
        Ok(Self {
            threads: threads.context("cannot start the clients")?,
            shared,
        })
    }

    /// How many sessions have finished so far.
    pub fn finished(&self) -> usize {
        self.shared.finished().len()
    }

    /// Begins no more, waits for those that have begun, and returns all.
    pub fn end(&mut self) -> Result<Vec<Finished>> {
        self.shared.ends.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow!("a client has panicked"))?;
        }
        Ok(std::mem::take(&mut self.shared.finished()))
    }
}

impl Shared {
    fn finished(&self) -> std::sync::MutexGuard<'_, Vec<Finished>> {
        self.finished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            thread::sleep(self.next_begin().saturating_duration_since(Instant::now()));
            if self.ends.load(Ordering::Relaxed) {
                return;
            }
            let finished = self.session();
            self.finished().push(finished);
        }
    }

    /// When a client that is free begins its session.
    fn next_begin(&self) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = (*next).max(Instant::now());
        *next = begin + self.pause;
        begin
    }

    #[expect(clippy::disallowed_methods, reason = "it is compared with the times of a log")]
    fn session(&self) -> Finished {
        let now = SystemTime::now();
        let mut finished = Finished {
            port: 0,
            began: now,
            ended: now,
            stage: Stage::Connecting,
            failure: String::new(),
        };
        if let Err(error) = self.converse(&mut finished) {
            finished.failure = format!("{error:#}");
        }
        finished.ended = SystemTime::now();
        finished
    }

    fn converse(&self, progress: &mut Finished) -> Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // Before it connects, so that it is known if that fails.
        socket.bind(&SocketAddr::new(IpAddr::V4(self.from), 0).into())?;
        progress.port = socket
            .local_addr()?
            .as_socket()
            .context("a socket without a port")?
            .port();
        socket.connect_timeout(&self.service.into(), PATIENCE)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        progress.stage = Stage::Opening;
        self.query(&stream, &mut progress.stage)?;
        Ok(())
    }

    fn query(&self, stream: &TcpStream, stage: &mut Stage) -> Result<(), ClientError> {
        let mut session = Session::open(stream)?;
        *stage = Stage::Executing;
        let query = session.start(&self.statement)?;
        *stage = Stage::Running;
        while session.fetch(&query)?.1 {}
        session.close_query(&query)?;
        session.close()?;
        *stage = Stage::Done;
        Ok(())
    }
}
