//! The other coordinators of the cluster, as `/backends` lists them.
//!
//! Impala's daemons learn about each other from the statestore. There is none here: a stand-in asks its peers' web pages
//! when somebody asks for its own. A peer that does not answer is not listed, as if the statestore had dropped it.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use axum::http::{Method, StatusCode};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::coordinator::{Mode, Snapshot};
use super::hs2;
use super::service_threads::ConnectionCounts;
use crate::clients::http;

/// The port of Impala's internal calls. Nothing listens there; the pages name the daemons by it.
const KRPC_PORT: u16 = 27000;
/// What a coordinator may run at once, as it tells the others.
const ADMISSION_SLOTS: usize = 16;
/// How long a peer may take to answer.
const PEER_TIMEOUT: Duration = Duration::from_millis(500);

/// Another coordinator: `NAME=HOST:WEBPORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    name: String,
    authority: String,
}

/// What a stand-in says about itself under `/stand-in/state`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The coordinator.
    #[serde(flatten)]
    pub coordinator: Snapshot,
    /// Its port.
    #[serde(flatten)]
    pub connections: ConnectionCounts,
    /// The host by which the others know it.
    pub hostname: String,
    /// Its web port.
    pub web_port: u16,
    /// The address to which its host resolves.
    pub krpc_ip: Option<IpAddr>,
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let peer = text.split_once('=').and_then(|(name, authority)| {
            let (host, port) = authority.rsplit_once(':')?;
            let port: u16 = port.parse().ok()?;
            (!name.is_empty() && !host.is_empty() && port != 0).then(|| Self {
                name: name.to_owned(),
                authority: authority.to_owned(),
            })
        });
        peer.ok_or_else(|| {
            format!("expected NAME=HOST:WEBPORT, for example c2=10.0.0.12:25000, found {text:?}")
        })
    }
}

impl Peer {
    async fn state(&self) -> Result<State> {
        let answer = http::request(Method::GET, &self.authority, "/stand-in/state", PEER_TIMEOUT).await?;
        ensure!(
            answer.status == StatusCode::OK,
            "{} answered {}",
            self.authority,
            answer.status
        );
        let state: State = serde_json::from_str(&answer.body)
            .with_context(|| format!("{} did not answer like a stand-in impalad", self.authority))?;
        let found = &state.coordinator.name;
        ensure!(
            *found == self.name,
            "expected {} at {}, found {found}",
            self.name,
            self.authority
        );
        Ok(state)
    }
}

/// The document of `/backends?json`.
pub async fn backends(own: State, peers: &[Peer], executors: &[String]) -> Value {
    let mut members = vec![own];
    for answer in join_all(peers.iter().map(Peer::state)).await {
        match answer {
            Ok(state) => members.push(state),
            Err(error) => eprintln!("left out of /backends: {error:#}"),
        }
    }
    members.sort_by(|a, b| a.coordinator.name.cmp(&b.coordinator.name));
    document(&members, executors)
}

fn document(members: &[State], executors: &[String]) -> Value {
    let quiescing = members.iter().filter(|member| is_quiescing(member)).count();
    let mut document = json!({
        "backends": members.iter().map(backend).chain(executors.iter().map(executor)).collect::<Vec<_>>(),
        "num_active_backends": members.len() + executors.len() - quiescing,
    });
    // Impala leaves it out when there are none.
    if quiescing > 0 {
        document["num_quiescing_backends"] = quiescing.into();
    }
    document
}

fn is_quiescing(member: &State) -> bool {
    member.coordinator.mode == Mode::ShuttingDown
}

fn backend(member: &State) -> Value {
    let quiescing = is_quiescing(member);
    let address = format!("{}:{KRPC_PORT}", member.hostname);
    let krpc_address = member
        .krpc_ip
        .map(|ip| SocketAddr::new(ip, KRPC_PORT).to_string());
    json!({
        "address": address,
        "krpc_address": krpc_address.as_ref().unwrap_or(&address),
        // Impala has a random number here.
        "backend_id": member.coordinator.name,
        "webserver_url": format!("http://{}:{}", member.hostname, member.web_port),
        "is_coordinator": true,
        "is_executor": false,
        "is_quiescing": quiescing,
        "is_blacklisted": false,
        "is_active": !quiescing,
        "admission_slots": ADMISSION_SLOTS,
        "admission_slots_in_use": member.coordinator.queries_running.min(ADMISSION_SLOTS),
        "num_admitted": member.coordinator.queries_running,
        "process_start_time": member.coordinator.process_start_time,
        "version": hs2::VERSION,
    })
}

/// A daemon that executes queries and takes no clients.
fn executor(host: &String) -> Value {
    let address = format!("{host}:{KRPC_PORT}");
    json!({
        "address": address,
        "krpc_address": address,
        "backend_id": host,
        "webserver_url": format!("http://{host}:25000"),
        "is_coordinator": false,
        "is_executor": true,
        "is_quiescing": false,
        "is_blacklisted": false,
        "is_active": true,
        "admission_slots": ADMISSION_SLOTS,
        "admission_slots_in_use": 0,
        "num_admitted": 0,
        "process_start_time": "2001-09-09 01:46:40.000001",
        "version": hs2::VERSION,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, mode: Mode) -> State {
        State {
            coordinator: Snapshot {
                name: name.to_owned(),
                mode,
                process_start_time: "2001-09-09 01:46:40.000001".to_owned(),
                open_sessions: 0,
                queries_registered: 3,
                queries_running: 2,
                queries_started: 3,
                queries_finished: 0,
            },
            connections: ConnectionCounts {
                connections_in_use: 0,
                connection_setup_queue_size: 0,
                total_connections: 0,
            },
            hostname: "10.0.0.11".to_owned(),
            web_port: 25000,
            krpc_ip: None,
        }
    }

    #[test]
    fn peers_are_written_name_host_port() {
        let peer: Peer = "c2=10.0.0.12:25000".parse().unwrap();
        assert_eq!(
            (peer.name.as_str(), peer.authority.as_str()),
            ("c2", "10.0.0.12:25000")
        );
        assert_eq!(
            "c2=[fd00::12]:25000".parse::<Peer>().unwrap().authority,
            "[fd00::12]:25000"
        );
        for wrong in [
            "",
            "c2",
            "c2=10.0.0.12",
            "c2=10.0.0.12:web",
            "c2=:25000",
            "=h:1",
            "c2=h:0",
            "c2=h:65536",
        ] {
            assert!(wrong.parse::<Peer>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_coordinator_that_shuts_down_is_quiescing() {
        let document = document(
            &[member("c1", Mode::ShuttingDown), member("c2", Mode::Serving)],
            &[],
        );
        assert_eq!(document["num_active_backends"], 1);
        assert_eq!(document["num_quiescing_backends"], 1);
        let [leaving, staying] = [&document["backends"][0], &document["backends"][1]];
        assert_eq!(
            (&leaving["is_quiescing"], &leaving["is_active"]),
            (&json!(true), &json!(false))
        );
        assert_eq!(
            (&staying["is_quiescing"], &staying["is_active"]),
            (&json!(false), &json!(true))
        );
        assert_eq!(leaving["krpc_address"], "10.0.0.11:27000");
        assert_eq!(leaving["admission_slots_in_use"], 2);
    }

    #[test]
    fn executors_are_no_coordinators_and_resolved_hosts_have_addresses() {
        let mut coordinator = member("c1", Mode::Serving);
        coordinator.krpc_ip = "10.0.0.11".parse().ok();
        coordinator.hostname = "node-1".to_owned();
        let document = document(&[coordinator], &["10.0.0.31".to_owned()]);
        assert_eq!(document["num_active_backends"], 2);
        let [coordinator, executor] = [&document["backends"][0], &document["backends"][1]];
        assert_eq!(coordinator["address"], "node-1:27000");
        assert_eq!(coordinator["krpc_address"], "10.0.0.11:27000");
        assert_eq!(
            (&executor["is_coordinator"], &executor["is_executor"]),
            (&json!(false), &json!(true))
        );
    }

    #[test]
    fn the_number_of_quiescing_ones_is_left_out_when_there_are_none() {
        let document = document(
            &[member("c1", Mode::Saturated), member("c2", Mode::NotReady)],
            &[],
        );
        assert_eq!(document["num_active_backends"], 2);
        assert!(document.get("num_quiescing_backends").is_none());
    }
}
