//! A batch of items that becomes as long as a message may be, and slots on their way into it.

use super::wire::{BATCH, Item, RUNS, Run};

/// How many bytes a run of slots takes at most.
pub(super) const RUN: usize = 18;

/// Items for one message.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) items: Vec<Item>,
    /// How many bytes they take at most.
    size: usize,
}

impl Batch {
    pub(super) fn push(&mut self, item: Item) {
        self.size += item.size();
        self.items.push(item);
    }

    pub(super) const fn is_full(&self) -> bool {
        self.size >= BATCH
    }

    pub(super) const fn is_half_full(&self) -> bool {
        self.size >= BATCH / 2
    }

    /// Whether a quarter of it is left.
    pub(super) const fn is_nearly_full(&self) -> bool {
        self.size >= BATCH / 4 * 3
    }

    pub(super) const fn is_full_with(&self, runs: &Runs) -> bool {
        self.size + runs.told.len() * RUN >= BATCH
    }
}

/// Slots of a service on their way into a batch.
#[derive(Debug)]
pub(super) struct Runs {
    service: u16,
    first: u32,
    /// The slot after the last one.
    next: u32,
    told: Vec<Run>,
}

impl Runs {
    pub(super) const fn of(service: u16) -> Self {
        Self {
            service,
            first: 0,
            next: 0,
            told: Vec::new(),
        }
    }

    /// Adds a slot behind all that have been added.
    pub(super) fn add(&mut self, place: u32, run: Run, batch: &mut Batch) {
        let is_next = place == self.next && self.told.len() < RUNS;
        if !is_next {
            self.finish(batch);
        }
        match self.told.last_mut() {
            Some(last) if Run { length: 1, ..*last } == run => last.length += 1,
            last => {
                if last.is_none() {
                    self.first = place;
                }
                self.told.push(run);
            }
        }
        self.next = place.saturating_add(1);
    }

    pub(super) fn finish(&mut self, batch: &mut Batch) {
        if !self.told.is_empty() {
            batch.push(Item::Slots {
                service: self.service,
                first: self.first,
                runs: std::mem::take(&mut self.told),
            });
        }
    }
}
