//! Where clients of a service with affinity are at home, when the other balancer takes over.

use std::net::{IpAddr, SocketAddr, TcpStream};

use lab::balancing::{HS2_PORT, PATIENCE, Pair, start_coordinators};
use lab::clients::hs2::coordinator_name;
use lab::{Host, Lab, wait_until};

use super::{INTERVAL_MS, order, wait_for_admin, wait_until_known};

/// The coordinator that a client gets for a new connection.
fn home(client: &Host, service: SocketAddr) -> String {
    let connect = || {
        let stream = TcpStream::connect_timeout(&service, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        coordinator_name(&stream)
    };
    client.enter(connect).unwrap().unwrap()
}

#[test]
fn clients_that_come_back_after_a_takeover_get_the_backend_where_they_are_at_home() {
    let lab = Lab::builder()
        .balancers(2)
        .backends(3)
        .clients(4)
        .start()
        .unwrap();
    let coordinators = start_coordinators(&lab).unwrap();
    let vip: IpAddr = lab.vips()[0].v4.into();
    let service = SocketAddr::new(vip, HS2_PORT);
    let names: Vec<&str> = coordinators.iter().map(|it| it.name.as_str()).collect();
    let mut pair = Pair::start(&lab, INTERVAL_MS, &[vip], |configuration| {
        let addresses = coordinators.iter().map(|it| IpAddr::from(it.address));
        let backends: Vec<_> = names
            .iter()
            .zip(addresses)
            .map(|(name, address)| (*name, address, 1))
            .collect();
        let port = format!("port = {HS2_PORT}\n");
        let configuration = configuration.service("impala", vip, &backends);
        configuration
            .with(&port, &format!("{port}affinity = \"client\"\n"))
            .unwrap()
    })
    .unwrap();
    let homes = || -> Vec<String> { lab.clients().iter().map(|client| home(client, service)).collect() };

    // The ring's choice for the first client goes and comes back. By then those who were there live elsewhere, and stay.
    let first = homes();
    let left = first[0].as_str();
    let place = names.iter().position(|name| *name == left).unwrap();
    order(&pair.balancers[1], &["drain", left]);
    wait_for_admin(&pair.balancers[0], place, "draining");
    let second = homes();
    assert!(!second.contains(&first[0]), "{second:?}");
    order(&pair.balancers[1], &["undrain", left]);
    wait_for_admin(&pair.balancers[0], place, "enabled");
    assert_eq!(homes(), second, "it is back, but they have moved");

    // The one that follows knows of no other reason than that it was told so: its slots say something else.
    let moved: Vec<(&Host, &String)> = lab
        .clients()
        .iter()
        .zip(&second)
        .zip(&first)
        .filter(|(_, before)| *before == left)
        .map(|(now, _)| now)
        .collect();
    let expect_told = |pair: &Pair| {
        for (client, home) in &moved {
            let client = SocketAddr::new(client.v4().into(), 1);
            wait_until("the other balancer to know the home", PATIENCE, || {
                let explanation = pair.balancers[1].explain(client, "impala")?;
                let affinity = explanation.affinity.clone().unwrap();
                anyhow::ensure!(affinity.backend.as_ref() == Some(*home), "{explanation:?}");
                let ring = [explanation.settled.as_deref(), explanation.current.as_deref()];
                anyhow::ensure!(ring == [Some(left); 2], "{explanation:?}");
                Ok(())
            })
            .unwrap();
        }
    };
    expect_told(&pair);

    let host = lab.balancers()[0].clone();
    let [master, _] = &mut pair.balancers;
    master.daemon().unwrap().kill().unwrap();
    host.run(&["ip", "link", "set", "eth0", "down"]).unwrap();
    pair.wait_for_master(1).unwrap();
    wait_until_known(vip, &lab.balancers()[1], lab.clients());
    assert_eq!(homes(), second, "after the takeover");
    expect_told(&pair);

    // And back again, by the way of one that has been told everything anew.
    host.run(&["ip", "link", "set", "eth0", "up"]).unwrap();
    let [master, _] = &mut pair.balancers;
    master.run(&[]).unwrap();
    pair.wait_for_owner(1).unwrap();
    pair.hand_over(1).unwrap();
    wait_until_known(vip, &lab.balancers()[0], lab.clients());
    assert_eq!(homes(), second, "after the first one is master again");
}
