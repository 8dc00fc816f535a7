//! The answer to a segment that nobody can take: a TCP reset, so that its sender fails at once instead of waiting.

use crate::{
    headers::{
        Parsed,
        checksum::Sum,
        ethernet::{self, ethertype},
        ipv4, ipv6, parse,
        tcp::{self, Flags},
    },
    packet::PacketBuffer,
};

/// The hop limit of answers: the default of IANA's registry of IP parameters.
const HOP_LIMIT: u32 = 64;
/// The protocol number as the words below take it.
const PROTOCOL: u32 = tcp::PROTOCOL as u32;
/// The length of the answer's TCP header as the words below take it.
#[expect(clippy::cast_possible_truncation, reason = "20")]
const TCP_LENGTH: u32 = tcp::MIN_HEADER_LENGTH as u32;

/// Makes of a frame with a TCP segment an RST back to its sender, as a host without that connection answers (RFC 9293,
/// 3.10.7.1). It leaves on the interface on which the frame came in.
///
/// VLAN tags stay, IP and TCP options go, and the frame becomes exactly as long as its headers. An answer is never longer
/// than what it answers, so nobody can use it to multiply a flood.
///
/// Returns `None`, and changes nothing, for what must not be answered: an RST, what has no single host as its sender
/// (RFC 1122, 3.2.1.3), and what is no segment. The segment's checksum is not looked at: damaged numbers make an answer
/// that its receiver ignores.
#[inline(always)]
#[must_use]
pub fn reset(packet: &mut (impl PacketBuffer + ?Sized)) -> Option<()> {
    let Parsed::Segment(segment) = parse(packet) else {
        return None;
    };
    if segment.flags.resets() || !segment.client.is_one_host() {
        return None;
    }
    let ethernet::Payload { ethertype, offset } = ethernet::payload(packet)?;
    if ethertype == ethertype::IPV6 {
        reset_ipv6(packet, offset)
    } else {
        reset_ipv4(packet, offset)
    }
}

#[inline(always)]
fn reset_ipv4(packet: &mut (impl PacketBuffer + ?Sized), offset: usize) -> Option<()> {
    const VERSION_AND_LENGTH: u32 = 0x4500_0000;
    #[expect(clippy::cast_possible_truncation, reason = "40")]
    const TOTAL_LENGTH: u32 = ipv4::MIN_HEADER_LENGTH as u32 + TCP_LENGTH;
    const DO_NOT_FRAGMENT: u32 = 0x4000;
    let ip = packet.read(offset).map(ipv4::Header::new)?;
    let header_length = ip.header_length();
    let tcp = packet.read(offset + header_length).map(tcp::Header::new)?;
    let length = ip.total_length().checked_sub(header_length)?;
    let [client, vip] = [ip.source().v4_bits(), ip.destination().v4_bits()];
    let answer = Answer::to(&tcp, length);

    turn_around(packet, offset + ipv4::MIN_HEADER_LENGTH + tcp::MIN_HEADER_LENGTH)?;
    // Unfragmented, and never to be fragmented: the identification says nothing and may be 0 (RFC 6864, 4.1).
    let lifetime_and_protocol = HOP_LIMIT << 24 | PROTOCOL << 16;
    let header = [
        VERSION_AND_LENGTH | TOTAL_LENGTH,
        DO_NOT_FRAGMENT,
        lifetime_and_protocol,
        vip,
        client,
    ];
    let checksum = sum(Sum::ZERO, header).checksum();
    let [first, second, third, fourth, fifth] = header;
    let header = [first, second, third | u32::from(checksum), fourth, fifth];
    write(packet, offset, header)?;
    answer.write(
        packet,
        offset + ipv4::MIN_HEADER_LENGTH,
        sum(Sum::ZERO, [vip, client]),
    )
}

#[inline(always)]
fn reset_ipv6(packet: &mut (impl PacketBuffer + ?Sized), offset: usize) -> Option<()> {
    const VERSION: u32 = 0x6000_0000;
    let ip = packet.read(offset).map(ipv6::Header::new)?;
    let tcp = packet.read(offset + ipv6::HEADER_LENGTH).map(tcp::Header::new)?;
    let [client, vip] = [ip.source(), ip.destination()].map(|address| address.words().map(u32::from_be));
    let answer = Answer::to(&tcp, ip.payload_length());

    turn_around(packet, offset + ipv6::HEADER_LENGTH + tcp::MIN_HEADER_LENGTH)?;
    let length_and_protocol = TCP_LENGTH << 16 | PROTOCOL << 8 | HOP_LIMIT;
    write(packet, offset, [VERSION, length_and_protocol])?;
    write(packet, offset + 8, vip)?;
    write(packet, offset + 24, client)?;
    answer.write(
        packet,
        offset + ipv6::HEADER_LENGTH,
        sum(sum(Sum::ZERO, vip), client),
    )
}

/// What an RST says besides who sends it.
struct Answer {
    /// Our port, then the sender's.
    ports: u32,
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
}

impl Answer {
    /// The answer to a segment whose header and payload have `length` bytes.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "an IP packet is shorter than 2^16 bytes"
    )]
    fn to(segment: &tcp::Header, length: usize) -> Self {
        let flags = segment.flags();
        let ports = u32::from(segment.destination_port()) << 16 | u32::from(segment.source_port());
        if flags.acknowledges() {
            // The number that the sender expects next, which proves that the answer is to this segment.
            return Self {
                ports,
                sequence: segment.acknowledgement(),
                acknowledgement: 0,
                flags: Flags::RST,
            };
        }
        // The sender has said nothing of our numbers; what it sent is acknowledged instead. SYN and FIN take a number each.
        let payload = length.saturating_sub(segment.header_length()) as u32;
        let taken = payload + u32::from(flags.synchronises()) + u32::from(flags.finishes());
        Self {
            ports,
            sequence: 0,
            acknowledgement: segment.sequence().wrapping_add(taken),
            flags: Flags::RST | Flags::ACK,
        }
    }

    /// Writes the TCP header. `addresses` is the sum of both parties' addresses, for the checksum's pseudo header.
    #[inline(always)]
    fn write(&self, packet: &mut (impl PacketBuffer + ?Sized), offset: usize, addresses: Sum) -> Option<()> {
        let header = [
            self.ports,
            self.sequence,
            self.acknowledgement,
            (TCP_LENGTH / 4) << 28 | u32::from(self.flags) << 16,
        ];
        let pseudo = addresses.plus(PROTOCOL).plus(TCP_LENGTH);
        let checksum = sum(pseudo, header).checksum();
        write(packet, offset, header)?;
        write(packet, offset + 16, [u32::from(checksum) << 16])
    }
}

/// Sends the frame back to where it came from, and cuts it to this length.
#[inline(always)]
fn turn_around(packet: &mut (impl PacketBuffer + ?Sized), length: usize) -> Option<()> {
    let [destination, source]: [[u8; 6]; 2] = [packet.read(0)?, packet.read(6)?];
    packet.set_length(length)?;
    packet.write(0, source)?;
    packet.write(6, destination)
}

/// Adds words.
#[inline(always)]
fn sum<const N: usize>(start: Sum, words: [u32; N]) -> Sum {
    words.into_iter().fold(start, Sum::plus)
}

/// Writes words in network byte order.
#[inline(always)]
fn write<const N: usize>(
    packet: &mut (impl PacketBuffer + ?Sized),
    offset: usize,
    words: [u32; N],
) -> Option<()> {
    for (index, word) in words.into_iter().enumerate() {
        packet.write(offset + index * 4, word.to_be_bytes())?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, SocketAddr};
    use proptest::prelude::*;
    use std::vec::Vec;

    use super::*;
    use crate::{
        headers::{Segment, ethernet::ethertype},
        testing::{
            Frame,
            cases::{CLIENT, CLIENT6},
            frame::{BALANCER_MAC, CLIENT_MAC, internet_checksum, sum_of_words},
            tables::{ONE, ONE6},
        },
    };

    fn answered(frame: &Frame) -> Option<Vec<u8>> {
        let mut packet = frame.bytes();
        let before = packet.clone();
        if reset(&mut packet).is_none() {
            assert_eq!(packet, before, "what is not answered stays as it is");
            return None;
        }
        Some(packet)
    }

    /// Sequence number, acknowledgement number and control bits of the answer over IPv4.
    fn numbers(frame: &Frame) -> (u32, u32, u8) {
        let answer = answered(frame).unwrap();
        let tcp = tcp::Header::new(
            answer.as_slice().first_chunk::<54>().unwrap()[34..]
                .try_into()
                .unwrap(),
        );
        (tcp.sequence(), tcp.acknowledgement(), answer[47])
    }

    #[test]
    fn numbers_are_those_of_the_rfc() {
        let segment = || Frame::new(CLIENT, ONE).sequence(1000).acknowledgement(2000);
        let both = Flags::RST | Flags::ACK;
        let cases = [
            (segment().flags(Flags::SYN), (0, 1001, both)),
            (segment().flags(Flags::SYN).payload(b"early"), (0, 1006, both)),
            (segment().flags(Flags::FIN).payload(b"late"), (0, 1005, both)),
            (segment().flags(Flags::SYN | Flags::FIN), (0, 1002, both)),
            (segment().flags(0).tcp_options(&[1; 12]), (0, 1000, both)),
            (segment().flags(Flags::SYN).sequence(u32::MAX), (0, 0, both)),
            (segment().flags(Flags::ACK), (2000, 0, Flags::RST)),
            (segment().flags(Flags::SYN | Flags::ACK), (2000, 0, Flags::RST)),
            (
                segment().flags(Flags::FIN | Flags::ACK).payload(b"bye"),
                (2000, 0, Flags::RST),
            ),
            // Padding behind the packet is no payload.
            (segment().flags(Flags::SYN).padding(6), (0, 1001, both)),
        ];
        for (frame, expected) in cases {
            assert_eq!(numbers(&frame), expected, "{frame:?}");
        }
    }

    #[test]
    fn an_answer_to_a_syn_is_known_to_the_byte() {
        let frame = Frame::new(CLIENT, ONE)
            .flags(Flags::SYN)
            .tcp_options(&[2, 4, 5, 0xb4])
            .ip_options(&[1; 4]);
        #[rustfmt::skip]
        let expected = [
            0x02, 0, 0, 0, 0, 0x99, 0x02, 0, 0, 0, 0, 0x01, 0x08, 0x00,
            0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0x4e, 0x8b, 192, 0, 2, 10, 198, 51, 100, 7,
            0x52, 0x3a, 0x9c, 0x40, 0, 0, 0, 0, 0, 0, 0x03, 0xe9, 0x50, 0x14, 0, 0, 0xd1, 0x27, 0, 0,
        ];
        assert_eq!(answered(&frame).unwrap(), expected);
    }

    #[test]
    fn a_reset_is_not_answered() {
        for (client, service) in [(CLIENT, ONE), (CLIENT6, ONE6)] {
            for flags in [Flags::RST, Flags::RST | Flags::ACK, Flags::RST | Flags::SYN] {
                assert_eq!(answered(&Frame::new(client, service).flags(flags)), None);
            }
        }
    }

    #[test]
    fn nobody_and_everybody_are_not_answered() {
        for client in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"] {
            let client = SocketAddr::new(client.parse::<IpAddr>().unwrap(), 40000);
            assert_eq!(
                answered(&Frame::new(client, ONE).flags(Flags::SYN)),
                None,
                "{client}"
            );
        }
        for client in ["::", "::1", "ff02::1"] {
            let client = SocketAddr::new(client.parse::<IpAddr>().unwrap(), 40000);
            assert_eq!(
                answered(&Frame::new(client, ONE6).flags(Flags::SYN)),
                None,
                "{client}"
            );
        }
    }

    #[test]
    fn what_is_no_segment_is_not_answered() {
        assert_eq!(answered(&Frame::new(CLIENT, ONE).protocol(17)), None);
        assert_eq!(answered(&Frame::new(CLIENT, ONE).fragment(0x2000)), None);
        assert_eq!(answered(&Frame::new(CLIENT, ONE).data_offset(6)), None);
    }

    proptest! {
        /// Whatever is answered, the answer is a well-formed RST from the service to the client.
        #[test]
        fn answers_are_well_formed(
            port: u16,
            flags: u8,
            sequence: u32,
            acknowledgement: u32,
            payload in proptest::collection::vec(any::<u8>(), 0..100),
            tags in 0usize..=2,
            ip_options in 0usize..=10,
            tcp_options in 0usize..=10,
            padding in 0usize..10,
            v6: bool,
        ) {
            let (client, service) = if v6 { (CLIENT6, ONE6) } else { (CLIENT, ONE) };
            let client = SocketAddr::new(client.ip(), port);
            let mut frame = Frame::new(client, service)
                .flags(flags)
                .sequence(sequence)
                .acknowledgement(acknowledgement)
                .tcp_options(&[1; 40][..tcp_options * 4])
                .payload(&payload)
                .padding(padding);
            if !v6 {
                frame = frame.ip_options(&[1; 40][..ip_options * 4]);
            }
            for _ in 0..tags {
                frame = frame.tag(ethertype::VLAN);
            }
            let Some(answer) = answered(&frame) else {
                prop_assert!(flags & Flags::RST != 0);
                return Ok(());
            };
            prop_assert_eq!(&answer[..6], CLIENT_MAC);
            prop_assert_eq!(&answer[6..12], BALANCER_MAC);
            prop_assert_eq!(&answer[12..14 + 4 * tags], &frame.bytes()[12..14 + 4 * tags]);
            let Parsed::Segment(Segment { client: from, client_port, vip: to, port: to_port, flags: control, .. }) =
                parse(answer.as_slice())
            else {
                return Err(TestCaseError::fail("no segment"));
            };
            prop_assert_eq!((IpAddr::from(from), client_port), (service.ip(), service.port()));
            prop_assert_eq!((IpAddr::from(to), to_port), (client.ip(), client.port()));
            prop_assert!(control.resets() && !control.synchronises() && !control.finishes());
            let (ip, header) = (&answer[14 + 4 * tags..], if v6 { 40 } else { 20 });
            prop_assert_eq!(ip.len(), header + 20);
            let (addresses, hops) = if v6 {
                (&ip[8..40], ip[7])
            } else {
                // Over a header with its checksum the sum is complete.
                prop_assert_eq!(internet_checksum(0, &ip[..20]), 0);
                (&ip[12..20], ip[8])
            };
            prop_assert_eq!(hops, 64);
            prop_assert_eq!(internet_checksum(sum_of_words(addresses) + 6 + 20, &ip[header..]), 0);
        }

        /// Noise in the shape of a frame is answered well or not at all, and never grows.
        #[test]
        fn noise_does_not_grow(
            damage in proptest::collection::vec((0usize..100, any::<u8>()), 0..6),
            length in 14usize..120,
            v6: bool,
        ) {
            let (client, service) = if v6 { (CLIENT6, ONE6) } else { (CLIENT, ONE) };
            let mut packet = Frame::new(client, service).payload(&[7; 46]).bytes();
            for (offset, value) in damage {
                packet[offset] = value;
            }
            packet.truncate(length);
            let before = packet.len();
            if reset(&mut packet).is_some() {
                prop_assert!(packet.len() <= before);
                prop_assert!(matches!(parse(&packet), Parsed::Segment(segment) if segment.flags.resets()));
            }
        }
    }
}
