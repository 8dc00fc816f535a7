//! The keys of health checks and of what follows from health.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::super::{Balance, CheckKind, CheckTls, OnDown, Service};
use super::{accept, check_refusals, refuse};
use crate::core::health::probe::Authentication;
use crate::core::health::{Failback, Fraction, Pace};

fn text(keys: &str, check: &str) -> String {
    super::MINIMAL.replace(
        "port = 21050\n",
        &format!("port = 21050\n{keys}\n[service.check]\n{check}\n"),
    )
}

fn service(keys: &str, check: &str) -> Service {
    let config = accept(&text(keys, check));
    config.services.into_iter().next().expect("one service")
}

/// Cases of lines in `[service.check]`, the first of which is line 8, with the error for each.
fn refuse_checks(cases: &[(&str, &str)]) {
    let replacements: Vec<String> = cases
        .iter()
        .map(|(check, _)| format!("port = 21050\n[service.check]\n{check}"))
        .collect();
    let cases: Vec<(&[usize], &str, &str)> = replacements
        .iter()
        .zip(cases)
        .map(|(text, (_, error))| (&[6][..], text.as_str(), *error))
        .collect();
    check_refusals(&cases);
}

#[test]
fn written_keys_are_taken() {
    let service = service(
        "min_healthy = 0.25\nfailback = \"manual\"\nslow_start = \"1m\"\non_down = \"keep\"",
        "type = \"impala\"\ninterval = \"1s\"\nfast_interval = \"200ms\"\ntimeout = \"500ms\"\nrise = 1\nfall = 5\n\
         source = \"192.0.2.2\"\nport = 21051\nweb_port = 25001\nauth = \"sasl\"\ntls = true\nweb_tls = true\n\
         ca_file = \"/etc/ssl/impala.pem\"\nserver_name = \"impala.example.com\"",
    );
    let check = service.check;
    let pace = Pace {
        interval: Duration::from_secs(1),
        fast_interval: Duration::from_millis(200),
        rise: 1,
        fall: 5,
    };
    assert_eq!(
        (check.kind, check.pace, check.timeout),
        (CheckKind::Impala, pace, Duration::from_millis(500))
    );
    assert_eq!(check.source, Some(IpAddr::from([192, 0, 2, 2])));
    assert_eq!((check.port, check.web_port), (Some(21051), 25001));
    assert_eq!(
        (check.authentication, check.client_tls, check.web_tls),
        (Authentication::Sasl, true, true)
    );
    let tls = CheckTls {
        ca_file: Some(PathBuf::from("/etc/ssl/impala.pem")),
        server_name: Some("impala.example.com".into()),
        verify: true,
    };
    assert_eq!(check.tls, Some(tls));
    assert_eq!(
        service.health.selection.min_healthy,
        Fraction::from_thousandths(250)
    );
    assert_eq!(service.health.selection.failback, Failback::Manual);
    assert_eq!(
        (service.health.slow_start, service.health.on_down),
        (Duration::from_mins(1), OnDown::Keep)
    );
}

#[test]
fn other_types_have_their_own_keys() {
    let page = service("", "type = \"https\"\npath = \"/ready?full=1\"\nverify = false").check;
    assert_eq!(
        (page.kind, page.path.as_str()),
        (CheckKind::Https, "/ready?full=1")
    );
    assert_eq!(page.tls.map(|tls| tls.verify), Some(false));
    let pair = service(
        "",
        "type = \"active-status\"\nweb_port = 25020\nmetric = \"catalog-server.active-status\"",
    )
    .check;
    assert_eq!(
        (pair.kind, pair.web_port, pair.tls),
        (CheckKind::ActiveStatus, 25020, None)
    );
    assert_eq!(pair.metric.as_deref(), Some("catalog-server.active-status"));
    for kind in ["none", "tcp", "http", "hs2", "impala"] {
        assert_eq!(
            service("", &format!("type = \"{kind}\"")).check.kind.as_str(),
            kind
        );
    }
}

#[test]
fn the_fast_interval_is_a_quarter_but_no_storm() {
    for (interval, milliseconds) in [("2s", 500), ("1m", 15_000), ("300ms", 100), ("100ms", 100)] {
        let check = service("", &format!("type = \"tcp\"\ninterval = \"{interval}\"")).check;
        assert_eq!(
            check.pace.fast_interval,
            Duration::from_millis(milliseconds),
            "{interval}"
        );
    }
}

#[test]
fn shares_are_numbers_from_0_to_1() {
    for (written, thousandths) in [
        ("0", 0),
        ("1", 1000),
        ("0.5", 500),
        ("0.3334", 333),
        ("1e-1", 100),
        ("-0.0", 0),
    ] {
        let policy = service(&format!("min_healthy = {written}"), "").health.selection;
        assert_eq!(
            policy.min_healthy,
            Fraction::from_thousandths(thousandths),
            "{written}"
        );
    }
}

#[test]
fn unusable_policies() {
    check_refusals(&[
        (
            &[6],
            "port = 21050\nmin_healthy = 50",
            "7: service[impala].min_healthy: expected a number from 0 to 1, found the integer 50; write 0.5 for the half",
        ),
        (
            &[6],
            "port = 21050\nmin_healthy = nan\nslow_start = \"2d\"",
            "7: service[impala].min_healthy: expected a number from 0 to 1, found the float nan; write 0.5 for the half\n\
                 8: service[impala].slow_start: expected a duration from \"0s\" to \"1d\", found \"2d\"; leave the key out for none",
        ),
        (
            &[6],
            "port = 21050\nfailback = \"never\"\non_down = \"rest\"",
            "7: service[impala].failback: expected one of \"auto\", \"manual\", found \"never\"; use one of \"auto\", \"manual\"\n\
                 8: service[impala].on_down: expected one of \"reset\", \"keep\", found \"rest\"; did you mean \"reset\"?",
        ),
    ]);
}

#[test]
fn unusable_values() {
    refuse_checks(&[
        (
            "type = \"tcp\"\ninterval = 2",
            "9: service[impala].check.interval: expected a duration from \"100ms\" to \"1h\", found the integer 2; write a whole number and a unit in quotes: ms, s, m, h or d",
        ),
        (
            "type = \"tcp\"\ninterval = \"2\"",
            "9: service[impala].check.interval: expected a duration from \"100ms\" to \"1h\", found \"2\"; write a whole number and one unit: ms, s, m, h or d",
        ),
        (
            "type = \"tcp\"\ntimeout = \"2m\"\nrise = 0",
            "9: service[impala].check.timeout: expected a duration from \"10ms\" to \"1m\", found \"2m\"; leave the key out to get \"2s\"\n\
             10: service[impala].check.rise: expected an integer from 1 to 100, found the integer 0; leave the key out to get 2",
        ),
        (
            "type = \"http\"\npath = \"ready\"",
            "9: service[impala].check.path: expected a path of at most 1024 characters that begins with '/', found \"ready\"; write it as in a URL, with %20 for a space",
        ),
        (
            "type = \"http\"\npath = \"/a b\\r\\nHost: c\"",
            "9: service[impala].check.path: expected a path of at most 1024 characters that begins with '/', found \"/a b\\r\\nHost: c\"; write it as in a URL, with %20 for a space",
        ),
        (
            "type = \"https\"\nca_file = \"ca.pem\"\nserver_name = \"a..b\"\nverify = \"yes\"",
            "9: service[impala].check.ca_file: expected the absolute path of a file, found \"ca.pem\"; begin it with '/'\n\
             10: service[impala].check.server_name: expected a DNS name or an IP address, found \"a..b\"; write what the certificate bears\n\
             11: service[impala].check.verify: expected true or false, found \"yes\"; write it without quotes",
        ),
        (
            "type = \"hs2\"\nauth = \"kerberos\"",
            "9: service[impala].check.auth: expected one of \"none\", \"sasl\", found \"kerberos\"; use one of \"none\", \"sasl\"",
        ),
    ]);
}

#[test]
fn keys_that_contradict_each_other() {
    refuse_checks(&[
        (
            "type = \"tcp\"\npath = \"/\"\nauth = \"sasl\"",
            "9: service[impala].check.path: expected a key of a check with type = \"tcp\", found one of the type http, https; remove it or change the type\n\
             10: service[impala].check.auth: expected a key of a check with type = \"tcp\", found one of the type hs2, impala; remove it or change the type",
        ),
        (
            "interval = \"2s\"",
            "8: service[impala].check.interval: expected a key of a check with type = \"none\", found one of the type tcp, http, https, hs2, impala, active-status; remove it or change the type",
        ),
        (
            "type = \"tcp\"\nfast_interval = \"3s\"",
            "9: service[impala].check.fast_interval: expected at most the interval, 2s, found 3s; lower it or leave it out",
        ),
        (
            "type = \"hs2\"\nserver_name = \"impala\"",
            "9: service[impala].check.server_name: expected this key only with TLS, found it without; add `tls = true`, or remove it",
        ),
        (
            "type = \"https\"\nca_file = \"/ca.pem\"\nverify = false",
            "9: service[impala].check.ca_file: expected no CA file together with verify = false, found one; remove one of the two",
        ),
        (
            "type = \"active-status\"",
            "7: service[impala].check.web_port: expected this key with type = \"active-status\", found none; add `web_port = 25020` for catalogd or `web_port = 25010` for statestored",
        ),
        // One mistake is one error: the keys may fit the type that was meant.
        (
            "type = \"htpp\"\npath = \"/\"",
            "8: service[impala].check.type: expected one of \"none\", \"tcp\", \"http\", \"https\", \"hs2\", \"impala\", \"active-status\", found \"htpp\"; did you mean \"http\"?",
        ),
        (
            "type = \"tcp\"\nintervall = \"2s\"",
            "9: service[impala].check.intervall: expected a key of [service.check], found \"intervall\"; did you mean `interval`?",
        ),
    ]);
}

proptest! {
    #[test]
    fn no_table_of_a_check_makes_it_panic(
        keys in prop::collection::vec(
            (
                prop::sample::select(vec![
                    "type", "interval", "fast_interval", "timeout", "rise", "port", "web_port", "path", "auth", "tls",
                    "ca_file", "server_name", "verify", "metric", "source",
                ]),
                prop::sample::select(vec![
                    "\"tcp\"", "\"https\"", "\"impala\"", "\"active-status\"", "\"2s\"", "\"9ms\"", "1", "-1", "true",
                    "\"/\"", "\"sasl\"", "[]", "{}", "1.5", "\"\"", "\"10.0.0.1\"", "99999999999999999999",
                ]),
            ),
            0..8,
        ),
    ) {
        let lines: Vec<String> = keys.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        let text = text("", &lines.join("\n"));
        let parsed = super::super::parse("lb.toml", &text, &super::host());
        if let Ok(config) = parsed {
            let check = &config.services[0].check;
            prop_assert!(check.pace.fast_interval <= check.pace.interval);
            prop_assert!(check.kind != CheckKind::Https || check.tls.is_some());
        }
    }
}

#[test]
fn weights_follow_a_load_that_is_asked_for() {
    let service = service("balance = \"load\"", "type = \"impala\"");
    assert_eq!(service.balance, Balance::Load);
    for (check, found) in [("type = \"hs2\"", "hs2"), ("", "none")] {
        let errors = refuse(&text("balance = \"load\"", check));
        let expected = format!(
            "lb.toml:7: service[impala].balance: expected a check with type = \"impala\", which asks coordinators for their load, \
             found type = \"{found}\"; write it into [service.check], or use \"hash\""
        );
        assert_eq!(errors, expected);
    }
    let errors = refuse(&text("balance = \"load\"", "type = \"impalad\""));
    assert_eq!(errors.lines().count(), 1, "the one mistake says it: {errors}");
}
