use std::time::Duration;

use super::*;
use crate::core::config::{HostDefaults, parse};
use crate::core::discovery::Coordinator;

/// Two services; the first one discovers, and has `impala1` and `spare` in the file.
fn configured(datapath: &str) -> Config {
    let text = format!(
        r#"
        [datapath]
        interfaces = ["eth0"]
        {datapath}

        [[service]]
        name = "impala"
        vip = "192.0.2.10"
        port = 21050
        check.type = "impala"
        discovery = {{ type = "impala", seeds = ["192.0.2.21", "192.0.2.22"] }}
        [[service.backend]]
        name = "first"
        address = "192.0.2.21"
        weight = 5
        [[service.backend]]
        name = "spare"
        address = "192.0.2.29"

        [[service]]
        name = "beeswax"
        vip = "192.0.2.11"
        port = 21000
        [[service.backend]]
        name = "impala4"
        address = "192.0.2.44"
        "#
    );
    let host = HostDefaults {
        node_name: "lb".into(),
    };
    parse("lb.toml", &text, &host).unwrap()
}

fn members(addresses: &[(&str, [u8; 4])]) -> Membership {
    let page = addresses.iter().map(|(name, address)| Coordinator {
        name: (*name).to_owned(),
        host: (*name).to_owned(),
        addresses: vec![(*address).into()],
        is_quiescing: false,
        started: String::new(),
    });
    let mut membership = Membership::new(["seed".to_owned()]);
    membership.observe("seed", Ok(page.collect()), Duration::ZERO);
    membership
}

fn joined(datapath: &str, addresses: &[(&str, [u8; 4])]) -> (Vec<String>, Vec<Refused>) {
    let memberships = [Some(members(addresses)), None];
    let joined = join(&configured(datapath), &memberships, usize::MAX, |_, backend| {
        (backend.name == "far").then(|| "is behind a router".to_owned())
    });
    let backends = &joined.config.services[0].backends;
    let names = backends.iter().map(|it| it.name.clone()).collect();
    assert_eq!(joined.config.services[1], configured(datapath).services[1]);
    (names, joined.refused)
}

#[test]
fn the_file_wins_where_both_are_about_one_machine() {
    let (names, refused) = joined("", &[("impala3", [192, 0, 2, 23]), ("impala1", [192, 0, 2, 21])]);
    assert_eq!(names, ["first", "spare", "impala3"]);
    assert_eq!(refused, []);
}

#[test]
fn without_members_the_file_is_all() {
    let configured = configured("");
    let joined = join(&configured, &[None, None], usize::MAX, |_, _| None);
    assert_eq!(joined.config, configured);
}

#[test]
fn what_the_configuration_would_refuse_is_refused() {
    for (name, address, reason) in [
        ("spare", [192, 0, 2, 30], "another address in the file"),
        ("impala4", [192, 0, 2, 30], "192.0.2.44 elsewhere"),
        ("vip", [192, 0, 2, 11], "found the VIP"),
        ("far", [192, 0, 2, 30], "is behind a router"),
    ] {
        let (names, refused) = joined("", &[(name, address), ("impala3", [192, 0, 2, 23])]);
        assert_eq!(names, ["first", "spare", "impala3"], "{name}");
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(
            refused[0].name == name && refused[0].reason.contains(reason),
            "{refused:?}"
        );
    }
}

#[test]
fn room_is_for_the_first_by_name() {
    let all = [
        ("c", [192, 0, 2, 33]),
        ("a", [192, 0, 2, 31]),
        ("b", [192, 0, 2, 32]),
    ];
    let (names, refused) = joined("max_backends = 5", &all);
    assert_eq!(names, ["first", "spare", "a", "b"]);
    assert!(refused[0].name == "c" && refused[0].reason.contains("datapath.max_backends"));
}
