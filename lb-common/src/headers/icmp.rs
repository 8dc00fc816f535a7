//! ICMP (RFC 792) and ICMPv6 (RFC 4443): errors, and the segments that they quote.

use super::{
    ethernet::{self, ethertype},
    ipv4, ipv6, tcp,
};
use crate::{address::Address, packet::Packet};

/// The protocol number of ICMP.
pub const PROTOCOL: u8 = 1;
/// The protocol number of ICMPv6.
pub const PROTOCOL_V6: u8 = 58;
/// Length of the header of an error, in bytes. The packet that it is about follows.
pub const HEADER_LENGTH: usize = 8;
/// How much of a segment an error has to quote (RFC 792): ports and sequence number.
const QUOTED_TCP_LENGTH: usize = 8;

/// The types of errors.
pub mod kind {
    /// ICMP: destination unreachable; with code 4, fragmentation needed.
    pub const UNREACHABLE: u8 = 3;
    /// ICMP: source quench, which nobody should send any more.
    pub const SOURCE_QUENCH: u8 = 4;
    /// ICMP: time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// ICMP: parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
    /// ICMPv6: destination unreachable.
    pub const UNREACHABLE_V6: u8 = 1;
    /// ICMPv6: packet too big.
    pub const PACKET_TOO_BIG_V6: u8 = 2;
    /// ICMPv6: time exceeded.
    pub const TIME_EXCEEDED_V6: u8 = 3;
    /// ICMPv6: parameter problem.
    pub const PARAMETER_PROBLEM_V6: u8 = 4;
}

/// A segment of which an error says that it did not arrive: from a service, if it is ours, to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// The segment's sender, who gets the error.
    pub vip: Address,
    /// The sender's port, host byte order.
    pub port: u16,
    /// The segment's receiver.
    pub client: Address,
    /// The receiver's port, host byte order.
    pub client_port: u16,
}

/// The segment that the error in a frame quotes.
///
/// `None` for all else: other messages, fragments of errors, errors that are shorter than they say, and those that quote something
/// else than the beginning of a segment which their receiver has sent. The checksum is left to the receiver.
#[inline(always)]
pub fn quoted(packet: &(impl Packet + ?Sized)) -> Option<Quoted> {
    match ethernet::payload(packet)? {
        ethernet::Payload {
            ethertype: ethertype::IPV4,
            offset,
        } => quoted_ipv4(packet, offset),
        ethernet::Payload {
            ethertype: ethertype::IPV6,
            offset,
        } => quoted_ipv6(packet, offset),
        _ => None,
    }
}

#[inline(always)]
fn quoted_ipv4(packet: &(impl Packet + ?Sized), offset: usize) -> Option<Quoted> {
    let outer = packet.read(offset).map(ipv4::Header::new)?;
    if outer.protocol() != PROTOCOL || !outer.is_well_formed() || outer.is_fragment() {
        return None;
    }
    let end = offset + outer.total_length();
    let offset = offset + outer.header_length();
    let kind = read_kind(packet, offset)?;
    if !matches!(
        kind,
        kind::UNREACHABLE | kind::SOURCE_QUENCH | kind::TIME_EXCEEDED | kind::PARAMETER_PROBLEM
    ) {
        return None;
    }
    let offset = offset + HEADER_LENGTH;
    let inner = packet.read(offset).map(ipv4::Header::new)?;
    // The first fragment has the ports, though senders of TCP make none.
    if inner.protocol() != tcp::PROTOCOL || !inner.is_well_formed() || inner.fragment_offset() != 0 {
        return None;
    }
    let parties = (outer.destination(), inner.source(), inner.destination());
    quoted_tcp(packet, offset + inner.header_length(), end, parties)
}

#[inline(always)]
fn quoted_ipv6(packet: &(impl Packet + ?Sized), offset: usize) -> Option<Quoted> {
    let outer = packet.read(offset).map(ipv6::Header::new)?;
    if outer.next_header() != PROTOCOL_V6 || !outer.is_well_formed() {
        return None;
    }
    let offset = offset + ipv6::HEADER_LENGTH;
    let end = offset + outer.payload_length();
    let kind = read_kind(packet, offset)?;
    if !matches!(kind, kind::UNREACHABLE_V6..=kind::PARAMETER_PROBLEM_V6) {
        return None;
    }
    let offset = offset + HEADER_LENGTH;
    let inner = packet.read(offset).map(ipv6::Header::new)?;
    // A fragment has an extension header.
    if inner.next_header() != tcp::PROTOCOL || !inner.is_well_formed() {
        return None;
    }
    let parties = (outer.destination(), inner.source(), inner.destination());
    quoted_tcp(packet, offset + ipv6::HEADER_LENGTH, end, parties)
}

/// The type of the message at `offset`.
#[inline(always)]
fn read_kind(packet: &(impl Packet + ?Sized), offset: usize) -> Option<u8> {
    // With its code: of a single byte the kernel's verifier would not see that it is inside of the frame.
    let [kind, _code] = packet.read(offset)?;
    Some(kind)
}

/// The quotation, if its segment's beginning is at `offset`, before the `end` of the packet, and its sender is who gets the
/// error. The parties: the error's receiver, the segment's sender, and its receiver.
#[inline(always)]
fn quoted_tcp(
    packet: &(impl Packet + ?Sized),
    offset: usize,
    end: usize,
    (receiver, vip, client): (Address, Address, Address),
) -> Option<Quoted> {
    let [port_high, port_low, client_port_high, client_port_low, ..] =
        packet.read::<QUOTED_TCP_LENGTH>(offset)?;
    // Whoever forwards it in a tunnel goes by its length.
    if receiver != vip || offset + QUOTED_TCP_LENGTH > end || !packet.has_length(end) {
        return None;
    }
    Some(Quoted {
        vip,
        port: u16::from_be_bytes([port_high, port_low]),
        client,
        client_port: u16::from_be_bytes([client_port_high, client_port_low]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{
        IcmpError,
        cases::{CLIENT, CLIENT6},
        tables::{ONE, ONE6},
    };
    use core::net::{IpAddr, SocketAddr};
    use proptest::prelude::*;

    fn parties(quoted: Quoted) -> (SocketAddr, SocketAddr) {
        let Quoted {
            vip,
            port,
            client,
            client_port,
        } = quoted;
        (
            SocketAddr::new(IpAddr::from(vip), port),
            SocketAddr::new(IpAddr::from(client), client_port),
        )
    }

    proptest! {
        /// Of a quotation, what is read does not depend on what else the error has.
        #[test]
        fn the_flow_is_found_wherever_it_stands(
            client_port: u16, port: u16, payload in 0usize..600,
            outer_options in 0usize..=10, inner_options in 0usize..=10, tags in 0usize..=2, v6: bool,
        ) {
            let (client, service) = if v6 { (CLIENT6, ONE6) } else { (CLIENT, ONE) };
            let (client, service) =
                (SocketAddr::new(client.ip(), client_port), SocketAddr::new(service.ip(), port));
            let mut error = IcmpError::about(client, service).payload(payload).tags(tags);
            if !v6 {
                error = error.outer_options(outer_options * 4).inner_options(inner_options * 4);
            }
            let frame = error.bytes();
            prop_assert_eq!(quoted(frame.as_slice()).map(parties), Some((service, client)));
            // As little as the first 8 bytes of the segment will do, and no less.
            let needed = frame.len() - payload - 12;
            prop_assert!(quoted(error.quote(8).bytes().as_slice()).is_some());
            prop_assert_eq!(quoted(&frame[..needed - 1]), None);
        }

        /// Noise in the shape of an error is read without a panic.
        #[test]
        fn noise_does_no_harm(
            damage in proptest::collection::vec((0usize..140, any::<u8>()), 0..6),
            length in 0usize..140,
            v6: bool,
        ) {
            let (client, service) = if v6 { (CLIENT6, ONE6) } else { (CLIENT, ONE) };
            let mut frame = IcmpError::about(client, service).payload(100).bytes();
            for (offset, value) in damage {
                frame[offset] = value;
            }
            frame.truncate(length);
            if quoted(frame.as_slice()).is_some() {
                prop_assert!(frame.len() >= 14 + 20 + 8 + 20 + 8);
            }
        }
    }
}
