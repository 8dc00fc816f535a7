//! Reading back what an earlier run has left in the tables.

use std::collections::{BTreeMap, BTreeSet};

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
    /// ids are given out again. And before even that pass, services that the other balancer owns must be [followed](Placement::follow):
    /// nobody has written down which.
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
            added: BTreeSet::new(),
            followed: BTreeSet::new(),
            owned_since: BTreeMap::new(),
            unproved: BTreeSet::new(),
            named_by_peer: BTreeSet::new(),
            unnamed: BTreeSet::new(),
        })
    }

    /// Refuses a configuration in which a service of the tables has another affinity: its connections would be looked for in other
    /// slots.
    pub fn check_affinity(&self, config: &Config) -> Result<(), ConfigErrors> {
        let errors: Vec<ConfigError> = config
            .services
            .iter()
            .filter_map(|service| {
                let key = service.key();
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

    /// The targets of a service that may have been backends when its tables were last written, as far as these tell:
    /// `is_kept_away` says to which names operators let no new flows. First those that get new flows, then those that would but for their
    /// health or tier, last those that may get none only because of an operator: whether one that drains was configured is written
    /// nowhere. As long as the operator's word holds, none of the last serves.
    pub fn known_backends(
        &self,
        service: u16,
        serving: &BTreeMap<TargetName, u32>,
        is_kept_away: impl Fn(&str) -> bool,
    ) -> Vec<&TargetName> {
        let rank = |id: u16, name: &TargetName| {
            if serving.contains_key(name) {
                Some(0)
            } else if !self.drains(id) {
                Some(1)
            } else {
                name.name().is_some_and(&is_kept_away).then_some(2)
            }
        };
        let targets = self.targets().filter(|(_, name)| name.service() == service);
        let mut ranked: Vec<(u8, &TargetName)> = targets
            .filter_map(|(id, name)| Some((rank(id, name)?, name)))
            .collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, name)| name).collect()
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

#[cfg(test)]
mod tests {
    use super::super::simulation::{configuration::configuration, kernel::Kernel};
    use super::*;
    use crate::core::plan::Shares;

    #[test]
    fn who_was_a_backend_is_known_by_slots_health_and_decisions() {
        let weights = |first| [[first, Some(1), Some(1), Some(1)], [None; 4], [None; 4]];
        let config = configuration(&weights(Some(1))).expect("a service");
        let mut kernel = Kernel::new();
        let mut placement = Placement::empty(&config.datapath);
        // Only the last one serves, and the first one is no longer configured.
        for first in [Some(1), None] {
            let config = configuration(&weights(first)).expect("a service");
            let serving: Vec<u32> = config.services[0]
                .backends
                .iter()
                .map(|backend| u32::from(backend.name == "b3"))
                .collect();
            let plan = placement
                .plan(&config, &Shares::from_iter([serving]))
                .expect("room");
            placement.introduce(&plan, &mut kernel).expect("it lives");
            placement.apply(&plan, 0, &mut kernel).expect("it lives");
        }
        let id = |placement: &Placement, name: &str| {
            let mut targets = placement.targets();
            let found = targets.find(|(_, target)| target.name() == Some(name));
            found.expect("a target").0
        };
        let (down, drained) = (id(&placement, "b1"), id(&placement, "b2"));
        placement.avoid(down, true, &mut kernel).expect("it lives");
        placement.withdraw(drained, true, &mut kernel).expect("it lives");

        let known = |placement: &Placement, decided: &str| -> Vec<String> {
            let serving = placement.serving(&kernel).expect("it lives");
            let known = placement.known_backends(0, &serving, |name| name == decided);
            known
                .iter()
                .map(|it| it.name().unwrap_or_default().to_owned())
                .collect()
        };
        let mut next = Placement::adopt(&config.datapath, &kernel.found()).expect("the same sizes");
        let ids = |has: fn(&lb_common::layout::Target) -> bool| -> Vec<u16> {
            let targets = (0..).zip(&kernel.tables.targets);
            targets
                .filter(|(_, target)| has(target))
                .map(|(id, _)| id)
                .collect()
        };
        next.go_on_avoiding(ids(lb_common::layout::Target::sheds));
        next.go_on_withdrawing(ids(lb_common::layout::Target::drains));
        for placement in [&placement, &next] {
            assert_eq!(known(placement, "b2"), ["b3", "b1", "b2"]);
            assert_eq!(known(placement, ""), ["b3", "b1"], "it may be leaving");
            assert_eq!(
                placement.known_backends(1, &BTreeMap::new(), |_| true),
                Vec::<&TargetName>::new()
            );
        }
    }
}
