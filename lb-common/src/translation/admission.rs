//! Packets of which something is to be remembered: those that open a connection, establish it, end it, or are the first for
//! a while; and those that belong to none.

use super::{
    Passage, event,
    port::{allocate, is_same_flow},
    return_key,
    rewrite::{self, Place},
};
use crate::{
    address::Address,
    counter::Counter,
    hash,
    layout::{FlowKey, FlowRecord, HalfOpen, NO_TARGET, Return, Service, Target, forward},
    packet::PacketBuffer,
    process::Engine,
    slot_rule::{self, Event, Use},
};

/// Looks a client's packet up in the records, and remembers what is to be remembered of it.
#[inline(always)]
pub fn admit(packet: &(impl PacketBuffer + ?Sized), service: &Service, engine: &impl Engine) -> Passage {
    let Some(mut arrival) = Arrival::of(packet, service, engine) else {
        return Passage::UNKNOWN;
    };
    match arrival.record(engine) {
        Some(record) if slot_rule::is_in_use(record, arrival.now) => {
            // The target knows whether the connection exists. A SYN, which anybody can spoof, keeps no record alive.
            if !arrival.event.opens {
                arrival.seen(record, engine);
            }
            Passage::new(record.target, record.port)
        }
        _ if arrival.event.opens => Passage::OPENS,
        record => arrival.follow(record, engine),
    }
}

/// Establishes the half-open connection that a packet continues, as far as its way back goes.
#[inline(always)]
pub fn establish(packet: &(impl PacketBuffer + ?Sized), service: &Service, engine: &impl Engine) -> Passage {
    let Some(mut arrival) = Arrival::of(packet, service, engine) else {
        return Passage::UNKNOWN;
    };
    let record = arrival.record(engine);
    if let Some(half_open) = engine.half_open(&arrival.flow())
        && half_open.port != 0
    {
        let (id, port) = (half_open.target, half_open.port);
        match arrival.establish(id, port, engine) {
            Established::Yes => return Passage::new(id, port).to_be_recorded(),
            Established::InFull => return Passage::new(id, port),
            Established::No => {}
        }
    }
    // It has lost its port: what an earlier connection of the same client has is not over.
    match record {
        Some(record) => Passage::new(record.target, record.port),
        None => Passage::UNKNOWN,
    }
}

/// Records a connection whose way back is established.
#[inline(always)]
pub fn record(
    packet: &(impl PacketBuffer + ?Sized),
    service: &Service,
    passage: Passage,
    engine: &impl Engine,
) {
    let (id, port) = (passage.target(), passage.port());
    let Some((_, segment)) = Place::find(packet) else {
        return;
    };
    let Some(target) = target(id, engine) else {
        return;
    };
    let now = engine.now();
    let record = FlowRecord {
        target: id,
        closing: if segment.flags.closes() {
            slot_rule::closing_since(now)
        } else {
            0
        },
        last_seen: now,
        port,
        reserved: [0; 3],
    };
    let flow = FlowKey::new(segment.client, segment.client_port, service.id);
    if engine.establish_flow(&flow, &record) {
        engine.remove_half_open_way_back(&return_key(target, segment.vip, port));
        // The way back of an earlier connection, which has given way, is an orphan now: a pass over the records removes it.
    } else {
        // The half-open ones serve on, as long as they are not evicted, and a later packet tries again.
        engine.count(Counter::RecordLost);
    }
}

/// The target that live connections have a new one get.
#[inline(always)]
pub fn place(packet: &(impl PacketBuffer + ?Sized), service: &Service, engine: &impl Engine) -> u16 {
    match Place::find(packet) {
        Some((_, segment)) => engine.least(slot(segment.client, segment.client_port, service), service),
        None => NO_TARGET,
    }
}

/// Finds a target and a port for a SYN without a record in use, and notes both: half open. `placed` is the target that it has been
/// given already, or nobody.
#[inline(always)]
pub fn open(
    packet: &(impl PacketBuffer + ?Sized),
    service: &Service,
    placed: u16,
    engine: &impl Engine,
) -> Passage {
    let Some(mut arrival) = Arrival::of(packet, service, engine) else {
        return Passage::UNKNOWN;
    };
    // A retransmission, or another attempt from the same port, keeps what the earlier one got, as far as it is still there
    // and can have answered.
    let (id, preferred) = match engine.half_open(&arrival.flow()) {
        Some(earlier) if earlier.port != 0 && engine.is_alive(earlier.target) => {
            (earlier.target, earlier.port)
        }
        _ if placed != NO_TARGET => (placed, arrival.way_back.client_port),
        _ => (
            current(&arrival.way_back, service, engine),
            arrival.way_back.client_port,
        ),
    };
    if id == NO_TARGET {
        return Passage::NO_BACKEND;
    }
    let Some(target) = target(id, engine) else {
        engine.count(Counter::DropTableInconsistent);
        return Passage::REFUSED;
    };
    if !target.is_resolved() {
        engine.count(Counter::DropNextHopUnknown);
        return Passage::REFUSED;
    }
    arrival.way_back.target = id;
    let port = allocate(preferred, arrival.vip, service, target, &arrival.way_back, engine);
    if port == 0 {
        engine.count(Counter::DropNoFreePort);
        return Passage::REFUSED;
    }
    let half_open = HalfOpen {
        target: id,
        port,
        sequence: arrival.event.sequence,
        opened: arrival.now,
    };
    engine.open_flow(&arrival.flow(), &half_open);
    Passage::new(id, port)
}

/// The target for new connections in the flow's slot.
#[inline(always)]
fn current(way_back: &Return, service: &Service, engine: &impl Engine) -> u16 {
    match engine.slot(slot(way_back.client, way_back.client_port, service)) {
        Some(slot) => slot.current,
        None => NO_TARGET,
    }
}

/// The index of a flow's slot.
#[inline(always)]
fn slot(client: Address, client_port: u16, service: &Service) -> u32 {
    let flow = hash::flow(service.hash_seed, client, client_port & service.port_mask);
    service.first_slot + hash::slot(flow, service.slots)
}

/// What became of a half-open connection that is to be established.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Established {
    /// It has a way back, and can be recorded.
    Yes,
    /// The table of ways back is full.
    InFull,
    /// The way back is not its own any more: it was evicted, and given to another.
    No,
}

/// A packet, and what remembering it takes.
#[repr(C, align(8))]
struct Arrival {
    // In this order, and aligned: the compiler stores words of 8 bytes, and the verifier accepts no misaligned one on the stack.
    event: Event,
    /// The address that it was sent to.
    vip: Address,
    /// The way back to where the packet came from. Its target is filled in when that is known.
    way_back: Return,
    now: u32,
}

impl Arrival {
    #[inline(always)]
    fn of(packet: &(impl PacketBuffer + ?Sized), service: &Service, engine: &impl Engine) -> Option<Self> {
        let (_, segment) = Place::find(packet)?;
        Some(Self {
            vip: segment.vip,
            event: event(&segment),
            now: engine.now(),
            way_back: Return {
                client: segment.client,
                client_port: segment.client_port,
                service_port: segment.port,
                service: service.id,
                target: NO_TARGET,
                addresses: rewrite::addresses_back(packet)?,
                egress: packet.ingress(),
            },
        })
    }

    /// The key of the flow's records. Made anew each time: the kernel program's stack has no room to keep it.
    #[inline(always)]
    const fn flow(&self) -> FlowKey {
        self.way_back.flow()
    }

    /// The flow's record. One without a port is of a time when the service did not translate.
    #[inline(always)]
    fn record<'a>(&self, engine: &'a impl Engine) -> Option<&'a FlowRecord> {
        match engine.flow(&self.flow()) {
            Some(record) if record.port != 0 => Some(record),
            _ => None,
        }
    }

    /// Any other packet without a record in use.
    #[inline(always)]
    fn follow(&mut self, record: Option<&FlowRecord>, engine: &impl Engine) -> Passage {
        if let Some(half_open) = engine.half_open(&self.flow())
            && half_open.port != 0
            && slot_rule::continues(self.event, half_open)
        {
            return Passage::CONTINUES;
        }
        // It closes, or has been idle. A record that closes stays so; an idle flow that speaks again is in use.
        match record {
            Some(record) => {
                self.seen(record, engine);
                Passage::new(record.target, record.port)
            }
            None => Passage::UNKNOWN,
        }
    }

    /// Gives a half-open connection the way back of an established one, in place of an earlier one of the same client.
    #[inline(always)]
    fn establish(&mut self, id: u16, port: u16, engine: &impl Engine) -> Established {
        let Some(new) = target(id, engine) else {
            return Established::No;
        };
        self.way_back.target = id;
        let key = return_key(new, self.vip, port);
        let leads_here = match engine.way_back(&key) {
            Some(other) if !is_same_flow(other, &self.way_back) => return Established::No,
            known => known.is_some(),
        };
        if let Some(other) = engine.half_open_way_back(&key)
            && !is_same_flow(other, &self.way_back)
        {
            return Established::No;
        }
        // First the way back: a record must not name a port that another CPU has given away meanwhile. Until there is a
        // record, the half-open one shows that somebody needs the way back. Where one of them cannot be made, both half-open
        // ones serve on, as long as they are not evicted, and a later packet tries again.
        if !engine.establish_way_back(&key, &self.way_back, leads_here) {
            if engine.way_back(&key).is_some() {
                return Established::No;
            }
            engine.count(Counter::RecordLost);
            return Established::InFull;
        }
        Established::Yes
    }

    /// What a packet does to its flow's record, and to the way back: answers follow a client that comes from elsewhere now.
    #[inline(always)]
    fn seen(&mut self, record: &FlowRecord, engine: &impl Engine) {
        let (id, port) = (record.target, record.port);
        let closes = self.event.closes;
        if !closes && record.last_seen == self.now {
            return;
        }
        engine.flow_seen(&self.flow(), Use::of(record, closes, self.now));
        let Some(target) = target(id, engine) else { return };
        self.way_back.target = id;
        let key = return_key(target, self.vip, port);
        match engine.way_back(&key) {
            Some(known) if !is_same_flow(known, &self.way_back) || *known == self.way_back => {}
            // Another MAC address or interface, or the way back is missing.
            _ => {
                if engine.establish_way_back(&key, &self.way_back, true) {
                    engine.tell_way_back(&self.flow());
                } else {
                    engine.count(Counter::RecordLost);
                }
            }
        }
    }
}

/// A target that translates.
#[inline(always)]
fn target(id: u16, engine: &impl Engine) -> Option<&Target> {
    match engine.target(id) {
        Some(target) if target.forward() == forward::NAT => Some(target),
        _ => None,
    }
}
