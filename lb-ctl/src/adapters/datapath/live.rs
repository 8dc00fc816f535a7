//! The maps in the kernel as the tables of a decision, for looking and not for forwarding.

use std::cell::{Cell, OnceCell};

use aya::maps::MapError;
use lb_common::{
    address::Address,
    decision::{Memory, Tables},
    layout::{
        Affinity, ClientKey, FlowKey, FlowRecord, HalfOpen, Live, Node, Service, ServiceKey, SettledFlow,
        Slot, Target,
    },
    slot_rule::Records,
};

use super::{Datapath, error::DatapathError, memo::Memo};

/// The tables as they are when they are first looked at: what has been read stays the same until this is dropped.
pub struct LiveTables<'a> {
    datapath: &'a Datapath,
    services: Memo<ServiceKey, Service>,
    slots: Memo<u32, Slot>,
    targets: Memo<u16, Target>,
    live: Memo<u16, Live>,
    node: OnceCell<Option<Node>>,
    flows: Memo<FlowKey, FlowRecord>,
    half_open: Memo<FlowKey, HalfOpen>,
    settled_flows: Memo<FlowKey, SettledFlow>,
    affinity: Memo<ClientKey, Affinity>,
    short: OnceCell<bool>,
    now: u32,
    /// The first error.
    error: Cell<Option<DatapathError>>,
}

impl<'a> LiveTables<'a> {
    /// Reads nothing yet. `now` is the time in [ticks](lb_common::clock::ticks).
    pub fn of(datapath: &'a Datapath, now: u32) -> Self {
        Self {
            datapath,
            services: Memo::new(),
            slots: Memo::new(),
            targets: Memo::new(),
            live: Memo::new(),
            node: OnceCell::new(),
            flows: Memo::new(),
            half_open: Memo::new(),
            settled_flows: Memo::new(),
            affinity: Memo::new(),
            short: OnceCell::new(),
            now,
            error: Cell::new(None),
        }
    }

    /// Whether everything could be read. What could not was taken to be absent.
    pub fn finish(self) -> Result<(), DatapathError> {
        self.error.into_inner().map_or(Ok(()), Err)
    }

    fn noted<T>(&self, result: Result<Option<T>, DatapathError>) -> Option<T> {
        result.unwrap_or_else(|error| {
            let first = self.error.take();
            self.error.set(first.or(Some(error)));
            None
        })
    }
}

impl Tables for LiveTables<'_> {
    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.services
            .get(*key, |key| self.noted(self.datapath.service(*key)))
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        let slot = self
            .slots
            .get(index, |&index| self.noted(self.datapath.slot(index).map(Some)));
        slot.copied()
    }

    fn node(&self) -> Option<&Node> {
        self.node
            .get_or_init(|| self.noted(self.datapath.node().map(Some)))
            .as_ref()
    }

    fn target(&self, id: u16) -> Option<&Target> {
        self.targets.get(id, |&id| match self.datapath.target(id) {
            Err(DatapathError::Map(MapError::OutOfBounds { .. })) => None,
            result => self.noted(result.map(Some)),
        })
    }

    fn live(&self, id: u16) -> Live {
        let live = self.live.get(id, |&id| Some(self.datapath.live(id)));
        live.copied().unwrap_or_default()
    }

    fn allows(&self, service: u16, client: Address) -> bool {
        self.noted(self.datapath.is_allowed(service, client).map(Some))
            .unwrap_or_default()
    }

    /// Forgets: no packet has come.
    fn remember(&self, _: &Memory) {}

    /// Forgets likewise.
    fn note_client(&self, _: &ClientKey, _: &Affinity, _: bool) {}
}

impl Records for LiveTables<'_> {
    fn flow(&self, key: &FlowKey) -> Option<&FlowRecord> {
        self.flows
            .get(*key, |key| self.noted(self.datapath.flow_record(*key)))
    }

    fn half_open(&self, key: &FlowKey) -> Option<&HalfOpen> {
        self.half_open
            .get(*key, |key| self.noted(self.datapath.half_open_record(*key)))
    }

    fn settled_flow(&self, key: &FlowKey) -> Option<&SettledFlow> {
        self.settled_flows
            .get(*key, |key| self.noted(self.datapath.settled_flow(*key)))
    }

    fn affinity(&self, key: &ClientKey) -> Option<&Affinity> {
        self.affinity
            .get(*key, |key| self.noted(self.datapath.affinity(*key)))
    }

    fn now(&self) -> u32 {
        self.now
    }

    fn is_short(&self) -> bool {
        *self.short.get_or_init(|| {
            let short = self.noted(self.datapath.are_records_short().map(Some));
            short.unwrap_or_default()
        })
    }

    fn is_alive(&self, target: u16) -> bool {
        self.target(target).is_some_and(Target::is_alive)
    }

    fn takes_new_flows(&self, target: u16) -> bool {
        self.target(target).is_some_and(Target::takes_new_flows)
    }
}
