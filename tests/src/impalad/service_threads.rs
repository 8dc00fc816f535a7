//! The HiveServer2 port: connections and the threads that serve them.
//!
//! As in Impala, each connection occupies one service thread from its first byte to its end, and there are only so many.
//! Further connections are accepted and wait, unanswered, until a thread is free. A saturated coordinator is one whose
//! waiting connections find no thread.

use std::collections::{HashMap, VecDeque};
use std::io::{self, BufReader};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::coordinator::Coordinator;
use super::hs2;
use super::sessions::ConnectionId;
use super::thrift_binary::{Limits, MessageReader, Result as ThriftResult};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;
/// Accepted connections that wait for a thread; more are closed: Impala's `--accepted_cnxn_queue_depth`.
const WAITING_CONNECTIONS: usize = 10_000;
/// Pause after a failed accept: too many open files do not go away at once.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// The figures of the port, named like the ends of Impala's metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionCounts {
    /// Connections that have a service thread.
    pub connections_in_use: usize,
    /// Connections that wait for one.
    pub connection_setup_queue_size: usize,
    /// Connections that ever got one.
    pub total_connections: u64,
}

/// The port with its threads.
#[derive(Debug)]
pub struct ServiceThreads {
    coordinator: Arc<Coordinator>,
    address: SocketAddr,
    connections: Mutex<Connections>,
    /// Told when a thread may find a connection to serve.
    available: Condvar,
    /// Told when a connection that was served is closed.
    closed: Condvar,
}

#[derive(Debug)]
struct Connections {
    /// False while the coordinator plays a saturated one.
    admit: bool,
    waiting: VecDeque<TcpStream>,
    served: HashMap<ConnectionId, Arc<Connection>>,
    next_id: u64,
    total: u64,
}

/// A connection that has a thread.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// No further request is to be served.
    closing: AtomicBool,
    /// Its thread may be blocked in a write.
    writing: AtomicBool,
}

impl ServiceThreads {
    /// Binds the port and starts the threads.
    pub fn start(
        coordinator: Arc<Coordinator>,
        address: SocketAddr,
        threads: usize,
    ) -> io::Result<Arc<Self>> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        let connections = Connections {
            admit: true,
            waiting: VecDeque::new(),
            served: HashMap::new(),
            next_id: 0,
            total: 0,
        };
        let service = Arc::new(Self {
            coordinator,
            address: listener.local_addr()?,
            connections: Mutex::new(connections),
            available: Condvar::new(),
            closed: Condvar::new(),
        });
        for number in 0..threads {
            let service = Arc::clone(&service);
            thread::Builder::new()
                .name(format!("hs2-service-{number}"))
                .spawn(move || service.serve_connections())?;
        }
        let acceptor = Arc::clone(&service);
        thread::Builder::new()
            .name("hs2-accept".to_owned())
            .spawn(move || acceptor.accept(&listener))?;
        Ok(service)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether waiting connections get threads, as far as there are any.
    pub fn admit(&self, admit: bool) {
        self.connections().admit = admit;
        self.available.notify_all();
    }

    /// Resets every connection, served and waiting, and then admits new ones. `restart` runs in between, so that no
    /// connection belongs to both sides of it. Returns when all resets are sent.
    pub fn reset_all(&self, restart: impl FnOnce()) {
        let mut connections = self.connections();
        connections.admit = false;
        for stream in connections.waiting.drain(..) {
            // An error means that the client has closed it already.
            let _ = close_with_reset(&stream);
        }
        for connection in connections.served.values() {
            let _ = connection.reset();
        }
        restart();
        let mut connections = self
            .closed
            .wait_while(connections, |connections| !connections.served.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        connections.total = 0;
        connections.admit = true;
        self.available.notify_all();
    }

    /// The figures of this moment.
    pub fn counts(&self) -> ConnectionCounts {
        let connections = self.connections();
        ConnectionCounts {
            connections_in_use: connections.served.len(),
            connection_setup_queue_size: connections.waiting.len(),
            total_connections: connections.total,
        }
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(&self, listener: &TcpListener) {
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    let mut connections = self.connections();
                    if connections.waiting.len() < WAITING_CONNECTIONS {
                        connections.waiting.push_back(stream);
                        self.available.notify_one();
                    }
                }
                Err(error) => {
                    eprintln!("accept on {}: {error}", self.address);
                    thread::sleep(ACCEPT_RETRY);
                }
            }
        }
    }

    /// One service thread.
    fn serve_connections(&self) {
        loop {
            let (id, connection) = self.next_connection();
            let client = connection
                .stream
                .peer_addr()
                .map_or("a client".to_owned(), |address| address.to_string());
            if let Err(error) = self.serve(id, &connection)
                && !connection.closing.load(Ordering::SeqCst)
            {
                eprintln!("closed the connection of {client}: {error}");
            }
            self.coordinator.disconnect(id);
            let mut connections = self.connections();
            connections.served.remove(&id);
            // Closes it, while whoever counts the connections waits.
            drop(connection);
            self.closed.notify_all();
        }
    }

    /// Waits for a connection and takes it.
    fn next_connection(&self) -> (ConnectionId, Arc<Connection>) {
        let mut connections = self.connections();
        loop {
            if connections.admit
                && let Some(stream) = connections.waiting.pop_front()
            {
                let id = ConnectionId(connections.next_id);
                connections.next_id += 1;
                connections.total += 1;
                let connection = Connection {
                    stream,
                    closing: AtomicBool::new(false),
                    writing: AtomicBool::new(false),
                };
                let connection = Arc::new(connection);
                connections.served.insert(id, Arc::clone(&connection));
                return (id, connection);
            }
            connections = self
                .available
                .wait(connections)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn serve(&self, id: ConnectionId, connection: &Connection) -> ThriftResult<()> {
        connection.stream.set_nodelay(true)?;
        let mut reader = MessageReader::new(BufReader::new(&connection.stream), Limits::REQUEST)?;
        while let Some(call) = reader.read()? {
            if connection.closing.load(Ordering::SeqCst) {
                break;
            }
            let answer = hs2::answer(&self.coordinator, id, &call)?;
            // First this flag, then the other: `reset` does it the other way round, so one of the two sees the other.
            connection.writing.store(true, Ordering::SeqCst);
            if connection.closing.load(Ordering::SeqCst) {
                break;
            }
            answer.write_to(&connection.stream)?;
            connection.writing.store(false, Ordering::SeqCst);
        }
        Ok(())
    }
}

impl Connection {
    /// Makes the thread drop the connection, which then ends with a reset.
    fn reset(&self) -> io::Result<()> {
        close_with_reset(&self.stream)?;
        self.closing.store(true, Ordering::SeqCst);
        // Wakes a thread that reads, without telling the client anything: no FIN before the reset.
        self.stream.shutdown(Shutdown::Read)?;
        if self.writing.load(Ordering::SeqCst) {
            // Wakes a thread that writes to a client that does not read; the FIN waits behind the unsent bytes.
            self.stream.shutdown(Shutdown::Write)?;
        }
        Ok(())
    }
}

/// When this socket is closed its client gets a reset.
fn close_with_reset(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}
