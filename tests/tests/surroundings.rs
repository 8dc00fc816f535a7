//! Tier 2: a daemon whose surroundings are not as they should be.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::fmt::Write as _;
use std::fs;

use lab::balancing::{Balancer, Configuration, PATIENCE};
use lab::{Lab, wait_until};
use rustix::process::Signal;

/// Runs the rest of its command line without the BPF file system.
const WITHOUT_BPFFS: [&str; 7] = [
    "unshare",
    "--mount",
    "--propagation=private",
    "sh",
    "-c",
    "umount --lazy --all-targets /sys/fs/bpf && exec \"$@\"",
    "sh",
];

fn two_backends() -> (Lab, Configuration) {
    let lab = Lab::builder()
        .balancers(1)
        .backends(2)
        .clients(0)
        .start()
        .unwrap();
    let configuration = Configuration::of_all_backends(&lab);
    (lab, configuration)
}

#[test]
fn the_bpf_file_system_is_mounted_where_it_is_missing() {
    let (lab, configuration) = two_backends();
    let mut balancer = Balancer::prepare(&lab, &lab.balancers()[0], configuration).unwrap();
    balancer.begin_under(&WITHOUT_BPFFS, &[], &[]).unwrap();
    let daemon = balancer.daemon().unwrap();
    daemon
        .wait_for_line("mounted the BPF file system", PATIENCE)
        .unwrap();
    daemon.wait_for_line(" ready ", PATIENCE).unwrap();
    // Pinned in its own mount of it, which ends with it, and not in the host's.
    let id = daemon.id();
    let pins = balancer.configuration().pins();
    let seen_by_it = format!("/proc/{id}/root{}", pins.display());
    assert!(fs::exists(seen_by_it).unwrap());
    assert!(!pins.exists());
    assert!(balancer.daemon().unwrap().terminate(PATIENCE).unwrap().success());
}

#[test]
fn a_daemon_that_may_not_mount_it_says_what_to_do() {
    let (lab, configuration) = two_backends();
    let mut balancer = Balancer::prepare(&lab, &lab.balancers()[0], configuration).unwrap();
    let bounded = ["setpriv", "--bounding-set=-all,+bpf,+net_admin,+perfmon"];
    let launcher = [&WITHOUT_BPFFS[..], &bounded].concat();
    balancer.begin_under(&launcher, &[], &[]).unwrap();
    let daemon = balancer.daemon().unwrap();
    assert_eq!(daemon.wait(PATIENCE).unwrap().code(), Some(1));
    let said = daemon.output().unwrap();
    assert!(said.contains("`mount -t bpf bpf /sys/fs/bpf`"), "{said}");
}

#[test]
fn messages_of_the_kernel_that_are_lost_are_made_up_for() {
    let (lab, configuration) = two_backends();
    let mut balancer = Balancer::start(&lab, &lab.balancers()[0], configuration).unwrap();
    let host = balancer.host().clone();
    balancer.daemon().unwrap().signal(Signal::STOP).unwrap();

    // More than a socket can hold, about an interface that is nobody's business.
    let mut changes = String::new();
    for number in 0..2_000 {
        writeln!(changes, "link set dev lo mtu {}", 60_000 + number % 2).unwrap();
    }
    let batch = lab.directory().join("changes");
    fs::write(&batch, changes).unwrap();
    host.run(&["ip", "-batch", batch.to_str().unwrap()]).unwrap();
    // Of this nobody hears.
    let backend = &lab.backends()[0];
    let card = "02:00:00:00:77:01";
    let address = backend.v4().to_string();
    host.run(&[
        "ip",
        "neigh",
        "replace",
        &address,
        "lladdr",
        card,
        "dev",
        "eth0",
        "nud",
        "permanent",
    ])
    .unwrap();

    let daemon = balancer.daemon().unwrap();
    daemon.signal(Signal::CONT).unwrap();
    daemon
        .wait_for_line("more to say about the network than could be read", PATIENCE)
        .unwrap();
    wait_until("the neighbour to be followed", PATIENCE, || {
        let next_hop = balancer.backends().unwrap()[0].next_hop.clone();
        if next_hop.as_deref() == Some(card) {
            Ok(())
        } else {
            Err(format!("{next_hop:?}"))
        }
    })
    .unwrap();
    // And it hears what comes later.
    host.run(&["ip", "link", "set", "dev", "eth0", "mtu", "1400"])
        .unwrap();
    let daemon = balancer.daemon().unwrap();
    daemon.wait_for_line("the MTU changed", PATIENCE).unwrap();
}
