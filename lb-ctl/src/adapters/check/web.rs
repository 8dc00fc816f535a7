//! One page over HTTP/1.1, as much of it as is wanted.

use std::net::SocketAddr;
use std::pin::pin;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;

use super::connection::{Connector, Stream, Trouble};
use super::target::WebPort;
use crate::core::health::probe::Finding;
use crate::core::health::probe::coordinator::HealthPage;
use crate::core::health::{Failure, Verdict};

/// The most bytes of status line and headers.
const HEAD_LIMIT: usize = 16 * 1024;
/// The most headers.
const HEADERS_LIMIT: usize = 64;

/// An answer.
#[derive(Debug)]
pub(in crate::adapters) struct Answer {
    pub(super) status: StatusCode,
    /// The begin of the body, as much as was asked for.
    pub(in crate::adapters) body: Vec<u8>,
}

impl Answer {
    /// What the status means for a page that should be there.
    pub(in crate::adapters) fn finding(&self, path: &str) -> Finding {
        let status = self.status.as_u16();
        if self.status.is_success() {
            return Finding::new(Verdict::Healthy, format!("{path} answered {status}"));
        }
        let hint = if self.status.is_redirection() {
            "; redirections are not followed, name the page itself"
        } else {
            ""
        };
        Finding::new(
            Verdict::Failed(Failure::Failing),
            format!("expected {path} to answer 200 to 299, found {status}{hint}"),
        )
    }

    /// What the status of Impala's `/healthz` means.
    pub(super) fn health_page(&self) -> HealthPage {
        match self.status {
            StatusCode::OK => HealthPage::Ok,
            StatusCode::SERVICE_UNAVAILABLE => HealthPage::NotAvailable,
            other => HealthPage::Unknown(format!("answered {}", other.as_u16())),
        }
    }
}

/// Asks for a page and reads up to `limit` bytes of it. Always with GET: Impala answers everything else with 200.
pub(in crate::adapters) async fn get(
    connector: &Connector,
    web: &WebPort,
    path: &str,
    limit: usize,
) -> Result<Answer, Trouble> {
    let authority = SocketAddr::new(connector.address, web.port).to_string();
    let stream = connector.open(web.port, web.tls.as_ref()).await?;
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, "lb-ctl")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Trouble::broken(&format!("{path:?} is no path"), &error))?;
    connector
        .deadline
        .or_late(async {
            converse(stream, request, limit)
                .await
                .map_err(|error| Trouble::broken(&format!("expected an answer for {path}, found"), &error))
        })
        .await
}

async fn converse(
    stream: Box<dyn Stream>,
    request: Request<Empty<Bytes>>,
    limit: usize,
) -> hyper::Result<Answer> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_LIMIT)
        .max_headers(HEADERS_LIMIT)
        .handshake(TokioIo::new(stream))
        .await?;
    let answer = async move { read(sender.send_request(request).await?, limit).await };
    let (mut answer, mut connection) = (pin!(answer), pin!(connection));
    // The connection does the reading and writing. Its own error, if it has one, shows in the answer; and once there is an
    // answer it does not matter what else the server sends.
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = &mut connection => answer.await,
    }
}

async fn read(response: Response<Incoming>, limit: usize) -> hyper::Result<Answer> {
    let status = response.status();
    let mut incoming = response.into_body();
    let mut body = Vec::new();
    while body.len() < limit
        && let Some(frame) = incoming.frame().await
    {
        if let Some(data) = frame?.data_ref() {
            let room = (limit - body.len()).min(data.len());
            body.extend_from_slice(data.get(..room).unwrap_or_default());
        }
    }
    Ok(Answer { status, body })
}
