//! Tier 2: a client with affinity connects again and again while slots move, backends come and go, and the controller restarts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::net::{IpAddr, SocketAddr, TcpStream};

use lab::balancing::{Balancer, Configuration, Coordinator, HS2_PORT, PATIENCE, start_coordinators};
use lab::clients::hs2::coordinator_name;
use lab::{Lab, wait_until};
use lb_ctl::core::explain::Explanation;

/// A lab with a balancer and clients in front of three coordinators.
struct Cluster {
    lab: Lab,
    coordinators: Vec<Coordinator>,
    balancer: Balancer,
}

const CLIENTS: u8 = 4;

impl Cluster {
    fn new(weights: &[u32], six: bool) -> Self {
        let lab = Lab::builder()
            .balancers(1)
            .backends(3)
            .clients(CLIENTS)
            .vips(1)
            .start()
            .unwrap();
        let coordinators = start_coordinators(&lab).unwrap();
        let configuration = configuration(&lab, &coordinators, weights, six);
        let balancer = Balancer::start(&lab, &lab.balancers()[0], configuration).unwrap();
        Self {
            lab,
            coordinators,
            balancer,
        }
    }

    fn reload(&mut self, weights: &[u32], six: bool) {
        let configuration = configuration(&self.lab, &self.coordinators, weights, six);
        self.balancer.reconfigure(configuration).unwrap();
        let output = self.balancer.lb_ctl(&["reload"]).unwrap();
        assert_eq!(output.code, Some(0), "{output:?}");
    }

    /// The coordinators that a client gets for a few new connections, one after the other and from ports of the kernel's choice. They
    /// must be one.
    fn home(&self, client: usize, six: bool) -> String {
        let vip = self.lab.vips()[0];
        let service: SocketAddr = (if six { IpAddr::from(vip.v6) } else { vip.v4.into() }, HS2_PORT).into();
        let names: Vec<String> = self.lab.clients()[client]
            .enter(|| {
                let connect = |_| {
                    let stream = TcpStream::connect_timeout(&service, PATIENCE).unwrap();
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    coordinator_name(&stream).unwrap()
                };
                (0..5).map(connect).collect()
            })
            .unwrap();
        assert!(
            names.iter().all(|name| *name == names[0]),
            "client {client}: {names:?}"
        );
        names[0].clone()
    }

    fn homes(&self, six: bool) -> Vec<String> {
        (0..CLIENTS.into()).map(|client| self.home(client, six)).collect()
    }

    fn explanation(&self, client: usize, six: bool) -> Explanation {
        let host = &self.lab.clients()[client];
        let address = if six {
            IpAddr::from(host.v6())
        } else {
            host.v4().into()
        };
        self.balancer
            .explain(SocketAddr::new(address, 1), "impala")
            .unwrap()
    }
}

fn configuration(lab: &Lab, coordinators: &[Coordinator], weights: &[u32], six: bool) -> Configuration {
    let backends: Vec<(&str, IpAddr, u32)> = coordinators
        .iter()
        .zip(weights)
        .map(|(coordinator, &weight)| {
            let address = if six {
                IpAddr::from(coordinator.address6)
            } else {
                coordinator.address.into()
            };
            (coordinator.name.as_str(), address, weight)
        })
        .collect();
    let vip = lab.vips()[0];
    let vip = if six { IpAddr::from(vip.v6) } else { vip.v4.into() };
    let port = format!("port = {HS2_PORT}\n");
    Configuration::of(lab, &lab.balancers()[0])
        .service("impala", vip, &backends)
        .with(&port, &format!("{port}affinity = \"client\"\n"))
        .unwrap()
}

fn clients_keep_their_backends(six: bool) {
    // All are on the first backend at first: more of them must move than not.
    let mut cluster = Cluster::new(&[1], six);
    let first = cluster.homes(six);
    assert!(first.iter().all(|home| *home == first[0]));
    assert_eq!(cluster.coordinators[0].name, first[0]);

    for (weights, what) in [
        (&[1, 1, 1][..], "backends were added"),
        (&[1, 20, 1], "a weight was changed"),
        (&[1, 1, 20], "and changed again"),
    ] {
        cluster.reload(weights, six);
        assert_eq!(cluster.homes(six), first, "{what}");
    }
    let explained: Vec<Explanation> = (0..CLIENTS.into())
        .map(|client| cluster.explanation(client, six))
        .collect();
    let moved: Vec<&Explanation> = explained.iter().filter(|it| it.tracked).collect();
    assert!(!moved.is_empty(), "slots have moved: {explained:?}");
    for explanation in moved {
        let affinity = explanation.affinity.as_ref().unwrap();
        assert_eq!(affinity.backend.as_ref(), Some(&first[0]));
        assert!(
            affinity.grace_period && affinity.timeout_seconds == 900,
            "{affinity:?}"
        );
        assert_eq!(explanation.new_connection.backend.as_ref(), Some(&first[0]));
    }

    cluster.balancer.daemon().unwrap().kill().unwrap();
    assert_eq!(cluster.homes(six), first, "without a controller");
    cluster.balancer.run(&[]).unwrap();
    assert_eq!(cluster.homes(six), first, "with another one");

    cluster.reload(&[0, 1, 1], six);
    let second = cluster.homes(six);
    assert!(second.iter().all(|home| *home != first[0]), "drained: {second:?}");
    cluster.reload(&[20, 1, 1], six);
    assert_eq!(cluster.homes(six), second, "the first one is back");
}

#[test]
fn clients_keep_their_backends_through_moves_and_restarts_until_a_drain() {
    clients_keep_their_backends(false);
}

#[test]
fn clients_keep_their_backends_over_ipv6() {
    clients_keep_their_backends(true);
}

#[test]
fn a_soft_drain_leaves_clients_their_home_and_an_ordinary_one_does_not() {
    let mut cluster = Cluster::new(&[1, 1, 1], false);
    let homes = cluster.homes(false);
    let drained = homes[0].clone();
    let succeed = |cluster: &Cluster, arguments: &[&str]| {
        let output = cluster.balancer.lb_ctl(arguments).unwrap();
        assert_eq!(output.code, Some(0), "{output:?}");
        output.stdout
    };
    let said = succeed(&cluster, &["drain", &drained, "--soft"]);
    assert!(
        said.contains("only from clients that are at home there"),
        "{said}"
    );
    assert_eq!(cluster.homes(false), homes);
    let status = succeed(&cluster, &["status"]);
    assert!(status.contains("draining softly"), "{status}");
    cluster.balancer.daemon().unwrap().kill().unwrap();
    cluster.balancer.run(&[]).unwrap();
    assert_eq!(cluster.homes(false), homes, "after a restart");

    succeed(&cluster, &["drain", &drained]);
    let others = cluster.homes(false);
    assert!(others.iter().all(|home| *home != drained), "{others:?}");
    cluster.balancer.daemon().unwrap().kill().unwrap();
    assert_eq!(cluster.homes(false), others, "without a controller");
    cluster.balancer.run(&[]).unwrap();
    assert_eq!(cluster.homes(false), others, "after a restart");
    succeed(&cluster, &["undrain", &drained]);
    assert_eq!(cluster.homes(false), others, "it is back, but they have moved");
}

#[test]
fn where_an_operator_has_replaced_a_weight_of_0_clients_are_at_home() {
    let cluster = Cluster::new(&[0, 1, 1], false);
    let [first, others @ ..] = &cluster.coordinators[..] else {
        panic!("there are three")
    };
    let operate = |arguments: &[&str]| {
        let output = cluster.balancer.lb_ctl(arguments).unwrap();
        assert_eq!(output.code, Some(0), "{output:?}");
    };
    operate(&["weight", &first.name, "1"]);
    for other in others {
        operate(&["drain", &other.name]);
    }
    let homes = vec![first.name.clone(); CLIENTS.into()];
    assert_eq!(cluster.homes(false), homes);
    for other in others {
        operate(&["undrain", &other.name]);
        operate(&["weight", &other.name, "50"]);
    }
    operate(&["weight", &first.name, "1"]);
    assert_eq!(cluster.homes(false), homes, "slots have moved");
}

#[test]
fn clients_at_home_in_a_tier_that_does_not_serve_stay_there_when_the_daemon_is_killed() {
    let mut cluster = Cluster::new(&[1, 1], false);
    let tiers = |interval: &str| {
        let check = format!("[service.check]\ntype = \"impala\"\ninterval = \"{interval}\"\n");
        let second = format!("name = \"{}\"\n", cluster.coordinators[1].name);
        configuration(&cluster.lab, &cluster.coordinators, &[1, 1], false)
            .with(
                "affinity = \"client\"\n",
                &format!("affinity = \"client\"\n{check}"),
            )
            .unwrap()
            .with(&second, &format!("{second}tier = 1\n"))
            .unwrap()
    };
    let (often, seldom) = (tiers("200ms"), tiers("1h"));
    cluster.balancer.reconfigure(often).unwrap();
    let output = cluster.balancer.lb_ctl(&["reload"]).unwrap();
    assert_eq!(output.code, Some(0), "{output:?}");
    let wait_for_tier = |cluster: &Cluster, tier| {
        wait_until(&format!("tier {tier} to serve"), PATIENCE, || {
            let service = cluster.balancer.status().unwrap().services.remove(0);
            let slots: Vec<u32> = service.backends.iter().map(|it| it.slots).collect();
            if service.active_tier == tier && slots[usize::from(1 - tier)] == 0 {
                Ok(())
            } else {
                Err(format!("tier {}, slots {slots:?}", service.active_tier))
            }
        })
        .unwrap();
    };
    wait_for_tier(&cluster, 0);
    cluster.coordinators[0].switch("not-ready").unwrap();
    wait_for_tier(&cluster, 1);
    let homes = cluster.homes(false);
    assert!(
        homes.iter().all(|home| *home == cluster.coordinators[1].name),
        "{homes:?}"
    );
    cluster.coordinators[0].switch("serve").unwrap();
    wait_for_tier(&cluster, 0);
    assert_eq!(cluster.homes(false), homes, "the first tier serves again");

    // No check comes that would tell the next daemon how the second one is.
    cluster.balancer.reconfigure(seldom).unwrap();
    cluster.balancer.daemon().unwrap().kill().unwrap();
    assert_eq!(cluster.homes(false), homes, "without a controller");
    cluster.balancer.run(&[]).unwrap();
    wait_for_tier(&cluster, 0);
    assert_eq!(cluster.homes(false), homes, "with another one");
}

#[test]
fn another_affinity_is_refused_by_reload_and_start() {
    let mut cluster = Cluster::new(&[1, 1, 1], false);
    let without = configuration(&cluster.lab, &cluster.coordinators, &[1, 1, 1], false)
        .with("affinity = \"client\"\n", "")
        .unwrap();
    cluster.balancer.reconfigure(without).unwrap();
    let output = cluster.balancer.lb_ctl(&["reload"]).unwrap();
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(
        output
            .stderr
            .contains("service[impala].affinity: expected \"client\", as it is running, found \"none\""),
        "{output:?}"
    );
    cluster.balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
    let error = cluster.balancer.run(&[]).expect_err("connections would break");
    let log = format!("{error:?}");
    assert!(log.contains("expected \"client\", as it is running"), "{log}");
}
