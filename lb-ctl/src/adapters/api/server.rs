//! The daemon's end of the operator API.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Query, State},
    http::StatusCode,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
};

use crate::core::{
    changes::Changes,
    condition::Condition,
    explain::{self, Explanation},
    flows::{self, Flows},
    operator::{Command, Decided, DrainQuery, DrainStatus},
    status::Status,
};

/// The longest configuration that a plan is made for. One with 65,536 prefixes and 65,535 backends has 8 MB.
const PLAN_LIMIT: usize = 32 << 20;

/// What an operator asks of the controller.
#[derive(Debug)]
pub enum Request {
    /// The whole status.
    Status(Answer<Status>),
    /// Everything that is measured, as Prometheus reads it.
    Metrics(Answer<String>),
    /// Whether the balancer is well.
    Condition(Answer<Condition>),
    /// Read the configuration file again.
    Reload(ReloadQuery, Answer<Changes>),
    /// What a reload with another configuration would do.
    Plan(PlanQuery, Answer<Changes>),
    /// Why a flow goes where it goes.
    Explain(explain::Query, Answer<Explanation>),
    /// The flows that the tables know.
    Flows(flows::Query, Answer<Flows>),
    /// Carry out an operator's command about a backend.
    Operate(Command, Answer<Decided>),
    /// How far the drains of a backend are.
    Drains(DrainQuery, Answer<DrainStatus>),
    /// Let another balancer be master of VRRP instances. Answered with their names.
    HandOver(HandOverQuery, Answer<Vec<String>>),
}

/// What to hand over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOverQuery {
    /// The instance, with the group that it is in; all that are master if there is none.
    #[serde(default)]
    pub instance: Option<String>,
    /// Also if the peer does not know all connections.
    #[serde(default)]
    pub force: bool,
}

/// How to reload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadQuery {
    /// Give up the connections of backends that are no longer configured, instead of letting them end.
    #[serde(default)]
    pub now: bool,
}

/// Which configuration a plan is wanted for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanQuery {
    /// The name of the file, for messages.
    pub file_name: String,
    /// What it says. The file itself may be one that the daemon cannot read.
    pub text: String,
}

/// Where an answer is to be sent.
pub type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

/// Why the controller did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The configuration is wrong; nothing has been changed.
    #[error("{0}")]
    Configuration(String),
    /// It asks for something that is not there.
    #[error("{0}")]
    Usage(String),
    /// It would do harm, or is not what the one who asks can have meant; nothing has been changed.
    #[error("{0}")]
    Declined(String),
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
            .route("/plan", post(plan).layer(DefaultBodyLimit::max(PLAN_LIMIT)))
            .route("/explain", get(explain))
            .route("/flows", get(flows))
            .route("/operate", post(operate))
            .route("/drains", get(drains))
            .route("/failover", post(failover))
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

type Controller = State<mpsc::Sender<Request>>;
type Response<T> = Result<Json<T>, (StatusCode, String)>;

async fn status(State(controller): Controller) -> Response<Status> {
    ask(&controller, Request::Status).await
}

async fn reload(State(controller): Controller, Query(query): Query<ReloadQuery>) -> Response<Changes> {
    ask(&controller, |answer| Request::Reload(query, answer)).await
}

async fn plan(State(controller): Controller, Json(query): Json<PlanQuery>) -> Response<Changes> {
    ask(&controller, |answer| Request::Plan(query, answer)).await
}

async fn explain(
    State(controller): Controller,
    Query(query): Query<explain::Query>,
) -> Response<Explanation> {
    ask(&controller, |answer| Request::Explain(query, answer)).await
}

async fn flows(State(controller): Controller, Query(query): Query<flows::Query>) -> Response<Flows> {
    ask(&controller, |answer| Request::Flows(query, answer)).await
}

async fn operate(State(controller): Controller, Json(command): Json<Command>) -> Response<Decided> {
    ask(&controller, |answer| Request::Operate(command, answer)).await
}

async fn drains(State(controller): Controller, Query(query): Query<DrainQuery>) -> Response<DrainStatus> {
    ask(&controller, |answer| Request::Drains(query, answer)).await
}

async fn failover(
    State(controller): Controller,
    Query(query): Query<HandOverQuery>,
) -> Response<Vec<String>> {
    ask(&controller, |answer| Request::HandOver(query, answer)).await
}

/// Has the controller answer a request.
async fn ask<T>(
    controller: &mpsc::Sender<Request>,
    request: impl FnOnce(Answer<T>) -> Request,
) -> Response<T> {
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
        Refusal::Usage(reason) => (StatusCode::NOT_FOUND, reason),
        Refusal::Declined(reason) => (StatusCode::CONFLICT, reason),
        Refusal::Failed(reason) => (StatusCode::INTERNAL_SERVER_ERROR, reason),
    })
}
