//! The prefixes from which services may be used, brought from one configuration to the next.
//!
//! New ones go in before a service is restricted to them, and old ones out once no service is: whoever may use a service
//! before and after a change may use it meanwhile.

use std::collections::BTreeSet;

use lb_common::layout::AllowedKey;

use super::{Placement, WriteTables};
use crate::core::plan::Plan;

/// The prefixes of all services of a plan.
pub(super) fn of(plan: &Plan) -> BTreeSet<AllowedKey> {
    let prefixes = plan.services.iter().flat_map(|service| &service.allowed);
    prefixes.copied().collect()
}

impl Placement {
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
        layout::{ServiceKey, flag},
    };
    use proptest::prelude::*;

    use super::super::simulation::kernel::Kernel;
    use super::*;
    use crate::core::config::{self, Config, HostDefaults};

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

    /// Makes the tables what a configuration says, or is killed on the way.
    fn configure(kernel: &mut Kernel, config: &Config) -> bool {
        let mut placement = Placement::adopt(&config.datapath, &kernel.found()).unwrap();
        let plan = placement.plan(config).unwrap();
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
