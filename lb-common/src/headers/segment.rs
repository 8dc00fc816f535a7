//! From a frame to the TCP segment in it.

use super::{
    ethernet::{self, ethertype},
    icmp, ipv4, ipv6, tcp,
};
use crate::{address::Address, packet::Packet};

/// A TCP segment in an unfragmented, well-formed IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The sender's address.
    pub client: Address,
    /// The sender's port, host byte order.
    pub client_port: u16,
    /// The receiver's address: a VIP, if this is ours.
    pub vip: Address,
    /// The receiver's port, host byte order.
    pub port: u16,
    /// The control bits.
    pub flags: tcp::Flags,
    /// The sequence number.
    pub sequence: u32,
}

/// Why a TCP packet cannot be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A fragment: the ports are in the first one only, so no flow can be told.
    Fragment,
    /// The frame, or the IP packet, ends before a header does.
    Truncated,
    /// A header contradicts itself.
    Malformed,
    /// An IPv6 extension header stands where TCP should.
    ExtensionHeader,
}

/// What a frame turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Nothing that a load balancer of TCP deals with.
    Foreign,
    /// ICMP or ICMPv6, or what says that it is.
    Icmp,
    /// A TCP segment.
    Segment(Segment),
    /// TCP, or what may be TCP, to `destination`, but nothing that could be forwarded.
    Faulty {
        /// The receiver's address.
        destination: Address,
        /// What is wrong.
        fault: Fault,
    },
}

/// Reads the headers of a frame.
///
/// Checksums are left to the receiver: a load balancer that forwards a broken packet changes nothing about it.
#[inline(always)]
pub fn parse(packet: &(impl Packet + ?Sized)) -> Parsed {
    // Cut within its addresses a packet has no readable destination: the kernel drops and counts it.
    let ip = match ethernet::payload(packet) {
        Some(ethernet::Payload {
            ethertype: ethertype::IPV4,
            offset,
        }) => parse_ipv4(packet, offset),
        Some(ethernet::Payload {
            ethertype: ethertype::IPV6,
            offset,
        }) => parse_ipv6(packet, offset),
        _ => Err(Parsed::Foreign),
    };
    let IpPacket {
        source,
        destination,
        content,
    } = match ip {
        Ok(ip) => ip,
        Err(parsed) => return parsed,
    };
    let faulty = |fault| Parsed::Faulty { destination, fault };
    let Content { offset, length } = match content {
        Ok(content) => content,
        Err(fault) => return faulty(fault),
    };
    // A frame may be longer than its packet (padding up to Ethernet's minimum), never shorter.
    if length < tcp::MIN_HEADER_LENGTH || !packet.has_length(offset + length) {
        return faulty(Fault::Truncated);
    }
    let Some(tcp) = packet.read(offset).map(tcp::Header::new) else {
        return faulty(Fault::Truncated);
    };
    if tcp.header_length() < tcp::MIN_HEADER_LENGTH {
        return faulty(Fault::Malformed);
    }
    if tcp.header_length() > length {
        return faulty(Fault::Truncated);
    }
    Parsed::Segment(Segment {
        client: source,
        client_port: tcp.source_port(),
        vip: destination,
        port: tcp.destination_port(),
        flags: tcp.flags(),
        sequence: tcp.sequence(),
    })
}

/// An IP packet that has, or may have, TCP in it.
struct IpPacket {
    source: Address,
    destination: Address,
    content: Result<Content, Fault>,
}

/// Where the TCP segment is.
struct Content {
    /// In bytes from the start of the frame.
    offset: usize,
    /// In bytes, as the IP header says.
    length: usize,
}

/// `Err` for what is not TCP, or has no whole header.
#[inline(always)]
fn parse_ipv4(packet: &(impl Packet + ?Sized), offset: usize) -> Result<IpPacket, Parsed> {
    let Some(ip) = packet.read(offset).map(ipv4::Header::new) else {
        return Err(Parsed::Foreign);
    };
    if ip.protocol() != tcp::PROTOCOL {
        return Err(if ip.protocol() == icmp::PROTOCOL {
            Parsed::Icmp
        } else {
            Parsed::Foreign
        });
    }
    let content = if !ip.is_well_formed() {
        Err(Fault::Malformed)
    } else if ip.is_fragment() {
        Err(Fault::Fragment)
    } else {
        match ip.total_length().checked_sub(ip.header_length()) {
            Some(length) => Ok(Content {
                offset: offset + ip.header_length(),
                length,
            }),
            None => Err(Fault::Truncated),
        }
    };
    Ok(IpPacket {
        source: ip.source(),
        destination: ip.destination(),
        content,
    })
}

/// `Err` for what is not TCP, or has no whole header.
#[inline(always)]
fn parse_ipv6(packet: &(impl Packet + ?Sized), offset: usize) -> Result<IpPacket, Parsed> {
    let Some(ip) = packet.read(offset).map(ipv6::Header::new) else {
        return Err(Parsed::Foreign);
    };
    // No such address is on any wire (RFC 4291, 2.5.5.2, and RFC 6052 for what is): it would pass for the IPv4 one.
    if ip.source().is_v4() || ip.destination().is_v4() {
        return Err(Parsed::Foreign);
    }
    let content = match ip.next_header() {
        tcp::PROTOCOL => Ok(Content {
            offset: offset + ipv6::HEADER_LENGTH,
            length: ip.payload_length(),
        }),
        // Whose TCP it would be cannot be told without looking behind it, but whether it can be TCP at all: a fragment of a
        // long ping is the kernel's.
        extension @ (ipv6::extension::FRAGMENT
        | ipv6::extension::HOP_BY_HOP
        | ipv6::extension::ROUTING
        | ipv6::extension::DESTINATION_OPTIONS) => {
            let next = packet.read(offset + ipv6::HEADER_LENGTH);
            let [next] = next.unwrap_or([tcp::PROTOCOL]);
            if !ipv6::extension::may_precede_tcp(next) {
                return Err(Parsed::Foreign);
            }
            Err(match extension {
                ipv6::extension::FRAGMENT => Fault::Fragment,
                _ => Fault::ExtensionHeader,
            })
        }
        icmp::PROTOCOL_V6 => return Err(Parsed::Icmp),
        _ => return Err(Parsed::Foreign),
    };
    let content = if ip.is_well_formed() {
        content
    } else {
        Err(Fault::Malformed)
    };
    Ok(IpPacket {
        source: ip.source(),
        destination: ip.destination(),
        content,
    })
}
