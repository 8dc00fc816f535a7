//! What is different between two configurations, for whoever reloads, or would like to know what a reload would do.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use super::{
    config::{Backend, Config, Discovery, NeedsRestart, Service},
    placement::{FlowsTracked, Foreseen},
    prefix::Prefix,
    vrrp_changes::{VrrpChanges, vrrp_changes},
};

/// What a reload changes. Backends are written `service/backend`. Field names are a contract.
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
    /// Backends that get no new connections any more. Those that they have live on, unless they are given up.
    pub backends_removed: Vec<String>,
    /// Backends with another weight or tier.
    pub backends_changed: Vec<String>,
    /// How many slots the services have that stay.
    pub slots: u64,
    /// How many of these give their new connections to another backend at once.
    pub slots_moved: u64,
    /// The same by service: those of the new configuration in its order, then those that are removed.
    #[serde(default)]
    pub services: Vec<ServiceChanges>,
    /// VIPs that are new.
    #[serde(default)]
    pub vips_added: Vec<IpAddr>,
    /// VIPs that are no longer configured: taken off the host, if lb-ctl has added them.
    #[serde(default)]
    pub vips_removed: Vec<IpAddr>,
    /// VRRP instances that come, go, begin anew, or go on with other keys.
    #[serde(default)]
    pub vrrp: Vec<VrrpChanges>,
    /// Keys of `[datapath]` that a reload changes.
    #[serde(default)]
    pub datapath_changed: Vec<String>,
    /// Keys that only a restart can change. With any of them a reload is refused.
    #[serde(default)]
    pub needs_restart: Vec<NeedsRestart>,
}

/// What becomes of one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceChanges {
    /// Its name, the new one if it has another.
    pub name: String,
    /// Its virtual address.
    pub vip: IpAddr,
    /// Its port.
    pub port: u16,
    /// Whether it comes, goes or stays.
    pub fate: Fate,
    /// Its keys with another value, those of backends aside; `check` and `discovery` stand for
    /// all of theirs.
    pub keys_changed: Vec<String>,
    /// Backends that are new.
    pub backends_added: Vec<String>,
    /// Backends that are no longer configured.
    pub backends_removed: Vec<String>,
    /// Keys of backends with another value.
    pub backends_changed: Vec<BackendChange>,
    /// How many slots it has, if it stays; else 0, and so are the others.
    pub slots: u64,
    /// How many of them give their new connections to another backend at once.
    pub slots_moved: u64,
    /// The same once all backends that are new or have not been checked yet are up and have their whole weight.
    pub slots_moved_once_up: u64,
    /// How many become tracked at once.
    pub slots_tracked: u64,
    /// How many connections live in slots that become tracked; `null` if that is not known.
    pub flows_tracked: Option<FlowsTracked>,
}

/// Whether a service comes, goes or stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It is new.
    Added,
    /// It is gone, and its connections with it.
    Removed,
    /// It is there before and after.
    Stays,
}

/// A key of a backend with another value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendChange {
    /// The backend.
    pub name: String,
    /// The key: `weight` or `tier`.
    pub key: String,
    /// Its value before.
    pub before: u32,
    /// Its value after.
    pub after: u32,
}

impl Changes {
    /// What has to be changed to get from one configuration to the other. The slots are for the caller to [fill in](Self::foresee).
    ///
    /// A service is the same if it has the same VIP and port, a backend if it has the same name, address and port.
    pub fn between(before: &Config, after: &Config) -> Self {
        let key = |service: &Service| (service.vip, service.port);
        let earlier: BTreeMap<_, _> = before.services.iter().map(|it| (key(it), it)).collect();
        let kept: BTreeSet<_> = after.services.iter().map(key).collect();
        let mut services: Vec<ServiceChanges> = after
            .services
            .iter()
            .map(|service| ServiceChanges::between(earlier.get(&key(service)).copied(), service))
            .collect();
        let removed = before.services.iter().filter(|it| !kept.contains(&key(it)));
        services.extend(removed.map(|service| ServiceChanges::of(service, Fate::Removed)));

        let named = |fate: Fate| -> Vec<String> {
            let services = services.iter().filter(|it| it.fate == fate);
            services.map(|it| it.name.clone()).collect()
        };
        let changed = services.iter().filter(|it| !it.keys_changed.is_empty());
        let vips =
            |config: &Config| -> BTreeSet<IpAddr> { config.services.iter().map(|it| it.vip).collect() };
        let (vips_before, vips_after) = (vips(before), vips(after));
        Self {
            services_added: named(Fate::Added),
            services_removed: named(Fate::Removed),
            services_changed: changed.map(|it| it.name.clone()).collect(),
            backends_added: backends(&services, |it| it.backends_added.iter().collect()),
            backends_removed: backends(&services, |it| it.backends_removed.iter().collect()),
            backends_changed: backends(&services, |it| {
                let mut changed: Vec<&String> =
                    it.backends_changed.iter().map(|change| &change.name).collect();
                changed.dedup();
                changed
            }),
            slots: 0,
            slots_moved: 0,
            vips_added: vips_after.difference(&vips_before).copied().collect(),
            vips_removed: vips_before.difference(&vips_after).copied().collect(),
            vrrp: vrrp_changes(&before.vrrp, &after.vrrp),
            datapath_changed: datapath_changed(before, after),
            needs_restart: Vec::new(),
            services,
        }
    }

    /// Takes in what becomes of the slots of a service, named by its place in the new configuration. `connections` tells how many connections
    /// a target has, if that is known.
    pub fn foresee(
        &mut self,
        place: usize,
        at_once: &Foreseen,
        once_up: &Foreseen,
        connections: impl Fn(u16) -> Option<u64>,
    ) {
        let Some(service) = self.services.get_mut(place) else {
            return;
        };
        service.slots = at_once.moved.slots;
        service.slots_moved = at_once.moved.moved;
        service.slots_moved_once_up = once_up.moved.moved;
        service.slots_tracked = at_once.moved.tracked;
        service.flows_tracked = at_once.flows_tracked(connections);
        self.slots += at_once.moved.slots;
        self.slots_moved += at_once.moved.moved;
    }
}

/// Backends of services that stay, as `service/backend`.
fn backends(services: &[ServiceChanges], of: impl Fn(&ServiceChanges) -> Vec<&String>) -> Vec<String> {
    let staying = services.iter().filter(|it| it.fate == Fate::Stays);
    let names = staying.flat_map(|it| of(it).into_iter().map(|name| format!("{}/{name}", it.name)));
    names.collect()
}

impl ServiceChanges {
    fn of(service: &Service, fate: Fate) -> Self {
        let names = || service.backends.iter().map(|it| it.name.clone()).collect();
        Self {
            name: service.name.clone(),
            vip: service.vip,
            port: service.port,
            fate,
            keys_changed: Vec::new(),
            backends_added: if fate == Fate::Added { names() } else { Vec::new() },
            backends_removed: if fate == Fate::Removed {
                names()
            } else {
                Vec::new()
            },
            backends_changed: Vec::new(),
            slots: 0,
            slots_moved: 0,
            slots_moved_once_up: 0,
            slots_tracked: 0,
            flows_tracked: None,
        }
    }

    fn between(before: Option<&Service>, after: &Service) -> Self {
        let Some(before) = before else {
            return Self::of(after, Fate::Added);
        };
        let same = |one: &Backend, other: &Backend| {
            (&one.name, one.address, one.port) == (&other.name, other.address, other.port)
        };
        let missing = |from: &Service, others: &Service| -> Vec<String> {
            let is_there = |it: &Backend| others.backends.iter().any(|other| same(it, other));
            let missing = from.backends.iter().filter(|it| !is_there(it));
            missing.map(|it| it.name.clone()).collect()
        };
        let mut backends_changed = Vec::new();
        for backend in &after.backends {
            let Some(earlier) = before.backends.iter().find(|it| same(it, backend)) else {
                continue;
            };
            for (key, before, after) in [
                ("weight", earlier.weight, backend.weight),
                ("tier", earlier.tier.into(), backend.tier.into()),
            ] {
                if before != after {
                    backends_changed.push(BackendChange {
                        name: backend.name.clone(),
                        key: key.to_owned(),
                        before,
                        after,
                    });
                }
            }
        }
        Self {
            keys_changed: keys_changed(before, after),
            backends_added: missing(after, before),
            backends_removed: missing(before, after),
            backends_changed,
            ..Self::of(after, Fate::Stays)
        }
    }

    /// Whether a reload changes anything about it.
    pub fn is_changed(&self) -> bool {
        self.fate != Fate::Stays
            || !self.keys_changed.is_empty()
            || !self.backends_added.is_empty()
            || !self.backends_removed.is_empty()
            || !self.backends_changed.is_empty()
            || self.slots_moved > 0
    }
}

/// The keys of a service in which two differ, its backends aside, and the places in the file.
fn keys_changed(before: &Service, after: &Service) -> Vec<String> {
    // All fields are named, so that a new one is not forgotten.
    let Service {
        name,
        vip: _,
        port: _,
        forward,
        affinity,
        affinity_timeout,
        balance,
        no_backend,
        allow,
        check,
        health,
        discovery,
        backends: _,
        vip_origin: _,
    } = after;
    // Their order says nothing.
    let prefixes = |list: &[Prefix]| -> HashSet<Prefix> { list.iter().copied().collect() };
    let keys = [
        ("name", before.name != *name),
        ("forward", before.forward != *forward),
        ("affinity", before.affinity != *affinity),
        ("affinity_timeout", before.affinity_timeout != *affinity_timeout),
        ("balance", before.balance != *balance),
        ("no_backend", before.no_backend != *no_backend),
        ("allow", prefixes(&before.allow) != prefixes(allow)),
        ("check", before.check != *check),
        (
            "discovery",
            !is_same_discovery(before.discovery.as_ref(), discovery.as_ref()),
        ),
        (
            "min_healthy",
            before.health.selection.min_healthy != health.selection.min_healthy,
        ),
        (
            "failback",
            before.health.selection.failback != health.selection.failback,
        ),
        ("slow_start", before.health.slow_start != health.slow_start),
        ("on_down", before.health.on_down != health.on_down),
    ];
    written(&keys)
}

/// The keys of `[datapath]` that a reload changes.
fn datapath_changed(before: &Config, after: &Config) -> Vec<String> {
    let (before, after) = (&before.datapath, &after.datapath);
    written(&[
        (
            "datapath.ipip_source_ipv4",
            before.ipip_source_ipv4 != after.ipip_source_ipv4,
        ),
        (
            "datapath.ipip_source_ipv6",
            before.ipip_source_ipv6 != after.ipip_source_ipv6,
        ),
        (
            "datapath.flow_idle_timeout",
            before.flow_idle_timeout != after.flow_idle_timeout,
        ),
    ])
}

/// The keys that are said to have changed.
fn written(keys: &[(&str, bool)]) -> Vec<String> {
    let changed = keys.iter().filter(|(_, changed)| *changed);
    changed.map(|(key, _)| (*key).to_owned()).collect()
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
        let fates: Vec<_> = changes
            .services
            .iter()
            .map(|it| (it.name.as_str(), it.fate))
            .collect();
        assert_eq!(
            fates,
            [
                ("renamed", Fate::Stays),
                ("new", Fate::Added),
                ("old", Fate::Removed)
            ]
        );
        let service = &changes.services[0];
        assert_eq!(service.keys_changed, ["name"]);
        let change = &service.backends_changed[0];
        assert_eq!(
            (change.key.as_str(), change.before, change.after),
            ("weight", 1, 5)
        );
        assert_eq!(
            changes.vips_removed,
            [] as [IpAddr; 0],
            "the other service has it"
        );
    }

    #[test]
    fn vips_come_and_go_with_their_last_service() {
        let before = service("s", 1, &[("a", 1, 1)]);
        let after = before.replace("10.0.0.99", "10.0.0.98");
        let changes = Changes::between(&config(&before), &config(&after));
        assert_eq!(changes.vips_added, [IpAddr::from([10, 0, 0, 98])]);
        assert_eq!(changes.vips_removed, [IpAddr::from([10, 0, 0, 99])]);
        assert_eq!(changes.services_added, changes.services_removed);
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
            (
                "affinity = \"client\"",
                "affinity = \"client\"\naffinity_timeout = \"1h\"",
            ),
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
        let changes = Changes::between(&config, &config);
        assert!(!changes.services[0].is_changed());
        let nothing = Changes {
            services: changes.services.clone(),
            ..Changes::default()
        };
        assert_eq!(changes, nothing);
    }
}
