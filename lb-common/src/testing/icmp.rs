//! ICMP errors as a router between balancer and client would send them, and what must become of them.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::{vec, vec::Vec};

use super::{
    cases::{CLIENT, CLIENT6, Case, Outcome},
    frame::{BALANCER_MAC, CLIENT_MAC, Frame, internet_checksum, sum_of_words},
    tables::{
        NAT, NAT_BACKEND, NAT_BACKEND6, NAT_CLIENT, NAT_CLIENT6, NAT6, NONE, ONE, ONE6, REFUSING6,
        RESTRICTED, THREE, THREE6, UNRESOLVED, VIP,
    },
};
use crate::{
    counter::Counter,
    headers::{
        ethernet::ethertype,
        icmp::{self, kind},
        ipv6::extension,
    },
};

/// The router that sends the errors, over IPv4.
const ROUTER: [u8; 4] = [203, 0, 113, 1];
/// The same over IPv6.
const ROUTER6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// Builds a frame with an error about a segment from a service to a client.
#[derive(Clone, Debug)]
pub struct IcmpError {
    destination: [u8; 6],
    client: SocketAddr,
    service: SocketAddr,
    receiver: IpAddr,
    sender: Option<IpAddr>,
    source: [u8; 6],
    hop_limit: u8,
    kind: u8,
    protocol: u8,
    outer_fragment: u16,
    outer_options: usize,
    inner_options: usize,
    inner_fragment: u16,
    inner_protocol: u8,
    inner_version: Option<u8>,
    payload: usize,
    quote: usize,
    tags: usize,
}

impl IcmpError {
    /// The error that a segment was too big, which quotes all of the segment.
    pub fn about(client: SocketAddr, service: SocketAddr) -> Self {
        let v4 = client.is_ipv4();
        Self {
            destination: BALANCER_MAC,
            client,
            service,
            receiver: service.ip(),
            sender: None,
            source: CLIENT_MAC,
            hop_limit: 64,
            kind: if v4 {
                kind::UNREACHABLE
            } else {
                kind::PACKET_TOO_BIG_V6
            },
            protocol: if v4 { icmp::PROTOCOL } else { icmp::PROTOCOL_V6 },
            outer_fragment: 0,
            outer_options: 0,
            inner_options: 0,
            inner_fragment: 0x4000,
            inner_protocol: 6,
            inner_version: None,
            payload: 0,
            quote: usize::MAX,
            tags: 0,
        }
    }

    /// Sets the destination MAC address.
    #[must_use]
    pub fn destination(self, destination: [u8; 6]) -> Self {
        Self { destination, ..self }
    }

    /// Sends it to another address than that of the service.
    #[must_use]
    pub fn receiver(self, receiver: IpAddr) -> Self {
        Self { receiver, ..self }
    }

    /// Sends it from another address than that of the router.
    #[must_use]
    pub fn sender(self, sender: IpAddr) -> Self {
        Self {
            sender: Some(sender),
            ..self
        }
    }

    /// Sets the source MAC address.
    #[must_use]
    pub fn from(self, source: [u8; 6]) -> Self {
        Self { source, ..self }
    }

    /// Sets the error's own hop limit.
    #[must_use]
    pub fn hop_limit(self, hop_limit: u8) -> Self {
        Self { hop_limit, ..self }
    }

    /// Sets the type.
    #[must_use]
    pub fn kind(self, kind: u8) -> Self {
        Self { kind, ..self }
    }

    /// Sets the field of flags and fragment offset of the error's own IPv4 header.
    #[must_use]
    pub fn outer_fragment(self, outer_fragment: u16) -> Self {
        Self {
            outer_fragment,
            ..self
        }
    }

    /// Gives the error's own IPv4 header that many bytes of options.
    #[must_use]
    pub fn outer_options(self, outer_options: usize) -> Self {
        Self {
            outer_options,
            ..self
        }
    }

    /// Gives the quoted IPv4 header that many bytes of options.
    #[must_use]
    pub fn inner_options(self, inner_options: usize) -> Self {
        Self {
            inner_options,
            ..self
        }
    }

    /// Sets the field of flags and fragment offset of the quoted IPv4 header.
    #[must_use]
    pub fn inner_fragment(self, inner_fragment: u16) -> Self {
        Self {
            inner_fragment,
            ..self
        }
    }

    /// Sets the quoted protocol, whatever follows.
    #[must_use]
    pub fn inner_protocol(self, inner_protocol: u8) -> Self {
        Self {
            inner_protocol,
            ..self
        }
    }

    /// Sets the quoted IP version, whatever the header really is.
    #[must_use]
    pub fn inner_version(self, version: u8) -> Self {
        Self {
            inner_version: Some(version),
            ..self
        }
    }

    /// Gives the quoted segment that many bytes of payload.
    #[must_use]
    pub fn payload(self, payload: usize) -> Self {
        Self { payload, ..self }
    }

    /// Quotes only that many bytes behind the IP header.
    #[must_use]
    pub fn quote(self, quote: usize) -> Self {
        Self { quote, ..self }
    }

    /// Gives the frame that many VLAN tags.
    #[must_use]
    pub fn tags(self, tags: usize) -> Self {
        Self { tags, ..self }
    }

    /// The bytes on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.destination);
        frame.extend(self.source);
        for _ in 0..self.tags {
            frame.extend(ethertype::VLAN.to_be_bytes());
            frame.extend([0, 42]);
        }
        let inner = self.inner();
        match self.receiver {
            IpAddr::V4(receiver) => {
                frame.extend(ethertype::IPV4.to_be_bytes());
                frame.extend(self.ipv4(receiver.octets(), &self.error(0, &inner)));
            }
            IpAddr::V6(receiver) => {
                frame.extend(ethertype::IPV6.to_be_bytes());
                let length = u16::try_from(icmp::HEADER_LENGTH + inner.len()).expect("it fits");
                let sender = match self.sender {
                    Some(IpAddr::V6(sender)) => sender.octets(),
                    _ => ROUTER6,
                };
                let addresses = [sender, receiver.octets()].concat();
                let pseudo = sum_of_words(&addresses) + u32::from(length) + u32::from(icmp::PROTOCOL_V6);
                frame.extend([0x60, 0, 0, 0]);
                frame.extend(length.to_be_bytes());
                frame.extend([self.protocol, self.hop_limit]);
                frame.extend(addresses);
                frame.extend(self.error(pseudo, &inner));
            }
        }
        frame
    }

    /// The quoted packet: what the service has sent, cut.
    fn inner(&self) -> Vec<u8> {
        let segment = Frame::new(self.service, self.client)
            .payload(&vec![7; self.payload])
            .protocol(self.inner_protocol);
        let (packet, header) = if self.client.is_ipv4() {
            let segment = segment
                .ip_options(&vec![1; self.inner_options])
                .fragment(self.inner_fragment);
            (segment, 20 + self.inner_options)
        } else {
            (segment, 40)
        };
        let packet = match self.inner_version {
            Some(version) => packet.version(version),
            None => packet,
        };
        let mut bytes = packet.bytes().split_off(14);
        bytes.truncate(header.saturating_add(self.quote));
        bytes
    }

    fn error(&self, pseudo: u32, inner: &[u8]) -> Vec<u8> {
        let mut error = vec![self.kind, 4, 0, 0, 0, 0, 0x05, 0x14];
        error.extend(inner);
        let checksum = internet_checksum(pseudo, &error);
        error[2..4].copy_from_slice(&checksum.to_be_bytes());
        error
    }

    fn ipv4(&self, receiver: [u8; 4], error: &[u8]) -> Vec<u8> {
        let header = 20 + self.outer_options;
        let words = u8::try_from(header / 4).expect("at most 15 words");
        let total = u16::try_from(header + error.len()).expect("it fits");
        let mut packet = vec![0x40 | words, 0];
        packet.extend(total.to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(self.outer_fragment.to_be_bytes());
        packet.extend([self.hop_limit, self.protocol, 0, 0]);
        packet.extend(match self.sender {
            Some(IpAddr::V4(sender)) => sender.octets(),
            _ => ROUTER,
        });
        packet.extend(receiver);
        packet.resize(header, 1);
        let checksum = internet_checksum(0, &packet);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet.extend(error);
        packet
    }
}

/// Errors about connections that are translated, from either side.
fn translated_cases() -> Vec<Case> {
    let case = |sentence, error: IcmpError, outcome| Case {
        sentence,
        frame: error.bytes(),
        outcome,
    };
    let mut cases = Vec::new();
    for (client, service, backend) in [(NAT_CLIENT, NAT, NAT_BACKEND), (NAT_CLIENT6, NAT6, NAT_BACKEND6)] {
        let stranger = SocketAddr::new(client.ip(), client.port() + 1);
        let on_vip = |port| SocketAddr::new(service.ip(), port);
        let from_client = || IcmpError::about(client, service);
        let from_backend = || IcmpError::about(backend, on_vip(client.port()));
        for (sentence, error) in [
            (
                "an error about a translated answer goes to the backend",
                from_client(),
            ),
            (
                "an error about a translated packet goes to the client",
                from_backend(),
            ),
        ] {
            for error in [
                error.clone(),
                error.clone().quote(8),
                error.clone().quote(17),
                error.clone().quote(18).tags(2),
                error.payload(500),
            ] {
                cases.push(case(sentence, error, Outcome::TranslateError));
            }
        }
        for error in [from_client(), from_backend()] {
            cases.push(case(
                "an error about a translated connection may use up its hop limit",
                error.clone().hop_limit(1),
                Outcome::Drop(Counter::DropTtlExpired),
            ));
            cases.push(case(
                "7 quoted bytes do not tell a translated connection",
                error.clone().quote(7),
                Outcome::Pass,
            ));
            cases.push(case(
                "an error about a translated connection for another host is left to the kernel",
                error.destination([0x02, 0, 0, 0, 0, 0x02]),
                Outcome::Pass,
            ));
        }
        cases.push(case(
            "an error about a connection that the service does not have is left to the kernel",
            IcmpError::about(stranger, service),
            Outcome::Pass,
        ));
        cases.push(case(
            "an error about a connection that the backend does not have is left to the kernel",
            IcmpError::about(backend, on_vip(stranger.port())),
            Outcome::Pass,
        ));
        cases.push(case(
            "an error about a translated packet to somebody else is left to the kernel",
            IcmpError::about(stranger, on_vip(client.port())),
            Outcome::Pass,
        ));
    }
    cases.push(case(
        "IP options, the error's own and quoted ones, stay where they are in an error that is translated",
        IcmpError::about(NAT_CLIENT, NAT)
            .outer_options(40)
            .inner_options(40)
            .quote(8),
        Outcome::TranslateError,
    ));
    cases
}

/// All cases.
#[allow(clippy::too_many_lines, reason = "a table")]
pub(super) fn cases() -> Vec<Case> {
    let case = |sentence, error: IcmpError, outcome| Case {
        sentence,
        frame: error.bytes(),
        outcome,
    };
    let to_target_1 = Outcome::ForwardError { id: 1 };
    let about = || IcmpError::about(CLIENT, ONE);
    let about6 = || IcmpError::about(CLIENT6, ONE6);
    let elsewhere = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 11));
    let mut cases = vec![
        case(
            "\"fragmentation needed\" goes to the flow's backend",
            about(),
            to_target_1,
        ),
        case(
            "as little as 8 bytes of the segment tell the flow",
            about().quote(8),
            to_target_1,
        ),
        case("7 bytes do not", about().quote(7), Outcome::Pass),
        case(
            "a long quotation travels along",
            about().payload(500),
            to_target_1,
        ),
        case(
            "quoted IP options do not hide the ports",
            about().inner_options(40).quote(8),
            to_target_1,
        ),
        case(
            "IP options of the error do not hide the ports",
            about().outer_options(40).inner_options(8),
            to_target_1,
        ),
        case("VLAN tags stay on an error", about().tags(2), to_target_1),
        case(
            "a quoted first fragment has the ports",
            about().inner_fragment(0x2000),
            to_target_1,
        ),
        case(
            "a quoted later fragment has none",
            about().inner_fragment(0x2001),
            Outcome::Pass,
        ),
        case(
            "a fragment of an error is left to the kernel",
            about().outer_fragment(0x2000),
            Outcome::Pass,
        ),
        case(
            "an error about UDP is left to the kernel",
            about().inner_protocol(17),
            Outcome::Pass,
        ),
        case(
            "a malformed quotation is left to the kernel",
            about().inner_version(5),
            Outcome::Pass,
        ),
        case(
            "an error about a port without a service is left to the kernel",
            IcmpError::about(CLIENT, SocketAddr::new(VIP, 22)),
            Outcome::Pass,
        ),
        case(
            "an error that quotes somebody else's packet is left to the kernel",
            about().receiver(elsewhere),
            Outcome::Pass,
        ),
        case(
            "an error to another address of ours is left to the kernel",
            IcmpError::about(CLIENT, SocketAddr::new(elsewhere, ONE.port())),
            Outcome::Pass,
        ),
        case(
            "an error for another host, seen in promiscuous mode, is left to the kernel",
            about().destination([0x02, 0, 0, 0, 0, 0x02]),
            Outcome::Pass,
        ),
        case(
            "an error about a service without backends is left to the kernel",
            IcmpError::about(CLIENT, NONE),
            Outcome::Pass,
        ),
        case(
            "an error for a backend without a MAC address is left to the kernel",
            IcmpError::about(CLIENT, UNRESOLVED),
            Outcome::Pass,
        ),
        case(
            "an error about an allowed client is forwarded",
            IcmpError::about(CLIENT, RESTRICTED),
            to_target_1,
        ),
        case(
            "an error about a client that is not allowed is left to the kernel",
            IcmpError::about(SocketAddr::from(([203, 0, 113, 9], 40000)), RESTRICTED),
            Outcome::Pass,
        ),
        case(
            "\"packet too big\" goes to the flow's backend",
            about6(),
            to_target_1,
        ),
        case(
            "over IPv6 8 bytes are enough, too",
            about6().quote(8),
            to_target_1,
        ),
        case("and 7 are not", about6().quote(7), Outcome::Pass),
        case(
            "VLAN tags stay on an ICMPv6 error",
            about6().tags(2).payload(900),
            to_target_1,
        ),
        case(
            "an error about a fragment over IPv6 is left to the kernel",
            about6().inner_protocol(extension::FRAGMENT),
            Outcome::Pass,
        ),
        case(
            "a malformed quotation over IPv6 is left to the kernel",
            about6().inner_version(4),
            Outcome::Pass,
        ),
        case(
            "an error about an IPv6 service without backends is left to the kernel",
            IcmpError::about(CLIENT6, REFUSING6),
            Outcome::Pass,
        ),
    ];
    cases.extend(translated_cases());
    // Every type there could be: errors about segments are forwarded, echo and all else is the kernel's.
    for kind in 0..=u8::MAX {
        let is_error = matches!(kind, 3 | 4 | 11 | 12);
        cases.push(case(
            "ICMP is forwarded if it is an error",
            about().kind(kind),
            if is_error { to_target_1 } else { Outcome::Pass },
        ));
        cases.push(case(
            "ICMPv6 is forwarded if it is an error",
            about6().kind(kind),
            if matches!(kind, 1..=4) {
                to_target_1
            } else {
                Outcome::Pass
            },
        ));
    }
    // The flow's slot is that of the client's packets.
    for (client, service) in [(CLIENT, THREE), (CLIENT6, THREE6)] {
        let targets = if client.is_ipv4() {
            super::cases::THREE_TARGETS
        } else {
            super::cases::THREE6_TARGETS
        };
        for (port, id) in targets {
            cases.push(case(
                "an error goes where the flow's own packets go",
                IcmpError::about(SocketAddr::new(client.ip(), port), service),
                Outcome::ForwardError { id },
            ));
        }
    }
    // Cut anywhere, an error is the kernel's.
    for whole in [about().quote(8).bytes(), about6().quote(8).bytes()] {
        for length in 14..whole.len() {
            cases.push(Case {
                sentence: "an error that ends before the quoted ports is left to the kernel",
                frame: whole[..length].to_vec(),
                outcome: Outcome::Pass,
            });
        }
    }
    cases
}
