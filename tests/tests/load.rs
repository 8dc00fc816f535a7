//! Tier 2: with `balance = "load"`, new connections follow what coordinators tell about their load.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lab::balancing::{Balancer, Configuration, Coordinator, HS2_PORT, PATIENCE, start_coordinators};
use lab::clients::held::connect_from_ports;
use lab::clients::hs2::{Session, coordinator_name};
use lab::random::Random;
use lab::{Lab, wait_until};
use lb_ctl::core::load::INTERVAL;

const CHECK: &str =
    "[service.check]\ntype = \"impala\"\ninterval = \"250ms\"\nfast_interval = \"100ms\"\ntimeout = \"2s\"\n";

/// Weights move at most once in an interval, and may need a few moves.
const A_FEW_INTERVALS: Duration = INTERVAL.saturating_mul(4).saturating_add(PATIENCE);

fn configuration(lab: &Lab, coordinators: &[Coordinator]) -> Configuration {
    let backends: Vec<_> = coordinators
        .iter()
        .map(|coordinator| (coordinator.name.as_str(), coordinator.address.into(), 1))
        .collect();
    Configuration::of(lab, &lab.balancers()[0])
        .service("impala", lab.vips()[0].v4.into(), &backends)
        .with(
            "port = 21050\n",
            &format!("port = 21050\nbalance = \"load\"\n{CHECK}"),
        )
        .unwrap()
}

/// Connections to a coordinator itself, beside the balancer.
fn connect_directly(lab: &Lab, coordinator: &Coordinator, count: usize) -> Vec<TcpStream> {
    let address = SocketAddr::from((coordinator.address, HS2_PORT));
    let connect = || {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    lab.balancers()[0]
        .enter(|| (0..count).map(|_| connect()).collect())
        .unwrap()
}

/// Connections to the service from ports of their choice: what slots they get does not change from run to run.
fn connect(lab: &Lab, ports: Range<u16>) -> Vec<TcpStream> {
    let service = SocketAddr::from((lab.vips()[0].v4, HS2_PORT));
    connect_from_ports(&lab.clients()[0], service, ports).unwrap()
}

fn slots(balancer: &Balancer) -> Vec<u32> {
    let backends = balancer.backends().unwrap();
    backends.iter().map(|backend| backend.slots).collect()
}

#[test]
fn an_idle_coordinator_gets_more_new_connections_than_a_busy_one_and_noise_moves_nothing() {
    let lab = Lab::builder()
        .balancers(1)
        .backends(3)
        .clients(1)
        .vips(1)
        .start()
        .unwrap();
    let coordinators = start_coordinators(&lab).unwrap();
    // All are busy, and alike.
    let base: Vec<Vec<TcpStream>> = coordinators
        .iter()
        .map(|coordinator| connect_directly(&lab, coordinator, 16))
        .collect();
    let configuration = configuration(&lab, &coordinators);
    let mut balancer = Balancer::start(&lab, &lab.balancers()[0], configuration).unwrap();
    let began = Instant::now();
    let fair = slots(&balancer);
    let others = fair.iter().map(|slots| slots.abs_diff(fair[0]));
    assert!(others.max() <= Some(1), "equal weights, equal load: {fair:?}");

    // A session through the service, which is to live through everything.
    let streams = connect(&lab, 20_000..20_001);
    let mut session = Session::open(&streams[0]).unwrap();
    let home = session.execute("select coordinator()").unwrap();

    // Clients come and go, here more and there less, until weights might have moved.
    let mut random = Random::of(7);
    while began.elapsed() < INTERVAL + Duration::from_secs(10) {
        let noise: Vec<Vec<TcpStream>> = coordinators
            .iter()
            .map(|coordinator| connect_directly(&lab, coordinator, random.below(8)))
            .collect();
        sleep(Duration::from_millis(300));
        drop(noise);
    }
    assert_eq!(slots(&balancer), fair, "noise moves nothing");
    for backend in balancer.backends().unwrap() {
        let load = backend.load.expect("weights follow the load");
        assert_eq!(load.weight_percent, 100, "{backend:?}");
        // The base, and the check's own connection; the rest is noise.
        assert!((16..=28).contains(&load.load.unwrap()), "{backend:?}");
    }

    // One gets work to do, the others lose what they have.
    let busy: Vec<TcpStream> = connect_directly(&lab, &coordinators[0], 30);
    let mut queries = Vec::new();
    for stream in &busy {
        let mut session = Session::open(stream).unwrap();
        queries.push(session.start("select sleep(3600000)").unwrap());
    }
    drop(base);
    let moved = wait_until("new connections to follow the load", A_FEW_INTERVALS, || {
        let slots = slots(&balancer);
        if slots[0] * 2 < slots[1] && slots[0] * 2 < slots[2] {
            Ok(slots)
        } else {
            Err(format!("{:?}", balancer.backends().unwrap()))
        }
    })
    .unwrap();
    assert!(moved[0] > 0, "even the busiest takes part: {moved:?}");
    // The weight stays as it is for an interval now; the load goes on changing.
    let percent = balancer.backends().unwrap()[0].load.unwrap().weight_percent;
    let text = balancer.lb_ctl(&["status"]).unwrap().stdout;
    assert!(
        text.contains(&format!("1 ({percent} %, load ")),
        "{percent}: {text}"
    );

    let streams = connect(&lab, 21_000..21_090);
    let names: Vec<String> = streams
        .iter()
        .map(|stream| coordinator_name(stream).unwrap())
        .collect();
    let count = |name: &str| names.iter().filter(|it| *it == name).count();
    let counts = coordinators.iter().map(|it| count(&it.name)).collect::<Vec<_>>();
    assert!(
        counts[0] * 3 < counts[1] * 2 && counts[0] * 3 < counts[2] * 2,
        "new connections went to {counts:?}, of slots {moved:?}"
    );
    assert_eq!(
        session.execute("select coordinator()").unwrap(),
        home,
        "it lives on, where it was"
    );

    // The next daemon finds the weights in the slots, and begins with them.
    balancer.daemon().unwrap().kill().unwrap();
    balancer.run(&[]).unwrap();
    let after = balancer.backends().unwrap();
    let percents: Vec<u32> = after.iter().map(|it| it.load.unwrap().weight_percent).collect();
    assert!(percents[0] < 100, "{after:?}");
    let log = balancer.daemon().unwrap().output().unwrap();
    let took_over = log.lines().find(|line| line.contains("took over"));
    assert!(
        took_over.is_some_and(|line| line.contains("slots_moved=0")),
        "{log}"
    );
    assert_eq!(session.execute("select coordinator()").unwrap(), home);
}
