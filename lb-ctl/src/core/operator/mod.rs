//! What operators have decided about backends, beyond the configuration.
//!
//! A small value, keyed by names as operators type them, and so good for keeping and for sending. A decision is about a backend
//! wherever it stands, or about the one in a single service; the narrower one counts. It outlives the configuration: a
//! backend that a reload takes out and another brings back is as drained as it was.
//!
//! Pure: the time comes in as milliseconds of Unix time, since a deadline must hold whatever becomes of process and machine.

mod command;
mod drain;
mod leaving;
mod stored;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

pub use command::{Action, Command, Decided, DecidedBackend, Scope, Unknown, scope};
pub use drain::{
    BackendDrain, DrainQuery, DrainStatus, End, OwnCounts, QUIET, SlotsOfTarget, TargetOfDrain, drain_status,
};
pub use leaving::stands_on_as;
pub use stored::StoredError;

/// What the operator lets a backend do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admin {
    /// All that its health allows.
    #[default]
    Enabled,
    /// It gets no new flows, and keeps those that it has.
    Draining,
    /// It gets no flows at all: those that it has are reset.
    Disabled,
}

impl fmt::Display for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Enabled => "enabled",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        })
    }
}

/// What holds for a backend of a service at some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// What it may do.
    pub admin: Admin,
    /// Its weight, in the place of the configured one.
    pub weight: Option<u32>,
    /// While it drains: when its remaining flows are to be reset, in milliseconds of Unix time.
    pub deadline: Option<u64>,
    /// While it drains: whether clients that are at home there may still open connections.
    pub soft: bool,
}

impl Orders {
    /// Whether they are why a backend gets no new flows. Another weight alone is not.
    pub fn keep_new_flows_away(&self) -> bool {
        self.admin != Admin::Enabled || self.weight == Some(0)
    }
}

/// All decisions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decisions {
    decisions: BTreeMap<Subject, Decision>,
}

/// Whom a decision is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Subject {
    backend: String,
    /// `None`: in every service, those that come later included.
    service: Option<String>,
}

/// A decision. What it does not say is left to a wider one, and at last to the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Decision {
    admin: Option<AdminOrder>,
    weight: Option<WeightOrder>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AdminOrder {
    /// Unlike what a wider decision says.
    Enabled,
    Draining {
        /// When it began.
        since: u64,
        /// When it becomes [`Admin::Disabled`].
        deadline: Option<u64>,
        /// Whether clients that are at home there may still open connections.
        soft: bool,
    },
    Disabled {
        since: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WeightOrder {
    /// Unlike what a wider decision says.
    Configured,
    Of(u32),
}

/// Why a command is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// `undrain` would leave it as it is.
    #[error(
        "{backend} is disabled, not only drained, so it stays as it is: `lb-ctl enable {backend}` has it serve again"
    )]
    Disabled {
        /// The backend.
        backend: String,
    },
}

impl Decisions {
    /// What holds for a backend of a service at a time, in milliseconds of Unix time.
    pub fn orders(&self, service: &str, backend: &str, now: u64) -> Orders {
        let narrow = self.decision(backend, Some(service));
        let wide = self.decision(backend, None);
        let (admin, deadline, soft) = match narrow.admin.or(wide.admin) {
            None | Some(AdminOrder::Enabled) => (Admin::Enabled, None, false),
            Some(AdminOrder::Draining { deadline, .. }) if deadline.is_some_and(|it| it <= now) => {
                (Admin::Disabled, None, false)
            }
            Some(AdminOrder::Draining { deadline, soft, .. }) => (Admin::Draining, deadline, soft),
            Some(AdminOrder::Disabled { .. }) => (Admin::Disabled, None, false),
        };
        let weight = match narrow.weight.or(wide.weight) {
            None | Some(WeightOrder::Configured) => None,
            Some(WeightOrder::Of(weight)) => Some(weight),
        };
        Orders {
            admin,
            weight,
            deadline,
            soft,
        }
    }

    /// The decisions after a command that is given at this time.
    pub fn after(&self, command: &Command, now: u64) -> Result<Self, Refused> {
        let Command {
            backend,
            service,
            action,
            ..
        } = command;
        let mut after = self.clone();
        match action {
            Action::Drain { deadline_ms, soft } => {
                let (since, earlier) = match self.draining(backend, service.as_deref()) {
                    Some((since, deadline)) => (since, deadline),
                    None => (now, None),
                };
                let deadline = deadline_ms.map_or(earlier, |after| Some(now.saturating_add(after)));
                let soft = *soft;
                after.set_admin(
                    command,
                    Some(AdminOrder::Draining {
                        since,
                        deadline,
                        soft,
                    }),
                );
            }
            Action::Disable => after.set_admin(command, Some(AdminOrder::Disabled { since: now })),
            Action::Enable => after.set_admin(command, None),
            Action::Undrain => after.undrain(command)?,
            Action::Weight(weight) => after.set_weight(command, weight.map(WeightOrder::Of)),
        }
        after.tidy(backend);
        Ok(after)
    }

    /// The decisions after a backend has got another name, under which it is the same machine: what was decided about it holds on, except
    /// where something has been decided about the new name. The old name keeps its decisions too, [until](Self::without) nobody has it
    /// any more. `None` if that changes nothing.
    pub fn after_renaming(&self, from: &str, to: &str) -> Option<Self> {
        let about = |backend: &str| {
            let decisions = self.decisions.iter();
            let about: Vec<_> = decisions.filter(|(it, _)| it.backend == backend).collect();
            about
        };
        let (old, new) = (about(from), about(to));
        let takes_admin = new.iter().all(|(_, decision)| decision.admin.is_none());
        let takes_weight = new.iter().all(|(_, decision)| decision.weight.is_none());
        let mut after = self.clone();
        for (subject, decision) in old {
            let known = after
                .decisions
                .entry(Subject::new(to, subject.service.as_deref()));
            let known = known.or_default();
            known.admin = decision.admin.filter(|_| takes_admin).or(known.admin);
            known.weight = decision.weight.filter(|_| takes_weight).or(known.weight);
        }
        after.tidy(to);
        Some(after).filter(|after| after != self)
    }

    /// The decisions without those about a name that no backend has any more: nobody would take them back. `None` if that changes
    /// nothing.
    pub fn without(&self, backend: &str) -> Option<Self> {
        let mut after = self.clone();
        after.decisions.retain(|subject, _| subject.backend != backend);
        Some(after).filter(|after| after != self)
    }

    /// The first deadline of a drain after a time.
    pub fn next_deadline(&self, after: u64) -> Option<u64> {
        let deadlines = self
            .decisions
            .values()
            .filter_map(|decision| match decision.admin? {
                AdminOrder::Draining { deadline, .. } => deadline,
                AdminOrder::Enabled | AdminOrder::Disabled { .. } => None,
            });
        deadlines.filter(|deadline| *deadline > after).min()
    }

    /// Whether anything has been decided about a backend, in this service if one is named.
    pub fn mentions(&self, backend: &str, service: Option<&str>) -> bool {
        self.subjects()
            .any(|(of, it)| it == backend && (service.is_none() || of == service))
    }

    /// About whom anything has been decided: service, if it is about one only, and backend.
    pub fn subjects(&self) -> impl Iterator<Item = (Option<&str>, &str)> {
        self.decisions
            .keys()
            .map(|subject| (subject.service.as_deref(), subject.backend.as_str()))
    }

    fn decision(&self, backend: &str, service: Option<&str>) -> Decision {
        self.decisions
            .get(&Subject::new(backend, service))
            .copied()
            .unwrap_or_default()
    }

    /// Since when a backend drains by the decision that counts, and until when.
    fn draining(&self, backend: &str, service: Option<&str>) -> Option<(u64, Option<u64>)> {
        let wide = self.decision(backend, None).admin;
        match self.decision(backend, service).admin.or(wide)? {
            AdminOrder::Draining { since, deadline, .. } => Some((since, deadline)),
            AdminOrder::Enabled | AdminOrder::Disabled { .. } => None,
        }
    }

    /// With `None` the configuration holds.
    fn set_admin(&mut self, command: &Command, order: Option<AdminOrder>) {
        self.set(
            command,
            |decision| &mut decision.admin,
            order,
            AdminOrder::Enabled,
        );
    }

    /// With `None` the configuration holds.
    fn set_weight(&mut self, command: &Command, order: Option<WeightOrder>) {
        self.set(
            command,
            |decision| &mut decision.weight,
            order,
            WeightOrder::Configured,
        );
    }

    /// Sets one part of what has been decided. The newest word counts: one about every service takes back those about a single one.
    fn set<T: Copy>(
        &mut self,
        command: &Command,
        part: impl Fn(&mut Decision) -> &mut Option<T>,
        order: Option<T>,
        configuration: T,
    ) {
        let subject = Subject::new(&command.backend, command.service.as_deref());
        if subject.service.is_none() {
            for decision in self.about(&command.backend) {
                *part(decision) = None;
            }
            *part(self.decisions.entry(subject).or_default()) = order;
        } else {
            *part(self.decisions.entry(subject).or_default()) = Some(order.unwrap_or(configuration));
        }
    }

    fn undrain(&mut self, command: &Command) -> Result<(), Refused> {
        let disabled = || Refused::Disabled {
            backend: command.backend.clone(),
        };
        let of = |service| self.decision(&command.backend, service).admin;
        let is_disabled = |admin| matches!(admin, Some(AdminOrder::Disabled { .. }));
        let is_draining = |admin| matches!(admin, Some(AdminOrder::Draining { .. }));
        if let Some(service) = &command.service {
            if is_disabled(of(Some(service)).or(of(None))) {
                return Err(disabled());
            }
            self.set_admin(command, None);
            return Ok(());
        }
        let any = |is: fn(Option<AdminOrder>) -> bool| {
            let mut decisions = self.decisions.iter();
            decisions.any(|(subject, decision)| subject.backend == command.backend && is(decision.admin))
        };
        if any(is_disabled) && !any(is_draining) {
            return Err(disabled());
        }
        // Where it is disabled it stays so.
        let everywhere = of(None);
        for decision in self.about(&command.backend) {
            if is_draining(decision.admin) {
                decision.admin = is_disabled(everywhere).then_some(AdminOrder::Enabled);
            }
        }
        Ok(())
    }

    fn about(&mut self, backend: &str) -> impl Iterator<Item = &mut Decision> {
        self.decisions
            .iter_mut()
            .filter(move |(subject, _)| subject.backend == backend)
            .map(|(_, decision)| decision)
    }

    /// Drops what says nothing.
    fn tidy(&mut self, backend: &str) {
        let wide = self.decision(backend, None);
        for decision in self.about(backend) {
            if decision.admin == Some(AdminOrder::Enabled) && wide.admin.is_none() {
                decision.admin = None;
            }
            if decision.weight == Some(WeightOrder::Configured) && wide.weight.is_none() {
                decision.weight = None;
            }
        }
        self.decisions
            .retain(|_, decision| *decision != Decision::default());
    }
}

impl Subject {
    fn new(backend: &str, service: Option<&str>) -> Self {
        Self {
            backend: backend.to_owned(),
            service: service.map(str::to_owned),
        }
    }
}
