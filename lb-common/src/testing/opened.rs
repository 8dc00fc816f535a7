//! What the receiver of a frame finds in it: a parser for tests, which shares nothing with the code under test but the
//! checksum of RFC 1071, written for the frames that tests build.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::vec::Vec;

use super::frame::internet_checksum;

/// A frame, opened down to what its first IP header carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Destination, then source.
    pub macs: [[u8; 6]; 2],
    /// The tags, each with its type.
    pub tags: Vec<[u8; 4]>,
    /// The first IP header.
    pub ip: Ip,
    /// What it carries.
    pub content: Vec<u8>,
    /// What is behind the IP packet.
    pub trailer: Vec<u8>,
}

/// An IP header without options. Fields of IPv4 alone are 0 with IPv6, and the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// The sender.
    pub source: IpAddr,
    /// The receiver.
    pub destination: IpAddr,
    /// DSCP and ECN.
    pub class: u8,
    /// The hop limit.
    pub hop_limit: u8,
    /// The number of the protocol inside.
    pub protocol: u8,
    /// IPv4: identification, then flags and fragment offset.
    pub fragment: [u16; 2],
    /// IPv6: the flow label.
    pub label: u32,
}

/// Opens a frame whose headers must be in order, checksum included.
pub fn open(frame: &[u8]) -> Opened {
    let (macs, mut rest) = frame.split_at(12);
    let mut tags = Vec::new();
    while matches!(rest[..2], [0x81, 0x00] | [0x88, 0xa8]) {
        tags.push(*rest.first_chunk().expect("a tag"));
        rest = &rest[4..];
    }
    let (ethertype, packet) = rest.split_at(2);
    let (ip, length, header) = match ethertype {
        [0x08, 0x00] => open_v4(packet),
        [0x86, 0xdd] => open_v6(packet),
        other => panic!("neither IPv4 nor IPv6: {other:02x?}"),
    };
    Opened {
        macs: [&macs[..6], &macs[6..]].map(|mac| mac.try_into().expect("6 bytes")),
        tags,
        ip,
        content: packet[header..length].to_vec(),
        trailer: packet[length..].to_vec(),
    }
}

fn open_v4(packet: &[u8]) -> (Ip, usize, usize) {
    assert_eq!(packet[0], 0x45, "version 4, no options");
    assert_eq!(internet_checksum(0, &packet[..20]), 0, "the header's checksum");
    let address = |at: usize| IpAddr::from(Ipv4Addr::from(word(packet, at)));
    let ip = Ip {
        source: address(12),
        destination: address(16),
        class: packet[1],
        hop_limit: packet[8],
        protocol: packet[9],
        fragment: [half(packet, 4), half(packet, 6)],
        label: 0,
    };
    (ip, usize::from(half(packet, 2)), 20)
}

fn open_v6(packet: &[u8]) -> (Ip, usize, usize) {
    assert_eq!(packet[0] >> 4, 6, "version 6");
    let address = |at: usize| {
        let octets: [u8; 16] = packet[at..at + 16].try_into().expect("16 bytes");
        IpAddr::from(Ipv6Addr::from(octets))
    };
    let ip = Ip {
        source: address(8),
        destination: address(24),
        class: packet[0] << 4 | packet[1] >> 4,
        hop_limit: packet[7],
        protocol: packet[6],
        fragment: [0; 2],
        label: word(packet, 0) & 0xf_ffff,
    };
    (ip, 40 + usize::from(half(packet, 4)), 40)
}

/// The checksum of what an IPv6 header carries, with its pseudo header: 0 if it is right.
pub fn checksum_v6(opened: &Opened) -> u16 {
    let mut bytes = Vec::new();
    for address in [opened.ip.source, opened.ip.destination] {
        match address {
            IpAddr::V6(address) => bytes.extend(address.octets()),
            IpAddr::V4(address) => panic!("{address} has another pseudo header"),
        }
    }
    bytes.extend(
        u32::try_from(opened.content.len())
            .expect("a packet")
            .to_be_bytes(),
    );
    bytes.extend([0, 0, 0, opened.ip.protocol]);
    bytes.extend(&opened.content);
    internet_checksum(0, &bytes)
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from(half(bytes, at)) << 16 | u32::from(half(bytes, at + 2))
}
