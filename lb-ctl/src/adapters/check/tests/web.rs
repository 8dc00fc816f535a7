//! Web servers that answer well, otherwise, slowly, endlessly, or not at all.

use super::super::{Tls, WebPort};
use super::servers::{answering, dripping, endless, http, nobody, pages, read_some, serve, stopping_after};
use super::*;

fn page_at(port: u16, tls: Option<Tls>) -> Probe {
    Probe::Web {
        web: WebPort { port, tls },
        path: "/ready".to_owned(),
    }
}

fn page(port: u16) -> Probe {
    page_at(port, None)
}

#[tokio::test]
async fn answers_from_200_to_299_are_healthy() {
    for status in ["200 OK", "204 No Content", "299 Odd"] {
        let port = pages(vec![("/ready", http(status, ""))]).await;
        let outcome = find(page(port), PLENTY).await;
        assert_eq!(outcome.verdict, Verdict::Healthy, "{status}");
        assert_eq!(outcome.detail, format!("/ready answered {}", &status[..3]));
    }
}

#[tokio::test]
async fn other_answers_fail() {
    for status in ["302 Found", "404 Not Found", "503 Not Available"] {
        let port = pages(vec![("/ready", http(status, ""))]).await;
        let outcome = find(page(port), PLENTY).await;
        assert_eq!(outcome.verdict, FAILING, "{status}");
        assert!(outcome.detail.contains(&status[..3]), "{}", outcome.detail);
    }
    let port = pages(vec![("/", http("200 OK", ""))]).await;
    assert_eq!(
        find(page(port), PLENTY).await.verdict,
        FAILING,
        "another path is another page"
    );
}

#[tokio::test]
async fn redirections_are_not_followed() {
    let answer = "HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n".to_owned();
    let port = pages(vec![("/ready", answer), ("/there", http("200 OK", ""))]).await;
    let outcome = find(page(port), PLENTY).await;
    assert_eq!(outcome.verdict, FAILING);
    assert_eq!(
        outcome.detail,
        "expected /ready to answer 200 to 299, found 302; redirections are not followed, name the page itself"
    );
}

#[tokio::test]
async fn what_is_not_http_fails() {
    for garbage in [
        &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
        b"\0\xff\x80\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200",
    ] {
        let port = answering(garbage).await;
        assert_eq!(find(page(port), PLENTY).await.verdict, FAILING, "{garbage:?}");
    }
    let port = answering("").await;
    let outcome = find(page(port), PLENTY).await;
    assert_eq!(outcome.verdict, FAILING);
    assert!(
        outcome.detail.starts_with("expected an answer for /ready, found"),
        "{}",
        outcome.detail
    );
}

#[tokio::test]
async fn a_server_that_does_not_finish_is_saturated() {
    for begin in [
        "",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n",
    ] {
        let port = stopping_after(begin).await;
        let outcome = find(page(port), LITTLE).await;
        assert_eq!(outcome.verdict, Verdict::Saturated, "{begin:?}");
        assert_eq!(
            outcome.detail,
            "connected, but there was no complete answer within 200 ms"
        );
    }
}

#[tokio::test]
async fn one_byte_at_a_time_is_enough_if_it_is_in_time() {
    let answer = http("200 OK", "OK");
    let port = dripping(answer.clone(), Duration::from_millis(1)).await;
    assert_eq!(find(page(port), PLENTY).await.verdict, Verdict::Healthy);
    let port = dripping(answer, Duration::from_secs(1)).await;
    assert_eq!(find(page(port), LITTLE).await.verdict, Verdict::Saturated);
}

#[tokio::test]
async fn megabytes_are_not_waited_for() {
    let port = endless("HTTP/1.1 200 OK\r\n\r\n", "more ").await;
    assert_eq!(find(page(port), PLENTY).await.verdict, Verdict::Healthy);
    let port = endless("HTTP/1.1 200 OK\r\n", "X-More: and more\r\n").await;
    assert_eq!(find(page(port), PLENTY).await.verdict, FAILING);
    let port = endless("HTTP/1.1 200 OK\r\nX-More: ", "and more ").await;
    assert_eq!(find(page(port), PLENTY).await.verdict, FAILING);
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    assert_eq!(find(page(nobody().await), PLENTY).await.verdict, UNREACHABLE);
}

#[tokio::test]
async fn the_active_one_of_a_pair_is_told_apart() {
    let status = |body: &str| http("200 OK", body);
    for (answer, expected) in [
        (
            status(r#"{"catalog-server.active-status": true}"#),
            Verdict::Healthy,
        ),
        (
            status(r#"{"catalog-server.active-status": false}"#),
            Verdict::Failed(Failure::Standby),
        ),
        (status("{}"), FAILING),
        (status("<html>"), FAILING),
        (http("401 Unauthorized", ""), FAILING),
    ] {
        let port = pages(vec![("/jsonmetrics", answer.clone())]).await;
        let web = WebPort { port, tls: None };
        let outcome = find(Probe::ActiveStatus { web, metric: None }, PLENTY).await;
        assert_eq!(outcome.verdict, expected, "{answer}: {}", outcome.detail);
    }
}

#[test]
fn any_answer_comes_to_an_end() {
    use proptest::prelude::*;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let config = ProptestConfig::with_cases(64);
    proptest!(config, |(bytes in prop::collection::vec(any::<u8>(), 0..200), begin in "(HTTP/1.1 200 OK\r\n)?")| {
        let outcome = runtime.block_on(async {
            let port = answering([begin.as_bytes(), &bytes].concat()).await;
            find(page(port), PLENTY).await
        });
        prop_assert!(matches!(outcome.verdict, Verdict::Healthy | FAILING), "{outcome:?}");
    });
}

#[tokio::test]
async fn the_request_is_what_servers_expect() {
    let (send, mut received) = tokio::sync::mpsc::channel(1);
    let port = serve(move |mut stream| {
        let send = send.clone();
        async move {
            let request = read_some(&mut stream).await?;
            let _ = send.send(request).await;
            Ok(())
        }
    })
    .await;
    find(page(port), PLENTY).await;
    assert_eq!(
        String::from_utf8(received.recv().await.unwrap()).unwrap(),
        format!(
            "GET /ready HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nuser-agent: lb-ctl\r\nconnection: close\r\n\r\n"
        )
    );
}
