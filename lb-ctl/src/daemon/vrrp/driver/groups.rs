//! Which groups there are: those that are configured begin, go on and end, and an operator hands them over.

use super::{super::instance::Instance, Driver, Running};
use crate::{
    adapters::api::server::Refusal,
    core::config::{Vrrp, same_routers, vrrp_groups},
};

impl Driver {
    pub(super) fn follow(&mut self, configured: Vec<Vrrp>) {
        self.order = configured.iter().map(|instance| instance.name.clone()).collect();
        self.dependencies.track(&configured);
        let mut groups = vrrp_groups(configured);
        let now = self.now();
        for mut running in std::mem::take(&mut self.groups) {
            let same = groups
                .iter()
                .position(|group| same_routers(running.configs(), group));
            if let Some(place) = same {
                running.reconfigure(groups.swap_remove(place), now);
                running.set_grace(self.grace);
                running.take_in_knowledge(&self.dependencies.knowledge, now);
                self.groups.push(running);
            } else {
                running.stop(now);
                self.yielded.extend(running.yielded());
                self.end(running);
            }
        }
        // Those that have not begun have nothing to lose.
        for (_, mut instances) in std::mem::take(&mut self.beginning) {
            for instance in &mut instances {
                instance.close(&self.hands);
            }
        }
        for group in groups {
            let instances = group.into_iter().map(|config| {
                self.next_id += 1;
                Instance::new(self.next_id, config)
            });
            let instances = instances.collect();
            self.beginning.push((self.round + 1, instances));
        }
        self.examine();
        self.publish();
    }

    /// Groups begin that have waited for this round.
    pub(super) fn begin(&mut self, round: u64) {
        let (due, later) = std::mem::take(&mut self.beginning)
            .into_iter()
            .partition(|(begins_in, _)| *begins_in <= round);
        self.beginning = later;
        for (_, mut instances) in due {
            if let Some(surroundings) = &self.surroundings {
                for instance in &mut instances {
                    instance.conditions =
                        instance.examine(surroundings, &self.dependencies, &self.shared, &self.hands);
                }
            }
            let now = self.now();
            if let Some(mut running) = Running::begin(instances, self.notifier.clone(), now) {
                running.set_grace(self.grace);
                running.take_in_knowledge(&self.dependencies.knowledge, now);
                running.take_in_yielded(&self.yielded);
                // Of those that had its names, if the hands have not been able to do what they were to.
                let mut ended = self.ended.iter().flat_map(Running::names);
                if ended.any(|name| running.names().any(|own| own == name)) {
                    running.hold_back_hooks(round);
                }
                self.groups.push(running);
            }
        }
        // How it goes on with them they know by themselves.
        if self.beginning.is_empty() {
            self.yielded.clear();
        }
    }

    pub(super) fn hand_over(&mut self, wanted: Option<&str>) -> Result<Vec<String>, Refusal> {
        let now = self.now();
        let mut handed_over = Vec::new();
        let mut states = Vec::new();
        for running in &mut self.groups {
            let names: Vec<String> = running.names().map(ToOwned::to_owned).collect();
            if wanted.is_some_and(|wanted| names.iter().all(|name| name != wanted)) {
                continue;
            }
            match running.hand_over(now) {
                Ok(()) => handed_over.extend(names),
                Err(not_master) => states.push(not_master),
            }
        }
        match (wanted, states.first()) {
            _ if !handed_over.is_empty() => Ok(handed_over),
            (Some(wanted), None) => Err(Refusal::Usage(format!(
                "expected the name of an instance, found {wanted:?}; `lb-ctl vrrp` lists them"
            ))),
            (_, Some(not_master)) => Err(Refusal::Declined(not_master.to_string())),
            (None, None) => Err(Refusal::Usage(
                "there is nothing to hand over: no [[vrrp]] is configured".into(),
            )),
        }
    }

    /// A group has stopped. Its hooks hear of it when the hands have done what is told them next.
    pub(super) fn end(&mut self, mut running: Running) {
        running.close(&self.hands);
        if running.hands_are_needed() {
            running.hands_work(self.round + 1);
        }
        self.ended.push(running);
    }
}
