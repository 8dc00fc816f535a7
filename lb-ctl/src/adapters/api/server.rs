//! The daemon's end of the operator API.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
};

use crate::core::{changes::Changes, status::Status};

/// What an operator asks of the controller.
#[derive(Debug)]
pub enum Request {
    /// The whole status.
    Status(oneshot::Sender<Result<Status, Refusal>>),
    /// Read the configuration file again.
    Reload(oneshot::Sender<Result<Changes, Refusal>>),
}

/// Why the controller did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The configuration is wrong; nothing has been changed.
    #[error("{0}")]
    Configuration(String),
    /// It could not be done.
    #[error("{0}")]
    Failed(String),
}

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Another daemon answers there.
    #[error("another lb-ctl already answers at {0}: stop it first, or give this one another api.socket")]
    InUse(PathBuf),
    /// The file system refuses.
    #[error("the API socket {path} cannot be opened")]
    Socket {
        /// The path of the socket.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// The bound socket. Its file is removed on drop.
#[derive(Debug)]
pub struct Socket {
    listener: Option<UnixListener>,
    path: PathBuf,
}

impl Socket {
    /// Makes sure that no daemon answers at a path. Changes nothing.
    pub async fn refuse_if_in_use(path: &Path) -> Result<(), ApiError> {
        match UnixStream::connect(path).await {
            Ok(_) => Err(ApiError::InUse(path.to_owned())),
            Err(_) => Ok(()),
        }
    }

    /// Binds the socket, in place of one that a daemon left behind which no longer runs.
    pub async fn bind(path: &Path) -> Result<Self, ApiError> {
        let failed = |source| ApiError::Socket {
            path: path.to_owned(),
            source,
        };
        match UnixStream::connect(path).await {
            Ok(_) => return Err(ApiError::InUse(path.to_owned())),
            // Nobody listens: a daemon that was killed has left its socket. Only that is removed; whatever else has the
            // name is not ours, and the attempt to bind says so.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && is_socket(path) => {
                fs::remove_file(path).map_err(failed)?;
            }
            Err(_) => {}
        }
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        // Who may connect may operate the balancer: the owner and the group, nobody else.
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(failed)?;
        Ok(Self {
            listener: Some(listener),
            path: path.to_owned(),
        })
    }

    /// Serves requests in the background, each answered through `controller`.
    pub fn serve(&mut self, controller: mpsc::Sender<Request>) {
        let Some(listener) = self.listener.take() else {
            return;
        };
        let router = Router::new()
            .route("/status", get(status))
            .route("/reload", post(reload))
            .with_state(controller);
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the operator API has ended; packets are not affected");
            }
        });
    }
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the API socket's file could not be removed");
        }
    }
}

type Answer<T> = Result<Json<T>, (StatusCode, String)>;

async fn status(State(controller): State<mpsc::Sender<Request>>) -> Answer<Status> {
    ask(&controller, Request::Status).await
}

async fn reload(State(controller): State<mpsc::Sender<Request>>) -> Answer<Changes> {
    ask(&controller, Request::Reload).await
}

async fn ask<T>(
    controller: &mpsc::Sender<Request>,
    request: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Request,
) -> Answer<T> {
    let (answer, answered) = oneshot::channel();
    let gone = |()| {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the daemon is shutting down".to_owned(),
        )
    };
    controller.send(request(answer)).await.map_err(|_| gone(()))?;
    let answer = answered.await.map_err(|_| gone(()))?;
    answer.map(Json).map_err(|refusal| match refusal {
        Refusal::Configuration(reason) => (StatusCode::UNPROCESSABLE_ENTITY, reason),
        Refusal::Failed(reason) => (StatusCode::INTERNAL_SERVER_ERROR, reason),
    })
}
