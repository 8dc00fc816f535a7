//! Reading back what an earlier run has left in the tables.

use std::collections::BTreeSet;

use lb_common::layout::{AllowedKey, NO_TARGET, Service, ServiceKey, TargetName, flag};

use super::{Limits, Placement, WriteTables};
use crate::core::config::{Affinity, Config, ConfigError, ConfigErrors, DatapathConfig, affinity_refusal};

/// What the tables of an earlier run hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The table of services, entries that only name a VIP included.
    pub services: Vec<(ServiceKey, Service)>,
    /// From where restricted services may be used.
    pub allowed: Vec<AllowedKey>,
    /// The table of names, as far as ids stand for somebody.
    pub names: Vec<(u16, TargetName)>,
}

/// Why a configuration cannot take over the tables of an earlier run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdoptionError {
    /// The slots would be others.
    #[error(
        "expected {running}, with which the running tables were made, found {configured}: every \
         connection would be looked for in another slot, and break; put {running} back, or break them on purpose with \
         `lb-ctl detach` first"
    )]
    Slots {
        /// In the tables.
        running: u32,
        /// In the configuration.
        configured: u32,
    },
    /// The slots would be others.
    #[error(
        "expected {running:#x}, with which the running tables were made, found {configured:#x}: every \
         connection would be looked for in another slot, and break; put {running:#x} back, or break them on purpose with \
         `lb-ctl detach` first"
    )]
    Seed {
        /// In the tables.
        running: u64,
        /// In the configuration.
        configured: u64,
    },
    /// A service would lose its slots.
    #[error(
        "expected at least {least}, because the running tables hold a service with that number, found \
         {configured}; raise it, or break connections on purpose with `lb-ctl detach` first"
    )]
    Services {
        /// The smallest value that would do.
        least: u32,
        /// In the configuration.
        configured: u32,
    },
    /// A target would lose its id.
    #[error(
        "expected at least {least}, because the running tables hold a backend with that number, found \
         {configured}; raise it, or break connections on purpose with `lb-ctl detach` first"
    )]
    Backends {
        /// The smallest value that would do.
        least: u32,
        /// In the configuration.
        configured: u32,
    },
}

impl AdoptionError {
    /// The key of the configuration that is at odds with the tables.
    pub const fn key(&self) -> &'static str {
        match self {
            Self::Slots { .. } => "datapath.slots_per_service",
            Self::Seed { .. } => "datapath.hash_seed",
            Self::Services { .. } => "datapath.max_services",
            Self::Backends { .. } => "datapath.max_backends",
        }
    }
}

impl Placement {
    /// Takes over what an earlier run has left. All of it counts as leaving until a configuration is
    /// [applied](Placement::apply).
    ///
    /// Before that, a pass over the records must have deleted those of services that are no longer in the table: their
    /// ids are given out again.
    pub fn adopt(config: &DatapathConfig, found: &Found) -> Result<Self, AdoptionError> {
        let limits = Limits::of(config);
        for (_, service) in found.services.iter().filter(|(key, _)| key.is_service()) {
            if service.slots != limits.slots_per_service {
                return Err(AdoptionError::Slots {
                    running: service.slots,
                    configured: limits.slots_per_service,
                });
            }
            if service.hash_seed != limits.hash_seed {
                return Err(AdoptionError::Seed {
                    running: service.hash_seed,
                    configured: limits.hash_seed,
                });
            }
            if u32::from(service.id) >= limits.services {
                return Err(AdoptionError::Services {
                    least: u32::from(service.id) + 1,
                    configured: limits.services,
                });
            }
        }
        if let Some((id, _)) = found.names.iter().find(|(id, _)| u32::from(*id) > limits.targets) {
            return Err(AdoptionError::Backends {
                least: u32::from(*id),
                configured: limits.targets,
            });
        }
        let (services, vips): (Vec<_>, Vec<_>) = found
            .services
            .iter()
            .copied()
            .partition(|(key, _)| key.is_service());
        let names = found.names.iter().filter(|(id, _)| *id != NO_TARGET).copied();
        Ok(Self {
            limits,
            services: services.into_iter().collect(),
            vips: vips.into_iter().map(|(key, _)| key).collect(),
            allowed: found.allowed.iter().copied().collect(),
            leaving_services: BTreeSet::new(),
            targets: names.collect(),
            configured: BTreeSet::new(),
            draining: BTreeSet::new(),
            withdrawn: BTreeSet::new(),
            avoided: BTreeSet::new(),
            moved: BTreeSet::new(),
        })
    }

    /// Refuses a configuration in which a service of the tables has another affinity: its connections would be looked for in other
    /// slots.
    pub fn check_affinity(&self, config: &Config) -> Result<(), ConfigErrors> {
        let errors: Vec<ConfigError> = config
            .services
            .iter()
            .filter_map(|service| {
                let key = ServiceKey::tcp(service.vip.into(), service.port);
                let running = match self.services.get(&key)?.flags & flag::AFFINE {
                    0 => Affinity::None,
                    _ => Affinity::Client,
                };
                (running != service.affinity).then(|| affinity_refusal(config, service, running))
            })
            .collect();
        if errors.is_empty() {
            Ok(())
        } else {
            Err(ConfigErrors::new(config.file_name.clone(), errors))
        }
    }

    /// Frees the ids of targets whose service is not in the table. Only after [`Placement::adopt`] and a pass over the records,
    /// when none of them can name such a target.
    pub fn forget_orphans<T: WriteTables>(&mut self, tables: &mut T) -> Result<(), T::Error> {
        for id in self.orphans() {
            tables.forget_target(id)?;
            self.targets.remove(&id);
        }
        Ok(())
    }
}
