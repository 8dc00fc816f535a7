//! Reads the pages of seeds, again and again.
//!
//! Each seed of each service has a task of its own, so that none waits for another; what is read goes to the owner of the
//! controller's state over a channel. Who follows from that is for [`core::discovery`](crate::core::discovery) to say.

mod reading;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::check::{Tls, TlsError, TlsOptions};
use crate::core::config::{Forward, Seed, Service};
use crate::core::discovery::Coordinator;

pub use reading::read;

/// A seed, and how its page is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The seed.
    pub seed: Seed,
    /// How often.
    pub interval: Duration,
    /// How long it may take in all.
    pub timeout: Duration,
    /// Our own address that connections come from; `None` leaves that to the kernel's routes.
    pub source: Option<IpAddr>,
    /// TLS, if the page wants that.
    pub tls: Option<Tls>,
    /// The VIP of the service, whose family its backends have.
    pub vip: IpAddr,
    /// They may be of the other family too.
    pub any_family: bool,
}

/// What a seed has answered.
#[derive(Clone, Debug)]
pub struct Answer<K> {
    /// For which service.
    pub service: K,
    /// The seed.
    pub seed: String,
    /// The coordinators that it lists, each with the addresses at which the service can use it; or why there are none.
    pub page: Result<Vec<Coordinator>, String>,
}

/// How the pages of a service's seeds are read, if it has any. Reads certificates.
pub fn orders(service: &Service) -> Result<Vec<Order>, TlsError> {
    let Some(discovery) = &service.discovery else {
        return Ok(Vec::new());
    };
    let order = |seed: &Seed| {
        let load = |tls: &crate::core::config::CheckTls| {
            Tls::load(TlsOptions {
                ca_file: tls.ca_file.clone(),
                server_name: tls.server_name.clone().or_else(|| Some(seed.host.clone())),
                verify: tls.verify,
            })
        };
        Ok(Order {
            seed: seed.clone(),
            interval: discovery.interval,
            timeout: discovery.timeout,
            source: discovery.source,
            tls: discovery.tls.as_ref().map(load).transpose()?,
            vip: service.vip,
            any_family: service.forward == Forward::Ipip,
        })
    };
    discovery.seeds.iter().map(order).collect()
}

/// Reads pages. Dropping it ends that.
#[derive(Debug)]
pub struct Reader<K> {
    answers: mpsc::Sender<Answer<K>>,
    running: BTreeMap<(K, Seed), Running>,
}

#[derive(Debug)]
struct Running {
    order: Order,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<K: Clone + Ord + Send + Sync + 'static> Reader<K> {
    /// A reader of nothing yet, and where its answers come out; `room` is how many of them may wait.
    pub fn new(room: usize) -> (Self, mpsc::Receiver<Answer<K>>) {
        let (answers, receiver) = mpsc::channel(room.max(1));
        let running = BTreeMap::new();
        (Self { answers, running }, receiver)
    }

    /// Reads these pages from now on, and no others. Those that are read already are not asked for anew. Must be called within a
    /// tokio runtime.
    pub fn assign(&mut self, orders: impl IntoIterator<Item = (K, Order)>) {
        let mut before = std::mem::take(&mut self.running);
        for (service, order) in orders {
            let key = (service, order.seed.clone());
            let same = before.remove(&key).filter(|running| running.order == order);
            let running = same.unwrap_or_else(|| self.spawn(key.0.clone(), order));
            self.running.insert(key, running);
        }
    }

    fn spawn(&self, service: K, order: Order) -> Running {
        let task = run(service, order.clone(), self.answers.clone());
        let task = tokio::spawn(task).abort_handle();
        Running { order, task }
    }
}

/// The task of one seed. Ends when nobody takes its answers any more.
async fn run<K: Clone>(service: K, order: Order, answers: mpsc::Sender<Answer<K>>) {
    let mut ticks = interval(order.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // Boxed, so that a task that only sleeps is small.
        let page = Box::pin(read(&order)).await;
        let answer = Answer {
            service: service.clone(),
            seed: order.seed.to_string(),
            page,
        };
        if answers.send(answer).await.is_err() {
            return;
        }
    }
}
