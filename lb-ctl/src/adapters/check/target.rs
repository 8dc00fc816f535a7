//! What is checked, and how.

use std::net::IpAddr;
use std::time::Duration;

use super::tls::Tls;

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

/// What a HiveServer2 wants before it listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// Nothing: requests follow at once.
    None,
    /// A SASL negotiation, because of Kerberos or LDAP.
    Sasl,
}
