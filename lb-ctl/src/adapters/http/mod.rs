//! What anybody may read: `/metrics` and `/healthz`, over HTTP.
//!
//! Served on a thread of its own, so that no client can hold up the controller: it is asked for metrics at most once a second,
//! whoever asks how often. Clients are held to bounds of their number, of time, and of what they send; whoever goes beyond them is
//! cut off.

mod places;
mod scrape;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, thread, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::future::join_all;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

use super::api::server::Request;
use crate::core::metrics;
use places::{Place, Places};
use scrape::Scrapes;

/// How long a client may take to send its request.
const REQUEST: Duration = Duration::from_secs(5);

/// How long a connection may last in all: as long as Prometheus waits by default, three times over.
const CONNECTION: Duration = Duration::from_secs(30);

/// How many bytes of a request are looked at before it is refused: line and headers together. No less is possible.
const REQUEST_SIZE: usize = 8192;

/// How many headers a request may have.
const HEADERS: usize = 64;

/// How long the controller may take to say how it is.
const ANSWER: Duration = Duration::from_secs(2);

/// How long to wait after the kernel has refused to accept a connection, for lack of memory or descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(500);

/// Why nobody can be served.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address is taken, or not of this host.
    #[error(
        "http.listen: {address} cannot be listened on: choose an address of this host and a port that is free"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The kernel's reason.
        source: io::Error,
    },
    /// There is no thread for it.
    #[error("the thread that serves HTTP cannot be started")]
    Thread(#[source] io::Error),
}

/// Bound sockets that nobody accepts connections on yet.
#[derive(Debug)]
pub struct Listeners(Vec<std::net::TcpListener>);

/// The server. It ends when this is dropped.
#[derive(Debug)]
pub struct Server(
    #[expect(dead_code, reason = "dropping it is its use")] Option<oneshot::Sender<Infallible>>,
);

impl Listeners {
    /// Listens on these addresses.
    pub fn bind(addresses: &[SocketAddr]) -> Result<Self, HttpError> {
        let bind = |&address: &SocketAddr| {
            let listen = || {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(listener)
            };
            listen().map_err(|source| HttpError::Listen { address, source })
        };
        Ok(Self(addresses.iter().map(bind).collect::<Result<_, _>>()?))
    }

    /// Serves whoever connects, with answers of `controller`.
    pub fn serve(self, controller: mpsc::Sender<Request>) -> Result<Server, HttpError> {
        if self.0.is_empty() {
            return Ok(Server(None));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(HttpError::Thread)?;
        let (server, ended) = oneshot::channel();
        thread::Builder::new()
            .name("http".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        result = accept_all(self.0, router(controller)) => if let Err(error) = result {
                            tracing::error!(%error, "/metrics and /healthz have ended; packets are not affected");
                        },
                        // Only by being dropped: there is nothing to send.
                        _ = ended => {}
                    }
                });
            })
            .map_err(HttpError::Thread)?;
        Ok(Server(Some(server)))
    }
}

async fn accept_all(listeners: Vec<std::net::TcpListener>, router: Router) -> io::Result<()> {
    let places = Arc::new(Places::default());
    let listeners = listeners
        .into_iter()
        .map(TcpListener::from_std)
        .collect::<Result<Vec<_>, _>>()?;
    join_all(
        listeners
            .into_iter()
            .map(|listener| accept(listener, router.clone(), Arc::clone(&places))),
    )
    .await;
    Ok(())
}

async fn accept(listener: TcpListener, router: Router, places: Arc<Places>) {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                // Without a place the connection is closed at once.
                if let Some(place) = Places::take(&places, client.ip()) {
                    tokio::spawn(serve(stream, router.clone(), place));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a connection to /metrics or /healthz could not be accepted");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Answers one request.
async fn serve(stream: TcpStream, router: Router, place: Place) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .max_buf_size(REQUEST_SIZE)
        .max_headers(HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // What is wrong with a client is nobody's business here, and would let it fill the log.
    let _ = timeout(CONNECTION, connection).await;
    drop(place);
}

#[derive(Clone)]
struct Site {
    controller: mpsc::Sender<Request>,
    scrapes: Arc<Scrapes>,
}

fn router(controller: mpsc::Sender<Request>) -> Router {
    let scrapes = Arc::new(Scrapes::default());
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .fallback(elsewhere)
        .with_state(Site { controller, scrapes })
}

async fn metrics(State(site): State<Site>) -> Response {
    match site.scrapes.scrape(&site.controller).await {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(reason) => unavailable(reason),
    }
}

async fn healthz(State(site): State<Site>) -> Response {
    let (answer, answered) = oneshot::channel();
    let ask = async {
        let gone = "the daemon is shutting down";
        site.controller
            .send(Request::Condition(answer))
            .await
            .map_err(|_| gone.to_owned())?;
        let answer = answered.await.map_err(|_| gone.to_owned())?;
        answer.map_err(|refusal| refusal.to_string())
    };
    match timeout(ANSWER, ask).await {
        Ok(Ok(condition)) if condition.is_healthy() => condition.to_string().into_response(),
        Ok(Ok(condition)) => unavailable(condition.to_string()),
        Ok(Err(reason)) => unavailable(format!("{reason}\n")),
        Err(_) => unavailable(format!(
            "the controller has not answered within {} s\n",
            ANSWER.as_secs()
        )),
    }
}

fn unavailable(reason: String) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
}

async fn elsewhere() -> Response {
    let where_to = "there are /metrics and /healthz here\n";
    (StatusCode::NOT_FOUND, where_to).into_response()
}
