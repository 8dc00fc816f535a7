//! What operators have decided about backends, beyond the configuration.
//!
//! A small value, keyed by names as operators type them, and so good for keeping and for sending. A decision is about a backend
//! wherever it stands, or about the one in a single service; the narrower one counts. It outlives the configuration: a
//! backend that a reload takes out and another brings back is as drained as it was.
//!
//! Two balancers tell each other what they have decided ([`Word`]), and of what both have said about a subject the later word counts, on
//! both. Therefore what is taken back is not forgotten: that it was is the last word. Words that say nothing any more but that are
//! kept, the newest 1,024 of them, for a balancer that is away.
//!
//! Pure: the time comes in as milliseconds of Unix time, since a deadline must hold whatever becomes of process and machine.

mod command;
mod drain;
mod leaving;
mod register;
mod stored;
mod word;

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
pub use word::{AdminWord, Merged, Order, Word};

use register::{Rank, Register, Stamp};

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

/// Of how many words that say nothing any more it is remembered that they were said.
const MOST_SPARE: usize = 1_024;

/// All decisions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decisions {
    subjects: BTreeMap<Subject, Said>,
}

/// The last words about a subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Said {
    admin: Option<Register<AdminOrder>>,
    weight: Option<Register<WeightOrder>>,
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

/// As it is kept too. Times are milliseconds of Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum AdminOrder {
    /// Unlike what a wider decision says.
    Enabled,
    Draining {
        /// When it began.
        since: u64,
        /// When it becomes [`Admin::Disabled`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline: Option<u64>,
        /// Whether clients that are at home there may still open connections.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        soft: bool,
    },
    Disabled {
        since: u64,
    },
}

/// A backend's weight, also as it is kept and told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightOrder {
    /// As configured, unlike what a wider decision says.
    Configured,
    /// This one.
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

    /// The decisions after a command that is given at this time, to this node.
    pub fn after(&self, command: &Command, now: u64, node: &str) -> Result<Self, Refused> {
        let Command {
            backend,
            service,
            action,
            ..
        } = command;
        let stamp = self.stamp(now, node);
        let mut after = self.clone();
        match action {
            Action::Drain { deadline_ms, soft } => {
                let (since, earlier) = match self.draining(backend, service.as_deref()) {
                    Some((since, deadline)) => (since, deadline),
                    None => (now, None),
                };
                let deadline = deadline_ms.map_or(earlier, |after| Some(now.saturating_add(after)));
                let soft = *soft;
                let order = AdminOrder::Draining {
                    since,
                    deadline,
                    soft,
                };
                after.set_admin(command, Some(order), stamp);
            }
            Action::Disable => after.set_admin(command, Some(AdminOrder::Disabled { since: now }), stamp),
            Action::Enable => after.set_admin(command, None, stamp),
            Action::Undrain => after.undrain(command, stamp)?,
            Action::Weight(weight) => after.set_weight(command, weight.map(WeightOrder::Of), stamp),
        }
        after.tidy();
        Ok(after)
    }

    /// The stamp of a word that is said now: later than all that are known.
    fn stamp(&self, now: u64, node: &str) -> Stamp {
        let admin = self.subjects.values().filter_map(|said| said.admin.as_ref());
        let weight = self.subjects.values().filter_map(|said| said.weight.as_ref());
        let stamps = admin.map(|it| &it.stamp).chain(weight.map(|it| &it.stamp));
        let newest = stamps.map(|stamp| stamp.time).max().unwrap_or_default();
        Stamp {
            time: now.max(newest.saturating_add(1)),
            node: node.to_owned(),
        }
    }

    /// The decisions after a backend has got another name, under which it is the same machine: what was decided about it holds on, except
    /// where something has been decided about the new name. The old name keeps its decisions too, [until](Self::without) nobody has it
    /// any more. `None` if that changes nothing.
    ///
    /// What holds under the new name was said when it was said under the old one: another balancer that finds the other name too says the
    /// same, and whatever it was told about the new name since then counts for more.
    pub fn after_renaming(&self, from: &str, to: &str) -> Option<Self> {
        let about = |backend: &str| {
            let subjects = self.subjects.keys();
            let about: Vec<&Subject> = subjects.filter(|it| it.backend == backend).collect();
            about
        };
        let new: Vec<Decision> = about(to).into_iter().map(|it| self.said(it)).collect();
        let takes_admin = new.iter().all(|decision| decision.admin.is_none());
        let takes_weight = new.iter().all(|decision| decision.weight.is_none());
        let mut after = self.clone();
        for old in about(from) {
            let Some(Said { admin, weight }) = self.subjects.get(old).cloned() else {
                continue;
            };
            let subject = Subject::new(to, old.service.as_deref());
            let known = after.subjects.entry(subject).or_default();
            if let Some(admin) = admin.filter(|it| takes_admin && it.order().is_some()) {
                Register::join(&mut known.admin, admin);
            }
            if let Some(weight) = weight.filter(|it| takes_weight && it.order().is_some()) {
                Register::join(&mut known.weight, weight);
            }
        }
        after.tidy();
        Some(after).filter(|after| after != self)
    }

    /// The decisions when those about a name do not count any more that no backend has: nobody would take them back. `None` if that
    /// changes nothing.
    ///
    /// It is no word for the other balancer: there somebody may have the name still.
    pub fn without(&self, backend: &str) -> Option<Self> {
        let mut after = self.clone();
        for (_, said) in after.subjects.iter_mut().filter(|(it, _)| it.backend == backend) {
            if let Some(admin) = &mut said.admin {
                admin.is_former = true;
            }
            if let Some(weight) = &mut said.weight {
                weight.is_former = true;
            }
        }
        after.tidy();
        Some(after).filter(|after| after != self)
    }

    /// The first deadline of a drain after a time.
    pub fn next_deadline(&self, after: u64) -> Option<u64> {
        let deadlines = self
            .subjects
            .values()
            .filter_map(|said| match said.decision().admin? {
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
        self.subjects
            .keys()
            .filter(|subject| self.said(subject) != Decision::default())
            .map(|subject| (subject.service.as_deref(), subject.backend.as_str()))
    }

    fn decision(&self, backend: &str, service: Option<&str>) -> Decision {
        let said = self.subjects.get(&Subject::new(backend, service));
        said.map(Said::decision).unwrap_or_default()
    }

    /// What is said about a subject that the configuration alone would not say.
    fn said(&self, subject: &Subject) -> Decision {
        let Decision { admin, weight } = self.decision(&subject.backend, subject.service.as_deref());
        let wide = self.decision(&subject.backend, None);
        Decision {
            admin: admin.filter(|it| *it != AdminOrder::Enabled || wide.admin.is_some()),
            weight: weight.filter(|it| *it != WeightOrder::Configured || wide.weight.is_some()),
        }
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
    fn set_admin(&mut self, command: &Command, order: Option<AdminOrder>, stamp: Stamp) {
        let said = self.about(command);
        let order = order.or_else(|| command.service.is_some().then_some(AdminOrder::Enabled));
        said.admin = Some(Register::of(order, stamp));
    }

    /// With `None` the configuration holds.
    fn set_weight(&mut self, command: &Command, order: Option<WeightOrder>, stamp: Stamp) {
        let said = self.about(command);
        let order = order.or_else(|| command.service.is_some().then_some(WeightOrder::Configured));
        said.weight = Some(Register::of(order, stamp));
    }

    /// What is said about the subject of a command. Of words about one service those count that were said after the one about every
    /// service: the newest word counts.
    fn about(&mut self, command: &Command) -> &mut Said {
        let subject = Subject::new(&command.backend, command.service.as_deref());
        self.subjects.entry(subject).or_default()
    }

    fn undrain(&mut self, command: &Command, stamp: Stamp) -> Result<(), Refused> {
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
            self.set_admin(command, None, stamp);
            return Ok(());
        }
        let narrow: Vec<(Subject, AdminOrder)> = self
            .subjects
            .iter()
            .filter(|(subject, _)| subject.backend == command.backend && subject.service.is_some())
            .filter_map(|(subject, said)| Some((subject.clone(), said.decision().admin?)))
            .collect();
        let everywhere = of(None);
        let any = |is: fn(Option<AdminOrder>) -> bool| {
            is(everywhere) || narrow.iter().any(|(_, order)| is(Some(*order)))
        };
        if any(is_disabled) && !any(is_draining) {
            return Err(disabled());
        }
        // Where it is disabled it stays so.
        let say = if is_disabled(everywhere) {
            let draining = narrow.into_iter().filter(|(_, it)| is_draining(Some(*it)));
            draining
                .map(|(subject, _)| (subject, Some(AdminOrder::Enabled), stamp.clone()))
                .collect()
        } else {
            let disabled = narrow.into_iter().filter(|(_, it)| is_disabled(Some(*it)));
            let mut say: Vec<_> = disabled
                .map(|(subject, order)| (subject, Some(order), stamp.next()))
                .collect();
            say.push((Subject::new(&command.backend, None), None, stamp));
            say
        };
        for (subject, order, stamp) in say {
            self.subjects.entry(subject).or_default().admin = Some(Register::of(order, stamp));
        }
        Ok(())
    }

    /// Drops words about one service that were said before the one about every service, and the oldest of those that say nothing if there
    /// are too many.
    fn tidy(&mut self) {
        let wide: BTreeMap<String, Said> = self
            .subjects
            .iter()
            .filter(|(subject, _)| subject.service.is_none())
            .map(|(subject, said)| (subject.backend.clone(), said.clone()))
            .collect();
        for (subject, said) in &mut self.subjects {
            if let Some(wide) = wide.get(&subject.backend).filter(|_| subject.service.is_some()) {
                said.admin = said
                    .admin
                    .take()
                    .filter(|it| it.is_later_than(wide.admin.as_ref()));
                said.weight = said
                    .weight
                    .take()
                    .filter(|it| it.is_later_than(wide.weight.as_ref()));
            }
        }
        self.drop_oldest_spare_words();
        self.subjects.retain(|_, said| *said != Said::default());
    }

    fn drop_oldest_spare_words(&mut self) {
        let mut spare = Vec::new();
        for (subject, said) in &self.subjects {
            let Decision { admin, weight } = self.said(subject);
            spare.extend(
                said.admin
                    .as_ref()
                    .filter(|_| admin.is_none())
                    .map(|it| &it.stamp),
            );
            spare.extend(
                said.weight
                    .as_ref()
                    .filter(|_| weight.is_none())
                    .map(|it| &it.stamp),
            );
        }
        let Some(excess) = spare.len().checked_sub(MOST_SPARE).filter(|excess| *excess > 0) else {
            return;
        };
        spare.sort_unstable();
        let Some(last) = spare.get(excess - 1).map(|stamp| (*stamp).clone()) else {
            return;
        };
        let spoken: BTreeMap<Subject, Decision> = self
            .subjects
            .keys()
            .map(|subject| (subject.clone(), self.said(subject)))
            .collect();
        for (subject, said) in &mut self.subjects {
            let Decision { admin, weight } = spoken.get(subject).copied().unwrap_or_default();
            said.admin = said.admin.take().filter(|it| admin.is_some() || it.stamp > last);
            said.weight = said
                .weight
                .take()
                .filter(|it| weight.is_some() || it.stamp > last);
        }
    }
}

impl Rank for AdminOrder {
    fn rank(&self) -> u64 {
        match self {
            Self::Enabled => 0,
            Self::Draining { soft: true, .. } => 1,
            Self::Draining { .. } => 2,
            Self::Disabled { .. } => 3,
        }
    }
}

impl Rank for WeightOrder {
    fn rank(&self) -> u64 {
        match self {
            Self::Configured => 0,
            Self::Of(weight) => 1 + u64::from(*weight),
        }
    }
}

impl Said {
    /// What counts.
    fn decision(&self) -> Decision {
        Decision {
            admin: self.admin.as_ref().and_then(Register::order),
            weight: self.weight.as_ref().and_then(Register::order),
        }
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
