//! The cases of forwarding by `ipip`: every mixture of families over links with an MTU of 1500 bytes, and jumbo frames.

use core::net::SocketAddr;
use std::vec::Vec;

use super::{CLIENT, CLIENT6, Case, Outcome};
use crate::{
    counter::Counter,
    headers::{ethernet::ethertype, tcp::Flags},
    testing::{
        IcmpError,
        frame::Frame,
        tables::{
            JUMBO_TUNNEL, JUMBO_TUNNEL_TARGET, TUNNEL_V4_TARGET, TUNNEL_V6_TARGET, V4_IN_V4, V4_IN_V6,
            V6_IN_V4, V6_IN_V6,
        },
    },
};

pub(super) fn cases() -> Vec<Case> {
    let services = [
        (CLIENT, V4_IN_V4, TUNNEL_V4_TARGET, 20),
        (CLIENT, V4_IN_V6, TUNNEL_V6_TARGET, 40),
        (CLIENT6, V6_IN_V4, TUNNEL_V4_TARGET, 20),
        (CLIENT6, V6_IN_V6, TUNNEL_V6_TARGET, 40),
    ];
    let mut cases = Vec::new();
    for (client, service, id, outer) in services {
        let plain = Frame::new(client, service);
        let headers = if client.is_ipv4() { 40 } else { 60 };
        let longest = plain.clone().payload(&[0xab; 1500][headers + outer..]);
        let too_long = plain.clone().payload(&[0xab; 1501][headers + outer..]);
        let tagged = |frame: &Frame| frame.clone().tag(ethertype::VLAN);
        let tagged_twice = |frame: &Frame| frame.clone().tag(ethertype::SERVICE_VLAN).tag(ethertype::VLAN);
        let nobody: SocketAddr = if client.is_ipv4() {
            ([224, 0, 0, 1], 40000).into()
        } else {
            ([0xff02, 0, 0, 0, 0, 0, 0, 1], 40000).into()
        };
        let goes = |new_flow| Outcome::Forward { id, new_flow };
        let answered = Outcome::TooBig;
        let refused = Outcome::Drop(Counter::DropPacketTooBig);
        let from_nobody = Frame::new(nobody, service).payload(&[0xab; 1500]);
        let rows = [
            ("a segment is wrapped", plain.clone(), goes(false)),
            ("a SYN is wrapped", plain.clone().flags(Flags::SYN), goes(true)),
            ("a tag stays before the outer header", tagged(&plain), goes(false)),
            (
                "two tags stay before the outer header",
                tagged_twice(&plain),
                goes(false),
            ),
            ("padding is not wrapped", plain.clone().padding(6), goes(false)),
            ("the class is copied", plain.clone().class(0xb9), goes(false)),
            (
                "a packet may be as long as the MTU leaves room",
                longest.clone(),
                goes(false),
            ),
            ("the same with a tag", tagged(&longest), goes(false)),
            ("the same with two tags", tagged_twice(&longest), goes(false)),
            (
                "a packet that is a byte longer is answered",
                too_long.clone(),
                answered,
            ),
            ("the same with a tag", tagged(&too_long), answered),
            ("the same with two tags", tagged_twice(&too_long), answered),
            ("the same with padding", too_long.clone().padding(3), answered),
            (
                "a jumbo frame is answered",
                plain.clone().payload(&[0xab; 8900]),
                answered,
            ),
            (
                "a packet of nobody that is too long has no answer",
                from_nobody,
                refused,
            ),
        ];
        let case = |(sentence, frame, outcome): (_, Frame, _)| Case {
            sentence,
            frame: frame.bytes(),
            outcome,
        };
        cases.extend(rows.map(case));
        let error = |sentence, error: IcmpError| Case {
            sentence,
            frame: error.bytes(),
            outcome: Outcome::ForwardError { id },
        };
        let about = || IcmpError::about(client, service);
        cases.extend([
            error("an ICMP error about a connection is wrapped", about()),
            error("the same with two tags", about().tags(2)),
        ]);
        if client.is_ipv4() {
            let rows = [
                ("IP options are wrapped", plain.ip_options(&[1; 40]), goes(false)),
                (
                    "IP options are quoted in an answer",
                    too_long.clone().ip_options(&[1; 40]),
                    answered,
                ),
                (
                    "a packet that may be fragmented is answered, too",
                    too_long.fragment(0),
                    answered,
                ),
            ];
            cases.extend(rows.map(case));
        }
    }
    cases.extend(jumbo_cases());
    cases
}

/// Frames that go on in fragments, beyond the page that the program sees, and tunnels that take them.
fn jumbo_cases() -> Vec<Case> {
    let longest = || Frame::new(CLIENT, JUMBO_TUNNEL).payload(&[0xab; 8980 - 40]);
    let wrapped = Outcome::Forward {
        id: JUMBO_TUNNEL_TARGET,
        new_flow: false,
    };
    let answered = Outcome::TooBig;
    let too_long = Frame::new(CLIENT, JUMBO_TUNNEL).payload(&[0xab; 8981 - 40]);
    let rows = [
        ("a jumbo frame is wrapped with its fragments", longest(), wrapped),
        (
            "what is behind the packet in a jumbo frame's fragments is cut off",
            longest().padding(100),
            wrapped,
        ),
        (
            "a tag stays before the outer header of a jumbo frame",
            longest().tag(ethertype::VLAN),
            wrapped,
        ),
        (
            "a jumbo frame that is a byte too long is answered, without its fragments",
            too_long,
            answered,
        ),
    ];
    rows.map(|(sentence, frame, outcome)| Case {
        sentence,
        frame: frame.bytes(),
        outcome,
    })
    .into()
}
