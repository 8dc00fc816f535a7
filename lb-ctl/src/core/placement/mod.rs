//! Who has which id, and how the tables get from one configuration to the next.
//!
//! Everything that must survive the controller is in the tables themselves: a service's id and slots in its entry, whom a
//! target id stands for in the table of names. [`Placement::adopt`] reads it back. A service is known by its VIP and port,
//! whatever it is called; a backend by its service, name, address and port.
//!
//! Each write alone leaves the tables in order, whatever follows, so the controller may be killed between any two.

mod adoption;
mod allowing;
mod following;
mod foreseen;
mod steps;

#[cfg(test)]
mod simulation;

use std::collections::{BTreeMap, BTreeSet};

use lb_common::layout::{ALLOWED_ROOM, AllowedKey, NO_TARGET, Service, ServiceKey, TargetName, flag};

pub use adoption::{AdoptionError, Found};
pub use following::TargetOfPeer;
pub use foreseen::{FlowsTracked, Foreseen};
pub use steps::{Departing, Moved, Swept, WriteTables};

use super::{
    config::{CheckKind, Config, DatapathConfig},
    plan::{self, Plan, PlannedService, PlannedTarget, Shares},
};

/// Who has which id. A mirror of the tables of services and names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    limits: Limits,
    /// The services in the table, by key.
    services: BTreeMap<ServiceKey, Service>,
    /// The entries in the table that only say that an address is a VIP.
    vips: BTreeSet<ServiceKey>,
    /// From where restricted services may be used.
    allowed: BTreeSet<AllowedKey>,
    /// Ids of services that are no longer in the table, but which records may still name.
    leaving_services: BTreeSet<u16>,
    /// The targets in the table of names, by id.
    targets: BTreeMap<u16, TargetName>,
    /// The targets that the configuration names. The others are leaving.
    configured: BTreeSet<u16>,
    /// The targets to which the configuration lets no new flows: it gives them the weight 0, or names them no more.
    draining: BTreeSet<u16>,
    /// The targets that an operator drains.
    withdrawn: BTreeSet<u16>,
    /// The targets to which their health lets no new flows.
    avoided: BTreeSet<u16>,
    /// The ids of services whose slots have moved since the last pass over the records has begun.
    moved: BTreeSet<u16>,
    /// The slots, by their places in the table, to which records have come from elsewhere since then.
    added: BTreeSet<u32>,
    /// The ids of services that the other balancer owns.
    followed: BTreeSet<u16>,
    /// Since when, in ticks, we own services that we followed before.
    owned_since: BTreeMap<u16, u32>,
    /// The ids of those of them whose records no pass has gone over since.
    unproved: BTreeSet<u16>,
    /// The targets that the other balancer has named since the last pass over the records has begun.
    named_by_peer: BTreeSet<u16>,
    /// The leaving targets that no slot named when the last pass over the records began.
    unnamed: BTreeSet<u16>,
}

/// What the tables have room for, and what all services have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limits {
    services: u32,
    /// The highest target id.
    targets: u32,
    /// Prefixes, those before and those after a change together.
    prefixes: usize,
    slots_per_service: u32,
    hash_seed: u64,
}

impl Limits {
    const fn of(config: &DatapathConfig) -> Self {
        Self {
            services: config.max_services,
            targets: config.max_backends,
            prefixes: ALLOWED_ROOM as usize,
            slots_per_service: config.slots_per_service,
            hash_seed: config.hash_seed,
        }
    }
}

/// There is no room for a configuration beside what is still leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// Too few service ids.
    #[error(
        "expected room for the new services, found that {leaving} removed ones still have connections in the tables; try \
         again in half a minute, or raise datapath.max_services and restart lb-ctl"
    )]
    Services {
        /// How many services are leaving.
        leaving: usize,
    },
    /// Too few target ids.
    #[error(
        "expected room for the new backends, found that {leaving} removed ones still have connections; wait for them to end, \
         or raise datapath.max_backends and restart lb-ctl"
    )]
    Backends {
        /// How many targets are leaving.
        leaving: usize,
    },
    /// Too little room for prefixes. Only where an earlier change has not come to its end.
    #[error(
        "expected room for the prefixes of all services, found {found} with those that the tables have already, of at most \
         {room}: a change from other lists was interrupted; finish it, with the file as it was then, and try again"
    )]
    Prefixes {
        /// How many there would be.
        found: usize,
        /// How many there can be.
        room: usize,
    },
}

impl NoRoom {
    /// The key of the configuration that limits the room.
    pub const fn key(&self) -> &'static str {
        match self {
            Self::Services { .. } => "datapath.max_services",
            Self::Backends { .. } => "datapath.max_backends",
            Self::Prefixes { .. } => "service.allow",
        }
    }
}

impl Placement {
    /// Empty tables of the sizes that the configuration asks for.
    pub const fn empty(config: &DatapathConfig) -> Self {
        Self {
            limits: Limits::of(config),
            services: BTreeMap::new(),
            vips: BTreeSet::new(),
            allowed: BTreeSet::new(),
            leaving_services: BTreeSet::new(),
            targets: BTreeMap::new(),
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
        }
    }

    /// What the tables should hold for a configuration whose backends have these shares: whoever has an id keeps it, the others
    /// get free ones.
    pub fn plan(&self, config: &Config, shares: &Shares) -> Result<Plan, NoRoom> {
        let mut planner = Planner {
            placement: self,
            ids: self.targets.iter().map(|(&id, &name)| (name, id)).collect(),
            services_taken: self.services.values().map(|service| service.id).collect(),
            last_target: NO_TARGET,
        };
        planner.services_taken.extend(&self.leaving_services);
        let mut plan = Plan {
            services: Vec::new(),
            targets: Vec::new(),
        };
        for (index, service) in config.services.iter().enumerate() {
            let key = service.key();
            let entry = Service {
                flags: plan::flags(service),
                // The same as before, or the configuration has been refused.
                port_mask: plan::port_mask(service),
                affinity_timeout: plan::affinity_timeout(service),
                candidates: plan::candidates(service, self.limits.slots_per_service),
                ..planner.service(&key)?
            };
            let mut targets = Vec::new();
            for backend in &service.backends {
                // The configuration allows no name that does not fit.
                let name = TargetName::new(entry.id, &backend.name, backend.address, backend.port)
                    .unwrap_or(TargetName::NOBODY);
                let id = planner.target(name)?;
                plan.targets.push(PlannedTarget {
                    id,
                    name,
                    address: backend.address,
                    forwarding: plan::forwarding(
                        service.forward,
                        (backend.address, backend.port),
                        &config.datapath,
                    ),
                    drains: backend.weight == 0,
                    is_checked: service.check.kind != CheckKind::None,
                });
                targets.push(id);
            }
            plan.services.push(PlannedService {
                key,
                vip_key: ServiceKey::vip(service.vip.into()),
                entry,
                allowed: plan::allowed(entry.id, service),
                slots: plan::slots(&service.backends, shares.of(index), &targets, &entry),
                targets,
                weights: shares.of(index).to_vec(),
            });
        }
        self.check_room_for_prefixes(&plan)?;
        Ok(plan)
    }

    /// Whether there is room for a configuration, once what an earlier run has not finished is [out of the
    /// way](Self::forget_orphans).
    pub fn check_room(&self, config: &Config) -> Result<(), NoRoom> {
        let mut tidy = self.clone();
        for id in self.orphans() {
            tidy.targets.remove(&id);
        }
        // Room for nobody is room for all.
        tidy.plan(config, &Shares::none()).map(drop)
    }

    /// Targets whose service is not in the table: it was removed, or an earlier run did not live to write it.
    fn orphans(&self) -> Vec<u16> {
        let services: BTreeSet<u16> = self.services.values().map(|service| service.id).collect();
        let orphans = self
            .targets
            .iter()
            .filter(|(_, name)| !services.contains(&name.service()));
        orphans.map(|(&id, _)| id).collect()
    }

    /// All targets that anything may name, by id: those of the configuration and those that are leaving.
    pub fn targets(&self) -> impl Iterator<Item = (u16, &TargetName)> {
        self.targets.iter().map(|(&id, name)| (id, name))
    }

    /// The targets of a service that the configuration no longer names, but a slot or record may.
    pub fn leaving(&self, service: u16) -> impl Iterator<Item = (u16, &TargetName)> {
        self.targets()
            .filter(move |(id, name)| name.service() == service && !self.configured.contains(id))
    }

    /// The targets that get no new flows, whatever affinity says: because of the configuration, of an operator, or of their health.
    pub fn without_new_flows(&self) -> impl Iterator<Item = u16> {
        let avoided = |id: &u16| self.avoided.contains(id) || self.drains(*id);
        self.targets.keys().copied().filter(move |id| avoided(id))
    }

    /// The names of all targets to which slots of their service send new connections, and how many do.
    pub fn serving<T: WriteTables>(&self, tables: &T) -> Result<BTreeMap<TargetName, u32>, T::Error> {
        // By id: there are millions of slots.
        let mut serving = vec![0_u32; usize::from(u16::MAX) + 1];
        for service in self.services.values() {
            for index in service.slot_indices() {
                serving[usize::from(tables.slot(index)?.current)] += 1;
            }
        }
        let named = |(&id, &name): (&u16, &TargetName)| (name, serving[usize::from(id)]);
        let has_slots = |(_, slots): &(TargetName, u32)| *slots > 0;
        Ok(self.targets.iter().map(named).filter(has_slots).collect())
    }

    /// The first free target id after this one.
    fn free_target(&self, after: u16) -> Option<u16> {
        let highest = u16::try_from(self.limits.targets).unwrap_or(u16::MAX);
        (after.saturating_add(1)..=highest).find(|id| !self.targets.contains_key(id))
    }

    /// The service in the table that has this key.
    pub fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.services.get(key)
    }

    /// Whether a service in the table translates.
    pub fn translates(&self) -> bool {
        self.services()
            .any(|service| service.flags & flag::TRANSLATES != 0)
    }

    /// The services in the table.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }
}

/// Gives out ids while a plan is made.
struct Planner<'a> {
    placement: &'a Placement,
    ids: BTreeMap<TargetName, u16>,
    services_taken: BTreeSet<u16>,
    /// The last target id that was given out.
    last_target: u16,
}

impl Planner<'_> {
    /// The entry of a service, under its own id or a free one.
    fn service(&mut self, key: &ServiceKey) -> Result<Service, NoRoom> {
        let Limits {
            services,
            slots_per_service,
            hash_seed,
            ..
        } = self.placement.limits;
        if let Some(&entry) = self.placement.services.get(key) {
            return Ok(entry);
        }
        let is_free = |id: &u16| !self.services_taken.contains(id);
        let id = (0..=u16::MAX)
            .take(services as usize)
            .find(is_free)
            .ok_or(NoRoom::Services {
                leaving: self.placement.leaving_services.len(),
            })?;
        self.services_taken.insert(id);
        Ok(Service {
            hash_seed,
            // The configuration keeps the whole table below 2^32 slots.
            first_slot: u32::from(id) * slots_per_service,
            slots: slots_per_service,
            flags: 0,
            id,
            port_mask: u16::MAX,
            affinity_timeout: 0,
            candidates: 0,
            reserved: 0,
        })
    }

    /// The id of a target, its own or a free one.
    fn target(&mut self, name: TargetName) -> Result<u16, NoRoom> {
        if let Some(&id) = self.ids.get(&name) {
            return Ok(id);
        }
        let id = self
            .placement
            .free_target(self.last_target)
            .ok_or(NoRoom::Backends {
                leaving: self.placement.targets.len() - self.placement.configured.len(),
            })?;
        // All up to here are taken now.
        self.last_target = id;
        self.ids.insert(name, id);
        Ok(id)
    }
}
