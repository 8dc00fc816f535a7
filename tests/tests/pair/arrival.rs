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
    wait_for_address(&scene, vip, 1, true);
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

/// Connections begin through the second balancer, which is master for a moment, and go on through the first.
fn begin_on_a_short_visit(
    scene: &mut Scene,
    visits: usize,
    go: impl Fn(&mut Scene),
    come_back: impl Fn(&mut Scene),
) {
    let vip: IpAddr = scene.lab.vips()[0].v4.into();
    let client = scene.lab.clients()[0].clone();
    let mut begun = Vec::new();
    for visit in 0..visits {
        go(scene);
        wait_for_address(scene, vip, 1, true);
        let first_port = 30_000 + 100 * u16::try_from(visit).unwrap();
        let options = client::Options {
            first_port,
            ..Steady::options(&client, SocketAddr::new(vip, HS2_PORT), 20)
        };
        begun.push(Steady::start(&client, options).unwrap());
        come_back(scene);
        wait_for_address(scene, vip, 1, false);
        wait_for_address(scene, vip, 0, true);
        for connections in &mut begun {
            connections.expect_unbroken().unwrap();
        }
        scene.expect_unbroken("there and back");
        scene.pair.wait_for_owner(0).unwrap();
    }
    for connections in begun {
        assert_eq!(connections.finish().unwrap().broken, []);
    }
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
    let hand_over = |scene: &Scene, from: usize| order(&scene.pair.balancers[from], &["failover", "--force"]);
    begin_on_a_short_visit(
        &mut scene,
        3,
        |scene| hand_over(scene, 0),
        |scene| hand_over(scene, 1),
    );
    scene.finish();
}

/// The master is silent for a while, and has not noticed that somebody else has been master in between.
#[test]
fn connections_that_begin_while_the_master_is_not_heard_live_on_translated() {
    let scene = Scene::with_keys("nat", "", 100, INTERVAL_MS);
    unheard(scene);
}

#[test]
fn connections_that_begin_while_the_master_is_not_heard_live_on_where_they_were_placed() {
    let scene = Scene::with_keys("dsr", "balance = \"least-connections\"\n", 100, INTERVAL_MS);
    unheard(scene);
}

fn unheard(mut scene: Scene) {
    let halted = std::cell::RefCell::new(None);
    begin_on_a_short_visit(
        &mut scene,
        1,
        |scene| {
            let id = scene.pair.balancers[0].daemon().unwrap().id();
            *halted.borrow_mut() = Some(Halted::of(id, "vrrp").unwrap());
        },
        |_| drop(halted.take()),
    );
    scene.finish();
}

/// The new master is gone before it owns anything, and nobody but the former one can know.
#[test]
fn connections_that_begin_through_a_master_that_is_lost_at_once_live_on() {
    let mut scene = Scene::with_keys("nat", "", 100, INTERVAL_MS);
    let vip: IpAddr = scene.lab.vips()[0].v4.into();
    order(&scene.pair.balancers[0], &["failover"]);
    wait_for_address(&scene, vip, 1, true);
    let client = &scene.lab.clients()[0];
    let options = client::Options {
        first_port: 30_000,
        ..Steady::options(client, SocketAddr::new(vip, HS2_PORT), 20)
    };
    let mut begun = Steady::start(client, options).unwrap();
    scene.pair.balancers[1].daemon().unwrap().kill().unwrap();
    let host = &scene.lab.balancers()[1];
    host.run(&["ip", "link", "set", "eth0", "down"]).unwrap();
    wait_for_address(&scene, vip, 0, true);
    begun.expect_unbroken().unwrap();
    scene.expect_unbroken("the former master has it back");
    assert_eq!(begun.finish().unwrap().broken, []);
    scene.finish();
}
