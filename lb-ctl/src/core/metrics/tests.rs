use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::core::health::{Failure, Outcome, Verdict};

fn backend(name: &str, address: [u8; 4]) -> BackendStatus {
    BackendStatus {
        name: name.into(),
        address: address.into(),
        port: 21050,
        weight: 3,
        configured_weight: 2,
        tier: 1,
        health: "up".into(),
        health_cause: "has passed 2 checks in a row: \"answered\"".into(),
        health_seconds: Some(71),
        slow_start_tenths: Some(4),
        load: Some(LoadStatus {
            load: Some(21),
            weight_percent: 125,
        }),
        admin: "enabled".into(),
        deadline_seconds: Some(60),
        soft_drain: false,
        slots: 100,
        packets: 1_000,
        bytes: 64_000,
        new_flows: 17,
        tracked_flows: 5,
        discovered: true,
        listed_by: vec!["seed1:25000".into()],
        next_hop: Some("02:00:00:00:00:01".into()),
        last_check: Some(CheckStatus {
            ok: true,
            latency_ms: 2,
            seconds_ago: 1,
            detail: "answered".into(),
        }),
    }
}

fn status(backends: Vec<BackendStatus>) -> Status {
    let counter = |name: &str, packets| CounterStatus {
        name: name.into(),
        meaning: String::new(),
        packets,
    };
    Status {
        node: "lb\"1\\".into(),
        version: "0.1.0".into(),
        datapath: DatapathStatus {
            interfaces: vec![InterfaceStatus {
                name: "eth0".into(),
                mode: "native".into(),
            }],
            counters: vec![counter("drop_fragment", 3), counter("reset_sent", 4)],
        },
        decisions: DecisionsStatus::default(),
        services: vec![ServiceStatus {
            name: "impala".into(),
            vip: [192, 0, 2, 10].into(),
            port: 21050,
            forward: "dsr".into(),
            active_tier: 1,
            guard: Some("2 of 3 are down".into()),
            role: Some("owner".into()),
            tracked_slots: 12,
            discovery: Some(DiscoveryStatus {
                seeds: vec![SeedStatus {
                    seed: "seed1:25000".into(),
                    ok: Some(false),
                    seconds_ago: Some(1),
                    last_page_seconds_ago: Some(31),
                    detail: "Connection refused".into(),
                }],
                refused: Vec::new(),
            }),
            backends,
        }],
        vrrp: vec![VrrpStatus {
            name: "impala".into(),
            state: "master".into(),
            state_seconds: 9,
            previous_state: Some("backup".into()),
            cause: "nobody advertises".into(),
            priority: 90,
            configured_priority: 100,
            addresses: vec![[192, 0, 2, 10].into()],
            interface: "eth0".into(),
            vrid: 51,
            virtual_mac: None,
            group: None,
            master: Some([192, 0, 2, 2].into()),
            master_priority: Some(90),
            interval_ms: 250,
            master_down_ms: 912,
            due_ms: Some(20),
            yields: false,
            transitions: BTreeMap::from([("master".into(), 2)]),
            rejected: vec![RejectedStatus {
                reason: "hop_limit".into(),
                packets: 3,
            }],
            missing: vec!["/bin/disk fails: ended with status 1".into()],
            notifications: BTreeMap::from([("failed".into(), 4)]),
        }],
        peer: Some(PeerStatus {
            connected: true,
            lag_ms: 1500,
            node: Some("lb2".into()),
            version: Some("1.2.3".into()),
            trouble: None,
            not_taken_over: 4,
        }),
    }
}

fn beside(tally: &Tally) -> Beside {
    Beside {
        started: 1_700_000_000.5,
        is_healthy: true,
        last_reload_successful: false,
        records_short: false,
        tables: vec![Fill {
            table: "flows",
            entries: 7,
            max: 262_144,
        }],
        tally: tally.registry(),
    }
}

fn written(backends: Vec<BackendStatus>, tally: &Tally) -> String {
    text(&status(backends), &beside(tally)).unwrap()
}

fn failed(latency: Duration) -> Outcome {
    Outcome::new(Verdict::Failed(Failure::Failing), latency, "503")
}

/// The samples, by what stands before the value.
fn samples(text: &str) -> BTreeMap<&str, &str> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let mut samples = BTreeMap::new();
    for line in lines {
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert_eq!(samples.insert(series, value), None, "{series} twice");
    }
    samples
}

#[test]
fn names_follow_the_rules_of_prometheus() {
    let is_word = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            && !word.contains("__")
            && !word.starts_with('_')
            && !word.ends_with('_')
    };
    let mut names = BTreeSet::new();
    for &metric in Metric::ALL {
        let name = metric.name();
        assert!(names.insert(name), "{name} twice");
        assert!(name.starts_with("lb_") && is_word(name), "{name}");
        assert_eq!(
            name.ends_with("_total"),
            metric.kind() == Kind::Counter,
            "{name}: counters, and only they, end with _total"
        );
        for unit in [
            "milli", "micro", "_ms", "_secs", "minutes", "percent", "kilo", "_kb",
        ] {
            assert!(!name.contains(unit), "{name}: base units only");
        }
        for reserved in ["_count", "_sum", "_bucket"] {
            assert!(!name.ends_with(reserved), "{name}");
        }
        if metric.kind() == Kind::Histogram {
            assert!(name.ends_with("_seconds"), "{name}");
        }
        let labels: BTreeSet<&str> = metric.labels().iter().copied().collect();
        assert_eq!(labels.len(), metric.labels().len(), "{name}");
        assert!(
            labels.iter().all(|label| is_word(label) && *label != "le"),
            "{name}"
        );
        let meaning = metric.meaning();
        assert!(
            meaning.ends_with('.') && !meaning.contains('\n'),
            "{name}: {meaning}"
        );
    }
}

#[test]
fn every_metric_is_written_with_its_labels_and_no_other() {
    let mut tally = Tally::new().unwrap();
    tally.follow([("impala", "impala1")]);
    tally.check("impala", "impala1", Some(&failed(Duration::from_millis(3))));
    let text = written(vec![backend("impala1", [10, 0, 0, 1])], &tally);
    let mut written = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
        let (name, kind) = line.strip_prefix("# TYPE ").unwrap().split_once(' ').unwrap();
        let metric = Metric::ALL.iter().find(|metric| metric.name() == name).unwrap();
        assert_eq!(metric.kind().as_str(), kind, "{name}");
        assert!(
            text.contains(&format!("# HELP {name} {}\n", metric.meaning())),
            "{name}"
        );
        assert!(written.insert(name), "{name} is in two places");
        let of_it = |series: &&str| {
            let bare = series.split('{').next().unwrap();
            bare == name || *kind == *"histogram" && bare.starts_with(name)
        };
        let samples = samples(&text);
        let mut series = samples.keys().copied().filter(of_it).peekable();
        assert!(series.peek().is_some(), "{name} has no sample");
        for series in series {
            let labels: BTreeSet<&str> = series
                .split_once('{')
                .map_or("", |(_, labels)| labels.trim_end_matches('}'))
                .split("\",")
                .filter_map(|pair| Some(pair.split_once('=')?.0))
                .filter(|label| *label != "le")
                .collect();
            assert_eq!(labels, metric.labels().iter().copied().collect(), "{series}");
        }
    }
    assert_eq!(written.len(), Metric::ALL.len(), "{written:?}");
}

#[test]
fn values_are_those_of_the_status() {
    let mut tally = Tally::new().unwrap();
    tally.follow([("impala", "impala1")]);
    tally.check("impala", "impala1", Some(&failed(Duration::from_millis(3))));
    tally.check("impala", "impala1", None);
    tally.health_change("impala", "impala1", Health::Down);
    tally.reload(ReloadResult::Refused);
    let text = written(vec![backend("impala1", [10, 0, 0, 1])], &tally);
    let samples = samples(&text);
    for (series, value) in [
        (r#"lb_build_info{node="lb\"1\\",version="0.1.0"}"#, "1"),
        ("lb_start_time_seconds", "1700000000.5"),
        ("lb_healthy", "1"),
        ("lb_last_reload_successful", "0"),
        (r#"lb_reloads_total{result="refused"}"#, "1"),
        (r#"lb_reloads_total{result="failed"}"#, "0"),
        (r#"lb_interface_mode{interface="eth0",mode="native"}"#, "1"),
        (r#"lb_interface_mode{interface="eth0",mode="absent"}"#, "0"),
        (r#"lb_dropped_packets_total{reason="fragment"}"#, "3"),
        (r#"lb_exceptional_packets_total{event="reset_sent"}"#, "4"),
        (r#"lb_table_entries{table="flows"}"#, "7"),
        (r#"lb_table_entries_max{table="flows"}"#, "262144"),
        (r#"lb_service_guard_active{service="impala"}"#, "1"),
        (r#"lb_service_slots{service="impala"}"#, "100"),
        (r#"lb_service_tracked_slots{service="impala"}"#, "12"),
        (
            r#"lb_backend_health{service="impala",backend="impala1",health="up"}"#,
            "1",
        ),
        (
            r#"lb_backend_health{service="impala",backend="impala1",health="down"}"#,
            "0",
        ),
        (
            r#"lb_backend_slow_start_ratio{service="impala",backend="impala1"}"#,
            "0.4",
        ),
        (
            r#"lb_discovery_seed_page_age_seconds{service="impala",seed="seed1:25000"}"#,
            "31",
        ),
        (
            r#"lb_backend_listing_seeds{service="impala",backend="impala1"}"#,
            "1",
        ),
        (
            r#"lb_backend_load_weight_ratio{service="impala",backend="impala1"}"#,
            "1.25",
        ),
        (
            r#"lb_backend_bytes_total{service="impala",backend="impala1"}"#,
            "64000",
        ),
        (
            r#"lb_backend_checks_total{backend="impala1",outcome="failed",service="impala"}"#,
            "1",
        ),
        (
            r#"lb_backend_checks_total{backend="impala1",outcome="not_checked",service="impala"}"#,
            "1",
        ),
        (
            r#"lb_backend_last_check_duration_seconds{backend="impala1",service="impala"}"#,
            "0.003",
        ),
        (
            r#"lb_backend_health_changes_total{backend="impala1",health="down",service="impala"}"#,
            "1",
        ),
        (
            r#"lb_check_duration_seconds_bucket{service="impala",le="0.0025"}"#,
            "0",
        ),
        (
            r#"lb_check_duration_seconds_bucket{service="impala",le="0.005"}"#,
            "1",
        ),
        (r#"lb_check_duration_seconds_count{service="impala"}"#, "1"),
    ] {
        assert_eq!(samples.get(series), Some(&value), "{series} in\n{text}");
    }
}

#[test]
fn a_backend_that_leaves_and_its_successor_of_the_same_name_are_told_apart() {
    let backends = vec![
        backend("impala1", [10, 0, 0, 1]),
        backend("impala1", [10, 0, 0, 9]),
    ];
    let text = written(backends, &Tally::new().unwrap());
    let samples = samples(&text);
    let weight = |name: &str| {
        samples.get(format!(r#"lb_backend_weight{{service="impala",backend="{name}"}}"#).as_str())
    };
    assert_eq!(weight("impala1"), Some(&"3"));
    assert_eq!(weight("impala1 (10.0.0.9:21050)"), Some(&"3"));
}

#[test]
fn counters_begin_at_zero_and_go_with_their_backend() {
    let mut tally = Tally::new().unwrap();
    tally.follow([("impala", "a"), ("impala", "b"), ("hms", "c")]);
    tally.check("impala", "a", Some(&failed(Duration::ZERO)));
    tally.check("hms", "c", Some(&failed(Duration::ZERO)));
    let of = |tally: &Tally, part: &str| {
        let text = written(Vec::new(), tally);
        let lines = text.lines().filter(|line| line.contains(part));
        lines.map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let checks = of(&tally, r#"backend="b""#);
    assert_eq!(checks.len(), 10, "{checks:?}");
    assert!(checks.iter().all(|line| line.ends_with(" 0")), "{checks:?}");
    tally.follow([("impala", "a")]);
    assert_eq!(of(&tally, r#"backend="b""#), [""; 0]);
    assert_eq!(of(&tally, r#"service="hms""#), [""; 0]);
    let kept = r#"lb_backend_checks_total{backend="a",outcome="failed",service="impala"} 1"#;
    assert_eq!(of(&tally, r#"backend="a",outcome="failed""#), [kept]);
}

#[test]
fn the_documentation_lists_exactly_these_metrics() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let document = std::fs::read_to_string(path).unwrap();
    let documented: Vec<&str> = document
        .lines()
        .filter(|line| line.starts_with("| `lb_"))
        .collect();
    let rows: Vec<String> = Metric::ALL
        .iter()
        .map(|metric| {
            let labels: Vec<String> = metric.labels().iter().map(|label| format!("`{label}`")).collect();
            format!(
                "| `{}` | {} | {} | {} |",
                metric.name(),
                metric.kind(),
                labels.join(", "),
                metric.meaning()
            )
        })
        .collect();
    assert_eq!(
        documented,
        rows,
        "docs/metrics.md should have these rows:\n{}",
        rows.join("\n")
    );
}
