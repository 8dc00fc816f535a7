//! Where what the peer tells is written.

use std::{collections::BTreeSet, net::IpAddr};

use lb_common::layout::{Affinity, ClientKey, FlowKey, FlowRecord, Service, ServiceKey, Slot, TargetName};

use tokio::time::Instant;

use super::Running;
use crate::{
    adapters::datapath::{Datapath, DatapathError, MirroredTables},
    core::{
        cause::chain,
        config::Config,
        placement::{Placement, TargetOfPeer, WriteTables as _},
        plan::{Plan, forwarding},
        sync::{Added, Inbox, Mirror, WayToClient},
    },
    daemon::{clock::ticks, controller::Controller, network::Network},
};

/// Our tables, as far as the peer says how they are.
pub(super) struct TableMirror<'a> {
    config: &'a Config,
    plan: &'a Plan,
    placement: &'a mut Placement,
    datapath: &'a mut Datapath,
    tables: &'a mut MirroredTables,
    network: &'a mut Network,
    /// Somebody has got an id who had none.
    has_introduced: bool,
}

/// Why something cannot be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum MirrorError {
    /// The kernel's tables.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The way to a backend.
    #[error("the way to a backend of the peer's cannot be looked for: {0}")]
    Network(String),
}

impl Controller {
    /// Has the inbox write to our tables; without a peer there is nothing to write.
    pub(super) fn mirror<E: Into<anyhow::Error>>(
        &mut self,
        write: impl FnOnce(&mut Inbox, &mut TableMirror<'_>) -> Result<(), E>,
    ) -> anyhow::Result<()> {
        let Some(Running { tables, .. }) = &mut self.pair.running else {
            return Ok(());
        };
        let mut mirror = TableMirror {
            config: &self.config,
            plan: &self.plan,
            placement: &mut self.placement,
            datapath: &mut self.datapath,
            network: &mut self.network,
            tables,
            has_introduced: false,
        };
        let written = write(&mut self.pair.inbox, &mut mirror);
        if mirror.has_introduced {
            // A backend that is new here needs a way to it.
            self.routes_due.get_or_insert_with(Instant::now);
        }
        written.map_err(Into::into)
    }
}

impl Mirror for TableMirror<'_> {
    type Error = MirrorError;

    fn shared(&self, key: &ServiceKey) -> Option<Service> {
        let is_carried = self.config.is_carried(key.address().into());
        self.placement.service(key).filter(|_| is_carried).copied()
    }

    fn followed(&self, key: &ServiceKey) -> Option<Service> {
        let entry = self.placement.service(key)?;
        self.placement.is_followed(entry.id).then_some(*entry)
    }

    fn target(
        &mut self,
        service: u16,
        name: &str,
        address: IpAddr,
        port: u16,
    ) -> Result<Option<u16>, MirrorError> {
        let mut services = self.plan.services.iter().zip(&self.config.services);
        let found = services.find(|(planned, _)| planned.entry.id == service);
        // Neither can be: it is a service of ours, and the peer has validated its names as we do.
        let (Some((_, configured)), Some(name)) = (found, TargetName::new(service, name, address, port))
        else {
            return Ok(None);
        };
        let forwarding = forwarding(configured.forward, (address, port), &self.config.datapath);
        let target = self.placement.target_of_peer(name, forwarding, self.datapath)?;
        if let TargetOfPeer::Introduced(target) = &target {
            self.has_introduced = true;
            self.network
                .insert(target, self.datapath)
                .map_err(|error| MirrorError::Network(chain(error.as_ref())))?;
        }
        Ok(target.id())
    }

    fn slot(&self, index: u32) -> Result<Slot, MirrorError> {
        Ok(self.datapath.slot(index)?)
    }

    fn store_slot(&mut self, index: u32, slot: Slot) -> Result<(), MirrorError> {
        Ok(self.datapath.store_slot(index, slot)?)
    }

    fn put_flow(
        &mut self,
        key: &FlowKey,
        record: FlowRecord,
        way: Option<WayToClient>,
    ) -> Result<bool, MirrorError> {
        Ok(self.tables.put_flow(key, record, way)?)
    }

    fn add_flow(
        &mut self,
        key: &FlowKey,
        record: FlowRecord,
        way: Option<WayToClient>,
    ) -> Result<Added, MirrorError> {
        Ok(self.tables.add_flow(key, record, way)?)
    }

    fn remove_flow(&mut self, key: &FlowKey) -> Result<(), MirrorError> {
        Ok(self.tables.remove_flow(key)?)
    }

    fn remove_unused_flow(&mut self, key: &FlowKey, since: u32) -> Result<bool, MirrorError> {
        Ok(self.tables.remove_unused_flow(key, since)?)
    }

    fn put_client(&mut self, key: &ClientKey, home: Affinity) -> Result<(), MirrorError> {
        Ok(self.tables.put_client(key, home)?)
    }

    fn add_client(&mut self, key: &ClientKey, home: Affinity) -> Result<bool, MirrorError> {
        Ok(self.tables.add_client(key, home)?)
    }

    fn remove_client(&mut self, key: &ClientKey) -> Result<(), MirrorError> {
        Ok(self.tables.remove_client(key)?)
    }

    fn flows_of(&self, services: &BTreeSet<u16>) -> Result<Vec<FlowKey>, MirrorError> {
        Ok(self.tables.flows_of(services)?)
    }

    fn clients_of(&self, services: &BTreeSet<u16>) -> Result<Vec<ClientKey>, MirrorError> {
        Ok(self.tables.clients_of(services)?)
    }

    fn note_flow(&mut self, key: &FlowKey, slot: u32) {
        self.placement.record_added(slot);
        self.tables.note_flow(key);
    }

    fn note_client(&mut self, key: &ClientKey) {
        self.tables.note_client(key);
    }

    fn now(&self) -> u32 {
        ticks()
    }
}
