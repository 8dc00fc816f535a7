//! What operators decide, here or on the other balancer, carried out.

use std::collections::BTreeSet;

use tokio::time::{Instant, timeout};

use super::{KEEPING, Operator};
use crate::{
    adapters::{
        api::server::{Answer, Refusal},
        datapath::DatapathError,
    },
    core::{
        cause::chain,
        operator::{Admin, Command, Decided, DecidedBackend, Decisions, Merged, Scope, Word},
    },
    daemon::{
        clock::unix_milliseconds,
        controller::{Controller, Leaving},
    },
};

/// How many decisions of the other balancer's are logged at a time, one by one.
const MOST_LOGGED: usize = 32;

impl Controller {
    /// Carries out a command, and answers once it is kept.
    pub(in crate::daemon) async fn operate(&mut self, command: &Command, answer: Answer<Decided>) {
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
    pub(in crate::daemon) async fn hear_decisions(&mut self, words: &[Word]) -> anyhow::Result<()> {
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
    pub(in crate::daemon) async fn refresh_decisions(&mut self) -> anyhow::Result<()> {
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
