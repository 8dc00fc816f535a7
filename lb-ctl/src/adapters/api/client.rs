//! The command line's end of the operator API.

use std::{
    io,
    path::{Path, PathBuf},
};

use http_body_util::{BodyExt, Empty};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::core::{changes::Changes, status::Status};

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
    /// The daemon could not do it.
    #[error("the daemon answered {status}: {reason}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The daemon's words.
        reason: String,
    },
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
pub async fn reload(socket: &Path) -> Result<Changes, ClientError> {
    ask(socket, Method::POST, "/reload").await
}

async fn ask<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &'static str,
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
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = method;
    *request.uri_mut() = hyper::Uri::from_static(path);
    // HTTP/1.1 wants a host, a unix socket has none.
    request
        .headers_mut()
        .insert(header::HOST, header::HeaderValue::from_static("localhost"));
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
    if !status.is_success() {
        let reason = String::from_utf8_lossy(&body).into_owned();
        return Err(match status {
            StatusCode::UNPROCESSABLE_ENTITY => ClientError::Configuration(reason),
            _ => ClientError::Refused { status, reason },
        });
    }
    Ok(serde_json::from_slice(&body)?)
}
