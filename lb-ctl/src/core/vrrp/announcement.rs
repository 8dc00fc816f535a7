//! The frames by which a master tells everybody on the link whose an address is now: gratuitous ARP (RFC 5227, section 3) and
//! unsolicited neighbour advertisements (RFC 4861, section 7.2.6).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::{address::Address, headers::checksum::Sum};

use crate::core::interface::Mac;

const BROADCAST: Mac = [0xff; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// The Ethernet address of [`ALL_NODES`].
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];

const ICMPV6: u8 = 58;

/// The frame that says: this address is at this MAC address.
pub fn announcement(address: IpAddr, mac: Mac) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => gratuitous_arp(address, mac),
        IpAddr::V6(address) => neighbour_advertisement(address, mac),
    }
}

/// A request for one's own address: hosts that have an entry for it take over the sender's MAC address.
fn gratuitous_arp(address: Ipv4Addr, mac: Mac) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend(BROADCAST);
    frame.extend(mac);
    // ARP; Ethernet, IPv4, their lengths, request.
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

fn neighbour_advertisement(address: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let mut message = Vec::with_capacity(32);
    // Type, code, checksum; the flags "router", as RFC 9568, 6.4.1, has it, and "override": whoever has another MAC address is to forget it.
    message.extend([136, 0, 0, 0, 0xa0, 0, 0, 0]);
    message.extend(address.octets());
    // The target's link-layer address, 1 x 8 bytes.
    message.extend([2, 1]);
    message.extend(mac);
    let (words, _) = message.as_chunks::<4>();
    let sum = words
        .iter()
        .fold(Sum::ZERO, |sum, word| sum.plus(u32::from_be_bytes(*word)));
    let checksum = sum
        .plus_address(Address::from(IpAddr::V6(address)))
        .plus_address(Address::from(IpAddr::V6(ALL_NODES)))
        .plus(32)
        .plus(ICMPV6.into())
        .checksum();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());

    let mut frame = Vec::with_capacity(86);
    frame.extend(ALL_NODES_MAC);
    frame.extend(mac);
    // IPv6; payload length, next header, hop limit.
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, ICMPV6, 255]);
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 7];

    #[test]
    fn a_gratuitous_arp_byte_by_byte() {
        let frame = announcement(IpAddr::from([192, 0, 2, 10]), MAC);
        let expected = [
            &[0xff; 6][..],
            &MAC,
            &[0x08, 0x06],
            &[0, 1, 0x08, 0, 6, 4, 0, 1],
            &MAC,
            &[192, 0, 2, 10],
            &[0; 6],
            &[192, 0, 2, 10],
        ];
        assert_eq!(frame, expected.concat());
    }

    /// The checksum by hand: 8800 + a000 + 0201 + 0200 + 0000 + 0007 of the message, (2001 + 0db8 + 0010) x 2 of the address as
    /// target and as source, ff02 + 0001 of the destination, 0020, 003a.
    #[test]
    fn a_neighbour_advertisement_byte_by_byte() {
        let frame = announcement("2001:db8::10".parse().unwrap(), MAC);
        let address = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
        let sum: u32 = 0x8800
            + 0xa000
            + 0x0201
            + 0x0200
            + 0x0007
            + 2 * (0x2001 + 0x0db8 + 0x0010)
            + 0xff02
            + 1
            + 0x20
            + 0x3a;
        let checksum = !u16::try_from((sum >> 16) + (sum & 0xffff)).unwrap();
        let expected = [
            &[0x33, 0x33, 0, 0, 0, 1][..],
            &MAC,
            &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255],
            &address,
            &[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            &[136, 0],
            &checksum.to_be_bytes(),
            &[0xa0, 0, 0, 0],
            &address,
            &[2, 1],
            &MAC,
        ];
        assert_eq!(frame, expected.concat());
    }
}
