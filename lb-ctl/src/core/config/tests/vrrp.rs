//! The keys of VRRP.

use std::num::NonZeroU8;
use std::time::Duration;

use super::super::Vrrp;
use super::{MINIMAL, accept, refuse};
use crate::core::command::Command;
use crate::core::vrrp::{
    Audience, ChecksumForm, Effect, Hook, Interval, Policy, Script, Settings, Subject, Track,
};

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
        notify: None,
        has_virtual_mac: false,
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
         notify = [\"/bin/tell\", \"a b\"]\nnotify_timeout = \"1m\"\nvirtual_mac = true\n\
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
    assert_eq!(instance.virtual_mac(), Some([0, 0, 0x5e, 0, 1, 51]));
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
    assert_eq!(
        instance.notify,
        Some(Hook {
            command: command("/bin/tell", &["a b"]),
            timeout: Duration::from_mins(1),
        })
    );
}

fn command(program: &str, arguments: &[&str]) -> Command {
    Command {
        program: program.into(),
        arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
    }
}

/// MINIMAL has one interface. The eighth virtual MAC address is in the eighth instance, of five lines each.
#[test]
fn the_program_knows_eight_mac_addresses() {
    let instance = |number: u32, more: &str| {
        format!(
            "[[vrrp]]\nname = \"i{number}\"\nvrid = {number}\naddresses = [\"192.0.2.{}\"]\nvirtual_mac = {more}\n",
            100 + number
        )
    };
    let seven: String = (1..8).map(|number| instance(number, "true")).collect();
    let more = format!("{seven}{}", instance(8, "false"));
    assert_eq!(accept(&text(&more)).virtual_macs().len(), 7);
    assert_eq!(
        refused(&format!("{seven}{}", instance(8, "true"))),
        "49: vrrp[i8].virtual_mac: expected at most 8 interfaces and virtual MAC addresses together, found 1 and 8; put more \
         addresses into one instance, or leave the key out here"
    );
}

#[test]
fn a_script_runs_as_often_as_a_check_unless_it_says_otherwise() {
    const SCRIPT: &str = "[[vrrp.track]]\nscript = [\"/bin/disk\", \"/var\"]\n";
    let text_of = format!(
        "{LEAST}notify = [\"/bin/tell\"]\n{SCRIPT}{SCRIPT}interval = \"10s\"\ntimeout = \"500ms\"\nrise = 1\nfall = 1\nlower = 20\n"
    );
    let config = accept(&text(&text_of));
    let script = Script {
        command: command("/bin/disk", &["/var"]),
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(2),
        rise: 2,
        fall: 3,
    };
    let other = Script {
        interval: Duration::from_secs(10),
        timeout: Duration::from_millis(500),
        rise: 1,
        fall: 1,
        ..script.clone()
    };
    let tracks = [(script, Effect::Fault), (other, Effect::Lower(20))].map(|(script, effect)| Track {
        subject: Subject::Script(script),
        effect,
    });
    assert_eq!(config.vrrp[0].track, tracks);
    assert_eq!(
        config.vrrp[0].notify.as_ref().map(|hook| hook.timeout),
        Some(Duration::from_secs(10))
    );
    let programs: Vec<String> = config
        .programs
        .iter()
        .map(|place| {
            format!(
                "{}: {} {}",
                place.origin.line,
                place.origin.key,
                place.program.display()
            )
        })
        .collect();
    assert_eq!(
        programs,
        [
            "16: vrrp[pair].track[#1].script /bin/disk",
            "18: vrrp[pair].track[#2].script /bin/disk",
            "14: vrrp[pair].notify /bin/tell"
        ]
    );
}

#[test]
fn a_program_is_an_array_without_a_shell() {
    let expected = "expected an array of a program's absolute path and its arguments";
    let advice = "write [\"/usr/local/bin/program\", \"argument\"]; no shell reads it";
    let long = "x".repeat(9000);
    for (written, message) in [
        (
            "\"/bin/tell all\"",
            format!("{expected}, found \"/bin/tell all\"; {advice}"),
        ),
        ("[]", format!("{expected}, found an empty array; {advice}")),
        (
            "[\"/bin/tell\", 7]",
            "expected an argument as a string, found the integer 7; write it in quotes".to_owned(),
        ),
        (
            "[\"tell\"]",
            "expected the absolute path of a file, found \"tell\"; begin it with '/'".to_owned(),
        ),
        (
            "[\"/bin/tell\", \"\\u0000\"]",
            format!("{expected}, found a zero byte; {advice}"),
        ),
        (
            format!("[\"/bin/tell\", \"{long}\"]").as_str(),
            format!("{expected}, found 9010 bytes, more than 8192; {advice}"),
        ),
    ] {
        assert_eq!(
            refused(&format!("{LEAST}notify = {written}\n")),
            format!("14: vrrp[pair].notify: {message}")
        );
        assert_eq!(
            refused(&format!("{LEAST}[[vrrp.track]]\nscript = {written}\n")),
            format!("15: vrrp[pair].track[#1].script: {message}")
        );
    }
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
            "notify_timeout = \"1s\"",
            "expected this key beside `notify`; remove it",
        ),
        (
            "notify_timeout = \"2m\"",
            "expected a duration from \"100ms\" to \"1m\", found \"2m\"; leave the key out to get \"10s\"",
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
             [[vrrp.track]]\ninterface = \"eth1\"\nhealthy = 50\nlower = 1\n\
             [[vrrp.track]]\nservice = \"impala\"\ninterval = \"1s\"\ntimeout = \"1s\"\nrise = 1\nfall = 1\n"
        )),
        "15: vrrp[pair].track[#1]: expected one of the keys interface, service and script; write a table for each thing that is tracked\n\
         16: vrrp[pair].track[#2]: expected one of the keys interface, service and script; write a table for each thing that is tracked\n\
         17: vrrp[pair].track[#2].service: expected the name of a service, found \"hms\"; there is none of this name\n\
         21: vrrp[pair].track[#3].healthy: expected this key beside `service`; remove it\n\
         22: vrrp[pair].track[#3].lower: expected a priority below 255, which belongs to the addresses' owner and cannot be lowered; choose \
         a lower one\n\
         25: vrrp[pair].track[#4].interval: expected this key beside `script`; remove it\n\
         26: vrrp[pair].track[#4].timeout: expected this key beside `script`; remove it\n\
         27: vrrp[pair].track[#4].rise: expected this key beside `script`; remove it\n\
         28: vrrp[pair].track[#4].fall: expected this key beside `script`; remove it"
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
