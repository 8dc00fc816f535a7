//! What the hands report: what the host looks like, what has been done, and who has waited for that.

use std::collections::BTreeMap;

use super::{Driver, Left, Report, Running, instance};
use crate::core::vrrp::Place;

impl Driver {
    pub(super) fn on_report(&mut self, report: Report) {
        match report {
            Report::Looked { surroundings, opened } => {
                self.surroundings = Some(surroundings);
                for (id, opened) in opened {
                    match instance(&mut self.groups, &mut self.beginning, id) {
                        Some(instance) => instance.open(opened, &self.hands),
                        // It has gone meanwhile.
                        None => opened.into_iter().for_each(|opened| self.hands.close(opened)),
                    }
                }
                self.examine();
            }
            Report::There(place) => self
                .groups
                .iter_mut()
                .for_each(|running| running.take_in_one(place)),
            Report::Settled {
                round,
                there,
                not_added,
                not_removed,
            } => {
                let now = self.now();
                for running in &mut self.groups {
                    running.settled(&there, &not_added, &not_removed, now);
                }
                self.hands_are_done(round);
                self.examine();
                self.settled(round, &not_removed);
            }
            Report::Blind { round, cause } => {
                tracing::error!("VRRP cannot see the host: {cause}");
                // Groups begin without an open interface: at fault.
                self.begin(round);
                // Hooks wait: nothing has been done, and it is tried again.
                self.answer(round, &Err(cause));
            }
        }
    }

    fn hands_are_done(&mut self, round: u64) {
        // What has ended was before what is there now.
        for running in self.ended.iter_mut().chain(&mut self.groups) {
            running.hands_are_done(round);
        }
        self.ended.retain(Running::has_notices);
    }

    /// Hooks need not wait for them any more.
    pub(super) fn hands_are_gone(&mut self) {
        for running in self.ended.iter_mut().chain(&mut self.groups) {
            running.hands_are_gone();
        }
        self.ended.clear();
    }

    fn settled(&mut self, round: u64, not_removed: &BTreeMap<Place, String>) {
        self.begin(round);
        let left = match not_removed.first_key_value() {
            None => Ok(()),
            Some((place, cause)) => {
                let what = format!("{} could not be taken off: {cause}", place.address);
                if self.groups.iter().all(|running| !running.has(*place)) {
                    tracing::warn!("{what}; it is tried again");
                }
                Err(what)
            }
        };
        self.answer(round, &left);
    }

    /// Tells those who have waited for this round.
    fn answer(&mut self, round: u64, left: &Left) {
        let (due, later) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(wanted, _)| *wanted <= round);
        self.waiting = later;
        self.publish();
        for (_, waiting) in due {
            // Whoever asked may have gone.
            let _ = waiting.send(left.clone());
        }
    }
}
