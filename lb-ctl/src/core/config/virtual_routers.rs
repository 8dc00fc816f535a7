//! Which instances move together, and which of them are the same virtual routers in another configuration.

use std::{collections::BTreeSet, net::IpAddr, num::NonZeroU8};

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

/// The instances that move when one does: it, and its group; all, if none is named.
pub fn moving_with<'a>(instances: &'a [Vrrp], name: Option<&'a str>) -> impl Iterator<Item = &'a Vrrp> {
    let named = instances.iter().find(|it| Some(it.name.as_str()) == name);
    let group = named.and_then(|it| it.group.as_ref());
    instances.iter().filter(move |it| {
        name.is_none_or(|name| it.name == name) || group.is_some() && it.group.as_ref() == group
    })
}

/// Whether these are the same virtual routers, whatever else is configured and in whatever order: a master stays master.
pub fn same_routers<'v>(
    some: impl IntoIterator<Item = &'v Vrrp>,
    others: impl IntoIterator<Item = &'v Vrrp>,
) -> bool {
    routers(some) == routers(others)
}

/// What is left of instances that are about to be followed by others, once these addresses have been given away: those that stay the same
/// virtual routers, without the addresses. One that has no other address keeps them, since there is no virtual router without.
pub fn once_given_away(present: &[Vrrp], next: &[Vrrp], given_away: &BTreeSet<IpAddr>) -> Vec<Vrrp> {
    let stays = |instance: &&Vrrp| next.iter().any(|it| same_routers([*instance], [it]));
    let mut left: Vec<Vrrp> = present.iter().filter(stays).cloned().collect();
    for instance in &mut left {
        let has_others = instance.addresses.iter().any(|it| !given_away.contains(it));
        instance
            .addresses
            .retain(|address| !has_others || !given_away.contains(address));
    }
    left
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
    fn who_stays_gives_away_addresses_but_not_its_last_one() {
        let two = instance("two", 1, "10.0.0.2", "").replace("10.0.0.2\"", "10.0.0.2\", \"10.0.0.12\"");
        let other = instance("other", 2, "10.0.0.3", "");
        let goes = instance("goes", 3, "10.0.0.4", "");
        let present = instances(&format!("{two}{other}{goes}"));
        // Both have another address from now on, which is none of the others' business yet.
        let next = instances(
            &format!("{two}{other}")
                .replace("10.0.0.2", "10.0.0.7")
                .replace("10.0.0.3", "10.0.0.8"),
        );
        let left = |given_away: &[&str]| -> Vec<String> {
            let given_away = given_away
                .iter()
                .map(|address| address.parse().unwrap())
                .collect();
            let left = once_given_away(&present, &next, &given_away);
            left.iter()
                .map(|it| format!("{} {:?}", it.name, it.addresses))
                .collect()
        };
        assert_eq!(
            left(&["10.0.0.4"]),
            ["two [10.0.0.2, 10.0.0.12]", "other [10.0.0.3]"]
        );
        assert_eq!(
            left(&["10.0.0.2", "10.0.0.3"]),
            ["two [10.0.0.12]", "other [10.0.0.3]"]
        );
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

    #[test]
    fn an_instance_moves_with_its_group() {
        let group = "group = \"g\"";
        let text = [("a", 1, group), ("b", 2, ""), ("c", 3, group), ("d", 4, "")]
            .map(|(name, vrid, more)| instance(name, vrid, &format!("10.0.0.{}", 10 + vrid), more));
        let instances = instances(&text.concat());
        let moving = |name| {
            let moving = moving_with(&instances, name);
            moving.map(|it| it.name.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(moving(Some("c")), ["a", "c"]);
        assert_eq!(
            moving(Some("b")),
            ["b"],
            "what is in no group is not in one with others"
        );
        assert_eq!(moving(None), ["a", "b", "c", "d"]);
        assert!(moving(Some("e")).is_empty());
    }
}
