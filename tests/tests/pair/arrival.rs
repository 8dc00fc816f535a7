//! Connections that begin through the former master, because their clients have not heard of the new one yet.

use std::net::{IpAddr, SocketAddr};

use lab::balancing::{HS2_PORT, PATIENCE, holds};
use lab::steady::{Steady, client};
use lab::{Halted, Host, wait_until};

use super::{INTERVAL_MS, Scene, order};

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
    wait_until("the address to move", PATIENCE, || {
        anyhow::ensure!(holds(&scene.lab.balancers()[1], vip)?, "it is not there");
        Ok(())
    })
    .unwrap();
    let client = &scene.lab.clients()[0];
    let options = Steady::options(client, SocketAddr::new(vip, HS2_PORT), 100);
    let mut begun = Steady::start(
        client,
        client::Options {
            first_port: 30_000,
            ..options
        },
    )
    .unwrap();
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

/// The address goes back before the new master has told anything of what has begun through it.
#[test]
fn connections_that_begin_through_a_master_that_gives_up_at_once_live_on() {
    let mut scene = Scene::with_keys("nat", "", 100, INTERVAL_MS);
    let vip: IpAddr = scene.lab.vips()[0].v4.into();
    let move_to = |scene: &Scene, balancer: usize| {
        order(&scene.pair.balancers[1 - balancer], &["failover", "--force"]);
        wait_until("the address to move", PATIENCE, || {
            anyhow::ensure!(holds(&scene.lab.balancers()[balancer], vip)?, "it is not there");
            Ok(())
        })
        .unwrap();
    };
    let client = scene.lab.clients()[0].clone();
    let mut begun = Vec::new();
    for round in 0..3 {
        move_to(&scene, 1);
        let options = Steady::options(&client, SocketAddr::new(vip, HS2_PORT), 20);
        let first_port = 30_000 + 100 * round;
        let options = client::Options {
            first_port,
            ..options
        };
        begun.push(Steady::start(&client, options).unwrap());
        move_to(&scene, 0);
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
