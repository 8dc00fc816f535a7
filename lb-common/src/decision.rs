//! The decision that is taken for every packet.

use crate::{
    address::Address,
    affinity,
    counter::Counter,
    hash,
    headers::{Fault, Parsed, Segment, parse},
    layout::{Affinity, ClientKey, FlowKey, Live, NO_TARGET, Node, Service, ServiceKey, Slot, Target, flag},
    least_connections,
    packet::Packet,
    slot_rule::{self, Effect, Event, Records},
};

/// The tables that a decision consults; the records only for tracked slots.
pub trait Tables: Records {
    /// The service under `key`.
    fn service(&self, key: &ServiceKey) -> Option<&Service>;
    /// The slot at `index` of the slot table, which all services share.
    fn slot(&self, index: u32) -> Option<Slot>;
    /// What is known of this host.
    fn node(&self) -> Option<&Node>;
    /// The target with this id.
    fn target(&self, id: u16) -> Option<&Target>;
    /// The live connections of the target with this id.
    fn live(&self, id: u16) -> Live;
    /// Whether a service with the flag [`RESTRICTED`](flag::RESTRICTED) may be used from an address.
    fn allows(&self, service: u16, client: Address) -> bool;
    /// Takes note of what is to be remembered of a packet of a tracked slot: to carry it out, or only to show it.
    fn remember(&self, memory: &Memory);
    /// Takes note of where a client of an affine service is at home, likewise. `moves` if nothing was noted of it, or another target.
    fn note_client(&self, client: &ClientKey, affinity: &Affinity, moves: bool);

    /// The target for a new connection whose hash picks the slot `index`, [by live connections](least_connections::least).
    ///
    /// A method so that an implementation can keep it out of the way of other packets.
    #[inline(always)]
    fn least(&self, index: u32, service: &Service) -> u16
    where
        Self: Sized,
    {
        least_connections::least(index, service, self)
    }

    /// The target of a packet in a tracked slot, by the [slot rule](slot_rule::choose) as the [service](Service) has it, whose
    /// effects are remembered.
    ///
    /// A method so that an implementation can keep it out of the way of untracked slots.
    #[inline(always)]
    fn tracked_target(&self, event: Event, slot: Slot, flow: &FlowKey, index: u32, service: &Service) -> u16
    where
        Self: Sized,
    {
        tracked_target(event, slot, flow, index, service, self)
    }
}

/// What [`Tables::tracked_target`] does.
#[inline(always)]
pub fn tracked_target(
    event: Event,
    slot: Slot,
    flow: &FlowKey,
    index: u32,
    service: &Service,
    tables: &impl Tables,
) -> u16 {
    let affinity_timeout = service.affinity_timeout;
    let slot = if event.opens {
        seen_by_new_flow(slot, flow, index, service, tables)
    } else {
        slot
    };
    let target = slot_rule::apply(event, slot, flow, tables, |effect| {
        tables.remember(&Memory {
            flow: *flow,
            slot: index,
            effect,
        });
    });
    if affinity_timeout != 0 && !event.opens {
        let client = ClientKey::new(flow.client(), flow.service());
        affinity::note(&client, target, affinity_timeout, tables, |affinity, moves| {
            tables.note_client(&client, affinity, moves);
        });
    }
    target
}

/// A tracked slot as a SYN sees it: `current` is the target that the service has for the new connection.
#[inline(always)]
pub fn seen_by_new_flow(
    slot: Slot,
    flow: &FlowKey,
    index: u32,
    service: &Service,
    tables: &impl Tables,
) -> Slot {
    let placed = least_connections::places_each(service);
    let mut seen = slot;
    if placed {
        seen.current = tables.least(index, service);
    }
    if service.affinity_timeout != 0 {
        let client = ClientKey::new(flow.client(), flow.service());
        seen = affinity::seen_by(&client, seen, service.affinity_timeout, tables);
    }
    if placed && seen.current != NO_TARGET {
        // The connection gets a record wherever it goes: also on the settled target, and though records run short.
        seen.settled = NO_TARGET;
    }
    seen
}

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// The kernel's network stack gets it, unchanged.
    Pass,
    /// It is ICMP: if it is an error about a flow, it is to follow the flow.
    Icmp,
    /// It is dropped and counted.
    Drop(Counter),
    /// Its sender is told that nobody takes it, by an RST.
    Reset {
        /// Under which it is counted when an RST is sent.
        sent: Counter,
        /// Under which it is counted when it is [not to be answered](crate::forward::reset) and dropped instead.
        dropped: Counter,
    },
    /// It goes to a backend.
    Forward {
        /// The id of the target, under which the packet is counted.
        id: u16,
        /// The target.
        target: &'a Target,
        /// The hash of the flow.
        flow: u64,
        /// Whether the packet asks for a new connection.
        new_flow: bool,
    },
    /// It is a client's packet to a service that translates: what becomes of it is in the
    /// [connection's records](crate::translation::to_backend).
    TranslateToBackend {
        /// The service.
        service: &'a Service,
    },
    /// It may be a backend's answer to a [translated connection](crate::translation::to_client).
    TranslateToClient,
}

/// What is to be remembered of a packet, and under which names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The flow.
    pub flow: FlowKey,
    /// The slot's index in the slot table.
    pub slot: u32,
    /// What.
    pub effect: Effect,
}

/// Decides about one frame.
#[inline(always)]
pub fn decide<'a>(packet: &(impl Packet + ?Sized), tables: &'a impl Tables) -> Verdict<'a> {
    match parse(packet) {
        Parsed::Foreign => Verdict::Pass,
        Parsed::Icmp => Verdict::Icmp,
        Parsed::Segment(segment) => forward(packet, &segment, tables),
        Parsed::Faulty { destination, fault } => {
            // Faulty packets to other addresses of this host are none of our business.
            match tables.service(&ServiceKey::vip(destination)) {
                Some(_) if is_for_us(packet, tables) => Verdict::Drop(match fault {
                    Fault::Fragment => Counter::DropFragment,
                    Fault::Truncated => Counter::DropTruncated,
                    Fault::Malformed => Counter::DropMalformed,
                    Fault::ExtensionHeader => Counter::DropExtensionHeader,
                }),
                _ => Verdict::Pass,
            }
        }
    }
}

#[inline(always)]
fn forward<'a>(packet: &(impl Packet + ?Sized), segment: &Segment, tables: &'a impl Tables) -> Verdict<'a> {
    let Some(service) = tables.service(&ServiceKey::tcp(segment.vip, segment.port)) else {
        return match tables.node() {
            Some(node) if node.translates != 0 && is_for(packet, node) => Verdict::TranslateToClient,
            _ => Verdict::Pass,
        };
    };
    if !is_for_us(packet, tables) {
        return Verdict::Pass;
    }
    if service.flags & flag::RESTRICTED != 0 && !tables.allows(service.id, segment.client) {
        return Verdict::Drop(Counter::DropSourceNotAllowed);
    }
    if service.flags & flag::TRANSLATES != 0 {
        // As below: what is dropped is sent again.
        if awaits_records(tables) {
            return Verdict::Drop(Counter::DropRecordsAwaited);
        }
        return Verdict::TranslateToBackend { service };
    }
    let flow = hash::flow(
        service.hash_seed,
        segment.client,
        segment.client_port & service.port_mask,
    );
    let index = service.first_slot + hash::slot(flow, service.slots);
    let Some(slot) = tables.slot(index) else {
        return Verdict::Drop(Counter::DropTableInconsistent);
    };
    let id = if slot.tracked {
        // What is dropped is sent again. What went to the wrong target would be reset by it.
        if awaits_records(tables) {
            return Verdict::Drop(Counter::DropRecordsAwaited);
        }
        let key = FlowKey::new(segment.client, segment.client_port, service.id);
        let event = Event {
            opens: segment.flags.opens(),
            closes: segment.flags.closes(),
            sequence: segment.sequence,
        };
        tables.tracked_target(event, slot, &key, index, service)
    } else {
        slot.current
    };
    if id == NO_TARGET && !segment.flags.opens() && least_connections::places_each(service) {
        // Each of its connections has a record, so nobody has this one, whether or not there is a backend.
        return Verdict::Reset {
            sent: Counter::ResetNoRecord,
            dropped: Counter::DropNoRecord,
        };
    }
    if id == NO_TARGET {
        return if service.flags & flag::RESETS == 0 {
            Verdict::Drop(Counter::DropNoBackend)
        } else {
            Verdict::Reset {
                sent: Counter::ResetSent,
                dropped: Counter::DropNoBackend,
            }
        };
    }
    let Some(target) = tables.target(id) else {
        return Verdict::Drop(Counter::DropTableInconsistent);
    };
    if !target.is_resolved() {
        return Verdict::Drop(Counter::DropNextHopUnknown);
    }
    Verdict::Forward {
        id,
        target,
        flow,
        new_flow: segment.flags.opens(),
    }
}

/// Whether records are missing that an earlier run's tables still have.
#[inline(always)]
pub(crate) fn awaits_records(tables: &impl Tables) -> bool {
    tables.node().is_some_and(|node| node.awaits_records != 0)
}

/// Whether the frame is addressed to one of our interfaces.
///
/// On an interface in promiscuous mode XDP sees frames for others too. Were they forwarded, two balancers on one segment
/// would send such a frame to each other for ever, since `dsr` leaves the hop limit alone.
#[inline(always)]
pub(crate) fn is_for_us(packet: &(impl Packet + ?Sized), tables: &impl Tables) -> bool {
    match tables.node() {
        Some(node) => is_for(packet, node),
        None => false,
    }
}

#[inline(always)]
fn is_for(packet: &(impl Packet + ?Sized), node: &Node) -> bool {
    match packet.read(0) {
        Some(destination) => node.has(destination),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        forward::direct_server_return,
        testing::{
            self, HostTables,
            tables::{TARGETS, UNRESOLVED_TARGET},
        },
    };
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn direct_server_return_changes_mac_addresses_only() {
        let tables = HostTables::fixture();
        let before = testing::Frame::new(testing::cases::CLIENT, testing::tables::ONE).bytes();
        let Verdict::Forward { target, .. } = decide(before.as_slice(), &tables) else {
            panic!("the fixture forwards this");
        };
        let mut after = before.clone();
        assert_eq!(direct_server_return(after.as_mut_slice(), target), Some(()));
        assert_eq!(after[..6], [0x02, 0, 0, 1, 0, 1]);
        assert_eq!(after[6..12], testing::frame::BALANCER_MAC);
        assert_eq!(after[12..], before[12..]);
        assert_eq!(direct_server_return(&mut after[..11], target), None);
    }

    #[test]
    fn while_records_are_missing_what_depends_on_them_is_dropped_and_nothing_else() {
        let mut tables = HostTables::fixture();
        let fate = |tables: &mut HostTables| {
            let frame = testing::Frame::new(testing::cases::CLIENT, testing::tables::ONE).bytes();
            let forwarded = match decide(frame.as_slice(), tables) {
                Verdict::Forward { .. } => Ok(()),
                Verdict::Drop(counter) => Err(counter),
                other => panic!("{other:?}"),
            };
            tables.carry_out();
            (forwarded, tables.settled_flows.len())
        };
        if let Some(node) = &mut tables.node {
            node.awaits_records = 1;
        }
        assert_eq!(fate(&mut tables), (Ok(()), 0), "an untracked slot");
        for word in &mut tables.slots {
            let tracked = Slot {
                tracked: true,
                ..Slot::from_bits(*word)
            };
            *word = tracked.to_bits();
        }
        assert_eq!(
            fate(&mut tables),
            (Err(Counter::DropRecordsAwaited), 0),
            "nothing is remembered either"
        );
        tables.node = tables.node.map(|node| Node {
            awaits_records: 0,
            ..node
        });
        assert_eq!(fate(&mut tables), (Ok(()), 1));
    }

    proptest! {
        /// Neither noise nor a damaged packet upsets the decision, and what is forwarded was for a service.
        #[test]
        fn any_bytes_have_a_fate(
            noise: Vec<u8>,
            damage in proptest::collection::vec((0usize..100, any::<u8>()), 0..6),
            length in 0usize..120,
        ) {
            let tables = HostTables::fixture();
            let forwarded = matches!(decide(noise.as_slice(), &tables), Verdict::Forward { .. });
            prop_assert!(!forwarded);
            let mut frame = testing::Frame::new(testing::cases::CLIENT, testing::tables::ONE).payload(&[7; 46]).bytes();
            for (offset, value) in damage {
                frame[offset] = value;
            }
            frame.truncate(length);
            if let Verdict::Forward { id, .. } = decide(frame.as_slice(), &tables) {
                prop_assert!(frame.len() >= 54 && (1..TARGETS).contains(&id) && id != UNRESOLVED_TARGET);
            }
        }

        /// A flow whose client, address and port alike, is the same goes to the same target, whatever else the packet says.
        #[test]
        fn packets_of_a_flow_stay_together(port: u16, flags: u8, payload: Vec<u8>, options in 0usize..=10) {
            let tables = HostTables::fixture();
            let client = core::net::SocketAddr::from(([198, 51, 100, 8], port));
            let plain = testing::Frame::new(client, testing::tables::THREE);
            let other = plain.clone().flags(flags).payload(&payload).ip_options(&[1; 40][..options * 4]);
            let id = |frame: &testing::Frame| match decide(frame.bytes().as_slice(), &tables) {
                Verdict::Forward { id, .. } => Some(id),
                _ => None,
            };
            prop_assert!(id(&plain).is_some());
            prop_assert_eq!(id(&plain), id(&other));
        }
    }
}
