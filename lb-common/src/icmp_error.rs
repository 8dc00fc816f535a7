//! ICMP errors about forwarded flows, "fragmentation needed" above all: they come to the VIP, thus to us, but the connection
//! is with a backend.
//!
//! They are forwarded as the flow's own packets are, and looked at just as critically: the sender of an error can be any
//! router, and anybody can pretend to be one. That harms nobody, because nothing is remembered of an error, and because the
//! backend's TCP heeds an error only if the sequence number that it quotes is one that the connection has in flight (RFC
//! 5927, section 4.1). A backend without that connection ignores it, as our kernel would.

use crate::{
    counter::Counter,
    decision::is_for_us,
    hash,
    headers::icmp::{self, Quoted},
    layout::{FlowKey, NO_TARGET, ServiceKey, Target, flag},
    process::{Action, Engine, drop, readdress},
    slot_rule,
};

/// Forwards an ICMP error to the backend of the flow whose segment it quotes. All other ICMP, echo for example, is the
/// kernel's, unchanged and uncounted.
#[inline(always)]
pub fn forward<E: Engine>(packet: &mut E::Frame, engine: &E) -> Action {
    let Some(quoted) = icmp::quoted(packet) else {
        return Action::Pass;
    };
    if !is_for_us(packet, engine) {
        return Action::Pass;
    }
    let Some((target, flow)) = target(&quoted, engine) else {
        return Action::Pass;
    };
    match readdress(packet, target, flow) {
        Ok(()) => {
            engine.count(Counter::IcmpErrorForwarded);
            Action::Transmit {
                egress: target.egress(),
            }
        }
        // Errors are short, and none is answered with an error.
        Err(obstacle) => drop(obstacle.counter(), engine),
    }
}

/// The target on which a flow lives, if it can be one of ours, and the flow's hash.
#[inline(always)]
fn target<'a>(quoted: &Quoted, engine: &'a impl Engine) -> Option<(&'a Target, u64)> {
    let Quoted {
        vip,
        port,
        client,
        client_port,
    } = *quoted;
    let service = engine.service(&ServiceKey::tcp(vip, port))?;
    if service.flags & flag::TRANSLATES != 0 {
        return None;
    }
    if service.flags & flag::RESTRICTED != 0 && !engine.allows(service.id, client) {
        return None;
    }
    let flow = hash::flow(service.hash_seed, client, client_port & service.port_mask);
    let slot = engine.slot(service.first_slot + hash::slot(flow, service.slots))?;
    let id = if slot.tracked {
        slot_rule::home(slot, &FlowKey::new(client, client_port, service.id), engine)
    } else {
        slot.current
    };
    if id == NO_TARGET {
        return None;
    }
    let target = engine.target(id).filter(|target| target.is_resolved())?;
    Some((target, flow))
}
