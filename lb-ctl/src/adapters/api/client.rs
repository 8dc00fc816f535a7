//! The command line's end of the operator API.

use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
};

use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::server::{HandOverQuery, PlanQuery, ReloadQuery};
use crate::core::{
    changes::Changes,
    explain::{self, Explanation},
    flows::{self, Flows},
    operator::{Command, Decided, DrainQuery, DrainStatus},
    status::Status,
};

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers.
    #[error(
        "no daemon answers at {path}: start it with `lb-ctl run --config FILE`, or name its socket with --socket"
    )]
    NoDaemon {
        /// The path of the socket.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The socket is not for this user.
    #[error("the socket {path} is not accessible; run lb-ctl as root or as a member of the socket's group")]
    NotPermitted {
        /// The path of the socket.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("the daemon at {path} broke off its answer")]
    Broken {
        /// The path of the socket.
        path: PathBuf,
        /// What happened.
        source: hyper::Error,
    },
    /// The question was wrong.
    #[error("{reason}")]
    Usage {
        /// The daemon's words.
        reason: String,
    },
    /// The daemon does not do it, and has changed nothing.
    #[error("{reason}")]
    Declined {
        /// The daemon's words.
        reason: String,
    },
    /// The daemon could not do it.
    #[error("the daemon answered {status}: {reason}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The daemon's words.
        reason: String,
    },
    /// The question cannot be put into a URI.
    #[error("the question cannot be put into the address of a request")]
    Question(#[from] hyper::http::uri::InvalidUri),
    /// The daemon refuses the configuration.
    #[error("{0}")]
    Configuration(String),
    /// The answer is not what this version expects.
    #[error("the daemon's answer is not understood; are daemon and command of the same version?")]
    Format(#[from] serde_json::Error),
}

/// Asks for the whole status.
pub async fn status(socket: &Path) -> Result<Status, ClientError> {
    ask(socket, Method::GET, "/status").await
}

/// Has the daemon read its configuration again.
pub async fn reload(socket: &Path, query: &ReloadQuery) -> Result<Changes, ClientError> {
    let path = with_parameters("/reload", [("now", query.now.to_string())]);
    ask(socket, Method::POST, &path).await
}

/// Asks what a reload with another configuration would do.
pub async fn plan(socket: &Path, query: &PlanQuery) -> Result<Changes, ClientError> {
    let body = serde_json::to_vec(query)?;
    ask_with(socket, Method::POST, "/plan", body.into()).await
}

/// Asks why a flow goes where it goes.
pub async fn explain(socket: &Path, query: &explain::Query) -> Result<Explanation, ClientError> {
    let explain::Query { client, service } = query;
    let parameters = [("client", client.to_string()), ("service", service.clone())];
    ask(socket, Method::GET, &with_parameters("/explain", parameters)).await
}

/// Asks for the flows that the tables know.
pub async fn flows(socket: &Path, query: &flows::Query) -> Result<Flows, ClientError> {
    let flows::Query {
        service,
        backend,
        limit,
    } = query;
    let named = [("service", service), ("backend", backend)];
    let named = named
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.clone()?)));
    let parameters = named.chain([("limit", limit.to_string())]);
    ask(socket, Method::GET, &with_parameters("/flows", parameters)).await
}

/// Has the daemon carry out a command about a backend.
pub async fn operate(socket: &Path, command: &Command) -> Result<Decided, ClientError> {
    let body = serde_json::to_vec(command)?;
    ask_with(socket, Method::POST, "/operate", body.into()).await
}

/// Asks how far the drains of a backend are.
pub async fn drains(socket: &Path, query: &DrainQuery) -> Result<DrainStatus, ClientError> {
    let DrainQuery { backend, service } = query;
    let backend = [("backend", backend.clone())];
    let service = service.iter().map(|service| ("service", service.clone()));
    let parameters = backend.into_iter().chain(service);
    ask(socket, Method::GET, &with_parameters("/drains", parameters)).await
}

/// Has another balancer be master of VRRP instances. Returns their names.
pub async fn hand_over(socket: &Path, query: &HandOverQuery) -> Result<Vec<String>, ClientError> {
    let instance = query
        .instance
        .iter()
        .map(|instance| ("instance", instance.clone()));
    let parameters = instance.chain([("force", query.force.to_string())]);
    ask(socket, Method::POST, &with_parameters("/failover", parameters)).await
}

/// A path with a query of these names and values.
fn with_parameters<'a>(path: &str, parameters: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut text = path.to_owned();
    let mut separator = '?';
    for (name, value) in parameters {
        text.extend([separator]);
        text.extend([name, "="]);
        for byte in value.bytes() {
            // The unreserved characters of RFC 3986, 2.3.
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                text.push(char::from(byte));
            } else {
                // Writing to a string cannot fail.
                let _ = write!(text, "%{byte:02X}");
            }
        }
        separator = '&';
    }
    text
}

async fn ask<T: DeserializeOwned>(socket: &Path, method: Method, path: &str) -> Result<T, ClientError> {
    ask_with(socket, method, path, Bytes::new()).await
}

/// Asks with a body, which is JSON if there is any.
async fn ask_with<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<T, ClientError> {
    let stream = UnixStream::connect(socket).await.map_err(|source| {
        let path = socket.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::NotPermitted { path, source },
            _ => ClientError::NoDaemon { path, source },
        }
    })?;
    let broken = |source| ClientError::Broken {
        path: socket.to_owned(),
        source,
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection);
    let has_body = !body.is_empty();
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = path.parse()?;
    // HTTP/1.1 wants a host, a unix socket has none.
    request
        .headers_mut()
        .insert(header::HOST, header::HeaderValue::from_static("localhost"));
    if has_body {
        let json = header::HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, json);
    }
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
    if !status.is_success() {
        let reason = String::from_utf8_lossy(&body).into_owned();
        return Err(match status {
            StatusCode::UNPROCESSABLE_ENTITY => ClientError::Configuration(reason),
            StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => ClientError::Usage { reason },
            StatusCode::CONFLICT => ClientError::Declined { reason },
            _ => ClientError::Refused { status, reason },
        });
    }
    Ok(serde_json::from_slice(&body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_survive_whatever_is_in_them() {
        let uri = with_parameters(
            "/x",
            [
                ("client", "[2001:db8::1]:80".to_owned()),
                ("b", "ä& =".to_owned()),
            ],
        );
        assert_eq!(uri, "/x?client=%5B2001%3Adb8%3A%3A1%5D%3A80&b=%C3%A4%26%20%3D");
        assert!(uri.parse::<hyper::Uri>().is_ok());
        assert_eq!(with_parameters("/x", []), "/x");
    }
}
