//! The owner of the addresses, who has priority 255 and waits for nobody.

use lab::Lab;
use lab::balancing::Balancer;

use super::{IPV4, configuration, wait_for_holder, wait_for_state};

/// Whatever delay it has, since that is for those who preempt.
#[test]
fn the_owner_of_the_addresses_takes_over_at_its_start_and_whoever_is_there_when_it_dies() {
    let lab = Lab::builder().balancers(2).start().unwrap();
    let (hosts, vip) = (lab.balancers(), IPV4.vip(&lab));
    let other = Balancer::start(&lab, &hosts[1], configuration(&lab, 1, IPV4, "priority = 254\n")).unwrap();
    wait_for_holder(hosts, vip, [false, true]);
    let owner = configuration(&lab, 0, IPV4, "priority = 255\n")
        .with("preempt_delay = \"0s\"", "preempt_delay = \"1h\"")
        .unwrap();
    let mut owner = Balancer::prepare(&lab, &hosts[0], owner).unwrap();
    for _ in 0..2 {
        owner.run(&[]).unwrap();
        wait_for_holder(hosts, vip, [true, false]);
        let status = wait_for_state(&owner, "master");
        assert_eq!(status.cause, "priority 255 waits for nobody");
        assert_eq!((status.priority, status.transitions["backup"]), (255, 0));
        let status = wait_for_state(&other, "backup");
        assert_eq!(status.cause, format!("{} advertises priority 255", hosts[0].v4()));
        owner.daemon().unwrap().kill().unwrap();
        let status = wait_for_state(&other, "master");
        assert_eq!(status.cause, format!("{} advertises no more", hosts[0].v4()));
        // What the owner has left goes when it is started again.
        wait_for_holder(hosts, vip, [true, true]);
    }
}
