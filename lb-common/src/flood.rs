//! What the program that makes a SYN flood, and the client that runs it, agree on.
//!
//! The program is an XDP program that `BPF_PROG_TEST_RUN` runs on live frames: it makes each frame a SYN from another
//! address and transmits it. It belongs to the tests; the product does not contain it.

use core::net::IpAddr;

/// Length of all frames, in bytes: Ethernet, IPv6 and TCP without options fit. What an IPv4 packet leaves is padding, as
/// Ethernet itself pads short packets.
pub const FRAME_LENGTH: usize = WORDS * size_of::<u64>();

/// How many words make a frame.
const WORDS: usize = 10;

/// Where the varying fields are in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// The last 4 bytes of the source address.
    pub source: usize,
    /// The source port.
    pub port: usize,
    /// The sequence number.
    pub sequence: usize,
    /// TCP's checksum.
    pub tcp_checksum: usize,
}

/// The varying fields of a TCP segment in an IPv4 packet without options.
pub const OFFSETS_V4: Offsets = Offsets::of(14 + 12, 14 + 20);
/// The same in IPv6.
pub const OFFSETS_V6: Offsets = Offsets::of(14 + 8 + 12, 14 + 40);
/// IPv4's own checksum.
pub const IPV4_CHECKSUM: usize = 14 + 10;

impl Offsets {
    const fn of(source: usize, tcp: usize) -> Self {
        Self {
            source,
            port: tcp,
            sequence: tcp + 4,
            tcp_checksum: tcp + 16,
        }
    }
}

/// The flood that a program makes, in its map [`FLOOD`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Flood {
    /// A SYN whose varying fields are zero; in words, because the program copies words and not bytes.
    template: [u64; WORDS],
    /// State of the random numbers.
    state: u64,
    /// How many frames have been made.
    pub made: u64,
    /// The sum of the template's 16-bit words that TCP's checksum covers (RFC 1071), folded into 16 bits.
    tcp_sum: u32,
    /// The same of the IPv4 header.
    ip_sum: u32,
    /// What all source addresses have in common in their last 4 bytes, host byte order.
    network: u32,
    /// The bits in which they differ.
    hosts: u32,
    /// 1 for IPv6, 0 for IPv4.
    is_ipv6: u32,
    reserved: u32,
}

/// What tells a frame from the others, as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variation {
    /// The last 4 bytes of the source address.
    pub source: [u8; 4],
    /// The source port.
    pub port: [u8; 2],
    /// The sequence number.
    pub sequence: [u8; 4],
    /// TCP's checksum.
    pub tcp_checksum: [u8; 2],
    /// IPv4's checksum; without meaning in IPv6.
    pub ip_checksum: [u8; 2],
}

impl Flood {
    /// SYNs like the template, from random addresses of the network and random ports.
    ///
    /// The template is a frame without VLAN tags and IP options, with right checksums, and of the network's family. Port,
    /// sequence number, and the last 4 bytes of the source address are zero. Of an IPv6 network's addresses only the
    /// last 4 bytes vary, even if it is larger. `None` if the template is longer than a frame can be.
    pub fn new(template: &[u8], network: IpAddr, prefix: u8, seed: u64) -> Option<Self> {
        let mut bytes = [0; FRAME_LENGTH];
        bytes.get_mut(..template.len())?.copy_from_slice(template);
        let (offsets, address, length) = match network {
            IpAddr::V4(address) => (OFFSETS_V4, address.octets(), 32),
            IpAddr::V6(address) => {
                let [.., a, b, c, d] = address.octets();
                (OFFSETS_V6, [a, b, c, d], 128)
            }
        };
        let sum_at = |offset: usize| u32::from(!u16::from_be_bytes([bytes[offset], bytes[offset + 1]]));
        let (tcp_sum, ip_sum) = (sum_at(offsets.tcp_checksum), sum_at(IPV4_CHECKSUM));
        let host_bits = u32::from(128u8.min(length).saturating_sub(prefix));
        let hosts = u32::MAX
            .checked_shr(u32::BITS.saturating_sub(host_bits))
            .unwrap_or(0);
        let (words, _) = bytes.as_chunks();
        Some(Self {
            template: core::array::from_fn(|index| u64::from_ne_bytes(words[index])),
            state: seed,
            made: 0,
            tcp_sum,
            ip_sum,
            network: u32::from_be_bytes(address) & !hosts,
            hosts,
            is_ipv6: u32::from(network.is_ipv6()),
            reserved: 0,
        })
    }

    /// The frame without what varies, in words of the host's byte order.
    #[inline(always)]
    pub const fn template(&self) -> &[u64; WORDS] {
        &self.template
    }

    /// Whether the frames are IPv6.
    #[inline(always)]
    pub const fn is_ipv6(&self) -> bool {
        self.is_ipv6 != 0
    }

    /// What varies in the next frame.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "fields are cut out of random words"
    )]
    pub const fn next(&mut self) -> Variation {
        let (first, second) = (random(&mut self.state), random(&mut self.state));
        let source = self.network | (first as u32 & self.hosts);
        // Not one of the lowest ports, from which no client connects.
        let port = (first >> 32) as u16 | 1024;
        let sequence = second as u32;
        let of_source = (source >> 16) + (source & 0xffff);
        let of_tcp = port as u32 + (sequence >> 16) + (sequence & 0xffff);
        self.made = self.made.wrapping_add(1);
        Variation {
            source: source.to_be_bytes(),
            port: port.to_be_bytes(),
            sequence: sequence.to_be_bytes(),
            tcp_checksum: checksum(self.tcp_sum + of_source + of_tcp).to_be_bytes(),
            ip_checksum: checksum(self.ip_sum + of_source).to_be_bytes(),
        }
    }
}

/// The next random number: `SplitMix64` (G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators",
/// 2014).
#[inline(always)]
pub const fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The checksum of a sum of fewer than 2^16 words of 16 bits (RFC 1071). Folding twice is enough.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "it has been folded into 16 bits")]
const fn checksum(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    !(sum as u16)
}

/// The name of the map in the program's object file: an array of one [`Flood`].
pub const FLOOD: &str = "FLOOD";

/// The name of the program in its object file.
pub const PROGRAM: &str = "flood";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::tcp::Flags;
    use crate::testing::Frame;
    use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
    use std::collections::BTreeSet;
    use std::vec::Vec;

    fn syn(client: SocketAddr, service: SocketAddr, sequence: u32) -> Vec<u8> {
        Frame::new(client, service)
            .flags(Flags::SYN)
            .sequence(sequence)
            .bytes()
    }

    /// The next frame as the program makes it.
    fn next(flood: &mut Flood) -> (Variation, Vec<u8>) {
        let mut frame: Vec<u8> = flood
            .template()
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        let variation = flood.next();
        let offsets = if flood.is_ipv6() {
            OFFSETS_V6
        } else {
            frame[IPV4_CHECKSUM..][..2].copy_from_slice(&variation.ip_checksum);
            OFFSETS_V4
        };
        frame[offsets.source..][..4].copy_from_slice(&variation.source);
        frame[offsets.port..][..2].copy_from_slice(&variation.port);
        frame[offsets.sequence..][..4].copy_from_slice(&variation.sequence);
        frame[offsets.tcp_checksum..][..2].copy_from_slice(&variation.tcp_checksum);
        (variation, frame)
    }

    #[test]
    fn the_layout_has_no_hidden_padding() {
        assert_eq!(size_of::<Flood>(), FRAME_LENGTH + 2 * 8 + 6 * 4);
    }

    #[test]
    fn frames_are_what_a_client_would_send() {
        let service4 = SocketAddr::from((Ipv4Addr::new(10, 77, 0, 51), 21050));
        let service6 = SocketAddr::from((Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x51), 21050));
        let network4 = Ipv4Addr::new(198, 18, 0, 0);
        let network6 = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 7, 0, 0);
        let none4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let none6 = SocketAddr::from((network6, 0));
        let mut floods = [
            (
                service4,
                Flood::new(&syn(none4, service4, 0), network4.into(), 15, 1).unwrap(),
            ),
            (
                service6,
                Flood::new(&syn(none6, service6, 0), network6.into(), 64, 1).unwrap(),
            ),
        ];
        for (service, flood) in &mut floods {
            let mut clients = BTreeSet::new();
            for made in 1..=1000 {
                let (variation, frame) = next(flood);
                assert_eq!(flood.made, made);
                let source = u32::from_be_bytes(variation.source);
                let address: IpAddr = if flood.is_ipv6() {
                    (network6.to_bits() | u128::from(source)).to_be_bytes().into()
                } else {
                    assert_eq!(source & 0xfffe_0000, network4.to_bits());
                    Ipv4Addr::from_bits(source).into()
                };
                let port = u16::from_be_bytes(variation.port);
                assert!(port >= 1024);
                let client = SocketAddr::new(address, port);
                let sequence = u32::from_be_bytes(variation.sequence);
                let expected = syn(client, *service, sequence);
                assert_eq!(frame[..expected.len()], expected, "from {client}");
                assert!(frame[expected.len()..].iter().all(|&byte| byte == 0));
                clients.insert((client, sequence));
            }
            assert_eq!(clients.len(), 1000);
        }
    }

    #[test]
    fn one_address_is_a_network_too_and_a_long_template_is_refused() {
        let one = IpAddr::from(Ipv4Addr::new(198, 18, 0, 7));
        let mut flood = Flood::new(&[0; 54], one, 32, 1).unwrap();
        assert_eq!(flood.next().source, [198, 18, 0, 7]);
        assert_eq!(flood.next().source, [198, 18, 0, 7]);
        assert_eq!(Flood::new(&[0; FRAME_LENGTH + 1], one, 32, 1), None);
    }
}
