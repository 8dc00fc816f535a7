//! From a frame to the TCP segment in it.

use core::net::Ipv4Addr;

use super::{ethernet, ipv4, tcp};
use crate::packet::Packet;

/// A TCP segment in an unfragmented, well-formed IPv4 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The sender's address.
    pub client: Ipv4Addr,
    /// The sender's port, host byte order.
    pub client_port: u16,
    /// The receiver's address: a VIP, if this is ours.
    pub vip: Ipv4Addr,
    /// The receiver's port, host byte order.
    pub port: u16,
    /// The control bits.
    pub flags: tcp::Flags,
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
}

/// What a frame turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Nothing that a load balancer of TCP deals with.
    Foreign,
    /// A TCP segment.
    Segment(Segment),
    /// TCP to `destination`, but nothing that could be forwarded.
    Faulty {
        /// The receiver's address.
        destination: Ipv4Addr,
        /// What is wrong.
        fault: Fault,
    },
}

/// Reads the headers of a frame.
///
/// Checksums are left to the receiver: a load balancer that forwards a broken packet changes nothing about it.
#[inline(always)]
pub fn parse(packet: &(impl Packet + ?Sized)) -> Parsed {
    let Some(payload) = ethernet::payload(packet) else {
        return Parsed::Foreign;
    };
    if payload.ethertype != ethernet::ethertype::IPV4 {
        return Parsed::Foreign;
    }
    // Cut within its first 20 bytes a packet has no readable destination: the kernel drops and counts it.
    let Some(ip) = packet.read(payload.offset).map(ipv4::Header::new) else {
        return Parsed::Foreign;
    };
    if ip.protocol() != ipv4::PROTOCOL_TCP {
        return Parsed::Foreign;
    }
    let faulty = |fault| Parsed::Faulty {
        destination: ip.destination(),
        fault,
    };
    if !ip.is_well_formed() {
        return faulty(Fault::Malformed);
    }
    if ip.is_fragment() {
        return faulty(Fault::Fragment);
    }
    // A frame may be longer than its packet (padding up to Ethernet's minimum), never shorter.
    if payload.offset + ip.total_length() > packet.length()
        || ip.total_length() < ip.header_length() + tcp::MIN_HEADER_LENGTH
    {
        return faulty(Fault::Truncated);
    }
    let Some(tcp) = packet
        .read(payload.offset + ip.header_length())
        .map(tcp::Header::new)
    else {
        return faulty(Fault::Truncated);
    };
    if tcp.header_length() < tcp::MIN_HEADER_LENGTH {
        return faulty(Fault::Malformed);
    }
    if ip.header_length() + tcp.header_length() > ip.total_length() {
        return faulty(Fault::Truncated);
    }
    Parsed::Segment(Segment {
        client: ip.source(),
        client_port: tcp.source_port(),
        vip: ip.destination(),
        port: tcp.destination_port(),
        flags: tcp.flags(),
    })
}
