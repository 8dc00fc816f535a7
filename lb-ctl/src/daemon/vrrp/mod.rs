//! VRRP: a thread of its own, so that nothing that the controller is busy with delays an advertisement.
//!
//! The thread owns the instances, their sockets and the addresses that they carry. The controller tells it what is configured and how
//! many backends are healthy, and reads what it makes known. A second thread runs the operator's programs.

mod driver;
mod hooks;
mod instance;
mod programs;
mod scripts;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Context;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    adapters::api::server::{Answer, Refusal},
    core::{config::Vrrp, status::VrrpStatus, vrrp::Script},
};
use driver::Driver;
use programs::{Notifier, Programs};
use scripts::Verdict;

/// How many backends of each service there are, and how many of them are healthy.
pub(super) type Healthy = BTreeMap<String, (usize, usize)>;

/// What instances can depend on besides interfaces.
#[derive(Clone, Debug, Default)]
struct Dependencies {
    healthy: Healthy,
    /// What scripts say; nothing of those that have not said anything yet.
    scripts: BTreeMap<Script, Verdict>,
}

/// What the controller wants of the thread.
#[derive(Debug)]
enum Order {
    /// Follow these instances, and say when those that are gone have left.
    Follow(Vec<Vrrp>, oneshot::Sender<()>),
    /// Hand one over, or all that are master.
    HandOver(Option<String>, Answer<Vec<String>>),
    /// The health of backends has changed.
    Healthy(Healthy),
    /// A script says something else than before.
    Script(Script, Verdict),
    /// End, leaving the addresses to others.
    Stop,
}

/// What is known of an instance.
#[derive(Clone, Debug)]
struct Snapshot {
    status: VrrpStatus,
    /// When it came into its state.
    since: Instant,
    /// When its timer is up.
    due: Option<Instant>,
}

/// What the thread makes known.
#[derive(Clone, Debug, Default)]
struct Board(Arc<Mutex<Vec<Snapshot>>>);

impl Board {
    fn lock(&self) -> MutexGuard<'_, Vec<Snapshot>> {
        // Whoever held it had nothing to leave half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The controller's end of the thread.
#[derive(Debug, Default)]
pub(super) struct Instances {
    thread: Option<Thread>,
    board: Board,
    healthy: Healthy,
    told: hooks::Tally,
}

#[derive(Debug)]
struct Thread {
    orders: mpsc::UnboundedSender<Order>,
    handle: JoinHandle<()>,
    programs: Programs,
}

impl Instances {
    /// Follows these instances. Returns when those that are no longer among them have left their addresses.
    pub(super) async fn follow(&mut self, instances: &[Vrrp]) -> anyhow::Result<()> {
        let thread = match &mut self.thread {
            Some(thread) => thread,
            None if instances.is_empty() => return Ok(()),
            none => none.insert(Thread::start(
                self.board.clone(),
                &self.healthy,
                self.told.clone(),
            )?),
        };
        let (done, left) = oneshot::channel();
        thread.order(Order::Follow(instances.to_vec(), done))?;
        left.await.context("the VRRP thread has ended")?;
        thread.programs.follow(instances)
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
        let status = board.iter().map(|snapshot| {
            let mut status = VrrpStatus {
                state_seconds: snapshot.since.elapsed().as_secs(),
                due_ms: snapshot
                    .due
                    .map(|due| milliseconds(due.saturating_duration_since(Instant::now()))),
                ..snapshot.status.clone()
            };
            for (result, count) in &mut status.notifications {
                *count = self.told.of(&status.name, result);
            }
            status
        });
        status.collect()
    }

    /// Whether there is a thread, to which the addresses of instances belong.
    pub(super) fn is_running(&self) -> bool {
        self.thread.is_some()
    }

    /// Ends the thread, which leaves the addresses to others first.
    pub(super) async fn stop(&mut self) {
        let Some(Thread {
            orders,
            handle,
            programs,
        }) = self.thread.take()
        else {
            return;
        };
        // If it has ended already it has said why.
        let _ = orders.send(Order::Stop);
        let joined = tokio::task::spawn_blocking(move || handle.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!("the VRRP thread has ended badly: addresses may have stayed on interfaces");
        }
        programs.stop().await;
    }
}

fn milliseconds(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

impl Thread {
    fn start(board: Board, healthy: &Healthy, told: hooks::Tally) -> anyhow::Result<Self> {
        let (orders, received) = mpsc::unbounded_channel();
        let programs = Programs::start(orders.downgrade(), told)?;
        let notifier = programs.notifier();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the runtime of VRRP")?;
        let dependencies = Dependencies {
            healthy: healthy.clone(),
            ..Dependencies::default()
        };
        let handle = std::thread::Builder::new()
            .name("vrrp".into())
            .spawn(move || runtime.block_on(Driver::run(received, board, dependencies, notifier)))
            .context("starting the thread of VRRP")?;
        Ok(Self {
            orders,
            handle,
            programs,
        })
    }

    fn order(&self, order: Order) -> anyhow::Result<()> {
        self.orders.send(order).ok().context("the VRRP thread has ended")
    }
}
