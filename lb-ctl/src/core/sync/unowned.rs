//! What begins here though its service is not ours, and is still to be told: its packets come to us for a moment because we have become
//! master, or because somebody has not heard yet that we are not any more.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::layout::{ClientKey, FlowKey, Service, ServiceKey, flag};

use super::{batch::Batch, outbox::WAITING, wire::Item};

/// The services that we do not own, and what has begun here of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Unowned {
    services: BTreeMap<u16, Watched>,
    pub(super) flows: BTreeSet<FlowKey>,
    pub(super) clients: BTreeSet<ClientKey>,
}

/// A service that we do not own.
#[derive(Clone, Debug)]
struct Watched {
    key: ServiceKey,
    entry: Service,
    is_introduced: bool,
}

impl Unowned {
    /// From now on it is these services, and no others.
    pub(super) fn watch(&mut self, services: impl IntoIterator<Item = (ServiceKey, Service)>) {
        let mut before = std::mem::take(&mut self.services);
        for (key, entry) in services {
            let known = before.remove(&entry.id).filter(|known| known.key == key);
            let is_introduced = known.is_some_and(|known| known.is_introduced);
            let watched = Watched {
                key,
                entry,
                is_introduced,
            };
            self.services.insert(entry.id, watched);
        }
        let services = &self.services;
        self.flows.retain(|key| services.contains_key(&key.service()));
        self.clients.retain(|key| services.contains_key(&key.service()));
    }

    /// Notes what has changed, as far as it is about these services.
    pub(super) fn note<'a>(
        &mut self,
        flows: impl IntoIterator<Item = &'a FlowKey>,
        clients: impl IntoIterator<Item = &'a ClientKey>,
    ) {
        let services = &self.services;
        let flows = flows
            .into_iter()
            .filter(|key| services.contains_key(&key.service()));
        let clients = clients
            .into_iter()
            .filter(|key| services.contains_key(&key.service()));
        self.flows.extend(flows);
        self.clients.extend(clients);
        if self.flows.len() + self.clients.len() > WAITING {
            self.flows.clear();
            self.clients.clear();
        }
    }

    /// Whether there is nothing to tell.
    pub(super) fn is_empty(&self) -> bool {
        self.flows.is_empty() && self.clients.is_empty()
    }

    /// Sees to it that the peer knows a service. Returns whether its connections are translated.
    pub(super) fn introduce(&mut self, service: u16, batch: &mut Batch) -> Option<bool> {
        let Watched {
            key,
            entry,
            is_introduced,
        } = self.services.get_mut(&service)?;
        if !std::mem::replace(is_introduced, true) {
            batch.push(Item::Unowned {
                id: service,
                vip: key.address().into(),
                port: key.port(),
            });
        }
        Some(entry.flags & flag::TRANSLATES != 0)
    }
}
