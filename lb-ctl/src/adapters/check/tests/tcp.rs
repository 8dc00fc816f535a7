//! Connections that come about, and those that do not.

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::servers::{mute, nobody, stopping_after};
use super::*;

#[tokio::test]
async fn a_port_that_accepts_is_healthy() {
    let port = stopping_after("").await;
    let outcome = find(Probe::Tcp { port }, PLENTY).await;
    assert_eq!(
        (outcome.verdict, outcome.detail.as_str()),
        (Verdict::Healthy, "connected")
    );
}

#[tokio::test]
async fn a_refused_connection_is_a_failure() {
    let port = nobody().await;
    let outcome = find(Probe::Tcp { port }, PLENTY).await;
    assert_eq!(outcome.verdict, UNREACHABLE);
    assert_eq!(
        outcome.detail,
        format!("port {port}: Connection refused (os error 111)")
    );
}

#[tokio::test]
async fn an_attempt_that_nobody_answers_is_a_failure() {
    let (port, _full) = mute().await;
    let outcome = find(Probe::Tcp { port }, LITTLE).await;
    assert_eq!(outcome.verdict, SILENT);
    assert_eq!(
        outcome.detail,
        format!("port {port}: no connection within 200 ms")
    );
    assert!(outcome.latency >= LITTLE);
}

#[tokio::test]
async fn checks_come_from_the_address_that_they_are_given() {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let target = Target {
        address: LOOPBACK,
        source: Some(IpAddr::from([127, 0, 0, 77])),
        timeout: PLENTY,
        probe: Probe::Tcp {
            port: listener.local_addr().unwrap().port(),
        },
    };
    let (accepted, outcome) = tokio::join!(listener.accept(), check(&target));
    let (mut stream, peer) = accepted.unwrap();
    assert_eq!(Some(peer.ip()), target.source);
    assert_eq!(outcome.unwrap().verdict, Verdict::Healthy);
    // It has been closed with the check; what was written to it is of no interest.
    let _ = stream.shutdown().await;
}

#[tokio::test]
async fn a_source_that_is_not_ours_is_our_own_trouble() {
    let port = stopping_after("").await;
    let target = Target {
        address: LOOPBACK,
        source: Some(IpAddr::from([192, 0, 2, 77])),
        timeout: PLENTY,
        probe: Probe::Tcp { port },
    };
    let error = check(&target).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("no check of 127.0.0.1:{port} is possible: Cannot assign requested address (os error 99)")
    );
}
