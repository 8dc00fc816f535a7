//! Decisions as they are kept in a file: JSON, with a version.

use serde::{Deserialize, Serialize};

use super::{AdminOrder, Decision, Decisions, Subject, WeightOrder};
use crate::core::config::MAX_WEIGHT;

/// The version of the form below. Another one is not read.
const VERSION: u32 = 1;

/// Why a text is not a list of decisions.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    /// It is damaged, or was never one.
    #[error("expected the decisions of operators as lb-ctl writes them, found something else: {0}")]
    Form(#[from] serde_json::Error),
    /// Another version of lb-ctl has written it.
    #[error("expected version {VERSION}, found version {0}, which another version of lb-ctl has written")]
    Version(u32),
    /// A weight that no backend can have.
    #[error("expected weights from 0 to {MAX_WEIGHT}, found {0}")]
    Weight(u32),
}

/// Read first, since the rest depends on it.
#[derive(Deserialize)]
struct Head {
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    decisions: Vec<StoredDecision>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredDecision {
    backend: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    admin: Option<StoredAdmin>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<StoredWeight>,
}

/// Times are milliseconds of Unix time.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum StoredAdmin {
    Enabled,
    Draining {
        since: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline: Option<u64>,
    },
    Disabled {
        since: u64,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StoredWeight {
    Configured,
    Of(u32),
}

impl Decisions {
    /// The text to keep.
    pub fn to_text(&self) -> Result<String, StoredError> {
        let stored = Stored {
            version: VERSION,
            decisions: self
                .decisions
                .iter()
                .map(|(subject, decision)| StoredDecision {
                    backend: subject.backend.clone(),
                    service: subject.service.clone(),
                    admin: decision.admin.map(|admin| match admin {
                        AdminOrder::Enabled => StoredAdmin::Enabled,
                        AdminOrder::Draining { since, deadline } => StoredAdmin::Draining { since, deadline },
                        AdminOrder::Disabled { since } => StoredAdmin::Disabled { since },
                    }),
                    weight: decision.weight.map(|weight| match weight {
                        WeightOrder::Configured => StoredWeight::Configured,
                        WeightOrder::Of(weight) => StoredWeight::Of(weight),
                    }),
                })
                .collect(),
        };
        Ok(format!("{}\n", serde_json::to_string_pretty(&stored)?))
    }

    /// The decisions that a text holds.
    pub fn from_text(text: &[u8]) -> Result<Self, StoredError> {
        let Head { version } = serde_json::from_slice(text)?;
        if version != VERSION {
            return Err(StoredError::Version(version));
        }
        let stored: Stored = serde_json::from_slice(text)?;
        let mut decisions = Self::default();
        for it in stored.decisions {
            let decision = Decision {
                admin: it.admin.map(|admin| match admin {
                    StoredAdmin::Enabled => AdminOrder::Enabled,
                    StoredAdmin::Draining { since, deadline } => AdminOrder::Draining { since, deadline },
                    StoredAdmin::Disabled { since } => AdminOrder::Disabled { since },
                }),
                weight: it.weight.map(|weight| match weight {
                    StoredWeight::Configured => WeightOrder::Configured,
                    StoredWeight::Of(weight) => WeightOrder::Of(weight),
                }),
            };
            if let Some(WeightOrder::Of(weight)) = decision.weight
                && weight > MAX_WEIGHT
            {
                return Err(StoredError::Weight(weight));
            }
            let subject = Subject {
                backend: it.backend,
                service: it.service,
            };
            decisions.decisions.insert(subject, decision);
        }
        let backends: Vec<String> = decisions
            .subjects()
            .map(|(_, backend)| backend.to_owned())
            .collect();
        for backend in backends {
            decisions.tidy(&backend);
        }
        Ok(decisions)
    }
}
