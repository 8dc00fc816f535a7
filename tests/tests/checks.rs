//! Health checks of the stand-in impalad as a process: in every state that it can be switched to, over its real ports, and
//! with the scheduler that watches it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use axum::http::{Method, StatusCode};
use lab::clients::http;
use lb_ctl::adapters::check::{Assignment, ClientPort, Probe, Report, Scheduler, Target, WebPort, check};
use lb_ctl::core::health::probe::Authentication;
use lb_ctl::core::health::{Event, Failure, Health, Outcome, Pace, Standing, Start, Verdict};
use tokio::sync::mpsc::Receiver;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// For checks that are to run out of time.
const LITTLE: Duration = Duration::from_millis(300);

/// A stand-in that ends with the test.
struct StandIn {
    child: Child,
    hs2: SocketAddr,
    web: SocketAddr,
}

impl StandIn {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_stand-in-impalad"))
            .args(["--die-with-parent", "--name", "impala1"])
            .args(["--hs2-address", "127.0.0.1:0", "--web-address", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the stand-in starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout is a pipe"))
            .read_line(&mut line)
            .expect("stdout is text");
        let address = |prefix| {
            line.split_whitespace()
                .find_map(|word| word.strip_prefix(prefix))
                .and_then(|rest| rest.parse().ok())
                .expect("the ready line has both addresses")
        };
        let (hs2, web) = (address("hs2="), address("web="));
        Self { child, hs2, web }
    }

    async fn switch(&self, action: &str) {
        let path = format!("/stand-in/{action}");
        let answer = http::request(Method::POST, &self.web.to_string(), &path, PATIENCE).await;
        assert_eq!(answer.unwrap().status, StatusCode::OK, "{action}");
    }

    fn coordinator(&self) -> Probe {
        Probe::Coordinator {
            client: self.client(Authentication::None),
            web: WebPort {
                port: self.web.port(),
                tls: None,
            },
        }
    }

    fn client(&self, authentication: Authentication) -> ClientPort {
        ClientPort {
            port: self.hs2.port(),
            tls: None,
            authentication,
        }
    }

    fn target(&self, probe: Probe, timeout: Duration) -> Target {
        Target {
            address: self.hs2.ip(),
            source: None,
            timeout,
            probe,
        }
    }

    async fn find(&self, probe: Probe, timeout: Duration) -> Outcome {
        check(&self.target(probe, timeout))
            .await
            .expect("the machine can check")
    }

    /// Ends the process, as a crash does.
    fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn every_state_of_a_coordinator_is_recognised() {
    let mut stand_in = StandIn::start();
    let outcome = stand_in.find(stand_in.coordinator(), PATIENCE).await;
    assert_eq!(outcome.verdict, Verdict::Healthy, "{}", outcome.detail);
    let load = outcome.load.expect("the figures of the page");
    assert_eq!((load.queries, load.sessions), (Some(0), Some(0)));
    assert!(load.connections.is_some() && load.waiting_connections.is_some() && load.fragments.is_some());
    let started = outcome.process_start_time.expect("the start time of the page");

    stand_in.switch("shutdown").await;
    let outcome = stand_in.find(stand_in.coordinator(), PATIENCE).await;
    assert_eq!(outcome.verdict, Verdict::Quiescing, "{}", outcome.detail);

    stand_in.switch("saturate").await;
    let outcome = stand_in.find(stand_in.coordinator(), LITTLE).await;
    assert_eq!(outcome.verdict, Verdict::Saturated, "{}", outcome.detail);

    stand_in.switch("not-ready").await;
    let outcome = stand_in.find(stand_in.coordinator(), PATIENCE).await;
    assert_eq!(
        outcome.verdict,
        Verdict::Failed(Failure::Failing),
        "{}",
        outcome.detail
    );
    let port_alone = Probe::HiveServer2(stand_in.client(Authentication::None));
    let outcome = stand_in.find(port_alone, PATIENCE).await;
    assert_eq!(
        outcome.verdict,
        Verdict::Healthy,
        "the port does not know: {}",
        outcome.detail
    );

    stand_in.switch("restart").await;
    let outcome = stand_in.find(stand_in.coordinator(), PATIENCE).await;
    assert_eq!(outcome.verdict, Verdict::Healthy, "{}", outcome.detail);
    assert_ne!(
        outcome.process_start_time.expect("the start time of the page"),
        started
    );

    stand_in.kill();
    let outcome = stand_in.find(stand_in.coordinator(), PATIENCE).await;
    assert_eq!(
        outcome.verdict,
        Verdict::Failed(Failure::Unreachable),
        "{}",
        outcome.detail
    );
}

#[tokio::test]
async fn simple_checks_see_less() {
    let stand_in = StandIn::start();
    let page = || Probe::Web {
        web: WebPort {
            port: stand_in.web.port(),
            tls: None,
        },
        path: "/healthz".to_owned(),
    };
    let tcp = || Probe::Tcp {
        port: stand_in.hs2.port(),
    };
    for (state, expected) in [
        ("serve", [Verdict::Healthy, Verdict::Healthy]),
        ("shutdown", [Verdict::Healthy, Verdict::Healthy]),
        ("saturate", [Verdict::Healthy, Verdict::Healthy]),
        ("not-ready", [Verdict::Failed(Failure::Failing), Verdict::Healthy]),
    ] {
        stand_in.switch(state).await;
        let found = [
            stand_in.find(page(), PATIENCE).await.verdict,
            stand_in.find(tcp(), PATIENCE).await.verdict,
        ];
        assert_eq!(found, expected, "{state}");
    }
}

#[tokio::test]
async fn a_sasl_probe_at_a_port_without_sasl_says_what_may_be_wrong() {
    let stand_in = StandIn::start();
    let probe = Probe::HiveServer2(stand_in.client(Authentication::Sasl));
    let outcome = stand_in.find(probe, PATIENCE).await;
    assert_eq!(
        outcome.verdict,
        Verdict::Failed(Failure::Failing),
        "{}",
        outcome.detail
    );
}

/// Waits for the next change of health, and passes over restarts.
async fn next_change(reports: &mut Receiver<Report<&'static str>>) -> (Health, Health, Standing) {
    loop {
        let report = tokio::time::timeout(PATIENCE, reports.recv())
            .await
            .expect("a report comes")
            .expect("the scheduler runs");
        for event in report.events {
            if let Event::Changed { from, to, .. } = event {
                return (from, to, report.standing);
            }
        }
    }
}

#[tokio::test]
async fn a_coordinator_is_watched_through_its_life() {
    let mut stand_in = StandIn::start();
    let (mut scheduler, mut reports) = Scheduler::new(7, 16);
    let assignment = Assignment {
        target: stand_in.target(stand_in.coordinator(), Duration::from_secs(2)),
        pace: Pace {
            interval: Duration::from_millis(100),
            fast_interval: Duration::from_millis(50),
            rise: 2,
            fall: 2,
        },
        start: Start::Cold,
    };
    scheduler.assign([("impala1", assignment)]);
    assert_eq!(
        next_change(&mut reports).await,
        (Health::Checking, Health::Up, Standing::Healthy)
    );
    stand_in.switch("saturate").await;
    assert_eq!(
        next_change(&mut reports).await,
        (Health::Up, Health::Saturated, Standing::Saturated)
    );
    stand_in.switch("serve").await;
    assert_eq!(
        next_change(&mut reports).await,
        (Health::Saturated, Health::Up, Standing::Healthy)
    );
    stand_in.switch("shutdown").await;
    assert_eq!(
        next_change(&mut reports).await,
        (Health::Up, Health::Quiescing, Standing::Unusable)
    );
    stand_in.kill();
    assert_eq!(
        next_change(&mut reports).await,
        (Health::Quiescing, Health::Down, Standing::Unusable)
    );
}

#[tokio::test]
async fn a_restart_between_two_checks_is_noticed() {
    let stand_in = StandIn::start();
    let (mut scheduler, mut reports) = Scheduler::new(7, 16);
    let assignment = Assignment {
        target: stand_in.target(stand_in.coordinator(), PATIENCE),
        pace: Pace {
            interval: Duration::from_millis(50),
            fast_interval: Duration::from_millis(50),
            rise: 2,
            fall: 100,
        },
        start: Start::Cold,
    };
    scheduler.assign([("impala1", assignment)]);
    assert_eq!(
        next_change(&mut reports).await,
        (Health::Checking, Health::Up, Standing::Healthy)
    );
    stand_in.switch("restart").await;
    loop {
        let report = tokio::time::timeout(PATIENCE, reports.recv())
            .await
            .expect("a report comes")
            .expect("the scheduler runs");
        assert_eq!(
            report.health,
            Health::Up,
            "it was back before anybody could think it dead"
        );
        if let Some(Event::Restarted { from, to }) = report.events.first() {
            assert_ne!(from, to);
            break;
        }
    }
}
