//! An upgrade, one balancer after the other, in the midst of which the two may speak different versions of the protocol.

use std::net::{IpAddr, SocketAddr, TcpListener};

use lab::balancing::{Balancer, PATIENCE, PEER_PORT, holds};
use lab::wait_until;
use lb_ctl::core::status::PeerStatus;
use lb_ctl::core::sync::{Message, VERSIONS};

use super::visitor::{Visitor, greeting};
use super::{INTERVAL_MS, Scene, share};

fn wait_for_peer(balancer: &Balancer, what: &str, fits: impl Fn(&PeerStatus) -> bool) {
    wait_until(what, PATIENCE, || {
        let peer = balancer.status()?.peer.unwrap();
        anyhow::ensure!(fits(&peer), "{peer:?}");
        Ok(())
    })
    .unwrap();
}

/// Greets as one that speaks other versions, and hears why there is no more to say.
fn expect_farewell(mut visitor: Visitor, oldest: u16, newest: u16) {
    let Message::Greeting(ours) = visitor.hear() else {
        panic!("expected a greeting first")
    };
    assert_eq!(ours.oldest..=ours.newest, VERSIONS);
    visitor.say(&greeting(oldest, newest));
    let Message::Farewell(why) = visitor.hear() else {
        panic!("expected a farewell")
    };
    let expected = format!("found one that speaks {oldest} to {newest}: upgrade the older of the two");
    assert!(why.contains(&expected), "{why}");
    wait_until("the balancer to hang up", PATIENCE, || visitor.is_left()).unwrap();
}

#[test]
fn connections_outlast_an_upgrade_in_the_midst_of_which_the_balancers_cannot_talk() {
    let mut scene = Scene::of("nat", share(200), INTERVAL_MS);
    let [us, them] = [0, 1].map(|number| scene.lab.balancers()[number].clone());
    let ours = SocketAddr::new(us.v4().into(), PEER_PORT);
    let theirs = SocketAddr::new(them.v4().into(), PEER_PORT);
    let newest = *VERSIONS.end();

    // The backup is replaced by one that speaks newer versions only. It comes to the master, and the master to it.
    let backup = scene.pair.balancers[1].daemon().unwrap();
    backup.terminate(PATIENCE).unwrap();
    let listener = them.enter(|| TcpListener::bind(theirs)).unwrap().unwrap();
    expect_farewell(Visitor::go(&them, ours), newest + 1, newest + 2);
    expect_farewell(Visitor::receive(&listener), newest + 1, newest + 2);
    let trouble = format!("speaks {} to {}: upgrade the older", newest + 1, newest + 2);
    let says_why = |peer: &PeerStatus| {
        let said = peer.trouble.as_ref();
        !peer.connected && said.is_some_and(|said| said.contains(&trouble))
    };
    wait_for_peer(&scene.pair.balancers[0], "the reason in the status", says_why);
    // It tries again, in case that there is another one by now.
    expect_farewell(Visitor::receive(&listener), newest + 1, newest + 2);
    let master = scene.pair.balancers[0].daemon().unwrap();
    master.wait_for_line(&trouble, PATIENCE).unwrap();
    scene.expect_unbroken("without a peer to talk to");

    // One that speaks ours too, and has more to say in its greeting, a list of names first, is a peer.
    let mut visitor = Visitor::go(&them, ours);
    visitor.say(&[greeting(1, 100), b"\x01\x04eth0more".to_vec()].concat());
    wait_for_peer(&scene.pair.balancers[0], "a peer of a newer version", |peer| {
        let (node, version) = (peer.node.as_deref(), peer.version.as_deref());
        peer.connected && node == Some("lb9") && version == Some("9.0.0")
    });
    assert!(matches!(visitor.hear(), Message::Greeting(_)));
    assert!(matches!(visitor.hear(), Message::Batch { number: 0, .. }));
    drop((visitor, listener));

    // It is replaced by one that can be talked to; then the other one in its turn.
    scene.pair.balancers[1].run(&[]).unwrap();
    scene.pair.wait_for_owner(0).unwrap();
    scene.pair.hand_over(0).unwrap();
    scene.expect_unbroken("after the first one's upgrade");
    let former = scene.pair.balancers[0].daemon().unwrap();
    former.terminate(PATIENCE).unwrap();
    scene.pair.balancers[0].run(&[]).unwrap();
    scene.pair.wait_for_owner(1).unwrap();
    scene.expect_unbroken("after both upgrades");
    let vip: IpAddr = scene.lab.vips()[0].v4.into();
    assert!(!holds(&us, vip).unwrap() && holds(&them, vip).unwrap());
    scene.expect_drain();
    scene.finish();
}
