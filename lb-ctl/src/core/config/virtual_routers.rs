//! Which instances move together, and which of them are the same virtual routers in another configuration.

use std::{collections::BTreeSet, num::NonZeroU8};

use super::Vrrp;

/// The instances by group, in the order of their first ones. One without a group moves by itself.
pub fn vrrp_groups(instances: impl IntoIterator<Item = Vrrp>) -> Vec<Vec<Vrrp>> {
    let mut groups: Vec<Vec<Vrrp>> = Vec::new();
    for instance in instances {
        let with = |group: &&mut Vec<Vrrp>| {
            let mut members = group.iter();
            members.any(|it| it.group.is_some() && it.group == instance.group)
        };
        match groups.iter_mut().find(with) {
            Some(group) => group.push(instance),
            None => groups.push(vec![instance]),
        }
    }
    groups
}

/// Whether these are the same virtual routers, whatever else is configured and in whatever order: a master stays master.
pub fn same_routers<'v>(
    some: impl IntoIterator<Item = &'v Vrrp>,
    others: impl IntoIterator<Item = &'v Vrrp>,
) -> bool {
    routers(some) == routers(others)
}

fn routers<'v>(
    instances: impl IntoIterator<Item = &'v Vrrp>,
) -> BTreeSet<(&'v str, &'v str, NonZeroU8, bool, bool)> {
    let instances = instances.into_iter();
    instances
        .map(|it| {
            let (name, interface) = (it.name.as_str(), it.interface.as_str());
            (name, interface, it.vrid, it.is_ipv4(), it.has_virtual_mac)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::config::examples::with_vrrp;

    fn instances(text: &str) -> Vec<Vrrp> {
        with_vrrp(text).vrrp
    }

    fn instance(name: &str, vrid: u8, address: &str, more: &str) -> String {
        format!("[[vrrp]]\nname = \"{name}\"\nvrid = {vrid}\naddresses = [\"{address}\"]\n{more}\n")
    }

    #[test]
    fn a_virtual_router_is_the_same_whatever_it_is_told_to_do() {
        let both = |first: &str, second: &str| instances(&format!("{first}{second}"));
        let (a, b) = (instance("a", 1, "10.0.0.2", ""), instance("b", 2, "10.0.0.3", ""));
        let before = both(&a, &b);
        let same = [
            both(&b, &a),
            both(
                &instance("a", 1, "10.0.0.77", "priority = 7\nchecksum = \"rfc5798\""),
                &instance(
                    "b",
                    2,
                    "10.0.0.3",
                    "unicast_peers = [\"10.0.0.8\"]\nunicast_hop_limit = 9",
                ),
            ),
        ];
        for same in &same {
            assert!(same_routers(&before, same));
        }
        let others = [
            both(&a, &instance("c", 2, "10.0.0.3", "")),
            both(&a, &instance("b", 3, "10.0.0.3", "")),
            both(&a, &instance("b", 2, "2001:db8::3", "")),
            both(&a, &instance("b", 2, "10.0.0.3", "interface = \"eth1\"")),
            both(&a, &instance("b", 2, "10.0.0.3", "virtual_mac = true")),
            instances(&a),
        ];
        for other in &others {
            assert!(!same_routers(&before, other), "{other:?}");
        }
    }

    #[test]
    fn groups_are_as_written_and_who_has_none_is_alone() {
        let group = "group = \"g\"";
        let text = [
            instance("a", 1, "10.0.0.2", group),
            instance("b", 2, "10.0.0.3", ""),
            instance("c", 3, "10.0.0.4", group),
            instance("d", 4, "10.0.0.5", ""),
        ];
        let groups = vrrp_groups(instances(&text.concat()));
        let names: Vec<Vec<&str>> = groups
            .iter()
            .map(|group| group.iter().map(|it| it.name.as_str()).collect())
            .collect();
        assert_eq!(names, [vec!["a", "c"], vec!["b"], vec!["d"]]);
    }
}
