//! How a stand-in answers for `/backends?json`: as it should, or as pages in trouble do.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::str::FromStr;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use futures::stream;
use serde_json::Value;

/// More than any reader of such a page takes.
const HUGE: usize = 16 << 20;

/// How the page is answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum BackendsPage {
    /// As it is.
    #[default]
    Whole,
    /// Without these coordinators, as a statestore tells that has lost them.
    Without(BTreeSet<String>),
    /// With these as quiescing.
    Quiescing(BTreeSet<String>),
    /// With this one registered under another host name.
    Renamed {
        /// Its name.
        coordinator: String,
        /// The host name.
        host: String,
    },
    /// A page of an application server.
    Garbage,
    /// A page that never says anything wrong, and does not end soon.
    Huge,
    /// The whole page, one byte a second.
    Dripping,
    /// Nothing, over a connection that stays.
    Mute,
    /// 503.
    Unavailable,
}

impl FromStr for BackendsPage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = |list: &str| list.split(',').map(str::to_owned).collect();
        Ok(match text.split_once('=').unwrap_or((text, "")) {
            ("whole", "") => Self::Whole,
            ("without", list) => Self::Without(names(list)),
            ("quiescing", list) => Self::Quiescing(names(list)),
            ("renamed", names) if let Some((coordinator, host)) = names.split_once(',') => Self::Renamed {
                coordinator: coordinator.to_owned(),
                host: host.to_owned(),
            },
            ("garbage", "") => Self::Garbage,
            ("huge", "") => Self::Huge,
            ("dripping", "") => Self::Dripping,
            ("mute", "") => Self::Mute,
            ("unavailable", "") => Self::Unavailable,
            _ => {
                return Err(format!(
                    "expected whole, without=NAME,…, quiescing=NAME,…, renamed=NAME,HOST, garbage, huge, dripping, mute or unavailable, found {text:?}"
                ));
            }
        })
    }
}

impl BackendsPage {
    /// Changes what the page says, where only that is another.
    pub(super) fn edit(&self, document: &mut Value) {
        let Some(backends) = document["backends"].as_array_mut() else {
            return;
        };
        let is_one_of = |backend: &Value, names: &BTreeSet<String>| {
            backend["backend_id"]
                .as_str()
                .is_some_and(|name| names.contains(name))
        };
        match self {
            Self::Without(names) => backends.retain(|backend| !is_one_of(backend, names)),
            Self::Renamed { coordinator, host } => {
                let it = BTreeSet::from([coordinator.clone()]);
                for backend in backends.iter_mut().filter(|backend| is_one_of(backend, &it)) {
                    let address = backend["address"].as_str().unwrap_or_default();
                    let port = address.rsplit_once(':').map_or("", |(_, port)| port);
                    backend["address"] = format!("{host}:{port}").into();
                }
            }
            Self::Quiescing(names) => {
                for backend in backends.iter_mut().filter(|backend| is_one_of(backend, names)) {
                    backend["is_quiescing"] = true.into();
                    backend["is_active"] = false.into();
                }
            }
            _ => {}
        }
    }

    /// The answer, where it is not just the document.
    pub(super) async fn trouble(&self, document: &Value) -> Option<Response> {
        Some(match self {
            Self::Whole | Self::Without(_) | Self::Quiescing(_) | Self::Renamed { .. } => return None,
            Self::Garbage => "<html><body>It works!</body></html>".into_response(),
            Self::Huge => vec![b' '; HUGE].into_response(),
            Self::Dripping => {
                let bytes: Vec<u8> = document.to_string().into_bytes();
                let drops = stream::unfold(bytes.into_iter(), async |mut rest| {
                    let byte = rest.next()?;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    Some((Ok::<_, Infallible>(Bytes::from(vec![byte])), rest))
                });
                Body::from_stream(drops).into_response()
            }
            Self::Mute => std::future::pending().await,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        })
    }
}
