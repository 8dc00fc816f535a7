//! Tier 1: services that may not be used from everywhere. The kernel's trie allows what the host's prefixes contain.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lab::kernel_tables;
use lab::xdp_action;
use lb_common::counter::Counter;
use lb_common::decision::{Verdict, decide};
use lb_common::layout::{ALLOWED_ROOM, AllowedKey};
use lb_common::testing::tables::{RESTRICTED, RESTRICTED6};
use lb_common::testing::{Frame, HostTables};
use lb_ctl::adapters::datapath::Datapath;
use proptest::prelude::*;

/// The program and the host's tables, filled alike, but for the prefixes: there are none.
fn twins() -> (Datapath, HostTables) {
    let mut host = HostTables::fixture();
    host.allowed.clear();
    let kernel = kernel_tables::load(&host, 1024, 1024).unwrap();
    (kernel, host)
}

/// The address with this number, and the number of bits that its family has before it.
fn address(bits: u128, v6: bool) -> (IpAddr, u32) {
    if v6 {
        (Ipv6Addr::from_bits(bits).into(), 0)
    } else {
        (
            Ipv4Addr::from_bits(u32::try_from(bits >> 96).unwrap()).into(),
            AllowedKey::V4_BITS,
        )
    }
}

#[test]
fn kernel_and_host_allow_the_same() {
    let twins = RefCell::new(twins());
    let config = ProptestConfig {
        failure_persistence: None,
        cases: 300,
        ..ProptestConfig::default()
    };
    // Prefixes, each with clients that leave it at a chosen bit. They pile up from case to case.
    let prefix = (any::<u128>(), 0u32..=128, any::<bool>());
    let clients = proptest::collection::vec((0u32..=128, any::<u128>()), 1..20);
    proptest!(config, |((bits, length, v6) in prefix, clients in clients)| {
        let (kernel, host) = &mut *twins.borrow_mut();
        let restricted = if v6 { RESTRICTED6 } else { RESTRICTED };
        let id = host.service(restricted).id;
        let (first, before) = address(bits, v6);
        // Short prefixes allow nearly all: few of them, or there is nothing left to refuse.
        let length = if v6 { length.max(8) } else { length.clamp(8, 32) };
        let key = AllowedKey::prefix(id, first.into(), before + length);
        kernel.allow(&key).unwrap();
        host.allowed.insert(key);
        for (leaves_at, noise) in clients {
            let shared = if leaves_at == 128 { u128::MAX } else { !(u128::MAX >> leaves_at) };
            let (client, _) = address(bits & shared | noise & !shared, v6);
            let frame = Frame::new(SocketAddr::new(client, 40000), restricted).bytes();
            let expected = match decide(frame.as_slice(), host) {
                Verdict::Forward { .. } => xdp_action::TX,
                Verdict::Drop(Counter::DropSourceNotAllowed) => xdp_action::DROP,
                other => return Err(TestCaseError::fail(format!("{other:?}"))),
            };
            prop_assert_eq!(kernel.test_run(&frame).unwrap().action, expected, "{}", client);
        }
    });
    let (kernel, host) = twins.into_inner();
    let refused = kernel.counter(Counter::DropSourceNotAllowed).unwrap();
    assert!(refused > 0, "some clients were outside");
    assert!(host.allowed.len() > 100);
}

#[test]
fn there_is_room_for_as_many_prefixes_as_a_configuration_may_have_and_those_before() {
    let (mut kernel, host) = twins();
    let id = host.service(RESTRICTED).id;
    let network = |number: u32| Ipv4Addr::from_bits(number << 8);
    for number in 0..ALLOWED_ROOM {
        let prefix = IpAddr::V4(network(number + (10 << 16)));
        kernel
            .allow(&AllowedKey::prefix(id, prefix.into(), AllowedKey::V4_BITS + 24))
            .unwrap();
    }
    let action = |kernel: &mut Datapath, client: [u8; 4]| {
        let frame = Frame::new(SocketAddr::from((client, 40000)), RESTRICTED).bytes();
        kernel.test_run(&frame).unwrap().action
    };
    assert_eq!(action(&mut kernel, [10, 0, 0, 1]), xdp_action::TX);
    assert_eq!(action(&mut kernel, [11, 255, 255, 254]), xdp_action::TX);
    assert_eq!(action(&mut kernel, [12, 0, 0, 0]), xdp_action::DROP);
}
