//! A packet as the flow's client would send it: headers only, for the decision to look at.

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    headers::{
        ethernet::ethertype,
        ipv4,
        tcp::{self, Flags},
    },
    layout::Node,
    slot_rule::Event,
};

/// A frame from `client` to `service`, which are of one family, addressed to the first of this host's interfaces.
pub(super) fn frame(event: Event, client: SocketAddr, service: SocketAddr, node: &Node) -> Vec<u8> {
    let [mac, ..] = node.macs;
    let mut frame = mac.to_ne_bytes()[..6].to_vec();
    frame.extend([0; 6]);
    match (client.ip(), service.ip()) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend(ethertype::IPV6.to_be_bytes());
            frame.extend([0x60, 0, 0, 0]);
            frame.extend(length(tcp::MIN_HEADER_LENGTH));
            frame.extend([tcp::PROTOCOL, 64]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        (source, destination) => {
            frame.extend(ethertype::IPV4.to_be_bytes());
            frame.extend([0x45, 0]);
            frame.extend(length(ipv4::MIN_HEADER_LENGTH + tcp::MIN_HEADER_LENGTH));
            // Identification, no fragment, hop limit, protocol, and a checksum that the decision does not look at.
            frame.extend([0, 0, 0x40, 0, 64, tcp::PROTOCOL, 0, 0]);
            for address in [source, destination] {
                frame.extend(lb_common::address::Address::from(address).v4_bits().to_be_bytes());
            }
        }
    }
    frame.extend(client.port().to_be_bytes());
    frame.extend(service.port().to_be_bytes());
    frame.extend(event.sequence.to_be_bytes());
    frame.extend([0; 4]);
    let flags = match event {
        Event { opens: true, .. } => Flags::SYN,
        Event { closes: true, .. } => Flags::FIN | Flags::ACK,
        _ => Flags::ACK,
    };
    // Five words of header, the flags, window, checksum, urgent pointer.
    frame.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    frame
}

/// A length field.
fn length(bytes: usize) -> [u8; 2] {
    // Two headers at most.
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}
