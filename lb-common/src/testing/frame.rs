//! Frames as a client would send them, well-formed unless told otherwise.

use core::net::{IpAddr, SocketAddr};
use std::vec::Vec;

use crate::headers::{
    ethernet::ethertype,
    tcp::{self, Flags},
};

/// The MAC address to which clients send: the balancer's.
pub const BALANCER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
/// The MAC address from which frames come.
pub const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];

/// Builds a frame with a TCP segment in an IPv4 or IPv6 packet.
#[derive(Clone, Debug)]
pub struct Frame {
    destination: [u8; 6],
    client: SocketAddr,
    service: SocketAddr,
    tags: Vec<u16>,
    class: u8,
    ethertype: Option<u16>,
    protocol: u8,
    flags: u8,
    sequence: u32,
    acknowledgement: u32,
    version: Option<u8>,
    ip_options: Vec<u8>,
    fragment: u16,
    extensions: Vec<u8>,
    header_words: Option<u8>,
    data_offset: Option<u8>,
    tcp_options: Vec<u8>,
    payload: Vec<u8>,
    total_length: Option<u16>,
    hop_limit: u8,
    source: [u8; 6],
    padding: usize,
}

impl Frame {
    /// An ACK without payload from `client` to `service`, which are of one family.
    pub fn new(client: SocketAddr, service: SocketAddr) -> Self {
        Self {
            destination: BALANCER_MAC,
            client,
            service,
            tags: Vec::new(),
            class: 0,
            ethertype: None,
            protocol: tcp::PROTOCOL,
            flags: Flags::ACK,
            sequence: 1000,
            acknowledgement: 2000,
            version: None,
            ip_options: Vec::new(),
            extensions: Vec::new(),
            fragment: 0x4000, // don't fragment, as TCP senders set it
            header_words: None,
            data_offset: None,
            tcp_options: Vec::new(),
            payload: Vec::new(),
            total_length: None,
            hop_limit: 64,
            source: CLIENT_MAC,
            padding: 0,
        }
    }

    /// Sets the destination MAC address.
    #[must_use]
    pub fn destination(mut self, mac: [u8; 6]) -> Self {
        self.destination = mac;
        self
    }

    /// Sets the source MAC address.
    #[must_use]
    pub fn from(mut self, mac: [u8; 6]) -> Self {
        self.source = mac;
        self
    }

    /// Sets IPv4's time to live or IPv6's hop limit.
    #[must_use]
    pub fn hop_limit(mut self, hops: u8) -> Self {
        self.hop_limit = hops;
        self
    }

    /// Sets the TCP control bits.
    #[must_use]
    pub fn flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }

    /// Sets the sequence number.
    #[must_use]
    pub fn sequence(mut self, sequence: u32) -> Self {
        self.sequence = sequence;
        self
    }

    /// Sets the acknowledgement number.
    #[must_use]
    pub fn acknowledgement(mut self, acknowledgement: u32) -> Self {
        self.acknowledgement = acknowledgement;
        self
    }

    /// Adds a VLAN tag with this type, outermost first.
    #[must_use]
    pub fn tag(mut self, ethertype: u16) -> Self {
        self.tags.push(ethertype);
        self
    }

    /// Sets IPv4's type of service or IPv6's traffic class: DSCP and ECN.
    #[must_use]
    pub fn class(mut self, class: u8) -> Self {
        self.class = class;
        self
    }

    /// Sets the type behind the tags.
    #[must_use]
    pub fn ethertype(mut self, ethertype: u16) -> Self {
        self.ethertype = Some(ethertype);
        self
    }

    /// Sets the IP protocol number, IPv6's next header.
    #[must_use]
    pub fn protocol(mut self, protocol: u8) -> Self {
        self.protocol = protocol;
        self
    }

    /// Sets the IP version field.
    #[must_use]
    pub fn version(mut self, version: u8) -> Self {
        self.version = Some(version);
        self
    }

    /// Sets the IPv4 options, a multiple of 4 bytes.
    #[must_use]
    pub fn ip_options(mut self, options: &[u8]) -> Self {
        assert!(options.len().is_multiple_of(4) && options.len() <= 40);
        self.ip_options = options.to_vec();
        self
    }

    /// Sets the IPv4 field of flags and fragment offset.
    #[must_use]
    pub fn fragment(mut self, field: u16) -> Self {
        self.fragment = field;
        self
    }

    /// Sets the IPv4 header length field, whatever the header's real length.
    #[must_use]
    pub fn header_words(mut self, words: u8) -> Self {
        self.header_words = Some(words);
        self
    }

    /// Sets the TCP header length field, whatever the header's real length.
    #[must_use]
    pub fn data_offset(mut self, words: u8) -> Self {
        self.data_offset = Some(words);
        self
    }

    /// Sets the TCP options, a multiple of 4 bytes.
    #[must_use]
    pub fn tcp_options(mut self, options: &[u8]) -> Self {
        assert!(options.len().is_multiple_of(4) && options.len() <= 40);
        self.tcp_options = options.to_vec();
        self
    }

    /// Puts an IPv6 extension header of this type before what is there.
    #[must_use]
    pub fn extension(mut self, kind: u8) -> Self {
        self.extensions.insert(0, kind);
        self
    }

    /// Sets the bytes behind the TCP header.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// Sets IPv4's total length or IPv6's payload length, whatever the real one.
    #[must_use]
    pub fn total_length(mut self, length: u16) -> Self {
        self.total_length = Some(length);
        self
    }

    /// Adds bytes behind the packet, as Ethernet does to short ones.
    #[must_use]
    pub fn padding(mut self, bytes: usize) -> Self {
        self.padding = bytes;
        self
    }

    /// The bytes on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.destination);
        frame.extend(self.source);
        for tag in &self.tags {
            frame.extend(tag.to_be_bytes());
            frame.extend([0, 42]);
        }
        let (ethertype, ip) = match (self.client.ip(), self.service.ip()) {
            (IpAddr::V4(client), IpAddr::V4(service)) => {
                (ethertype::IPV4, self.ipv4(client.octets(), service.octets()))
            }
            (IpAddr::V6(client), IpAddr::V6(service)) => {
                (ethertype::IPV6, self.ipv6(client.octets(), service.octets()))
            }
            _ => panic!("client and service are of one family"),
        };
        frame.extend(self.ethertype.unwrap_or(ethertype).to_be_bytes());
        frame.extend(ip);
        frame.resize(frame.len() + self.padding, 0);
        frame
    }

    fn ipv4(&self, client: [u8; 4], service: [u8; 4]) -> Vec<u8> {
        let tcp = self.tcp(&[client, service].concat());
        let header = 20 + self.ip_options.len();
        let words = u8::try_from(header / 4).expect("at most 15 words");
        let total = u16::try_from(header + tcp.len()).expect("the packet fits");
        let mut packet = Vec::new();
        packet.push(self.version.unwrap_or(4) << 4 | self.header_words.unwrap_or(words));
        packet.push(self.class);
        packet.extend(self.total_length.unwrap_or(total).to_be_bytes());
        packet.extend([0x12, 0x34]);
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([self.hop_limit, self.protocol, 0, 0]);
        packet.extend(client);
        packet.extend(service);
        packet.extend(&self.ip_options);
        let checksum = internet_checksum(0, &packet);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet.extend(tcp);
        packet
    }

    fn ipv6(&self, client: [u8; 16], service: [u8; 16]) -> Vec<u8> {
        // Each names what comes behind it, and has the 6 bytes of its shortest form behind its length in units of 8 bytes.
        let mut next = self.protocol;
        let mut content = self.tcp(&[client, service].concat());
        for &kind in self.extensions.iter().rev() {
            content.splice(..0, [next, 0, 0, 0, 0, 0, 0, 0]);
            next = kind;
        }
        let length = u16::try_from(content.len()).expect("the packet fits");
        let mut packet = Vec::new();
        packet.extend([
            self.version.unwrap_or(6) << 4 | self.class >> 4,
            self.class << 4,
            0,
            0,
        ]);
        packet.extend(self.total_length.unwrap_or(length).to_be_bytes());
        packet.extend([next, self.hop_limit]);
        packet.extend(client);
        packet.extend(service);
        packet.extend(content);
        packet
    }

    /// The segment. `addresses` are both parties', for the checksum's pseudo header.
    fn tcp(&self, addresses: &[u8]) -> Vec<u8> {
        let words = u8::try_from(5 + self.tcp_options.len() / 4).expect("at most 15 words");
        let mut tcp = Vec::new();
        tcp.extend(self.client.port().to_be_bytes());
        tcp.extend(self.service.port().to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.acknowledgement.to_be_bytes());
        tcp.push(self.data_offset.unwrap_or(words) << 4);
        tcp.push(self.flags);
        tcp.extend([0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend(&self.tcp_options);
        tcp.extend(&self.payload);
        let length = u32::try_from(tcp.len()).expect("the packet fits");
        // Both families' pseudo headers come to the same sum: addresses, protocol, length.
        let pseudo = sum_of_words(addresses) + u32::from(tcp::PROTOCOL) + length;
        let checksum = internet_checksum(pseudo, &tcp);
        tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
        tcp
    }
}

/// The checksum of RFC 1071 over `bytes`, starting from a sum of 16-bit words.
pub(crate) fn internet_checksum(start: u32, bytes: &[u8]) -> u16 {
    let mut sum = start + sum_of_words(bytes);
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).expect("folded into 16 bits")
}

pub(crate) fn sum_of_words(bytes: &[u8]) -> u32 {
    let words = bytes
        .chunks(2)
        .map(|pair| [pair[0], pair.get(1).copied().unwrap_or(0)]);
    words.map(|word| u32::from(u16::from_be_bytes(word))).sum()
}
