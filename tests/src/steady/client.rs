//! The client: holds the connections, and notices and reports what breaks them.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, timeout};

use super::conversation::{Conversation, Fault, LONGEST_REPLY};
use super::ledger::Ledger;
use super::report::{Break, Cause, Outcome, Short};

/// How many connections are in the making at the same time: fewer than any server's backlog.
const SIMULTANEOUS_STARTS: usize = 64;

/// What the client is to do.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Where to connect to.
    pub service: SocketAddr,
    /// The client's address.
    pub from: IpAddr,
    /// The port of the first connection; the others have those after it. Fixed, so that a connection is in the same slot
    /// in every run.
    pub first_port: u16,
    /// How many connections there are.
    pub connections: u16,
    /// From one exchange of a connection to its next.
    pub pause: Duration,
    /// How long a connection, or a reply, may take.
    pub patience: Duration,
    /// How many short connections are begun each second, from ports that the kernel chooses; 0 for none.
    pub short_rate: u32,
}

/// Makes the connections, says so when all are made, and keeps them until `end` says that it is enough. The ledger has all
/// that happens.
pub async fn run(options: Options, ledger: Rc<RefCell<Ledger>>, mut end: watch::Receiver<bool>) {
    let starts = Rc::new(Semaphore::new(SIMULTANEOUS_STARTS));
    let (made, mut all_made) = watch::channel(0u16);
    let made = Rc::new(made);
    let mut tasks = JoinSet::new();
    for index in 0..options.connections {
        let (ledger, starts, made) = (Rc::clone(&ledger), Rc::clone(&starts), Rc::clone(&made));
        tasks.spawn_local(async move {
            let port = options.first_port.wrapping_add(index);
            let mut connection = Connection::new(options, port, usize::from(index));
            let begun = {
                // Never closed, and without a permit a connection would merely begin earlier.
                let _permit = starts.acquire().await;
                connection.begin().await
            };
            if let Ok((_, took)) = &begun {
                connection.record(*took, &ledger);
            }
            made.send_modify(|made| *made += 1);
            let broken = match begun {
                Ok((stream, _)) => connection.hold(stream, &ledger).await,
                Err(broken) => broken,
            };
            let broken = connection.tell(broken, &ledger);
            ledger.borrow_mut().broken(connection.index, broken);
        });
    }
    tokio::select! {
        _ = all_made.wait_for(|made| *made == options.connections) => {}
        _ = end.wait_for(|end| *end) => return,
    }
    ledger.borrow_mut().ready();
    if options.short_rate > 0 {
        begin_short_connections(options, &ledger, end).await;
    } else {
        // An error means that nobody is left who could say when it is enough.
        let _ = end.wait_for(|end| *end).await;
    }
}

/// How a connection broke: the kind and what was seen.
struct Broken {
    cause: Cause,
    detail: String,
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        let cause = match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Cause::Reset,
            // The kernel has given up: nobody acknowledged what was sent.
            io::ErrorKind::TimedOut => Cause::Timeout,
            _ => Cause::System,
        };
        let detail = error.to_string();
        Self { cause, detail }
    }
}

impl From<Fault> for Broken {
    fn from(fault: Fault) -> Self {
        let cause = match fault {
            Fault::WrongBytes(_) => Cause::WrongBytes,
            Fault::OtherServer { .. } => Cause::OtherServer,
        };
        let detail = fault.to_string();
        Self { cause, detail }
    }
}

/// A connection and what is said on it.
struct Connection {
    options: Options,
    port: u16,
    index: usize,
    conversation: Conversation,
}

impl Connection {
    /// A port of 0 lets the kernel choose.
    fn new(options: Options, port: u16, index: usize) -> Self {
        Self {
            options,
            port,
            index,
            conversation: Conversation::of(index as u64),
        }
    }

    /// Connects and makes the first exchange, and says what that one took.
    async fn begin(&mut self) -> Result<(BufReader<TcpStream>, Duration), Broken> {
        let not_connected = |detail: String| Broken {
            cause: Cause::NotConnected,
            detail,
        };
        let socket = bind(self.options, self.port).map_err(|error| not_connected(error.to_string()))?;
        self.port = socket.local_addr()?.port();
        let connecting = socket.connect(self.options.service);
        let stream = match timeout(self.options.patience, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(not_connected(error.to_string())),
            Err(_) => {
                let detail = format!("no answer to the SYN within {:?}", self.options.patience);
                return Err(not_connected(detail));
            }
        };
        stream.set_nodelay(true)?;
        let mut stream = BufReader::new(stream);
        let took = self.exchange(&mut stream).await?;
        Ok((stream, took))
    }

    /// Exchanges data until something breaks the connection, and says what.
    async fn hold(&mut self, mut stream: BufReader<TcpStream>, ledger: &RefCell<Ledger>) -> Broken {
        // Connections take turns, instead of all at once.
        let share = f64::from(u32::try_from(self.index).unwrap_or_default())
            / f64::from(self.options.connections.max(1));
        let first = Instant::now() + self.options.pause.mul_f64(share);
        let mut ticks = interval_at(first, self.options.pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                // Nothing is expected now, so whatever it is breaks the connection, and is noticed at once.
                unexpected = stream.fill_buf() => return unexpected_input(unexpected),
            }
            match self.exchange(&mut stream).await {
                Ok(took) => self.record(took, ledger),
                Err(broken) => return broken,
            }
        }
    }

    /// Sends a request, examines the reply, and says what it took.
    async fn exchange(&mut self, stream: &mut BufReader<TcpStream>) -> Result<Duration, Broken> {
        let begin = Instant::now();
        let mut reply = Vec::new();
        let patience = self.options.patience;
        let request = self.conversation.request();
        let exchange = async {
            stream.write_all(request).await?;
            let mut limited = stream.take(LONGEST_REPLY as u64);
            limited.read_until(b'\n', &mut reply).await
        };
        match timeout(patience, exchange).await {
            Ok(Ok(0)) => Err(closed("instead of replying")),
            Ok(Ok(_)) => {
                self.conversation.examine(&reply)?;
                Ok(begin.elapsed())
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Broken {
                cause: Cause::Timeout,
                detail: format!(
                    "no whole reply within {patience:?}, only {} bytes of it",
                    reply.len()
                ),
            }),
        }
    }

    /// Has an exchange counted that went well.
    fn record(&self, took: Duration, ledger: &RefCell<Ledger>) {
        let server = self.conversation.server();
        ledger.borrow_mut().exchanged(self.index, server, took);
    }

    fn tell(&self, broken: Broken, ledger: &RefCell<Ledger>) -> Break {
        Break {
            port: self.port,
            at_ms: ledger.borrow().now(),
            server: self.conversation.server().cloned(),
            exchange: self.conversation.number(),
            cause: broken.cause,
            detail: broken.detail,
        }
    }
}

fn closed(when: &str) -> Broken {
    Broken {
        cause: Cause::Closed,
        detail: format!("the server closed the connection {when}"),
    }
}

fn unexpected_input(input: io::Result<&[u8]>) -> Broken {
    match input {
        Ok([]) => closed("between two exchanges"),
        Ok(bytes) => Broken {
            cause: Cause::WrongBytes,
            detail: format!("{} bytes that nobody has asked for", bytes.len()),
        },
        Err(error) => error.into(),
    }
}

fn bind(options: Options, port: u16) -> io::Result<TcpSocket> {
    let socket = match options.service {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A port on which an earlier connection has ended a moment ago.
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(options.from, port))?;
    Ok(socket)
}

/// Begins short connections at the rate that was asked for, whatever becomes of them; at the end, waits for the last.
async fn begin_short_connections(
    options: Options,
    ledger: &Rc<RefCell<Ledger>>,
    mut end: watch::Receiver<bool>,
) {
    let mut ticks = interval(Duration::from_secs(1) / options.short_rate);
    let mut tasks = JoinSet::new();
    for serial in usize::from(options.connections).. {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = end.wait_for(|end| *end) => break,
        }
        tasks.spawn_local(short_connection(options, serial, Rc::clone(ledger)));
        // Those that have ended.
        while tasks.try_join_next().is_some() {}
    }
    while tasks.join_next().await.is_some() {}
}

async fn short_connection(options: Options, serial: usize, ledger: Rc<RefCell<Ledger>>) {
    let at_ms = ledger.borrow().now();
    let mut connection = Connection::new(options, 0, serial);
    let outcome = match connection.begin().await {
        Ok(_closed) => connection.conversation.server().cloned().map(Outcome::Server),
        Err(broken) => Some(Outcome::Failure(connection.tell(broken, &ledger))),
    };
    // A conversation that succeeded has a server.
    if let Some(outcome) = outcome {
        let took_ms = ledger.borrow().now().saturating_sub(at_ms);
        ledger.borrow_mut().short(Short {
            at_ms,
            took_ms,
            outcome,
        });
    }
}
