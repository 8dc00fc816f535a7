//! Connections that begin through the former master, because their clients have not heard of the new one yet.

use std::net::IpAddr;

use lab::balancing::{PATIENCE, holds};
use lab::{Halted, Host, wait_until};

use super::{INTERVAL_MS, Scene, begin, order};

/// Has everybody who sends to the VIP take it to be at this balancer, whatever is announced.
fn pin(scene: &Scene, vip: IpAddr, balancer: usize) {
    let mac = scene.lab.balancers()[balancer].mac().to_string();
    let hosts: Vec<&Host> = scene.lab.clients().iter().chain(scene.lab.backends()).collect();
    for host in hosts {
        let vip = vip.to_string();
        host.run(&[
            "ip",
            "neigh",
            "replace",
            &vip,
            "lladdr",
            &mac,
            "dev",
            "eth0",
            "nud",
            "permanent",
        ])
        .unwrap();
    }
}

/// The address has moved, and packets go to the former master still. The new one's controller is busy at first, so that it finds both at the same time: that
/// it is the owner, and what it is told.
fn begin_through_the_former_master(forward: &str, keys: &str) {
    let mut scene = Scene::with_keys(forward, keys, 100, INTERVAL_MS);
    let vip: IpAddr = scene.lab.vips()[0].v4.into();
    pin(&scene, vip, 0);
    let id = scene.pair.balancers[1].daemon().unwrap().id();
    let busy = Halted::of(id, "lb-ctl").unwrap();
    order(&scene.pair.balancers[0], &["failover"]);
    wait_for_address(&scene, vip, 1, true);
    let client = &scene.lab.clients()[0];
    let mut begun = begin(client, vip, 30_000, 100);
    drop(busy);
    scene.pair.wait_for_owner(1).unwrap();
    pin(&scene, vip, 1);
    begun.expect_unbroken().unwrap();
    scene.expect_unbroken("everybody has heard of the new master");
    assert_eq!(begun.finish().unwrap().broken, []);
    scene.finish();
}

#[test]
fn connections_that_begin_through_the_former_master_live_on_translated() {
    begin_through_the_former_master("nat", "");
}

#[test]
fn connections_that_begin_through_the_former_master_live_on_where_it_has_placed_them() {
    begin_through_the_former_master("dsr", "balance = \"least-connections\"\n");
}

fn wait_for_address(scene: &Scene, vip: IpAddr, balancer: usize, is_there: bool) {
    wait_until("the address to move", PATIENCE, || {
        let found = holds(&scene.lab.balancers()[balancer], vip)?;
        anyhow::ensure!(
            found == is_there,
            "expected {is_there} that balancer {balancer} holds it, found {found}"
        );
        Ok(())
    })
    .unwrap();
}

/// The address goes back before the new master owns anything.
#[test]
fn connections_that_begin_through_a_master_that_gives_up_at_once_live_on() {
    let mut scene = Scene::with_keys("nat", "", 100, INTERVAL_MS);
    let vip: IpAddr = scene.lab.vips()[0].v4.into();
    let client = scene.lab.clients()[0].clone();
    let mut begun = Vec::new();
    for visit in 0..3 {
        order(&scene.pair.balancers[0], &["failover"]);
        wait_for_address(&scene, vip, 1, true);
        begun.push(begin(&client, vip, 30_000 + 100 * visit, 20));
        order(&scene.pair.balancers[1], &["failover", "--force"]);
        wait_for_address(&scene, vip, 1, false);
        wait_for_address(&scene, vip, 0, true);
        for connections in &mut begun {
            connections.expect_unbroken().unwrap();
        }
        scene.expect_unbroken("there and back");
        scene.pair.wait_for_owner(0).unwrap();
    }
    for connections in begun {
        assert_eq!(connections.finish().unwrap().broken, []);
    }
    scene.finish();
}

/// The master is silent for a while, and has not noticed that somebody else has been master in between: for so long that the other one
/// owns the service too.
fn unheard(forward: &str, keys: &str) {
    let scene = &mut Scene::with_keys(forward, keys, 100, INTERVAL_MS);
    let vip: IpAddr = scene.lab.vips()[0].v4.into();
    let client = scene.lab.clients()[0].clone();
    let id = scene.pair.balancers[0].daemon().unwrap().id();
    let silent = Halted::of(id, "vrrp").unwrap();
    wait_for_address(scene, vip, 1, true);
    let mut begun = vec![begin(&client, vip, 30_000, 20)];
    let other = scene.pair.balancers[1].daemon().unwrap();
    other
        .wait_for_line("owns the service from now on", PATIENCE)
        .unwrap();
    begun.push(begin(&client, vip, 30_100, 20));
    // What it has not been told of in these milliseconds breaks when it is heard.
    wait_until("the silent one to know all connections", PATIENCE, || {
        let backends = scene.pair.balancers[0].backends()?;
        let known: u64 = backends.iter().map(|backend| backend.tracked_flows).sum();
        anyhow::ensure!(known == 140, "it knows {known}");
        Ok(())
    })
    .unwrap();
    drop(silent);
    wait_for_address(scene, vip, 1, false);
    for connections in &mut begun {
        connections.expect_unbroken().unwrap();
    }
    scene.expect_unbroken("the master is heard again");
    // And it tells of them all.
    scene.pair.wait_for_owner(0).unwrap();
    scene.pair.hand_over(0).unwrap();
    for connections in &mut begun {
        connections.expect_unbroken().unwrap();
    }
    scene.expect_unbroken("the other one is master");
    for connections in begun {
        assert_eq!(connections.finish().unwrap().broken, []);
    }
}

#[test]
fn connections_that_begin_while_the_master_is_not_heard_live_on_translated() {
    unheard("nat", "");
}

#[test]
fn connections_that_begin_while_the_master_is_not_heard_live_on_where_they_were_placed() {
    unheard("dsr", "balance = \"least-connections\"\n");
}

/// The new master is gone before it owns anything, and nobody but the former one can know.
#[test]
fn connections_that_begin_through_a_master_that_is_lost_at_once_live_on() {
    let mut scene = Scene::with_keys("nat", "", 100, INTERVAL_MS);
    let vip: IpAddr = scene.lab.vips()[0].v4.into();
    order(&scene.pair.balancers[0], &["failover"]);
    wait_for_address(&scene, vip, 1, true);
    let client = &scene.lab.clients()[0];
    let mut begun = begin(client, vip, 30_000, 20);
    scene.pair.balancers[1].daemon().unwrap().kill().unwrap();
    let host = &scene.lab.balancers()[1];
    host.run(&["ip", "link", "set", "eth0", "down"]).unwrap();
    wait_for_address(&scene, vip, 0, true);
    begun.expect_unbroken().unwrap();
    scene.expect_unbroken("the former master has it back");
    assert_eq!(begun.finish().unwrap().broken, []);
    scene.finish();
}
