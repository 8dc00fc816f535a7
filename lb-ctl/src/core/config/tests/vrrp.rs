//! The keys of VRRP.

use std::num::NonZeroU8;
use std::time::Duration;

use super::super::Vrrp;
use super::{MINIMAL, accept, refuse};
use crate::core::vrrp::{Audience, ChecksumForm, Effect, Interval, Policy, Settings, Subject, Track};

/// [`MINIMAL`], which has nine lines, and instances that begin in line 10.
fn text(instances: &str) -> String {
    format!("{MINIMAL}{instances}")
}

const LEAST: &str = "[[vrrp]]\nname = \"pair\"\nvrid = 51\naddresses = [\"192.0.2.10\"]\n";

fn instances(text_of: &str) -> Vec<Vrrp> {
    accept(&text(text_of)).vrrp
}

/// What is wrong, without the file's name.
fn refused(instances: &str) -> String {
    refuse(&text(instances)).replace("lb.toml:", "")
}

#[test]
fn an_instance_needs_name_vrid_and_addresses() {
    let expected = Vrrp {
        name: "pair".into(),
        interface: "eth0".into(),
        vrid: NonZeroU8::new(51).unwrap(),
        addresses: vec!["192.0.2.10".parse().unwrap()],
        source: None,
        audience: Audience::Multicast,
        checksum: ChecksumForm::Message,
        settings: Settings {
            priority: NonZeroU8::new(100).unwrap(),
            interval: Interval::from_centiseconds(25).unwrap(),
        },
        policy: Policy {
            preempt: true,
            preempt_delay: Duration::from_secs(10),
            start_delay: Duration::ZERO,
            refresh: Duration::from_mins(1),
        },
        group: None,
        track: Vec::new(),
    };
    assert_eq!(instances(LEAST), [expected]);
    assert_eq!(
        refused("[[vrrp]]\n"),
        "10: vrrp[#1].addresses: expected this key, found none; add `addresses = [\"192.0.2.10\"]`\n\
         10: vrrp[#1].name: expected this key, found none; add `name = \"impala\"`\n\
         10: vrrp[#1].vrid: expected this key, found none; add `vrid = 51`"
    );
}

#[test]
fn every_key_is_taken() {
    let [instance] = instances(&format!(
        "{LEAST}interface = \"eth0\"\npriority = 254\nadvert_interval = \"10ms\"\npreempt = false\npreempt_delay = \"1h\"\n\
         start_delay = \"5s\"\nsource = \"192.0.2.2\"\nunicast_peers = [\"192.0.2.3\"]\nunicast_hop_limit = 64\nchecksum = \"rfc5798\"\ngroup = \"both\"\n\
         [[vrrp.track]]\ninterface = \"eth1\"\nlower = 50\n[[vrrp.track]]\nservice = \"impala\"\nhealthy = 34\n"
    ))
    .try_into()
    .unwrap();
    let peer = "192.0.2.3".parse().unwrap();
    assert_eq!(
        instance.audience,
        Audience::Unicast {
            peers: [peer].into(),
            hop_limit: 64
        }
    );
    assert_eq!(instance.checksum, ChecksumForm::PseudoHeader);
    assert_eq!(instance.source, Some("192.0.2.2".parse().unwrap()));
    assert_eq!(instance.settings.interval, Interval::MIN);
    assert_eq!(instance.settings.priority.get(), 254);
    assert!(!instance.policy.preempt);
    assert_eq!(instance.policy.preempt_delay, Duration::from_hours(1));
    assert_eq!(instance.policy.start_delay, Duration::from_secs(5));
    assert_eq!(instance.group.as_deref(), Some("both"));
    let service = Subject::Service {
        name: "impala".into(),
        percent: 34,
    };
    let tracks = [
        (Subject::Link("eth1".into()), Effect::Lower(50)),
        (service, Effect::Fault),
    ];
    assert_eq!(
        instance.track,
        tracks.map(|(subject, effect)| Track { subject, effect })
    );
}

#[test]
fn vips_that_an_instance_carries_are_not_ours_alone() {
    let config = accept(&text(LEAST));
    assert!(config.vips_of_ours_alone().is_empty() && config.is_carried("192.0.2.10".parse().unwrap()));
    let config = accept(&text(&LEAST.replace(".10", ".11")));
    assert_eq!(config.vips_of_ours_alone().len(), 1);
}

#[test]
fn values_that_make_no_sense_are_refused() {
    for (key, message) in [
        (
            "priority = 0",
            "expected an integer from 1 to 255, found the integer 0; leave the key out to get 100; the highest is master",
        ),
        (
            "advert_interval = \"15ms\"",
            "expected a multiple of 10ms, found \"15ms\"; an advertisement tells the interval in hundredths of a second",
        ),
        (
            "advert_interval = \"41s\"",
            "expected a duration from \"10ms\" to \"40950ms\", found \"41s\"; leave the key out to get \"250ms\"",
        ),
        (
            "interface = \"eth7\"",
            "expected one of datapath.interfaces, found \"eth7\": elsewhere packets to the addresses would not meet the XDP program; \
             add it there",
        ),
        (
            "unicast_hop_limit = 64",
            "expected this key beside `unicast_peers`; remove it",
        ),
    ] {
        let name = key.split_once(' ').unwrap().0;
        assert_eq!(
            refused(&format!("{LEAST}{key}\n")),
            format!("14: vrrp[pair].{name}: {message}")
        );
    }
    assert_eq!(
        refused(&format!(
            "{LEAST}unicast_peers = [\"192.0.2.10\", \"2001:db8::1\"]\n"
        )),
        "14: vrrp[pair].unicast_peers[#1]: expected a balancer's own address, found 192.0.2.10, which is shared; peers need addresses \
         that stay where they are\n\
         14: vrrp[pair].unicast_peers[#2]: expected an address of the family of 192.0.2.10, found 2001:db8::1; IPv4 and IPv6 are \
         instances of their own, which a group keeps together"
    );
    assert_eq!(
        refused(
            "[[vrrp]]\nname = \"pair\"\nvrid = 51\naddresses = [\"2001:db8::10\"]\nchecksum = \"rfc9568\"\n"
        ),
        "14: vrrp[pair].checksum: expected this key with IPv4 only: over IPv6 there is one checksum; remove it"
    );
}

#[test]
fn instances_do_not_collide() {
    let second = LEAST.replace("pair", "other");
    assert_eq!(
        refused(&format!("{LEAST}{second}")),
        "16: vrrp[other].vrid: expected each VRID once for an interface and a family, found it a second time (first on line 12); change one\n\
         17: vrrp[other].addresses[#1]: expected each address once, found it a second time (first on line 13); change one"
    );
    let other_family = LEAST
        .replace("192.0.2.10", "2001:db8::10")
        .replace("pair", "pair6");
    assert_eq!(instances(&format!("{LEAST}{other_family}")).len(), 2);
    assert_eq!(
        refused(&format!(
            "{LEAST}group = \"both\"\n{other_family}group = \"both\"\npreempt = false\n"
        )),
        "19: vrrp[pair6].group: expected preempt, preempt_delay and start_delay as in the group's first instance (line 10), found \
         others: the instances of a group move together; make them alike"
    );
}

#[test]
fn what_is_tracked_must_be_one_thing_that_exists() {
    assert_eq!(
        refused(&format!(
            "{LEAST}priority = 255\n[[vrrp.track]]\n[[vrrp.track]]\nservice = \"hms\"\ninterface = \"eth1\"\n\
             [[vrrp.track]]\ninterface = \"eth1\"\nhealthy = 50\nlower = 1\n"
        )),
        "15: vrrp[pair].track[#1]: expected one of the keys interface and service; write a table for each thing that is tracked\n\
         16: vrrp[pair].track[#2]: expected one of the keys interface and service; write a table for each thing that is tracked\n\
         17: vrrp[pair].track[#2].service: expected the name of a service, found \"hms\"; there is none of this name\n\
         21: vrrp[pair].track[#3].healthy: expected this key beside `service`; remove it\n\
         22: vrrp[pair].track[#3].lower: expected a priority below 255, which belongs to the addresses' owner and cannot be lowered; choose \
         a lower one"
    );
}

#[test]
fn a_source_is_of_the_right_kind_and_not_shared() {
    let with = |address: &str, source: &str, more: &str| {
        format!(
            "[[vrrp]]\nname = \"pair\"\nvrid = 51\naddresses = [\"{address}\"]\nsource = \"{source}\"\n{more}"
        )
    };
    let peers = "unicast_peers = [\"2001:db8::3\"]\n";
    for (address, source, more) in [
        ("192.0.2.10", "192.0.2.2", ""),
        ("2001:db8::10", "fe80::2", ""),
        ("2001:db8::10", "2001:db8::2", peers),
    ] {
        let accepted = instances(&with(address, source, more));
        assert_eq!(accepted[0].source, Some(source.parse().unwrap()));
    }
    for (address, source, more, expected) in [
        (
            "192.0.2.10",
            "fe80::2",
            "",
            "expected an IPv4 address, found fe80::2",
        ),
        (
            "2001:db8::10",
            "2001:db8::2",
            "",
            "expected a link-local IPv6 address, found 2001:db8::2",
        ),
        (
            "2001:db8::10",
            "fe80::2",
            peers,
            "expected an IPv6 address beside the link-local one, found fe80::2",
        ),
        (
            "192.0.2.10",
            "192.0.2.10",
            "",
            "found 192.0.2.10, which is shared",
        ),
        ("192.0.2.10", "224.0.0.18", "", "found a multicast address"),
    ] {
        let refused = refused(&with(address, source, more));
        assert!(
            refused.starts_with("14: vrrp[pair].source: ") && refused.contains(expected),
            "{refused}"
        );
    }
}
