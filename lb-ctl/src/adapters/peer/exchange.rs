//! One connection to the peer, from the greeting to its end.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt::Display,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use lb_common::layout::{Service, ServiceKey};
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{
    channel::{ChannelError, Receiver, Sender, answer, open},
    key_file::Key,
};
use crate::core::{
    operator::Word,
    sync::{Conversation, ConversationError, Heard, Item, Message, Outbox, PATIENCE, Shape, Source},
};

/// How often is looked for what has changed. The kernel program wakes nobody, so this is what the peer is behind, with what the network
/// takes; while nothing happens it costs a few microseconds each time.
pub const LOOK: Duration = Duration::from_millis(4);

/// The same after services have begun to move: what the peer has not been told of when a client hears of the new owner, breaks.
const LOOK_CLOSELY: Duration = Duration::from_millis(1);

/// For how long.
const MOVING: Duration = Duration::from_secs(5);

/// How many messages of the peer's wait to be looked at. It may have sent so many batches, and said so often that it has taken one in.
const WAITING: usize = 16;

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(200);

/// Who meets at either end of a connection.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `node.name`.
    pub node: String,
    /// The version of the program.
    pub program: String,
    /// What both must have in common.
    pub shape: Shape,
    /// The names of `datapath.interfaces`.
    pub interfaces: Vec<String>,
    /// The key that both have.
    pub key: Key,
}

/// Why there is no connection, or no longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    /// The channel.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// What the peer says.
    #[error(transparent)]
    Conversation(#[from] ConversationError),
    /// Nobody is there.
    #[error("expected a balancer on {0}, peer.connect: {1}")]
    Unreachable(SocketAddr, io::Error),
    /// It takes too long.
    #[error("expected the peer to {0} within {patience} s, found that it does not", patience = PATIENCE.as_secs())]
    Slow(&'static str),
    /// Our own tables could not be read.
    #[error("the tables cannot be told to the peer: {0}")]
    Source(String),
    /// Something of the peer's cannot be taken in.
    #[error("what the peer tells cannot be taken in: {0}")]
    Refused(String),
    /// There is nobody to go on with.
    #[error("{0}")]
    Ended(&'static str),
    /// The thread is to end.
    #[error("the daemon ends")]
    Stopped,
}

impl ExchangeError {
    /// Whether it may be about anybody who comes: nothing of it sounds like a peer.
    pub(super) const fn is_a_strangers(&self) -> bool {
        matches!(
            self,
            Self::Slow(_)
                | Self::Channel(ChannelError::Stream(_) | ChannelError::HungUp | ChannelError::Length(_))
        )
    }
}

/// What the peer is told about.
#[derive(Clone, Debug, Default)]
pub struct Subjects {
    /// Services of which it is told everything: they are ours, or have been until now.
    pub everything: Vec<(ServiceKey, Service)>,
    /// Services of which it is told what begins here: they are not ours.
    pub what_begins: Vec<(ServiceKey, Service)>,
    /// How many of both are about to become ours or somebody else's.
    pub moving: usize,
}

/// What the controller wants of a connection.
#[derive(Debug)]
pub(super) enum Order {
    /// What the peer is told about.
    Tell(Subjects),
    /// The peer is to begin anew with a service: we follow it from now on.
    Ask(ServiceKey),
    /// We are to begin anew with services: the peer asks for it.
    TellAgain(BTreeSet<ServiceKey>),
    /// Operators have decided this.
    Decide(Vec<Word>),
    /// End.
    Stop,
}

/// What a connection has for the controller.
#[derive(Debug)]
pub enum Event {
    /// There is one, about which nothing has been ordered yet. Nothing is told, in either direction, before the answer.
    Connected {
        /// The names of the peer's interfaces, in their order; none if it does not tell them.
        interfaces: Vec<String>,
        /// To be answered.
        ready: oneshot::Sender<()>,
    },
    /// The peer has told this. The answer is that it has been taken in, or why it cannot be.
    Items {
        /// In their order. None says that nothing is left to tell.
        items: Vec<Item>,
        /// To be answered.
        taken: oneshot::Sender<Result<(), String>>,
    },
    /// There is none any more.
    Gone,
}

/// What anybody may know of the connection.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<Connection>>);

/// What is known of the connection.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// The peer's `node.name`, and its program's version; `None` while there is no connection.
    pub peer: Option<(String, String)>,
    /// Why there is none, or was none last.
    pub trouble: Option<String>,
    /// Since when the peer lacks something that it has been told.
    pub behind_since: Option<Instant>,
    /// Whether the peer knows everything of what is ours, but for what has changed a moment ago.
    pub is_up_to_date: bool,
}

impl Board {
    /// What is known now.
    pub fn read(&self) -> Connection {
        // Whoever held it had nothing to leave half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn write(&self, change: impl FnOnce(&mut Connection)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A connection on which both have greeted.
pub(super) struct Greeted {
    sender: Sender<TcpStream>,
    receiver: Receiver<TcpStream>,
    conversation: Conversation,
    epoch: Instant,
    /// The peer's `node.name`.
    pub node: String,
    /// The version of its program.
    pub program: String,
    /// The names of its interfaces.
    interfaces: Vec<String>,
    /// Whether it was us who came to the other.
    pub is_ours: bool,
}

/// Makes a connection out of a stream, which we have opened (`is_ours`) or the other one.
pub(super) async fn greet(
    stream: TcpStream,
    identity: &Identity,
    is_ours: bool,
) -> Result<Greeted, ExchangeError> {
    let meet = async {
        // Small messages must not wait for others.
        stream.set_nodelay(true).map_err(ChannelError::Stream)?;
        let (mut sender, mut receiver) = if is_ours {
            open(stream, &identity.key).await?
        } else {
            answer(stream, &identity.key).await?
        };
        let epoch = Instant::now();
        let Identity {
            node,
            program,
            shape,
            interfaces,
            ..
        } = identity;
        let (mut conversation, greeting) =
            Conversation::begin(node, program, *shape, interfaces, Duration::ZERO);
        sender.send(&greeting).await?;
        let heard = match conversation.hear(receiver.receive().await?, epoch.elapsed()) {
            Ok(heard) => heard,
            Err(error) => {
                say_goodbye(&mut sender, &error).await;
                return Err(error.into());
            }
        };
        let Heard::Peer {
            node,
            program,
            interfaces,
        } = heard
        else {
            return Err(ExchangeError::Ended("expected a greeting"));
        };
        Ok(Greeted {
            sender,
            receiver,
            conversation,
            epoch,
            node,
            program,
            interfaces,
            is_ours,
        })
    };
    timeout(PATIENCE, meet)
        .await
        .unwrap_or(Err(ExchangeError::Slow("show that it has the key, and greet,")))
}

async fn say_goodbye(sender: &mut Sender<TcpStream>, why: &impl Display) {
    let farewell = Message::Farewell(why.to_string());
    // The connection ends anyhow.
    drop(timeout(GOODBYE, sender.send(&farewell)).await);
}

/// What stays from one connection to the next.
pub(super) struct Desk<S> {
    pub(super) source: S,
    pub(super) orders: mpsc::UnboundedReceiver<Order>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) board: Board,
}

/// A batch of the peer's that the controller takes in.
struct Taking {
    number: u64,
    taken: oneshot::Receiver<Result<(), String>>,
}

/// A connection at work.
struct Exchange<'a, S> {
    desk: &'a mut Desk<S>,
    sender: Sender<TcpStream>,
    conversation: Conversation,
    epoch: Instant,
    outbox: Outbox,
    /// How many services are about to become ours or somebody else's.
    moving: usize,
    /// Since when the last of them is, or was.
    moving_since: Option<Instant>,
    /// Batches of the peer's that wait for the controller.
    batches: VecDeque<(u64, Vec<Item>)>,
    taking: Option<Taking>,
    /// Whether the controller knows that the peer has nothing left to tell.
    is_quiet: bool,
    /// The number of the batch after the last one that has more in it than what had changed a moment ago. `None` as long as we do not know what
    /// is ours.
    caught_up: Option<u64>,
}

impl<S: Source<Error: Display>> Desk<S> {
    /// Talks to the peer until one of the two has enough. Returns why it ended.
    pub(super) async fn converse(&mut self, greeted: Greeted) -> ExchangeError {
        let Greeted {
            sender,
            receiver,
            conversation,
            epoch,
            interfaces,
            ..
        } = greeted;
        let (ready, begin) = oneshot::channel();
        let connected = Event::Connected { interfaces, ready };
        if self.events.send(connected).await.is_err() || begin.await.is_err() {
            return ExchangeError::Ended("the controller does not begin with it");
        }
        let mut exchange = Exchange {
            desk: self,
            sender,
            conversation,
            epoch,
            outbox: Outbox::default(),
            moving: 0,
            moving_since: None,
            batches: VecDeque::new(),
            taking: None,
            is_quiet: true,
            caught_up: None,
        };
        let Err(error) = exchange.run(receiver).await;
        match &error {
            // What has happened since the last look.
            ExchangeError::Stopped => drop(timeout(GOODBYE, exchange.tell()).await),
            ExchangeError::Channel(_) => exchange.give_the_rest().await,
            _ => {}
        }
        if !matches!(
            error,
            ExchangeError::Channel(_) | ExchangeError::Conversation(ConversationError::Farewell(_))
        ) {
            say_goodbye(&mut exchange.sender, &error).await;
        }
        error
    }
}

impl<S: Source<Error: Display>> Exchange<'_, S> {
    async fn run(
        &mut self,
        receiver: Receiver<TcpStream>,
    ) -> Result<std::convert::Infallible, ExchangeError> {
        // A task of its own, so that a message that has begun to arrive is waited for whatever else happens.
        let (arrived, mut messages) = mpsc::channel(WAITING);
        let mut reading = JoinSet::new();
        reading.spawn(read(receiver, arrived));
        let events = self.desk.events.clone();
        loop {
            self.tell().await?;
            let next_look = Instant::now() + self.until_next_look();
            self.publish();
            self.take_signs_of_life().await?;
            let due = self.epoch + self.conversation.due();
            let can_give = self.taking.is_none() && !self.batches.is_empty();
            tokio::select! {
                order = self.desk.orders.recv() => {
                    self.obey(order)?;
                    // All of them before anything else happens: how many there are depends on the peer.
                    while let Ok(order) = self.desk.orders.try_recv() {
                        self.obey(Some(order))?;
                    }
                }
                message = messages.recv() => match message {
                    Some(message) => self.on_message(message?)?,
                    None => return Err(ExchangeError::Ended("the connection to the peer cannot be read")),
                },
                taken = end_of(&mut self.taking) => self.on_taken(taken).await?,
                permit = events.reserve(), if can_give => {
                    let permit = permit.map_err(|_| ExchangeError::Stopped)?;
                    if let Some((number, items)) = self.batches.pop_front() {
                        self.is_quiet = items.is_empty();
                        let (answer, taken) = oneshot::channel();
                        permit.send(Event::Items { items, taken: answer });
                        self.taking = Some(Taking { number, taken });
                    }
                }
                () = sleep_until(next_look) => {}
                () = sleep_until(due) => if self.conversation.check(self.epoch.elapsed())? {
                    // A sign of life. There is room, so nothing is left to tell but what has changed this very moment.
                    self.send_batch(Vec::new()).await?;
                },
            }
        }
    }

    fn until_next_look(&self) -> Duration {
        match self.moving_since {
            Some(since) if since.elapsed() < MOVING => LOOK_CLOSELY,
            _ => LOOK,
        }
    }

    /// Tells what there is to tell, as far as the peer takes it in.
    async fn tell(&mut self) -> Result<(), ExchangeError> {
        while self.conversation.has_room() {
            let has_backlog = self.outbox.has_backlog();
            let items = self
                .outbox
                .next_batch(&mut self.desk.source)
                .map_err(|error| ExchangeError::Source(error.to_string()))?;
            if items.is_empty() {
                break;
            }
            if has_backlog {
                // Before it is sent, which publishes what is known: until it has been taken in, nobody may think that it was.
                self.caught_up = Some(self.conversation.next() + 1);
            }
            self.send_batch(items).await?;
        }
        Ok(())
    }

    async fn send_batch(&mut self, items: Vec<Item>) -> Result<(), ExchangeError> {
        let message = self.conversation.batch(items, self.epoch.elapsed());
        self.publish();
        self.send(&message).await
    }

    async fn send(&mut self, message: &Message) -> Result<(), ExchangeError> {
        match timeout(PATIENCE, self.sender.send(message)).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(ExchangeError::Slow("read what it is told")),
        }
    }

    fn obey(&mut self, order: Option<Order>) -> Result<(), ExchangeError> {
        match order {
            Some(Order::Tell(Subjects {
                everything,
                what_begins,
                moving,
            })) => {
                if self.conversation.tells_unowned() {
                    self.outbox.watch(what_begins);
                }
                self.outbox.own(everything);
                self.caught_up.get_or_insert_default();
                if moving > self.moving {
                    self.moving_since = Some(Instant::now());
                }
                self.moving = moving;
            }
            Some(Order::Ask(key)) => self.outbox.ask(key),
            Some(Order::TellAgain(keys)) => keys.iter().for_each(|key| self.outbox.tell_again(key)),
            Some(Order::Decide(words)) => self.outbox.decide(words),
            Some(Order::Stop) | None => return Err(ExchangeError::Stopped),
        }
        Ok(())
    }

    fn on_message(&mut self, message: Message) -> Result<(), ExchangeError> {
        match self.conversation.hear(message, self.epoch.elapsed())? {
            Heard::Items { number, items } => self.batches.push_back((number, items)),
            // There is one greeting.
            Heard::Taken | Heard::Peer { .. } => {}
        }
        Ok(())
    }

    /// Answers batches in which there is nothing. The first says that the peer has nothing left to tell; the others are none of the
    /// controller's business, however many come.
    async fn take_signs_of_life(&mut self) -> Result<(), ExchangeError> {
        while self.is_quiet
            && self.taking.is_none()
            && let Some((number, _)) = self.batches.pop_front_if(|(_, items)| items.is_empty())
        {
            let message = self.conversation.taken(number, self.epoch.elapsed());
            self.send(&message).await?;
        }
        Ok(())
    }

    /// Gives the controller what has arrived before the connection ended: it may be the last that anybody will ever hear of it. That nothing
    /// more comes is no matter.
    async fn give_the_rest(&mut self) {
        if let Some(Taking { taken, .. }) = self.taking.take()
            && !matches!(taken.await, Ok(Ok(())))
        {
            return;
        }
        while let Some((_, items)) = self.batches.pop_front() {
            let (answer, taken) = oneshot::channel();
            let event = Event::Items { items, taken: answer };
            let was_taken = self.desk.events.send(event).await.is_ok() && matches!(taken.await, Ok(Ok(())));
            if !was_taken {
                return;
            }
        }
    }

    async fn on_taken(&mut self, taken: Result<(), String>) -> Result<(), ExchangeError> {
        if let Some(Taking { number, .. }) = self.taking.take() {
            taken.map_err(ExchangeError::Refused)?;
            let message = self.conversation.taken(number, self.epoch.elapsed());
            self.send(&message).await?;
        }
        Ok(())
    }

    fn publish(&self) {
        let now = self.epoch.elapsed();
        let behind = self.conversation.lag(now);
        let since = (!behind.is_zero()).then(|| self.epoch + now.saturating_sub(behind));
        let is_taken = |number| self.conversation.has_taken_before(number);
        let is_up_to_date = !self.outbox.has_backlog() && self.caught_up.is_some_and(is_taken);
        self.desk.board.write(|known| {
            known.behind_since = since;
            known.is_up_to_date = is_up_to_date;
        });
    }
}

async fn read(mut receiver: Receiver<TcpStream>, arrived: mpsc::Sender<Result<Message, ChannelError>>) {
    loop {
        let message = receiver.receive().await;
        let is_last = message.is_err();
        if arrived.send(message).await.is_err() || is_last {
            return;
        }
    }
}

/// Waits until the controller has taken a batch in; for ever if there is none.
async fn end_of(taking: &mut Option<Taking>) -> Result<(), String> {
    match taking {
        Some(taking) => (&mut taking.taken)
            .await
            .unwrap_or_else(|_| Err("the daemon ends".to_owned())),
        None => std::future::pending().await,
    }
}
