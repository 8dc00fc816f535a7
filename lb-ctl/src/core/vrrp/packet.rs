//! Advertisements with their IP header. We write the header ourselves, so that the source is the address that checksum and
//! tie-break go by, whatever the kernel would choose: VIPs are on the same interface.

use std::net::IpAddr;

use lb_common::headers::checksum::Sum;

use super::{
    acceptance::Received,
    advertisement::{HOP_LIMIT, PROTOCOL},
};
use crate::core::interface::Mac;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

/// DSCP CS6, network control (RFC 4594): not to wait behind what it guards.
const TRAFFIC_CLASS: u8 = 0xc0;

/// A packet with this payload. The kernel fills in the checksum of an IPv4 header.
pub fn with_ip_header(from: IpAddr, to: IpAddr, payload: &[u8]) -> Vec<u8> {
    let length = |header: usize| {
        u16::try_from(payload.len() + header)
            .unwrap_or(u16::MAX)
            .to_be_bytes()
    };
    let mut packet = Vec::with_capacity(IPV6_HEADER + payload.len());
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let [high, low] = length(IPV4_HEADER);
            packet.extend([
                0x45,
                TRAFFIC_CLASS,
                high,
                low,
                0,
                0,
                0,
                0,
                HOP_LIMIT,
                PROTOCOL,
                0,
                0,
            ]);
            packet.extend(from.octets());
            packet.extend(to.octets());
        }
        (from, to) => {
            let [high, low] = length(0);
            packet.extend([0x60 | TRAFFIC_CLASS >> 4, (TRAFFIC_CLASS & 0xf) << 4, 0, 0]);
            packet.extend([high, low, PROTOCOL, HOP_LIMIT]);
            for address in [from, to] {
                match address {
                    IpAddr::V4(address) => packet.extend(address.to_ipv6_mapped().octets()),
                    IpAddr::V6(address) => packet.extend(address.octets()),
                }
            }
        }
    }
    packet.extend(payload);
    packet
}

/// The whole frame of an advertisement to the multicast group, from this MAC address.
pub fn multicast_frame(mac: Mac, from: IpAddr, group: IpAddr, payload: &[u8]) -> Vec<u8> {
    let mut packet = with_ip_header(from, group, payload);
    // The MAC addresses of groups: RFC 1112, section 6.4, and RFC 2464, section 7.
    let (to, ethertype) = match group {
        IpAddr::V4(group) => {
            let [_, a, b, c] = group.octets();
            ([1, 0, 0x5e, a & 0x7f, b, c], [0x08, 0x00])
        }
        IpAddr::V6(group) => {
            let [.., a, b, c, d] = group.octets();
            ([0x33, 0x33, a, b, c, d], [0x86, 0xdd])
        }
    };
    if group.is_ipv4() {
        let (words, _) = packet[..IPV4_HEADER].as_chunks::<4>();
        let sum = words
            .iter()
            .fold(Sum::ZERO, |sum, word| sum.plus(u32::from_be_bytes(*word)));
        packet[10..12].copy_from_slice(&sum.checksum().to_be_bytes());
    }
    [&to[..], &mac, &ethertype, &packet].concat()
}

/// Takes an IPv4 packet apart, as a raw socket hands it out; `None` if it is cut off.
pub fn of_ipv4(packet: &[u8]) -> Option<Received<'_>> {
    let (header, _) = packet.split_first_chunk::<IPV4_HEADER>()?;
    let words = usize::from(header[0] & 0xf);
    let address = |at: usize| Some(IpAddr::from(*header.get(at..)?.first_chunk::<4>()?));
    Some(Received {
        from: address(12)?,
        to: address(16)?,
        hop_limit: header[8],
        bytes: packet.get((words * 4).max(IPV4_HEADER)..)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The checksum by hand: 45c0 + 001e + ff70 + c000 + 0202 + e000 + 0012 of the header.
    #[test]
    fn frames_to_the_group_have_the_mac_addresses_and_the_checksum_that_they_should() {
        let mac = [0, 0, 0x5e, 0, 1, 51];
        let from = IpAddr::from([192, 0, 2, 2]);
        let frame = multicast_frame(mac, from, IpAddr::from([224, 0, 0, 18]), b"0123456789");
        let sum: u32 = 0x45c0 + 0x1e + 0xff70 + 0xc000 + 0x0202 + 0xe000 + 0x12;
        let checksum = !u16::try_from((sum >> 16) + (sum & 0xffff)).unwrap();
        let expected = [
            &[1, 0, 0x5e, 0, 0, 18][..],
            &mac,
            &[0x08, 0, 0x45, 0xc0, 0, 30, 0, 0, 0, 0, 255, 112],
            &checksum.to_be_bytes(),
            &[192, 0, 2, 2, 224, 0, 0, 18],
            b"0123456789",
        ];
        assert_eq!(frame, expected.concat());

        let (from, to) = ("fe80::2".parse().unwrap(), "ff02::12".parse().unwrap());
        let frame = multicast_frame(mac, from, to, b"payload");
        assert_eq!(
            frame[..14],
            [0x33, 0x33, 0, 0, 0, 0x12, 0, 0, 0x5e, 0, 1, 51, 0x86, 0xdd]
        );
        assert_eq!(frame[14..], with_ip_header(from, to, b"payload"));
    }

    #[test]
    fn an_ipv4_packet_survives() {
        let (from, to) = (IpAddr::from([192, 0, 2, 2]), IpAddr::from([224, 0, 0, 18]));
        let packet = with_ip_header(from, to, b"payload");
        assert_eq!(packet.len(), 27);
        assert_eq!(packet[2..4], [0, 27]);
        let received = of_ipv4(&packet).unwrap();
        assert_eq!(
            received,
            Received {
                from,
                to,
                hop_limit: 255,
                bytes: b"payload"
            }
        );
        let mut with_options = packet.clone();
        with_options[0] = 0x46;
        with_options.splice(20..20, [1; 4]);
        assert_eq!(of_ipv4(&with_options).unwrap().bytes, b"payload");
    }

    #[test]
    fn an_ipv6_header_is_as_the_standard_has_it() {
        let from: IpAddr = "fe80::2".parse().unwrap();
        let to: IpAddr = "ff02::12".parse().unwrap();
        let packet = with_ip_header(from, to, b"payload");
        assert_eq!(packet[..8], [0x6c, 0, 0, 0, 0, 7, 112, 255]);
        assert_eq!((packet[8], packet[23]), (0xfe, 2));
        assert_eq!((packet[24], packet[39]), (0xff, 0x12));
        assert_eq!(packet[40..], *b"payload");
    }

    proptest! {
        #[test]
        fn no_packet_makes_it_panic(packet: Vec<u8>) {
            if let Some(received) = of_ipv4(&packet) {
                prop_assert!(packet.ends_with(received.bytes));
            }
        }
    }
}
