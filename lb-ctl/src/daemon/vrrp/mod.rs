//! VRRP: a thread of its own, so that nothing that the controller is busy with delays an advertisement.
//!
//! The thread owns the instances, their sockets and the addresses that they carry. The controller tells it what is configured and how
//! many backends are healthy, and reads what it makes known.

mod driver;
mod instance;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use anyhow::Context;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use crate::{
    adapters::api::server::{Answer, Refusal},
    core::{config::Vrrp, status::VrrpStatus, vrrp::State},
};
use driver::Driver;

/// How many backends of each service there are, and how many of them are healthy.
pub(super) type Healthy = BTreeMap<String, (usize, usize)>;

/// What the controller wants of the thread.
#[derive(Debug)]
enum Order {
    /// Follow these instances, and say when those that are gone have left.
    Follow(Vec<Vrrp>, oneshot::Sender<()>),
    /// Hand one over, or all that are master.
    HandOver(Option<String>, Answer<Vec<String>>),
    /// The health of backends has changed.
    Healthy(Healthy),
    /// End, leaving the addresses to others.
    Stop,
}

/// What is known of an instance.
#[derive(Clone, Debug)]
struct Snapshot {
    status: VrrpStatus,
    /// When it came into its state.
    since: Instant,
}

/// What the thread makes known.
#[derive(Clone, Debug, Default)]
struct Board {
    snapshots: Arc<Mutex<Vec<Snapshot>>>,
    /// The addresses of the instances that are master.
    held: watch::Sender<BTreeSet<IpAddr>>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Vec<Snapshot>> {
        // Whoever held it had nothing to leave half done.
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, snapshots: Vec<Snapshot>) {
        let is_master = |snapshot: &&Snapshot| snapshot.status.state == State::Master.to_string();
        let masters = snapshots.iter().filter(is_master);
        let held: BTreeSet<IpAddr> = masters
            .flat_map(|snapshot| snapshot.status.addresses.iter().copied())
            .collect();
        *self.lock() = snapshots;
        self.held.send_if_modified(|before| {
            let is_news = *before != held;
            *before = held;
            is_news
        });
    }
}

/// The controller's end of the thread.
#[derive(Debug, Default)]
pub(super) struct Instances {
    thread: Option<Thread>,
    board: Board,
    healthy: Healthy,
}

#[derive(Debug)]
struct Thread {
    orders: mpsc::UnboundedSender<Order>,
    handle: JoinHandle<()>,
}

impl Instances {
    /// Follows these instances. Returns when those that are no longer among them have left their addresses.
    pub(super) async fn follow(&mut self, instances: &[Vrrp]) -> anyhow::Result<()> {
        let thread = match &mut self.thread {
            Some(thread) => thread,
            None if instances.is_empty() => return Ok(()),
            none => none.insert(Thread::start(self.board.clone(), &self.healthy)?),
        };
        let (done, left) = oneshot::channel();
        thread.order(Order::Follow(instances.to_vec(), done))?;
        left.await.context("the VRRP thread has ended")
    }

    /// Tells how many backends are healthy, if that is news.
    pub(super) fn set_healthy(&mut self, healthy: Healthy) -> anyhow::Result<()> {
        if self.healthy == healthy {
            return Ok(());
        }
        self.healthy = healthy;
        match &self.thread {
            Some(thread) => thread.order(Order::Healthy(self.healthy.clone())),
            None => Ok(()),
        }
    }

    /// Hands an instance over, or all that are master.
    pub(super) fn hand_over(&self, instance: Option<String>, answer: Answer<Vec<String>>) {
        // Whoever asked may have gone; that is their business.
        let Some(thread) = &self.thread else {
            let refusal = "there is nothing to hand over: no [[vrrp]] is configured";
            let _ = answer.send(Err(Refusal::Usage(refusal.into())));
            return;
        };
        let order = Order::HandOver(instance, answer);
        if let Err(mpsc::error::SendError(Order::HandOver(_, answer))) = thread.orders.send(order) {
            let _ = answer.send(Err(Refusal::Failed("the VRRP thread has ended".into())));
        }
    }

    /// What is known of the instances, in the order of the configuration.
    pub(super) fn status(&self) -> Vec<VrrpStatus> {
        let board = self.board.lock();
        let status = board.iter().map(|snapshot| VrrpStatus {
            state_seconds: snapshot.since.elapsed().as_secs(),
            ..snapshot.status.clone()
        });
        status.collect()
    }

    /// The addresses of the instances that are master.
    pub(super) fn held(&self) -> BTreeSet<IpAddr> {
        self.board.held.borrow().clone()
    }

    /// Tells of changes of what is [held](Self::held).
    pub(super) fn holdings(&self) -> watch::Receiver<BTreeSet<IpAddr>> {
        self.board.held.subscribe()
    }

    /// Whether there is a thread, to which the addresses of instances belong.
    pub(super) fn is_running(&self) -> bool {
        self.thread.is_some()
    }

    /// Ends the thread, which leaves the addresses to others first.
    pub(super) async fn stop(&mut self) {
        let Some(Thread { orders, handle }) = self.thread.take() else {
            return;
        };
        // If it has ended already it has said why.
        let _ = orders.send(Order::Stop);
        let joined = tokio::task::spawn_blocking(move || handle.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!("the VRRP thread has ended badly: addresses may have stayed on interfaces");
        }
    }
}

impl Thread {
    fn start(board: Board, healthy: &Healthy) -> anyhow::Result<Self> {
        let (orders, received) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the runtime of VRRP")?;
        let healthy = healthy.clone();
        let handle = std::thread::Builder::new()
            .name("vrrp".into())
            .spawn(move || runtime.block_on(Driver::run(received, board, healthy)))
            .context("starting the thread of VRRP")?;
        Ok(Self { orders, handle })
    }

    fn order(&self, order: Order) -> anyhow::Result<()> {
        self.orders.send(order).ok().context("the VRRP thread has ended")
    }
}
