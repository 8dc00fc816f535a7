//! Full network address translation (`nat`): for backends that nobody can configure.
//!
//! The backend takes the VIP for its client. Towards it a packet's source becomes the VIP, with a port that stands for the
//! client (the client's own where that is free), and its destination the backend, with the backend's port. An answer is found by
//! its [`ReturnKey`] and gets the service as its source and the client as its destination.
//!
//! So each connection needs an established record ([`FlowRecord`], by client) and a way back
//! ([`Return`], by backend). Both begin half open with a SYN, in tables that evict, and move to tables that do not once the
//! client continues its SYN: a flood of SYNs costs no connection. Who gives way to whom is as the [slot rule](crate::slot_rule)
//! has it.
//!
//! A frame towards a backend costs one more lookup than one of a tracked slot of a service of MAC addresses only: none. Its
//! record says both target and port, so no slot is asked. An answer costs the lookup of a service that is not there, and that
//! of its way back.
//!
//! Answers need no route: the way back remembers from which MAC address, on which interface, the client's packets come ("auto last
//! hop"), and follows them if they come from another router, at most a tick later.

mod admission;
mod icmp_error;
mod port;
mod rewrite;
#[cfg(test)]
mod simulation;

use crate::{
    address::Address,
    counter::Counter,
    decision::awaits_records,
    headers::Segment,
    layout::{FlowKey, FlowRecord, HalfOpen, NO_TARGET, Return, ReturnKey, Service, Target, flag, forward},
    least_connections::places_each,
    packet::{Packet as _, PacketMut as _},
    process::{Action, Engine, reset},
    slot_rule::{self, Event, Use},
};

pub use admission::{admit, establish, open, place, record};
pub use icmp_error::forward_error;
use rewrite::{Endpoints, Place};

/// The ways back of translated connections, and what is to become of them and of the connections' records.
///
/// By reference, and one method for each change, for the same reason as [`Records`](crate::slot_rule::Records): an
/// [`Effect`](crate::slot_rule::Effect) would stand on the kernel program's stack with the largest of its variants.
pub trait WaysBack {
    /// The flow's established record, if there is one, was used now.
    fn flow_seen(&self, flow: &FlowKey, how: Use);
    /// The flow gets a half-open record, in place of an earlier one.
    fn open_flow(&self, flow: &FlowKey, half_open: &HalfOpen);
    /// The flow gets an established record, in place of an earlier one and of the half-open one. `false`, and nothing has changed, if
    /// the table is full.
    fn establish_flow(&self, flow: &FlowKey, record: &FlowRecord) -> bool;
    /// The way back of an established connection.
    fn way_back(&self, key: &ReturnKey) -> Option<&Return>;
    /// The way back of a half-open connection.
    fn half_open_way_back(&self, key: &ReturnKey) -> Option<&Return>;
    /// Gives a half-open connection a way back, in place of an earlier one if `replaces`. `false` if another CPU has given the
    /// key away meanwhile, or there is no memory.
    fn open_way_back(&self, key: &ReturnKey, way_back: &Return, replaces: bool) -> bool;
    /// Gives an established connection a way back, in place of an earlier one if `replaces`. `false` if another CPU has given
    /// the key away meanwhile, or the table is full.
    fn establish_way_back(&self, key: &ReturnKey, way_back: &Return, replaces: bool) -> bool;
    /// Tells whoever listens that the way back of a flow with an established record leads elsewhere now.
    fn tell_way_back(&self, flow: &FlowKey);
    /// Removes the way back of a half-open connection.
    fn remove_half_open_way_back(&self, key: &ReturnKey);
}

/// Which target a packet of a client goes to, and which port of the VIP stands for the client. In one word, as functions of the
/// kernel program return it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage(u64);

impl Passage {
    /// The packet cannot be forwarded, and has been counted.
    pub const REFUSED: Self = Self(0);
    /// The packet belongs to no connection that anybody knows.
    pub const UNKNOWN: Self = Self(1);
    /// The packet is a SYN without a record in use: it has to be [opened](open) a way.
    pub const OPENS: Self = Self(2);
    /// The packet is a SYN, and there is no backend for it.
    pub const NO_BACKEND: Self = Self(3);
    /// The packet continues a half-open connection, which has to be [established](establish).
    pub const CONTINUES: Self = Self(4);

    /// In the lowest bits of a passage: its connection is to be [recorded](record).
    const TO_BE_RECORDED: u64 = 1;

    /// To `target`, from `port`, neither of which is 0.
    #[inline(always)]
    pub const fn new(target: u16, port: u16) -> Self {
        Self((target as u64) << 32 | (port as u64) << 16)
    }

    /// The same passage, of a connection that is to be recorded.
    #[inline(always)]
    const fn to_be_recorded(self) -> Self {
        Self(self.0 | Self::TO_BE_RECORDED)
    }

    /// Whether its connection is to be recorded.
    #[inline(always)]
    const fn is_to_be_recorded(self) -> bool {
        self.0 >> 16 != 0 && self.0 & Self::TO_BE_RECORDED != 0
    }

    /// The word.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The inverse of [`Passage::to_bits`].
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The target's id.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "cut out of the word")]
    const fn target(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// The VIP's port.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "cut out of the word")]
    const fn port(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

/// The key of answers from a target's backend to a port of the VIP. With the port of a
/// [`FlowRecord`] that names the target: the key of that connection's way back.
#[inline(always)]
pub const fn return_key(target: &Target, vip: Address, port: u16) -> ReturnKey {
    ReturnKey::new(target.backend(), target.port(), vip, port)
}

/// Whether the way back under a key is that of a connection whose record, of either kind, names this target and port, given that it
/// leads to the record's client.
pub const fn is_way_back_of(key: &ReturnKey, way_back: &Return, target: u16, port: u16) -> bool {
    way_back.target == target && key.port() == port
}

/// Forwards a client's packet to `service`, or counts why not. A packet of a connection that nobody knows is answered by an RST.
///
/// Nearly all packets find their record in use, come in the same tick as the one before, and leave nothing to remember. Only the
/// others are [admitted](admit), and some of those [placed](place) and [opened](open) a way, or [established](establish) and
/// [recorded](record). The steps do not call each other, since functions of the kernel program share 512 bytes
/// of stack with their callers.
#[inline(always)]
pub fn to_backend<E: Engine>(packet: &mut E::Frame, service: &Service, engine: &E) -> Action {
    // With what the frame has in fragments, which those who make a frame of the context anew would not see.
    let bytes = packet.length();
    if let Some(action) = engine.translate(packet, service, Passage::UNKNOWN, bytes) {
        return action;
    }
    let mut passage = engine.admit(packet, service);
    if passage == Passage::OPENS {
        let placed = if places_each(service) {
            engine.place(packet, service)
        } else {
            NO_TARGET
        };
        passage = engine.open(packet, service, placed);
    } else if passage == Passage::CONTINUES {
        passage = engine.establish(packet, service);
        if passage.is_to_be_recorded() {
            engine.record(packet, service, passage);
        }
    }
    if passage == Passage::REFUSED {
        return Action::Drop;
    }
    if passage == Passage::UNKNOWN {
        return reset(packet, Counter::ResetNoRecord, Counter::DropNoRecord, engine);
    }
    if passage == Passage::NO_BACKEND {
        if service.flags & flag::RESETS == 0 {
            return refuse(Counter::DropNoBackend, engine);
        }
        return reset(packet, Counter::ResetSent, Counter::DropNoBackend, engine);
    }
    match engine.translate(packet, service, passage, bytes) {
        Some(action) => action,
        None => refuse(Counter::DropTableInconsistent, engine),
    }
}

/// Forwards a client's packet of `bytes` bytes by its passage, which is looked up if it is [`Passage::UNKNOWN`], or counts why not.
/// `None`, and the packet is unchanged, if it has to be admitted first.
#[inline(always)]
pub fn translate<E: Engine>(
    packet: &mut E::Frame,
    service: &Service,
    passage: Passage,
    bytes: usize,
    engine: &E,
) -> Option<Action> {
    let Some((place, segment)) = Place::find(packet) else {
        return Some(refuse(Counter::DropTruncated, engine));
    };
    if place.has_expired(packet) {
        return Some(refuse(Counter::DropTtlExpired, engine));
    }
    let passage = if passage == Passage::UNKNOWN {
        look_up(&segment, service, engine)
    } else {
        passage
    };
    if passage == Passage::UNKNOWN {
        return None;
    }
    let (id, port) = (passage.target(), passage.port());
    let target = match engine.target(id) {
        Some(target) if target.forward() == forward::NAT => target,
        _ => return Some(refuse(Counter::DropTableInconsistent, engine)),
    };
    if !target.is_resolved() {
        return Some(refuse(Counter::DropNextHopUnknown, engine));
    }
    let before = Endpoints::of(&segment);
    let after = Endpoints {
        source: segment.vip,
        source_port: port,
        destination: target.backend(),
        destination_port: target.port(),
    };
    let egress = target.egress();
    let addresses = target.addresses();
    if rewrite::rewrite(packet, &place, &before, &after).is_none() || packet.write(0, addresses).is_none() {
        return Some(refuse(Counter::DropTruncated, engine));
    }
    engine.count_forwarded(id, bytes, segment.flags.opens());
    Some(Action::Transmit { egress })
}

/// Forwards a backend's answer to its client, translated. What is no answer to anybody is the kernel's, which resets it.
#[inline(always)]
pub fn to_client<E: Engine>(packet: &mut E::Frame, engine: &E) -> Action {
    let Some((place, segment)) = Place::find(packet) else {
        return Action::Pass;
    };
    let key = ReturnKey::new(segment.client, segment.client_port, segment.vip, segment.port);
    let way_back = match engine.way_back(&key) {
        Some(way_back) => {
            // Its record may be in other tables only, and nobody may write to these. A FIN is sent again, and an RST follows the client's
            // next packet.
            if segment.flags.closes() && awaits_records(engine) {
                return refuse(Counter::DropRecordsAwaited, engine);
            }
            // Of an established connection only: the refusal of a spoofed SYN says nothing about the record in use. Nor does the end of
            // an earlier connection of the same client, whose way back is not removed yet.
            if segment.flags.closes()
                && let Some(record) = engine.flow(&way_back.flow())
                && is_way_back_of(&key, way_back, record.target, record.port)
            {
                engine.flow_seen(&way_back.flow(), Use::Closing);
            }
            way_back
        }
        None => match engine.half_open_way_back(&key) {
            Some(way_back) => way_back,
            // The kernel would reset the backend's side of a connection whose way back is still in other tables.
            None if awaits_records(engine) => return refuse(Counter::DropRecordsAwaited, engine),
            None => return Action::Pass,
        },
    };
    if place.has_expired(packet) {
        return refuse(Counter::DropTtlExpired, engine);
    }
    let egress = way_back.egress;
    let addresses = way_back.addresses;
    let before = Endpoints::of(&segment);
    let after = Endpoints {
        source: segment.vip,
        source_port: way_back.service_port,
        destination: way_back.client,
        destination_port: way_back.client_port,
    };
    if rewrite::rewrite(packet, &place, &before, &after).is_none()
        || rewrite::address_frame(packet, addresses).is_none()
    {
        return refuse(Counter::DropTruncated, engine);
    }
    engine.count(Counter::AnswerForwarded);
    Action::Transmit { egress }
}

/// The passage of a packet of which nothing is to be remembered.
#[inline(always)]
fn look_up(segment: &Segment, service: &Service, engine: &impl Engine) -> Passage {
    let key = FlowKey::new(segment.client, segment.client_port, service.id);
    let now = engine.now();
    match engine.flow(&key) {
        Some(record)
            if record.port != 0
                && slot_rule::is_in_use(record, now)
                && (segment.flags.opens() || (record.last_seen == now && !segment.flags.closes())) =>
        {
            Passage::new(record.target, record.port)
        }
        _ => Passage::UNKNOWN,
    }
}

/// What the slot rule needs to know about a segment.
#[inline(always)]
const fn event(segment: &Segment) -> Event {
    Event {
        opens: segment.flags.opens(),
        closes: segment.flags.closes(),
        sequence: segment.sequence,
    }
}

/// Drops a frame and says why.
#[inline(always)]
fn refuse(counter: Counter, engine: &impl Engine) -> Action {
    engine.count(counter);
    Action::Drop
}
