//! Seeds that answer well, otherwise, slowly, or not at all.

use std::time::Instant;

use tokio::time::timeout;

use super::*;
use crate::adapters::check::tests::servers::{answering, dripping, http, mute, nobody, pages};
use crate::adapters::check::tests::tls::Authority;
use crate::core::discovery::PAGE_LIMIT;

/// Longer than anything takes on a busy machine.
const PLENTY: Duration = Duration::from_secs(30);

const PAGE: &str = r#"{"backends": [
    {"address": "impala1:27000", "krpc_address": "192.0.2.21:27000", "is_coordinator": true, "is_quiescing": false},
    {"address": "localhost:27000", "krpc_address": "[2001:db8::22]:27000", "is_coordinator": true, "is_quiescing": true}
]}"#;

fn order(host: &str, port: u16) -> Order {
    Order {
        seed: Seed {
            host: host.to_owned(),
            port,
        },
        interval: Duration::from_secs(10),
        timeout: PLENTY,
        source: None,
        tls: None,
        vip: [192, 0, 2, 10].into(),
        any_family: false,
    }
}

#[tokio::test]
async fn a_page_is_read_and_its_names_are_looked_up() {
    let port = pages(vec![("/backends?json", http("200 OK", PAGE))]).await;
    for host in ["127.0.0.1", "localhost"] {
        let found = read(&order(host, port)).await.unwrap();
        let shown: Vec<_> = found
            .iter()
            .map(|it| (it.name.as_str(), it.addresses.clone(), it.is_quiescing))
            .collect();
        assert_eq!(
            shown,
            [
                ("impala1", vec![[192, 0, 2, 21].into()], false),
                // It was looked up; but nobody else can be reached at a loopback address.
                ("localhost", vec![], true),
            ],
            "{host}"
        );
    }
    let tunnel = Order {
        any_family: true,
        ..order("127.0.0.1", port)
    };
    let found = read(&tunnel).await.unwrap();
    assert_eq!(found[1].addresses, ["2001:db8::22".parse::<IpAddr>().unwrap()]);
}

#[tokio::test]
async fn what_is_no_page_is_an_error_in_words() {
    let long = " ".repeat(PAGE_LIMIT + 1);
    for (answer, words) in [
        (http("200 OK", ""), "expected the page /backends?json"),
        (http("200 OK", "{}"), "missing field `backends`"),
        (
            http("200 OK", r#"{"backends": []}"#),
            "found none among 0 backends",
        ),
        (http("200 OK", &long), "found a longer one"),
        (http("401 Unauthorized", PAGE), "found 401"),
        (http("302 Found", PAGE), "redirections are not followed"),
        (
            "SSH-2.0-OpenSSH_9.2\r\n".to_owned(),
            "expected an answer for /backends?json",
        ),
        (
            http("200 OK", PAGE).replace("}\n]}", ""),
            "expected an answer for /backends?json",
        ),
    ] {
        let port = answering(answer).await;
        let error = read(&order("127.0.0.1", port)).await.unwrap_err();
        assert!(error.contains(words), "expected {words:?} in {error:?}");
    }
    let error = read(&order("127.0.0.1", nobody().await)).await.unwrap_err();
    assert!(error.contains("Connection refused"), "{error}");
    let error = read(&order("no.such.host.invalid", 25000)).await.unwrap_err();
    assert!(error.contains("no.such.host.invalid"), "{error}");
}

#[tokio::test]
async fn a_reading_has_one_time_limit() {
    let drips = dripping(http("200 OK", PAGE), Duration::from_millis(100)).await;
    let (silent, _queue) = mute().await;
    for port in [drips, silent] {
        let began = Instant::now();
        let hurried = Order {
            timeout: Duration::from_millis(300),
            ..order("127.0.0.1", port)
        };
        assert!(read(&hurried).await.is_err());
        assert!(began.elapsed() < PLENTY, "it ends");
    }
}

#[tokio::test]
async fn certificates_are_looked_at() {
    let authority = Authority::new("discovery");
    let port = authority
        .server("localhost", http("200 OK", PAGE).into_bytes())
        .await;
    let trusting = |name: &str| Order {
        tls: Some(authority.trusted(Some(name))),
        ..order("127.0.0.1", port)
    };
    assert_eq!(read(&trusting("localhost")).await.unwrap().len(), 2);
    let error = read(&trusting("elsewhere")).await.unwrap_err();
    assert!(error.contains("TLS handshake failed"), "{error}");
}

#[tokio::test]
async fn pages_are_read_again_and_again_until_others_are_assigned() {
    let port = pages(vec![("/backends?json", http("200 OK", PAGE))]).await;
    let often = Order {
        interval: Duration::from_millis(10),
        ..order("127.0.0.1", port)
    };
    let (mut reader, mut answers) = Reader::new(1);
    reader.assign([("impala", often.clone())]);
    for _ in 0..3 {
        let answer = timeout(PLENTY, answers.recv()).await.unwrap().unwrap();
        assert_eq!(
            (answer.service, answer.seed),
            ("impala", format!("127.0.0.1:{port}"))
        );
        assert_eq!(answer.page.unwrap().len(), 2);
    }
    let elsewhere = order("127.0.0.1", nobody().await);
    reader.assign([("impala", elsewhere.clone())]);
    let other = async {
        loop {
            let answer = answers.recv().await.unwrap();
            if answer.seed == elsewhere.seed.to_string() {
                return answer;
            }
        }
    };
    assert!(timeout(PLENTY, other).await.unwrap().page.is_err());
    drop(reader);
    let end = async { while answers.recv().await.is_some() {} };
    timeout(PLENTY, end).await.expect("the tasks have ended");
}
