//! A service that we own, and what of it is still to be told.

use std::collections::BTreeSet;

use lb_common::layout::{ClientKey, FlowKey, Service, ServiceKey};

use super::{batch::RUN, slot_set::SlotSet, wire::BATCH};

/// A service of ours.
#[derive(Clone, Debug)]
pub(super) struct Owned {
    pub(super) key: ServiceKey,
    pub(super) entry: Service,
    pub(super) is_introduced: bool,
    /// The slots that are to be told, counted from the service's first.
    pub(super) slots: SlotSet,
    pub(super) listing: Listing,
}

/// How far the peer has been told of what there was when we began with a service.
#[derive(Clone, Debug)]
pub(super) enum Listing {
    /// It is still to be listed.
    Due,
    /// It is listed, and these are still to be told.
    Underway(Listed),
    /// All of it, and the peer knows that this was all.
    Over,
}

/// The flows and clients of a service that are still to be told, because they were there.
#[derive(Clone, Debug, Default)]
pub(super) struct Listed {
    pub(super) flows: BTreeSet<FlowKey>,
    pub(super) clients: BTreeSet<ClientKey>,
}

impl Owned {
    /// A service of which the peer has not been told anything.
    pub(super) fn new(key: ServiceKey, entry: Service) -> Self {
        Self {
            key,
            entry,
            is_introduced: false,
            slots: SlotSet::full(entry.slots),
            listing: Listing::Due,
        }
    }

    /// The peer is to be told of all of it again.
    pub(super) fn begin_anew(&mut self) {
        *self = Self::new(self.key, self.entry);
    }

    /// What has been listed, and is still to be told.
    pub(super) const fn listed(&mut self) -> Option<&mut Listed> {
        match &mut self.listing {
            Listing::Underway(listed) => Some(listed),
            Listing::Due | Listing::Over => None,
        }
    }

    /// Whether its slots may be told: those of its flows have been that were there.
    pub(super) fn has_told_flows(&self) -> bool {
        match &self.listing {
            Listing::Due => false,
            Listing::Underway(listed) => listed.flows.is_empty(),
            Listing::Over => true,
        }
    }

    /// Whether the peer knows all its slots: what waits behind slots waits for all of the service.
    pub(super) fn is_settled(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether what waits behind slots may be told in a batch that has room for those that are still to be told.
    pub(super) fn is_nearly_settled(&self) -> bool {
        self.has_told_flows() && self.slots.len() * RUN <= BATCH
    }

    /// Whether the peer has been told everything, but that this was all.
    pub(super) fn is_complete(&self) -> bool {
        matches!(&self.listing, Listing::Underway(listed) if listed.flows.is_empty() && listed.clients.is_empty())
            && self.is_settled()
    }

    /// Whether the peer knows everything, but for flows and clients that have changed a moment ago.
    pub(super) fn is_told(&self) -> bool {
        self.is_introduced && self.is_settled() && matches!(self.listing, Listing::Over)
    }
}
