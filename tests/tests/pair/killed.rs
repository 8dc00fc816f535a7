//! The master's daemon is killed, and nothing else of its host: its program forwards on, and it keeps the addresses. So it is until it is
//! started again.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use lab::balancing::{HS2_PORT, PATIENCE, holds};
use lab::steady::report::{Cause, Outcome, Short};
use lab::steady::{Steady, client::Options};
use lab::{Host, wait_until};
use rustix::process::Signal;

use super::{INTERVAL_MS, Scene, begin, share, wait_until_known};

/// How many connections begin in a second, all the time.
const BEGINNING: u32 = 50;
/// How many of them are waited for before something else happens.
const SOME: usize = 30;
/// How many connections begin while nobody tells of them, and stay.
const UNTOLD: u16 = 60;

/// Connections of one exchange each, which begin and end all the time.
struct Beginning(Steady);

impl Beginning {
    fn start(client: &Host, service: SocketAddr) -> Self {
        let options = Options {
            short_rate: BEGINNING,
            ..Steady::options(client, service, 0)
        };
        Self(Steady::start(client, options).unwrap())
    }

    /// The client's clock.
    fn now(&mut self) -> u64 {
        self.0.progress().unwrap().at_ms
    }

    /// Waits until some have ended that have begun from now on, and returns all that have begun since then.
    fn some_more(&mut self) -> Vec<Short> {
        let now = self.now();
        wait_until("more connections to begin and to end", PATIENCE, || {
            let mut ended = self.0.short_connections()?;
            ended.retain(|short| short.at_ms > now);
            anyhow::ensure!(ended.len() >= SOME, "{} have", ended.len());
            Ok(ended)
        })
        .unwrap()
    }

    fn expect_some_more_to_succeed(&mut self, when: &str) {
        let ended = self.some_more();
        let failed: Vec<&Short> = ended.iter().filter(|short| has_failed(short)).collect();
        assert!(failed.is_empty(), "{when}: {failed:?}");
    }
}

fn has_failed(short: &Short) -> bool {
    matches!(short.outcome, Outcome::Failure(_))
}

fn outlast_the_daemon(forward: &str) {
    let mut scene = Scene::of(forward, share(200), INTERVAL_MS);
    let client = scene.lab.clients()[0].clone();
    let vip: IpAddr = scene.lab.vips()[0].v4.into();
    let service = SocketAddr::new(vip, HS2_PORT);
    let mut beginning = Beginning::start(&client, service);
    beginning.expect_some_more_to_succeed("before anything happens");

    // The other one does not take over before everything has begun that is to begin without being told of, however busy the machine is.
    let told = beginning.now();
    let [master, backup] = &mut scene.pair.balancers;
    backup.daemon().unwrap().signal(Signal::STOP).unwrap();
    master.daemon().unwrap().kill().unwrap();
    scene.expect_unbroken("without a daemon");
    beginning.expect_some_more_to_succeed("without a daemon");
    let mut untold = begin(&client, vip, 30_000, UNTOLD);
    untold.expect_unbroken().unwrap();

    let [_, backup] = &mut scene.pair.balancers;
    backup.daemon().unwrap().signal(Signal::CONT).unwrap();
    scene.pair.wait_for_master(1).unwrap();
    // Nobody asks for the address anew from here on: both would answer.
    for hosts in [scene.lab.clients(), scene.lab.backends()] {
        wait_until_known(vip, &scene.lab.balancers()[1], hosts);
    }
    let known = beginning.now();
    let held = |scene: &Scene| [0, 1].map(|number| holds(&scene.lab.balancers()[number], vip).unwrap());
    assert_eq!(held(&scene), [true, true], "nobody has taken it off");
    scene.expect_unbroken("after the takeover");
    beginning.expect_some_more_to_succeed("after the takeover");
    let mut after = begin(&client, vip, 31_000, UNTOLD);
    after.expect_unbroken().unwrap();

    // Those that nobody has told of break where a record decides, and only there.
    untold.round().unwrap();
    let broken: BTreeSet<u16> = untold.breaks().unwrap().iter().map(|it| it.port).collect();
    let needs_record = |port: &u16| {
        let client = SocketAddr::new(client.v4().into(), *port);
        forward == "nat" || scene.pair.balancers[1].explain(client, "impala").unwrap().tracked
    };
    let expected: BTreeSet<u16> = (30_000..30_000 + UNTOLD).filter(needs_record).collect();
    assert_eq!(broken, expected);
    assert!(!broken.is_empty());
    assert_eq!(broken.len() == usize::from(UNTOLD), forward == "nat");

    // The killed one comes back, and takes off what it had left.
    scene.pair.balancers[0].run(&[]).unwrap();
    scene.pair.wait_for_owner(1).unwrap();
    assert_eq!(held(&scene), [false, true]);
    let expect_unbroken = |scene: &mut Scene, untold: &mut Steady, after: &mut Steady, when: &str| {
        scene.expect_unbroken(when);
        after.expect_unbroken().unwrap();
        untold.round().unwrap();
        assert_eq!(untold.breaks().unwrap().len(), broken.len(), "{when}");
    };
    expect_unbroken(&mut scene, &mut untold, &mut after, "after it has come back");
    beginning.expect_some_more_to_succeed("after it has come back");
    scene.expect_drain();
    scene.pair.hand_over(1).unwrap();
    assert_eq!(held(&scene), [true, false]);
    expect_unbroken(&mut scene, &mut untold, &mut after, "after it is master again");
    beginning.expect_some_more_to_succeed("after it is master again");

    // Of the short ones, those may have broken that began while nobody told of them. Who sends is reset; who has sent everything before
    // the takeover, and whose answer comes after it, hears nothing.
    for short in beginning.0.short_connections().unwrap() {
        if let Outcome::Failure(failure) = &short.outcome {
            assert!(
                (told..=known).contains(&short.at_ms),
                "{short:?}, {told} to {known}"
            );
            assert!(
                matches!(failure.cause, Cause::Reset | Cause::Timeout),
                "{short:?}"
            );
        }
    }
    scene.finish();
}

#[test]
fn connections_outlast_the_masters_daemon_alone_with_dsr() {
    outlast_the_daemon("dsr");
}

#[test]
fn connections_outlast_the_masters_daemon_alone_translated() {
    outlast_the_daemon("nat");
}
