//! What a reload does to VRRP instances: which of them keep their state, whatever it is, and which begin anew.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::config::{Vrrp, same_routers, vrrp_groups};

/// What becomes of one instance that does not stay as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VrrpChanges {
    /// Its name.
    pub name: String,
    /// Whether it comes, goes, stays or begins anew.
    pub fate: VrrpFate,
    /// Its keys with another value, if it was there before.
    pub keys_changed: Vec<String>,
}

/// What becomes of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VrrpFate {
    /// It is new.
    Added,
    /// It is gone: as master it hands over.
    Removed,
    /// It keeps its state.
    Stays,
    /// It becomes another virtual router, or its group has other members: as master it hands over, and then it begins anew.
    Restarted,
}

/// The instances that a reload from one configuration to another changes: those of the new one in its order, then those that are gone.
pub fn vrrp_changes(before: &[Vrrp], after: &[Vrrp]) -> Vec<VrrpChanges> {
    let earlier = vrrp_groups(before.iter().cloned());
    let mut changes = Vec::new();
    for group in vrrp_groups(after.iter().cloned()) {
        let stays = earlier.iter().any(|earlier| same_routers(earlier, &group));
        changes.extend(group.iter().filter_map(|instance| {
            let earlier = before.iter().find(|it| it.name == instance.name);
            let keys_changed = earlier.map(|earlier| keys_changed(earlier, instance));
            let fate = match (earlier, stays) {
                (None, _) => VrrpFate::Added,
                (Some(_), true) => VrrpFate::Stays,
                (Some(_), false) => VrrpFate::Restarted,
            };
            let changes = VrrpChanges {
                name: instance.name.clone(),
                fate,
                keys_changed: keys_changed.unwrap_or_default(),
            };
            (changes.fate != VrrpFate::Stays || !changes.keys_changed.is_empty()).then_some(changes)
        }));
    }
    let place = |name: &str| after.iter().position(|it| it.name == name);
    changes.sort_by_key(|changes| place(&changes.name));
    let removed = before.iter().filter(|it| place(&it.name).is_none());
    changes.extend(removed.map(|instance| VrrpChanges {
        name: instance.name.clone(),
        fate: VrrpFate::Removed,
        keys_changed: Vec::new(),
    }));
    changes
}

/// The keys of an instance in which two differ. The order of addresses and peers says nothing.
fn keys_changed(before: &Vrrp, after: &Vrrp) -> Vec<String> {
    // All fields are named, so that a new one is not forgotten.
    let Vrrp {
        name: _,
        interface,
        vrid,
        addresses,
        source,
        audience,
        checksum,
        settings,
        policy,
        group,
        track,
        notify,
        has_virtual_mac,
    } = after;
    let addresses_before: BTreeSet<_> = before.addresses.iter().collect();
    let keys = [
        ("interface", before.interface != *interface),
        ("vrid", before.vrid != *vrid),
        ("addresses", addresses_before != addresses.iter().collect()),
        ("source", before.source != *source),
        ("priority", before.settings.priority != settings.priority),
        ("advert_interval", before.settings.interval != settings.interval),
        ("preempt", before.policy.preempt != policy.preempt),
        (
            "preempt_delay",
            before.policy.preempt_delay != policy.preempt_delay,
        ),
        ("start_delay", before.policy.start_delay != policy.start_delay),
        ("unicast_peers", before.audience.peers() != audience.peers()),
        (
            "unicast_hop_limit",
            before.audience.hop_limit() != audience.hop_limit(),
        ),
        ("checksum", before.checksum != *checksum),
        ("group", before.group != *group),
        ("track", before.track != *track),
        (
            "notify",
            before.notify.as_ref().map(|hook| &hook.command) != notify.as_ref().map(|hook| &hook.command),
        ),
        (
            "notify_timeout",
            before.notify.as_ref().map(|hook| hook.timeout) != notify.as_ref().map(|hook| hook.timeout),
        ),
        ("virtual_mac", before.has_virtual_mac != *has_virtual_mac),
    ];
    let changed = keys.iter().filter(|(_, changed)| *changed);
    changed.map(|(key, _)| (*key).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::config::examples::with_vrrp;

    fn instances(text: &str) -> Vec<Vrrp> {
        with_vrrp(text).vrrp
    }

    fn instance(name: &str, vrid: u8, addresses: &[&str], more: &str) -> String {
        format!("[[vrrp]]\nname = \"{name}\"\nvrid = {vrid}\naddresses = {addresses:?}\n{more}\n")
    }

    /// What becomes of instances, in words.
    fn words(before: &str, after: &str) -> Vec<String> {
        let changes = vrrp_changes(&instances(before), &instances(after));
        let word = |it: &VrrpChanges| format!("{} {:?} {}", it.name, it.fate, it.keys_changed.join(","));
        changes.iter().map(word).collect()
    }

    #[test]
    fn each_instance_has_its_fate() {
        let before = [
            instance("gone", 1, &["10.0.0.2"], ""),
            instance("stays", 2, &["10.0.0.3", "10.0.0.4"], "group = \"g\""),
            instance("same", 3, &["10.0.0.5"], "group = \"g\""),
            instance("other", 4, &["10.0.0.6"], ""),
        ];
        let after = [
            instance("other", 5, &["10.0.0.6"], ""),
            instance("new", 1, &["10.0.0.2"], ""),
            instance("same", 3, &["10.0.0.5"], "group = \"g\""),
            instance(
                "stays",
                2,
                &["10.0.0.4", "10.0.0.7"],
                "group = \"g\"\nunicast_peers = [\"10.0.0.8\"]",
            ),
        ];
        assert_eq!(
            words(&before.concat(), &after.concat()),
            [
                "other Restarted vrid",
                "new Added ",
                "stays Stays addresses,unicast_peers",
                "gone Removed "
            ]
        );
    }

    #[test]
    fn who_gets_another_member_begins_anew_with_it() {
        let [a, b] = [("a", 1, "10.0.0.2"), ("b", 2, "10.0.0.3")]
            .map(|(name, vrid, address)| move |more: &str| instance(name, vrid, &[address], more));
        let group = "group = \"g\"";
        assert_eq!(
            words(&(a("") + &b("")), &(a(group) + &b(group))),
            ["a Restarted group", "b Restarted group"]
        );
        assert_eq!(words(&a(""), &a(group)), ["a Stays group"]);
    }

    #[test]
    fn another_hook_leaves_an_instance_as_it_is() {
        let a = |more: &str| instance("a", 1, &["10.0.0.2"], more);
        let with = |hook: &str| a(&format!("notify = [\"/bin/tell\"]\n{hook}"));
        let limited = with("notify_timeout = \"1s\"");
        assert_eq!(words(&a(""), &limited), ["a Stays notify,notify_timeout"]);
        assert_eq!(
            words(&limited, &with("notify_timeout = \"2s\"")),
            ["a Stays notify_timeout"]
        );
    }

    #[test]
    fn the_order_of_instances_and_addresses_is_no_change() {
        let a = |addresses: &[&str]| instance("a", 1, addresses, "");
        let b = instance("b", 2, &["10.0.0.3"], "");
        let before = a(&["10.0.0.2", "10.0.0.4"]) + &b;
        let after = b.clone() + &a(&["10.0.0.4", "10.0.0.2"]);
        assert_eq!(words(&before, &after), [""; 0]);
    }
}
