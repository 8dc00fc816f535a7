//! What the keys mean when they are absent, and when they are all there.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::super::{
    Affinity, Api, Backend, Balance, Check, CheckKind, Config, ConfigDuration, DatapathConfig, Forward,
    HealthPolicy, Http, Interface, NoBackend, Node, OnDown, Origin, Places, Service, XdpModeChoice,
};
use super::{MINIMAL, accept};
use crate::core::health::probe::Authentication;
use crate::core::health::{Failback, Fraction, Pace, Policy};

fn origin(line: usize, key: &str) -> Origin {
    Origin {
        line,
        key: key.into(),
    }
}

#[test]
fn absent_keys_have_their_defaults() {
    let expected = Config {
        file_name: "lb.toml".into(),
        places: Places::default(),
        node: Node {
            name: "balancer1".into(),
            state_dir: "/var/lib/lb-ctl".into(),
        },
        datapath: DatapathConfig {
            interfaces: vec![Interface {
                name: "eth0".into(),
                origin: origin(2, "datapath.interfaces[#1]"),
            }],
            mode: XdpModeChoice::Auto,
            hash_seed: 0x1b87_3593_cc9e_2d51,
            slots_per_service: 65_537,
            max_services: 64,
            max_backends: 1024,
            ipip_source_ipv4: "198.18.0.0/16".parse().unwrap(),
            ipip_source_ipv6: "100::/64".parse().unwrap(),
            max_flows: 262_144,
            flow_idle_timeout: ConfigDuration::from_millis(6 * 3_600_000),
        },
        api: Api {
            socket: "/run/lb-ctl/api.sock".into(),
        },
        http: Http { listen: Vec::new() },
        vrrp: Vec::new(),
        programs: Vec::new(),
        peer: None,
        services: vec![Service {
            name: "impala".into(),
            vip: [192, 0, 2, 10].into(),
            port: 21050,
            forward: Forward::Dsr,
            affinity: Affinity::None,
            affinity_timeout: ConfigDuration::from_millis(900_000),
            balance: Balance::Hash,
            no_backend: NoBackend::Reset,
            allow: Vec::new(),
            check: Check {
                kind: CheckKind::None,
                pace: Pace {
                    interval: Duration::from_secs(2),
                    fast_interval: Duration::from_millis(500),
                    rise: 2,
                    fall: 3,
                },
                timeout: Duration::from_secs(2),
                source: None,
                port: None,
                web_port: 25000,
                path: "/".into(),
                authentication: Authentication::None,
                client_tls: false,
                web_tls: false,
                tls: None,
                metric: None,
            },
            health: HealthPolicy {
                selection: Policy {
                    min_healthy: Fraction::HALF,
                    failback: Failback::Auto,
                },
                slow_start: Duration::ZERO,
                on_down: OnDown::Reset,
            },
            discovery: None,
            backends: vec![Backend {
                name: "impala1".into(),
                address: [192, 0, 2, 21].into(),
                port: 21050,
                weight: 1,
                tier: 0,
                address_origin: origin(9, "service[impala].backend[impala1].address"),
            }],
            vip_origin: origin(5, "service[impala].vip"),
        }],
    };
    assert_eq!(accept(MINIMAL), expected);
}

#[test]
fn written_keys_are_taken() {
    let config = accept(
        r#"
        node.name = "lb-a.example"
        node.state_dir = "/srv/lb"
        api.socket = "/tmp/lb.sock"

        [datapath]
        interfaces = ["lb0.100"]
        mode = "native"
        hash_seed = "0xFFFFFFFFFFFFFFFF"
        slots_per_service = 251
        max_services = 2
        max_backends = 3
        ipip_source_ipv4 = "10.255.0.0/16"
        ipip_source_ipv6 = "2001:db8:1:2:3:4::/96"
        max_flows = 4096
        flow_idle_timeout = "90s"

        [[service]]
        name = "impala_hs2"
        vip = "10.0.0.1"
        port = 21050
        forward = "dsr"
        affinity = "none"
        balance = "hash"
        no_backend = "drop"
        allow = ["10.0.0.0/8", "192.0.2.7/32"]
        check = { type = "none" }
        backend = [
            { name = "a", address = "10.0.0.2", port = 21050, weight = 1000, tier = 0 },
            { name = "b", address = "10.0.0.3", weight = 0 },
        ]

        [[service]]
        name = "impala_http"
        vip = "10.0.0.1"
        port = 28000
        affinity = "client"
        affinity_timeout = "20m"
        [service.check]
        type = "none"
        [[service.backend]]
        name = "a"
        address = "10.0.0.2"
        "#,
    );
    assert_eq!(config.node.name, "lb-a.example");
    assert_eq!(config.node.state_dir, Path::new("/srv/lb"));
    assert_eq!(config.api.socket, Path::new("/tmp/lb.sock"));
    let DatapathConfig {
        interfaces,
        mode,
        hash_seed,
        slots_per_service,
        max_services,
        max_backends,
        ipip_source_ipv4,
        ipip_source_ipv6,
        max_flows,
        flow_idle_timeout,
    } = config.datapath;
    assert_eq!(
        interfaces,
        [Interface {
            name: "lb0.100".into(),
            origin: origin(7, "datapath.interfaces[#1]")
        }]
    );
    assert_eq!((mode, hash_seed), (XdpModeChoice::Native, u64::MAX));
    assert_eq!((slots_per_service, max_services, max_backends), (251, 2, 3));
    assert_eq!(ipip_source_ipv4.to_string(), "10.255.0.0/16");
    assert_eq!(ipip_source_ipv6.to_string(), "2001:db8:1:2:3:4::/96");
    assert_eq!(
        (max_flows, flow_idle_timeout),
        (4096, ConfigDuration::from_millis(90_000))
    );
    assert_eq!(config.places.origin("datapath.max_flows").line, 15);
    assert_eq!(config.places.origin("datapath.unwritten").line, 1);

    let [hs2, http] = config.services.as_slice() else {
        panic!("expected two services")
    };
    assert_eq!((hs2.name.as_str(), hs2.port), ("impala_hs2", 21050));
    assert_eq!((http.name.as_str(), http.port), ("impala_http", 28000));
    assert_eq!((hs2.affinity, http.affinity), (Affinity::None, Affinity::Client));
    assert_eq!(http.affinity_timeout, ConfigDuration::from_millis(20 * 60_000));
    let backends: Vec<_> = hs2
        .backends
        .iter()
        .map(|it| (it.name.as_str(), it.port, it.weight))
        .collect();
    assert_eq!(backends, [("a", 21050, 1000), ("b", 21050, 0)]);
    assert_eq!(
        hs2.backends[1].address_origin,
        origin(30, "service[impala_hs2].backend[b].address")
    );
    let allowed: Vec<String> = hs2.allow.iter().map(ToString::to_string).collect();
    assert_eq!(allowed, ["10.0.0.0/8", "192.0.2.7/32"]);
    assert_eq!(http.backends[0].port, 28000);
    assert_eq!(
        (hs2.no_backend, http.no_backend),
        (NoBackend::Drop, NoBackend::Reset)
    );
}

#[test]
fn http_is_served_where_the_file_says() {
    let text = format!("[http]\nlisten = [\"127.0.0.1:9410\", \"[::1]:80\"]\n{MINIMAL}");
    let listen = accept(&text).http.listen;
    let expected: Vec<SocketAddr> = vec![([127, 0, 0, 1], 9410).into(), (Ipv6Addr::LOCALHOST, 80).into()];
    assert_eq!(listen, expected);
}

#[test]
fn all_backends_may_be_out_of_service() {
    let config = accept(&MINIMAL.replace("name = \"impala1\"\n", "name = \"impala1\"\nweight = 0\n"));
    assert_eq!(config.services[0].backends[0].weight, 0);
}

#[test]
fn seeds_may_be_integers_or_hexadecimal_strings() {
    let cases = [
        ("0", 0),
        ("0x1b", 0x1b),
        ("9223372036854775807", i64::MAX as u64),
        ("18446744073709551615", u64::MAX),
        (r#""0x0""#, 0),
        (r#""0xdeadBEEF""#, 0xdead_beef),
    ];
    for (written, seed) in cases {
        let text = MINIMAL.replace("[datapath]\n", &format!("[datapath]\nhash_seed = {written}\n"));
        assert_eq!(accept(&text).datapath.hash_seed, seed, "{written}");
    }
}

#[test]
fn windows_line_ends_change_nothing() {
    assert_eq!(accept(&MINIMAL.replace('\n', "\r\n")), accept(MINIMAL));
}

#[test]
fn later_checks_can_name_line_and_key() {
    let config = accept(MINIMAL);
    assert_eq!(
        config.places.origin("service[impala].affinity"),
        origin(3, "service[impala].affinity"),
        "that of the service"
    );
    let error = config.services[0].backends[0]
        .address_origin
        .error("expected a neighbour, found none; check the cable");
    let errors = super::super::ConfigErrors::new(&config.file_name, vec![error]);
    assert_eq!(
        errors.to_string(),
        "lb.toml:9: service[impala].backend[impala1].address: expected a neighbour, found none; check the cable"
    );
}

#[test]
fn tunnels_may_lead_to_the_other_family() {
    let text = MINIMAL.replace("port = 21050", "port = 21050\nforward = \"ipip\"");
    let config = accept(&text.replace("192.0.2.21", "2001:db8::21"));
    assert_eq!(config.services[0].forward, Forward::Ipip);
}

#[test]
fn outer_sources_matter_only_where_there_are_tunnels() {
    accept(&MINIMAL.replace("192.0.2.21", "198.18.7.7"));
}
