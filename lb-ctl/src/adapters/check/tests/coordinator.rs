//! Coordinators whose client port and web pages agree, disagree, or are not there.

use super::super::{ClientPort, WebPort};
use super::client_port::reply;
use super::servers::{answering, endless, http, mute, nobody, pages, stopping_after};
use super::*;
use crate::core::health::Load;
use crate::core::health::probe::Authentication;

const METRICS: &str = r#"{
    "impala.thrift-server.hiveserver2-frontend.connections-in-use": 12,
    "impala-server.num-queries-registered": 3,
    "process-start-time": "2026-01-02 03:04:05.000006"
}"#;

async fn healthy_port() -> u16 {
    answering(reply("Invalid session id: 0:0\n")).await
}

fn coordinator(client: u16, web: u16) -> Probe {
    Probe::Coordinator {
        client: ClientPort {
            port: client,
            tls: None,
            authentication: Authentication::None,
        },
        web: WebPort { port: web, tls: None },
    }
}

#[tokio::test]
async fn a_healthy_one_tells_its_load_and_when_it_started() {
    let web = pages(vec![
        ("/healthz", http("200 OK", "OK")),
        ("/jsonmetrics", http("200 OK", METRICS)),
    ])
    .await;
    let outcome = find(coordinator(healthy_port().await, web), PLENTY).await;
    assert_eq!(outcome.verdict, Verdict::Healthy, "{}", outcome.detail);
    let load = Load {
        connections: Some(12),
        queries: Some(3),
        ..Load::default()
    };
    assert_eq!(outcome.load, Some(load));
    assert_eq!(
        outcome.process_start_time.as_deref(),
        Some("2026-01-02 03:04:05.000006")
    );
}

#[tokio::test]
async fn one_that_is_shutting_down_is_quiescing_although_its_page_is_well() {
    let web = pages(vec![("/healthz", http("200 OK", "OK"))]).await;
    let client = answering(reply(
        "Server is being shut down: queries registered on coordinator: 1.\n",
    ))
    .await;
    assert_eq!(
        find(coordinator(client, web), PLENTY).await.verdict,
        Verdict::Quiescing
    );
}

#[tokio::test]
async fn one_that_is_not_ready_fails_although_its_port_answers() {
    let web = pages(vec![(
        "/healthz",
        http("503 Service Unavailable", "Not Available"),
    )])
    .await;
    let outcome = find(coordinator(healthy_port().await, web), PLENTY).await;
    assert_eq!(outcome.verdict, FAILING);
    assert!(
        outcome.detail.starts_with("not ready: /healthz answered 503"),
        "{}",
        outcome.detail
    );
}

#[tokio::test]
async fn missing_pages_do_not_fail_the_check() {
    for web in [
        nobody().await,
        pages(vec![]).await,
        answering("garbage\r\n\r\n").await,
    ] {
        let outcome = find(coordinator(healthy_port().await, web), PLENTY).await;
        assert_eq!(outcome.verdict, Verdict::Healthy, "{}", outcome.detail);
        assert!(outcome.detail.contains("/healthz: "), "{}", outcome.detail);
        assert_eq!((outcome.load, outcome.process_start_time), (None, None));
    }
}

#[tokio::test]
async fn pages_that_never_end_do_not_fail_the_check() {
    let web = endless("HTTP/1.1 200 OK\r\n\r\n", r#"{"a": ["#).await;
    let outcome = find(coordinator(healthy_port().await, web), PLENTY).await;
    assert_eq!(
        (outcome.verdict, outcome.load),
        (Verdict::Healthy, None),
        "{}",
        outcome.detail
    );
}

#[tokio::test]
async fn pages_that_are_late_do_not_count_as_its_latency() {
    // The server of the client port answers at once, its pages never.
    let web = stopping_after("").await;
    let limit = Duration::from_secs(3);
    let outcome = find(coordinator(healthy_port().await, web), limit).await;
    assert_eq!(outcome.verdict, Verdict::Healthy, "{}", outcome.detail);
    assert!(outcome.latency < limit);
}

#[tokio::test]
async fn a_dead_one_is_unreachable() {
    let outcome = find(coordinator(nobody().await, nobody().await), PLENTY).await;
    assert_eq!(outcome.verdict, UNREACHABLE);
    let web = pages(vec![("/healthz", http("200 OK", "OK"))]).await;
    let outcome = find(coordinator(nobody().await, web), PLENTY).await;
    assert_eq!(
        outcome.verdict, UNREACHABLE,
        "a refused client port serves nobody"
    );
}

#[tokio::test]
async fn one_whose_port_is_mute_but_whose_page_is_well_is_saturated() {
    let (client, _full) = mute().await;
    let web = pages(vec![("/healthz", http("200 OK", "OK"))]).await;
    // Time enough for the page.
    let outcome = find(coordinator(client, web), Duration::from_secs(5)).await;
    assert_eq!(outcome.verdict, Verdict::Saturated, "{}", outcome.detail);
    let outcome = find(coordinator(client, nobody().await), LITTLE).await;
    assert_eq!(outcome.verdict, SILENT);
}
