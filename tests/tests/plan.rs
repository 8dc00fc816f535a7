//! Tier 2: `lb-ctl plan` tells what `lb-ctl reload` then does, and `reload --now` does not wait for connections to end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::net::{SocketAddr, TcpStream};

use lab::balancing::{Balancer, Configuration, Coordinator, HS2_PORT, PATIENCE, start_coordinators};
use lab::clients::hs2::Session;
use lab::{Lab, wait_until};
use lb_ctl::core::changes::Changes;

const CHECK: &str =
    "[service.check]\ntype = \"impala\"\ninterval = \"250ms\"\nfast_interval = \"100ms\"\ntimeout = \"2s\"\n";

fn start() -> (Lab, Vec<Coordinator>) {
    let lab = Lab::builder()
        .balancers(1)
        .backends(3)
        .clients(1)
        .vips(1)
        .start()
        .unwrap();
    let coordinators = start_coordinators(&lab).unwrap();
    (lab, coordinators)
}

/// A service whose backends are the first of these, with these keys.
fn configuration(lab: &Lab, coordinators: &[Coordinator], keys: &str) -> Configuration {
    let backends: Vec<_> = coordinators
        .iter()
        .map(|coordinator| (coordinator.name.as_str(), coordinator.address.into(), 1))
        .collect();
    Configuration::of(lab, &lab.balancers()[0])
        .service("impala", lab.vips()[0].v4.into(), &backends)
        .with("port = 21050\n", &format!("port = 21050\n{keys}\n"))
        .unwrap()
}

/// What a command says would change, or has.
fn changes(balancer: &Balancer, arguments: &[&str]) -> Changes {
    let output = balancer.lb_ctl(arguments).unwrap();
    assert_eq!(output.code, Some(0), "{output:?}");
    serde_json::from_str(&output.stdout).unwrap()
}

fn plan(balancer: &Balancer) -> Changes {
    let file = balancer.file().to_str().unwrap();
    changes(balancer, &["plan", "--json", "--config", file])
}

fn slots(balancer: &Balancer) -> Vec<(String, u32)> {
    let backends = balancer.backends().unwrap().into_iter();
    backends.map(|backend| (backend.name, backend.slots)).collect()
}

/// Plans, looks whether nothing has changed, reloads, and compares.
fn plan_and_reload(balancer: &mut Balancer, configuration: Configuration, options: &[&str]) -> Changes {
    balancer.reconfigure(configuration).unwrap();
    let before = slots(balancer);
    let planned = plan(balancer);
    assert_eq!(slots(balancer), before, "a plan changes nothing");
    let done = changes(balancer, &[&["reload", "--json"], options].concat());
    assert_eq!(
        without_estimates(&done),
        without_estimates(&planned),
        "what was planned is what is done"
    );
    done
}

/// Coordinators tell anew with each check how many connections they have, the check's own among them.
fn without_estimates(changes: &Changes) -> Changes {
    let mut certain = changes.clone();
    for service in &mut certain.services {
        service.flows_tracked = service.flows_tracked.filter(|flows| flows.known);
    }
    certain
}

fn connect(lab: &Lab) -> Vec<TcpStream> {
    let service = SocketAddr::from((lab.vips()[0].v4, HS2_PORT));
    let connect = |_| {
        let stream = TcpStream::connect_timeout(&service, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    lab.clients()[0].enter(|| (0..30).map(connect).collect()).unwrap()
}

#[test]
fn a_plan_says_what_a_reload_then_does() {
    let (lab, coordinators) = start();
    let first = configuration(&lab, &coordinators[..2], "");
    let mut balancer = Balancer::start(&lab, &lab.balancers()[0], first).unwrap();
    let all = 65_537;

    let third = configuration(&lab, &coordinators, "");
    let added = plan_and_reload(&mut balancer, third.clone(), &[]);
    let service = &added.services[0];
    assert_eq!(service.backends_added, ["impala3"]);
    assert_eq!((added.slots, service.slots), (all, all));
    assert!(
        added.slots_moved >= all / 3 && added.slots_moved < all / 2,
        "{added:?}"
    );
    assert_eq!(
        (service.slots_moved_once_up, service.slots_tracked),
        (added.slots_moved, added.slots_moved)
    );
    assert_eq!(service.flows_tracked, None, "nobody has asked the coordinators");
    let moved: u32 = slots(&balancer)[2].1;
    assert!(u64::from(moved) <= added.slots_moved, "{moved} of {added:?}");

    // Weight 0 moves slots back that are tracked already.
    let text = "name = \"impala3\"\n";
    let address = format!("{text}address = \"{}\"\nweight = ", coordinators[2].address);
    let weight = third
        .with(&format!("{address}1"), &format!("{address}0"))
        .unwrap()
        .with("port = 21050\n", "port = 21050\nallow = [\"0.0.0.0/0\"]\n")
        .unwrap();
    let changed = plan_and_reload(&mut balancer, weight, &[]);
    let service = &changed.services[0];
    assert_eq!(service.keys_changed, ["allow"]);
    let change = &service.backends_changed[0];
    assert_eq!(
        (
            change.name.as_str(),
            change.key.as_str(),
            change.before,
            change.after
        ),
        ("impala3", "weight", 1, 0)
    );
    assert_eq!(
        (changed.slots_moved, service.slots_tracked),
        (added.slots_moved, 0)
    );

    // For people.
    let file = balancer.file().to_str().unwrap().to_owned();
    let output = balancer.lb_ctl(&["plan", "--config", &file]).unwrap();
    assert!(output.stdout.contains("stay as they are"), "{output:?}");

    // What a reload would refuse is told, not refused.
    let other = balancer.configuration().clone();
    let other = other
        .with("[datapath]\n", "[datapath]\nmax_flows = 4096\n")
        .unwrap();
    balancer.reconfigure(other).unwrap();
    let planned = plan(&balancer);
    assert_eq!(planned.needs_restart.len(), 1, "{planned:?}");
    assert_eq!(planned.needs_restart[0].key, "datapath.max_flows");
    assert_eq!(balancer.lb_ctl(&["reload"]).unwrap().code, Some(2));

    // What is wrong is wrong for a plan too, and without a daemon as well.
    let wrong = balancer.configuration().clone();
    let wrong = wrong.with("port = 21050\n", "port = 210500\n").unwrap();
    balancer.reconfigure(wrong).unwrap();
    let nowhere = ["--socket", "/nonexistent.sock", "plan", "--config", &file];
    for output in [
        balancer.lb_ctl(&["plan", "--config", &file]).unwrap(),
        balancer.lb_ctl_alone(&nowhere).unwrap(),
    ] {
        assert_eq!(output.code, Some(2), "{output:?}");
        assert!(
            output.stderr.contains("service[impala].port: expected"),
            "{output:?}"
        );
    }
    let right = configuration(&lab, &coordinators, "");
    balancer.reconfigure(right).unwrap();
    assert_eq!(balancer.lb_ctl_alone(&nowhere).unwrap().code, Some(3));
}

#[test]
fn backends_that_are_checked_move_slots_once_they_are_up_and_tell_how_many_connections_there_are() {
    let (lab, coordinators) = start();
    let first = configuration(&lab, &coordinators[..2], CHECK);
    let mut balancer = Balancer::start(&lab, &lab.balancers()[0], first).unwrap();
    let streams = connect(&lab);
    let mut sessions: Vec<_> = streams.iter().map(|it| Session::open(it).unwrap()).collect();

    let added = plan_and_reload(&mut balancer, configuration(&lab, &coordinators, CHECK), &[]);
    let service = &added.services[0];
    assert_eq!(
        added.slots_moved, 0,
        "the new one has to be checked first: {added:?}"
    );
    wait_until("the new one to have slots", PATIENCE, || {
        slots(&balancer)[2].1 > 0
    })
    .unwrap();
    let tracked = u64::from(balancer.status().unwrap().services[0].tracked_slots);
    assert_eq!(
        tracked, service.slots_moved_once_up,
        "that many have moved as it was foretold"
    );

    // Without the second one, its untracked slots become tracked, and about so many of its connections live in them.
    wait_until("the coordinators to have told of the sessions", PATIENCE, || {
        let sum: usize = coordinators
            .iter()
            .map(|it| it.state().unwrap().coordinator.open_sessions)
            .sum();
        let without = configuration(
            &lab,
            std::slice::from_ref(&coordinators[0]),
            &format!("{CHECK}rise = 3\n"),
        );
        balancer.reconfigure(without).unwrap();
        let planned = plan(&balancer);
        let flows = planned.services[0].flows_tracked;
        if sum == 30 && flows.is_some_and(|flows| !flows.known && (1..30).contains(&flows.count)) {
            Ok(())
        } else {
            Err(format!("{sum} sessions, {planned:?}"))
        }
    })
    .unwrap();

    // All backends but the first go, at once. Who lives there is reset; the others live on.
    let homes: Vec<String> = sessions
        .iter_mut()
        .map(|session| home(session).unwrap())
        .collect();
    let without = configuration(&lab, std::slice::from_ref(&coordinators[0]), CHECK);
    let done = plan_and_reload(&mut balancer, without, &["--now"]);
    assert_eq!(done.services[0].backends_removed, ["impala2", "impala3"]);
    let gone = homes.iter().filter(|home| *home != "impala1").count();
    assert!((1..30).contains(&gone), "{homes:?}");
    for (session, before) in sessions.iter_mut().zip(&homes) {
        if before == "impala1" {
            assert_eq!(
                home(session).as_ref(),
                Some(before),
                "who stays keeps its clients"
            );
        } else {
            wait_until("its connection to be reset", PATIENCE, || home(session).is_none()).unwrap();
        }
    }
    wait_until("nothing to be left of them", PATIENCE, || {
        let backends = balancer.backends().unwrap();
        if backends.len() == 1 {
            Ok(())
        } else {
            Err(format!("{backends:?}"))
        }
    })
    .unwrap();
}

/// The coordinator that answers in a session; `None` if its connection is broken.
fn home(session: &mut Session<'_>) -> Option<String> {
    use lab::impalad::thrift_value::Value;
    let columns = session.execute("select coordinator()").ok()?;
    match &columns[0][0] {
        Value::Binary(name) => Some(String::from_utf8(name.clone()).unwrap()),
        other => panic!("{other:?}"),
    }
}
