//! Health checks over the network: one function per check, and a scheduler that runs them at their times.
//!
//! A check has one time limit for all that it does, and a bound on what it reads; whatever the other end does, it ends.
//! Its connections are its own and are closed with it. What is found is judged by the readers in
//! [`core::health`](crate::core::health); what is decided here is only what a broken connection means:
//!
//! | what happens | verdict |
//! | --- | --- |
//! | the connection is refused | failed, unreachable |
//! | no answer to the attempt in time, or the kernel knows no way | failed, silent |
//! | a connection, but no complete answer in time, not even a TLS handshake | saturated |
//! | a connection, but a wrong answer, a wrong certificate, or none at all before the end | failed, failing |
//! | no socket, no port, no such source address: our own trouble | none: [`NotChecked`] |

mod client_port;
pub(in crate::adapters) mod connection;
mod scheduler;
mod target;
mod tls;
pub(in crate::adapters) mod web;

#[cfg(test)]
pub(in crate::adapters) mod tests;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::core::health::probe::metrics::Metrics;
use crate::core::health::probe::{Finding, coordinator};
use crate::core::health::{Failure, Outcome, Verdict};

pub use scheduler::{Assignment, Report, Scheduler};
pub use target::{ClientPort, Probe, Target, WebPort, targets};
pub use tls::{Tls, TlsError, TlsOptions};

use connection::Deadline;
use connection::{Connector, Trouble};

/// The balancer itself could not check: that says nothing about the backend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no check of {address} is possible: {reason}")]
pub struct NotChecked {
    /// What was to be connected to.
    pub address: SocketAddr,
    /// The kernel's reason.
    pub reason: String,
}

/// Checks a backend once.
pub async fn check(target: &Target) -> Result<Outcome, NotChecked> {
    let began = Instant::now();
    let connector = Connector {
        address: target.address,
        source: target.source,
        deadline: Deadline::after(began, target.timeout),
    };
    let outcome = |finding: Finding| Outcome::new(finding.verdict, began.elapsed(), &finding.detail);
    match &target.probe {
        Probe::Tcp { port } => {
            let finding = match connector.connect(*port).await {
                Ok(_) => Finding::new(Verdict::Healthy, "connected"),
                Err(trouble) => trouble.finding()?,
            };
            Ok(outcome(finding))
        }
        Probe::Web { web, path } => {
            let finding = match web::get(&connector, web, path, 0).await {
                Ok(answer) => answer.finding(path),
                Err(trouble) => trouble.finding()?,
            };
            Ok(outcome(finding))
        }
        Probe::HiveServer2(port) => {
            let finding = match client_port::ask(&connector, port).await {
                Ok(finding) => finding,
                Err(trouble) => trouble.finding()?,
            };
            Ok(outcome(finding))
        }
        Probe::Coordinator { client, web } => {
            // Boxed: three conversations at once are larger than all other checks.
            Box::pin(check_coordinator(&connector, client, web, began)).await
        }
        Probe::ActiveStatus { web, metric } => {
            let finding = match metrics(&connector, web).await {
                Ok(Ok(metrics)) => metrics.active_status(metric.as_deref()),
                Ok(Err(what)) => Finding::new(Verdict::Failed(Failure::Failing), what),
                Err(trouble) => trouble.finding()?,
            };
            Ok(outcome(finding))
        }
    }
}

/// The client port and the web pages of an Impala coordinator, at the same time.
async fn check_coordinator(
    connector: &Connector,
    client: &ClientPort,
    web: &WebPort,
    began: Instant,
) -> Result<Outcome, NotChecked> {
    let probe = async {
        let answer = client_port::ask(connector, client).await;
        // The pages may take longer, up to the whole time limit; clients do not wait for them.
        (answer, began.elapsed())
    };
    let (page, (probe, latency), metrics) = tokio::join!(
        web::get(connector, web, "/healthz", 0),
        probe,
        metrics(connector, web)
    );
    let page = match page {
        Ok(answer) => answer.health_page(),
        Err(trouble) => coordinator::HealthPage::Unknown(trouble.finding()?.detail),
    };
    let probe = match probe {
        Ok(finding) => finding,
        Err(trouble) => trouble.finding()?,
    };
    let finding = coordinator::combine(&page, probe);
    let metrics = metrics.ok().and_then(Result::ok);
    Ok(Outcome {
        load: metrics.as_ref().map(Metrics::load),
        process_start_time: metrics.as_ref().and_then(Metrics::process_start_time),
        ..Outcome::new(finding.verdict, latency, &finding.detail)
    })
}

/// The most of the metrics page that is read. Its size grows with the number of resource pools; 50 KB is usual.
const METRICS_LIMIT: usize = 256 * 1024;

/// `/jsonmetrics`. The inner error says what is there instead.
async fn metrics(connector: &Connector, web: &WebPort) -> Result<Result<Metrics, String>, Trouble> {
    let path = "/jsonmetrics";
    let answer = web::get(connector, web, path, METRICS_LIMIT).await?;
    let finding = answer.finding(path);
    if finding.verdict != Verdict::Healthy {
        return Ok(Err(finding.detail));
    }
    Ok(Metrics::parse(&answer.body).ok_or_else(|| {
        format!("expected a JSON object of at most {METRICS_LIMIT} bytes at {path}, found something else")
    }))
}

/// How long a check took, or may take, in words.
fn shown(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}
