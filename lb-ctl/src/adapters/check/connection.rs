//! Connections of a check, and what it means when they fail.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::tls::Tls;
use super::{NotChecked, shown};
use crate::core::cause::chain;
use crate::core::health::probe::Finding;
use crate::core::health::{Failure, Verdict};

/// Until when all of a check must be done.
#[derive(Clone, Copy, Debug)]
pub(in crate::adapters) struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    pub(super) fn after(began: Instant, limit: Duration) -> Self {
        Self {
            at: began + limit,
            limit,
        }
    }

    /// At this moment, which is told as the end of that time.
    pub(in crate::adapters) fn until(at: Instant, limit: Duration) -> Self {
        Self { at, limit }
    }

    /// What a step of a check results in; `None` if the time was over before.
    async fn or_none<T>(self, step: impl Future<Output = T>) -> Option<T> {
        timeout_at(self.at, step).await.ok()
    }

    /// What a conversation over an established connection results in.
    pub(super) async fn or_late<T>(
        self,
        conversation: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<T, Trouble> {
        match self.or_none(conversation).await {
            Some(result) => result,
            None => Err(Trouble::Late(format!(
                "connected, but there was no complete answer within {}",
                shown(self.limit)
            ))),
        }
    }
}

/// Why a check did not come to an answer.
#[derive(Debug)]
pub(in crate::adapters) enum Trouble {
    /// It is our own.
    NotChecked(NotChecked),
    /// The backend's host refused the connection.
    Refused(String),
    /// Nobody answered the attempt to connect, or there is no way to the backend.
    Mute(String),
    /// There was a connection but no complete answer in time.
    Late(String),
    /// There was a connection but no sensible answer.
    Broken(String),
}

impl Trouble {
    pub(super) fn broken(what: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::Broken(format!("{what}: {}", chain(error)))
    }

    /// The same for people.
    pub(in crate::adapters) fn into_words(self) -> String {
        match self {
            Self::NotChecked(reason) => reason.to_string(),
            Self::Refused(detail) | Self::Mute(detail) | Self::Late(detail) | Self::Broken(detail) => detail,
        }
    }

    /// What it says about the backend, if anything.
    pub(super) fn finding(self) -> Result<Finding, NotChecked> {
        let (verdict, detail) = match self {
            Self::NotChecked(reason) => return Err(reason),
            Self::Refused(detail) => (Verdict::Failed(Failure::Unreachable), detail),
            Self::Mute(detail) => (Verdict::Failed(Failure::Silent), detail),
            Self::Late(detail) => (Verdict::Saturated, detail),
            Self::Broken(detail) => (Verdict::Failed(Failure::Failing), detail),
        };
        Ok(Finding::new(verdict, detail))
    }
}

/// A connection, encrypted or not.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Makes the connections of one check.
#[derive(Clone, Copy, Debug)]
pub(in crate::adapters) struct Connector {
    pub(in crate::adapters) address: IpAddr,
    pub(in crate::adapters) source: Option<IpAddr>,
    pub(in crate::adapters) deadline: Deadline,
}

impl Connector {
    /// Connects, without TLS.
    pub(super) async fn connect(&self, port: u16) -> Result<TcpStream, Trouble> {
        let address = SocketAddr::new(self.address, port);
        let not_checked = |error: &io::Error| {
            Trouble::NotChecked(NotChecked {
                address,
                reason: error.to_string(),
            })
        };
        let socket = self.socket().map_err(|error| not_checked(&error))?;
        match self.deadline.or_none(socket.connect(address)).await {
            None => Err(Trouble::Mute(format!(
                "port {port}: no connection within {}",
                shown(self.deadline.limit)
            ))),
            Some(Err(error)) if is_our_own(&error) => Err(not_checked(&error)),
            Some(Err(error)) if is_silence(&error) => Err(Trouble::Mute(format!("port {port}: {error}"))),
            Some(Err(error)) => Err(Trouble::Refused(format!("port {port}: {error}"))),
            Some(Ok(stream)) => Ok(stream),
        }
    }

    /// Connects, with TLS if asked to. The conversation that follows is for the caller to put under the
    /// [`deadline`](Self::deadline).
    pub(super) async fn open(&self, port: u16, tls: Option<&Tls>) -> Result<Box<dyn Stream>, Trouble> {
        let stream = self.connect(port).await?;
        // A request is one small segment, and there is nothing to wait for. Failing to say so only costs time.
        let _ = stream.set_nodelay(true);
        let Some(tls) = tls else {
            return Ok(Box::new(stream));
        };
        let handshake = TlsConnector::from(tls.config()).connect(tls.server_name(self.address), stream);
        // Boxed, as the state of TLS is large and most checks have none.
        let handshake = Box::pin(handshake);
        let handshake = async {
            handshake
                .await
                .map_err(|error| Trouble::broken(&format!("port {port}: the TLS handshake failed"), &error))
        };
        Ok(Box::new(self.deadline.or_late(handshake).await?))
    }

    fn socket(&self) -> io::Result<TcpSocket> {
        let socket = match self.address {
            IpAddr::V4(_) => TcpSocket::new_v4()?,
            IpAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if let Some(source) = self.source {
            // Ports of earlier checks that wait for late segments can be taken again: there would not be enough otherwise.
            socket.set_reuseaddr(true)?;
            socket.bind(SocketAddr::new(source, 0))?;
        }
        Ok(socket)
    }
}

/// Whether nobody has answered an attempt to connect, as opposed to somebody who has said no.
fn is_silence(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::ETIMEDOUT
                | libc::ENETDOWN
                | libc::EHOSTDOWN
                | libc::ENODEV
        )
    )
}

/// Whether a failed attempt to connect has its reason on this host: no descriptors, no memory, no free port, or a rule of
/// this host's firewall. All backends would fail alike, and none of them would be to blame.
fn is_our_own(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::EADDRNOTAVAIL
                | libc::EADDRINUSE
                | libc::EACCES
                | libc::EPERM
        )
    )
}
