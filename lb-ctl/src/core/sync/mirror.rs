//! Our tables, as far as the owner says how they are.

use std::{collections::BTreeSet, net::IpAddr};

use lb_common::layout::{Affinity, ClientKey, FlowKey, FlowRecord, Service, ServiceKey, Slot};

use super::wire::WayToClient;

/// What has become of the record of a flow that was to be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It is there.
    New,
    /// There is one already.
    Present,
    /// There is no room for it.
    NoRoom,
}

/// Where what the peer tells is written.
pub trait Mirror {
    /// Why it cannot be.
    type Error;
    /// Our own service at an address, if we have it and the peer may own it as well as we.
    fn shared(&self, key: &ServiceKey) -> Option<Service>;
    /// The same if we do not own it ourselves.
    fn followed(&self, key: &ServiceKey) -> Option<Service>;
    /// The id of a backend of our own service, which it gets if it has none; `None` if there is no room for it. Asked for again in each
    /// [batch](super::Inbox::apply) that refers to the backend: ids of backends that nothing names any more become other backends'.
    fn target(
        &mut self,
        service: u16,
        name: &str,
        address: IpAddr,
        port: u16,
    ) -> Result<Option<u16>, Self::Error>;
    /// A slot, by its place in the table.
    fn slot(&self, index: u32) -> Result<Slot, Self::Error>;
    /// Writes a slot, by its place in the table.
    fn store_slot(&mut self, index: u32, slot: Slot) -> Result<(), Self::Error>;
    /// Writes the established record of a flow, and its way back if it is translated, on one of our own interfaces. Returns whether there
    /// was room.
    fn put_flow(
        &mut self,
        key: &FlowKey,
        record: FlowRecord,
        way: Option<WayToClient>,
    ) -> Result<bool, Self::Error>;
    /// The same of a flow that may have a record, and of a port that another flow may have: then these stay.
    fn add_flow(
        &mut self,
        key: &FlowKey,
        record: FlowRecord,
        way: Option<WayToClient>,
    ) -> Result<Added, Self::Error>;
    /// Deletes the record of a flow, if it has one.
    fn remove_flow(&mut self, key: &FlowKey) -> Result<(), Self::Error>;
    /// Deletes the record of a flow, if it has one that has not been used since then, in ticks. Returns whether it has none any more.
    fn remove_unused_flow(&mut self, key: &FlowKey, since: u32) -> Result<bool, Self::Error>;
    /// Notes where a client is at home.
    fn put_client(&mut self, key: &ClientKey, home: Affinity) -> Result<(), Self::Error>;
    /// The same of a client of whom something may be noted: then that stays. Returns whether nothing was.
    fn add_client(&mut self, key: &ClientKey, home: Affinity) -> Result<bool, Self::Error>;
    /// Deletes what is noted of a client, if anything is.
    fn remove_client(&mut self, key: &ClientKey) -> Result<(), Self::Error>;
    /// All flows of these services that have an established record.
    fn flows_of(&self, services: &BTreeSet<u16>) -> Result<Vec<FlowKey>, Self::Error>;
    /// All clients of these services of whom something is noted.
    fn clients_of(&self, services: &BTreeSet<u16>) -> Result<Vec<ClientKey>, Self::Error>;
    /// Has a flow that was added told on, as if it had begun here. Its slot, by its place in the table, does not settle without a look at that.
    fn note_flow(&mut self, key: &FlowKey, slot: u32);
    /// Has told on where a client is at home.
    fn note_client(&mut self, key: &ClientKey);
    /// The time, in ticks.
    fn now(&self) -> u32;
}
