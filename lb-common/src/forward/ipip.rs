//! IP in IP: the client's packet as it is, behind another IP header that leads to the backend.
//!
//! Four mixtures: IPv4 or IPv6 (the client's packet) in IPv4 or IPv6 (the backend's address). RFC 2003, RFC 2473, RFC 4213.

use crate::{
    counter::Counter,
    headers::{
        ethernet::{self, ethertype},
        ipv4, ipv6,
    },
    layout::Target,
    packet::PacketBuffer,
};

/// The protocol number of IPv4 in another packet, as assigned by IANA.
pub const IPV4_INSIDE: u8 = 4;
/// The protocol number of IPv6 in another packet, as assigned by IANA.
pub const IPV6_INSIDE: u8 = 41;

/// Why a packet was not wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// With the outer header it would be longer than the way to the backend allows. It is unchanged.
    TooBig,
    /// The driver leaves no room in front of the frame.
    NoHeadroom,
    /// The frame ends before its headers do, which no frame that was parsed does.
    Truncated,
}

impl Obstacle {
    /// Under what a packet is counted that is dropped because of it.
    #[inline(always)]
    pub const fn counter(self) -> Counter {
        match self {
            Self::TooBig => Counter::DropPacketTooBig,
            Self::NoHeadroom => Counter::DropNoHeadroom,
            Self::Truncated => Counter::DropTruncated,
        }
    }
}

/// The length of the outer header of packets to this target, in bytes.
#[inline(always)]
pub const fn outer_length(target: &Target) -> usize {
    if target.backend().is_v4() {
        ipv4::MIN_HEADER_LENGTH
    } else {
        ipv6::HEADER_LENGTH
    }
}

/// The longest client's packet that fits into a packet to this target, in bytes.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the header has 20 or 40 bytes")]
pub const fn inner_mtu(target: &Target) -> u16 {
    target.mtu().saturating_sub(outer_length(target) as u16)
}

/// Wraps the IP packet in the frame into another one to the target, and addresses the frame to the target's next hop.
///
/// VLAN tags stay. What is behind the packet (Ethernet's padding of short frames) is cut off: the outer packet has the length
/// that the inner one says of itself, and behind a longer header there is nothing left to pad. The inner packet is not
/// touched, its hop limit neither: to the client, the backend is where the VIP is.
#[inline(always)]
pub fn wrap(packet: &mut impl PacketBuffer, target: &Target, flow: u64) -> Result<(), Obstacle> {
    // The frame has been parsed, but to keep what was found over the lookups since then costs more than to read it again.
    let inner = Inner::of(packet).ok_or(Obstacle::Truncated)?;
    let outer = outer_length(target);
    if inner.length + outer > target.mtu() as usize {
        return Err(Obstacle::TooBig);
    }
    if packet.length() != inner.offset + inner.length {
        packet
            .set_length(inner.offset + inner.length)
            .ok_or(Obstacle::Truncated)?;
    }
    packet.grow_front(outer).ok_or(Obstacle::NoHeadroom)?;
    write(packet, &inner, target, flow).ok_or(Obstacle::Truncated)
}

/// What the outer header has to know of the packet that it stands before.
struct Inner {
    /// What stands between MAC addresses and IP: the tags, if any, and whatever follows up to 8 bytes.
    tags: [u8; 2 * ethernet::VLAN_TAG_LENGTH],
    /// Where the IP packet is, in bytes from the start of the frame.
    offset: usize,
    /// Its length in bytes.
    length: usize,
    /// DSCP and ECN.
    class: u8,
    /// The number by which it is announced.
    protocol: u8,
}

impl Inner {
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "cut out of the word that packs them"
    )]
    fn of(packet: &impl PacketBuffer) -> Option<Self> {
        let ethernet::Payload { ethertype, offset } = ethernet::payload(packet)?;
        let [first, second] = [packet.read(offset)?, packet.read(offset + 4)?].map(u32::from_be_bytes);
        // First words: version and header length, class, total length; version, class, flow label.
        let (length, class, protocol) = if ethertype == ethertype::IPV4 {
            (first & 0xffff, (first >> 16) as u8, IPV4_INSIDE)
        } else {
            let length = (second >> 16) + ipv6::HEADER_LENGTH as u32;
            (length, (first >> 20) as u8, IPV6_INSIDE)
        };
        Some(Self {
            tags: packet.read(2 * ethernet::ADDRESS_LENGTH)?,
            offset,
            length: length as usize,
            class,
            protocol,
        })
    }
}

/// Writes everything in front of the inner packet.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the packet fits its MTU, which has 16 bits; of the flow's hash any bits do"
)]
fn write(packet: &mut impl PacketBuffer, inner: &Inner, target: &Target, flow: u64) -> Option<()> {
    packet.write(0, target.addresses())?;
    // Where there are no tags, or one, what is too much is written over below.
    packet.write(2 * ethernet::ADDRESS_LENGTH, inner.tags)?;
    let source = target.source();
    let backend = target.backend();
    if backend.is_v4() {
        packet.write(inner.offset - 2, ethertype::IPV4.to_be_bytes())?;
        let length = (inner.length + ipv4::MIN_HEADER_LENGTH) as u16;
        let source = source.v4_bits() | u32::from(flow as u16);
        let header = ipv4::header_words(inner.class, length, inner.protocol, source, backend.v4_bits());
        packet.write_words(inner.offset, header)
    } else {
        packet.write(inner.offset - 2, ethertype::IPV6.to_be_bytes())?;
        let mut source = source.host_words();
        source[3] |= flow as u32;
        // Routers on the way may spread by the label alone (RFC 6438).
        let label = (flow >> 12) as u32 & 0x000f_ffff;
        let length = inner.length as u16;
        let header = ipv6::header_words(
            inner.class,
            label,
            length,
            inner.protocol,
            source,
            backend.host_words(),
        );
        packet.write_words(inner.offset, header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        address::Address,
        headers::ethernet::ethertype,
        layout::{Forwarding, Target},
        packet::ROOM,
        testing::{
            Frame,
            cases::{CLIENT, CLIENT6},
            frame::BALANCER_MAC,
            opened::{Ip, Opened, open},
            tables::{
                ONE, ONE6, TUNNEL_V4_BACKEND, TUNNEL_V4_SOURCE, TUNNEL_V6_BACKEND, TUNNEL_V6_SOURCE, next_hop,
            },
        },
    };
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use proptest::prelude::*;
    use std::vec::Vec;

    const FLOW: u64 = 0x0123_4567_89ab_cdef;
    const NEXT_HOP: [u8; 6] = [2, 0, 0, 0, 0, 7];

    fn target(backend: impl Into<IpAddr>, mtu: u16) -> Target {
        let backend = backend.into();
        let source = if backend.is_ipv4() {
            IpAddr::from(TUNNEL_V4_SOURCE)
        } else {
            TUNNEL_V6_SOURCE.into()
        };
        let hop = crate::layout::NextHop {
            mtu,
            ..next_hop(NEXT_HOP)
        };
        Target::new(
            backend.into(),
            Forwarding::Ipip {
                source: source.into(),
            },
            Some(hop),
        )
    }

    fn v4() -> Target {
        target(TUNNEL_V4_BACKEND, 1500)
    }

    fn v6() -> Target {
        target(TUNNEL_V6_BACKEND, 1500)
    }

    fn wrapped(frame: &[u8], target: &Target) -> Vec<u8> {
        let mut frame = frame.to_vec();
        assert_eq!(wrap(&mut frame, target, FLOW), Ok(()));
        frame
    }

    #[test]
    fn in_ipv4_byte_for_byte() {
        let frame = Frame::new(CLIENT, ONE).class(0xb9).bytes();
        let mut expected = Vec::from([2, 0, 0, 0, 0, 7, 2, 0, 0, 0, 0, 1, 0x08, 0x00]);
        // 60 bytes; don't fragment; hop limit 64, IPv4 inside; 198.18.205.239, of the flow's last 16 bits; 192.0.2.105.
        expected.extend([0x45, 0xb9, 0, 60, 0, 0, 0x40, 0, 64, 4, 0xe3, 0x99]);
        expected.extend([198, 18, 0xcd, 0xef, 192, 0, 2, 105]);
        expected.extend(&frame[14..]);
        assert_eq!(wrapped(&frame, &v4()), expected);
        open(&expected);
    }

    #[test]
    fn in_ipv6_byte_for_byte() {
        let frame = Frame::new(CLIENT6, ONE6).class(0xb9).bytes();
        let mut expected = Vec::from([2, 0, 0, 0, 0, 7, 2, 0, 0, 0, 0, 1, 0x86, 0xdd]);
        // Class b9, label 89abc; 60 bytes, IPv6 inside, hop limit 64.
        expected.extend([0x6b, 0x98, 0x9a, 0xbc, 0, 60, 41, 64]);
        expected.extend([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x89, 0xab, 0xcd, 0xef]);
        expected.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 6]);
        expected.extend(&frame[14..]);
        assert_eq!(wrapped(&frame, &v6()), expected);
    }

    #[test]
    fn what_the_driver_leaves_no_room_for_is_refused() {
        let frame = Frame::new(CLIENT, ONE).payload(&[0; ROOM - 54 - 19]).bytes();
        let target = target(TUNNEL_V4_BACKEND, u16::MAX);
        assert_eq!(wrap(&mut frame.clone(), &target, FLOW), Err(Obstacle::NoHeadroom));
    }

    /// Any frame of a client: family, tags, options, payload, padding.
    fn frames() -> impl Strategy<Value = (Vec<u8>, usize)> {
        let tags = proptest::collection::vec(
            prop_oneof![Just(ethertype::VLAN), Just(ethertype::SERVICE_VLAN)],
            0..=2,
        );
        let payload = proptest::collection::vec(any::<u8>(), 0..1500);
        (any::<bool>(), any::<u8>(), tags, 0usize..=10, payload, 0usize..10).prop_map(
            |(is_v6, class, tags, options, payload, padding)| {
                let frame = if is_v6 {
                    Frame::new(CLIENT6, ONE6)
                } else {
                    Frame::new(CLIENT, ONE).ip_options(&[1; 40][..options * 4])
                };
                let frame = tags.iter().fold(frame, |frame, &tag| frame.tag(tag));
                let frame = frame.class(class).payload(&payload);
                (frame.clone().padding(padding).bytes(), frame.bytes().len())
            },
        )
    }

    proptest! {
        /// Whatever fits comes out as an outer header and exactly the packet that went in. Nothing else fits.
        #[test]
        fn what_fits_is_wrapped_and_nothing_else(
            (frame, whole) in frames(),
            backend in prop_oneof![any::<Ipv4Addr>().prop_map(IpAddr::from), any::<Ipv6Addr>().prop_map(IpAddr::from)],
            mtu: u16,
            flow: u64,
        ) {
            let backend = backend.to_canonical();
            let target = target(backend, mtu);
            let header = if backend.is_ipv4() { 20 } else { 40 };
            let at = ethernet::payload(&frame).unwrap().offset;
            let inner = &frame[at..whole];
            let mut after = frame.clone();
            let result = wrap(&mut after, &target, flow);
            prop_assert_eq!(inner_mtu(&target), mtu.saturating_sub(header));
            if inner.len() + usize::from(header) > usize::from(mtu) {
                prop_assert_eq!((result, after), (Err(Obstacle::TooBig), frame));
                return Ok(());
            }
            prop_assert_eq!(result, Ok(()));
            let Opened { macs, tags, ip, content, trailer } = open(&after);
            prop_assert_eq!(macs, [NEXT_HOP, BALANCER_MAC]);
            prop_assert_eq!(tags.concat(), &frame[12..at - 2]);
            prop_assert_eq!(content, inner);
            prop_assert_eq!(trailer, []);
            let is_v6_inside = inner[0] >> 4 == 6;
            let class = if is_v6_inside { inner[0] << 4 | inner[1] >> 4 } else { inner[1] };
            let low = flow.to_be_bytes();
            let expected = Ip {
                source: if backend.is_ipv4() {
                    IpAddr::from([198, 18, low[6], low[7]])
                } else {
                    IpAddr::from([0x100, 0, 0, 0, 0, 0, u16::from_be_bytes([low[4], low[5]]), u16::from_be_bytes([low[6], low[7]])])
                },
                destination: backend,
                class,
                hop_limit: 64,
                protocol: if is_v6_inside { 41 } else { 4 },
                fragment: if backend.is_ipv4() { [0, 0x4000] } else { [0; 2] },
                label: if backend.is_ipv4() { 0 } else { u32::try_from(flow >> 12 & 0xf_ffff).unwrap() },
            };
            prop_assert_eq!(ip, expected);
        }

        /// A backend's receive queues get flows by the outer source: neighbouring flows have different ones.
        #[test]
        fn flows_have_sources_of_their_own(one: u64, other: u64) {
            let source = |flow| {
                let mut frame = Frame::new(CLIENT, ONE).bytes();
                wrap(&mut frame, &v4(), flow).unwrap();
                open(&frame).ip.source
            };
            prop_assert_eq!(source(one) == source(other), one & 0xffff == other & 0xffff);
            prop_assert_eq!(Address::from(source(one)).v4_bits() >> 16, 0xc612);
        }
    }
}
