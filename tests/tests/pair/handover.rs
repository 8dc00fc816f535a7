//! A master that knows more than the other one does not hand over unless it is told to at any price.

use lab::balancing::PATIENCE;
use lab::wait_until;

use super::{INTERVAL_MS, Scene};

#[test]
fn nothing_is_handed_over_to_a_peer_that_does_not_know_the_connections() {
    let mut scene = Scene::of("dsr", 100, INTERVAL_MS);
    scene.pair.balancers[1].daemon().unwrap().kill().unwrap();
    wait_until("the peer to be missed", PATIENCE, || {
        let peer = scene.pair.balancers[0].status()?.peer.unwrap();
        anyhow::ensure!(!peer.connected, "{peer:?}");
        Ok(())
    })
    .unwrap();
    let refused = scene.pair.balancers[0].lb_ctl(&["failover"]).unwrap();
    assert_eq!(refused.code, Some(1), "{refused:?}");
    for part in ["not connected", "--force"] {
        assert!(refused.stderr.contains(part), "{refused:?}");
    }
    scene.pair.wait_for_master(0).unwrap();

    let unknown = scene.pair.balancers[0].lb_ctl(&["failover", "nobody"]).unwrap();
    assert!(
        unknown.code != Some(0) && unknown.stderr.contains("nobody") && !unknown.stderr.contains("--force"),
        "{unknown:?}"
    );

    // At any price it is; and as nobody takes over, it comes back.
    let forced = scene.pair.balancers[0].lb_ctl(&["failover", "--force"]).unwrap();
    assert_eq!(forced.code, Some(0), "{forced:?}");
    scene.pair.wait_for_master(0).unwrap();

    // Whoever is not master is told so, whatever the peer knows.
    scene.pair.balancers[1].run(&[]).unwrap();
    scene.pair.wait_for_owner(0).unwrap();
    let backup = scene.pair.balancers[1].lb_ctl(&["failover"]).unwrap();
    assert!(
        backup.code != Some(0) && !backup.stderr.contains("--force"),
        "{backup:?}"
    );
    scene.pair.hand_over(0).unwrap();
    scene.expect_unbroken("a handover that was refused first");
    scene.finish();
}
