//! A stand-in for an Impala coordinator.
//!
//! It speaks enough HiveServer2 (binary Thrift, unframed, no SASL) for real clients to connect, execute a few statements,
//! fetch, cancel and close; serves the web pages that a load balancer reads; and can be switched, while it runs, into the
//! states that matter to one: shutting down, saturated, not ready, restarted. What it says in each is what Impala says, so
//! that a balancer which works with it has a chance with the real one. The statements are listed in [`statement`], the
//! pages and switches in [`web`].

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use tokio::net::TcpListener;

pub mod backends_page;
pub mod cluster;
pub mod coordinator;
pub mod failure;
pub mod handle;
pub mod hs2;
pub mod service_threads;
pub mod sessions;
pub mod statement;
pub mod thrift_binary;
pub mod thrift_value;
pub mod web;

use backends_page::BackendsPage;
use cluster::{Peer, State};
use coordinator::{Coordinator, Mode};
use service_threads::ServiceThreads;

/// How to start a stand-in.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The coordinator's name: what `select coordinator()` returns
    #[arg(long)]
    pub name: String,
    /// Where to listen for HiveServer2; with port 0 the kernel chooses one
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:21050")]
    pub hs2_address: SocketAddr,
    /// Where to serve the web pages; with port 0 the kernel chooses one
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:25000")]
    pub web_address: SocketAddr,
    /// Connections served at once; further ones wait unanswered
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    pub service_threads: u16,
    /// Host by which /backends names this coordinator [default: the IP of --web-address, or the name if that is 0.0.0.0]
    #[arg(long, value_name = "HOST")]
    pub hostname: Option<String>,
    /// Address that /backends has for this coordinator, as Impala has resolved its host [default: the host]
    #[arg(long, value_name = "IP")]
    pub krpc_ip: Option<IpAddr>,
    /// Host of an executor of the cluster, for /backends; may be repeated
    #[arg(long = "executor", value_name = "HOST")]
    pub executors: Vec<String>,
    /// Another coordinator of the cluster, for /backends; may be repeated
    #[arg(long = "peer", value_name = "NAME=HOST:WEBPORT")]
    pub peers: Vec<Peer>,
}

/// A running stand-in.
#[derive(Debug)]
pub struct StandIn {
    coordinator: Arc<Coordinator>,
    service: Arc<ServiceThreads>,
    hostname: String,
    web_port: u16,
    krpc_ip: Option<IpAddr>,
    executors: Vec<String>,
    peers: Vec<Peer>,
    backends_page: Mutex<BackendsPage>,
}

impl StandIn {
    /// Binds both ports and starts the service threads. The pages are served by [`Self::serve_web`] on the listener that
    /// comes with it.
    pub async fn start(options: Options) -> Result<(Arc<Self>, TcpListener)> {
        let Options {
            name,
            hs2_address,
            web_address,
            service_threads,
            hostname,
            krpc_ip,
            executors,
            peers,
        } = options;
        let web = TcpListener::bind(web_address)
            .await
            .with_context(|| format!("cannot listen on --web-address {web_address}"))?;
        let coordinator = Arc::new(Coordinator::new(name.clone()));
        let service = ServiceThreads::start(
            Arc::clone(&coordinator),
            hs2_address,
            usize::from(service_threads),
        )
        .with_context(|| format!("cannot listen on --hs2-address {hs2_address}"))?;
        let hostname = hostname.unwrap_or_else(|| match web_address.ip() {
            ip if ip.is_unspecified() => name,
            IpAddr::V4(ip) => ip.to_string(),
            // A port follows it wherever it is written.
            IpAddr::V6(ip) => format!("[{ip}]"),
        });
        let web_port = web.local_addr()?.port();
        Ok((
            Arc::new(Self {
                coordinator,
                service,
                hostname,
                web_port,
                krpc_ip,
                executors,
                peers,
                backends_page: Mutex::default(),
            }),
            web,
        ))
    }

    /// Serves the web pages until the process ends.
    pub async fn serve_web(self: Arc<Self>, listener: TcpListener) -> Result<()> {
        axum::serve(listener, web::pages(self))
            .await
            .context("the web server failed")
    }

    /// Where HiveServer2 is.
    pub fn hs2_address(&self) -> SocketAddr {
        self.service.address()
    }

    /// The other coordinators.
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// The hosts of executors.
    pub fn executors(&self) -> &[String] {
        &self.executors
    }

    /// How `/backends?json` is answered.
    pub fn backends_page(&self) -> BackendsPage {
        // A page is replaced as a whole.
        let page = self.backends_page.lock().unwrap_or_else(PoisonError::into_inner);
        page.clone()
    }

    /// Changes how `/backends?json` is answered.
    pub fn answer_backends(&self, page: BackendsPage) {
        *self.backends_page.lock().unwrap_or_else(PoisonError::into_inner) = page;
    }

    /// All figures of this moment.
    pub fn state(&self) -> State {
        State {
            coordinator: self.coordinator.snapshot(),
            connections: self.service.counts(),
            hostname: self.hostname.clone(),
            web_port: self.web_port,
            krpc_ip: self.krpc_ip,
        }
    }

    /// Changes what the coordinator does.
    pub fn switch(&self, mode: Mode) {
        self.coordinator.set_mode(mode);
        self.service.admit(mode != Mode::Saturated);
    }

    /// Does what clients notice of a new process in place of the old one: connections are reset, sessions and queries are
    /// forgotten, counters begin anew, and it serves.
    pub fn restart(&self) {
        self.service.reset_all(|| self.coordinator.restart());
    }
}
