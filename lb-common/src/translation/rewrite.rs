//! The bytes that translation changes: addresses, ports, the hop limit, and what of it is in checksums.

use crate::{
    address::Address,
    headers::{
        Segment,
        ethernet::{self, ethertype},
        icmp, ipv4, ipv6, tcp,
    },
    packet::{Packet, PacketMut},
};

/// Where the checksum stands in a TCP header.
const CHECKSUM: usize = 16;

/// Where the headers of a frame with a TCP segment are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The IP header, in bytes from the start of the frame.
    ip: usize,
    /// The TCP header, in bytes from the start of the frame.
    tcp: usize,
    is_v4: bool,
}

/// Who sends and who receives. Ports are in host byte order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Endpoints {
    pub(super) source: Address,
    pub(super) source_port: u16,
    pub(super) destination: Address,
    pub(super) destination_port: u16,
}

impl Endpoints {
    /// Those of a segment.
    #[inline(always)]
    pub(super) const fn of(segment: &Segment) -> Self {
        Self {
            source: segment.client,
            source_port: segment.client_port,
            destination: segment.vip,
            destination_port: segment.port,
        }
    }

    /// Both ports, as on the wire.
    #[inline(always)]
    const fn ports(&self) -> u32 {
        ((self.source_port as u32) << 16 | self.destination_port as u32).to_be()
    }
}

impl Place {
    /// Reads a frame again in which [`parse`](crate::headers::parse) has found a segment: what it has checked is not checked
    /// anew.
    #[inline(always)]
    pub(super) fn find<P: Packet + ?Sized>(packet: &P) -> Option<(Self, Segment)> {
        let ethernet::Payload { ethertype, offset } = ethernet::payload(packet)?;
        let is_v4 = ethertype != ethertype::IPV6;
        let (client, vip, length) = if is_v4 {
            let ip = packet.read(offset).map(ipv4::Header::new)?;
            (ip.source(), ip.destination(), ip.header_length())
        } else {
            let ip = packet.read(offset).map(ipv6::Header::new)?;
            (ip.source(), ip.destination(), ipv6::HEADER_LENGTH)
        };
        let place = Self {
            ip: P::forget(offset),
            tcp: P::forget(offset + length),
            is_v4,
        };
        let tcp = packet.read(offset + length).map(tcp::Header::new)?;
        let segment = Segment {
            client,
            client_port: tcp.source_port(),
            vip,
            port: tcp.destination_port(),
            flags: tcp.flags(),
            sequence: tcp.sequence(),
        };
        Some((place, segment))
    }

    /// Whether a router may not forward the packet any more: its hop limit, or time to live, is used up.
    #[inline(always)]
    pub(super) fn has_expired(&self, packet: &(impl Packet + ?Sized)) -> bool {
        has_expired(packet, self.ip, self.is_v4)
    }
}

/// Whether the packet whose IP header is at `ip` may not be forwarded any more.
#[inline(always)]
fn has_expired(packet: &(impl Packet + ?Sized), ip: usize, is_v4: bool) -> bool {
    let offset = if is_v4 { ip + 8 } else { ip + 7 };
    match packet.read(offset) {
        Some([hops]) => hops <= 1,
        None => true,
    }
}

/// Replaces the endpoints of a packet and takes one from its hop limit, which must be above 1. All addresses are of the packet's
/// family.
///
/// `None` when the frame ends before its headers do, which no frame that was parsed does.
#[inline(always)]
#[must_use]
pub(super) fn rewrite(
    packet: &mut (impl PacketMut + ?Sized),
    place: &Place,
    before: &Endpoints,
    after: &Endpoints,
) -> Option<()> {
    let addresses = if place.is_v4 {
        rewrite_ipv4(packet, place.ip, before, after)?
    } else {
        rewrite_ipv6(packet, place.ip, before, after)?
    };
    packet.write(place.tcp, after.ports().to_ne_bytes())?;
    let segment = addresses.replaced(before.ports(), after.ports());
    replace_checksum(packet, place.tcp + CHECKSUM, segment)?;
    Some(())
}

/// Returns what the new addresses change in checksums over them.
#[inline(always)]
fn rewrite_ipv4(
    packet: &mut (impl PacketMut + ?Sized),
    ip: usize,
    before: &Endpoints,
    after: &Endpoints,
) -> Option<Update> {
    let word = |address: Address| address.v4_bits().to_be();
    let (source, destination) = (word(after.source), word(after.destination));
    let addresses = Update::NOTHING
        .replaced(word(before.source), source)
        .replaced(word(before.destination), destination);
    packet.write(ip + 12, source.to_ne_bytes())?;
    packet.write(ip + 16, destination.to_ne_bytes())?;
    let lifetime = decrement_ipv4(packet, ip)?;
    replace_checksum(packet, ip + 10, addresses.and(lifetime))?;
    Some(addresses)
}

/// Takes one from the time to live of an IPv4 header. Returns what that changes in the header's checksum.
#[inline(always)]
fn decrement_ipv4(packet: &mut (impl PacketMut + ?Sized), ip: usize) -> Option<Update> {
    // With the protocol, since the checksum is over words of 16 bits.
    let [hops, protocol] = packet.read(ip + 8)?;
    let old = u16::from_ne_bytes([hops, protocol]);
    let new = u16::from_ne_bytes([hops.wrapping_sub(1), protocol]);
    packet.write(ip + 8, new.to_ne_bytes())?;
    Some(Update::NOTHING.replaced(old.into(), new.into()))
}

/// Brings a checksum up to date. Returns what that changes in checksums over it.
#[inline(always)]
fn replace_checksum(packet: &mut (impl PacketMut + ?Sized), offset: usize, update: Update) -> Option<Update> {
    let old = u16::from_ne_bytes(packet.read(offset)?);
    let new = update.applied_to(old);
    packet.write(offset, new.to_ne_bytes())?;
    Some(Update::NOTHING.replaced(old.into(), new.into()))
}

/// Returns what the new addresses change in checksums over them. The header itself has none.
#[inline(always)]
fn rewrite_ipv6(
    packet: &mut (impl PacketMut + ?Sized),
    ip: usize,
    before: &Endpoints,
    after: &Endpoints,
) -> Option<Update> {
    let [hops] = packet.read(ip + 7)?;
    packet.write(ip + 7, [hops.wrapping_sub(1)])?;
    let source = replace_ipv6(packet, ip + 8, before.source, after.source, Update::NOTHING)?;
    replace_ipv6(packet, ip + 24, before.destination, after.destination, source)
}

#[inline(always)]
fn replace_ipv6(
    packet: &mut (impl PacketMut + ?Sized),
    offset: usize,
    before: Address,
    after: Address,
    update: Update,
) -> Option<Update> {
    let (old, new) = (before.words(), after.words());
    packet.write(offset, new[0].to_ne_bytes())?;
    packet.write(offset + 4, new[1].to_ne_bytes())?;
    packet.write(offset + 8, new[2].to_ne_bytes())?;
    packet.write(offset + 12, new[3].to_ne_bytes())?;
    let update = update.replaced(old[0], new[0]).replaced(old[1], new[1]);
    Some(update.replaced(old[2], new[2]).replaced(old[3], new[3]))
}

/// Where an ICMP error, and the segment that it quotes, stand in a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct ErrorPlace {
    /// The error's own IP header, in bytes from the start of the frame.
    ip: usize,
    /// The ICMP header.
    icmp: usize,
    /// The quoted IP header.
    quoted_ip: usize,
    /// The quoted TCP header.
    quoted_tcp: usize,
    /// Whether the quotation is so long that it has the segment's checksum.
    has_checksum: bool,
    is_v4: bool,
}

impl ErrorPlace {
    /// Reads a frame again in which [`quoted`](crate::headers::icmp::quoted) has found a segment: what it has checked is not
    /// checked anew.
    #[inline(always)]
    pub(super) fn find<P: Packet + ?Sized>(packet: &P) -> Option<Self> {
        let ethernet::Payload { ethertype, offset } = ethernet::payload(packet)?;
        let is_v4 = ethertype != ethertype::IPV6;
        let (icmp, end) = if is_v4 {
            let ip = packet.read(offset).map(ipv4::Header::new)?;
            (offset + ip.header_length(), offset + ip.total_length())
        } else {
            let ip = packet.read(offset).map(ipv6::Header::new)?;
            let icmp = offset + ipv6::HEADER_LENGTH;
            (icmp, icmp + ip.payload_length())
        };
        let quoted_ip = icmp + icmp::HEADER_LENGTH;
        let quoted_tcp = if is_v4 {
            quoted_ip + packet.read(quoted_ip).map(ipv4::Header::new)?.header_length()
        } else {
            quoted_ip + ipv6::HEADER_LENGTH
        };
        Some(Self {
            ip: P::forget(offset),
            icmp: P::forget(icmp),
            quoted_ip: P::forget(quoted_ip),
            quoted_tcp: P::forget(quoted_tcp),
            has_checksum: quoted_tcp + CHECKSUM + 2 <= end,
            is_v4,
        })
    }

    /// As [`Place::has_expired`].
    #[inline(always)]
    pub(super) fn has_expired(&self, packet: &(impl Packet + ?Sized)) -> bool {
        has_expired(packet, self.ip, self.is_v4)
    }
}

/// Makes of an ICMP error from a router to the VIP, which quotes a segment from the VIP to somebody, an error from the VIP to
/// `sender`, which quotes a segment from there to the VIP. Takes one from the error's hop limit, which must be above 1.
///
/// `ports` are those that the quoted segment gets: its sender's, and the VIP's. The quoted checksums are kept true as well, as far
/// as they are quoted: some receivers look at them.
///
/// `None` when the frame ends before what was found in it.
#[inline(always)]
#[must_use]
pub(super) fn rewrite_error(
    packet: &mut (impl PacketMut + ?Sized),
    place: &ErrorPlace,
    sender: &Address,
    ports: (u16, u16),
) -> Option<()> {
    // What changes in the quoted segment, and in the message with its pseudo header, if it has one.
    let (mut segment, mut message) = if place.is_v4 {
        readdress_error_v4(packet, place, sender)?
    } else {
        readdress_error_v6(packet, place, sender)?
    };
    let old = u32::from_ne_bytes(packet.read(place.quoted_tcp)?);
    let new = (u32::from(ports.0) << 16 | u32::from(ports.1)).to_be();
    packet.write(place.quoted_tcp, new.to_ne_bytes())?;
    segment = segment.replaced(old, new);
    message = message.replaced(old, new);
    if place.has_checksum {
        message = message.and(replace_checksum(packet, place.quoted_tcp + CHECKSUM, segment)?);
    }
    replace_checksum(packet, place.icmp + 2, message)?;
    Some(())
}

/// Replaces the addresses of an ICMP error, and of what it quotes. Returns what that changes in the quoted segment's checksum and in
/// the message's.
#[inline(always)]
fn readdress_error_v4(
    packet: &mut (impl PacketMut + ?Sized),
    place: &ErrorPlace,
    sender: &Address,
) -> Option<(Update, Update)> {
    let sender = sender.v4_bits().to_be();
    let (header, segment) = readdress_word(packet, place.ip + 12, place.quoted_ip + 12, 4, sender)?;
    let lifetime = decrement_ipv4(packet, place.ip)?;
    replace_checksum(packet, place.ip + 10, header.and(lifetime))?;
    // The quoted header's checksum is part of the message.
    let changed = replace_checksum(packet, place.quoted_ip + 10, segment)?;
    Some((segment, segment.and(changed)))
}

/// The same over IPv6, where no header has a checksum and the message's covers the error's own addresses.
#[inline(always)]
fn readdress_error_v6(
    packet: &mut (impl PacketMut + ?Sized),
    place: &ErrorPlace,
    sender: &Address,
) -> Option<(Update, Update)> {
    let [hops] = packet.read(place.ip + 7)?;
    packet.write(place.ip + 7, [hops.wrapping_sub(1)])?;
    let (mut header, mut segment) = (Update::NOTHING, Update::NOTHING);
    let mut offset = 8;
    for sender in sender.words() {
        let changes = readdress_word(packet, place.ip + offset, place.quoted_ip + offset, 16, sender)?;
        header = header.and(changes.0);
        segment = segment.and(changes.1);
        offset += 4;
    }
    Some((segment, header.and(segment)))
}

/// Replaces one word of the four addresses: the router's and the quoted receiver's become the VIP's, the VIP's, both times, the new
/// sender's. Returns what that changes in checksums over the error's own addresses, and over the quoted ones.
///
/// Read here, and not handed over: the kernel program's stack would not hold so many addresses.
#[inline(always)]
fn readdress_word(
    packet: &mut (impl PacketMut + ?Sized),
    source: usize,
    quoted_source: usize,
    length: usize,
    sender: u32,
) -> Option<(Update, Update)> {
    let router = u32::from_ne_bytes(packet.read(source)?);
    let vip = u32::from_ne_bytes(packet.read(source + length)?);
    let receiver = u32::from_ne_bytes(packet.read(quoted_source + length)?);
    packet.write(source, vip.to_ne_bytes())?;
    packet.write(source + length, sender.to_ne_bytes())?;
    packet.write(quoted_source, sender.to_ne_bytes())?;
    packet.write(quoted_source + length, vip.to_ne_bytes())?;
    // The VIP gives way to the sender and takes the place of the other.
    let header = Update::NOTHING.replaced(router, sender);
    let quoted = Update::NOTHING.replaced(receiver, sender);
    Some((header, quoted))
}

/// Writes destination and source MAC address.
#[inline(always)]
#[must_use]
pub(super) fn address_frame(packet: &mut (impl PacketMut + ?Sized), addresses: [u32; 3]) -> Option<()> {
    let [a, b, c] = addresses;
    packet.write(0, a.to_ne_bytes())?;
    packet.write(4, b.to_ne_bytes())?;
    packet.write(8, c.to_ne_bytes())
}

/// The MAC addresses of a frame, exchanged: those of an answer to where it came from.
#[inline(always)]
pub(super) fn addresses_back(packet: &(impl Packet + ?Sized)) -> Option<[u32; 3]> {
    let [a, b]: [u8; 2] = packet.read(0)?;
    let [c, d]: [u8; 2] = packet.read(10)?;
    Some([
        u32::from_ne_bytes(packet.read(6)?),
        u32::from_ne_bytes([c, d, a, b]),
        u32::from_ne_bytes(packet.read(2)?),
    ])
}

/// What replaced words change in a checksum (RFC 1624, equation 3).
///
/// Sums up words of 32 bits in the host's byte order: what is carried beyond 16 bits is added again at the end, and the order of
/// bytes matters only where the sum meets the checksum, which is read in the same order (RFC 1071, section 2).
#[derive(Clone, Copy, Debug)]
struct Update(u64);

impl Update {
    const NOTHING: Self = Self(0);

    /// Takes in that one word has taken another's place, both as on the wire.
    #[inline(always)]
    const fn replaced(self, before: u32, after: u32) -> Self {
        Self(self.0 + !before as u64 + after as u64)
    }

    /// Both changes.
    #[inline(always)]
    const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The checksum, as on the wire, after all that.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "folded into 16 bits")]
    const fn applied_to(self, checksum: u16) -> u16 {
        // Some dozens of numbers of 32 bits: each fold leaves 16 bits and a smaller carry.
        let sum = self.0 + !checksum as u64;
        let sum = (sum >> 32) + (sum & 0xffff_ffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        !(sum as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::{Parsed, parse};
    use crate::testing::{
        Frame,
        cases::{CLIENT, CLIENT6},
        frame::{BALANCER_MAC, CLIENT_MAC},
        tables::{ONE, ONE6},
    };
    use core::net::SocketAddr;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn endpoints(source: SocketAddr, destination: SocketAddr) -> Endpoints {
        Endpoints {
            source: source.ip().into(),
            source_port: source.port(),
            destination: destination.ip().into(),
            destination_port: destination.port(),
        }
    }

    #[test]
    fn the_example_of_the_rfc() {
        // RFC 1624, section 4: the word 5555 becomes 3285 under the checksum DD2F, which becomes 0000, not FFFF.
        let update = Update::NOTHING.replaced(0x5555, 0x3285);
        assert_eq!(update.applied_to(0xdd2f), 0x0000);
    }

    #[test]
    fn an_answer_goes_to_where_the_frame_came_from() {
        let mut frame = Frame::new(CLIENT, ONE).bytes();
        let addresses = addresses_back(&frame).unwrap();
        address_frame(&mut frame, addresses).unwrap();
        assert_eq!(frame[..6], CLIENT_MAC);
        assert_eq!(frame[6..12], BALANCER_MAC);
    }

    fn any_v4() -> impl Strategy<Value = SocketAddr> {
        any::<([u8; 4], u16)>().prop_map(SocketAddr::from)
    }

    fn any_v6() -> impl Strategy<Value = SocketAddr> {
        // Not those that stand for IPv4 addresses, which no IPv6 packet has.
        any::<([u8; 16], u16)>().prop_map(|(mut octets, port)| {
            octets[0] |= 0x20;
            SocketAddr::from((octets, port))
        })
    }

    proptest! {
        /// A frame with other endpoints is the frame that their owners would have sent, byte by byte: the builder of frames
        /// computes checksums anew.
        #[test]
        fn the_result_is_as_if_built_so(
            v4 in [any_v4(), any_v4(), any_v4(), any_v4()],
            v6 in [any_v6(), any_v6(), any_v6(), any_v6()],
            is_v4: bool,
            payload: Vec<u8>,
            hops in 2u8..,
            options in 0usize..=10,
            tags in proptest::collection::vec(Just(ethertype::VLAN), 0..=2),
        ) {
            let [a, b, c, d] = if is_v4 { v4 } else { v6 };
            let build = |from, to, hops| {
                let mut frame = Frame::new(from, to).hop_limit(hops).payload(&payload);
                if is_v4 {
                    frame = frame.ip_options(&[1; 40][..options * 4]);
                }
                tags.iter().fold(frame, |frame, &tag| frame.tag(tag)).bytes()
            };
            let mut frame = build(a, b, hops);
            let (place, segment) = Place::find(&frame).unwrap();
            prop_assert_eq!(parse(&frame), Parsed::Segment(segment));
            prop_assert!(!place.has_expired(&frame));
            rewrite(&mut frame, &place, &Endpoints::of(&segment), &endpoints(c, d)).unwrap();
            prop_assert_eq!(frame, build(c, d, hops - 1));
        }

        /// Cut anywhere, a frame is refused and not a byte behind its end is touched.
        #[test]
        fn a_frame_that_ends_early_is_refused(length in 14usize..54, is_v4: bool) {
            let (client, service) = if is_v4 { (CLIENT, ONE) } else { (CLIENT6, ONE6) };
            let whole = Frame::new(client, service).bytes();
            let (place, _) = Place::find(&whole).unwrap();
            let mut cut = whole[..length.min(whole.len() - 1)].to_vec();
            let ends = endpoints(client, service);
            if cut.len() < place.tcp + 18 {
                prop_assert!(rewrite(cut.as_mut_slice(), &place, &ends, &ends).is_none());
            }
        }
    }
}
