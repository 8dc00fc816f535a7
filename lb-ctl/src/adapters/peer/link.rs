//! The thread that keeps a connection to the peer: it listens, it goes there, and of two connections it keeps one.
//!
//! A peer that is slow costs this thread's time and a few messages of memory, and one that says too much the time that the controller has
//! nothing else to do with. Whoever has not shown that it has the key can keep one of a few places busy for some seconds.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    net::SocketAddr,
    pin::pin,
    thread::JoinHandle,
    time::Duration,
};

use lb_common::layout::ServiceKey;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until, timeout},
};

use super::{
    complaints::{Attempted, Complaints},
    exchange::{Board, Desk, Event, ExchangeError, Greeted, Identity, Order, Subjects, greet},
};
use crate::core::{
    cause::chain,
    operator::Word,
    sync::{PATIENCE, Source},
};

/// How many connections may be in their handshake.
const HANDSHAKES: usize = 8;

/// How long the thread may take to end by itself.
const ENDING: Duration = Duration::from_secs(1);

/// How long after one attempt the next is made to go to the peer, or to listen.
const RETRY: Duration = Duration::from_millis(500);

/// Where the two meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ways {
    /// Where we listen.
    pub listen: Option<SocketAddr>,
    /// Where we go.
    pub connect: Option<SocketAddr>,
}

/// The controller's end of the thread. What is ordered is about the present connection: once there is [another](Event::Connected), all of it is
/// to be said again.
#[derive(Debug)]
pub struct Link {
    orders: mpsc::UnboundedSender<Order>,
    handle: JoinHandle<()>,
    /// Ends the thread whatever it is waiting for.
    end: oneshot::Sender<()>,
    board: Board,
}

impl Link {
    /// Starts the thread. It looks up in `source` what it tells, and hands over what it hears.
    pub fn start<S>(
        ways: Ways,
        identity: Identity,
        source: S,
        events: mpsc::Sender<Event>,
    ) -> io::Result<Self>
    where
        S: Source<Error: std::fmt::Display> + Send + 'static,
    {
        let (orders, received) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let board = Board::default();
        let desk = Desk {
            source,
            orders: received,
            events,
            board: board.clone(),
        };
        let handle = std::thread::Builder::new().name("peer".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = work(Door::new(ways, identity), desk) => {}
                    _ = ended => {}
                }
            });
        })?;
        Ok(Self {
            orders,
            handle,
            end,
            board,
        })
    }

    /// From now on the peer is told about these services, and no others.
    pub fn tell(&self, subjects: Subjects) {
        self.order(Order::Tell(subjects));
    }

    /// Has the peer begin anew with a service, which we follow from now on.
    pub fn ask(&self, service: ServiceKey) {
        self.order(Order::Ask(service));
    }

    /// Begins anew with services, because the peer asks for it.
    pub fn tell_again(&self, services: BTreeSet<ServiceKey>) {
        self.order(Order::TellAgain(services));
    }

    /// Tells what operators have decided.
    pub fn decide(&self, words: Vec<Word>) {
        self.order(Order::Decide(words));
    }

    /// Ends the thread.
    pub async fn stop(self) {
        self.order(Order::Stop);
        let Self { handle, end, .. } = self;
        let mut joined = tokio::task::spawn_blocking(move || handle.join());
        let in_time = timeout(ENDING, &mut joined).await;
        let joined = if let Ok(joined) = in_time {
            joined
        } else {
            drop(end);
            joined.await
        };
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!("the thread that talks to the peer has ended badly");
        }
    }

    /// What is known of the connection.
    pub const fn board(&self) -> &Board {
        &self.board
    }

    fn order(&self, order: Order) {
        if self.orders.send(order).is_err() {
            tracing::error!("the thread that talks to the peer has ended: restart lb-ctl");
        }
    }
}

async fn work<S: Source<Error: std::fmt::Display>>(mut door: Door, mut desk: Desk<S>) {
    let mut candidate = None;
    loop {
        let Some(greeted) = candidate.take() else {
            tokio::select! {
                greeted = door.next() => candidate = greeted,
                order = desk.orders.recv() => if matches!(order, Some(Order::Stop) | None) {
                    return;
                },
            }
            if let Some(trouble) = door.trouble.take() {
                desk.board.write(|known| known.trouble = Some(trouble));
            }
            continue;
        };
        let end = serve(greeted, &mut door, &mut desk).await;
        if desk.events.send(Event::Gone).await.is_err() {
            return;
        }
        match end {
            End::Stopped => return,
            End::Replaced(next) => candidate = Some(*next),
            End::Broken => {}
        }
    }
}

/// How a connection has ended.
enum End {
    /// The thread is to end.
    Stopped,
    /// There is a better one.
    Replaced(Box<Greeted>),
    Broken,
}

/// Serves a connection until it ends, or another one is better.
async fn serve<S: Source<Error: std::fmt::Display>>(
    greeted: Greeted,
    door: &mut Door,
    desk: &mut Desk<S>,
) -> End {
    let (node, program) = (greeted.node.clone(), greeted.program.clone());
    let is_preferred = door.prefers(&greeted);
    let board = desk.board.clone();
    tracing::info!(peer = node, program, "connected to the peer");
    board.write(|known| known.peer = Some((node.clone(), program)));
    door.is_connected = true;
    let ended = {
        let mut conversing = pin!(desk.converse(greeted));
        loop {
            tokio::select! {
                error = &mut conversing => break Err(error),
                next = door.next() => match next {
                    Some(next) if door.prefers(&next) || !is_preferred => break Ok(next),
                    // Both have come to each other, and both keep the same connection.
                    _ => {}
                },
            }
        }
    };
    door.is_connected = false;
    board.write(|known| {
        known.peer = None;
        known.behind_since = None;
        known.is_up_to_date = false;
    });
    match ended {
        Ok(next) => End::Replaced(Box::new(next)),
        Err(ExchangeError::Stopped) => End::Stopped,
        Err(error) => {
            let cause = chain(&error);
            tracing::warn!(peer = node, cause, "the connection to the peer has ended");
            board.write(|known| known.trouble = Some(cause));
            End::Broken
        }
    }
}

/// Where connections come from.
struct Door {
    ways: Ways,
    identity: Identity,
    listener: Option<TcpListener>,
    handshakes: JoinSet<Attempt>,
    /// Those of them that have come to us, the longest first.
    visitors: VecDeque<AbortHandle>,
    /// We are on the way to the peer.
    is_dialing: bool,
    is_connected: bool,
    /// When to try again to listen, or to go there.
    next_try: Instant,
    complaints: Complaints,
    trouble: Option<String>,
}

struct Attempt {
    is_ours: bool,
    greeted: Result<Greeted, ExchangeError>,
}

impl Door {
    fn new(ways: Ways, identity: Identity) -> Self {
        Self {
            ways,
            identity,
            listener: None,
            handshakes: JoinSet::new(),
            visitors: VecDeque::new(),
            is_dialing: false,
            is_connected: false,
            next_try: Instant::now(),
            complaints: Complaints::default(),
            trouble: None,
        }
    }

    /// Of the connections that two balancers may have made at the same time, both keep the one that the one with the smaller name has
    /// opened.
    fn prefers(&self, greeted: &Greeted) -> bool {
        greeted.is_ours == (self.identity.node < greeted.node)
    }

    /// Waits for a connection on which both have greeted; `None` if something else has happened.
    async fn next(&mut self) -> Option<Greeted> {
        let must_listen = self.ways.listen.is_some() && self.listener.is_none();
        let must_dial = self.ways.connect.is_some() && !self.is_connected && !self.is_dialing;
        tokio::select! {
            () = sleep_until(self.next_try), if must_listen || must_dial => {
                self.next_try = Instant::now() + RETRY;
                if must_listen {
                    self.listen().await;
                }
                if must_dial {
                    self.dial();
                }
                None
            }
            stream = accept(self.listener.as_ref()) => {
                self.receive(stream);
                None
            }
            // One that was ended for another has nothing to say.
            Some(attempt) = self.handshakes.join_next() => attempt.ok().and_then(|attempt| self.met(attempt)),
        }
    }

    /// Begins with somebody who has come. The longest of those who have not shown yet that they have the key gives way: the peer
    /// needs a moment for it, and whoever wants to keep it out needs that many connections each moment.
    fn receive(&mut self, stream: TcpStream) {
        self.visitors.retain(|visitor| !visitor.is_finished());
        if self.visitors.len() == HANDSHAKES
            && let Some(longest) = self.visitors.pop_front()
        {
            longest.abort();
        }
        let identity = self.identity.clone();
        let visitor = self.handshakes.spawn(async move {
            let greeted = greet(stream, &identity, false).await;
            Attempt {
                is_ours: false,
                greeted,
            }
        });
        self.visitors.push_back(visitor);
    }

    async fn listen(&mut self) {
        let Some(address) = self.ways.listen else {
            return;
        };
        match TcpListener::bind(address).await {
            Ok(listener) => self.listener = Some(listener),
            // It may be an address that is still to come.
            Err(error) => self.complain(format!("expected to listen on {address} for the peer: {error}")),
        }
    }

    fn dial(&mut self) {
        let Some(address) = self.ways.connect else {
            return;
        };
        self.is_dialing = true;
        let identity = self.identity.clone();
        self.handshakes.spawn(async move {
            let greeted = match timeout(PATIENCE, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => greet(stream, &identity, true).await,
                Ok(Err(error)) => Err(ExchangeError::Unreachable(address, error)),
                Err(_) => Err(ExchangeError::Slow("answer")),
            };
            Attempt {
                is_ours: true,
                greeted,
            }
        });
    }

    fn met(&mut self, attempt: Attempt) -> Option<Greeted> {
        if attempt.is_ours {
            self.is_dialing = false;
        }
        match attempt.greeted {
            Ok(greeted) => {
                self.complaints.forget();
                self.trouble = None;
                Some(greeted)
            }
            // Somebody who has tried the port, or has something else to say than a balancer.
            Err(error) if !attempt.is_ours && error.is_a_strangers() => {
                tracing::debug!("somebody came who is not the peer: {}", chain(&error));
                None
            }
            Err(error) if attempt.is_ours => {
                self.complain(chain(&error));
                None
            }
            Err(error) => {
                self.complain_of_visitor(chain(&error));
                None
            }
        }
    }

    /// Says what is wrong, if that is news.
    fn complain(&mut self, trouble: String) {
        if self
            .complaints
            .are_news(Attempted::ByUs, &trouble, Instant::now())
        {
            tracing::warn!("no connection to the peer: {trouble}");
        }
        self.trouble = Some(trouble);
    }

    /// The same of somebody who came. As long as the peer is there it is somebody else.
    fn complain_of_visitor(&mut self, trouble: String) {
        if self
            .complaints
            .are_news(Attempted::ByAVisitor, &trouble, Instant::now())
        {
            tracing::warn!("somebody came for the peer and was turned away: {trouble}");
        }
        if !self.is_connected {
            self.trouble = Some(trouble);
        }
    }
}

/// Waits for somebody who comes; for ever if we do not listen.
async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    loop {
        let Some(listener) = listener else {
            std::future::pending::<()>().await;
            continue;
        };
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            // Whoever came is gone, or files are short; not at once again, if that should go on.
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}
