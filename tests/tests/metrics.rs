//! Tier 2: what the daemon tells over HTTP: the metrics to Prometheus, and its own health; and that no client harms it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use axum::http::{Method, StatusCode};
use lab::balancing::{Balancer, Configuration, HS2_PORT, PATIENCE, start_coordinators};
use lab::clients::hs2::coordinator_name;
use lab::clients::http::{Answer, request_blocking};
use lab::{Host, Lab, programs, wait_until};
use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

/// Where the balancer listens, on both families.
const LISTEN: &str = "[http]\nlisten = [\"127.0.0.1:9410\", \"[::1]:9410\"]\n\n[api]";
const AUTHORITY: &str = "127.0.0.1:9410";

/// Quick enough for a test.
const CHECK: &str =
    "port = 21050\n[service.check]\ntype = \"tcp\"\ninterval = \"250ms\"\nfast_interval = \"100ms\"\n";

fn lab() -> Lab {
    Lab::builder()
        .balancers(1)
        .backends(2)
        .clients(1)
        .start()
        .unwrap()
}

fn configuration(lab: &Lab) -> Configuration {
    Configuration::of_all_backends(lab).with("[api]", LISTEN).unwrap()
}

fn get(host: &Host, authority: &str, path: &str) -> Answer {
    host.enter(|| request_blocking(Method::GET, authority, path, PATIENCE))
        .unwrap()
        .unwrap()
}

fn healthz(balancer: &Balancer) -> (StatusCode, String) {
    let Answer { status, body } = get(balancer.host(), AUTHORITY, "/healthz");
    (status, body)
}

/// The values by what stands before them.
fn metrics(balancer: &Balancer) -> BTreeMap<String, String> {
    let Answer { status, body } = get(balancer.host(), AUTHORITY, "/metrics");
    assert_eq!(status, StatusCode::OK, "{body}");
    let samples = body.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.to_owned())
        })
        .collect()
}

/// What Prometheus' own tool thinks of metrics; nothing if they are in order.
fn promtool(text: &str) -> String {
    let mut promtool = Command::new(programs::promtool().unwrap())
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    format!(
        "{}{}",
        String::from_utf8_lossy(&said),
        match output.status.code() {
            Some(0) => String::new(),
            code => format!("exit code {code:?}"),
        }
    )
}

#[test]
fn the_metrics_are_what_the_status_shows_and_promtool_finds_them_clean() {
    let lab = lab();
    let _coordinators = start_coordinators(&lab).unwrap();
    let configuration = configuration(&lab).with("port = 21050\n", CHECK).unwrap();
    let mut balancer = Balancer::start(&lab, &lab.balancers()[0], configuration).unwrap();
    let client = &lab.clients()[0];
    let service = SocketAddr::from((lab.vips()[0].v4, HS2_PORT));
    client
        .enter(|| {
            for _ in 0..20 {
                coordinator_name(&TcpStream::connect_timeout(&service, PATIENCE).unwrap()).unwrap();
            }
        })
        .unwrap();
    let refused = balancer.lb_ctl(&["reload", "--json"]).unwrap();
    assert_eq!(refused.code, Some(0), "{refused:?}");

    let text = get(balancer.host(), AUTHORITY, "/metrics").body;
    assert_eq!(promtool(&text), "", "{text}");
    let broken = promtool("# TYPE lb_broken counter\nlb_broken 1\n");
    assert!(broken.contains("_total"), "promtool sees what is wrong: {broken}");

    let metrics = metrics(&balancer);
    let status = balancer.status().unwrap();
    let backends = &status.services[0].backends;
    assert_eq!(backends.len(), 2);
    for backend in backends {
        let of = |name: &str| {
            let series = format!("{name}{{service=\"impala\",backend=\"{}\"}}", backend.name);
            let value = metrics.get(&series);
            value.unwrap_or_else(|| panic!("no {series} in\n{text}")).as_str()
        };
        assert_eq!(of("lb_backend_new_flows_total"), backend.new_flows.to_string());
        assert_eq!(of("lb_backend_slots"), backend.slots.to_string());
        assert_eq!(of("lb_backend_next_hop_resolved"), "1");
        assert_eq!(of("lb_backend_last_check_success"), "1");
        assert_ne!(of("lb_backend_packets_total"), "0");
    }
    let flows: u64 = backends.iter().map(|backend| backend.new_flows).sum();
    assert!(flows >= 20, "{backends:?}");
    for (series, value) in [
        ("lb_service_slots{service=\"impala\"}", "65537"),
        ("lb_reloads_total{result=\"accepted\"}", "1"),
        ("lb_interface_mode{interface=\"eth0\",mode=\"native\"}", "1"),
        ("lb_table_entries{table=\"backends\"}", "2"),
    ] {
        assert_eq!(metrics[series], value, "{series}");
    }
    assert_ne!(
        metrics["lb_check_duration_seconds_count{service=\"impala\"}"],
        "0"
    );

    // The other address answers as well, and only what is there.
    let elsewhere = get(balancer.host(), "[::1]:9410", "/");
    assert_eq!(elsewhere.status, StatusCode::NOT_FOUND);
    assert!(elsewhere.body.contains("/metrics and /healthz"), "{elsewhere:?}");
    balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
}

#[test]
fn a_backend_that_dies_shows_in_the_metrics_and_leaves_the_balancer_healthy() {
    let lab = lab();
    let mut coordinators = start_coordinators(&lab).unwrap();
    let configuration = configuration(&lab).with("port = 21050\n", CHECK).unwrap();
    let balancer = Balancer::start(&lab, &lab.balancers()[0], configuration).unwrap();
    coordinators[0].kill().unwrap();
    let name = lab.backends()[0].name();
    let down = format!("lb_backend_health{{service=\"impala\",backend=\"{name}\",health=\"down\"}}");
    let is_down = || metrics(&balancer).get(&down).is_some_and(|value| value == "1");
    wait_until("the backend to be down in the metrics", PATIENCE, is_down).unwrap();
    let metrics = metrics(&balancer);
    let changes =
        format!("lb_backend_health_changes_total{{backend=\"{name}\",health=\"down\",service=\"impala\"}}");
    assert_eq!(metrics[&changes], "1");
    let failed =
        format!("lb_backend_checks_total{{backend=\"{name}\",outcome=\"failed\",service=\"impala\"}}");
    assert!(metrics[&failed].parse::<u32>().unwrap() >= 3, "{metrics:?}");
    assert_eq!(healthz(&balancer).0, StatusCode::OK);
}

#[test]
fn healthz_tells_what_is_wrong_with_the_balancer_itself() {
    let lab = lab();
    let mut balancer = Balancer::start(&lab, &lab.balancers()[0], configuration(&lab)).unwrap();
    assert_eq!(healthz(&balancer), (StatusCode::OK, "ok\n".to_owned()));

    // A file that is wrong is not followed, and keeps nobody from anything.
    let good = configuration(&lab);
    balancer
        .reconfigure(good.clone().with("[api]", "[apu]").unwrap())
        .unwrap();
    assert_eq!(balancer.lb_ctl(&["reload"]).unwrap().code, Some(2));
    let (status, body) = healthz(&balancer);
    assert_eq!(status, StatusCode::OK);
    assert!(
        body.starts_with("ok\nwarning: the configuration file is not followed"),
        "{body}"
    );
    balancer.reconfigure(good).unwrap();
    assert_eq!(balancer.lb_ctl(&["reload"]).unwrap().code, Some(0));
    assert_eq!(healthz(&balancer), (StatusCode::OK, "ok\n".to_owned()));

    balancer
        .host()
        .run(&["ip", "link", "set", "dev", "eth0", "down"])
        .unwrap();
    let says = |expected: &str| {
        let (status, body) = healthz(&balancer);
        if status == StatusCode::SERVICE_UNAVAILABLE && body.contains(expected) {
            Ok(())
        } else {
            Err(format!("{status} {body}"))
        }
    };
    wait_until("the interface to be found down", PATIENCE, || {
        says("interface eth0 is down")
    })
    .unwrap();
    balancer
        .host()
        .run(&["ip", "link", "del", "dev", "eth0"])
        .unwrap();
    wait_until("the interface to be found gone", PATIENCE, || {
        says("interface eth0 does not exist")
    })
    .unwrap();
    wait_until("the metrics to say so too", PATIENCE, || {
        metrics(&balancer)["lb_healthy"] == "0"
    })
    .unwrap();
}

/// A connection from this address of the host itself.
fn connect(host: &Host, from: Ipv4Addr) -> TcpStream {
    host.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
        let to: SocketAddr = AUTHORITY.parse().unwrap();
        socket.connect_timeout(&to.into(), PATIENCE).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        TcpStream::from(socket)
    })
    .unwrap()
}

/// What comes back until the end; a reset is an end as well.
fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("not cut off"),
        _ => String::from_utf8_lossy(&bytes).into_owned(),
    }
}

#[test]
fn clients_that_are_silent_slow_or_talk_rubbish_are_cut_off_and_keep_nobody_out() {
    let lab = lab();
    let balancer = Balancer::start(&lab, &lab.balancers()[0], configuration(&lab)).unwrap();
    let host = balancer.host();
    let rude = Ipv4Addr::new(127, 0, 0, 66);
    let silent: Vec<TcpStream> = (0..20).map(|_| connect(host, rude)).collect();
    for part in [
        "GET /metr",
        "POST /reload HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n",
    ] {
        // Whether it is taken or refused right away, it must not hang.
        let _ = connect(host, Ipv4Addr::new(127, 0, 0, 67)).write_all(part.as_bytes());
    }
    // Others are served meanwhile.
    assert_eq!(healthz(&balancer).0, StatusCode::OK);
    assert_eq!(get(host, AUTHORITY, "/metrics").status, StatusCode::OK);
    for stream in silent {
        assert_eq!(rest(stream), "", "without a word, after a while");
    }

    let endless = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(100_000));
    let long = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(500));
    let rubbish = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec();
    for request in [
        endless.into_bytes(),
        long.into_bytes(),
        many.into_bytes(),
        rubbish,
    ] {
        let mut stream = connect(host, rude);
        // It may be cut off before all of it is sent.
        let _ = stream.write_all(&request);
        let answer = rest(stream);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    let answer = host
        .enter(|| request_blocking(Method::POST, AUTHORITY, "/metrics", PATIENCE))
        .unwrap()
        .unwrap();
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(healthz(&balancer), (StatusCode::OK, "ok\n".to_owned()));
    assert_eq!(balancer.backends().unwrap().len(), 2);
}

#[test]
fn a_controller_that_hangs_is_not_called_healthy() {
    let lab = lab();
    let mut balancer = Balancer::start(&lab, &lab.balancers()[0], configuration(&lab)).unwrap();
    balancer.daemon().unwrap().signal(Signal::STOP).unwrap();
    let host = balancer.host();
    let answer = host
        .enter(|| request_blocking(Method::GET, AUTHORITY, "/healthz", Duration::from_secs(3)))
        .unwrap();
    assert!(answer.is_err(), "{answer:?}");
    balancer.daemon().unwrap().signal(Signal::CONT).unwrap();
    assert_eq!(healthz(&balancer), (StatusCode::OK, "ok\n".to_owned()));
}

#[test]
fn an_address_that_is_taken_is_named_and_nothing_is_changed() {
    let lab = lab();
    let mut balancer = Balancer::prepare(&lab, &lab.balancers()[0], configuration(&lab)).unwrap();
    let taken = balancer
        .host()
        .enter(|| std::net::TcpListener::bind(AUTHORITY))
        .unwrap()
        .unwrap();
    let file = balancer.file().display().to_string();
    let output = balancer.lb_ctl_alone(&["run", "--config", &file]).unwrap();
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(
        output
            .stderr
            .contains("http.listen: 127.0.0.1:9410 cannot be listened on"),
        "{output:?}"
    );
    assert!(!balancer.configuration().pins().exists());
    drop(taken);
    balancer.run(&[]).unwrap();
}
