//! HiveServer2 ports that answer well, otherwise, slowly, endlessly, or not at all.

use super::super::ClientPort;
use super::servers::{answering, dripping, endless, http, nobody, stopping_after};
use super::*;
use crate::core::health::probe::Authentication;

/// An answer with `ERROR_STATUS` and these words.
pub(super) fn reply(message: &str) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [
        &b"\x80\x01\0\x02\0\0\0\x07GetInfo\0\0\0\x01"[..],
        // Field 0 of the reply, its field 1, the status; its field 1, the code; its field 5, the message.
        b"\x0c\0\0\x0c\0\x01\x08\0\x01\0\0\0\x03\x0b\0\x05",
        &length,
        message.as_bytes(),
        // The end of the status, an empty info value, the ends of the response and of the reply.
        b"\0\x0c\0\x02\0\0\0",
    ]
    .concat()
}

const INVALID_SESSION: &str = "Invalid session id: 0000000000000000:0000000000000000\n";
const SASL_REFUSAL: &[u8] = b"\x03\0\0\0\x15Unsupported mechanism";

fn plain(port: u16) -> Probe {
    Probe::HiveServer2(ClientPort {
        port,
        tls: None,
        authentication: Authentication::None,
    })
}

fn sasl(port: u16) -> Probe {
    Probe::HiveServer2(ClientPort {
        port,
        tls: None,
        authentication: Authentication::Sasl,
    })
}

#[tokio::test]
async fn what_coordinators_say_is_understood() {
    for (message, verdict) in [
        (INVALID_SESSION, Verdict::Healthy),
        (
            "Server is being shut down: queries registered on coordinator: 3.\n",
            Verdict::Quiescing,
        ),
        ("out of memory", FAILING),
    ] {
        let port = answering(reply(message)).await;
        let outcome = find(plain(port), PLENTY).await;
        assert_eq!(outcome.verdict, verdict, "{}", outcome.detail);
        assert!(outcome.detail.contains(message.trim_end()), "{}", outcome.detail);
    }
    let port = answering(SASL_REFUSAL).await;
    assert_eq!(find(sasl(port), PLENTY).await.verdict, Verdict::Healthy);
}

#[tokio::test]
async fn an_answer_is_not_waited_for_longer_than_it_is() {
    // The server keeps the connection open, as coordinators do.
    let port = stopping_after(reply(INVALID_SESSION)).await;
    assert_eq!(find(plain(port), PLENTY).await.verdict, Verdict::Healthy);
}

#[tokio::test]
async fn half_an_answer_is_none() {
    let whole = reply(INVALID_SESSION);
    let half = &whole[..whole.len() / 2];
    let port = stopping_after(half).await;
    assert_eq!(find(plain(port), LITTLE).await.verdict, Verdict::Saturated);
    let port = answering(half).await;
    let outcome = find(plain(port), PLENTY).await;
    assert_eq!(outcome.verdict, FAILING);
    assert_eq!(
        outcome.detail,
        format!(
            "port {port}: the connection was closed after {} bytes of an answer",
            half.len()
        )
    );
}

#[tokio::test]
async fn silence_is_saturation() {
    for probe in [plain, sasl] {
        let port = stopping_after("").await;
        assert_eq!(find(probe(port), LITTLE).await.verdict, Verdict::Saturated);
    }
}

#[tokio::test]
async fn one_byte_at_a_time_is_enough_if_it_is_in_time() {
    let port = dripping(reply(INVALID_SESSION), Duration::from_millis(1)).await;
    assert_eq!(find(plain(port), PLENTY).await.verdict, Verdict::Healthy);
    let port = dripping(reply(INVALID_SESSION), Duration::from_secs(1)).await;
    assert_eq!(find(plain(port), LITTLE).await.verdict, Verdict::Saturated);
}

#[tokio::test]
async fn other_protocols_fail() {
    for answer in [
        http("400 Bad Request", "").into_bytes(),
        SASL_REFUSAL.to_vec(),
        vec![0; 100],
    ] {
        let port = answering(answer.clone()).await;
        assert_eq!(find(plain(port), PLENTY).await.verdict, FAILING, "{answer:?}");
    }
    for answer in [
        http("400 Bad Request", "").into_bytes(),
        reply(INVALID_SESSION),
        vec![0; 100],
    ] {
        let port = answering(answer.clone()).await;
        assert_eq!(find(sasl(port), PLENTY).await.verdict, FAILING, "{answer:?}");
    }
}

#[tokio::test]
async fn a_port_that_wants_another_begin_gets_a_hint() {
    let port = answering("").await;
    let detail = find(plain(port), PLENTY).await.detail;
    assert!(
        detail.ends_with("; if it wants Kerberos, LDAP or TLS, say so"),
        "{detail}"
    );
    let detail = find(sasl(port), PLENTY).await.detail;
    assert!(
        detail.ends_with("; if it wants neither Kerberos nor LDAP, leave SASL out"),
        "{detail}"
    );
}

#[tokio::test]
async fn megabytes_are_not_read() {
    let begin = b"\x80\x01\0\x02\0\0\0\x07GetInfo\0\0\0\x01";
    // Fields without end; a text that claims to be long; noise.
    for (begin, more) in [
        (&begin[..], &b"\x02\0\x09\x01"[..]),
        (b"\x80\x01\0\x02\x7f\xff\xff\xff", b"x"),
        (b"", b"noise"),
    ] {
        let port = endless(begin, more).await;
        let outcome = find(plain(port), PLENTY).await;
        assert_eq!(outcome.verdict, FAILING, "{}", outcome.detail);
    }
    let port = endless(b"\x03\0\x7f\xff\xff", b"x").await;
    assert_eq!(find(sasl(port), PLENTY).await.verdict, FAILING);
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    assert_eq!(find(plain(nobody().await), PLENTY).await.verdict, UNREACHABLE);
}

#[test]
fn any_answer_comes_to_an_end() {
    use proptest::prelude::*;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let config = ProptestConfig::with_cases(64);
    let whole = reply(INVALID_SESSION);
    proptest!(config, |(place in 0..whole.len(), value: u8, end in 0..=whole.len())| {
        let mut bytes = whole.clone();
        bytes[place] = value;
        bytes.truncate(end);
        let outcome = runtime.block_on(async { find(plain(answering(bytes).await), PLENTY).await });
        prop_assert!(matches!(outcome.verdict, Verdict::Healthy | FAILING), "{outcome:?}");
    });
}
