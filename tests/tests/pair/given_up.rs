//! A service goes from one balancer, with the address that only it needs, and the other one goes on with its connections.

use std::net::{IpAddr, SocketAddr};

use lab::balancing::{Configuration, HS2_PORT, PATIENCE, Pair, holds};
use lab::steady::{Steady, start_servers};
use lab::{Lab, wait_until};

use super::{INTERVAL_MS, backends, order, wait_for_admin};

/// Of advertisements so rare that a master who does not say goodbye is missed only when nobody waits for its successor any more.
const RARELY_MS: u32 = 2000;

/// The key of an instance.
fn addresses(vips: &[IpAddr]) -> String {
    let quoted: Vec<String> = vips.iter().map(|vip| format!("\"{vip}\"")).collect();
    format!("addresses = [{}]", quoted.join(", "))
}

/// The configuration without what begins with this header and ends before the other one.
fn without(configuration: Configuration, from: &str, to: &str) -> Configuration {
    let text = configuration.text();
    let (begin, end) = (text.find(from).unwrap(), text.find(to).unwrap());
    let part = text[begin..end].to_owned();
    configuration.with(&part, "").unwrap()
}

/// There are two services with a VIP each, carried by instances with so many addresses and so long between advertisements. The master gives up the first one by what
/// `give_up` makes of its configuration; the other balancer, which knows nothing of that, is to be master of these of the VIPs then.
fn outlast_the_service(
    addresses_each: usize,
    interval_ms: u32,
    give_up: impl FnOnce(Configuration, [IpAddr; 2]) -> Configuration,
    masters_of: [[bool; 2]; 2],
) {
    let lab = Lab::builder().balancers(2).backends(2).vips(2).start().unwrap();
    let _servers = start_servers(&lab, HS2_PORT).unwrap();
    let vips = [lab.vips()[0].v4, lab.vips()[1].v4].map(IpAddr::from);
    let services = |configuration: Configuration| {
        let first = configuration.service("first", vips[0], &backends(&lab));
        first.service("second", vips[1], &backends(&lab))
    };
    let lists: Vec<&[IpAddr]> = vips.chunks(addresses_each).collect();
    let firsts: Vec<IpAddr> = lists.iter().map(|list| list[0]).collect();
    let mut pair = Pair::prepare(&lab, interval_ms, &firsts, services).unwrap();
    for balancer in &mut pair.balancers {
        let mut configuration = balancer.configuration().clone();
        for list in &lists {
            configuration = configuration.with("group = \"all\"\n", "").unwrap();
            configuration = configuration
                .with(&addresses(&list[..1]), &addresses(list))
                .unwrap();
        }
        balancer.reconfigure(configuration).unwrap();
    }
    pair.start_both().unwrap();
    let client = &lab.clients()[0];
    let hold = |vip| {
        Steady::start(
            client,
            Steady::options(client, SocketAddr::from((vip, HS2_PORT)), 200),
        )
    };
    let mut steady = vips.map(|vip| hold(vip).unwrap());
    order(&pair.balancers[0], &["drain", lab.backends()[1].name()]);
    wait_for_admin(&pair.balancers[1], 1, "draining");

    let present = pair.balancers[0].configuration().clone();
    let next = without(
        present,
        "[[service]]\nname = \"first\"",
        "[[service]]\nname = \"second\"",
    );
    pair.balancers[0].reconfigure(give_up(next, vips)).unwrap();
    order(&pair.balancers[0], &["reload"]);
    // The service has stayed for as long as it was needed.
    let services = pair.balancers[1].status().unwrap().services;
    let first = services.iter().find(|service| service.vip == vips[0]);
    assert_eq!(first.and_then(|it| it.role.as_deref()), Some("owner"));
    wait_until("each to have what it is to have", PATIENCE, || {
        for (number, expected) in masters_of.into_iter().enumerate() {
            let services = pair.balancers[number].status()?.services;
            for (vip, is_master) in vips.into_iter().zip(expected) {
                let of_vip = services.iter().find(|service| service.vip == vip);
                let role = of_vip.and_then(|service| service.role.as_deref());
                anyhow::ensure!((role == Some("owner")) == is_master, "{number}, {vip}: {role:?}");
                anyhow::ensure!(
                    holds(&lab.balancers()[number], vip)? == is_master,
                    "{number}, {vip}"
                );
            }
        }
        Ok(())
    })
    .unwrap();
    for connections in &mut steady {
        connections.expect_unbroken().unwrap();
    }
    for connections in steady {
        assert_eq!(connections.finish().unwrap().broken, []);
    }
}

#[test]
fn connections_of_a_service_that_one_balancer_gives_up_live_on_at_the_other() {
    outlast_the_service(
        1,
        INTERVAL_MS,
        |configuration, _| {
            without(
                configuration,
                "[[vrrp]]\nname = \"vip0\"",
                "[[vrrp]]\nname = \"vip1\"",
            )
        },
        [[false, true], [true, false]],
    );
}

/// The other balancer takes over all addresses of the instance, since lists have to be alike: of the one that stays both are master.
#[test]
fn connections_of_a_service_that_goes_with_one_of_several_addresses_live_on_at_the_other() {
    outlast_the_service(
        2,
        RARELY_MS,
        |configuration, vips| {
            let (before, after) = (addresses(&vips), addresses(&vips[1..]));
            configuration.with(&before, &after).unwrap()
        },
        [[false, true], [true, true]],
    );
}

/// It has been found to be good, and then VRRP has begun to follow it; meanwhile the peer's key has gone.
#[test]
fn a_reload_that_is_refused_after_all_gives_nothing_away() {
    let lab = Lab::builder().balancers(2).backends(2).vips(2).start().unwrap();
    let vips = [lab.vips()[0].v4, lab.vips()[1].v4].map(IpAddr::from);
    let services = |configuration: Configuration| {
        let first = configuration.service("first", vips[0], &backends(&lab));
        first.service("second", vips[1], &backends(&lab))
    };
    let mut pair = Pair::prepare(&lab, INTERVAL_MS, &vips, services).unwrap();
    for balancer in &mut pair.balancers {
        let mut configuration = balancer.configuration().clone();
        for _ in vips {
            configuration = configuration.with("group = \"all\"\n", "").unwrap();
        }
        balancer.reconfigure(configuration).unwrap();
    }
    let key = lab.directory().join("peer.key");
    let hook = format!("[ $LB_STATE != init ] || rm {}", key.display());
    let name = "name = \"vip0\"\n";
    let with_hook = format!("{name}notify = [\"/bin/sh\", \"-c\", \"{hook}\"]\n");
    let present = pair.balancers[0].configuration().clone();
    let present = present.with(name, &with_hook).unwrap();
    pair.balancers[0].reconfigure(present.clone()).unwrap();
    pair.start_both().unwrap();

    let next = without(
        present,
        "[[service]]\nname = \"first\"",
        "[[service]]\nname = \"second\"",
    );
    let next = without(next, "[[vrrp]]\nname = \"vip0\"", "[[vrrp]]\nname = \"vip1\"");
    pair.balancers[0].reconfigure(next).unwrap();
    let refused = pair.balancers[0].lb_ctl(&["reload"]).unwrap();
    assert!(refused.stderr.contains("peer.key"), "{refused:?}");
    let instances = pair.balancers[0].status().unwrap().vrrp;
    let names: Vec<&str> = instances.iter().map(|instance| instance.name.as_str()).collect();
    assert_eq!(names, ["vip0", "vip1"]);
}
