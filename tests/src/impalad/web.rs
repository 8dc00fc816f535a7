//! The web port: the pages of Impala that a load balancer reads, and the switches of the stand-in.
//!
//! | request | |
//! | --- | --- |
//! | `GET /healthz` | 200 `OK`, or 503 `Not Available` while not ready; HEAD and OPTIONS always 200 |
//! | `GET /backends?json` | the cluster |
//! | `GET /jsonmetrics` | one flat object, name to value, with `?json` or without |
//! | `GET /metrics?json` | the same figures as Impala's nested metric groups |
//! | `POST /stand-in/serve`, `shutdown`, `saturate`, `not-ready`, `restart` | changes the mode; answers with the state |
//! | `POST /stand-in/backends/HOW` | answers for `/backends?json` in another way: [`BackendsPage`] |
//! | `GET /stand-in/state` | the state |
//!
//! Without `?json` Impala's pages are HTML for people. So are these, and say so, lest a reader of them pass here and fail there.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Map, Value, json};

use super::StandIn;
#[cfg(doc)]
use super::backends_page::BackendsPage;
use super::cluster::{self, State};
use super::coordinator::Mode;

/// All pages of a stand-in.
pub(super) fn pages(stand_in: Arc<StandIn>) -> Router {
    let switch = |mode| {
        post(async move |Shared(stand_in): Shared<Arc<StandIn>>| {
            stand_in.switch(mode);
            Json(stand_in.state())
        })
    };
    Router::new()
        .route("/healthz", get(healthz).head(always_ok).options(always_ok))
        .route("/backends", get(backends))
        .route("/jsonmetrics", get(json_metrics))
        .route("/metrics", get(metrics))
        .route("/stand-in/serve", switch(Mode::Serving))
        .route("/stand-in/shutdown", switch(Mode::ShuttingDown))
        .route("/stand-in/saturate", switch(Mode::Saturated))
        .route("/stand-in/not-ready", switch(Mode::NotReady))
        .route("/stand-in/restart", post(restart))
        .route("/stand-in/backends/{how}", post(answer_backends))
        .route("/stand-in/state", get(state))
        .with_state(stand_in)
}

async fn healthz(Shared(stand_in): Shared<Arc<StandIn>>) -> (StatusCode, &'static str) {
    match stand_in.state().coordinator.mode {
        Mode::Serving | Mode::ShuttingDown | Mode::Saturated => (StatusCode::OK, "OK"),
        Mode::NotReady => (StatusCode::SERVICE_UNAVAILABLE, "Not Available"),
    }
}

async fn always_ok() {}

async fn backends(Shared(stand_in): Shared<Arc<StandIn>>, query: Query<HashMap<String, String>>) -> Response {
    let page = stand_in.backends_page();
    let mut document = cluster::backends(stand_in.state(), stand_in.peers(), stand_in.executors()).await;
    if let Some(trouble) = page.trouble(&document).await {
        return trouble;
    }
    page.edit(&mut document);
    json_or_html(&query, document)
}

async fn answer_backends(
    Shared(stand_in): Shared<Arc<StandIn>>,
    Path(how): Path<String>,
) -> Result<(), (StatusCode, String)> {
    let page = how.parse().map_err(|error| (StatusCode::BAD_REQUEST, error))?;
    stand_in.answer_backends(page);
    Ok(())
}

async fn json_metrics(Shared(stand_in): Shared<Arc<StandIn>>) -> Json<Map<String, Value>> {
    Json(flat_metrics(&stand_in.state()))
}

async fn metrics(Shared(stand_in): Shared<Arc<StandIn>>, query: Query<HashMap<String, String>>) -> Response {
    let metrics = flat_metrics(&stand_in.state())
        .into_iter()
        .map(|(name, value)| json!({"name": name, "human_readable": value.to_string(), "value": value}))
        .collect::<Vec<_>>();
    let group = json!({"name": "impala-metrics", "metrics": metrics, "child_groups": []});
    json_or_html(&query, json!({"metric_group": group}))
}

async fn restart(Shared(stand_in): Shared<Arc<StandIn>>) -> Result<Json<State>, StatusCode> {
    // It waits for service threads, and the other pages should not.
    let restarted = tokio::task::spawn_blocking(move || {
        stand_in.restart();
        Json(stand_in.state())
    });
    restarted.await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

async fn state(Shared(stand_in): Shared<Arc<StandIn>>) -> Json<State> {
    Json(stand_in.state())
}

fn json_or_html(query: &HashMap<String, String>, document: Value) -> Response {
    if query.contains_key("json") {
        Json(document).into_response()
    } else {
        Html("<p>This page of the stand-in impalad exists as <a href=\"?json\">JSON</a> only.</p>")
            .into_response()
    }
}

fn flat_metrics(state: &State) -> Map<String, Value> {
    let (coordinator, connections) = (&state.coordinator, &state.connections);
    let port = |name| format!("impala.thrift-server.hiveserver2-frontend.{name}");
    let figures = [
        (port("connections-in-use"), connections.connections_in_use.into()),
        (
            port("connection-setup-queue-size"),
            connections.connection_setup_queue_size.into(),
        ),
        (port("total-connections"), connections.total_connections.into()),
        (
            "impala-server.num-queries".to_owned(),
            coordinator.queries_started.into(),
        ),
        (
            "impala-server.num-queries-registered".to_owned(),
            coordinator.queries_registered.into(),
        ),
        (
            "impala-server.num-fragments-in-flight".to_owned(),
            coordinator.queries_running.into(),
        ),
        (
            "impala-server.num-open-hiveserver2-sessions".to_owned(),
            coordinator.open_sessions.into(),
        ),
        (
            "impala-server.ready".to_owned(),
            (coordinator.mode != Mode::NotReady).into(),
        ),
        (
            "process-start-time".to_owned(),
            coordinator.process_start_time.clone().into(),
        ),
    ];
    figures.into_iter().collect()
}
