//! A small HTTP client for the web pages of the stand-in and the balancer.

use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its body, as text.
    pub body: String,
}

/// Sends a request without a body to `authority` ("host:port") and reads the whole answer, within `timeout`.
pub async fn request(method: Method, authority: &str, path: &str, timeout: Duration) -> Result<Answer> {
    let what = format!("{method} http://{authority}{path}");
    let exchange = async {
        let stream = TcpStream::connect(authority).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, authority)
            .header(header::CONNECTION, "close")
            .body(Body::empty())?;
        let answer = async move {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            let body = answer.into_body().collect().await?.to_bytes();
            anyhow::Ok(Answer {
                status,
                body: String::from_utf8_lossy(&body).into_owned(),
            })
        };
        // The connection does the reading and writing, and ends after the answer; its own error shows in `answer`.
        let (answer, _) = tokio::join!(answer, connection);
        answer
    };
    match tokio::time::timeout(timeout, exchange).await {
        Ok(answer) => answer.with_context(|| what),
        Err(_) => anyhow::bail!("{what}: no answer within {timeout:?}"),
    }
}

/// [`request`] for callers that are not asynchronous.
pub fn request_blocking(method: Method, authority: &str, path: &str, timeout: Duration) -> Result<Answer> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(request(method, authority, path, timeout))
}
