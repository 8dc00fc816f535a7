//! What an operator commands, and which backends it is about.

use serde::{Deserialize, Serialize};

use super::{Admin, Decisions};
use crate::core::config::{Config, MAX_WEIGHT};

/// A command about a backend, as the operator API has it. Field names are a contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The backend's name.
    pub backend: String,
    /// The service; `None` for every one in which the backend stands, now or later.
    #[serde(default)]
    pub service: Option<String>,
    /// What to do.
    pub action: Action,
    /// Also if a service is left without a backend for new connections.
    #[serde(default)]
    pub force: bool,
}

/// What to do with a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// No new flows; existing ones stay.
    Drain {
        /// After how many milliseconds those that are left are reset. `None` for never, or as an earlier drain that goes on has it.
        #[serde(default)]
        deadline_ms: Option<u64>,
        /// Whether clients of affine services that are at home there may still open connections.
        #[serde(default)]
        soft: bool,
    },
    /// Takes a drain back.
    Undrain,
    /// No flows at all; existing ones are reset.
    Disable,
    /// Takes back whatever keeps it from serving.
    Enable,
    /// Another weight; `None` for the configured one.
    Weight(Option<u32>),
}

/// What holds after a command. Field names are a contract.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// The backends that the command was about.
    pub backends: Vec<DecidedBackend>,
    /// Why the decision, although it is in force, would be forgotten by a restart of the daemon; `null` if it would not.
    pub not_kept: Option<String>,
}

/// What holds for a backend of a service. Field names are a contract.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecidedBackend {
    /// The service's name.
    pub service: String,
    /// The backend's name.
    pub backend: String,
    /// What the operator lets it do.
    pub admin: Admin,
    /// The weight that counts; 0 if it is leaving.
    pub weight: u32,
    /// The weight that is configured.
    pub configured_weight: u32,
    /// How many slots give it their new flows.
    pub slots: u32,
    /// In how many seconds the flows that are left will be reset; `null` if never.
    pub deadline_seconds: Option<u64>,
    /// Whether it drains softly: clients that are at home there may still open connections.
    pub soft: bool,
}

/// The backends that a command is about, by their places in the configuration: service and backend. Empty if only decisions
/// know of them, or the tables.
pub type Scope = Vec<(usize, usize)>;

/// A command names what is not there, or asks for what cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// There is no such service.
    #[error("there is no service {name:?}; expected one of: {}", known.join(", "))]
    Service {
        /// What was named.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// There is no such backend there.
    #[error("there is no backend {name:?}{}; expected one of: {}", of(service.as_deref()), known.join(", "))]
    Backend {
        /// What was named.
        name: String,
        /// In this service only.
        service: Option<String>,
        /// What there is.
        known: Vec<String>,
    },
    /// No backend can have this weight.
    #[error(
        "expected a weight from 0 to {MAX_WEIGHT}, found {0}; weights are shares, relative to the other backends of the service"
    )]
    Weight(u32),
}

fn of(service: Option<&str>) -> String {
    service.map_or_else(String::new, |name| format!(" in the service {name}"))
}

impl Command {
    /// Whom the command is about. It may also be about a backend that is not configured any more: what only takes back, and, of one that
    /// is leaving, what decides about the connections that it has left.
    pub fn scope(&self, config: &Config, decisions: &Decisions, is_leaving: bool) -> Result<Scope, Unknown> {
        if let Action::Weight(Some(weight)) = self.action
            && weight > MAX_WEIGHT
        {
            return Err(Unknown::Weight(weight));
        }
        let has_subject = match self.action {
            Action::Drain { .. } | Action::Disable => is_leaving,
            Action::Undrain | Action::Enable | Action::Weight(None) => {
                decisions.mentions(&self.backend, self.service.as_deref())
            }
            Action::Weight(Some(_)) => false,
        };
        scope(config, &self.backend, self.service.as_deref()).or_else(|unknown| {
            if has_subject {
                Ok(Scope::new())
            } else {
                Err(unknown)
            }
        })
    }
}

/// The configured backends of a name, in one service or in all.
pub fn scope(config: &Config, backend: &str, service: Option<&str>) -> Result<Scope, Unknown> {
    let services = || {
        config
            .services
            .iter()
            .enumerate()
            .filter(|(_, it)| service.is_none_or(|name| it.name == name))
    };
    if let Some(name) = service
        && services().next().is_none()
    {
        return Err(Unknown::Service {
            name: name.to_owned(),
            known: config.services.iter().map(|it| it.name.clone()).collect(),
        });
    }
    let places: Scope = services()
        .flat_map(|(index, it)| {
            it.backends
                .iter()
                .enumerate()
                .map(move |(place, it)| (index, place, it))
        })
        .filter(|(_, _, it)| it.name == backend)
        .map(|(index, place, _)| (index, place))
        .collect();
    if places.is_empty() {
        let mut known: Vec<String> = Vec::new();
        for it in services().flat_map(|(_, service)| &service.backends) {
            if !known.contains(&it.name) {
                known.push(it.name.clone());
            }
        }
        return Err(Unknown::Backend {
            name: backend.to_owned(),
            service: service.map(str::to_owned),
            known,
        });
    }
    Ok(places)
}
