//! What is checked, and how.

use std::net::IpAddr;
use std::time::Duration;

use super::tls::{Tls, TlsError, TlsOptions};
use crate::core::config::{Check, CheckKind, CheckTls, Service};
use crate::core::health::probe::Authentication;

/// A backend, and how it is checked. Two equal targets find the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The backend's address.
    pub address: IpAddr,
    /// Our own address that its connections come from; `None` leaves that to the kernel's routes.
    pub source: Option<IpAddr>,
    /// How long a check may take in all.
    pub timeout: Duration,
    /// What it does.
    pub probe: Probe,
}

/// What a check does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Connects.
    Tcp {
        /// The port.
        port: u16,
    },
    /// Asks for a page: an answer from 200 to 299 is good. Redirections are not followed.
    Web {
        /// The port.
        web: WebPort,
        /// The path, with a slash at its begin.
        path: String,
    },
    /// Asks a HiveServer2 for something harmless.
    HiveServer2(ClientPort),
    /// Both of an Impala coordinator: `/healthz` and its client port, with its load figures.
    Coordinator {
        /// Its client port.
        client: ClientPort,
        /// Its web pages.
        web: WebPort,
    },
    /// Asks a catalogd or statestored whether it is the active one of its pair.
    ActiveStatus {
        /// Its web pages.
        web: WebPort,
        /// The metric that says so; `None` for those that Impala's daemons have.
        metric: Option<String>,
    },
}

/// A port that speaks HTTP/1.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebPort {
    /// The port.
    pub port: u16,
    /// TLS, if it wants that.
    pub tls: Option<Tls>,
}

/// A port that speaks HiveServer2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPort {
    /// The port.
    pub port: u16,
    /// TLS, if it wants that.
    pub tls: Option<Tls>,
    /// What it wants first.
    pub authentication: Authentication,
}

/// How the backends of a service are checked, in the order of the configuration. Empty if they are not.
///
/// Reads the certificates anew, so that a reload notices when they have changed.
pub fn targets(service: &Service) -> Result<Vec<Target>, TlsError> {
    let check = &service.check;
    if check.kind == CheckKind::None {
        return Ok(Vec::new());
    }
    let tls = check
        .tls
        .as_ref()
        .map(|tls| Tls::load(options(tls)))
        .transpose()?;
    let target = |(address, port)| Target {
        address,
        source: check.source,
        timeout: check.timeout,
        probe: probe(check, port, tls.as_ref()),
    };
    Ok(service
        .backends
        .iter()
        .map(|backend| target((backend.address, check.port.unwrap_or(backend.port))))
        .collect())
}

fn options(tls: &CheckTls) -> TlsOptions {
    TlsOptions {
        ca_file: tls.ca_file.clone(),
        server_name: tls.server_name.clone(),
        verify: tls.verify,
    }
}

fn probe(check: &Check, port: u16, tls: Option<&Tls>) -> Probe {
    let client = ClientPort {
        port,
        tls: tls.filter(|_| check.client_tls).cloned(),
        authentication: check.authentication,
    };
    let web = |port, encrypted| WebPort {
        port,
        tls: tls.filter(|_| encrypted).cloned(),
    };
    match check.kind {
        CheckKind::None | CheckKind::Tcp => Probe::Tcp { port },
        CheckKind::Http | CheckKind::Https => Probe::Web {
            web: web(port, check.kind == CheckKind::Https),
            path: check.path.clone(),
        },
        CheckKind::Hs2 => Probe::HiveServer2(client),
        CheckKind::Impala => Probe::Coordinator {
            client,
            web: web(check.web_port, check.web_tls),
        },
        CheckKind::ActiveStatus => Probe::ActiveStatus {
            web: web(check.web_port, check.web_tls),
            metric: check.metric.clone(),
        },
    }
}
