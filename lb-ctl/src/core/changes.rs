//! What is different between two configurations, for whoever reloads.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use super::{
    config::{Backend, Config, Discovery, Service},
    prefix::Prefix,
};

/// What a reload has changed. Backends are written `service/backend`. Field names are a contract.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Services that are new.
    pub services_added: Vec<String>,
    /// Services that are gone, and their connections with them.
    pub services_removed: Vec<String>,
    /// Services with another name, `allow` list, `no_backend`, or anything else that is theirs and not a backend's.
    #[serde(default)]
    pub services_changed: Vec<String>,
    /// Backends that are new, in services that are not.
    pub backends_added: Vec<String>,
    /// Backends that get no new connections any more. Those that they have live on.
    pub backends_removed: Vec<String>,
    /// Backends with another weight or tier.
    pub backends_changed: Vec<String>,
    /// How many slots the services have that stay.
    pub slots: u64,
    /// How many of these give their new connections to another backend now.
    pub slots_moved: u64,
}

impl Changes {
    /// What has to be changed to get from one configuration to the other. The slots are for the caller to fill in.
    ///
    /// A service is the same if it has the same VIP and port, a backend if it has the same name, address and port.
    pub fn between(before: &Config, after: &Config) -> Self {
        let mut changes = Self::default();
        let earlier: BTreeMap<_, _> = before.services.iter().map(|it| ((it.vip, it.port), it)).collect();
        for service in &after.services {
            match earlier.get(&(service.vip, service.port)) {
                None => changes.services_added.push(service.name.clone()),
                Some(earlier) => changes.compare(earlier, service),
            }
        }
        for service in &before.services {
            let stays = |it: &Service| (it.vip, it.port) == (service.vip, service.port);
            if !after.services.iter().any(stays) {
                changes.services_removed.push(service.name.clone());
            }
        }
        changes
    }

    fn compare(&mut self, before: &Service, after: &Service) {
        if !is_same_policy(before, after) {
            self.services_changed.push(after.name.clone());
        }
        let find = |service: &Service, backend: &Backend| {
            let same = |it: &&Backend| {
                (&it.name, it.address, it.port) == (&backend.name, backend.address, backend.port)
            };
            service.backends.iter().find(same).cloned()
        };
        for backend in &after.backends {
            let name = format!("{}/{}", after.name, backend.name);
            match find(before, backend) {
                None => self.backends_added.push(name),
                Some(earlier) if (earlier.weight, earlier.tier) != (backend.weight, backend.tier) => {
                    self.backends_changed.push(name);
                }
                Some(_) => {}
            }
        }
        for backend in &before.backends {
            if find(after, backend).is_none() {
                self.backends_removed
                    .push(format!("{}/{}", after.name, backend.name));
            }
        }
    }
}

/// Whether all is equal that a service says, its backends aside, and the places in the file where it says so.
fn is_same_policy(before: &Service, after: &Service) -> bool {
    // All fields are named, so that a new one is not forgotten.
    let Service {
        name,
        vip,
        port,
        forward,
        affinity,
        balance,
        no_backend,
        allow,
        check,
        health,
        discovery,
        backends: _,
        vip_origin: _,
    } = after;
    let earlier: HashSet<&Prefix> = before.allow.iter().collect();
    before.name == *name
        && before.vip == *vip
        && before.port == *port
        && before.forward == *forward
        && before.affinity == *affinity
        && before.balance == *balance
        && before.no_backend == *no_backend
        && before.check == *check
        && is_same_discovery(before.discovery.as_ref(), discovery.as_ref())
        && before.health == *health
        // Their order says nothing.
        && earlier == allow.iter().collect()
}

fn is_same_discovery(before: Option<&Discovery>, after: Option<&Discovery>) -> bool {
    match (before, after) {
        (Some(before), Some(after)) => {
            let origin = after.origin.clone();
            Discovery {
                origin,
                ..before.clone()
            } == *after
        }
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::config::{HostDefaults, parse};

    fn config(services: &str) -> Config {
        let text = format!("[datapath]\ninterfaces = [\"eth0\"]\n{services}");
        let host = HostDefaults {
            node_name: "lb".into(),
        };
        parse("lb.toml", &text, &host).unwrap()
    }

    fn service(name: &str, port: u16, backends: &[(&str, u8, u32)]) -> String {
        let backend = |(name, host, weight): &(&str, u8, u32)| {
            format!(
                "[[service.backend]]\nname = \"{name}\"\naddress = \"10.0.0.{host}\"\nweight = {weight}\n"
            )
        };
        let backends = backends.iter().map(backend).collect::<Vec<_>>().concat();
        format!("[[service]]\nname = \"{name}\"\nvip = \"10.0.0.99\"\nport = {port}\n{backends}")
    }

    #[test]
    fn services_and_backends_are_told_apart_by_what_connections_depend_on() {
        let before = service(
            "hs2",
            21050,
            &[("a", 1, 1), ("b", 2, 1), ("c", 3, 1), ("d", 4, 1)],
        ) + &service("old", 1, &[("a", 1, 1)]);
        let after = service(
            "renamed",
            21050,
            &[("a", 1, 1), ("b", 2, 5), ("c", 33, 1), ("e", 5, 1)],
        ) + &service("new", 2, &[("a", 1, 1)]);
        let changes = Changes::between(&config(&before), &config(&after));
        assert_eq!(changes.services_added, ["new"]);
        assert_eq!(changes.services_removed, ["old"]);
        assert_eq!(changes.services_changed, ["renamed"]);
        assert_eq!(changes.backends_added, ["renamed/c", "renamed/e"]);
        assert_eq!(changes.backends_removed, ["renamed/c", "renamed/d"]);
        assert_eq!(changes.backends_changed, ["renamed/b"]);
    }

    #[test]
    fn a_service_that_treats_clients_otherwise_has_changed() {
        let with = |key: &str| {
            config(&service("hs2", 21050, &[("a", 1, 1)]).replace("port", &format!("{key}\nport")))
        };
        let changed = |before, after| Changes::between(&with(before), &with(after)).services_changed;
        let lists = r#"allow = ["10.0.0.0/8", "192.0.2.7/32"]"#;
        for (before, after) in [
            ("", "no_backend = \"drop\""),
            ("", "on_down = \"keep\""),
            ("", "slow_start = \"30s\""),
            ("", lists),
            (lists, ""),
            (lists, r#"allow = ["10.0.0.0/8"]"#),
        ] {
            assert_eq!(changed(before, after), ["hs2"], "from {before:?} to {after:?}");
        }
        for (before, after) in [
            ("", "no_backend = \"reset\""),
            (lists, r#"allow = ["192.0.2.7/32", "10.0.0.0/8"]"#),
            ("", "\n\n# moved down"),
        ] {
            assert_eq!(changed(before, after), [""; 0], "from {before:?} to {after:?}");
        }
    }

    #[test]
    fn other_seeds_are_another_policy_and_the_same_on_another_line_are_not() {
        let with = |keys: &str| {
            let checked = format!("check.type = \"tcp\"\n{keys}\nport");
            config(&service("hs2", 21050, &[("a", 1, 1)]).replace("port", &checked))
        };
        let seeds = r#"discovery = { type = "impala", seeds = ["10.0.0.1", "10.0.0.2"] }"#;
        let changed =
            |before: &str, after: &str| Changes::between(&with(before), &with(after)).services_changed;
        assert_eq!(changed("", seeds), ["hs2"]);
        assert_eq!(changed(seeds, &seeds.replace("0.2", "0.3")), ["hs2"]);
        assert_eq!(changed(seeds, &format!("\n# moved down\n{seeds}")), [""; 0]);
    }

    #[test]
    fn the_same_configuration_changes_nothing() {
        let config = config(&service("hs2", 21050, &[("a", 1, 1)]));
        assert_eq!(Changes::between(&config, &config), Changes::default());
    }
}
