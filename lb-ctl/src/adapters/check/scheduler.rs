//! Runs the checks of all backends at their times.
//!
//! Each backend has a task of its own that holds its [`Monitor`], sleeps until the next check is due, and runs it. So there is
//! never more than one check of a backend under way, and no backend waits for another. What is found goes to the owner of
//! the controller's state over a channel; when the owner is slow, the tasks wait for it, and nothing is lost.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Duration, Instant, sleep_until};

use super::target::Target;
use super::{NotChecked, check};
use crate::core::health::{Event, Health, Monitor, Outcome, Pace, Standing, Start};

/// One backend to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// What is checked.
    pub target: Target,
    /// How often.
    pub pace: Pace,
    /// What is known of it, if it is not being checked already.
    pub start: Start,
}

/// What a check has found, and what follows from it.
#[derive(Clone, Debug)]
pub struct Report<K> {
    /// Which backend.
    pub key: K,
    /// Its address. After a reload, a report may still be on its way that is about an earlier address of the same name.
    pub address: IpAddr,
    /// What the check has found, or why there was none.
    pub result: Result<Outcome, NotChecked>,
    /// What that has changed.
    pub events: Vec<Event>,
    /// The backend's health now.
    pub health: Health,
    /// What that means for who serves.
    pub standing: Standing,
    /// How long the backend has been up; `None` if it is not up or was from the start.
    pub since_up: Option<Duration>,
    /// When the check began.
    pub began: Instant,
}

/// Runs the checks. Dropping it ends them.
#[derive(Debug)]
pub struct Scheduler<K> {
    seed: u64,
    /// The moment from which the monitors count.
    epoch: Instant,
    reports: mpsc::Sender<Report<K>>,
    running: BTreeMap<K, Running>,
}

#[derive(Debug)]
struct Running {
    order: watch::Sender<Order>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Order {
    target: Target,
    pace: Pace,
}

impl<K> Scheduler<K>
where
    K: Clone + Ord + ToString + Send + Sync + 'static,
{
    /// A scheduler of nothing yet, and where its reports come out. The seed spreads the checks of different balancers;
    /// `room` is how many reports may wait for their reader.
    pub fn new(seed: u64, room: usize) -> (Self, mpsc::Receiver<Report<K>>) {
        let (reports, receiver) = mpsc::channel(room.max(1));
        let scheduler = Self {
            seed,
            epoch: Instant::now(),
            reports,
            running: BTreeMap::new(),
        };
        (scheduler, receiver)
    }

    /// Checks these backends from now on, and no others. Must be called within a tokio runtime.
    ///
    /// A backend that has been checked under the same key at the same address keeps its health, also if the way in which
    /// it is checked has changed; a check of it that is under way is abandoned in that case.
    pub fn assign(&mut self, assignments: impl IntoIterator<Item = (K, Assignment)>) {
        let mut before = std::mem::take(&mut self.running);
        for (key, Assignment { target, pace, start }) in assignments {
            let order = Order { target, pace };
            let same_address =
                |running: &Running| running.order.borrow().target.address == order.target.address;
            let running = match before.remove(&key).filter(same_address) {
                Some(running) => {
                    running.order.send_if_modified(|current| {
                        let modified = *current != order;
                        *current = order;
                        modified
                    });
                    running
                }
                None => self.spawn(key.clone(), order, start),
            };
            self.running.insert(key, running);
        }
    }

    fn spawn(&self, key: K, order: Order, start: Start) -> Running {
        let now = self.epoch.elapsed();
        let watcher = Watcher {
            monitor: Monitor::new(&key.to_string(), self.seed, order.pace, start, now),
            key,
            epoch: self.epoch,
            reports: self.reports.clone(),
        };
        let (order, orders) = watch::channel(order);
        let task = tokio::spawn(watcher.run(orders)).abort_handle();
        Running { order, task }
    }
}

/// The task of one backend.
struct Watcher<K> {
    key: K,
    monitor: Monitor,
    epoch: Instant,
    reports: mpsc::Sender<Report<K>>,
}

impl<K: Clone> Watcher<K> {
    /// Ends when the scheduler or the reader of the reports is gone.
    async fn run(mut self, mut orders: watch::Receiver<Order>) {
        loop {
            let order = orders.borrow_and_update().clone();
            self.monitor.set_pace(order.pace, self.epoch.elapsed());
            let next = async {
                sleep_until(self.epoch + self.monitor.next_check()).await;
                let began = self.epoch.elapsed();
                // Boxed, so that a task that only sleeps is small.
                (Box::pin(check(&order.target)).await, began)
            };
            tokio::select! {
                (result, began) = next => {
                    let report = self.take_in(&order.target, result, began);
                    if self.reports.send(report).await.is_err() {
                        return;
                    }
                }
                changed = orders.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn take_in(
        &mut self,
        target: &Target,
        result: Result<Outcome, NotChecked>,
        began: Duration,
    ) -> Report<K> {
        let now = self.epoch.elapsed();
        let events = if let Ok(outcome) = &result {
            self.monitor.observe(outcome, began, now)
        } else {
            self.monitor.postpone(began, now);
            Vec::new()
        };
        Report {
            key: self.key.clone(),
            address: target.address,
            result,
            events,
            health: self.monitor.health(),
            standing: self.monitor.standing(),
            since_up: self.monitor.up_since().map(|since| now.saturating_sub(since)),
            began: self.epoch + began,
        }
    }
}
