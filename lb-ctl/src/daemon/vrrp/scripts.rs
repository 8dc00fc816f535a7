//! Runs the scripts that instances depend on, each at its own pace.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::Order;
use crate::{
    adapters::command::{Ended, How, run},
    core::vrrp::{Script, Standing},
};

/// Between the end of a run and the begin of the next, however long it took.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// What a script's runs have come to: all is well, or why it is not.
pub(super) type Verdict = Result<(), String>;

/// The scripts that are run now.
pub(super) struct Scripts {
    orders: mpsc::WeakUnboundedSender<Order>,
    watched: BTreeMap<Script, Watching>,
}

/// A task that ends, and the program that it runs with it, when it is not wanted any more.
struct Watching(JoinHandle<()>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Scripts {
    /// None as yet. Verdicts go to the instances' thread.
    pub(super) fn new(orders: mpsc::WeakUnboundedSender<Order>) -> Self {
        Self {
            orders,
            watched: BTreeMap::new(),
        }
    }

    /// Runs these, and no others any more. One that goes on keeps its verdict.
    pub(super) fn follow(&mut self, scripts: BTreeSet<Script>) {
        self.watched.retain(|script, _| scripts.contains(script));
        for script in scripts {
            let orders = self.orders.clone();
            self.watched
                .entry(script)
                .or_insert_with_key(|script| Watching(tokio::spawn(watch(script.clone(), orders))));
        }
    }
}

/// Runs a script for ever.
async fn watch(script: Script, orders: mpsc::WeakUnboundedSender<Order>) {
    let mut standing = Standing::default();
    let mut has_failed = false;
    loop {
        let began = Instant::now();
        let Ended { how, last_words } = run(&script.command, &[], &[], script.timeout).await;
        let succeeded = how == How::Succeeded;
        let command = &script.command;
        match (succeeded, has_failed) {
            (false, false) => {
                tracing::warn!(script = %command, cause = %how, output = last_words, "a tracked script fails");
            }
            (true, true) => tracing::info!(script = %command, "a tracked script succeeds again"),
            _ => {}
        }
        has_failed = !succeeded;
        let before = standing.is_well();
        standing.take_in(&script, succeeded);
        if standing.is_well() != before
            && let Some(orders) = orders.upgrade()
        {
            let verdict = if succeeded { Ok(()) } else { Err(how.to_string()) };
            // If nobody is there to take it, the daemon ends.
            let _ = orders.send(Order::Script(script.clone(), verdict));
        }
        sleep_until((began + script.interval).max(Instant::now() + SHORTEST_PAUSE)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::command::Command;

    fn script(text: &str) -> Script {
        Script {
            command: Command {
                program: "/bin/sh".into(),
                arguments: vec!["-c".into(), text.into()],
            },
            interval: Duration::from_millis(20),
            timeout: Duration::from_secs(20),
            rise: 2,
            fall: 2,
        }
    }

    async fn verdict(orders: &mut mpsc::UnboundedReceiver<Order>) -> (Script, Verdict) {
        match orders.recv().await {
            Some(Order::Script(script, verdict)) => (script, verdict),
            other => panic!("expected a verdict, found {other:?}"),
        }
    }

    #[tokio::test]
    async fn changes_of_the_verdict_are_told_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let (marker, runs) = (directory.path().join("bad"), directory.path().join("runs"));
        let text = format!(
            "echo >> {}; test ! -e {} || exit 7",
            runs.display(),
            marker.display()
        );
        let (sender, mut orders) = mpsc::unbounded_channel();
        let mut scripts = Scripts::new(sender.downgrade());
        let one = script(&text);
        scripts.follow([one.clone()].into());
        assert_eq!(verdict(&mut orders).await, (one.clone(), Ok(())));
        std::fs::write(&marker, "").unwrap();
        let failing = Err("ended with status 7".to_owned());
        assert_eq!(verdict(&mut orders).await, (one.clone(), failing));
        // It goes on as the same.
        scripts.follow([one.clone(), script("exit 0")].into());
        assert_eq!(verdict(&mut orders).await, (script("exit 0"), Ok(())));
        std::fs::remove_file(&marker).unwrap();
        assert_eq!(verdict(&mut orders).await, (one, Ok(())));

        // Another one at the same pace shows that there has been time for it to be run.
        let others = directory.path().join("others");
        scripts.follow([script(&format!("echo >> {}", others.display()))].into());
        let count = |file: &std::path::Path| std::fs::read(file).map_or(0, |lines| lines.len());
        let until_others = async |least: usize| {
            while count(&others) < least {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        // What was under way has been killed by then.
        until_others(2).await;
        let before = count(&runs);
        until_others(12).await;
        assert_eq!(count(&runs), before, "it is not run any more");
        verdict(&mut orders).await.1.unwrap();
        assert!(
            orders.try_recv().is_err(),
            "the other one's first word is the last"
        );
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_fails_and_says_why() {
        let (sender, mut orders) = mpsc::unbounded_channel();
        let mut scripts = Scripts::new(sender.downgrade());
        let missing = Script {
            command: Command {
                program: "/nonexistent/program".into(),
                arguments: Vec::new(),
            },
            ..script("")
        };
        scripts.follow([missing.clone()].into());
        let reason = "could not be run: No such file or directory (os error 2)";
        assert_eq!(verdict(&mut orders).await, (missing, Err(reason.to_owned())));
    }
}
