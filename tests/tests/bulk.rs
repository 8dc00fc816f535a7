//! Tier 2: bulk data through a balancer, and whether every segment of it arrives as it should.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::net::{IpAddr, SocketAddr};

use lab::balancing::{Balancer, Configuration, HS2_PORT, PATIENCE, take_vips_off_backends};
use lab::clients::iperf3::{Direction, transfer};
use lab::{Host, Lab, TcpCounters, wait_until};
use socket2::{Domain, Protocol, Socket, Type};

const BYTES: u64 = 64 << 20;
const MTU: u64 = 1500;

fn mtu(host: &Host) -> u64 {
    let link = host.run(&["ip", "-json", "link", "show", "dev", "eth0"]).unwrap();
    let link: serde_json::Value = serde_json::from_str(&link).unwrap();
    link[0]["mtu"].as_u64().unwrap()
}

/// Transfers in both directions, without a single wrong checksum on any host.
fn expect_sound_transfers(forward: &str, vip: fn(&Lab) -> IpAddr, address: fn(&Host) -> IpAddr) {
    let lab = Lab::builder().start().unwrap();
    if forward == "nat" {
        take_vips_off_backends(&lab).unwrap();
    }
    let (client, backend) = (&lab.clients()[0], &lab.backends()[0]);
    let service = SocketAddr::new(vip(&lab), HS2_PORT);
    let backends = [(backend.name(), address(backend), 1)];
    let configuration =
        Configuration::of(&lab, &lab.balancers()[0]).service_by(forward, "impala", service.ip(), &backends);
    let balancer = Balancer::start(&lab, &lab.balancers()[0], configuration).unwrap();
    for host in lab.hosts() {
        assert_eq!(mtu(host), MTU, "{}", host.name());
    }
    for (direction, sender, receiver) in [
        (Direction::ToServer, client, backend),
        (Direction::ToClient, backend, client),
    ] {
        let counters = || lab.hosts().map(|host| TcpCounters::of(host).unwrap());
        let before: Vec<_> = counters().collect();
        let counted = |wanted: &Host| {
            let mut hosts = lab.hosts().zip(counters()).zip(&before);
            let counted = hosts.find(|((host, _), _)| host.name() == wanted.name());
            let ((_, now), before) = counted.unwrap();
            now - *before
        };
        let bytes_before = balancer.backends().unwrap()[0].bytes;
        let transfer = transfer(backend, client, service, BYTES, direction).unwrap();
        // What the sender's socket still holds when iperf3 ends the transfer does not arrive.
        assert!(
            transfer.sent >= BYTES && transfer.received > BYTES / 2,
            "{transfer:?}"
        );
        let segments = transfer.received / MTU;
        assert!(
            counted(receiver).received > segments,
            "{transfer:?}, {:?}",
            counted(receiver)
        );
        assert!(
            counted(sender).retransmitted >= transfer.retransmits,
            "{transfer:?}, {:?}",
            counted(sender)
        );
        for host in lab.hosts() {
            assert_eq!(counted(host).checksum_errors, 0, "{} {direction:?}", host.name());
        }
        if direction == Direction::ToServer {
            let through = balancer.backends().unwrap()[0].bytes - bytes_before;
            assert!(
                through > transfer.received,
                "{transfer:?}, but only {through} bytes went through the balancer"
            );
        }
    }
}

#[test]
fn bulk_data_arrives_without_a_wrong_checksum() {
    expect_sound_transfers("dsr", |lab| lab.vips()[0].v4.into(), |host| host.v4().into());
}

#[test]
fn bulk_data_arrives_without_a_wrong_checksum_over_ipv6() {
    expect_sound_transfers("dsr", |lab| lab.vips()[0].v6.into(), |host| host.v6().into());
}

#[test]
fn translated_bulk_data_arrives_without_a_wrong_checksum() {
    expect_sound_transfers("nat", |lab| lab.vips()[0].v4.into(), |host| host.v4().into());
}

#[test]
fn translated_bulk_data_arrives_without_a_wrong_checksum_over_ipv6() {
    expect_sound_transfers("nat", |lab| lab.vips()[0].v6.into(), |host| host.v6().into());
}

#[test]
fn a_segment_with_a_wrong_checksum_is_counted() {
    let lab = Lab::builder().balancers(0).start().unwrap();
    let (client, backend) = (&lab.clients()[0], &lab.backends()[0]);
    for address in [IpAddr::from(backend.v4()), backend.v6().into()] {
        let before = TcpCounters::of(backend).unwrap();
        // From port 1 to port 2, SYN, the checksum missing.
        let mut segment = [0; 20];
        segment[1] = 1;
        segment[3] = 2;
        segment[12] = 5 << 4;
        segment[13] = 2;
        let to = SocketAddr::new(address, 0);
        client
            .enter(|| {
                let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::TCP)).unwrap();
                socket.send_to(&segment, &to.into()).unwrap();
            })
            .unwrap();
        wait_until("the segment", PATIENCE, || {
            TcpCounters::of(backend).unwrap().received > before.received
        })
        .unwrap();
        let counted = TcpCounters::of(backend).unwrap() - before;
        assert_eq!(
            (counted.received, counted.checksum_errors),
            (1, 1),
            "from {address}"
        );
    }
}
