//! ICMP errors about translated connections.
//!
//! A router quotes the segment as it has seen it: between VIP and client, or between VIP and backend. Whoever has sent that
//! segment knows only the other side's endpoints, so the quotation is translated back, and the error itself leaves from the VIP,
//! which is the only peer that a backend knows, and the one that a client talks to.
//!
//! Who may pretend what is as with [errors about other connections](crate::icmp_error): nothing is remembered of an error.

use super::rewrite::{self, ErrorPlace};
use crate::{
    address::Address,
    counter::Counter,
    decision::is_for_us,
    headers::icmp::{self, Quoted},
    layout::{FlowKey, ReturnKey, Service, ServiceKey, flag, forward},
    packet::PacketMut as _,
    process::{Action, Engine},
    slot_rule,
    translation::{Passage, refuse},
};

/// Forwards an ICMP error to the backend or client whose segment it quotes, translated. All else is the kernel's, unchanged and
/// uncounted.
#[inline(always)]
pub fn forward_error<E: Engine>(packet: &mut E::Frame, engine: &E) -> Action {
    if engine.node().is_none_or(|node| node.translates == 0) {
        return Action::Pass;
    }
    let Some(quoted) = icmp::quoted(packet) else {
        return Action::Pass;
    };
    if !is_for_us(packet, engine) {
        return Action::Pass;
    }
    match engine.service(&ServiceKey::tcp(quoted.vip, quoted.port)) {
        Some(service) => to_backend(packet, &quoted, service, engine),
        None => to_client(packet, &quoted, engine),
    }
}

/// From the client's side: the segment was an answer, already translated.
#[inline(always)]
fn to_backend<E: Engine>(packet: &mut E::Frame, quoted: &Quoted, service: &Service, engine: &E) -> Action {
    // Whether the client may use the service was asked when its record was made, and is asked about each of its packets.
    if service.flags & flag::TRANSLATES == 0 {
        return Action::Pass;
    }
    let home = home(
        &FlowKey::new(quoted.client, quoted.client_port, service.id),
        engine,
    );
    if home == Passage::UNKNOWN {
        return Action::Pass;
    }
    let target = match engine.target(home.target()) {
        Some(target) if target.forward() == forward::NAT && target.is_resolved() => target,
        _ => return Action::Pass,
    };
    let (egress, addresses) = (target.egress(), target.addresses());
    let ports = (target.port(), home.port());
    if let Err(action) = translate(packet, &target.backend(), ports, engine) {
        return action;
    }
    if packet.write(0, addresses).is_none() {
        return refuse(Counter::DropTruncated, engine);
    }
    engine.count(Counter::IcmpErrorForwarded);
    Action::Transmit { egress }
}

/// Target and port of a flow, as far as records know them. Of two, the half-open one counts unless the established one is in
/// use.
#[inline(always)]
fn home(flow: &FlowKey, engine: &impl Engine) -> Passage {
    let mut home = Passage::UNKNOWN;
    if let Some(record) = engine.flow(flow)
        && record.port != 0
    {
        home = Passage::new(record.target, record.port);
        if slot_rule::is_in_use(record, engine.now()) {
            return home;
        }
    }
    if let Some(half_open) = engine.half_open(flow)
        && half_open.port != 0
    {
        home = Passage::new(half_open.target, half_open.port);
    }
    home
}

/// From the backends' side: the segment was a client's, already translated.
#[inline(always)]
fn to_client<E: Engine>(packet: &mut E::Frame, quoted: &Quoted, engine: &E) -> Action {
    let key = ReturnKey::new(quoted.client, quoted.client_port, quoted.vip, quoted.port);
    let way_back = match engine.way_back(&key) {
        Some(way_back) => way_back,
        None => match engine.half_open_way_back(&key) {
            Some(way_back) => way_back,
            None => return Action::Pass,
        },
    };
    let (egress, addresses) = (way_back.egress, way_back.addresses);
    let ports = (way_back.client_port, way_back.service_port);
    if let Err(action) = translate(packet, &way_back.client, ports, engine) {
        return action;
    }
    if rewrite::address_frame(packet, addresses).is_none() {
        return refuse(Counter::DropTruncated, engine);
    }
    engine.count(Counter::IcmpErrorForwarded);
    Action::Transmit { egress }
}

/// Makes of an error one to `sender`, about a segment with these ports.
#[inline(always)]
fn translate<E: Engine>(
    packet: &mut E::Frame,
    sender: &Address,
    ports: (u16, u16),
    engine: &E,
) -> Result<(), Action> {
    let Some(place) = ErrorPlace::find(packet) else {
        return Err(Action::Pass);
    };
    if place.has_expired(packet) {
        return Err(refuse(Counter::DropTtlExpired, engine));
    }
    match rewrite::rewrite_error(packet, &place, sender, ports) {
        Some(()) => Ok(()),
        None => Err(refuse(Counter::DropTruncated, engine)),
    }
}

#[cfg(test)]
mod tests {
    use core::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        process::process,
        testing::{
            HostTables, IcmpError,
            frame::{BALANCER_MAC, CLIENT_MAC},
            tables::{
                NAT, NAT_BACKEND, NAT_BACKEND6, NAT_CLIENT, NAT_CLIENT6, NAT_MAC, NAT_MAC6, NAT6, next_hop,
            },
        },
    };

    proptest! {
        /// A translated error is the one that a router between the other endpoints would have sent, had it the VIP's address: byte
        /// by byte, checksums computed anew, whatever else the error has and however much it quotes.
        #[test]
        fn the_result_is_as_if_built_so(
            // Half a checksum, of which nobody can make use, stays as it is.
            quote in (8usize..700).prop_filter("half a checksum", |&quote| quote != 17),
            v6: bool, from_client: bool, payload in 0usize..600,
            outer_options in 0usize..=10, inner_options in 0usize..=10, tags in 0usize..=2, hops in 2u8..,
        ) {
            let (client, service, backend, mac) = if v6 {
                (NAT_CLIENT6, NAT6, NAT_BACKEND6, NAT_MAC6)
            } else {
                (NAT_CLIENT, NAT, NAT_BACKEND, NAT_MAC)
            };
            let on_vip = SocketAddr::new(service.ip(), client.port());
            let between = |client, service| {
                let mut error = IcmpError::about(client, service).quote(quote).payload(payload).tags(tags);
                if !v6 {
                    error = error.outer_options(outer_options * 4).inner_options(inner_options * 4);
                }
                error
            };
            let (before, after, mac) = if from_client {
                (between(client, service), between(on_vip, backend), mac)
            } else {
                (between(backend, on_vip), between(service, client), CLIENT_MAC)
            };
            let tables = HostTables::fixture();
            let mut frame = before.hop_limit(hops).bytes();
            prop_assert_eq!(process(&mut frame, &tables), Action::Transmit { egress: frame_egress(from_client) });
            let expected = after.sender(service.ip()).hop_limit(hops - 1).from(BALANCER_MAC).destination(mac);
            prop_assert_eq!(frame, expected.bytes());
            prop_assert_eq!(tables.counted(Counter::IcmpErrorForwarded), 1);
        }
    }

    /// Where an error leaves: towards backends as the fixture's targets say, towards clients on the interface they came in on.
    fn frame_egress(from_client: bool) -> u32 {
        if from_client { next_hop([0; 6]).egress } else { 1 }
    }
}
