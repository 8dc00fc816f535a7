//! Tier 2: what operators see of the daemon: its status, its end, and what it leaves behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use lab::balancing::{Balancer, Configuration, PATIENCE};
use lab::{Host, Lab, wait_until};
use serde_json::Value as Json;

/// A lab with a balancer and two backends, on which nothing runs.
fn two_backends() -> Lab {
    Lab::builder()
        .balancers(1)
        .backends(2)
        .clients(0)
        .start()
        .unwrap()
}

fn running() -> (Lab, Balancer) {
    let lab = two_backends();
    let balancer = Balancer::start(&lab, &lab.balancers()[0], Configuration::of_all_backends(&lab)).unwrap();
    (lab, balancer)
}

fn addresses(host: &Host) -> String {
    host.run(&["ip", "-4", "-o", "addr", "show"]).unwrap()
}

fn xdp(host: &Host) -> Json {
    let links: Json =
        serde_json::from_str(&host.run(&["ip", "-j", "link", "show", "dev", "eth0"]).unwrap()).unwrap();
    links[0]["xdp"].clone()
}

/// What a start must not change when it fails, and what must be gone after `detach`.
fn traces(lab: &Lab, balancer: &Balancer) -> (bool, bool, bool) {
    let host = balancer.host();
    let vip = lab.vips()[0].v4.to_string();
    (
        balancer.configuration().pins().exists(),
        addresses(host).contains(&vip),
        !xdp(host).is_null(),
    )
}

const NOTHING: (bool, bool, bool) = (false, false, false);
const EVERYTHING: (bool, bool, bool) = (true, true, true);

#[test]
fn the_json_status_has_what_the_contract_says() {
    let (lab, balancer) = running();
    let output = balancer.lb_ctl(&["status", "--json"]).unwrap();
    assert_eq!(output.code, Some(0));
    let status: Json = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(status["node"], balancer.configuration().node());
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        status["datapath"]["interfaces"],
        serde_json::json!([{"name": "eth0", "mode": "native"}])
    );
    assert_eq!(status["vrrp"], serde_json::json!([]));
    assert!(status.as_object().unwrap().contains_key("peer"));
    let service = &status["services"][0];
    assert_eq!(service["name"], "impala");
    assert_eq!(service["vip"], lab.vips()[0].v4.to_string());
    assert_eq!(service["port"], 21050);
    assert_eq!(service["forward"], "dsr");
    assert_eq!(service["active_tier"], 0);
    assert_eq!(service["tracked_slots"], 0);
    let backends = service["backends"].as_array().unwrap();
    assert_eq!(backends.len(), 2);
    let slots: u64 = backends
        .iter()
        .map(|backend| backend["slots"].as_u64().unwrap())
        .sum();
    assert_eq!(slots, 65_537, "every slot has a backend");
    for (backend, host) in backends.iter().zip(lab.backends()) {
        assert_eq!(backend["name"], host.name());
        assert_eq!(backend["address"], host.v4().to_string());
        assert_eq!(backend["next_hop"], host.mac().to_string());
        for (key, value) in [("port", 21050), ("weight", 1), ("tier", 0), ("tracked_flows", 0)] {
            assert_eq!(backend[key], value, "{key}");
        }
        for key in ["health", "admin", "packets", "bytes", "new_flows", "last_check"] {
            assert!(backend.as_object().unwrap().contains_key(key), "{key}");
        }
    }
}

#[test]
fn the_status_for_people_shows_every_backend() {
    let (lab, balancer) = running();
    let output = balancer.lb_ctl(&["status"]).unwrap();
    assert_eq!(output.code, Some(0));
    assert!(
        output.stdout.contains("XDP on eth0 (native)"),
        "{}",
        output.stdout
    );
    for backend in lab.backends() {
        let line = output
            .stdout
            .lines()
            .find(|line| line.contains(backend.name()))
            .unwrap();
        for word in [
            backend.v4().to_string(),
            backend.mac().to_string(),
            "up".into(),
            "enabled".into(),
        ] {
            assert!(line.contains(&word), "{line}");
        }
    }
}

#[test]
fn sigterm_leaves_the_datapath_and_detach_removes_it() {
    let (lab, mut balancer) = running();
    assert_eq!(traces(&lab, &balancer), EVERYTHING);
    let node = balancer.configuration().node().to_owned();
    let refused = balancer.lb_ctl(&["detach", "--node", &node]).unwrap();
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("stop it first"), "{}", refused.stderr);

    let status = balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(traces(&lab, &balancer), EVERYTHING);
    assert_eq!(balancer.lb_ctl(&["status"]).unwrap().code, Some(3), "no daemon");

    let detached = balancer.lb_ctl(&["detach", "--node", &node]).unwrap();
    assert_eq!(detached.code, Some(0), "{detached:?}");
    for trace in [
        "detached the XDP program from eth0",
        " pinned maps of node ",
        "removed the VIP",
    ] {
        assert!(detached.stdout.contains(trace), "{}", detached.stdout);
    }
    assert_eq!(traces(&lab, &balancer), NOTHING);
    let again = balancer.lb_ctl(&["detach", "--node", &node]).unwrap();
    assert_eq!(again.code, Some(0));
    assert!(again.stdout.contains("nothing of"), "{}", again.stdout);
}

#[test]
fn a_throwaway_run_leaves_nothing() {
    let lab = two_backends();
    let mut balancer =
        Balancer::prepare(&lab, &lab.balancers()[0], Configuration::of_all_backends(&lab)).unwrap();
    balancer.run(&["--detach-on-exit"]).unwrap();
    assert_eq!(traces(&lab, &balancer), EVERYTHING);
    assert!(balancer.daemon().unwrap().terminate(PATIENCE).unwrap().success());
    assert_eq!(traces(&lab, &balancer), NOTHING);
}

#[test]
fn a_second_daemon_is_refused_and_harms_nothing() {
    let (lab, balancer) = running();
    let file = balancer.file().display().to_string();
    let second = balancer.lb_ctl_alone(&["run", "--config", &file]).unwrap();
    assert_eq!(second.code, Some(1));
    assert!(
        second.stderr.contains("another lb-ctl already answers"),
        "{}",
        second.stderr
    );
    assert_eq!(traces(&lab, &balancer), EVERYTHING);
    assert_eq!(balancer.backends().unwrap().len(), 2);
}

#[test]
fn a_second_daemon_of_the_node_is_refused_at_another_socket_too() {
    let (lab, balancer) = running();
    let moved = Configuration::of_all_backends(&lab)
        .with(".sock", "-second.sock")
        .unwrap();
    let file = lab.directory().join("second.toml");
    std::fs::write(&file, moved.text()).unwrap();
    let second = balancer
        .lb_ctl_alone(&["run", "--config", &file.display().to_string()])
        .unwrap();
    assert_eq!(second.code, Some(1));
    assert!(
        second.stderr.contains("a daemon is running for node"),
        "{}",
        second.stderr
    );
    assert_eq!(traces(&lab, &balancer), EVERYTHING);
}

#[test]
fn a_vip_that_somebody_removes_comes_back() {
    let (lab, balancer) = running();
    let vip = lab.vips()[0].v4.to_string();
    balancer
        .host()
        .run(&["ip", "addr", "del", &format!("{vip}/32"), "dev", "eth0"])
        .unwrap();
    let is_back = || addresses(balancer.host()).contains(&vip);
    wait_until("the VIP to be added again", PATIENCE, is_back).unwrap();
}

#[test]
fn an_ipv6_vip_is_no_source_of_the_balancers_own_connections() {
    let lab = two_backends();
    let host = &lab.balancers()[0];
    let vip = lab.vips()[0].v6;
    let backend = lab.backends()[0].v6();
    // Next to the backend: by the longest matching prefix (RFC 6724, rule 8) the VIP would be the source.
    let near = std::net::Ipv6Addr::from_bits(backend.to_bits() ^ 1);
    let configuration = Configuration::of_both_families(&lab)
        .with(&vip.to_string(), &near.to_string())
        .unwrap();
    let _balancer = Balancer::start(&lab, host, configuration).unwrap();
    let addresses = host
        .run(&["ip", "-6", "-o", "addr", "show", "dev", "eth0"])
        .unwrap();
    let line = addresses
        .lines()
        .find(|line| line.contains(&format!(" {near}/128 ")));
    assert!(line.unwrap().contains("deprecated"), "{addresses}");
    let route = host
        .run(&["ip", "-6", "route", "get", &backend.to_string()])
        .unwrap();
    assert!(route.contains(&format!("src {} ", host.v6())), "{route}");
}

#[test]
fn a_daemon_without_its_interface_says_so_and_waits() {
    let (_lab, mut balancer) = running();
    balancer
        .host()
        .run(&["ip", "link", "del", "dev", "eth0"])
        .unwrap();
    let daemon = balancer.daemon().unwrap();
    daemon
        .wait_for_line("the interface was deleted or renamed", PATIENCE)
        .unwrap();
    assert_eq!(daemon.exit_status().unwrap(), None);
    let status = balancer.status().unwrap();
    assert_eq!(status.datapath.interfaces[0].mode, "absent");
    assert_eq!(status.services[0].backends[0].next_hop, None);
}

#[test]
fn an_interface_that_joins_and_leaves_a_bridge_is_not_taken_for_deleted() {
    let (lab, mut balancer) = running();
    let host = &lab.balancers()[0];
    host.run(&["ip", "link", "add", "br9", "type", "bridge"]).unwrap();
    host.run(&["ip", "link", "set", "dev", "eth0", "master", "br9"])
        .unwrap();
    host.run(&["ip", "link", "set", "dev", "eth0", "nomaster"])
        .unwrap();
    // The daemon reads what the kernel says in order: after this change has been seen, so have the ones before.
    host.run(&["ip", "link", "set", "dev", "eth0", "address", "02:00:00:00:99:99"])
        .unwrap();
    let daemon = balancer.daemon().unwrap();
    daemon.wait_for_line("our MAC address changed", PATIENCE).unwrap();
    assert_eq!(daemon.exit_status().unwrap(), None);
    assert!(!daemon.output().unwrap().contains("deleted"));
    assert_eq!(balancer.status().unwrap().datapath.interfaces[0].mode, "native");
}

#[test]
fn node_names_with_dots_have_pins_too() {
    let lab = Lab::builder()
        .balancers(1)
        .backends(1)
        .clients(0)
        .start()
        .unwrap();
    let plain = Configuration::of_all_backends(&lab);
    let dotted = format!("{}.example.com", plain.node());
    let named = plain.clone().with(plain.node(), &dotted).unwrap();
    lab.on_teardown_remove(format!("/sys/fs/bpf/lb-ctl/{}", dotted.replace('.', ":")))
        .unwrap();
    let mut balancer = Balancer::start(&lab, &lab.balancers()[0], named).unwrap();
    balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
    let detached = balancer.lb_ctl(&["detach", "--node", &dotted]).unwrap();
    assert!(
        detached.stdout.contains("detached the XDP program from eth0"),
        "{detached:?}"
    );
}

#[test]
fn a_vip_that_the_operator_has_put_there_is_left_alone() {
    let lab = two_backends();
    let host = &lab.balancers()[0];
    let vip = lab.vips()[0].v4.to_string();
    host.run(&["ip", "addr", "add", &format!("{vip}/32"), "dev", "lo"])
        .unwrap();
    let mut balancer = Balancer::start(&lab, host, Configuration::of_all_backends(&lab)).unwrap();
    assert_eq!(addresses(host).matches(&vip).count(), 1, "{}", addresses(host));
    balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
    let node = balancer.configuration().node().to_owned();
    assert_eq!(
        balancer.lb_ctl(&["detach", "--node", &node]).unwrap().code,
        Some(0)
    );
    assert!(addresses(host).contains(&vip), "{}", addresses(host));
}

#[test]
fn a_vip_that_is_no_longer_configured_goes_at_the_next_start() {
    let lab = Lab::builder()
        .balancers(1)
        .backends(2)
        .clients(0)
        .vips(2)
        .start()
        .unwrap();
    let host = &lab.balancers()[0];
    let (first, second) = (lab.vips()[0].v4.to_string(), lab.vips()[1].v4.to_string());
    let mut balancer = Balancer::start(&lab, host, Configuration::of_all_backends(&lab)).unwrap();
    balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
    let moved = Configuration::of_all_backends(&lab)
        .with(&first, &second)
        .unwrap();
    balancer.reconfigure(moved).unwrap();
    balancer.run(&[]).unwrap();
    let addresses = addresses(host);
    assert!(
        !addresses.contains(&first) && addresses.contains(&second),
        "{addresses}"
    );
}

#[test]
fn generic_mode_is_used_when_asked_for_and_said_so() {
    let lab = two_backends();
    let generic = Configuration::of_all_backends(&lab)
        .with(
            "interfaces = [\"eth0\"]",
            "interfaces = [\"eth0\"]\nmode = \"generic\"",
        )
        .unwrap();
    let mut balancer = Balancer::start(&lab, &lab.balancers()[0], generic).unwrap();
    assert_eq!(balancer.status().unwrap().datapath.interfaces[0].mode, "generic");
    // 2 is XDP_ATTACHED_SKB of linux/if_link.h.
    assert_eq!(xdp(balancer.host())["mode"], 2, "{}", xdp(balancer.host()));

    // Another choice at the next start is followed, although a program is attached already.
    balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
    balancer
        .reconfigure(
            Configuration::of_all_backends(&lab)
                .with("interfaces", "mode = \"native\"\ninterfaces")
                .unwrap(),
        )
        .unwrap();
    balancer.run(&[]).unwrap();
    assert_eq!(balancer.status().unwrap().datapath.interfaces[0].mode, "native");
    assert_eq!(xdp(balancer.host())["mode"], 1, "{}", xdp(balancer.host()));
}
