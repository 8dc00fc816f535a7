//! The prefixes from which services may be used, brought from one configuration to the next.
//!
//! New ones go in before a service is restricted to them, and old ones out once no service is: whoever may use a service
//! before and after a change may use it meanwhile. So there must be room for both, which is known before anything is written.

use std::collections::BTreeSet;

use lb_common::layout::AllowedKey;

use super::{NoRoom, Placement, WriteTables};
use crate::core::plan::Plan;

/// The prefixes of all services of a plan.
pub(super) fn of(plan: &Plan) -> BTreeSet<AllowedKey> {
    let prefixes = plan.services.iter().flat_map(|service| &service.allowed);
    prefixes.copied().collect()
}

impl Placement {
    /// Whether the prefixes of a plan have room beside those that are there.
    pub(super) fn check_room_for_prefixes(&self, plan: &Plan) -> Result<(), NoRoom> {
        let (found, room) = (self.allowed.union(&of(plan)).count(), self.limits.prefixes);
        if found > room {
            return Err(NoRoom::Prefixes { found, room });
        }
        Ok(())
    }

    /// Adds prefixes that are not there.
    pub(super) fn allow<T: WriteTables>(
        &mut self,
        prefixes: &BTreeSet<AllowedKey>,
        tables: &mut T,
    ) -> Result<(), T::Error> {
        for prefix in prefixes {
            if !self.allowed.contains(prefix) {
                tables.allow(prefix)?;
                self.allowed.insert(*prefix);
            }
        }
        Ok(())
    }

    /// Takes away prefixes that are there.
    pub(super) fn disallow<T: WriteTables>(
        &mut self,
        is_over: impl Fn(&AllowedKey) -> bool,
        tables: &mut T,
    ) -> Result<(), T::Error> {
        let over: Vec<AllowedKey> = self
            .allowed
            .iter()
            .filter(|prefix| is_over(prefix))
            .copied()
            .collect();
        for prefix in over {
            tables.disallow(&prefix)?;
            self.allowed.remove(&prefix);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use lb_common::{
        decision::Tables as _,
        layout::{MAX_ALLOWED_PREFIXES, ServiceKey, flag},
    };
    use proptest::prelude::*;

    use super::super::simulation::kernel::Kernel;
    use super::*;
    use crate::core::{
        config::{self, Config, HostDefaults},
        plan::Shares,
        prefix::Prefix,
    };

    const VIP: &str = "192.0.2.10";
    const PORT: u16 = 21_000;

    /// A service that may be used from these prefixes of `10.0.0.0/8`; from everywhere if there are none.
    fn configuration(prefixes: &BTreeSet<u8>) -> Config {
        let list: Vec<String> = prefixes
            .iter()
            .map(|prefix| format!("\"10.{prefix}.0.0/16\""))
            .collect();
        let allow = if list.is_empty() {
            String::new()
        } else {
            format!("allow = [{}]\n", list.join(", "))
        };
        let text = format!(
            "[datapath]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"s\"\nvip = \"{VIP}\"\nport = {PORT}\n{allow}\
             [[service.backend]]\nname = \"b\"\naddress = \"192.0.2.100\"\n"
        );
        let host = HostDefaults {
            node_name: "lb".into(),
        };
        let mut config = config::parse("lb.toml", &text, &host).unwrap();
        config.datapath.slots_per_service = super::super::simulation::SLOTS;
        config.datapath.max_services = super::super::simulation::MAX_SERVICES;
        config.datapath.max_backends = super::super::simulation::MAX_BACKENDS;
        config
    }

    /// The service, used from so many networks, beginning with this one.
    fn networks(first: u32, number: u32) -> Config {
        let mut config = configuration(&BTreeSet::from([0]));
        let network = |number: u32| Prefix::of(IpAddr::from(((10 << 24) + (number << 8)).to_be_bytes()), 24);
        config.services[0].allow = (first..first + number).map(network).collect();
        config
    }

    #[test]
    fn the_longest_list_is_replaced_by_another_as_long_and_nothing_is_begun_that_has_no_room() {
        const MOST: u32 = MAX_ALLOWED_PREFIXES;
        let mut kernel = Kernel::new();
        assert!(configure(&mut kernel, &networks(0, MOST)));
        assert!(configure(&mut kernel, &networks(MOST, MOST)));
        assert_eq!(kernel.tables.allowed.len(), MOST as usize);

        // Killed before the old list has gone, and then there is a third one.
        kernel.writes_left = Some(MOST + 5);
        assert!(!configure(&mut kernel, &networks(0, MOST)));
        kernel.writes_left = None;
        let full = kernel.tables.allowed.len();
        assert!(full > MOST as usize + 1);
        let placement = Placement::adopt(&networks(0, 1).datapath, &kernel.found()).unwrap();
        let third = networks(2 * MOST, MOST);
        assert_eq!(
            placement.check_room(&third),
            Err(NoRoom::Prefixes {
                found: full + MOST as usize,
                room: 2 * MOST as usize
            })
        );
        // With the file as it was then it goes on.
        assert!(configure(&mut kernel, &networks(0, MOST)));
        assert!(configure(&mut kernel, &third));
        assert_eq!(kernel.tables.allowed.len(), MOST as usize);
    }

    /// Makes the tables what a configuration says, or is killed on the way.
    fn configure(kernel: &mut Kernel, config: &Config) -> bool {
        let mut placement = Placement::adopt(&config.datapath, &kernel.found()).unwrap();
        let plan = placement.plan(config, &Shares::configured(config)).unwrap();
        placement.introduce(&plan, kernel).is_ok() && placement.apply(&plan, 0, kernel).is_ok()
    }

    /// Whether the kernel program serves a client in this prefix.
    fn serves(kernel: &Kernel, prefix: u8) -> bool {
        let key = ServiceKey::tcp(VIP.parse::<IpAddr>().unwrap().into(), PORT);
        let service = kernel.tables.services[&key];
        let client = IpAddr::from([10, prefix, 0, 1]).into();
        service.flags & flag::RESTRICTED == 0 || kernel.tables.allows(service.id, client)
    }

    proptest! {
        #[test]
        fn who_may_use_a_service_before_and_after_may_use_it_meanwhile(
            before in proptest::collection::btree_set(0u8..8, 0..6),
            after in proptest::collection::btree_set(0u8..8, 0..6),
            writes in 0u32..20,
        ) {
            let may = |prefixes: &BTreeSet<u8>, prefix| prefixes.is_empty() || prefixes.contains(&prefix);
            let mut kernel = Kernel::new();
            prop_assert!(configure(&mut kernel, &configuration(&before)));
            kernel.writes_left = Some(writes);
            let is_complete = configure(&mut kernel, &configuration(&after));
            kernel.writes_left = None;
            for prefix in 0..8 {
                if may(&before, prefix) && may(&after, prefix) {
                    prop_assert!(serves(&kernel, prefix), "10.{}.0.0/16", prefix);
                }
            }
            if !is_complete {
                prop_assert!(configure(&mut kernel, &configuration(&after)));
            }
            for prefix in 0..8 {
                prop_assert_eq!(serves(&kernel, prefix), may(&after, prefix), "10.{}.0.0/16", prefix);
            }
            prop_assert_eq!(kernel.tables.allowed.len(), after.len(), "nothing is left of what was before");
        }
    }
}
