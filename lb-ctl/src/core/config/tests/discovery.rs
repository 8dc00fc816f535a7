//! The keys of discovery.

use std::path::PathBuf;
use std::time::Duration;

use super::super::{CheckTls, Discovery, Service};
use super::{accept, refuse};

/// The service of [`MINIMAL`](super::MINIMAL) with discovery, whose keys begin in line 8; without backends.
fn text(keys: &str, discovery: &str) -> String {
    let minimal = super::MINIMAL.replace(
        "port = 21050\n",
        &format!("port = 21050\n[service.discovery]\n{discovery}\n[service.check]\ntype = \"impala\"\n"),
    );
    let minimal = minimal.replace("name = \"impala\"\n", &format!("name = \"impala\"{keys}\n"));
    minimal
        .split("[[service.backend]]")
        .next()
        .unwrap_or_default()
        .to_owned()
}

const SEEDS: &str = "type = \"impala\"\nseeds = [\"Impala1\", \"192.0.2.22:25001\"]\n";

fn discovery(discovery: &str) -> (Service, Discovery) {
    let mut config = accept(&text("", discovery));
    let service = config.services.remove(0);
    let discovery = service.discovery.clone().expect("it is configured");
    (service, discovery)
}

#[test]
fn a_service_needs_no_backends_with_it() {
    let (service, discovery) = discovery(SEEDS);
    assert_eq!(service.backends, []);
    let seeds: Vec<String> = discovery.seeds.iter().map(ToString::to_string).collect();
    assert_eq!(seeds, ["impala1:25000", "192.0.2.22:25001"]);
    assert_eq!(
        (discovery.interval, discovery.timeout),
        (Duration::from_secs(10), Duration::from_secs(5))
    );
    assert_eq!(
        (discovery.port, discovery.source, discovery.tls),
        (21050, None, None)
    );
    let backend = service.discovered_backend("impala3", [192, 0, 2, 23].into());
    let backend = backend.expect("there is discovery");
    assert_eq!((backend.port, backend.weight, backend.tier), (21050, 1, 0));
}

#[test]
fn written_keys_are_taken() {
    let keys = "interval = \"2s\"\ntls = true\nca_file = \"/etc/ca.pem\"\nserver_name = \"impala\"\nsource = \"192.0.2.2\"";
    let (_, discovery) = discovery(&format!("{SEEDS}{keys}"));
    assert_eq!(
        (discovery.interval, discovery.timeout),
        (Duration::from_secs(2), Duration::from_secs(2)),
        "the default of the timeout is at most the interval"
    );
    assert_eq!(discovery.source, Some([192, 0, 2, 2].into()));
    assert_eq!(
        discovery.tls,
        Some(CheckTls {
            ca_file: Some(PathBuf::from("/etc/ca.pem")),
            server_name: Some("impala".into()),
            verify: true,
        })
    );
}

#[test]
fn mistakes_are_named() {
    for (discovery, expected) in [
        (
            "type = \"impala\"",
            "7: service[impala].discovery.seeds: expected this key, found none; write seeds = [\"impala1.example.com\", \
             \"impala2.example.com:25000\"]",
        ),
        (
            "seeds = [\"a\", \"b\"]",
            "7: service[impala].discovery.type: expected this key, found none; add `type = \"impala\"`",
        ),
        (
            "type = \"consul\"\nseeds = [\"a\", \"b\"]",
            "8: service[impala].discovery.type: expected \"impala\", found \"consul\"; use \"impala\"",
        ),
        (
            "type = \"impala\"\nseeds = [\"a\"]",
            "9: service[impala].discovery.seeds[#1]: expected at least 2 seeds, found one, whose page may be out of date; name \
             another coordinator",
        ),
        (
            "type = \"impala\"\nseeds = [\"a\", \"http://b\"]",
            "9: service[impala].discovery.seeds[#2]: expected a host, with a port or without, found \"http://b\"; write it like \
             \"impala1.example.com\", \"192.0.2.21:25000\" or \"[2001:db8::21]:25000\"",
        ),
        (
            "type = \"impala\"\nseeds = [\"a\",\n\"b\",\n\"A:25000\"]",
            "11: service[impala].discovery.seeds[#3]: expected each seed once, found a:25000 a second time (first on line 9); \
             name another coordinator",
        ),
        (
            "type = \"impala\"\nseeds = [\"a\", \"b\"]\ninterval = \"10ms\"",
            "10: service[impala].discovery.interval: expected a duration from \"1s\" to \"1h\", found \"10ms\"; leave the key out \
             to get \"10s\"",
        ),
        (
            "type = \"impala\"\nseeds = [\"a\", \"b\"]\ntimeout = \"11s\"",
            "10: service[impala].discovery.timeout: expected at most the interval, 10s, found 11s; lower it or raise the interval",
        ),
        (
            "type = \"impala\"\nseeds = [\"a\", \"b\"]\nport = 21000",
            "10: service[impala].discovery.port: expected 21050, the service's port, found 21000; forward = \"dsr\" leaves the \
             port in the packets as it is: remove the key",
        ),
        (
            "type = \"impala\"\nseeds = [\"a\", \"b\"]\nverify = false",
            "10: service[impala].discovery.verify: expected this key only with TLS, found it without; add `tls = true`, or \
             remove it",
        ),
        (
            "type = \"impala\"\nseeds = [\"a\", \"b\"]\nweight = 1",
            "10: service[impala].discovery.weight: expected a key of [service.discovery], found \"weight\"; remove it or use one \
             of type, seeds, interval, timeout, port, source, tls, ca_file, server_name, verify",
        ),
    ] {
        let found = refuse(&text("", discovery)).replace("lb.toml:", "");
        assert_eq!(found, expected, "{discovery}");
    }
}

#[test]
fn another_port_needs_translation() {
    let keys = format!("{SEEDS}port = 21050");
    let text = text("\nforward = \"nat\"", &keys)
        .replace("\nport = 21050\n[service.disc", "\nport = 8006\n[service.disc");
    let config = accept(&text);
    let discovery = config.services[0].discovery.as_ref().expect("it is configured");
    assert_eq!((config.services[0].port, discovery.port), (8006, 21050));
}

#[test]
fn discovered_backends_must_be_checked() {
    let unchecked = text("", SEEDS).replace("[service.check]\ntype = \"impala\"\n", "");
    assert_eq!(
        refuse(&unchecked),
        "lb.toml:7: service[impala].discovery: expected a check beside discovery, found none: a coordinator that has died stays \
         on the pages for a while; add [service.check] with `type = \"impala\"`"
    );
    let no_table = super::MINIMAL.replace("port = 21050\n", "port = 21050\ndiscovery = 3\n");
    assert_eq!(
        refuse(&no_table),
        "lb.toml:7: service[impala].discovery: expected a table, found the integer 3; write [service.discovery]"
    );
}
