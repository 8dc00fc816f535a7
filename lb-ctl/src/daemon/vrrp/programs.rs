//! The operator's programs: scripts that instances depend on, and hooks that are told of their changes.
//!
//! They run on a thread of their own, since to begin a process takes time that neither the instances' nor the controller's thread has.

use std::{collections::BTreeSet, thread::JoinHandle, time::Duration};

use anyhow::Context;
use tokio::sync::mpsc;

use super::{
    Order,
    hooks::{Hooks, Tally},
    scripts::Scripts,
};
#[cfg(test)]
use crate::core::vrrp::State;
use crate::core::{
    config::Vrrp,
    vrrp::{Hook, Notice, Script, Transition},
};

/// How long the end of the daemon waits for hooks.
const FINISH: Duration = Duration::from_secs(10);

/// How long it waits for those that can be told only when that is over.
const LAST_WORD: Duration = Duration::from_secs(5);

/// What is wanted of the thread.
#[derive(Debug)]
enum Job {
    /// Run these scripts, and no others.
    Watch(BTreeSet<Script>),
    /// Tell a hook of a change.
    Tell(Hook, Notice),
}

/// The thread. It ends when nobody can ask it for anything any more, and all hooks have been told.
#[derive(Debug)]
pub(super) struct Programs {
    jobs: mpsc::UnboundedSender<Job>,
    handle: JoinHandle<()>,
}

/// Who is told of changes.
#[derive(Clone, Debug)]
pub(super) struct Notifier(mpsc::UnboundedSender<Job>);

impl Programs {
    /// Starts it. What scripts say goes to the instances' thread.
    pub(super) fn start(orders: mpsc::WeakUnboundedSender<Order>, tally: Tally) -> anyhow::Result<Self> {
        let (jobs, received) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the runtime of VRRP's scripts and hooks")?;
        let handle = std::thread::Builder::new()
            .name("vrrp-programs".into())
            .spawn(move || runtime.block_on(work(received, orders, tally)))
            .context("starting the thread of VRRP's scripts and hooks")?;
        Ok(Self { jobs, handle })
    }

    /// For whoever has changes to tell of.
    pub(super) fn notifier(&self) -> Notifier {
        Notifier(self.jobs.clone())
    }

    /// Runs the scripts that these instances depend on, each once, and no others.
    pub(super) fn follow(&self, instances: &[Vrrp]) -> anyhow::Result<()> {
        self.jobs
            .send(Job::Watch(super::scripts(instances)))
            .ok()
            .context("the thread of VRRP's scripts and hooks has ended")
    }

    /// Whether it has ended though nobody has told it to.
    pub(super) fn have_ended(&self) -> bool {
        self.handle.is_finished()
    }

    /// Waits until all hooks have been told, and ends. The instances' thread must have ended before.
    pub(super) async fn stop(self) {
        let Self { jobs, handle } = self;
        drop(jobs);
        let joined = tokio::task::spawn_blocking(move || handle.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!("the thread of VRRP's scripts and hooks has ended badly");
        }
    }
}

impl Notifier {
    /// Tells an instance's hook, if it has one. Does not wait for it.
    pub(super) fn tell(&self, instance: &Vrrp, transition: &Transition, priority: u8) {
        let Some(hook) = &instance.notify else { return };
        let notice = Notice {
            instance: instance.name.clone(),
            transition: transition.clone(),
            priority,
        };
        if self.0.send(Job::Tell(hook.clone(), notice)).is_err() {
            tracing::error!(
                instance = instance.name,
                "notify is not told: the thread of VRRP's scripts and hooks has ended"
            );
        }
    }
}

/// What hooks would be told.
#[cfg(test)]
pub(super) struct Overheard(mpsc::UnboundedReceiver<Job>);

#[cfg(test)]
impl Notifier {
    /// One that tells nobody else.
    pub(super) fn overheard() -> (Self, Overheard) {
        let (jobs, received) = mpsc::unbounded_channel();
        (Self(jobs), Overheard(received))
    }
}

#[cfg(test)]
impl Overheard {
    /// The states of which hooks have been told since it was asked last.
    pub(super) fn states(&mut self) -> Vec<State> {
        let mut states = Vec::new();
        while let Ok(job) = self.0.try_recv() {
            if let Job::Tell(_, notice) = job {
                states.push(notice.transition.to);
            }
        }
        states
    }
}

async fn work(
    mut jobs: mpsc::UnboundedReceiver<Job>,
    orders: mpsc::WeakUnboundedSender<Order>,
    tally: Tally,
) {
    let mut scripts = Scripts::new(orders);
    let mut hooks = Hooks::new(tally);
    loop {
        tokio::select! {
            job = jobs.recv() => match job {
                Some(Job::Watch(wanted)) => scripts.follow(wanted),
                Some(Job::Tell(hook, notice)) => hooks.post(hook, notice),
                None => break,
            },
            () = hooks.proceed() => {}
        }
    }
    drop(scripts);
    hooks.finish(FINISH, LAST_WORD).await;
}
