//! Tells the operator's programs of changes of state.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::timeout;

use crate::{
    adapters::command::{Ended, How, run},
    core::vrrp::{Hook, Notice, Outbox, Posted},
};

/// What can become of a notice.
const SUCCEEDED: &str = "succeeded";
const FAILED: &str = "failed";
const TIMEOUT: &str = "timeout";
const SUPERSEDED: &str = "superseded";

/// All of it.
pub(super) const RESULTS: [&str; 4] = [SUCCEEDED, FAILED, TIMEOUT, SUPERSEDED];

/// How often what has become of the notices of which instance.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally(Arc<Mutex<BTreeMap<String, BTreeMap<&'static str, u64>>>>);

impl Tally {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, BTreeMap<&'static str, u64>>> {
        // Whoever held it had nothing to leave half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, instance: &str, result: &'static str) {
        let mut counts = self.lock();
        *counts
            .entry(instance.to_owned())
            .or_default()
            .entry(result)
            .or_default() += 1;
    }

    /// How often this has become of the notices of an instance.
    pub(super) fn of(&self, instance: &str, result: &str) -> u64 {
        let counts = self.lock();
        let count = counts.get(instance).and_then(|counts| counts.get(result));
        count.copied().unwrap_or(0)
    }
}

/// The hooks of all instances.
pub(super) struct Hooks {
    lines: BTreeMap<String, Line>,
    running: FuturesUnordered<BoxFuture<'static, (Notice, Ended)>>,
    tally: Tally,
}

/// An instance's: one after the other.
struct Line {
    hook: Hook,
    outbox: Outbox,
}

impl Hooks {
    /// None as yet.
    pub(super) fn new(tally: Tally) -> Self {
        Self {
            lines: BTreeMap::new(),
            running: FuturesUnordered::new(),
            tally,
        }
    }

    /// Takes in what the hook is to be told, and begins with it as soon as it has ended what it was told before.
    pub(super) fn post(&mut self, hook: Hook, notice: Notice) {
        let line = self.lines.entry(notice.instance.clone()).or_insert_with(|| Line {
            hook: hook.clone(),
            outbox: Outbox::default(),
        });
        line.hook = hook;
        match line.outbox.post(notice) {
            Posted::Deliver(notice) => self.running.push(deliver(line.hook.clone(), notice)),
            Posted::Waits { passed_over: None } => {}
            Posted::Waits {
                passed_over: Some(notice),
            } => {
                self.tally.count(&notice.instance, SUPERSEDED);
                tracing::warn!(
                    instance = notice.instance,
                    state = %notice.transition.to,
                    "the state lasted less long than notify takes, which is not told of it"
                );
            }
        }
    }

    /// Waits for the end of a hook, and begins with what has waited for that. Returns when that is done; never, if there is none.
    pub(super) async fn proceed(&mut self) {
        let Some((notice, ended)) = self.running.next().await else {
            return std::future::pending().await;
        };
        self.take_in(&notice, &ended);
        let Some(line) = self.lines.get_mut(&notice.instance) else {
            return;
        };
        match line.outbox.delivered() {
            Some(next) => self.running.push(deliver(line.hook.clone(), next)),
            None => drop(self.lines.remove(&notice.instance)),
        }
    }

    fn take_in(&self, notice: &Notice, ended: &Ended) {
        let Ended { how, last_words } = ended;
        let (instance, state) = (&notice.instance, notice.transition.to);
        self.tally.count(
            instance,
            match how {
                How::Succeeded => SUCCEEDED,
                How::TimedOut(_) => TIMEOUT,
                How::Status(_) | How::Signal(_) | How::Failed(_) => FAILED,
            },
        );
        if *how == How::Succeeded {
            tracing::debug!(instance, %state, output = last_words, "notify has been told");
        } else {
            tracing::warn!(instance, %state, cause = %how, output = last_words, "notify has failed");
        }
    }

    /// Waits until all have been told, but no longer than `limit`. Then what runs is killed, and what has waited for its end, the last word that
    /// an instance has, gets `last` time.
    pub(super) async fn finish(mut self, limit: Duration, last: Duration) {
        if self.wait_for_all(limit).await {
            return;
        }
        self.running.clear();
        for line in self.lines.values_mut() {
            if let Some(next) = line.outbox.delivered() {
                self.running.push(deliver(line.hook.clone(), next));
            }
        }
        self.lines.retain(|_, line| !line.outbox.is_idle());
        self.wait_for_all(last).await;
    }

    /// Waits until all have been told. Returns whether that was so in time; if not, all that is under way is at its end.
    async fn wait_for_all(&mut self, limit: Duration) -> bool {
        let all = async {
            while !self.lines.is_empty() {
                self.proceed().await;
            }
        };
        if timeout(limit, all).await.is_ok() {
            return true;
        }
        for instance in self.lines.keys() {
            tracing::warn!(
                instance,
                "notify did not end within {limit:?}, and was killed: the daemon ends"
            );
            self.tally.count(instance, TIMEOUT);
        }
        false
    }
}

fn deliver(hook: Hook, notice: Notice) -> BoxFuture<'static, (Notice, Ended)> {
    async move {
        let variables = notice.variables();
        let ended = run(&hook.command, &notice.arguments(), &variables, hook.timeout).await;
        (notice, ended)
    }
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        command::Command,
        vrrp::{Cause, State, Transition},
    };

    fn hook(text: &str, timeout: u64) -> Hook {
        Hook {
            command: Command {
                program: "/bin/sh".into(),
                arguments: vec!["-c".into(), text.into(), "hook".into()],
            },
            timeout: Duration::from_secs(timeout),
        }
    }

    fn notice(instance: &str, to: State) -> Notice {
        Notice {
            instance: instance.into(),
            transition: Transition {
                from: State::Init,
                to,
                at: Duration::ZERO,
                cause: Cause::Started,
            },
            priority: 100,
        }
    }

    fn counts(tally: &Tally, instance: &str) -> [u64; 4] {
        RESULTS.map(|result| tally.of(instance, result))
    }

    #[tokio::test]
    async fn an_instance_is_told_of_one_after_the_other_and_others_do_not_wait_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let (log, gate) = (directory.path().join("log"), directory.path().join("gate"));
        let (log_path, gate_path) = (log.display(), gate.display());
        let slow = hook(
            &format!(
                "echo begin $* >> {log_path}; while ! test -e {gate_path}; do sleep 0.01; done; echo end $3 >> {log_path}"
            ),
            20,
        );
        let quick = hook(&format!("echo quick $* >> {log_path}; exit 1"), 20);
        let tally = Tally::default();
        let mut hooks = Hooks::new(tally.clone());
        for state in [State::Backup, State::Master, State::Fault, State::Backup] {
            hooks.post(slow.clone(), notice("slow", state));
        }
        hooks.post(quick, notice("quick", State::Master));
        hooks.proceed().await;
        assert_eq!(counts(&tally, "quick"), [0, 1, 0, 0]);
        assert_eq!(counts(&tally, "slow"), [0, 0, 0, 2]);
        std::fs::write(&gate, "").unwrap();
        hooks.finish(Duration::from_secs(20), Duration::ZERO).await;
        assert_eq!(counts(&tally, "slow"), [2, 0, 0, 2]);
        let log = std::fs::read_to_string(log).unwrap();
        let lines: Vec<&str> = log.lines().filter(|line| !line.starts_with("quick")).collect();
        assert_eq!(
            lines,
            [
                "begin INSTANCE slow BACKUP 100",
                "end BACKUP",
                "begin INSTANCE slow BACKUP 100",
                "end BACKUP"
            ]
        );
        assert!(log.contains("quick INSTANCE quick MASTER 100\n"), "{log}");
    }

    #[tokio::test]
    async fn what_does_not_end_is_killed_and_what_waits_is_told_then() {
        let tally = Tally::default();
        let mut hooks = Hooks::new(tally.clone());
        let stuck = hook("test $3 = BACKUP || exec sleep 1000", 1);
        hooks.post(stuck.clone(), notice("pair", State::Master));
        hooks.post(stuck.clone(), notice("pair", State::Backup));
        hooks.proceed().await;
        hooks.proceed().await;
        assert_eq!(counts(&tally, "pair"), [1, 0, 1, 0]);
        let stuck = hook("exec sleep 1000", 1000);
        hooks.post(stuck, notice("pair", State::Init));
        let limit = Duration::from_millis(300);
        hooks.finish(limit, limit).await;
        assert_eq!(counts(&tally, "pair"), [1, 0, 2, 0]);
    }

    #[tokio::test]
    async fn the_last_word_is_told_at_the_end_though_the_one_before_is_stuck() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let stuck = hook(
            &format!(
                "test $3 = MASTER && exec sleep 1000; echo $3 >> {}",
                log.display()
            ),
            1000,
        );
        let tally = Tally::default();
        let mut hooks = Hooks::new(tally.clone());
        for state in [State::Master, State::Fault, State::Init] {
            hooks.post(stuck.clone(), notice("pair", state));
        }
        hooks
            .finish(Duration::from_millis(100), Duration::from_secs(20))
            .await;
        assert_eq!(std::fs::read_to_string(log).unwrap(), "STOP\n");
        assert_eq!(counts(&tally, "pair"), [1, 0, 1, 1]);
    }
}
