//! The answer to a packet that does not fit the way to its backend: how long one may be.
//!
//! ICMP "fragmentation needed" (RFC 792, RFC 1191) or `ICMPv6` "packet too big" (RFC 4443), from the VIP to the client, out of the
//! interface that the packet came in on. IPv4 packets that may be fragmented get the same answer as those that may not: the
//! program cannot fragment, TCP senders set "don't fragment" anyhow, and one that does not still learns how long a segment
//! may be.

use crate::{
    headers::{
        checksum::Sum,
        ethernet::{self, ethertype},
        icmp::{self, kind},
        ipv4, ipv6,
    },
    packet::PacketBuffer,
};

/// How much of the packet an answer quotes at most, in bytes: the answer then has the 576 bytes of RFC 1812, 4.3.2.3.
const QUOTE_V4: usize = 576 - ipv4::MIN_HEADER_LENGTH - icmp::HEADER_LENGTH;
/// The same for IPv6: the answer then has the 1280 bytes of RFC 4443, 3.2.
const QUOTE_V6: usize = 1280 - ipv6::HEADER_LENGTH - icmp::HEADER_LENGTH;

/// Type and code of "fragmentation needed": code 4 of "destination unreachable".
const FRAGMENTATION_NEEDED: u32 = (kind::UNREACHABLE as u32) << 24 | 4 << 16;
/// Type and code of "packet too big".
const PACKET_TOO_BIG: u32 = (kind::PACKET_TOO_BIG_V6 as u32) << 24;

/// Makes of a packet the answer that it is too big, and that `limit` is the longest that would fit, in bytes. It leaves on the
/// interface on which the packet came in.
///
/// `None` when it must have no answer (RFC 1122, 3.2.2; RFC 4443, 2.4), because its sender's address is not that of one host, and when
/// what is to be quoted cannot be read. The frame may have been changed then.
#[inline(always)]
#[must_use]
pub fn packet_too_big(packet: &mut impl PacketBuffer, limit: u16) -> Option<()> {
    let ethernet::Payload { ethertype, offset } = ethernet::payload(packet)?;
    match ethertype {
        ethertype::IPV4 => answer_v4(packet, offset, limit),
        ethertype::IPV6 => answer_v6(packet, offset, limit),
        _ => None,
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "an answer is short")]
fn answer_v4(packet: &mut impl PacketBuffer, offset: usize, limit: u16) -> Option<()> {
    /// Internetwork control, as RFC 1812, 4.3.2.5 wants it for answers of routers.
    const CLASS: u8 = 0xc0;
    const ADDED: usize = ipv4::MIN_HEADER_LENGTH + icmp::HEADER_LENGTH;
    let ip = packet.read(offset).map(ipv4::Header::new)?;
    if !ip.source().is_one_host() {
        return None;
    }
    let (client, vip) = (ip.source().v4_bits(), ip.destination().v4_bits());
    let quote = quoted(ip.total_length(), QUOTE_V4);
    let sum = cut_and_sum::<QUOTE_V4>(packet, offset, quote)?;
    turn_around(packet, offset, ADDED)?;
    let header = ipv4::header_words(CLASS, (ADDED + quote) as u16, icmp::PROTOCOL, vip, client);
    packet.write_words(offset, header)?;
    let icmp = icmp_header(FRAGMENTATION_NEEDED, limit, sum);
    packet.write_words(offset + ipv4::MIN_HEADER_LENGTH, icmp)?;
    in_reach(packet, offset + ADDED + quote)
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "an answer is short")]
fn answer_v6(packet: &mut impl PacketBuffer, offset: usize, limit: u16) -> Option<()> {
    const ADDED: usize = ipv6::HEADER_LENGTH + icmp::HEADER_LENGTH;
    let ip = packet.read(offset).map(ipv6::Header::new)?;
    let (client, vip) = (ip.source(), ip.destination());
    if !client.is_one_host() {
        return None;
    }
    let quote = quoted(ip.payload_length() + ipv6::HEADER_LENGTH, QUOTE_V6);
    let sum = cut_and_sum::<QUOTE_V6>(packet, offset, quote)?;
    let length = (icmp::HEADER_LENGTH + quote) as u16;
    turn_around(packet, offset, ADDED)?;
    let header = ipv6::header_words(
        0,
        0,
        length,
        icmp::PROTOCOL_V6,
        vip.host_words(),
        client.host_words(),
    );
    packet.write_words(offset, header)?;
    // The pseudo header (RFC 8200, 8.1): both addresses, length, protocol.
    let sum = sum
        .plus_address(vip)
        .plus_address(client)
        .plus(u32::from(length))
        .plus(u32::from(icmp::PROTOCOL_V6));
    let icmp = icmp_header(PACKET_TOO_BIG, limit, sum);
    packet.write_words(offset + ipv6::HEADER_LENGTH, icmp)?;
    in_reach(packet, offset + ADDED + quote)
}

/// Whether the first `length` bytes could all be read. Else some of the quote is in fragments, because the driver puts
/// little more than headers elsewhere, and was not summed up.
///
/// Asked last: the compiler would take it for a proof of reads that follow, and leave out what proves them to the verifier.
#[inline(always)]
fn in_reach(packet: &impl PacketBuffer, length: usize) -> Option<()> {
    packet.read::<0>(length).map(|_| ())
}

/// The header of the answer, given its type and code in a word, and the sum of all that it covers besides.
#[inline(always)]
const fn icmp_header(kind: u32, limit: u16, sum: Sum) -> [u32; 2] {
    let checksum = sum.plus(kind).plus(limit as u32).checksum();
    [kind | checksum as u32, limit as u32]
}

/// How much of a packet is quoted: as much as there is and fits, in whole words, so that it can be summed in words.
#[inline(always)]
const fn quoted(length: usize, most: usize) -> usize {
    let quote = if length < most { length } else { most };
    quote & !3
}

/// Cuts the frame off behind what is quoted of its packet, and sums that up.
#[inline(always)]
fn cut_and_sum<const MOST: usize>(
    packet: &mut impl PacketBuffer,
    offset: usize,
    quote: usize,
) -> Option<Sum> {
    packet.set_length(offset + quote)?;
    let mut sum = Sum::ZERO;
    for word in 0..MOST / 4 {
        // Ends with the frame, not by comparing with `quote`, of which the verifier would then follow every value.
        let Some(bytes) = packet.read(offset + word * 4) else {
            break;
        };
        sum = sum.plus(u32::from_be_bytes(bytes));
    }
    Some(sum)
}

/// Sends the frame back to where it came from, with room for `added` bytes before what is at `offset`. Tags stay.
#[inline(always)]
fn turn_around(packet: &mut impl PacketBuffer, offset: usize, added: usize) -> Option<()> {
    let destination: [u8; ethernet::ADDRESS_LENGTH] = packet.read(0)?;
    let source: [u8; ethernet::ADDRESS_LENGTH] = packet.read(ethernet::ADDRESS_LENGTH)?;
    let tags: [u8; 2 * ethernet::VLAN_TAG_LENGTH] = packet.read(2 * ethernet::ADDRESS_LENGTH)?;
    let ethertype: [u8; 2] = packet.read(offset - 2)?;
    packet.grow_front(added)?;
    packet.write(0, source)?;
    packet.write(ethernet::ADDRESS_LENGTH, destination)?;
    // What is too much, with fewer than two tags, is written over: by the type here, and by the header that follows.
    packet.write(2 * ethernet::ADDRESS_LENGTH, tags)?;
    packet.write(offset - 2, ethertype)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        headers::ethernet::ethertype,
        testing::{
            Frame,
            cases::{CLIENT, CLIENT6},
            frame::{BALANCER_MAC, CLIENT_MAC, internet_checksum},
            opened::{Ip, checksum_v6, open},
            tables::{ONE, ONE6},
        },
    };
    use core::net::SocketAddr;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn answer(frame: &[u8], limit: u16) -> Option<Vec<u8>> {
        let mut frame = frame.to_vec();
        packet_too_big(&mut frame, limit).map(|()| frame)
    }

    /// Compares an answer with what it must be; `packet` is the IP packet that it is about.
    fn check(answer: &[u8], packet: &[u8], limit: u16, tags: &[u8]) {
        let opened = open(answer);
        assert_eq!(opened.macs, [CLIENT_MAC, BALANCER_MAC]);
        assert_eq!(opened.tags.concat(), tags);
        assert!(opened.trailer.is_empty());
        let is_v6 = packet[0] >> 4 == 6;
        let (client, vip, class, protocol, fragment) = if is_v6 {
            (CLIENT6.ip(), ONE6.ip(), 0, 58, [0; 2])
        } else {
            (CLIENT.ip(), ONE.ip(), 0xc0, 1, [0, 0x4000])
        };
        let expected = Ip {
            source: vip,
            destination: client,
            class,
            hop_limit: 64,
            protocol,
            fragment,
            label: 0,
        };
        assert_eq!(opened.ip, expected);
        let (icmp, quote) = opened.content.split_at(8);
        let [high, low] = limit.to_be_bytes();
        if is_v6 {
            assert_eq!((icmp[0], icmp[1], &icmp[4..]), (2, 0, &[0, 0, high, low][..]));
            assert_eq!(checksum_v6(&opened), 0);
        } else {
            assert_eq!((icmp[0], icmp[1], &icmp[4..]), (3, 4, &[0, 0, high, low][..]));
            assert_eq!(internet_checksum(0, &opened.content), 0);
        }
        let most = if is_v6 { 1280 - 48 } else { 576 - 28 };
        assert_eq!(quote, &packet[..packet.len().min(most) & !3]);
    }

    #[test]
    fn who_is_no_single_host_gets_no_answer() {
        let v4 = [
            [0, 0, 0, 0],
            [0, 1, 2, 3],
            [127, 0, 0, 1],
            [224, 0, 0, 1],
            [240, 0, 0, 1],
            [255; 4],
        ];
        let v6 = [[0; 8], [0, 0, 0, 0, 0, 0, 0, 1], [0xff02, 0, 0, 0, 0, 0, 0, 1]];
        let senders = v4
            .map(|address| (SocketAddr::from((address, 40000)), ONE))
            .into_iter()
            .chain(v6.map(|address| (SocketAddr::from((address, 40000)), ONE6)));
        for (sender, service) in senders {
            assert_eq!(
                answer(&Frame::new(sender, service).bytes(), 1480),
                None,
                "{sender}"
            );
        }
        assert_eq!(
            answer(&Frame::new(CLIENT, ONE).ethertype(0x0806).bytes(), 1480),
            None
        );
    }

    proptest! {
        #[test]
        fn answers_are_valid_and_quote_what_they_are_about(
            is_v6: bool,
            tags in proptest::collection::vec(prop_oneof![Just(ethertype::VLAN), Just(ethertype::SERVICE_VLAN)], 0..=2),
            options in 0usize..=10,
            payload in proptest::collection::vec(any::<u8>(), 0..1500),
            padding in 0usize..10,
            limit: u16,
        ) {
            let frame = if is_v6 {
                Frame::new(CLIENT6, ONE6)
            } else {
                Frame::new(CLIENT, ONE).ip_options(&[1; 40][..options * 4])
            };
            let frame = tags.iter().fold(frame, |frame, &tag| frame.tag(tag)).payload(&payload);
            let whole = frame.bytes();
            let at = 14 + tags.len() * 4;
            let answer = answer(&frame.padding(padding).bytes(), limit).expect("a client is a host");
            check(&answer, &whole[at..], limit, &whole[12..at - 2]);
        }
    }
}
