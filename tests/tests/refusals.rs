//! Tier 2: starts that must fail, with the right words and the right exit code, and without a change to the host.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::process::Command;

use lab::balancing::{Balancer, Configuration, Output};
use lab::{Host, Lab, programs};

fn lab() -> Lab {
    Lab::builder()
        .balancers(1)
        .backends(2)
        .clients(0)
        .start()
        .unwrap()
}

/// Everything that a start could change on the host.
fn host_state(balancer: &Balancer) -> String {
    let host = balancer.host();
    let addresses = host.run(&["ip", "-o", "addr", "show"]).unwrap();
    let links = host.run(&["ip", "-o", "link", "show"]).unwrap();
    let pins = balancer.configuration().pins().exists();
    // Lifetimes count down, and are none of our business.
    format!("{addresses}{links}pins: {pins}")
}

/// Runs `lb-ctl run`, which must fail without a trace.
fn refused(balancer: &Balancer) -> Output {
    let before = host_state(balancer);
    let file = balancer.file().display().to_string();
    let output = balancer.lb_ctl_alone(&["run", "--config", &file]).unwrap();
    assert_eq!(
        host_state(balancer),
        before,
        "a start that fails changes nothing: {output:?}"
    );
    assert_eq!(output.stdout, "");
    output
}

/// What it takes to see that a configuration is wrong.
#[derive(Clone, Copy, PartialEq)]
enum Seen {
    InTheFile,
    OnTheHost,
}

/// A configuration whose text is changed in one place is refused with exit code 2 and one line that has these words.
fn refused_after(part: &str, replacement: &str, seen: Seen, line: &str, words: &[&str]) {
    let lab = lab();
    let changed = Configuration::of_all_backends(&lab)
        .with(part, replacement)
        .unwrap();
    let balancer = Balancer::prepare(&lab, &lab.balancers()[0], changed).unwrap();
    let output = refused(&balancer);
    assert_eq!(output.code, Some(2), "{}", output.stderr);
    let message = output
        .stderr
        .lines()
        .find(|message| message.starts_with(&format!("{}:{line}: ", balancer.file().display())))
        .unwrap_or_else(|| panic!("expected a message about line {line}, found:\n{}", output.stderr));
    for word in words {
        assert!(message.contains(word), "expected {word:?} in {message:?}");
    }
    let file = balancer.file().display().to_string();
    let checked = balancer
        .lb_ctl_alone(&["check", "--config", &file, "--host"])
        .unwrap();
    assert_eq!(
        (checked.code, &checked.stderr),
        (Some(2), &output.stderr),
        "`check --host` says the same"
    );
    let checked = balancer.lb_ctl_alone(&["check", "--config", &file]).unwrap();
    assert_eq!(
        checked.code == Some(0),
        seen == Seen::OnTheHost,
        "`check` sees the file only: {checked:?}"
    );
}

#[test]
fn a_wrong_type() {
    refused_after(
        "port = 21050",
        "port = \"hs2\"",
        Seen::InTheFile,
        "14",
        &["service[impala].port", "integer", "\"hs2\""],
    );
}

#[test]
fn an_unknown_key() {
    refused_after(
        "port = 21050",
        "port = 21050\nwieght = 3",
        Seen::InTheFile,
        "15",
        &["service[impala].wieght"],
    );
}

#[test]
fn a_peer_without_a_key_file() {
    refused_after(
        "[[service]]",
        "[peer]\nlisten = \"10.77.0.11:4222\"\n\n[[service]]",
        Seen::InTheFile,
        "11",
        &["peer.key_file", "add `key_file"],
    );
}

#[test]
fn a_duplicate_backend() {
    refused_after(
        "name = \"backend2\"",
        "name = \"backend1\"",
        Seen::InTheFile,
        "22",
        &["service[impala]", "backend1"],
    );
}

#[test]
fn a_duplicate_service() {
    let twice = "port = 21050\n[[service.backend]]\nname = \"b\"\naddress = \"10.77.0.99\"\n\n[[service]]\nname = \"impala\"\n\
                 vip = \"10.77.0.52\"\nport = 21050";
    refused_after("port = 21050", twice, Seen::InTheFile, "20", &["impala"]);
}

#[test]
fn a_vip_that_is_a_backend() {
    refused_after(
        "vip = \"10.77.0.51\"",
        "vip = \"10.77.0.101\"",
        Seen::InTheFile,
        "18",
        &[
            "service[impala].backend[backend1].address",
            "10.77.0.101, the VIP on line 13",
        ],
    );
}

#[test]
fn an_interface_that_does_not_exist() {
    refused_after(
        "interfaces = [\"eth0\"]",
        "interfaces = [\"eth7\"]",
        Seen::OnTheHost,
        "6",
        &["datapath.interfaces", "eth7", "does not exist"],
    );
}

#[test]
fn a_second_interface_that_does_not_exist() {
    refused_after(
        "interfaces = [\"eth0\"]",
        "interfaces = [\n  \"eth0\",\n  \"eth7\",\n]",
        Seen::OnTheHost,
        "8",
        &["datapath.interfaces[#2]", "eth7", "does not exist"],
    );
}

#[test]
fn a_backend_behind_no_route() {
    refused_after(
        "address = \"10.77.0.101\"",
        "address = \"192.0.2.1\"",
        Seen::OnTheHost,
        "18",
        &[
            "service[impala].backend[backend1].address",
            "no route",
            "on the link of eth0",
        ],
    );
}

#[test]
fn a_backend_that_is_the_balancer() {
    refused_after(
        "address = \"10.77.0.101\"",
        "address = \"10.77.0.11\"",
        Seen::OnTheHost,
        "18",
        &[
            "expected the address of another host",
            "10.77.0.11 is this balancer's own",
        ],
    );
}

#[test]
fn a_backend_behind_a_router() {
    let lab = lab();
    let remote = Configuration::of_all_backends(&lab)
        .with("address = \"10.77.0.101\"", "address = \"192.0.2.1\"")
        .unwrap();
    let balancer = Balancer::prepare(&lab, &lab.balancers()[0], remote).unwrap();
    balancer
        .host()
        .run(&["ip", "route", "add", "192.0.2.0/24", "via", "10.77.0.102"])
        .unwrap();
    let output = refused(&balancer);
    assert_eq!(output.code, Some(2));
    assert!(output.stderr.contains("is behind a router"), "{}", output.stderr);
}

/// Gives a host a bridge, which is Ethernet and has no native XDP.
fn bridge(host: &Host) {
    host.run(&["ip", "link", "add", "br7", "type", "bridge"]).unwrap();
    // Otherwise its link-local address changes from tentative to valid while the tests compare.
    host.run(&["ip", "link", "set", "dev", "br7", "addrgenmode", "none"])
        .unwrap();
    host.run(&["ip", "link", "set", "dev", "br7", "up"]).unwrap();
    host.run(&["ip", "addr", "add", "10.99.0.1/24", "dev", "br7"])
        .unwrap();
}

/// The configuration of a balancer on that bridge.
fn on_bridge(lab: &Lab, mode: &str) -> Configuration {
    Configuration::of_all_backends(lab)
        .with(
            "interfaces = [\"eth0\"]",
            &format!("mode = \"{mode}\"\ninterfaces = [\"br7\"]"),
        )
        .and_then(|text| text.with("10.77.0.101", "10.99.0.101"))
        .and_then(|text| text.with("10.77.0.102", "10.99.0.102"))
        .unwrap()
}

#[test]
fn an_interface_without_native_xdp_says_what_was_tried() {
    let lab = lab();
    let host = &lab.balancers()[0];
    bridge(host);
    let balancer = Balancer::prepare(&lab, host, on_bridge(&lab, "native")).unwrap();
    let output = refused(&balancer);
    assert_eq!(output.code, Some(1), "the environment's fault: {}", output.stderr);
    let expected = "no XDP program could be attached to interface br7; tried native: Operation not supported";
    assert!(output.stderr.contains(expected), "{}", output.stderr);
}

#[test]
fn a_failing_start_leaves_an_earlier_run_on_another_interface_alone() {
    let lab = lab();
    let host = &lab.balancers()[0];
    let mut balancer = Balancer::start(&lab, host, Configuration::of_all_backends(&lab)).unwrap();
    balancer
        .daemon()
        .unwrap()
        .terminate(std::time::Duration::from_secs(10))
        .unwrap();
    bridge(host);
    balancer.reconfigure(on_bridge(&lab, "native")).unwrap();
    let output = refused(&balancer);
    assert_eq!(output.code, Some(1), "{}", output.stderr);
}

#[test]
fn a_mode_that_is_impossible_leaves_the_earlier_one() {
    let lab = lab();
    let host = &lab.balancers()[0];
    bridge(host);
    let mut balancer = Balancer::start(&lab, host, on_bridge(&lab, "generic")).unwrap();
    balancer
        .daemon()
        .unwrap()
        .terminate(std::time::Duration::from_secs(10))
        .unwrap();
    balancer.reconfigure(on_bridge(&lab, "native")).unwrap();
    let output = refused(&balancer);
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    assert!(output.stderr.contains("tried native"), "{}", output.stderr);
}

#[test]
fn a_socket_path_that_is_a_file() {
    let lab = lab();
    let file = lab.directory().join("precious");
    std::fs::write(&file, "data").unwrap();
    let socket = lab.directory().join("balancer1.sock");
    let changed = Configuration::of_all_backends(&lab)
        .with(&socket.display().to_string(), &file.display().to_string())
        .unwrap();
    let balancer = Balancer::prepare(&lab, &lab.balancers()[0], changed).unwrap();
    let output = refused(&balancer);
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    assert!(output.stderr.contains("cannot be opened"), "{}", output.stderr);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "data");
}

#[test]
fn a_node_to_detach_that_is_a_path() {
    let lab = lab();
    let directory = tempfile::tempdir().unwrap();
    let precious = directory.path().join("v1");
    std::fs::create_dir(&precious).unwrap();
    std::fs::write(precious.join("file"), "data").unwrap();
    let balancer =
        Balancer::prepare(&lab, &lab.balancers()[0], Configuration::of_all_backends(&lab)).unwrap();
    for node in [directory.path().display().to_string(), "..".into(), String::new()] {
        let output = balancer.lb_ctl_alone(&["detach", "--node", &node]).unwrap();
        assert_eq!(output.code, Some(2), "{output:?}");
        assert!(output.stderr.contains("expected a name"), "{output:?}");
    }
    assert!(precious.join("file").exists());
}

#[test]
fn an_interface_with_somebody_elses_program() {
    let lab = lab();
    let (host, other) = (&lab.balancers()[0], "other");
    let mut first = Balancer::start(&lab, host, Configuration::of_all_backends(&lab)).unwrap();
    first
        .daemon()
        .unwrap()
        .terminate(std::time::Duration::from_secs(10))
        .unwrap();
    // The same host under another name: the program there is not this node's.
    let socket = format!("{}.sock", host.name());
    let renamed = Configuration::of_all_backends(&lab)
        .with(first.configuration().node(), &format!("{}-{other}", lab.id()))
        .and_then(|text| text.with(&socket, "other.sock"))
        .unwrap();
    lab.on_teardown_remove(format!("/sys/fs/bpf/lb-ctl/{}-{other}", lab.id()))
        .unwrap();
    let second = Balancer::prepare(&lab, host, renamed).unwrap();
    let output = refused(&second);
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    assert!(
        output
            .stderr
            .contains("already carries an XDP program that is not ours"),
        "{}",
        output.stderr
    );
}

#[test]
fn a_configuration_that_cannot_be_read() {
    let lab = lab();
    let balancer =
        Balancer::prepare(&lab, &lab.balancers()[0], Configuration::of_all_backends(&lab)).unwrap();
    std::fs::write(balancer.file(), [b'#', 0xff, b'\n']).unwrap();
    let output = refused(&balancer);
    assert_eq!(output.code, Some(2), "{}", output.stderr);
    assert!(output.stderr.contains("UTF-8"), "{}", output.stderr);
    std::fs::remove_file(balancer.file()).unwrap();
    let output = refused(&balancer);
    assert_eq!(output.code, Some(2), "{}", output.stderr);
    assert!(output.stderr.contains("cannot be read"), "{}", output.stderr);
}

#[test]
fn not_root() {
    const NOBODY: u32 = 65_534;
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;

    let lab = lab();
    let balancer =
        Balancer::prepare(&lab, &lab.balancers()[0], Configuration::of_all_backends(&lab)).unwrap();
    // A copy where nobody can read it: the build directory may be private.
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (program, file) = (directory.path().join("lb-ctl"), directory.path().join("lb.toml"));
    std::fs::copy(programs::find("lb-ctl").unwrap(), &program).unwrap();
    std::fs::copy(balancer.file(), &file).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();

    let before = host_state(&balancer);
    // The namespace first, as root, and the user inside of it, as `ip netns exec` and `su` would do it.
    let mut command: Command = balancer.host().command("setpriv").unwrap();
    command.args(["--reuid", &NOBODY.to_string(), "--clear-groups", "--no-new-privs"]);
    command
        .arg(&program)
        .arg("run")
        .arg("--config")
        .arg(&file)
        .process_group(0);
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("run lb-ctl as root"), "{stderr}");
    assert_eq!(host_state(&balancer), before);
}
