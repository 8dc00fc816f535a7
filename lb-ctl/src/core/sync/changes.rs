//! What has changed since somebody looked: noted by whoever writes to the tables, taken by whoever tells the peer.

use std::ops::Range;

use lb_common::layout::{ClientKey, FlowKey};

/// How many flows and clients are noted one by one. Beyond that all count as changed.
const ROOM: usize = 65_536;

/// How many ranges of slots are noted.
const RANGES: usize = 65_536;

/// What has changed; never how, which is looked up when it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Ranges of the table of slots.
    pub(super) slots: Vec<Range<u32>>,
    /// Flows whose established records have begun, ended, or are closing.
    pub(super) flows: Vec<FlowKey>,
    /// Clients of whom something was noted or is noted no more.
    pub(super) clients: Vec<ClientKey>,
    /// More than was noted: anything may have changed.
    pub(super) anything: bool,
}

impl Changes {
    /// Notes that a slot, by its place in the table, has changed.
    pub fn slot(&mut self, index: u32) {
        if self.anything {
            return;
        }
        let next = index.saturating_add(1);
        let is_full = self.slots.len() == RANGES;
        match self.slots.last_mut() {
            Some(last) if last.end == index => last.end = next,
            Some(last) if last.contains(&index) => {}
            _ if is_full => self.anything(),
            _ => self.slots.push(index..next),
        }
    }

    /// Notes that a flow's record has changed.
    pub fn flow(&mut self, key: FlowKey) {
        if self.flows.len() == ROOM {
            self.anything();
        }
        if !self.anything {
            self.flows.push(key);
        }
    }

    /// Notes that it has changed where a client is at home.
    pub fn client(&mut self, key: ClientKey) {
        if self.clients.len() == ROOM {
            self.anything();
        }
        if !self.anything {
            self.clients.push(key);
        }
    }

    /// Notes that anything may have changed: some news were lost.
    pub fn anything(&mut self) {
        *self = Self {
            anything: true,
            ..Self::default()
        };
    }

    /// Whether nothing has changed.
    pub const fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.flows.is_empty() && self.clients.is_empty() && !self.anything
    }

    /// The ranges of slots, by their places in the table.
    pub fn slots(&self) -> &[Range<u32>] {
        &self.slots
    }

    /// The flows, in the order in which they have changed.
    pub fn flows(&self) -> &[FlowKey] {
        &self.flows
    }

    /// The clients, likewise.
    pub fn clients(&self) -> &[ClientKey] {
        &self.clients
    }

    /// Whether anything may have changed; then nothing is named.
    pub const fn is_anything(&self) -> bool {
        self.anything
    }

    /// Takes what has been noted.
    #[must_use]
    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }
}

#[cfg(test)]
mod tests {
    use lb_common::address::Address;

    use super::*;

    #[test]
    fn slots_in_a_row_are_one_range() {
        let mut changes = Changes::default();
        for index in [5, 6, 7, 6, 9, 10, 5] {
            changes.slot(index);
        }
        assert_eq!(changes.slots, [5..8, 9..11, 5..6]);
    }

    #[test]
    fn more_than_there_is_room_for_is_anything() {
        let mut changes = Changes::default();
        changes.slot(1);
        for number in 0..=u16::MAX {
            changes.flow(FlowKey::new(Address::v4([10, 0, 0, 1]), number, 0));
        }
        assert!(!changes.anything);
        changes.flow(FlowKey::new(Address::v4([10, 0, 0, 2]), 1, 0));
        let expected = Changes {
            anything: true,
            ..Changes::default()
        };
        assert_eq!(changes, expected);
        changes.slot(7);
        assert_eq!(changes.take(), expected, "and stays so until it is taken");
        assert_eq!(changes, Changes::default());
    }
}
