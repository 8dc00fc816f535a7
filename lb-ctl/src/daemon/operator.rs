//! Operators' decisions: carried out at once, and kept.
//!
//! A decision is in force before it is on the disk: who has to take a backend out while the disk is full must be able to. Then the
//! command fails, says that the decision is in force and not kept, and the daemon goes on trying. Writing is done on a
//! thread of its own: whatever the disk does, packets and checks do not wait for it.

use std::{collections::BTreeSet, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    time::{Instant, timeout},
};

use super::{
    clock::unix_milliseconds,
    controller::{Controller, Leaving},
};
use crate::{
    adapters::{
        api::server::{Answer, Refusal},
        datapath::DatapathError,
        decisions_file::DecisionsFile,
    },
    core::{
        cause::chain,
        config::Config,
        operator::{Admin, Command, Decided, DecidedBackend, Decisions, Merged, Orders, Scope, Word},
        status::DecisionsStatus,
    },
};

/// How long whoever has given a command waits for the disk.
const KEEPING: Duration = Duration::from_secs(5);

/// How many decisions of the other balancer's are logged at a time, one by one.
const MOST_LOGGED: usize = 32;

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

impl Controller {
    /// Carries out a command, and answers once it is kept.
    pub(super) async fn operate(&mut self, command: &Command, answer: Answer<Decided>) {
        match self.try_to_operate(command).await {
            // Whoever asked may have gone; that is their business.
            Err(refusal) => drop(answer.send(Err(refusal))),
            Ok(backends) => {
                let (generation, mut kept) = (self.operator.generation, self.operator.kept.subscribe());
                tokio::spawn(async move {
                    let ended = timeout(KEEPING, kept.wait_for(|kept| kept.generation >= generation)).await;
                    let not_kept = match ended {
                        Ok(Ok(kept)) => kept.problem.clone(),
                        Ok(Err(_)) => Some("the daemon ends".to_owned()),
                        Err(_) => Some(format!("the disk has not answered for {} s", KEEPING.as_secs())),
                    };
                    let _ = answer.send(Ok(Decided { backends, not_kept }));
                });
            }
        }
    }

    async fn try_to_operate(&mut self, command: &Command) -> Result<Vec<DecidedBackend>, Refusal> {
        let now = unix_milliseconds();
        let scope = command
            .scope(
                &self.config,
                &self.operator.decisions,
                self.leaving_of(command).next().is_some(),
            )
            .map_err(|unknown| Refusal::Usage(unknown.to_string()))?;
        let decisions = self
            .operator
            .decisions
            .after(command, now, &self.config.node.name)
            .map_err(|refused| Refusal::Declined(refused.to_string()))?;
        if !command.force {
            self.refuse_to_empty(&scope, &decisions, now)?;
        }
        let Command {
            backend,
            service,
            action,
            ..
        } = command;
        tracing::info!(
            backend,
            service = service.as_deref().unwrap_or("every service"),
            ?action,
            "an operator has decided"
        );
        self.operator.decided = Instant::now();
        self.operator.replace(decisions);
        let carried_out = self.carry_out_decisions(now).await;
        carried_out.map_err(|error| {
            Refusal::Failed(format!(
                "the decision is made and will be kept, but the tables could not be changed: {}; it is tried again every few \
                 seconds",
                chain(error.as_ref())
            ))
        })?;
        let leaving = self
            .leaving_of(command)
            .map(|leaving| self.decided_leaving(leaving));
        let mut decided = self
            .decided_backends(&scope)
            .map_err(|error| Refusal::Failed(format!("the decision is in force, but {}", chain(&error))))?;
        decided.extend(leaving);
        Ok(decided)
    }

    /// Takes in what operators have decided on the other balancer.
    pub(super) async fn hear_decisions(&mut self, words: &[Word]) -> anyhow::Result<()> {
        let now = unix_milliseconds();
        let Merged { decisions, refused } = self.operator.decisions.merged(words, now);
        if refused > 0 {
            tracing::warn!(
                refused,
                "decisions of the peer's cannot be: there is no such weight, name or time, or no room"
            );
        }
        let Some(decisions) = decisions else {
            return Ok(());
        };
        let new = decisions.words_since(&self.operator.decisions, now);
        for Word {
            backend,
            service,
            node,
            order,
            ..
        } in new.iter().take(MOST_LOGGED)
        {
            let service = service.as_deref().unwrap_or("every service");
            tracing::info!(
                backend,
                service,
                on = node,
                ?order,
                "an operator has decided on the other balancer"
            );
        }
        let others = new.len().saturating_sub(MOST_LOGGED);
        if others > 0 {
            tracing::info!(
                others,
                "operators have decided more on the other balancer: `lb-ctl status` shows it"
            );
        }
        self.operator.decided = Instant::now();
        self.operator.replace(decisions);
        self.carry_out_decisions(now).await
    }

    /// The backends that a command is about and that are leaving.
    fn leaving_of(&self, command: &Command) -> impl Iterator<Item = Leaving<'_>> {
        self.leaving().filter(|leaving| {
            let mut service = command.service.iter();
            leaving.subject() == command.backend && service.all(|name| name == leaving.service)
        })
    }

    /// Refuses what would leave a service without anybody for new connections that has somebody now.
    fn refuse_to_empty(&self, scope: &Scope, decisions: &Decisions, now: u64) -> Result<(), Refusal> {
        let services: BTreeSet<usize> = scope.iter().map(|(service, _)| *service).collect();
        let emptied: Vec<&str> = services
            .into_iter()
            .filter_map(|index| {
                let name = &self.config.services.get(index)?.name;
                let serving = self.checks.service(index)?;
                let orders = |backend: &str| decisions.orders(name, backend, now);
                serving
                    .would_be_emptied(orders, self.checks.now())
                    .then_some(name.as_str())
            })
            .collect();
        if emptied.is_empty() {
            return Ok(());
        }
        Err(Refusal::Declined(format!(
            "nothing was changed: no backend would be left for new connections to {}; have another one serve first, or say --force",
            emptied.join(", ")
        )))
    }

    /// Takes in that time has passed, or tries again what has failed.
    pub(super) async fn refresh_decisions(&mut self) -> anyhow::Result<()> {
        self.operator.keep();
        self.carry_out_decisions(unix_milliseconds()).await
    }

    /// Has the services follow the decisions as they are at this time.
    async fn carry_out_decisions(&mut self, now: u64) -> anyhow::Result<()> {
        let before = self.operator.carried_out;
        self.operator.carried_out = now;
        let leaving = self.leaving().map(|it| (it.service, it.subject()));
        let about: BTreeSet<(&str, &str)> = self.backends().chain(leaving).collect();
        for (service, backend) in about {
            let decisions = &self.operator.decisions;
            let (then, now) = (
                decisions.orders(service, backend, before),
                decisions.orders(service, backend, now),
            );
            if (then.admin, now.admin) == (Admin::Draining, Admin::Disabled) {
                tracing::warn!(
                    service,
                    backend,
                    "the deadline of its drain has passed: connections that are left are reset"
                );
            }
        }
        self.instruct();
        let decided = self.decide_all().await;
        // Of those that are leaving nobody else decides.
        if !self.given_up().is_subset(&self.giving_up) {
            self.next_sweep = Instant::now();
        }
        decided
    }

    /// The names of all configured services and backends.
    fn backends(&self) -> impl Iterator<Item = (&str, &str)> {
        self.config.services.iter().flat_map(|service| {
            let backends = service.backends.iter();
            backends.map(|backend| (service.name.as_str(), backend.name.as_str()))
        })
    }

    fn decided_leaving(&self, leaving: Leaving<'_>) -> DecidedBackend {
        let Leaving { service, backend, .. } = leaving;
        let orders = self.operator.orders_of_leaving(leaving);
        DecidedBackend {
            service: service.to_owned(),
            backend: backend.to_owned(),
            admin: orders.admin,
            deadline_seconds: Operator::seconds_left(orders),
            // No slot gives it new flows.
            ..DecidedBackend::default()
        }
    }

    fn decided_backends(&self, scope: &Scope) -> Result<Vec<DecidedBackend>, DatapathError> {
        let reader = self.datapath.count_reader()?;
        let mut decided = Vec::new();
        for (index, place) in scope {
            let (Some(service), Some(planned)) =
                (self.config.services.get(*index), self.plan.services.get(*index))
            else {
                continue;
            };
            let (Some(backend), Some(id)) = (service.backends.get(*place), planned.targets.get(*place))
            else {
                continue;
            };
            let slots = reader.slots(planned.entry.first_slot, planned.entry.slots)?;
            let orders = self.operator.orders(&service.name, &backend.name);
            decided.push(DecidedBackend {
                service: service.name.clone(),
                backend: backend.name.clone(),
                admin: orders.admin,
                weight: orders.weight.unwrap_or(backend.weight),
                configured_weight: backend.weight,
                slots: slots.current(*id),
                deadline_seconds: Operator::seconds_left(orders),
                soft: orders.soft,
            });
        }
        Ok(decided)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        config::{HostDefaults, parse},
        operator::Action,
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
