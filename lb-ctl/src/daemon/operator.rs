//! Operators' decisions: carried out at once, and kept.
//!
//! A decision is in force before it is on the disk: who has to take a backend out while the disk is full must be able to. Then the
//! command fails, says that the decision is in force and not kept, and the daemon goes on trying. Writing is done on a
//! thread of its own: whatever the disk does, packets and checks do not wait for it.

mod carrying_out;

use std::{collections::BTreeSet, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use super::{clock::unix_milliseconds, controller::Leaving};
use crate::{
    adapters::decisions_file::DecisionsFile,
    core::{
        cause::chain,
        config::Config,
        operator::{Decisions, Orders},
        status::DecisionsStatus,
    },
};

/// How long whoever has given a command waits for the disk.
const KEEPING: Duration = Duration::from_secs(5);

/// What operators have decided, and whether it is kept.
pub(super) struct Operator {
    decisions: Decisions,
    /// As of when the decisions have been carried out, in milliseconds of Unix time.
    carried_out: u64,
    /// When a decision was last made.
    pub(super) decided: Instant,
    file: DecisionsFile,
    /// Which decisions are on the disk, or why not.
    kept: watch::Sender<Kept>,
    /// How many times something had to be kept.
    generation: u64,
    /// Since when there has been something that is not on the disk, if there is.
    unkept_since: Instant,
    writing: Option<oneshot::Receiver<Kept>>,
    /// What is wrong with what an earlier run has kept.
    unusable: Option<String>,
    /// Names that backends had in this run, of which there may be decisions.
    former_names: BTreeSet<String>,
}

/// What has become of the decisions of a generation.
#[derive(Clone, Debug, Default)]
struct Kept {
    generation: u64,
    problem: Option<String>,
}

impl Operator {
    /// Goes on with what an earlier run has kept. Whatever is wrong with that, the configuration holds without it.
    pub(super) fn of(config: &Config) -> Self {
        let file = DecisionsFile::of(&config.node.state_dir, &config.node.name);
        let (decisions, unusable) = match file.read() {
            Ok(decisions) => (decisions, None),
            Err(error) => {
                let what = match file.move_aside() {
                    Ok(aside) => format!("moved it to {}", aside.display()),
                    Err(error) => format!("could not even move it aside: {}", chain(&error)),
                };
                let unusable = format!(
                    "what operators decided before the start is lost, and backends that were drained or disabled serve again: {}; {what}",
                    chain(&error)
                );
                tracing::error!("{unusable}");
                (Decisions::default(), Some(unusable))
            }
        };
        for (service, backend) in decisions.subjects() {
            let service = service.unwrap_or("every service");
            tracing::info!(service, backend, "an operator's decision is still in force");
        }
        Self {
            decisions,
            carried_out: unix_milliseconds(),
            decided: Instant::now(),
            file,
            kept: watch::Sender::new(Kept::default()),
            generation: 0,
            unkept_since: Instant::now(),
            writing: None,
            unusable,
            former_names: BTreeSet::new(),
        }
    }

    /// All that has been decided.
    pub(super) const fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// How many times the decisions have become others.
    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    /// What holds for a backend of a service, as it has been carried out.
    pub(super) fn orders(&self, service: &str, backend: &str) -> Orders {
        self.decisions.orders(service, backend, self.carried_out)
    }

    /// What holds for the connections of a backend that is leaving.
    pub(super) fn orders_of_leaving(&self, leaving: Leaving<'_>) -> Orders {
        self.orders(leaving.service, leaving.subject()).of_leaving()
    }

    /// Takes in that a backend has got another name.
    pub(super) fn rename(&mut self, from: &str, to: &str) {
        self.former_names.insert(from.to_owned());
        if let Some(decisions) = self.decisions.after_renaming(from, to) {
            tracing::info!(
                from,
                to,
                "what operators have decided about this backend holds under its new name"
            );
            self.replace(decisions);
        }
    }

    /// Drops what has been decided about names that backends had, once none has them any more. Until the new names are followed, the
    /// old ones count.
    pub(super) fn drop_former_names(&mut self, is_called: impl Fn(&str) -> bool) {
        let (kept, gone) = std::mem::take(&mut self.former_names)
            .into_iter()
            .partition(|name| is_called(name));
        self.former_names = kept;
        for name in gone {
            if let Some(decisions) = self.decisions.without(&name) {
                self.replace(decisions);
            }
        }
    }

    /// From now on these are the decisions, and to be kept.
    fn replace(&mut self, decisions: Decisions) {
        if !self.is_to_be_kept() {
            self.unkept_since = Instant::now();
        }
        self.decisions = decisions;
        self.generation += 1;
        self.keep();
    }

    /// When the time alone changes something.
    pub(super) fn due(&self) -> Option<Instant> {
        let deadline = self.decisions.next_deadline(self.carried_out)?;
        let left = deadline.saturating_sub(unix_milliseconds());
        Some(Instant::now() + Duration::from_millis(left))
    }

    /// In how many seconds a deadline is.
    pub(super) fn seconds_left(orders: Orders) -> Option<u64> {
        let left = orders.deadline?.saturating_sub(unix_milliseconds());
        Some(left.div_ceil(1000))
    }

    /// What operators should know about their decisions.
    pub(super) fn status(&self, config: &Config) -> DecisionsStatus {
        let is_configured = |service: Option<&str>, backend: &str| {
            let mut services = config.services.iter();
            services.any(|it| {
                service.is_none_or(|name| it.name == name) && it.backends.iter().any(|it| it.name == backend)
            })
        };
        let others = self
            .decisions
            .subjects()
            .filter(|(service, backend)| !is_configured(*service, backend));
        // As long as a write that hangs has not ended, nobody has said that anything is wrong.
        let hangs = self.is_to_be_kept() && self.unkept_since.elapsed() > KEEPING;
        let problem = self.kept.borrow().problem.clone();
        DecisionsStatus {
            not_kept: problem.or_else(|| hangs.then(|| "the disk does not answer".to_owned())),
            unusable: self.unusable.clone(),
            not_configured: others
                .map(|(service, backend)| match service {
                    Some(service) => format!("{service}/{backend}"),
                    None => backend.to_owned(),
                })
                .collect(),
        }
    }

    /// Begins to write what is not on the disk, unless that is under way.
    pub(super) fn keep(&mut self) {
        if self.writing.is_some() || !self.is_to_be_kept() {
            return;
        }
        let (done, writing) = oneshot::channel();
        let (file, generation, text) = (self.file.clone(), self.generation, self.decisions.to_text());
        let write = move || {
            let problem = match text {
                Ok(text) => file.write(&text).err().map(|error| chain(&error)),
                Err(error) => Some(chain(&error)),
            };
            // Nobody listens only when the daemon ends.
            let _ = done.send(Kept { generation, problem });
        };
        // Not one of the runtime's threads: the daemon's end does not wait for a disk.
        let thread = std::thread::Builder::new().name("decisions".to_owned());
        match thread.spawn(write) {
            Ok(_) => self.writing = Some(writing),
            Err(error) => self.on_kept(Kept {
                generation,
                problem: Some(format!("no thread could be started: {error}")),
            }),
        }
    }

    fn is_to_be_kept(&self) -> bool {
        let kept = self.kept.borrow();
        kept.generation < self.generation || kept.problem.is_some()
    }

    fn on_kept(&mut self, kept: Kept) {
        let before = self.kept.borrow().problem.clone();
        match (&before, &kept.problem) {
            (None, Some(problem)) => {
                let path = self.file.path();
                tracing::error!(path = %path.display(), problem, "operators' decisions are in force, but could not be kept");
            }
            (Some(_), None) => tracing::info!("operators' decisions are kept again"),
            _ => {}
        }
        self.kept.send_replace(kept);
    }
}

/// Waits until writing has ended; for ever if nothing is written.
pub(super) async fn end_of_writing(operator: &mut Operator) {
    let Some(writing) = &mut operator.writing else {
        return std::future::pending().await;
    };
    let generation = operator.generation;
    let kept = writing.await.unwrap_or_else(|_| Kept {
        generation,
        problem: Some("the thread that writes has ended".to_owned()),
    });
    operator.writing = None;
    let is_behind = kept.problem.is_none();
    operator.on_kept(kept);
    // What has been decided meanwhile. After a failure, the next refresh tries again.
    if is_behind {
        operator.keep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        config::{HostDefaults, parse},
        operator::{Action, Command},
    };

    #[test]
    fn a_disk_that_has_only_just_been_asked_is_not_taken_to_hang() {
        let directory = std::env::temp_dir().join(format!("lb-ctl-operator-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let text = format!(
            "[node]\nstate_dir = {directory:?}\n[datapath]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"s\"\n\
             vip = \"10.0.0.99\"\nport = 1\n[[service.backend]]\nname = \"a\"\naddress = \"10.0.0.1\"\n"
        );
        let host = HostDefaults {
            node_name: "lb".into(),
        };
        let config = parse("lb.toml", &text, &host).unwrap();
        let mut operator = Operator::of(&config);
        let disable = Command {
            backend: "a".to_owned(),
            service: None,
            action: Action::Disable,
            force: false,
        };
        // Long ago, and it has been kept.
        operator.decisions = operator.decisions.after(&disable, 0, "lb").unwrap();
        let long_ago = Instant::now().checked_sub(2 * KEEPING).unwrap();
        (operator.decided, operator.unkept_since) = (long_ago, long_ago);
        operator.rename("a", "b");
        assert!(operator.is_to_be_kept());
        assert_eq!(operator.status(&config).not_kept, None);
        // Another change is no reason to wait for longer.
        operator.unkept_since = long_ago;
        operator.rename("b", "c");
        assert_eq!(
            operator.status(&config).not_kept.as_deref(),
            Some("the disk does not answer")
        );
        let _ = operator.writing.take().unwrap().blocking_recv();
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
