//! What VRRP's thread makes known: the controller reads it without asking, since the thread has better things to do than to answer.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::watch, time::Instant};

use super::{hands::Id, hooks::Tally, timer::Timer};
use crate::core::status::VrrpStatus;

/// How it stands with an address: whether its instance is master, and for the how many-th time. Whoever looks twice and finds the same has
/// missed nothing: nobody else can have been master in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) struct Tenure {
    /// Which time it is, or was last.
    pub(in crate::daemon) term: Term,
    /// Whether it is, or has been.
    pub(in crate::daemon) lasts: bool,
    /// Whether all addresses of the instance are where they belong, and have been announced.
    pub(in crate::daemon) is_announced: bool,
}

impl Tenure {
    /// Whether it is the same one, of which less or more has become known.
    pub(super) fn is(&self, other: &Self) -> bool {
        (self.term, self.lasts) == (other.term, other.lasts)
    }
}

/// A time for which an instance is master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) struct Term {
    pub(super) instance: Id,
    /// How often it has become master.
    pub(super) number: u64,
}

/// The addresses of all instances.
pub(in crate::daemon) type Tenures = BTreeMap<IpAddr, Tenure>;

/// What is known of an instance.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) status: VrrpStatus,
    pub(super) tenure: Tenure,
    /// When it came into its state.
    pub(super) since: Instant,
    /// The zero of the machines' time.
    pub(super) epoch: Instant,
    pub(super) timer: Timer,
}

/// What the thread makes known.
#[derive(Clone, Debug, Default)]
pub(super) struct Board {
    snapshots: Arc<Mutex<Vec<Snapshot>>>,
    tenures: watch::Sender<Tenures>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Vec<Snapshot>> {
        // Whoever held it had nothing to leave half done.
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, snapshots: Vec<Snapshot>) {
        let of_instance = |snapshot: &Snapshot| {
            let (tenure, addresses) = (snapshot.tenure, snapshot.status.addresses.clone());
            addresses.into_iter().map(move |address| (address, tenure))
        };
        let tenures: Tenures = snapshots.iter().flat_map(of_instance).collect();
        *self.lock() = snapshots;
        self.tenures.send_if_modified(|before| {
            let is_news = *before != tenures;
            *before = tenures;
            is_news
        });
    }

    /// What is known of the instances now, in the order of the configuration.
    pub(super) fn status(&self, told: &Tally) -> Vec<VrrpStatus> {
        let snapshots = self.lock();
        let status = snapshots.iter().map(|snapshot| {
            let mut status = VrrpStatus {
                state_seconds: snapshot.since.elapsed().as_secs(),
                due_ms: snapshot.timer.left(snapshot.epoch.elapsed()),
                ..snapshot.status.clone()
            };
            for (result, count) in &mut status.notifications {
                *count = told.of(&status.name, result);
            }
            status
        });
        status.collect()
    }

    pub(super) fn tenures(&self) -> Tenures {
        self.tenures.borrow().clone()
    }

    pub(super) fn are(&self, seen: &Tenures) -> bool {
        *self.tenures.borrow() == *seen
    }

    pub(super) fn changes(&self) -> watch::Receiver<Tenures> {
        self.tenures.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::daemon::vrrp::{running::Running, testing};

    #[test]
    fn whoever_looks_seldom_sees_that_a_master_was_none_in_between() {
        let board = Board::default();
        let vip = IpAddr::from([10, 0, 0, 99]);
        let (mut running, _) = testing::backup(testing::instance(""), Duration::ZERO);
        let epoch = Instant::now();
        let publish = |running: &mut Running| board.set(running.snapshots(epoch).collect());
        publish(&mut running);
        let mut changes = board.tenures.subscribe();
        let mut look = || changes.borrow_and_update()[&vip];
        let first = look();
        assert!(!first.lasts);
        running.pass(Duration::from_secs(10));
        publish(&mut running);
        let second = look();
        assert!(second.lasts && second != first);
        running.hand_over(Duration::from_secs(20)).unwrap();
        publish(&mut running);
        running.pass(Duration::from_secs(30));
        publish(&mut running);
        let third = look();
        assert!(third.lasts && third != second);
        publish(&mut running);
        assert_eq!(look(), third);
    }
}
