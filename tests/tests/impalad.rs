//! The stand-in impalad as a process: every state it can be switched to, over its real ports, with the Rust client, HTTP and
//! impyla.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use axum::http::{Method, StatusCode};
use lab::clients::hs2::{ClientError, Session, coordinator_name, probe, probe_bytes};
use lab::clients::http::{Answer, request_blocking};
use lab::impalad::cluster::State;
use lab::impalad::coordinator::Mode;
use lab::impalad::hs2::ERROR_STATUS;
use lab::impalad::thrift_value::Value;
use serde_json::{Value as Json, json};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long silence must last to be believed.
const SILENCE: Duration = Duration::from_millis(300);

const NAME: &str = "coordinator-1";
const OPERATION_RUNNING: i32 = 1;
const OPERATION_FINISHED: i32 = 2;
const OPERATION_ERROR: i32 = 5;

/// A stand-in that ends with the test.
struct StandIn {
    child: Child,
    hs2: SocketAddr,
    web: SocketAddr,
}

impl StandIn {
    fn start(name: &str, options: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_stand-in-impalad"))
            .args(["--die-with-parent", "--name", name])
            .args(["--hs2-address", "127.0.0.1:0", "--web-address", "127.0.0.1:0"])
            .args(options)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the stand-in starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout is a pipe"))
            .read_line(&mut line)
            .expect("stdout is text");
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["ready", found, hs2, web] = words[..] else {
            panic!("expected the ready line, found {line:?}")
        };
        assert_eq!(found, name);
        let address = |word: &str, prefix| word.strip_prefix(prefix).and_then(|rest| rest.parse().ok());
        let hs2 = address(hs2, "hs2=").expect("an address");
        let web = address(web, "web=").expect("an address");
        Self { child, hs2, web }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.hs2).expect("the port accepts");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn http(&self, method: Method, path: &str) -> Answer {
        request_blocking(method, &self.web.to_string(), path, PATIENCE).unwrap()
    }

    fn json(&self, path: &str) -> Json {
        let answer = self.http(Method::GET, path);
        assert_eq!(answer.status, StatusCode::OK);
        serde_json::from_str(&answer.body).unwrap()
    }

    fn metric(&self, name: &str) -> Json {
        self.json("/jsonmetrics")[name].clone()
    }

    fn state(&self) -> State {
        serde_json::from_value(self.json("/stand-in/state")).unwrap()
    }

    fn switch(&self, action: &str) {
        let answer = self.http(Method::POST, &format!("/stand-in/{action}"));
        assert_eq!(answer.status, StatusCode::OK, "{action}");
    }

    fn healthz(&self) -> (StatusCode, String) {
        let answer = self.http(Method::GET, "/healthz");
        (answer.status, answer.body)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn is_silent(stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    let answer = (&*stream).read(&mut [0; 1]);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    matches!(answer, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

fn refusal<T: std::fmt::Debug>(result: Result<T, ClientError>) -> String {
    match result {
        Err(ClientError::Refused {
            code: ERROR_STATUS,
            message,
            ..
        }) => message,
        other => panic!("expected ERROR_STATUS, found {other:?}"),
    }
}

#[test]
fn a_serving_coordinator_answers_the_probe_and_queries() {
    let stand_in = StandIn::start(NAME, &[]);
    let stream = stand_in.connect();
    let answer = probe(&stream).unwrap();
    assert_eq!(answer.status, ERROR_STATUS);
    assert_eq!(
        answer.message,
        "Invalid session id: 0000000000000000:0000000000000000\n"
    );
    assert_eq!(coordinator_name(&stream).unwrap(), NAME);

    let mut session = Session::open(&stream).unwrap();
    let columns = session.execute("select rows(25000)").unwrap();
    let ids: Vec<Value> = (0..25_000_i64).map(Value::from).collect();
    assert_eq!(columns[0], ids);
    assert_eq!(columns[1].last(), Some(&Value::from("row 24999")));
    assert!(refusal(session.execute("select 1")).contains("select sleep(MILLISECONDS)"));
    session.close().unwrap();

    assert_eq!(stand_in.healthz(), (StatusCode::OK, "OK".to_owned()));
}

#[test]
fn a_sleep_runs_can_be_cancelled_and_finishes() {
    let stand_in = StandIn::start(NAME, &[]);
    let stream = stand_in.connect();
    let mut session = Session::open(&stream).unwrap();

    let slow = session.start("select sleep(3600000)").unwrap();
    assert_eq!(session.state(&slow).unwrap(), OPERATION_RUNNING);
    assert_eq!(stand_in.metric("impala-server.num-queries-registered"), 1);
    session.cancel(&slow).unwrap();
    assert_eq!(session.state(&slow).unwrap(), OPERATION_ERROR);
    assert_eq!(refusal(session.fetch(&slow)), "Cancelled\n");
    session.close_query(&slow).unwrap();
    assert!(refusal(session.state(&slow)).starts_with("Invalid query handle: "));

    let start = Instant::now();
    let quick = session.start("select sleep(50)").unwrap();
    assert_eq!(
        session.fetch(&quick).unwrap(),
        (vec![vec![Value::Bool(true)]], false)
    );
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert_eq!(session.state(&quick).unwrap(), OPERATION_FINISHED);
    session.close_query(&quick).unwrap();

    assert_eq!(stand_in.metric("impala-server.num-queries"), 2);
    assert_eq!(stand_in.state().coordinator.queries_finished, 1);
}

#[test]
fn sessions_belong_to_a_coordinator_and_not_to_a_connection() {
    let (one, two) = (StandIn::start("c1", &[]), StandIn::start("c2", &[]));
    let first = one.connect();
    let session = Session::open(&first).unwrap();
    let (second, elsewhere) = (one.connect(), two.connect());
    assert!(session.over(&second).execute("select coordinator()").is_ok());
    let message = refusal(session.over(&elsewhere).execute("select coordinator()"));
    assert!(message.starts_with("Invalid session id: "), "{message}");
    let mut over_second = session.over(&second);
    drop(first);
    assert!(over_second.execute("select coordinator()").is_ok());
}

#[test]
fn a_shutdown_refuses_new_work_and_finishes_the_old() {
    let stand_in = StandIn::start(NAME, &[]);
    let stream = stand_in.connect();
    let mut session = Session::open(&stream).unwrap();
    let rows = session.start("select rows(5)").unwrap();
    let slow = session.start("select sleep(3600000)").unwrap();
    stand_in.switch("shutdown");

    let refused = "Server is being shut down";
    assert!(refusal(session.start("select coordinator()")).starts_with(refused));
    let new = stand_in.connect();
    assert!(refusal(Session::open(&new)).starts_with(refused));
    let answer = probe(&new).unwrap();
    assert_eq!(answer.status, ERROR_STATUS);
    assert!(answer.message.starts_with(refused));
    assert_eq!(stand_in.healthz().0, StatusCode::OK);
    let backends = stand_in.json("/backends?json");
    assert_eq!(backends["backends"][0]["is_quiescing"], true);
    assert_eq!(backends["num_quiescing_backends"], 1);

    assert_eq!(session.fetch(&rows).unwrap().0[0].len(), 5);
    session.cancel(&slow).unwrap();
    session.close_query(&slow).unwrap();
    session.close().unwrap();
    assert_eq!(stand_in.metric("impala-server.num-open-hiveserver2-sessions"), 0);

    stand_in.switch("serve");
    assert_eq!(coordinator_name(&new).unwrap(), NAME);
}

#[test]
fn a_saturated_coordinator_accepts_and_never_answers_new_connections() {
    let stand_in = StandIn::start(NAME, &[]);
    let old = stand_in.connect();
    assert_eq!(coordinator_name(&old).unwrap(), NAME);
    stand_in.switch("saturate");

    let new = stand_in.connect();
    (&new).write_all(&probe_bytes().unwrap()).unwrap();
    let queue = "impala.thrift-server.hiveserver2-frontend.connection-setup-queue-size";
    wait_until("the connection waits", || stand_in.metric(queue) == 1);
    assert!(is_silent(&new));
    assert_eq!(
        coordinator_name(&old).unwrap(),
        NAME,
        "a connection that has its thread keeps it"
    );
    assert_eq!(stand_in.healthz().0, StatusCode::OK);

    stand_in.switch("serve");
    // The probe has waited, and its answer comes before that of what is asked now.
    assert!(probe(&new).unwrap().message.starts_with("Invalid session id"));
    assert_eq!(stand_in.metric(queue), 0);
}

#[test]
fn connections_beyond_the_service_threads_wait_for_their_turn() {
    let stand_in = StandIn::start(NAME, &["--service-threads", "2"]);
    let (first, second) = (stand_in.connect(), stand_in.connect());
    probe(&first).unwrap();
    probe(&second).unwrap();
    let third = stand_in.connect();
    (&third).write_all(&probe_bytes().unwrap()).unwrap();
    wait_until("the third connection waits", || {
        let counts = stand_in.state().connections;
        (
            counts.connections_in_use,
            counts.connection_setup_queue_size,
            counts.total_connections,
        ) == (2, 1, 2)
    });
    assert!(is_silent(&third));
    drop(first);
    assert!(probe(&third).unwrap().message.starts_with("Invalid session id"));
}

#[test]
fn a_coordinator_that_is_not_ready_says_so_to_get_only() {
    let stand_in = StandIn::start(NAME, &[]);
    stand_in.switch("not-ready");
    assert_eq!(
        stand_in.healthz(),
        (StatusCode::SERVICE_UNAVAILABLE, "Not Available".to_owned())
    );
    for method in [Method::HEAD, Method::OPTIONS] {
        assert_eq!(stand_in.http(method, "/healthz").status, StatusCode::OK);
    }
    assert_eq!(coordinator_name(&stand_in.connect()).unwrap(), NAME);
    stand_in.switch("serve");
    assert_eq!(stand_in.healthz().0, StatusCode::OK);
}

#[test]
fn a_restart_resets_connections_and_forgets_sessions() {
    let stand_in = StandIn::start(NAME, &["--service-threads", "2"]);
    let (served, stuck) = (stand_in.connect(), stand_in.connect());
    let session = Session::open(&served).unwrap();
    // Its thread is blocked in a write: many answers, none of which is read.
    probe(&stuck).unwrap();
    stuck.set_write_timeout(Some(SILENCE)).unwrap();
    let many_probes = probe_bytes().unwrap().repeat(1000);
    while (&stuck).write_all(&many_probes).is_ok() {}
    let waiting = stand_in.connect();
    wait_until("a connection waits", || {
        stand_in.state().connections.connection_setup_queue_size == 1
    });
    stand_in.switch("shutdown");
    let before = stand_in.state();

    stand_in.switch("restart");
    for stream in [&served, &waiting] {
        let error = (&*stream).read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    let after = stand_in.state();
    assert_eq!(after.coordinator.mode, Mode::Serving);
    assert_ne!(
        after.coordinator.process_start_time,
        before.coordinator.process_start_time
    );
    assert_eq!(
        (before.coordinator.open_sessions, after.coordinator.open_sessions),
        (1, 0)
    );
    let counts = after.connections;
    assert_eq!(
        (counts.connections_in_use, counts.total_connections),
        (0, 0),
        "the stuck one is closed too"
    );

    let new = stand_in.connect();
    let message = refusal(session.over(&new).start("select coordinator()"));
    assert!(message.starts_with("Invalid session id: "), "{message}");
    assert_eq!(coordinator_name(&new).unwrap(), NAME);
}

#[test]
fn the_pages_list_the_cluster_and_its_load() {
    let two = StandIn::start("c2", &[]);
    let absent = "c3=127.0.0.1:1";
    let peer = format!("c2={}", two.web);
    let one = StandIn::start("c1", &["--hostname", "node-1", "--peer", &peer, "--peer", absent]);
    two.switch("shutdown");
    let page = one.json("/backends?json");
    assert_eq!(
        (&page["num_active_backends"], &page["num_quiescing_backends"]),
        (&json!(1), &json!(1))
    );
    let backends = page["backends"].as_array().unwrap();
    assert_eq!(backends.len(), 2, "a peer that does not answer is not listed");
    assert_eq!(backends[0]["krpc_address"], "node-1:27000");
    assert_eq!(
        backends[0]["webserver_url"],
        format!("http://node-1:{}", one.web.port())
    );
    assert_eq!(backends[1]["address"], "127.0.0.1:27000");
    assert_eq!(backends[1]["webserver_url"], format!("http://{}", two.web));
    assert_eq!(backends[1]["is_quiescing"], true);
    assert_eq!(
        backends[1]["process_start_time"],
        two.state().coordinator.process_start_time
    );
    assert!(
        one.http(Method::GET, "/backends").body.starts_with("<p>"),
        "without ?json it is HTML"
    );

    let stream = one.connect();
    let session = Session::open(&stream).unwrap();
    let port = "impala.thrift-server.hiveserver2-frontend";
    assert_eq!(one.metric(&format!("{port}.connections-in-use")), 1);
    assert_eq!(one.metric(&format!("{port}.total-connections")), 1);
    assert_eq!(one.metric("impala-server.num-open-hiveserver2-sessions"), 1);
    let nested = one.json("/metrics?json");
    let metrics = nested["metric_group"]["metrics"].as_array().unwrap();
    let in_use = metrics
        .iter()
        .find(|metric| metric["name"] == format!("{port}.connections-in-use"));
    assert_eq!(in_use.unwrap()["value"], 1);
    session.close().unwrap();
    drop(stream);
    wait_until("the connection is gone", || {
        one.metric(&format!("{port}.connections-in-use")) == 0
    });
}

#[test]
fn hostile_bytes_close_the_connection_and_nothing_else() {
    let stand_in = StandIn::start(NAME, &["--service-threads", "1"]);
    let probe_bytes = probe_bytes().unwrap();
    let hostile: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: impala\r\n\r\n",
        b"\x01\0\0\0\x07LBPROBE",
        b"\x80\x01\0\x01\x7f\xff\xff\xff",
        b"\x80\x01\0\x01\0\0\0\x07GetInfo\0\0\0\0\x0b\0\x01\x7f\xff\xff\xff",
        b"\x80\x01\0\x01\0\0\0\x07GetInfo\0\0\0\0\x0f\0\x01\x0c\x7f\xff\xff\xff",
        b"\x80\x01\0\x01\0\0\0\x07GetInfo\0\0\0\0\0",
    ];
    for bytes in hostile {
        let stream = stand_in.connect();
        (&stream).write_all(bytes).unwrap();
        match (&stream).read(&mut [0; 1]) {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("expected {bytes:x?} to end the connection, found {other:?}"),
        }
    }
    for length in [1, 20, probe_bytes.len() - 1] {
        (&stand_in.connect()).write_all(&probe_bytes[..length]).unwrap();
    }
    // There is only one service thread: it has survived all of them.
    assert_eq!(coordinator_name(&stand_in.connect()).unwrap(), NAME);
    let status = std::fs::read_to_string(format!("/proc/{}/status", stand_in.child.id())).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("the kernel tells the peak");
    let kibibytes: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(
        kibibytes < 100 * 1024,
        "the lengths were believed: {kibibytes} KiB"
    );
}

#[test]
fn sigterm_ends_it_at_once() {
    let mut stand_in = StandIn::start(NAME, &[]);
    let stream = stand_in.connect();
    let mut session = Session::open(&stream).unwrap();
    session.start("select sleep(3600000)").unwrap();
    let pid = rustix::process::Pid::from_child(&stand_in.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let start = Instant::now();
    stand_in.child.wait().unwrap();
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn it_dies_with_the_thread_that_started_it() {
    // The guard is forgotten, as if the test had been killed.
    let (pid, web) = std::thread::spawn(|| {
        let stand_in = std::mem::ManuallyDrop::new(StandIn::start(NAME, &[]));
        (rustix::process::Pid::from_child(&stand_in.child), stand_in.web)
    })
    .join()
    .unwrap();
    rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();
    assert!(TcpStream::connect(web).is_err());
}

#[test]
fn impyla_finds_what_it_would_find_in_impala() {
    let python = lab::programs::python().unwrap();
    let stand_in = StandIn::start(NAME, &[]);
    let outcome = Command::new(&python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/impalad_impyla.py"))
        .args([stand_in.hs2.port().to_string(), stand_in.web.port().to_string()])
        .output()
        .unwrap();
    assert!(
        outcome.status.success(),
        "{}",
        String::from_utf8_lossy(&outcome.stderr)
    );
}
