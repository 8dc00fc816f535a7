//! Frames as a client would send them, well-formed unless told otherwise.

use core::net::{Ipv4Addr, SocketAddrV4};
use std::vec::Vec;

use crate::headers::{ethernet::ethertype, ipv4::PROTOCOL_TCP, tcp::Flags};

/// The MAC address to which clients send: the balancer's.
pub const BALANCER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
/// The MAC address from which frames come.
pub const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];

/// Builds a frame with a TCP segment in an IPv4 packet.
#[derive(Clone, Debug)]
pub struct Frame {
    client: SocketAddrV4,
    service: SocketAddrV4,
    tags: Vec<u16>,
    ethertype: u16,
    protocol: u8,
    flags: u8,
    version: u8,
    ip_options: Vec<u8>,
    fragment: u16,
    header_words: Option<u8>,
    data_offset: Option<u8>,
    tcp_options: Vec<u8>,
    payload: Vec<u8>,
    total_length: Option<u16>,
    padding: usize,
}

impl Frame {
    /// An ACK without payload from `client` to `service`.
    pub fn new(client: SocketAddrV4, service: SocketAddrV4) -> Self {
        Self {
            client,
            service,
            tags: Vec::new(),
            ethertype: ethertype::IPV4,
            protocol: PROTOCOL_TCP,
            flags: Flags::ACK,
            version: 4,
            ip_options: Vec::new(),
            fragment: 0x4000, // don't fragment, as TCP senders set it
            header_words: None,
            data_offset: None,
            tcp_options: Vec::new(),
            payload: Vec::new(),
            total_length: None,
            padding: 0,
        }
    }

    /// Sets the TCP control bits.
    #[must_use]
    pub fn flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }

    /// Adds a VLAN tag with this type, outermost first.
    #[must_use]
    pub fn tag(mut self, ethertype: u16) -> Self {
        self.tags.push(ethertype);
        self
    }

    /// Sets the type behind the tags.
    #[must_use]
    pub fn ethertype(mut self, ethertype: u16) -> Self {
        self.ethertype = ethertype;
        self
    }

    /// Sets the IP protocol number.
    #[must_use]
    pub fn protocol(mut self, protocol: u8) -> Self {
        self.protocol = protocol;
        self
    }

    /// Sets the IP version field.
    #[must_use]
    pub fn version(mut self, version: u8) -> Self {
        self.version = version;
        self
    }

    /// Sets the IP options, a multiple of 4 bytes.
    #[must_use]
    pub fn ip_options(mut self, options: &[u8]) -> Self {
        assert!(options.len().is_multiple_of(4) && options.len() <= 40);
        self.ip_options = options.to_vec();
        self
    }

    /// Sets the field of IP flags and fragment offset.
    #[must_use]
    pub fn fragment(mut self, field: u16) -> Self {
        self.fragment = field;
        self
    }

    /// Sets the IP header length field, whatever the header's real length.
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

    /// Sets the bytes behind the TCP header.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// Sets the total length field of the IP header, whatever the packet's real length.
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
    #[allow(clippy::cast_possible_truncation, reason = "lengths are asserted to fit")]
    pub fn bytes(&self) -> Vec<u8> {
        let tcp = self.tcp();
        let ip_header = 20 + self.ip_options.len();
        let total = ip_header + tcp.len();
        assert!(u16::try_from(total).is_ok());

        let mut frame = Vec::new();
        frame.extend(BALANCER_MAC);
        frame.extend(CLIENT_MAC);
        for tag in &self.tags {
            frame.extend(tag.to_be_bytes());
            frame.extend([0, 42]);
        }
        frame.extend(self.ethertype.to_be_bytes());

        let start = frame.len();
        frame.push(self.version << 4 | self.header_words.unwrap_or((ip_header / 4) as u8));
        frame.push(0);
        frame.extend(self.total_length.unwrap_or(total as u16).to_be_bytes());
        frame.extend([0x12, 0x34]);
        frame.extend(self.fragment.to_be_bytes());
        frame.extend([64, self.protocol, 0, 0]);
        frame.extend(self.client.ip().octets());
        frame.extend(self.service.ip().octets());
        frame.extend(&self.ip_options);
        let checksum = internet_checksum(0, &frame[start..]);
        frame[start + 10..start + 12].copy_from_slice(&checksum.to_be_bytes());

        frame.extend(tcp);
        frame.resize(frame.len() + self.padding, 0);
        frame
    }

    #[allow(
        clippy::cast_possible_truncation,
        reason = "a TCP header has at most 60 bytes"
    )]
    fn tcp(&self) -> Vec<u8> {
        let header = 20 + self.tcp_options.len();
        let mut tcp = Vec::new();
        tcp.extend(self.client.port().to_be_bytes());
        tcp.extend(self.service.port().to_be_bytes());
        tcp.extend(1000u32.to_be_bytes());
        tcp.extend(2000u32.to_be_bytes());
        tcp.push(self.data_offset.unwrap_or((header / 4) as u8) << 4);
        tcp.push(self.flags);
        tcp.extend([0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend(&self.tcp_options);
        tcp.extend(&self.payload);
        let pseudo = pseudo_header(*self.client.ip(), *self.service.ip(), tcp.len() as u16);
        let checksum = internet_checksum(pseudo, &tcp);
        tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
        tcp
    }
}

fn pseudo_header(source: Ipv4Addr, destination: Ipv4Addr, length: u16) -> u32 {
    let words = |address: Ipv4Addr| {
        let bits = address.to_bits();
        (bits >> 16) + (bits & 0xffff)
    };
    words(source) + words(destination) + u32::from(PROTOCOL_TCP) + u32::from(length)
}

/// The checksum of RFC 1071 over `bytes`, starting from a sum of 16-bit words.
#[allow(
    clippy::cast_possible_truncation,
    reason = "the sum has been folded into 16 bits"
)]
fn internet_checksum(sum: u32, bytes: &[u8]) -> u16 {
    let mut sum = sum;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}
