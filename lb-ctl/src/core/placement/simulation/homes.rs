//! Where clients of the service with affinity are at home, as they would tell themselves: nobody has counted on the balancer's tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::{
    layout::{ServiceKey, TargetName},
    slot_rule::{IDLE, Records as _},
};

use super::{AFFINE, Client, World, clients::client_address, configuration::service_address, kernel::Kernel};

/// The clients that have been there.
#[derive(Clone, Debug, Default)]
pub(super) struct Homes(BTreeMap<IpAddr, Home>);

#[derive(Clone, Debug, Default)]
struct Home {
    /// Who serves the client, and when it sent a packet there last.
    home: Option<(TargetName, u32)>,
    /// Who did, and was drained. Should that end before the next pass over what is noted, the client may be at home there again.
    former: BTreeSet<TargetName>,
}

impl Homes {
    /// A backend that is drained is nobody's home any more.
    pub(super) fn leave_those_that_shed(&mut self, kernel: &Kernel) {
        for client in self.0.values_mut() {
            if let Some((target, _)) = client.home
                && !kernel.takes_new_flows(&target)
            {
                client.home = None;
                client.former.insert(target);
            }
        }
    }

    /// A pass over what is noted has forgotten who was at home on a backend that is drained.
    pub(super) fn forget_those_that_shed(&mut self, kernel: &Kernel) {
        for client in self.0.values_mut() {
            client.former.retain(|target| kernel.takes_new_flows(target));
        }
    }
}

impl World {
    /// After how many ticks a client of the service with affinity may be sent elsewhere.
    fn affinity_timeout(&self) -> Option<u32> {
        let address = service_address(AFFINE);
        let key = ServiceKey::tcp(address.ip().into(), address.port());
        self.kernel
            .tables
            .services
            .get(&key)
            .map(|service| service.affinity_timeout)
    }

    /// The backends of which one must get a SYN of this client. `None` if any may: nobody is its home, or records say where its
    /// port's connection is, or they are running short.
    pub(super) fn homes_for_a_new_connection(&self, client: Client) -> Option<BTreeSet<TargetName>> {
        if client.0 != AFFINE || self.kernel.tables.short {
            return None;
        }
        let (key, _) = self.key(client)?;
        let tables = &self.kernel.tables;
        let is_in_use = tables
            .flow(&key)
            .is_some_and(|record| record.closing == 0 && tables.now.wrapping_sub(record.last_seen) <= IDLE);
        if is_in_use || tables.half_open(&key).is_some() {
            return None;
        }
        let Home { home, former } = self.homes.0.get(&client_address(client.1).ip())?;
        let (target, last_seen) = (*home)?;
        if tables.now.wrapping_sub(last_seen) > self.affinity_timeout()? {
            return None;
        }
        let mut homes = former.clone();
        homes.insert(target);
        Some(homes)
    }

    /// A packet of a connection of this client went to a backend.
    pub(super) fn show(&mut self, client: Client, target: TargetName) {
        let Some(timeout) = self.affinity_timeout().filter(|_| client.0 == AFFINE) else {
            return;
        };
        if !self.kernel.takes_new_flows(&target) {
            return;
        }
        let now = self.kernel.tables.now;
        let known = self.homes.0.entry(client_address(client.1).ip()).or_default();
        let stays_elsewhere = known
            .home
            .is_some_and(|(home, last_seen)| home != target && now.wrapping_sub(last_seen) <= timeout);
        if !stays_elsewhere {
            known.home = Some((target, now));
            known.former.retain(|former| self.kernel.takes_new_flows(former));
        }
    }
}
