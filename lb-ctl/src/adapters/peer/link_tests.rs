//! Links over TCP on this host, with tables in memory.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use lb_common::{
    address::Address,
    layout::{Affinity, ClientKey, FlowKey, FlowRecord, Service, ServiceKey, Slot, TargetName},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

use super::{Event, Identity, Key, Link, Receiver, Sender, Subjects, Ways, open};
use crate::core::sync::{Changes, Conversation, Heard, Item, Shape, Source, WayToClient};

/// Much longer than anything takes here; what is waited for comes, or the test fails.
const LONG: Duration = Duration::from_secs(30);

const SHAPE: Shape = Shape {
    hash_seed: 1,
    slots_per_service: 7,
};

/// One service without backends, whose slots are all alike.
#[derive(Clone, Default)]
struct Tables(Arc<Mutex<Changes>>);

impl Source for Tables {
    type Error = Infallible;

    fn changes(&mut self) -> Changes {
        self.0.lock().unwrap().take()
    }
    fn slot(&self, _: u32) -> Result<Slot, Infallible> {
        Ok(Slot::default())
    }
    fn name(&self, _: u16) -> Result<Option<TargetName>, Infallible> {
        Ok(None)
    }
    fn flow(&self, _: &FlowKey) -> Result<Option<FlowRecord>, Infallible> {
        Ok(None)
    }
    fn client(&self, _: &ClientKey) -> Result<Option<Affinity>, Infallible> {
        Ok(None)
    }
    fn way_to_client(&self, _: &FlowKey, _: &FlowRecord) -> Result<Option<WayToClient>, Infallible> {
        Ok(None)
    }
    fn flows_of(&self, _: &BTreeSet<u16>) -> Result<Vec<FlowKey>, Infallible> {
        Ok(Vec::new())
    }
    fn clients_of(&self, _: &BTreeSet<u16>) -> Result<Vec<ClientKey>, Infallible> {
        Ok(Vec::new())
    }
    fn now(&self) -> u32 {
        0
    }
}

struct Side {
    link: Link,
    events: mpsc::Receiver<Event>,
    tables: Tables,
    /// What it owns whenever somebody connects.
    owned: Vec<(ServiceKey, Service)>,
}

fn key(digit: &str) -> Key {
    Key::of_text(digit.repeat(64).as_bytes()).unwrap()
}

fn side(node: &str, key: Key, listen: Option<SocketAddr>, connect: Option<SocketAddr>) -> Side {
    let identity = Identity {
        node: node.to_owned(),
        program: "1.0.0".to_owned(),
        shape: SHAPE,
        interfaces: vec![format!("eth-of-{node}")],
        key,
    };
    let (sender, events) = mpsc::channel(1);
    let tables = Tables::default();
    let link = Link::start(Ways { listen, connect }, identity, tables.clone(), sender).unwrap();
    Side {
        link,
        events,
        tables,
        owned: Vec::new(),
    }
}

/// An address on which nobody listens at the moment.
async fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

fn service() -> (ServiceKey, Service) {
    let entry = Service {
        hash_seed: 1,
        first_slot: 0,
        slots: 7,
        flags: 0,
        id: 3,
        port_mask: u16::MAX,
        affinity_timeout: 0,
        candidates: 0,
        reserved: 0,
    };
    (ServiceKey::tcp(Address::v4([10, 0, 0, 1]), 21050), entry)
}

impl Side {
    async fn event(&mut self) -> Event {
        timeout(LONG, self.events.recv())
            .await
            .expect("an event")
            .expect("a thread")
    }

    /// Waits for a connection, and says that we are ready.
    async fn connected(&mut self) -> String {
        loop {
            match self.event().await {
                Event::Connected { interfaces, ready } => {
                    self.begin(ready);
                    let peer = self.link.board().read().peer.expect("a peer").0;
                    assert_eq!(interfaces, [format!("eth-of-{peer}")]);
                    return peer;
                }
                Event::Gone => {}
                items @ Event::Items { .. } => panic!("{items:?}"),
            }
        }
    }

    fn begin(&self, ready: oneshot::Sender<()>) {
        self.link.tell(Subjects {
            everything: self.owned.clone(),
            ..Subjects::default()
        });
        // Of two connections that meet, the one that is given up may have ended meanwhile.
        let _ = ready.send(());
    }

    /// Takes in what comes until that has happened.
    async fn until(&mut self, mut is_it: impl FnMut(&Event) -> bool) {
        loop {
            let event = self.event().await;
            let is_over = is_it(&event);
            match event {
                // The connection may have ended meanwhile here too.
                Event::Items { taken, .. } => drop(taken.send(Ok(()))),
                Event::Connected { ready, .. } => self.begin(ready),
                Event::Gone => {}
            }
            if is_over {
                return;
            }
        }
    }
}

fn has(event: &Event, wanted: fn(&Item) -> bool) -> bool {
    matches!(event, Event::Items { items, .. } if items.iter().any(wanted))
}

#[tokio::test]
async fn what_one_owns_the_other_hears_and_again_after_it_was_gone() {
    let (one, two) = (free_address().await, free_address().await);
    let mut first = side("lb1", key("1"), Some(one), Some(two));
    let mut second = side("lb2", key("1"), Some(two), Some(one));
    first.owned.push(service());
    // Both come to each other: whichever connection stays, each has the other on it.
    let complete = |event: &Event| has(event, |item| matches!(item, Item::Complete { service: 3 }));
    tokio::select! {
        () = first.until(|_| false) => {}
        () = second.until(complete) => {}
    }
    let peer = second.link.board().read().peer.map(|(node, _)| node);
    assert_eq!(peer.as_deref(), Some("lb1"));

    // What changes is told without being asked for.
    first.tables.0.lock().unwrap().slot(5);
    let fifth = |event: &Event| has(event, |item| matches!(item, Item::Slots { first: 5, .. }));
    tokio::select! {
        () = first.until(|_| false) => {}
        () = second.until(fifth) => {}
    }

    // One ends and comes back: all is told anew.
    second.link.stop().await;
    let mut second = side("lb2", key("1"), Some(two), Some(one));
    tokio::select! {
        () = first.until(|_| false) => {}
        () = second.until(complete) => {}
    }
    first.link.stop().await;
    second.until(|event| matches!(event, Event::Gone)).await;
    assert_eq!(second.link.board().read().peer, None);
    second.link.stop().await;
}

#[tokio::test]
async fn whether_the_other_one_knows_everything_is_known() {
    let one = free_address().await;
    let mut first = side("lb1", key("1"), Some(one), None);
    let mut second = side("lb2", key("1"), None, Some(one));
    let board = first.link.board().clone();
    assert!(!board.read().is_up_to_date, "nobody is there");
    first.owned.push(service());
    assert_eq!(first.connected().await, "lb2");
    assert_eq!(second.connected().await, "lb1");
    let known = |is: bool| {
        let board = board.clone();
        async move {
            while board.read().is_up_to_date != is {
                sleep(Duration::from_millis(1)).await;
            }
        }
    };
    // As long as the other one has not taken it in, it counts for nothing that it has been told.
    let Event::Items { items, taken } = second.event().await else {
        panic!("it has been told nothing");
    };
    assert!(
        items
            .iter()
            .any(|item| matches!(item, Item::Complete { service: 3 }))
    );
    assert!(!board.read().is_up_to_date);
    taken.send(Ok(())).unwrap();
    timeout(LONG, known(true)).await.expect("it to know everything");
    // What changes is told at once. It is not waited for.
    first.tables.0.lock().unwrap().slot(5);
    let Event::Items { taken, .. } = second.event().await else {
        panic!("it has been told nothing");
    };
    assert!(board.read().is_up_to_date && board.read().behind_since.is_some());
    taken.send(Ok(())).unwrap();
    // What is told anew is.
    first.link.tell_again(BTreeSet::from([service().0]));
    timeout(LONG, known(false)).await.expect("it to be told anew");
    tokio::select! {
        () = first.until(|_| false) => {}
        () = second.until(|_| false) => {}
        ended = timeout(LONG, known(true)) => ended.expect("it to know everything"),
    }
    second.link.stop().await;
    timeout(LONG, known(false)).await.expect("it to be missed");
    first.link.stop().await;
}

#[tokio::test]
async fn who_does_not_take_in_is_told_anew_when_it_asks() {
    let one = free_address().await;
    let mut first = side("lb1", key("1"), Some(one), None);
    let mut second = side("lb2", key("1"), None, Some(one));
    first.owned.push(service());
    assert_eq!(first.connected().await, "lb2");
    assert_eq!(second.connected().await, "lb1");
    // It cannot take it in, so the connection ends, and with the next one it comes again.
    match second.event().await {
        Event::Items { taken, .. } => taken.send(Err("no room".to_owned())).unwrap(),
        other => panic!("{other:?}"),
    }
    second.until(|event| matches!(event, Event::Gone)).await;
    let trouble = second.link.board().read().trouble.unwrap_or_default();
    assert!(trouble.contains("no room"), "{trouble}");
    let begin = |event: &Event| has(event, |item| matches!(item, Item::Begin { service: 3 }));
    let both = async { tokio::join!(first.connected(), second.until(begin)) };
    both.await;
    // It asks to be told again.
    second.link.ask(service().0);
    let asks = |event: &Event| has(event, |item| matches!(item, Item::Again { port: 21050, .. }));
    tokio::select! {
        () = first.until(asks) => {}
        () = second.until(|_| false) => {}
    }
    first.link.tell_again(BTreeSet::from([service().0]));
    tokio::select! {
        () = first.until(|_| false) => {}
        () = second.until(begin) => {}
    }
    first.link.stop().await;
    second.link.stop().await;
}

#[tokio::test]
async fn a_controller_that_takes_nothing_in_can_stop_it() {
    let one = free_address().await;
    let first = side("lb1", key("1"), Some(one), None);
    let mut second = side("lb2", key("1"), None, Some(one));
    second.connected().await;
    // That somebody has connected waits for the controller, which has something else to do.
    while first.link.board().read().peer.is_none() {
        sleep(Duration::from_millis(10)).await;
    }
    timeout(LONG, first.link.stop()).await.expect("an end");
    drop(second.events);
    timeout(LONG, second.link.stop()).await.expect("an end");
}

/// A peer without a thread, which says what a test wants.
struct Puppet {
    sender: Sender<TcpStream>,
    receiver: Receiver<TcpStream>,
    conversation: Conversation,
}

impl Puppet {
    /// Goes to somebody who listens there, and greets.
    async fn go(address: SocketAddr) -> Self {
        let stream = loop {
            // It takes a moment to listen.
            match TcpStream::connect(address).await {
                Ok(stream) => break stream,
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        };
        let (mut sender, mut receiver) = open(stream, &key("1")).await.unwrap();
        let interfaces = ["eth-of-lb2".to_owned()];
        let (mut conversation, greeting) =
            Conversation::begin("lb2", "1.0.0", SHAPE, &interfaces, Duration::ZERO);
        sender.send(&greeting).await.unwrap();
        let answer = receiver.receive().await.unwrap();
        conversation.hear(answer, Duration::ZERO).unwrap();
        Self {
            sender,
            receiver,
            conversation,
        }
    }

    async fn tell(&mut self, items: Vec<Item>) {
        let batch = self.conversation.batch(items, Duration::ZERO);
        self.sender.send(&batch).await.unwrap();
    }
}

#[tokio::test]
async fn signs_of_life_without_end_are_none_of_the_controllers_business() {
    let one = free_address().await;
    let mut first = side("lb1", key("1"), Some(one), None);
    let mut peer = Puppet::go(one).await;
    assert_eq!(first.connected().await, "lb2");
    // That nothing follows what was told is its business, once.
    let again = Item::Again {
        vip: [10, 0, 0, 1].into(),
        port: 21050,
    };
    for items in [vec![again], Vec::new()] {
        peer.tell(items.clone()).await;
        match first.event().await {
            Event::Items { items: found, taken } => {
                assert_eq!(found, items);
                taken.send(Ok(())).unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
    // From now on the controller looks at nothing.
    let all = async {
        for _ in 0..20 {
            peer.tell(Vec::new()).await;
            let Puppet {
                sender,
                receiver,
                conversation,
            } = &mut peer;
            loop {
                let message = receiver.receive().await.unwrap();
                match conversation.hear(message, Duration::ZERO).unwrap() {
                    Heard::Taken => break,
                    Heard::Items { number, .. } => {
                        let taken = conversation.taken(number, Duration::ZERO);
                        sender.send(&taken).await.unwrap();
                    }
                    peer @ Heard::Peer { .. } => panic!("{peer:?}"),
                }
            }
        }
    };
    timeout(LONG, all).await.expect("answers");
    assert!(first.events.try_recv().is_err());
    first.link.stop().await;
}

/// It may be the last that anybody will ever hear of it.
#[tokio::test]
async fn what_has_arrived_when_the_connection_ends_is_taken_in() {
    let one = free_address().await;
    let mut first = side("lb1", key("1"), Some(one), None);
    let mut peer = Puppet::go(one).await;
    assert_eq!(first.connected().await, "lb2");
    let word = |port| {
        vec![Item::Again {
            vip: [10, 0, 0, 1].into(),
            port,
        }]
    };
    for port in 1..4 {
        peer.tell(word(port)).await;
    }
    drop(peer);
    for port in 1..4 {
        let Event::Items { items, taken } = first.event().await else {
            panic!("expected word {port}");
        };
        assert_eq!(items, word(port));
        // The controller is busy, and the end is known long before it has come to the rest.
        sleep(Duration::from_millis(50)).await;
        taken.send(Ok(())).unwrap();
    }
    assert!(matches!(first.event().await, Event::Gone));
    first.link.stop().await;
}

#[tokio::test]
async fn strangers_get_nowhere_and_keep_nobody_out() {
    let one = free_address().await;
    let mut first = side("lb1", key("1"), Some(one), None);
    let stranger = side("lb3", key("2"), None, Some(one));
    // Some say nothing, some say anything; all of them together are more than there is room for.
    let mut silent = Vec::new();
    while silent.len() < 20 {
        // It takes a moment to listen.
        let Ok(mut stream) = TcpStream::connect(one).await else {
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        if silent.len() % 2 == 0 {
            drop(stream.write_all(&[0xff; 4096]).await);
        }
        silent.push(stream);
    }
    let mut second = side("lb2", key("1"), None, Some(one));
    let (peer, other) = tokio::join!(first.connected(), second.connected());
    assert_eq!((peer.as_str(), other.as_str()), ("lb2", "lb1"));
    // Whoever sent rubbish has been cut off.
    let mut byte = [0; 1];
    let ended = timeout(LONG, silent[0].read(&mut byte)).await.expect("an end");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let trouble = stranger.link.board().read().trouble;
    assert!(stranger.link.board().read().peer.is_none(), "{trouble:?}");
    for side in [first, second, stranger] {
        side.link.stop().await;
    }
}
