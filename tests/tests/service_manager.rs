//! Tier 2: the daemon as a service of systemd: what it tells the service manager, and that the unit file lets it do its work.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use lab::balancing::{Balancer, Configuration, PATIENCE};
use lab::clients::http::request_blocking;
use lab::{Lab, programs, wait_until};

const AUTHORITY: &str = "127.0.0.1:9410";

fn two_backends() -> Lab {
    Lab::builder()
        .balancers(1)
        .backends(2)
        .clients(0)
        .start()
        .unwrap()
}

fn configuration(lab: &Lab) -> Configuration {
    let http = format!("[http]\nlisten = [\"{AUTHORITY}\"]\n\n[api]");
    Configuration::of_all_backends(lab).with("[api]", &http).unwrap()
}

fn unit() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/lb-ctl.service");
    fs::read_to_string(path).unwrap()
}

/// What stands for systemd.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(lab: &Lab) -> Self {
        let path = lab.directory().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, path }
    }

    fn start(&self, balancer: &mut Balancer) {
        let variables = [
            ("NOTIFY_SOCKET", self.path.to_str().unwrap()),
            ("WATCHDOG_USEC", "900000"),
        ];
        balancer.begin_under(&[], &variables, &[]).unwrap();
    }

    /// The next message, if one comes in this time.
    fn next_within(&self, time: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..length].to_vec()).unwrap())
    }

    /// Waits for a message that contains this text; returns it, and those before it.
    fn wait_for(&self, text: &str) -> (String, Vec<String>) {
        let mut before = Vec::new();
        loop {
            let message = self.next_within(PATIENCE);
            let message = message.unwrap_or_else(|| panic!("no {text}, but {before:?}"));
            if message.contains(text) {
                return (message, before);
            }
            before.push(message);
        }
    }
}

#[test]
fn the_service_manager_hears_of_start_reload_and_end() {
    let lab = two_backends();
    let manager = Manager::new(&lab);
    let mut balancer = Balancer::prepare(&lab, &lab.balancers()[0], configuration(&lab)).unwrap();
    manager.start(&mut balancer);
    let (_, before) = manager.wait_for("READY=1\n");
    let all = before.concat();
    assert!(
        all.contains("STATUS=services: 1; backends that get new connections: 2 of 2\n"),
        "{all}"
    );
    assert!(!all.contains("WATCHDOG"), "the loop does not turn yet: {all}");
    balancer
        .daemon()
        .unwrap()
        .wait_for_line(" ready ", PATIENCE)
        .unwrap();
    assert!(balancer.configuration().pins().exists(), "the start is complete");
    manager.wait_for("WATCHDOG=1\n");

    assert_eq!(balancer.lb_ctl(&["reload"]).unwrap().code, Some(0));
    let (reloading, _) = manager.wait_for("RELOADING=1\n");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    manager.wait_for("READY=1\n");

    // A reload that is refused ends, too.
    let wrong = configuration(&lab).with("[api]", "[apu]").unwrap();
    balancer.reconfigure(wrong).unwrap();
    assert_eq!(balancer.lb_ctl(&["reload"]).unwrap().code, Some(2));
    manager.wait_for("RELOADING=1\n");
    manager.wait_for("READY=1\n");
    let log = balancer.daemon().unwrap().output().unwrap();
    assert!(
        log.contains("not reloaded, and nothing changed cause=\""),
        "{log}"
    );

    balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
    manager.wait_for("STOPPING=1\n");
}

#[test]
fn a_controller_that_hangs_gives_no_sign_of_life() {
    let lab = two_backends();
    let manager = Manager::new(&lab);
    let mut balancer = Balancer::prepare(&lab, &lab.balancers()[0], configuration(&lab)).unwrap();
    manager.start(&mut balancer);
    manager.wait_for("READY=1\n");
    manager.wait_for("WATCHDOG=1\n");

    // A file that nobody ever finishes reading.
    let (file, text) = (
        balancer.file().to_owned(),
        balancer.configuration().text().to_owned(),
    );
    fs::remove_file(&file).unwrap();
    balancer.host().run(&["mkfifo", file.to_str().unwrap()]).unwrap();
    balancer
        .daemon()
        .unwrap()
        .signal(rustix::process::Signal::HUP)
        .unwrap();
    manager.wait_for("RELOADING=1\n");
    // What was sent before the file was opened may still be on its way; then there is silence, for longer than the beat.
    while manager.next_within(Duration::from_millis(900)).is_some() {}
    assert_eq!(manager.next_within(Duration::from_secs(2)), None);
    let answer = balancer
        .host()
        .enter(|| request_blocking(Method::GET, AUTHORITY, "/healthz", PATIENCE))
        .unwrap()
        .unwrap();
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.body, "the controller has not answered within 2 s\n");

    fs::OpenOptions::new()
        .write(true)
        .open(&file)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    manager.wait_for("READY=1\n");
    manager.wait_for("WATCHDOG=1\n");
    balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
}

/// What a line of the unit says.
fn setting(name: &str) -> String {
    let unit = unit();
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("no {name} in\n{unit}")).to_owned()
}

#[test]
fn the_capabilities_of_the_unit_are_enough_for_everything() {
    let allowed: Vec<String> = setting("CapabilityBoundingSet")
        .split(' ')
        .map(|name| format!("+{}", name.strip_prefix("CAP_").unwrap().to_lowercase()))
        .collect();
    let set = format!("--bounding-set=-all,{}", allowed.join(","));
    let launcher = ["setpriv", "--no-new-privs", set.as_str()];
    let lab = two_backends();
    let told = lab.directory().join("told");
    let hook = format!(
        "grep -E '^(CapEff|NoNewPrivs)' /proc/self/status > {}",
        told.display()
    );
    let plain = configuration(&lab).followed_by(&format!(
        "\n[[vrrp]]\nname = \"pair\"\nvrid = 51\naddresses = [\"{}\"]\nadvert_interval = \"100ms\"\nnotify = [\"/bin/sh\", \"-c\", {hook:?}]\n",
        lab.vips()[0].v4
    ));
    let with = |key: &str| {
        let keys = format!("interfaces = [\"eth0\"]\n{key}");
        plain.clone().with("interfaces = [\"eth0\"]", &keys).unwrap()
    };
    let mut balancer = Balancer::prepare(&lab, &lab.balancers()[0], plain.clone()).unwrap();
    let steps = [
        ("a first start", plain.clone(), "native"),
        (
            "a start over the tables of an earlier one",
            plain.clone(),
            "native",
        ),
        ("tables of other sizes", with("max_flows = 4096"), "native"),
        (
            "another mode",
            with("max_flows = 4096\nmode = \"generic\""),
            "generic",
        ),
        (
            "the mode from before",
            with("max_flows = 4096\nmode = \"native\""),
            "native",
        ),
    ];
    for (what, configuration, mode) in steps {
        balancer.reconfigure(configuration).unwrap();
        balancer.begin_under(&launcher, &[], &[]).unwrap();
        let daemon = balancer.daemon().unwrap();
        daemon
            .wait_for_line(" ready ", PATIENCE)
            .unwrap_or_else(|error| panic!("{what}: {error:#}"));
        let status = fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
        let effective = status.lines().find(|line| line.starts_with("CapEff:"));
        // CAP_NET_ADMIN 12, CAP_NET_RAW 13, CAP_PERFMON 38, CAP_BPF 39 of linux/capability.h.
        let bits: u64 = 1 << 12 | 1 << 13 | 1 << 38 | 1 << 39;
        assert_eq!(
            effective,
            Some(format!("CapEff:\t{bits:016x}").as_str()),
            "{what}"
        );
        assert_eq!(balancer.lb_ctl(&["reload"]).unwrap().code, Some(0), "{what}");
        let is_master = || balancer.status().unwrap().vrrp[0].state == "master";
        wait_until("VRRP to become master", PATIENCE, is_master).unwrap();
        let is_told = || balancer.status().unwrap().vrrp[0].notifications["succeeded"] == 2;
        wait_until("the hook to be told", PATIENCE, is_told).unwrap();
        // It may what the daemon may, and cannot become more.
        let hook = format!("CapEff:\t{bits:016x}\nNoNewPrivs:\t1\n");
        assert_eq!(fs::read_to_string(&told).unwrap(), hook, "{what}");
        let status = balancer.status().unwrap();
        assert_eq!(status.datapath.interfaces[0].mode, mode, "{what}");
        for backend in &status.services[0].backends {
            assert!(backend.next_hop.is_some(), "{what}: {backend:?}");
        }
        let daemon = balancer.daemon().unwrap();
        assert!(daemon.terminate(PATIENCE).unwrap().success(), "{what}");
        let log = daemon.output().unwrap();
        assert!(!log.contains("ERROR"), "{what}: {log}");
    }
    // The one thing that is not possible says so, and the next start finds everything as it was.
    balancer.reconfigure(with("mode = \"generic\"")).unwrap();
    balancer.begin_under(&launcher, &[], &[]).unwrap();
    let daemon = balancer.daemon().unwrap();
    assert_eq!(daemon.wait(PATIENCE).unwrap().code(), Some(1));
    let said = daemon.output().unwrap();
    assert!(said.contains("restart lb-ctl with the one change"), "{said}");
    balancer.reconfigure(plain).unwrap();
    balancer.begin_under(&launcher, &[], &[]).unwrap();
    balancer
        .daemon()
        .unwrap()
        .wait_for_line(" ready ", PATIENCE)
        .unwrap();
    assert_eq!(balancer.status().unwrap().datapath.interfaces[0].mode, "native");
}

#[test]
fn systemd_finds_the_unit_in_order_and_well_locked_up() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("lb-ctl.service");
    let lb_ctl = programs::find("lb-ctl").unwrap();
    let unit = unit().replace("/usr/local/bin/lb-ctl", lb_ctl.to_str().unwrap());
    fs::write(&file, &unit).unwrap();
    let analyze = |arguments: &[&str], file: &Path| {
        let output = Command::new("systemd-analyze")
            .args(arguments)
            .arg(file)
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    };
    let verify = ["verify", "--man=no", "--recursive-errors=no"];
    assert_eq!(analyze(&verify, &file), (true, String::new()));
    // In tenths of a point, of a hundred; a unit without any measure has 96.
    let security = ["security", "--offline=true", "--threshold=25", "--no-pager"];
    let (is_safe, said) = analyze(&security, &file);
    assert!(is_safe, "{said}");

    fs::write(&file, unit.replace("Type=notify", "Typo=notify")).unwrap();
    let (_, said) = analyze(&verify, &file);
    assert!(
        said.contains("Typo"),
        "systemd-analyze sees what is wrong: {said}"
    );
}

#[test]
fn the_log_can_be_json() {
    let lab = two_backends();
    let mut balancer = Balancer::prepare(&lab, &lab.balancers()[0], configuration(&lab)).unwrap();
    balancer.begin(&["--log-format", "json"]).unwrap();
    balancer
        .daemon()
        .unwrap()
        .wait_for_line("\"ready\"", PATIENCE)
        .unwrap();
    balancer
        .host()
        .run(&["ip", "link", "set", "dev", "eth0", "down"])
        .unwrap();
    let is_told = || balancer.daemon().unwrap().output().unwrap().contains("is down");
    wait_until("the log to tell of the interface", PATIENCE, is_told).unwrap();
    let log = balancer.daemon().unwrap().output().unwrap();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect();
    let of = |message: &str| lines.iter().find(|line| line["message"] == message).unwrap();
    assert_eq!(of("ready")["services"], 1);
    assert_eq!(of("the interface is down")["interface"], "eth0");
    assert_eq!(of("the interface is down")["level"], "WARN");
}
