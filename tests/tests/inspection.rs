//! Tier 2: `lb-ctl explain` and `lb-ctl flows` about real connections.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::net::{IpAddr, SocketAddr, TcpStream};

use lab::balancing::{Balancer, Configuration, HS2_PORT, start_coordinators};
use lab::clients::held::connect_from;
use lab::clients::hs2::coordinator_name;
use lab::{Host, Lab};
use lb_ctl::core::explain::Explanation;
use lb_ctl::core::flows::{FlowState, Flows};

/// A client's connection from a port of its choice.
fn connect(host: &Host, port: u16, service: SocketAddr) -> TcpStream {
    let client = SocketAddr::new(IpAddr::V4(host.v4()), port);
    host.enter(|| connect_from(client, service)).unwrap().unwrap()
}

fn json<T: serde::de::DeserializeOwned>(balancer: &Balancer, arguments: &[&str]) -> T {
    let output = balancer.lb_ctl(arguments).unwrap();
    assert_eq!(output.code, Some(0), "{output:?}");
    serde_json::from_str(&output.stdout).unwrap()
}

fn explain(balancer: &Balancer, client: SocketAddr) -> Explanation {
    balancer.explain(client, "impala").unwrap()
}

fn flows(balancer: &Balancer) -> Flows {
    json(balancer, &["flows", "--json"])
}

#[test]
fn what_is_explained_and_listed_is_what_connections_meet() {
    let lab = Lab::builder()
        .balancers(1)
        .backends(2)
        .clients(1)
        .start()
        .unwrap();
    let vip = IpAddr::V4(lab.vips()[0].v4);
    let coordinators = start_coordinators(&lab).unwrap();
    let backends: Vec<_> = coordinators
        .iter()
        .map(|it| (it.name.as_str(), it.address.into(), 1))
        .collect();
    let configuration = Configuration::of(&lab, &lab.balancers()[0]).service("impala", vip, &backends);
    let mut balancer = Balancer::start(&lab, &lab.balancers()[0], configuration).unwrap();
    let host = &lab.clients()[0];
    let service = SocketAddr::new(vip, HS2_PORT);
    let client = |port| SocketAddr::new(IpAddr::V4(host.v4()), port);

    // Untracked: the backend that the explanation names is the one that answers.
    let old = connect(host, 20_000, service);
    let before = coordinator_name(&old).unwrap();
    let explanation = explain(&balancer, client(20_000));
    assert_eq!(explanation.packet, explanation.new_connection);
    assert_eq!(explanation.packet.backend.as_ref(), Some(&before));
    assert_eq!(
        explanation.packet.reason,
        format!("untracked slot: every packet goes to {before}")
    );
    assert_eq!(explanation.packet.egress.as_deref(), Some("eth0"));
    let found = flows(&balancer);
    assert_eq!(found, Flows::default(), "nothing is recorded of untracked slots");

    // Its backend leaves, and all slots that it had move to the other one.
    let (now, mac) = {
        let other = coordinators.iter().position(|it| it.name != before).unwrap();
        (&coordinators[other].name, lab.backends()[other].mac())
    };
    let staying: Vec<_> = backends
        .iter()
        .filter(|(name, ..)| name == now)
        .copied()
        .collect();
    let configuration = Configuration::of(&lab, &lab.balancers()[0]).service("impala", vip, &staying);
    balancer.reconfigure(configuration).unwrap();
    let output = balancer.lb_ctl(&["reload"]).unwrap();
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(
        coordinator_name(&old).unwrap(),
        before,
        "the old connection stays where it is"
    );
    let explanation = explain(&balancer, client(20_000));
    assert_eq!(explanation.packet.backend.as_ref(), Some(&before));
    assert_eq!(
        explanation.packet.reason,
        format!(
            "no record: connections from before the move live on {before}, though new connections of this slot go to {now}"
        )
    );
    assert_eq!(explanation.new_connection.backend.as_ref(), Some(now));
    assert_eq!(explanation.new_connection.next_hop, Some(mac.to_string()));

    // One that hashes to a slot which has moved.
    let port = (20_001..20_100)
        .find(|&port| explain(&balancer, client(port)).tracked)
        .unwrap();
    let new = connect(host, port, service);
    assert_eq!(&coordinator_name(&new).unwrap(), now);
    let explanation = explain(&balancer, client(port));
    assert_eq!(explanation.packet.backend.as_ref(), Some(now));
    assert_eq!(explanation.records[0].state, FlowState::Established);

    let found = flows(&balancer);
    let mut listed: Vec<_> = found
        .flows
        .iter()
        .map(|flow| (flow.client, &flow.backend, flow.state))
        .collect();
    listed.sort();
    assert_eq!(
        listed,
        [
            (client(20_000), &before, FlowState::Unrecorded),
            (client(port), now, FlowState::Established)
        ]
    );
    let only: Flows = json(&balancer, &["flows", "--json", "--backend", now, "--limit", "0"]);
    assert_eq!((only.flows.len(), only.more), (0, 1));
    assert_eq!((only.backends.len(), only.backends[0].established), (1, 1));

    for_people(&balancer, client(port), &before, now);
}

/// The same, as people see it.
fn for_people(balancer: &Balancer, client: SocketAddr, before: &str, now: &str) {
    let output = balancer
        .lb_ctl(&["explain", &client.to_string(), "impala"])
        .unwrap();
    for words in [
        format!("tracked: settled {before}, current {now}"),
        format!("established on {now}"),
        format!("to {now}, next hop "),
        "its established record".to_owned(),
    ] {
        assert!(output.stdout.contains(&words), "{words}: {}", output.stdout);
    }
    let output = balancer.lb_ctl(&["flows", "--limit", "1"]).unwrap();
    assert!(output.stdout.contains("and 1 more"), "{}", output.stdout);
    let output = balancer.lb_ctl(&["flows"]).unwrap();
    assert!(output.stdout.contains(&client.to_string()), "{}", output.stdout);
}

#[test]
fn questions_that_make_no_sense_are_refused() {
    let lab = Lab::builder()
        .balancers(1)
        .backends(1)
        .clients(0)
        .start()
        .unwrap();
    let balancer = Balancer::start(&lab, &lab.balancers()[0], Configuration::of_all_backends(&lab)).unwrap();
    for (arguments, words) in [
        (
            &["explain", "198.51.100.7:1", "hive"][..],
            "expected one of: impala",
        ),
        (&["explain", "[2001:db8::7]:1", "impala"], "one family"),
        (
            &["explain", "198.51.100.7", "impala"],
            "expected an address and a port",
        ),
        (&["flows", "--service", "hive"], "expected one of: impala"),
        (&["flows", "--backend", "nobody"], "expected one of: backend1"),
    ] {
        let output = balancer.lb_ctl(arguments).unwrap();
        assert_eq!(output.code, Some(2), "{output:?}");
        assert!(output.stderr.contains(words), "{output:?}");
    }
    let output = balancer
        .lb_ctl_alone(&["--socket", "/nonexistent/api.sock", "flows"])
        .unwrap();
    assert_eq!(output.code, Some(3), "{output:?}");
}
