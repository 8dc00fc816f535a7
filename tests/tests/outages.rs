//! Tier 2: a coordinator dies, vanishes or shuts down under a steady load of queries. Who is told when, and whom it costs what.
//!
//! Each test prints what it has measured. It asserts what does not depend on how busy the machine is.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "clippy takes only the test functions for tests, not their helpers; the times of the log are the wall clock's"
)]

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use lab::balancing::{Balancer, Configuration, Coordinator, HS2_PORT, PATIENCE, start_coordinators};
use lab::clients::held::{connect_from_ports, hold_sessions};
use lab::clients::queries::{Finished, Queries, Stage};
use lab::{Lab, Syn, SynCapture, wait_until};

/// Sessions a second, with a query each.
const RATE: u32 = 500;
const INTERVAL: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_millis(500);
const FALL: u32 = 3;
/// How many sessions show that the others serve.
const AFTERWARDS: usize = 150;
/// A machine on which everything takes so many times as long passes.
const GENEROUS: u32 = 8;
/// How late the kernel may see a frame that the program has sent. Far less than until a client sends a SYN again.
const IN_FLIGHT: Duration = Duration::from_millis(500);

/// A lab with a balancer that checks three coordinators, and a load of queries on them.
struct Cluster {
    queries: Queries,
    /// At most so many of these are under way.
    clients: u16,
    capture: SynCapture,
    balancer: Balancer,
    coordinators: Vec<Coordinator>,
    // Last: what runs in the lab ends before it.
    lab: Lab,
}

/// What came of it.
struct Outcome {
    queries: Vec<Finished>,
    /// The SYNs that the coordinator in question was sent.
    syns: Vec<Syn>,
    /// When the daemon has logged its decision.
    decided: SystemTime,
    /// When it has logged that the slots have followed.
    moved: SystemTime,
}

impl Cluster {
    /// Returns once the load, of so many clients, is on all coordinators.
    fn start(statement: &str, clients: u16) -> Self {
        let lab = Lab::builder().backends(3).start().unwrap();
        let coordinators = start_coordinators(&lab).unwrap();
        let backends: Vec<_> = coordinators
            .iter()
            .map(|coordinator| (coordinator.name.as_str(), coordinator.address.into(), 1))
            .collect();
        let check = format!(
            "[service.check]\ntype = \"impala\"\ninterval = \"{INTERVAL:?}\"\ntimeout = \"{TIMEOUT:?}\"\nfall = {FALL}\n"
        );
        let port = format!("port = {HS2_PORT}\n");
        let configuration = Configuration::of(&lab, &lab.balancers()[0])
            .service("impala", lab.vips()[0].v4.into(), &backends)
            .with(&port, &format!("{port}{check}"))
            .unwrap();
        let balancer = Balancer::start(&lab, &lab.balancers()[0], configuration).unwrap();
        wait_until("all coordinators to be up", PATIENCE, || {
            balancer
                .backends()
                .unwrap()
                .iter()
                .all(|backend| backend.health == "up")
        })
        .unwrap();
        let capture = SynCapture::of(&lab, &lab.balancers()[0], lab.vips()[0].v4).unwrap();
        let service = SocketAddr::from((lab.vips()[0].v4, HS2_PORT));
        let queries = Queries::begin(&lab.clients()[0], service, statement, RATE, clients).unwrap();
        let cluster = Self {
            queries,
            clients,
            capture,
            balancer,
            coordinators,
            lab,
        };
        for number in 1..=3 {
            wait_until("load on each coordinator", PATIENCE, || {
                cluster.syns(number).len() > 50
            })
            .unwrap();
        }
        cluster
    }

    /// The SYNs that a coordinator was sent.
    fn syns(&self, number: usize) -> Vec<Syn> {
        let mac = self.lab.backends()[number - 1].mac();
        let mut syns = self.capture.syns();
        syns.retain(|syn| syn.to == mac);
        syns
    }

    /// Waits until the daemon has found the second coordinator to be so and has acted on it, and for some load after that.
    fn finish(&mut self, health: &str) -> Outcome {
        let daemon = self.balancer.daemon().unwrap();
        // From whatever health: a machine that stalls may have found it saturated before.
        let subject = format!("backend=\"impala2\" address={}", self.coordinators[1].address);
        let decision = format!("to={health}");
        let decided = wait_until("the daemon to find it out", PATIENCE, || {
            let log = daemon.output().unwrap();
            let mut lines = log.lines();
            let decided = lines.find(|line| line.contains(&subject) && line.contains(&decision));
            decided.map(time_of)
        })
        .unwrap();
        let moved = wait_until("slots to move", PATIENCE, || {
            let log = daemon.output().unwrap();
            let moves = log.lines().filter(|line| line.contains("are shared out anew"));
            moves.map(time_of).find(|time| *time >= decided)
        })
        .unwrap();
        // As many as may have begun before, and some.
        let enough = self.queries.finished() + usize::from(self.clients) + 2 * AFTERWARDS;
        wait_until("load afterwards", PATIENCE, || self.queries.finished() >= enough).unwrap();
        let syns = self.syns(2);
        assert_eq!(
            self.capture.lost().unwrap(),
            0,
            "the kernel had no room for all SYNs"
        );
        Outcome {
            queries: self.queries.end().unwrap(),
            syns,
            decided,
            moved,
        }
    }
}

/// The time at which a line was logged.
fn time_of(line: &str) -> SystemTime {
    let time = line.split_whitespace().next().unwrap();
    humantime::parse_rfc3339(time).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// From one point in time to another, in milliseconds, which may be before it.
fn milliseconds(from: SystemTime, to: SystemTime) -> f64 {
    match to.duration_since(from) {
        Ok(after) => after.as_secs_f64() * 1e3,
        Err(before) => -before.duration().as_secs_f64() * 1e3,
    }
}

impl Outcome {
    fn failed(&self) -> impl Iterator<Item = &Finished> {
        self.queries.iter().filter(|query| query.stage != Stage::Done)
    }

    /// Those that began when the slots had moved.
    fn afterwards(&self) -> impl Iterator<Item = &Finished> {
        self.queries.iter().filter(|query| query.began > self.moved)
    }

    fn tell(&self, what: &str, since: SystemTime) {
        let first = self.queries.iter().map(|query| query.began).min().unwrap();
        let last = self.queries.iter().map(|query| query.began).max().unwrap();
        let last_syn = self.syns.last().unwrap().at;
        println!(
            "{what}: {:.0} queries/s; decided after {:.0} ms, slots moved {:.1} ms later, last SYN to it {:.1} ms after the \
             decision; {} of {} sessions failed",
            f64::from(u32::try_from(self.queries.len()).unwrap()) * 1e3 / milliseconds(first, last),
            milliseconds(since, self.decided),
            milliseconds(self.decided, self.moved),
            milliseconds(self.decided, last_syn),
            self.failed().count(),
            self.queries.len()
        );
    }

    /// What holds however a coordinator leaves.
    #[track_caller]
    fn assert_it_is_left_alone(&self, since: SystemTime) {
        let bound = INTERVAL * FALL + TIMEOUT;
        let took = self.decided.duration_since(since).unwrap();
        assert!(
            took < bound * GENEROUS,
            "decided only after {took:?}, expected {bound:?} at most"
        );

        let late: Vec<_> = self
            .syns
            .iter()
            .filter(|syn| syn.at > self.moved + IN_FLIGHT)
            .collect();
        assert!(late.is_empty(), "SYNs to it after {:?}: {late:?}", self.moved);
        let its_own = |query: &Finished| {
            let mut syns = self.syns.iter();
            syns.any(|syn| syn.port == query.port && (query.began..=query.ended).contains(&syn.at))
        };
        let mut afterwards = 0;
        for query in self.afterwards() {
            assert!(
                !its_own(query),
                "it got a connection that began when slots had moved: {query:?}"
            );
            assert_eq!(query.stage, Stage::Done, "{query:?}");
            afterwards += 1;
        }
        assert!(afterwards > 100, "only {afterwards} queries when slots had moved");
        for query in self.failed() {
            assert!(its_own(query), "lost, though with another coordinator: {query:?}");
        }
    }
}

#[test]
fn a_coordinator_that_is_killed_costs_its_own_sessions_only() {
    let mut cluster = Cluster::start("select coordinator()", 64);
    let killed = SystemTime::now();
    cluster.coordinators[1].kill().unwrap();
    let outcome = cluster.finish("down");
    outcome.tell("killed", killed);
    outcome.assert_it_is_left_alone(killed);
    assert!(
        outcome.failed().count() > 0,
        "until it was down, clients were refused"
    );
}

#[test]
fn clients_that_met_a_host_that_is_gone_meet_another_one_with_their_next_syn() {
    // Those that meet it wait.
    let mut cluster = Cluster::start("select coordinator()", 600);
    let gone = SystemTime::now();
    let port = cluster.lab.backends()[1].name();
    cluster
        .lab
        .switch()
        .run(&["ip", "link", "set", port, "down"])
        .unwrap();
    let outcome = cluster.finish("down");
    outcome.tell("gone", gone);
    outcome.assert_it_is_left_alone(gone);
    let not_connected = outcome.failed().find(|query| query.stage == Stage::Connecting);
    assert!(not_connected.is_none(), "{not_connected:?}");
}

#[test]
fn a_coordinator_that_shuts_down_loses_no_query() {
    let mut cluster = Cluster::start("select sleep(30)", 64);
    let service = SocketAddr::from((cluster.lab.vips()[0].v4, HS2_PORT));
    let streams = connect_from_ports(&cluster.lab.clients()[0], service, 20_000..20_030).unwrap();
    let mut sessions = hold_sessions(&streams).unwrap();
    assert!(sessions.iter().any(|(_, home)| home == "impala2"));
    let long: Vec<_> = sessions
        .iter_mut()
        .map(|(session, _)| session.start("select sleep(3000)").unwrap())
        .collect();

    let told = SystemTime::now();
    cluster.coordinators[1].switch("shutdown").unwrap();
    let outcome = cluster.finish("quiescing");
    outcome.tell("shut down", told);
    outcome.assert_it_is_left_alone(told);
    for query in outcome.failed() {
        let is_refused = matches!(query.stage, Stage::Opening | Stage::Executing)
            && query.failure.contains("Server is being shut down");
        assert!(is_refused && query.began < outcome.moved, "{query:?}");
    }
    for ((session, home), query) in sessions.iter_mut().zip(&long) {
        while session
            .fetch(query)
            .unwrap_or_else(|error| panic!("{home}: {error}"))
            .1
        {}
        session.close_query(query).unwrap();
    }
}
