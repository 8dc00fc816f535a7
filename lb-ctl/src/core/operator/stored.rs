//! Decisions as they are kept in a file: JSON, with a version.

use serde::{Deserialize, Serialize};

use super::{
    AdminOrder, Decisions, Said, Subject, WeightOrder,
    register::{LATEST, Register, Stamp},
};
use crate::core::config::MAX_WEIGHT;

/// The version of the form that is written. The one before is read.
const VERSION: u32 = 2;

/// Why a text is not a list of decisions.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    /// It is damaged, or was never one.
    #[error("expected the decisions of operators as lb-ctl writes them, found something else: {0}")]
    Form(#[from] serde_json::Error),
    /// Another version of lb-ctl has written it.
    #[error(
        "expected version 1 or {VERSION}, found version {0}, which another version of lb-ctl has written"
    )]
    Version(u32),
    /// A weight that no backend can have.
    #[error("expected weights from 0 to {MAX_WEIGHT}, found {0}")]
    Weight(u32),
    /// A time after all times.
    #[error("expected times up to {LATEST} ms, found {0}")]
    Time(u64),
}

/// Read first, since the rest depends on it.
#[derive(Deserialize)]
struct Head {
    version: u32,
}

/// Version 1: one balancer's decisions, without what was taken back.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredAlone {
    #[expect(dead_code, reason = "it has been read with the head")]
    version: u32,
    decisions: Vec<StoredDecision>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredDecision {
    backend: String,
    #[serde(default)]
    service: Option<String>,
    #[serde(default)]
    admin: Option<AdminOrder>,
    #[serde(default)]
    weight: Option<WeightOrder>,
}

/// Version 2.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    decisions: Vec<StoredSaid>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredSaid {
    backend: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    admin: Option<StoredWord<AdminOrder>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<StoredWord<WeightOrder>>,
}

/// What was said last, when, and by which node.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredWord<T> {
    time: u64,
    node: String,
    /// Missing: it took back what was said before.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    order: Option<T>,
    /// Whether nobody has the name any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    former: bool,
}

const fn none<T>() -> Option<T> {
    None
}

impl<T: Copy> StoredWord<T> {
    fn of(register: &Register<T>) -> Self {
        Self {
            time: register.stamp.time,
            node: register.stamp.node.clone(),
            order: register.order,
            former: register.is_former,
        }
    }

    fn read(self) -> Result<Register<T>, StoredError> {
        if self.time > LATEST {
            return Err(StoredError::Time(self.time));
        }
        Ok(Register {
            stamp: Stamp {
                time: self.time,
                node: self.node,
            },
            order: self.order,
            is_former: self.former,
        })
    }
}

impl StoredDecision {
    /// What version 1 has not kept is when things were said. Where it knows since when something holds, it was said then; what is said about
    /// one service was said after what is said about every one.
    fn read(self) -> (Subject, Said) {
        let first = if self.service.is_none() { 1 } else { 2 };
        let stamp = |time: u64| Stamp {
            time: time.min(LATEST),
            node: String::new(),
        };
        let admin = self.admin.map(|order| {
            let since = match order {
                AdminOrder::Enabled => first,
                AdminOrder::Draining { since, .. } | AdminOrder::Disabled { since } => since.max(first),
            };
            Register::of(Some(order), stamp(since))
        });
        let weight = self.weight.map(|order| Register::of(Some(order), stamp(first)));
        let subject = Subject {
            backend: self.backend,
            service: self.service,
        };
        (subject, Said { admin, weight })
    }
}

impl Decisions {
    /// The text to keep.
    pub fn to_text(&self) -> Result<String, StoredError> {
        let said = |(subject, said): (&Subject, &Said)| StoredSaid {
            backend: subject.backend.clone(),
            service: subject.service.clone(),
            admin: said.admin.as_ref().map(StoredWord::of),
            weight: said.weight.as_ref().map(StoredWord::of),
        };
        let stored = Stored {
            version: VERSION,
            decisions: self.subjects.iter().map(said).collect(),
        };
        Ok(format!("{}\n", serde_json::to_string_pretty(&stored)?))
    }

    /// The decisions that a text holds.
    pub fn from_text(text: &[u8]) -> Result<Self, StoredError> {
        let Head { version } = serde_json::from_slice(text)?;
        let mut decisions = Self::default();
        match version {
            1 => {
                let stored: StoredAlone = serde_json::from_slice(text)?;
                decisions.subjects = stored.decisions.into_iter().map(StoredDecision::read).collect();
                decisions.order_words_about_one_service();
            }
            VERSION => {
                let stored: Stored = serde_json::from_slice(text)?;
                for it in stored.decisions {
                    let subject = Subject {
                        backend: it.backend,
                        service: it.service,
                    };
                    let said = Said {
                        admin: it.admin.map(StoredWord::read).transpose()?,
                        weight: it.weight.map(StoredWord::read).transpose()?,
                    };
                    decisions.subjects.insert(subject, said);
                }
            }
            other => return Err(StoredError::Version(other)),
        }
        let weights = decisions
            .subjects
            .values()
            .filter_map(|said| said.weight.as_ref()?.order);
        for weight in weights {
            if let WeightOrder::Of(weight) = weight
                && weight > MAX_WEIGHT
            {
                return Err(StoredError::Weight(weight));
            }
        }
        decisions.tidy();
        Ok(decisions)
    }

    /// Words about one service, where there are any, have been said after the one about every service.
    fn order_words_about_one_service(&mut self) {
        let wide: Vec<(String, u64)> = self
            .subjects
            .iter()
            .filter(|(subject, _)| subject.service.is_none())
            .filter_map(|(subject, said)| Some((subject.backend.clone(), said.admin.as_ref()?.stamp.time)))
            .collect();
        for (subject, said) in self.subjects.iter_mut().filter(|(it, _)| it.service.is_some()) {
            let earlier = wide.iter().find(|(backend, _)| *backend == subject.backend);
            if let (Some((_, time)), Some(admin)) = (earlier, &mut said.admin) {
                admin.stamp.time = admin.stamp.time.max(time.saturating_add(1));
            }
        }
    }
}
