//! One frame, one fate: the cases that host and kernel must agree on.

mod tunnels;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::{vec, vec::Vec};

use super::{
    affinity,
    frame::Frame,
    icmp,
    tables::{
        DANGLING, NAT, NAT_BACKEND, NAT_TARGET, NAT6, NAT6_TARGET, NONE, ONE, ONE6, REFUSING, REFUSING6,
        RESTRICTED, RESTRICTED6, THREE, THREE6, UNRESOLVED, VIP, VIP6,
    },
};
use crate::{
    counter::Counter,
    headers::{ethernet::ethertype, icmp::PROTOCOL_V6, ipv6::extension, tcp::Flags},
};

/// What must happen to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel gets it, unchanged and uncounted.
    Pass,
    /// It is dropped under this counter.
    Drop(Counter),
    /// An RST goes back to its sender, counted under this counter.
    Reset(Counter),
    /// It is an ICMP error, and leaves towards this target changed as its flow's own packets are.
    ForwardError {
        /// The target's id.
        id: u16,
    },
    /// It is an ICMP error about a translated connection, and leaves translated.
    TranslateError,
    /// It leaves towards this target, changed as that is reached: see [`forward`](crate::forward).
    Forward {
        /// The target's id.
        id: u16,
        /// Whether it is counted as a new flow.
        new_flow: bool,
    },
    /// It does not fit the way to its target. Its sender is told how long it may be.
    TooBig,
}

/// A frame, what must happen to it under [`HostTables::fixture`](super::HostTables::fixture), and why.
#[derive(Clone, Debug)]
pub struct Case {
    /// The expectation in a sentence.
    pub sentence: &'static str,
    /// The frame as received.
    pub frame: Vec<u8>,
    /// Its fate.
    pub outcome: Outcome,
}

/// The client of the cases over IPv4.
pub const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), 40000);
/// The client of the cases over IPv6.
pub const CLIENT6: SocketAddr = SocketAddr::new(
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x7, 0, 0, 0, 0, 0x77)),
    40000,
);
/// A client all of whose possible ports other connections to [`NAT`] have.
pub const CLIENT_WITHOUT_PORT: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 9)), 40000);

/// All cases.
#[allow(clippy::too_many_lines, reason = "a table")]
pub fn cases() -> Vec<Case> {
    let to_target_1 = Outcome::Forward {
        id: 1,
        new_flow: false,
    };
    let ack = || Frame::new(CLIENT, ONE);
    let case = |sentence, frame: Frame, outcome| Case {
        sentence,
        frame: frame.bytes(),
        outcome,
    };
    let raw = |sentence, frame: Vec<u8>, outcome| Case {
        sentence,
        frame,
        outcome,
    };
    let mut cases = vec![
        case(
            "a segment of a service goes to the slot's target",
            ack(),
            to_target_1,
        ),
        case(
            "a payload travels along",
            ack().payload(&[0xab; 1000]),
            to_target_1,
        ),
        case(
            "padding up to Ethernet's minimum travels along",
            ack().padding(6),
            to_target_1,
        ),
        case(
            "a SYN counts as a new flow",
            ack().flags(Flags::SYN).tcp_options(&[2, 4, 5, 0xb4]),
            Outcome::Forward {
                id: 1,
                new_flow: true,
            },
        ),
        case(
            "a SYN-ACK does not open a flow",
            ack().flags(Flags::SYN | Flags::ACK),
            to_target_1,
        ),
        case(
            "a FIN is forwarded",
            ack().flags(Flags::FIN | Flags::ACK),
            to_target_1,
        ),
        case("an RST is forwarded", ack().flags(Flags::RST), to_target_1),
        case(
            "a segment without any control bit is forwarded",
            ack().flags(0),
            to_target_1,
        ),
        case(
            "IP options do not hide the ports",
            ack().ip_options(&[1; 40]),
            to_target_1,
        ),
        case(
            "TCP options up to 40 bytes are no fault",
            ack().tcp_options(&[1; 40]),
            to_target_1,
        ),
        case(
            "one VLAN tag stays on the frame",
            ack().tag(ethertype::VLAN),
            to_target_1,
        ),
        case(
            "two VLAN tags stay on the frame",
            ack()
                .tag(ethertype::SERVICE_VLAN)
                .tag(ethertype::VLAN)
                .ip_options(&[1; 8]),
            to_target_1,
        ),
        case(
            "a third VLAN tag is left to the kernel",
            ack()
                .tag(ethertype::VLAN)
                .tag(ethertype::VLAN)
                .tag(ethertype::VLAN),
            Outcome::Pass,
        ),
        case(
            "a frame for another host, seen in promiscuous mode, is left to the kernel",
            ack().destination([0x02, 0, 0, 0, 0, 0x02]),
            Outcome::Pass,
        ),
        case(
            "a broadcast frame is left to the kernel",
            ack().destination([0xff; 6]),
            Outcome::Pass,
        ),
        case(
            "a fragment for another host is left to the kernel",
            ack().destination([0x02, 0, 0, 0, 0, 0x02]).fragment(0x2000),
            Outcome::Pass,
        ),
        case(
            "ARP is left to the kernel",
            ack().ethertype(0x0806),
            Outcome::Pass,
        ),
        case(
            "UDP to a VIP is left to the kernel",
            ack().protocol(17),
            Outcome::Pass,
        ),
        case(
            "ICMP to a VIP is left to the kernel",
            ack().protocol(1),
            Outcome::Pass,
        ),
        case(
            "a VIP's port without a service is left to the kernel, which resets it",
            Frame::new(CLIENT, SocketAddr::new(VIP, 22)),
            Outcome::Pass,
        ),
        case(
            "another address with a service's port is left to the kernel",
            Frame::new(CLIENT, SocketAddr::new(IpAddr::from([192, 0, 2, 11]), ONE.port())),
            Outcome::Pass,
        ),
        case(
            "port 0 of a VIP is no service, though the table has an entry for the VIP",
            Frame::new(CLIENT, SocketAddr::new(VIP, 0)),
            Outcome::Pass,
        ),
        case(
            "a fragment to an address that is no VIP is left to the kernel",
            Frame::new(CLIENT, SocketAddr::new(IpAddr::from([192, 0, 2, 11]), 80)).fragment(0x2000),
            Outcome::Pass,
        ),
        case(
            "the first fragment to a VIP is dropped",
            ack().fragment(0x2000),
            Outcome::Drop(Counter::DropFragment),
        ),
        case(
            "a later fragment to a VIP is dropped",
            ack().fragment(0x00b9),
            Outcome::Drop(Counter::DropFragment),
        ),
        case(
            "a fragment of UDP to a VIP is left to the kernel",
            ack().protocol(17).fragment(0x2000),
            Outcome::Pass,
        ),
        case(
            "an IP header that claims less than 20 bytes is malformed",
            ack().header_words(4),
            Outcome::Drop(Counter::DropMalformed),
        ),
        case(
            "a version other than 4 under IPv4's Ethernet type is malformed",
            ack().version(6),
            Outcome::Drop(Counter::DropMalformed),
        ),
        case(
            "a TCP header that claims less than 20 bytes is malformed",
            ack().data_offset(4),
            Outcome::Drop(Counter::DropMalformed),
        ),
        case(
            "a TCP header that claims more bytes than the packet has is truncated",
            ack().data_offset(6).padding(20),
            Outcome::Drop(Counter::DropTruncated),
        ),
        case(
            "a packet whose length leaves no room for TCP is truncated",
            ack().total_length(39),
            Outcome::Drop(Counter::DropTruncated),
        ),
        case(
            "a packet that claims more bytes than the frame has is truncated",
            ack().total_length(41),
            Outcome::Drop(Counter::DropTruncated),
        ),
        case(
            "a service without backends drops",
            Frame::new(CLIENT, NONE),
            Outcome::Drop(Counter::DropNoBackend),
        ),
        case(
            "a backend without a MAC address drops",
            Frame::new(CLIENT, UNRESOLVED),
            Outcome::Drop(Counter::DropNextHopUnknown),
        ),
        case(
            "a slot that names no existing target drops",
            Frame::new(CLIENT, DANGLING),
            Outcome::Drop(Counter::DropTableInconsistent),
        ),
    ];

    cases.extend(ipv6_cases());
    cases.extend(translation_cases());
    cases.extend(tunnels::cases());
    cases.extend(refusals());
    cases.extend(restrictions());
    cases.extend(icmp::cases());
    cases.extend(jumbo_cases());
    cases.extend(affinity::cases());

    // Each client port picks its own slot. The targets follow from the hash's definition, computed elsewhere.
    for (client, service, targets) in [(CLIENT, THREE, THREE_TARGETS), (CLIENT6, THREE6, THREE6_TARGETS)] {
        for (port, id) in targets {
            cases.push(case(
                "a flow's slot follows from the client's address and port",
                Frame::new(SocketAddr::new(client.ip(), port), service),
                Outcome::Forward { id, new_flow: false },
            ));
        }
    }

    // Cut anywhere, a frame is either unreadable or counted. The kernel's test harness takes no frame below 14 bytes.
    for (client, service, addresses_end) in [(CLIENT, ONE, 14 + 20), (CLIENT6, ONE6, 14 + 40)] {
        let whole = Frame::new(client, service).payload(&[7; 10]).bytes();
        for length in 14..whole.len() {
            cases.push(if length < addresses_end {
                raw(
                    "cut in its IP header, a frame is left to the kernel",
                    whole[..length].to_vec(),
                    Outcome::Pass,
                )
            } else {
                raw(
                    "cut behind its IP header, a packet to a VIP is truncated",
                    whole[..length].to_vec(),
                    Outcome::Drop(Counter::DropTruncated),
                )
            });
        }
    }
    cases
}

/// What becomes of packets to services that refuse what nobody can take.
fn refusals() -> Vec<Case> {
    let mut cases = Vec::new();
    for (client, service) in [(CLIENT, REFUSING), (CLIENT6, REFUSING6)] {
        let segment = |flags| Frame::new(client, service).flags(flags);
        let nobody = SocketAddr::new(
            if client.is_ipv4() {
                IpAddr::from([0, 0, 0, 0])
            } else {
                IpAddr::from([0; 16])
            },
            40000,
        );
        let reset = Outcome::Reset(Counter::ResetSent);
        let drop = Outcome::Drop(Counter::DropNoBackend);
        let table = [
            (
                "a SYN to a service that nobody serves is answered with an RST",
                segment(Flags::SYN).tcp_options(&[2, 4, 5, 0xb4]),
                reset,
            ),
            (
                "so is a segment of a connection that nobody serves any more",
                segment(Flags::ACK).payload(&[7; 100]),
                reset,
            ),
            (
                "an RST has the VLAN tags of what it answers",
                segment(Flags::SYN)
                    .tag(ethertype::SERVICE_VLAN)
                    .tag(ethertype::VLAN)
                    .padding(2),
                reset,
            ),
            ("an RST is not answered", segment(Flags::RST), drop),
            (
                "who has no address is not answered",
                Frame::new(nobody, service).flags(Flags::SYN),
                drop,
            ),
        ];
        cases.extend(table.map(|(sentence, frame, outcome)| Case {
            sentence,
            frame: frame.bytes(),
            outcome,
        }));
    }
    cases.push(Case {
        sentence: "an RST has no IP options, whatever it answers",
        frame: Frame::new(CLIENT, REFUSING).ip_options(&[1; 40]).bytes(),
        outcome: Outcome::Reset(Counter::ResetSent),
    });
    cases
}

/// What becomes of packets to services that may not be used from everywhere.
fn restrictions() -> Vec<Case> {
    let case = |sentence, client: IpAddr, service, outcome| Case {
        sentence,
        frame: Frame::new(SocketAddr::new(client, 40000), service).bytes(),
        outcome,
    };
    let forward = Outcome::Forward {
        id: 1,
        new_flow: false,
    };
    let drop = Outcome::Drop(Counter::DropSourceNotAllowed);
    vec![
        case(
            "a restricted service serves the first address of an allowed prefix",
            IpAddr::from([198, 51, 100, 0]),
            RESTRICTED,
            forward,
        ),
        case(
            "and the last one",
            IpAddr::from([198, 51, 100, 127]),
            RESTRICTED,
            forward,
        ),
        case(
            "a source behind the allowed prefix is dropped",
            IpAddr::from([198, 51, 100, 128]),
            RESTRICTED,
            drop,
        ),
        case(
            "a source before the allowed prefix is dropped",
            IpAddr::from([198, 51, 99, 255]),
            RESTRICTED,
            drop,
        ),
        case(
            "a restricted service over IPv6 serves an allowed prefix",
            CLIENT6.ip(),
            RESTRICTED6,
            forward,
        ),
        case(
            "a source behind the allowed prefix over IPv6 is dropped",
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x7, 0, 0x8000, 0, 0, 0x77)),
            RESTRICTED6,
            drop,
        ),
    ]
}

/// The cases that are IPv6's own, and those that show that it is treated as IPv4 is.
#[allow(clippy::too_many_lines, reason = "a table")]
fn ipv6_cases() -> Vec<Case> {
    let to_target_1 = Outcome::Forward {
        id: 1,
        new_flow: false,
    };
    let ack = || Frame::new(CLIENT6, ONE6);
    let case = |sentence, frame: Frame, outcome| Case {
        sentence,
        frame: frame.bytes(),
        outcome,
    };
    let mut cases = vec![
        case(
            "a segment over IPv6 goes to the slot's target",
            ack(),
            to_target_1,
        ),
        case(
            "a payload over IPv6 travels along",
            ack().payload(&[0xab; 1000]),
            to_target_1,
        ),
        case("padding behind IPv6 travels along", ack().padding(6), to_target_1),
        case(
            "a SYN over IPv6 counts as a new flow",
            ack().flags(Flags::SYN).tcp_options(&[2, 4, 5, 0xa0]),
            Outcome::Forward {
                id: 1,
                new_flow: true,
            },
        ),
        case(
            "VLAN tags stay on an IPv6 frame",
            ack().tag(ethertype::SERVICE_VLAN).tag(ethertype::VLAN),
            to_target_1,
        ),
        case(
            "UDP over IPv6 to a VIP is left to the kernel",
            ack().protocol(17),
            Outcome::Pass,
        ),
        case(
            "ICMPv6 to a VIP is left to the kernel",
            ack().protocol(58),
            Outcome::Pass,
        ),
        case(
            "a port of an IPv6 VIP without a service is left to the kernel",
            Frame::new(CLIENT6, SocketAddr::new(VIP6, 22)),
            Outcome::Pass,
        ),
        case(
            "an extension header to an address that is no VIP is left to the kernel",
            Frame::new(CLIENT6, SocketAddr::new(CLIENT6.ip(), 80)).protocol(extension::HOP_BY_HOP),
            Outcome::Pass,
        ),
        case(
            "a fragment over IPv6 to a VIP is dropped",
            ack().extension(extension::FRAGMENT),
            Outcome::Drop(Counter::DropFragment),
        ),
        case(
            "a fragment of a long ping over IPv6 is left to the kernel",
            ack().protocol(PROTOCOL_V6).extension(extension::FRAGMENT),
            Outcome::Pass,
        ),
        case(
            "UDP behind an extension header is left to the kernel",
            ack().protocol(17).extension(extension::DESTINATION_OPTIONS),
            Outcome::Pass,
        ),
        case(
            "a fragment behind another extension header may be one of TCP, and is dropped",
            ack().extension(extension::FRAGMENT).extension(extension::ROUTING),
            Outcome::Drop(Counter::DropExtensionHeader),
        ),
        case(
            "an IPv4 client and VIP written as IPv6 addresses are none",
            Frame::new(mapped(CLIENT), mapped(ONE)),
            Outcome::Pass,
        ),
        case(
            "an IPv4 client written as an IPv6 address is none",
            Frame::new(mapped(CLIENT), ONE6),
            Outcome::Pass,
        ),
        case(
            "a version other than 6 under IPv6's Ethernet type is malformed",
            ack().version(4),
            Outcome::Drop(Counter::DropMalformed),
        ),
        case(
            "a TCP header over IPv6 that claims less than 20 bytes is malformed",
            ack().data_offset(4),
            Outcome::Drop(Counter::DropMalformed),
        ),
        case(
            "a TCP header over IPv6 that claims more bytes than the packet has is truncated",
            ack().data_offset(6).padding(20),
            Outcome::Drop(Counter::DropTruncated),
        ),
        case(
            "an IPv6 packet whose length leaves no room for TCP is truncated",
            ack().total_length(19),
            Outcome::Drop(Counter::DropTruncated),
        ),
        case(
            "an IPv6 packet that claims more bytes than the frame has is truncated",
            ack().total_length(21),
            Outcome::Drop(Counter::DropTruncated),
        ),
    ];
    for header in [
        extension::HOP_BY_HOP,
        extension::ROUTING,
        extension::DESTINATION_OPTIONS,
    ] {
        cases.push(case(
            "an IPv6 extension header before TCP to a VIP is dropped",
            ack().extension(header),
            Outcome::Drop(Counter::DropExtensionHeader),
        ));
    }
    cases
}

/// The cases of services that translate, each by itself. What packets change for those after them is in
/// [`translation`](crate::translation).
fn translation_cases() -> Vec<Case> {
    let case = |sentence, frame: Frame, outcome| Case {
        sentence,
        frame: frame.bytes(),
        outcome,
    };
    let mut cases = vec![
        case(
            "a SYN that finds all its ports taken is dropped",
            Frame::new(CLIENT_WITHOUT_PORT, NAT).flags(Flags::SYN),
            Outcome::Drop(Counter::DropNoFreePort),
        ),
        case(
            "a backend's segment that answers nobody is left to the kernel, which resets it",
            Frame::new(NAT_BACKEND, SocketAddr::new(VIP, 40009)).hop_limit(1),
            Outcome::Pass,
        ),
        case(
            "a SYN to a service that translates, for another host, is left to the kernel",
            Frame::new(CLIENT, NAT)
                .flags(Flags::SYN)
                .destination([0x02, 0, 0, 0, 0, 0x02]),
            Outcome::Pass,
        ),
        case(
            "a fragment to a service that translates is dropped as any other",
            Frame::new(CLIENT, NAT).fragment(0x2000),
            Outcome::Drop(Counter::DropFragment),
        ),
    ];
    for (client, service, id) in [(CLIENT, NAT, NAT_TARGET), (CLIENT6, NAT6, NAT6_TARGET)] {
        let from = |port| Frame::new(SocketAddr::new(client.ip(), port), service);
        cases.push(case(
            "a SYN to a service that translates goes to the slot's target",
            from(50001).flags(Flags::SYN),
            Outcome::Forward { id, new_flow: true },
        ));
        cases.push(case(
            "any other segment without a record is answered by an RST where each connection has one",
            from(50002).payload(b"late").tag(ethertype::VLAN),
            Outcome::Reset(Counter::ResetNoRecord),
        ));
        cases.push(case(
            "an RST without a record is not answered",
            from(50002).flags(Flags::RST),
            Outcome::Drop(Counter::DropNoRecord),
        ));
        for hops in [0, 1] {
            cases.push(case(
                "a packet whose hop limit is used up is not translated",
                from(50003).flags(Flags::SYN).hop_limit(hops),
                Outcome::Drop(Counter::DropTtlExpired),
            ));
        }
        for tags in [1, 2] {
            let tagged = (0..tags).fold(from(50003 + tags), |frame, _| frame.tag(ethertype::VLAN));
            cases.push(case(
                "VLAN tags stay on a frame that is translated",
                tagged
                    .flags(Flags::SYN)
                    .tcp_options(&[2, 4, 5, 0xb4])
                    .payload(&[7; 33]),
                Outcome::Forward { id, new_flow: true },
            ));
        }
    }
    cases.push(case(
        "IP options stay in a packet that is translated",
        Frame::new(CLIENT, NAT).flags(Flags::SYN).ip_options(&[1; 40]),
        Outcome::Forward {
            id: NAT_TARGET,
            new_flow: true,
        },
    ));
    cases
}

/// An IPv4 address in the notation of IPv6 that [`Address`](crate::address::Address) has for it.
fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// Frames that go on in fragments, beyond the page that the program sees.
fn jumbo_cases() -> Vec<Case> {
    let case = |sentence, frame: Frame, outcome| Case {
        sentence,
        frame: frame.bytes(),
        outcome,
    };
    let to_target_1 = Outcome::Forward {
        id: 1,
        new_flow: false,
    };
    let jumbo = Frame::new(CLIENT, ONE).payload(&[0xab; 8960]);
    vec![
        case(
            "a payload in the fragments of a jumbo frame travels along",
            jumbo.clone(),
            to_target_1,
        ),
        case(
            "a payload in the fragments of a jumbo frame over IPv6 travels along",
            Frame::new(CLIENT6, ONE6).payload(&[0xab; 8940]),
            to_target_1,
        ),
        case(
            "a packet that claims more bytes than a jumbo frame has is truncated",
            jumbo.total_length(9001),
            Outcome::Drop(Counter::DropTruncated),
        ),
    ]
}

/// Client ports and the targets that [`THREE`] gives them.
pub(super) const THREE_TARGETS: [(u16, u16); 6] = [
    (40000, 2),
    (40001, 1),
    (40002, 2),
    (40003, 1),
    (40004, 3),
    (40005, 3),
];

/// Client ports and the targets that [`THREE6`] gives them.
pub(super) const THREE6_TARGETS: [(u16, u16); 6] = [
    (40000, 1),
    (40001, 1),
    (40002, 3),
    (40003, 1),
    (40004, 2),
    (40005, 1),
];
