//! Tunnel packets as a balancer makes them, and all that can be wrong with them.

use core::net::SocketAddr;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::{
    layout::Target,
    testing::{
        Frame,
        cases::{CLIENT, CLIENT6},
        endpoint::{HostEndpoint, packets, targets, wrapped},
        opened::open,
        tables::{ONE, ONE6, TUNNEL_V4_BACKEND, TUNNEL_V6_BACKEND},
    },
};

/// What becomes of a frame, and under what it is counted.
fn receive(frame: &mut Vec<u8>) -> (Action, Option<Counter>) {
    let host = HostEndpoint::default();
    let action = process(frame, &host);
    let counts = Counter::ALL
        .iter()
        .map(|&counter| (counter, host.counted(counter)));
    let counted: Vec<_> = counts.filter(|(_, count)| *count > 0).collect();
    assert!(matches!(counted[..], [] | [(_, 1)]), "counted once: {counted:?}");
    (action, counted.first().map(|(counter, _)| *counter))
}

/// Where the inner header of a wrapped frame without tags is.
fn inner(target: &Target) -> usize {
    if target.backend().is_v4() { 34 } else { 54 }
}

fn set_outer_congestion(frame: &mut [u8], target: &Target) {
    if target.backend().is_v4() {
        frame[15] |= 0b11;
    } else {
        frame[15] |= 0b11 << 4;
    }
}

#[test]
fn what_is_not_a_tunnel_to_this_host_is_the_kernels() {
    for packet in packets() {
        let frame = packet.bytes();
        let mut after = frame.clone();
        assert_eq!(receive(&mut after), (Action::Pass, None));
        assert_eq!(after, frame);
        for target in targets() {
            let mut frame = wrapped(&frame, &target);
            // The last byte of the outer destination.
            frame[inner(&target) - 1] ^= 1;
            let before = frame.clone();
            assert_eq!(receive(&mut frame), (Action::Pass, None), "for another host");
            assert_eq!(frame, before);
        }
    }
}

#[test]
fn a_tunnel_from_elsewhere_is_left_unopened() {
    for (packet, target) in packets().into_iter().zip(targets()) {
        let mut frame = wrapped(&packet.bytes(), &target);
        // The first byte of the outer source.
        frame[if target.backend().is_v4() { 26 } else { 22 }] ^= 0x40;
        let before = frame.clone();
        assert_eq!(receive(&mut frame), (Action::Pass, Some(Counter::PassedSource)));
        assert_eq!(frame, before);
    }
}

#[test]
fn only_packets_to_a_vip_come_out() {
    let others = [
        Frame::new(CLIENT, SocketAddr::new(TUNNEL_V4_BACKEND.into(), 22)),
        Frame::new(CLIENT6, SocketAddr::new(TUNNEL_V6_BACKEND.into(), 22)),
        Frame::new(CLIENT, SocketAddr::from(([203, 0, 113, 1], 80))),
    ];
    for (packet, target) in others
        .iter()
        .flat_map(|packet| targets().map(|target| (packet, target)))
    {
        let mut frame = wrapped(&packet.bytes(), &target);
        assert_eq!(
            receive(&mut frame),
            (Action::Drop, Some(Counter::DropDestination))
        );
    }
}

#[test]
fn a_packet_that_contradicts_its_tunnel_is_dropped() {
    let dropped = (Action::Drop, Some(Counter::DropMalformed));
    for (packet, target) in packets()
        .into_iter()
        .flat_map(|packet| targets().map(|target| (packet.clone(), target)))
    {
        let whole = wrapped(&packet.bytes(), &target);
        let inner = inner(&target);
        let is_v4 = whole[inner] >> 4 == 4;
        let damaged = |offset: usize, value: u8| {
            let mut frame = whole.clone();
            frame[offset] = value;
            receive(&mut frame)
        };
        assert_eq!(
            damaged(inner, if is_v4 { 0x65 } else { 0x40 }),
            dropped,
            "another version"
        );
        assert_eq!(
            damaged(inner + if is_v4 { 3 } else { 5 }, 0xff),
            dropped,
            "longer than the tunnel packet"
        );
        if is_v4 {
            assert_eq!(damaged(inner, 0x44), dropped, "a header of 16 bytes");
            assert_eq!(damaged(inner + 3, 19), dropped, "shorter than its header");
        }
        // The outer length: longer than the frame, shorter than what is inside, shorter than the header itself.
        let length = if target.backend().is_v4() { 17 } else { 19 };
        for value in [0xff, whole[length] - 1, 1] {
            assert_eq!(damaged(length, value), dropped, "outer length {value}");
        }
        for cut in inner..whole.len() {
            assert_eq!(receive(&mut whole[..cut].to_vec()), dropped, "cut to {cut}");
        }
    }
}

#[test]
fn a_fragment_of_a_tunnel_packet_is_dropped() {
    let [v4, v6] = targets();
    for packet in packets() {
        let mut frame = wrapped(&packet.bytes(), &v4);
        frame[20] = 0x20;
        assert_eq!(receive(&mut frame), (Action::Drop, Some(Counter::DropFragment)));
        // Of IPv6 a fragment has another next header, and is the kernel's.
        let mut frame = wrapped(&packet.bytes(), &v6);
        frame[20] = ipv6::extension::FRAGMENT;
        assert_eq!(receive(&mut frame), (Action::Pass, None));
    }
}

#[test]
fn a_header_with_options_is_taken_off_whole() {
    let [v4, _] = targets();
    let frame = Frame::new(CLIENT, ONE).bytes();
    let mut tunnel = wrapped(&frame, &v4);
    tunnel.splice(34..34, [1; 8]);
    tunnel[14] = 0x47;
    tunnel[17] += 8;
    assert_eq!(receive(&mut tunnel), (Action::Pass, Some(Counter::Decapsulated)));
    assert_eq!(tunnel[12..], frame[12..]);
}

#[test]
fn congestion_in_the_tunnel_is_told_to_who_understands_it() {
    const CAPABLE: u8 = 0b10;
    for (packet, target) in packets()
        .into_iter()
        .flat_map(|packet| targets().map(|target| (packet.clone(), target)))
    {
        let mut frame = wrapped(&packet.clone().class(0xb8).bytes(), &target);
        set_outer_congestion(&mut frame, &target);
        assert_eq!(receive(&mut frame), (Action::Drop, Some(Counter::DropCongestion)));

        let mut frame = wrapped(&packet.clone().class(0xb8 | CAPABLE).bytes(), &target);
        set_outer_congestion(&mut frame, &target);
        assert_eq!(receive(&mut frame), (Action::Pass, Some(Counter::Decapsulated)));
        // Checksum included.
        assert_eq!(frame[12..], packet.class(0xb8 | 0b11).bytes()[12..]);
        open(&frame);
    }
}

proptest! {
    /// What a balancer wraps, a backend unwraps: the frame comes out as it came to the balancer, but for MAC addresses and
    /// padding.
    #[test]
    fn a_tunnel_changes_nothing(
        is_v6: bool,
        to_v6: bool,
        class: u8,
        tags in proptest::collection::vec(prop_oneof![Just(ethertype::VLAN), Just(ethertype::SERVICE_VLAN)], 0..=2),
        options in 0usize..=10,
        payload in proptest::collection::vec(any::<u8>(), 0..1300),
        padding in 0usize..10,
    ) {
        let frame = if is_v6 {
            Frame::new(CLIENT6, ONE6)
        } else {
            Frame::new(CLIENT, ONE).ip_options(&[1; 40][..options * 4])
        };
        let frame = tags.iter().fold(frame, |frame, &tag| frame.tag(tag)).class(class).payload(&payload);
        let target = targets()[usize::from(to_v6)];
        let mut tunnel = wrapped(&frame.clone().padding(padding).bytes(), &target);
        let addresses = tunnel[..12].to_vec();
        prop_assert_eq!(receive(&mut tunnel), (Action::Pass, Some(Counter::Decapsulated)));
        prop_assert_eq!(&tunnel[..12], addresses);
        prop_assert_eq!(&tunnel[12..], &frame.bytes()[12..]);
    }

    /// Whatever arrives has a fate, and what is not opened is not changed.
    #[test]
    fn damage_is_survived(
        is_v6: bool,
        to_v6: bool,
        damage in proptest::collection::vec((0usize..110, any::<u8>()), 0..6),
        length in 0usize..160,
    ) {
        let [v4, v6] = packets();
        let packet = if is_v6 { v6 } else { v4 };
        let mut frame = wrapped(&packet.payload(&[7; 20]).bytes(), &targets()[usize::from(to_v6)]);
        for (offset, value) in damage {
            if let Some(byte) = frame.get_mut(offset) {
                *byte = value;
            }
        }
        frame.truncate(length);
        let mut after = frame.clone();
        match receive(&mut after) {
            (Action::Pass, Some(Counter::Decapsulated)) => prop_assert!(after.len() + 20 <= frame.len()),
            (Action::Pass, counter) => {
                prop_assert!(matches!(counter, None | Some(Counter::PassedSource)));
                prop_assert_eq!(after, frame);
            }
            (Action::Drop, counter) => prop_assert!(counter.is_some_and(|counter| counter.name().starts_with("drop_"))),
        }
    }
}
