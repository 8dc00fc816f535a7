//! Who comes to the port where balancers meet, and is not the peer.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use lab::balancing::{HS2_PORT, PATIENCE, PEER_PORT, Pair};
use lab::steady::client::Options;
use lab::steady::report::Outcome;
use lab::steady::{Server, Steady, start_servers};
use lab::{Host, Lab, wait_until};
use lb_ctl::core::sync::{Item, Message, VERSIONS};

use super::visitor::{Visitor, greeting, has_ended};
use super::{INTERVAL_MS, backends, order, wait_for_admin};

/// How many connections strangers open that say nothing.
const SILENT: usize = 200;

/// Strangers who send rubbish, each on one connection after the other, until this is dropped.
struct Rubbish {
    is_over: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Rubbish {
    fn begin(from: &Host, to: SocketAddr, strangers: usize) -> Self {
        let (is_over, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let start = |_| {
            let (from, is_over, sent) = (from.clone(), Arc::clone(&is_over), Arc::clone(&sent));
            thread::spawn(move || {
                let flood = || {
                    while !is_over.load(Ordering::Relaxed) {
                        send_rubbish(to, &is_over);
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                };
                from.enter(flood).unwrap();
            })
        };
        let threads = (0..strangers).map(start).collect();
        Self {
            is_over,
            sent,
            threads,
        }
    }

    /// Waits until as many more connections have been cut off.
    fn wait_for_more(&self, connections: usize) {
        let before = self.sent.load(Ordering::Relaxed);
        wait_until("more rubbish to be sent", PATIENCE, || {
            self.sent.load(Ordering::Relaxed) >= before + connections
        })
        .unwrap();
    }
}

impl Drop for Rubbish {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It has said itself what was wrong.
            let _ = thread.join();
        }
    }
}

/// Sends rubbish until the other end has enough of it.
fn send_rubbish(to: SocketAddr, is_over: &AtomicBool) {
    let Ok(mut stream) = TcpStream::connect_timeout(&to, PATIENCE) else {
        return;
    };
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    while !is_over.load(Ordering::Relaxed) && stream.write_all(&[0xff; 4096]).is_ok() {}
}

/// Two balancers of which the second one comes to the first, and nothing else, and connections through them.
struct Scene {
    pair: Pair,
    steady: Steady,
    /// Where the first one listens.
    port: SocketAddr,
    _servers: Vec<Server>,
    // Last: what runs in the lab ends before it.
    lab: Lab,
}

impl Scene {
    /// The second balancer ends, and somebody else on its host greets the first one as its peer.
    fn replace_peer(&mut self) -> Visitor {
        self.pair.balancers[1]
            .daemon()
            .unwrap()
            .terminate(PATIENCE)
            .unwrap();
        let mut visitor = Visitor::go(&self.lab.balancers()[1], self.port);
        visitor.say(&greeting(*VERSIONS.start(), *VERSIONS.end()));
        visitor
    }

    fn start() -> Self {
        let lab = Lab::builder().balancers(2).backends(2).start().unwrap();
        let servers = start_servers(&lab, HS2_PORT).unwrap();
        let vip: IpAddr = lab.vips()[0].v4.into();
        let [first, second] = [0, 1].map(|number| lab.balancers()[number].v4());
        let mut pair = Pair::prepare(&lab, INTERVAL_MS, &[vip], |configuration| {
            configuration.service("impala", vip, &backends(&lab))
        })
        .unwrap();
        let one_way = [
            format!("connect = \"{second}:{PEER_PORT}\"\n"),
            format!("listen = \"{second}:{PEER_PORT}\"\n"),
        ];
        for (balancer, other_way) in pair.balancers.iter_mut().zip(one_way) {
            let configuration = balancer.configuration().clone();
            balancer
                .reconfigure(configuration.with(&other_way, "").unwrap())
                .unwrap();
        }
        pair.start_both().unwrap();
        let client = &lab.clients()[0];
        let options = Steady::options(client, SocketAddr::new(vip, HS2_PORT), 100);
        let steady = Steady::start(
            client,
            Options {
                short_rate: 20,
                ..options
            },
        )
        .unwrap();
        Self {
            pair,
            steady,
            port: SocketAddr::new(first.into(), PEER_PORT),
            _servers: servers,
            lab,
        }
    }

    /// Old connections live, and new ones begin.
    fn expect_queries(&mut self, when: &str) {
        let now = self.steady.expect_unbroken().unwrap().at_ms;
        let ended = wait_until("connections to begin and to end", PATIENCE, || {
            let mut ended = self.steady.short_connections()?;
            ended.retain(|short| short.at_ms > now);
            anyhow::ensure!(ended.len() >= 10, "{} have", ended.len());
            Ok(ended)
        })
        .unwrap();
        let failed: Vec<_> = ended
            .iter()
            .filter(|short| matches!(short.outcome, Outcome::Failure(_)))
            .collect();
        assert!(failed.is_empty(), "{when}: {failed:?}");
    }

    /// The peer is there and hears what is decided here.
    fn expect_peer(&self) {
        for (command, admin) in [("drain", "draining"), ("undrain", "enabled")] {
            order(&self.pair.balancers[0], &[command, self.lab.backends()[0].name()]);
            wait_for_admin(&self.pair.balancers[1], 0, admin);
            let peer = self.pair.balancers[0].status().unwrap().peer.unwrap();
            assert!(peer.connected, "{peer:?}");
        }
    }

    fn finish(self) {
        let summary = self.steady.finish().unwrap();
        assert_eq!((summary.broken.len(), summary.short_failures), (0, 0));
    }
}

#[test]
fn strangers_at_the_peers_port_disturb_nobody_and_keep_nobody_out() {
    let mut scene = Scene::start();
    let stranger = scene.lab.clients()[0].clone();

    // Those who say nothing, and a few who flood it. Those two who have met already do not notice.
    let (port, mut silent) = (scene.port, Vec::new());
    let mut open = || {
        let connect = |_| TcpStream::connect_timeout(&port, PATIENCE).unwrap();
        let more = stranger.enter(|| (0..SILENT).map(connect).collect::<Vec<_>>());
        silent.extend(more.unwrap());
    };
    open();
    let flood = Rubbish::begin(&stranger, port, 8);
    flood.wait_for_more(100);
    scene.expect_peer();
    scene.expect_queries("while strangers flood it");
    flood.wait_for_more(100);
    drop(flood);

    // The peer goes and comes back while all places are taken, and somebody sends rubbish all the time.
    let backup = scene.pair.balancers[1].daemon().unwrap();
    backup.kill().unwrap();
    wait_until("the first one to miss the peer", PATIENCE, || {
        let peer = scene.pair.balancers[0].status()?.peer.unwrap();
        anyhow::ensure!(!peer.connected, "{peer:?}");
        Ok(())
    })
    .unwrap();
    let rubbish = Rubbish::begin(&stranger, port, 1);
    open();
    rubbish.wait_for_more(20);
    scene.expect_queries("without a peer");
    scene.pair.balancers[1].run(&[]).unwrap();
    scene.pair.wait_for_owner(0).unwrap();
    rubbish.wait_for_more(20);
    scene.expect_peer();
    scene.expect_queries("with all of them");
    drop(rubbish);

    // Nobody stays who has nothing to show.
    wait_until("all strangers to be cut off", PATIENCE, || {
        silent.retain_mut(|stream| !has_ended(stream));
        silent.is_empty().then_some(()).ok_or(silent.len())
    })
    .unwrap();
    scene.finish();
}

/// It has the key, and may even be the peer, whose process hangs.
#[test]
fn a_peer_that_greets_and_hangs_is_given_up_for_one_that_does_not() {
    let mut scene = Scene::start();
    let _hanging = scene.replace_peer();
    let peer = |scene: &Scene| scene.pair.balancers[0].status().unwrap().peer.unwrap();
    wait_until("the first one to take it for the peer", PATIENCE, || {
        peer(&scene).node.as_deref() == Some("lb9")
    })
    .unwrap();
    scene.expect_queries("while the peer hangs");
    wait_until("the first one to give it up", PATIENCE, || {
        let peer = peer(&scene);
        let said = peer.trouble.clone().unwrap_or_default();
        (!peer.connected && said.contains("sign of life"))
            .then_some(())
            .ok_or(format!("{peer:?}"))
    })
    .unwrap();
    scene.pair.balancers[1].run(&[]).unwrap();
    scene.pair.wait_for_owner(0).unwrap();
    scene.expect_peer();
    scene.finish();
}

/// It has the key, and says the same again and again.
#[test]
fn a_peer_that_never_stops_talking_keeps_nobody_waiting() {
    let mut scene = Scene::start();
    let mut visitor = scene.replace_peer();
    let (is_over, taken) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let talking = thread::spawn({
        let (is_over, taken) = (Arc::clone(&is_over), Arc::clone(&taken));
        move || {
            let mut number = 0;
            let mut talk = |visitor: &mut Visitor| {
                let items = idle_talk();
                visitor.say(&Message::Batch { number, items }.encode().unwrap());
                number += 1;
            };
            talk(&mut visitor);
            talk(&mut visitor);
            while !is_over.load(Ordering::Relaxed) {
                // What it is told it does not take in.
                if matches!(visitor.hear(), Message::Taken { .. }) {
                    taken.fetch_add(1, Ordering::Relaxed);
                    talk(&mut visitor);
                }
            }
        }
    });
    let wait_for_more = || {
        let before = taken.load(Ordering::Relaxed);
        wait_until("it to go on", PATIENCE, || {
            let more = taken.load(Ordering::Relaxed) - before;
            (more > 200).then_some(()).ok_or(more)
        })
        .unwrap();
    };
    wait_for_more();
    scene.expect_queries("while the peer never stops");
    let backend = scene.lab.backends()[0].name();
    for (command, admin) in [("drain", "draining"), ("undrain", "enabled")] {
        order(&scene.pair.balancers[0], &[command, backend]);
        wait_for_admin(&scene.pair.balancers[0], 0, admin);
        wait_for_more();
    }
    is_over.store(true, Ordering::Relaxed);
    talking.join().unwrap();
    scene.pair.balancers[1].run(&[]).unwrap();
    scene.pair.wait_for_owner(0).unwrap();
    scene.expect_peer();
    scene.finish();
}

/// A batch that is nearly as long as it may be, about a service that nobody else has.
fn idle_talk() -> Vec<Item> {
    let service = Item::Service {
        id: 1,
        vip: [203, 0, 113, 1].into(),
        port: HS2_PORT,
    };
    let backends = (1..1_000).map(|id| Item::Backend {
        id,
        service: 1,
        name: format!("impala{id}"),
        address: [203, 0, 113, 2].into(),
        port: HS2_PORT,
    });
    [service].into_iter().chain(backends).collect()
}
