//! What is done with every frame: the decision, carried out.

use crate::{
    counter::Counter,
    decision::{Tables, Verdict, decide},
    forward::{
        direct_server_return,
        ipip::{self, Obstacle},
        packet_too_big::PacketTooBig,
    },
    layout::{Target, forward},
    packet::PacketBuffer,
};

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// To the kernel's network stack, unchanged.
    Pass,
    /// Nowhere.
    Drop,
    /// Out of an interface.
    Transmit {
        /// The interface's index. 0 stands for the one that the frame came in on.
        egress: u32,
    },
}

/// The tables of the decision, and what carrying it out needs besides.
pub trait Engine: Tables {
    /// Counts an exceptional packet.
    fn count(&self, counter: Counter);
    /// Counts a frame of `bytes` bytes, as it came in, that is forwarded to the target `id`.
    fn count_forwarded(&self, id: u16, bytes: usize, new_flow: bool);
}

/// Decides about a frame, counts it, and makes of it what is to be sent.
///
/// A frame that is dropped may have been changed.
#[inline(always)]
pub fn process(packet: &mut impl PacketBuffer, engine: &impl Engine) -> Action {
    match decide(packet, engine) {
        Verdict::Pass => Action::Pass,
        Verdict::Drop(counter) => drop(counter, engine),
        Verdict::Forward {
            id,
            target,
            flow,
            new_flow,
        } => {
            let bytes = packet.length();
            let readdressed = match target.forward() {
                forward::IPIP => ipip::wrap(packet, target, flow),
                _ => direct_server_return(packet, target).ok_or(Obstacle::Truncated),
            };
            match readdressed {
                Ok(()) => {
                    engine.count_forwarded(id, bytes, new_flow);
                    Action::Transmit {
                        egress: target.egress(),
                    }
                }
                Err(Obstacle::TooBig) => answer_too_big(packet, target, engine),
                Err(Obstacle::NoHeadroom) => drop(Counter::DropNoHeadroom, engine),
                Err(Obstacle::Truncated) => drop(Counter::DropTruncated, engine),
            }
        }
    }
}

/// Tells the client of a packet that does not fit into the tunnel how long one may be.
#[inline(always)]
fn answer_too_big(packet: &mut impl PacketBuffer, target: &Target, engine: &impl Engine) -> Action {
    if packet
        .change_rarely::<PacketTooBig>(u64::from(ipip::inner_mtu(target)))
        .is_none()
    {
        return drop(Counter::DropPacketTooBig, engine);
    }
    engine.count(Counter::PacketTooBigSent);
    Action::Transmit { egress: 0 }
}

/// Drops a frame and says why.
#[inline(always)]
fn drop(counter: Counter, engine: &impl Engine) -> Action {
    engine.count(counter);
    Action::Drop
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::ROOM;
    use crate::testing::{self, Case, Frame, HostTables, Outcome, cases, opened::open, tables};
    use std::vec::Vec;

    /// What becomes of a frame, and all that was counted exceptional meanwhile.
    fn outcome(frame: &mut Vec<u8>, tables: &HostTables) -> (Action, Vec<Counter>) {
        let action = process(frame, tables);
        let counted = |counter: &&Counter| tables.counted(**counter) > 0;
        (action, Counter::ALL.iter().filter(counted).copied().collect())
    }

    #[test]
    fn every_case_is_carried_out_and_counted_once() {
        let transmit = Action::Transmit { egress: 0 };
        for Case {
            sentence,
            frame,
            outcome: expected,
        } in cases()
        {
            let tables = HostTables::fixture();
            let mut after = frame.clone();
            let (action, counters) = outcome(&mut after, &tables);
            let forwarded: u64 = (0..tables::TARGETS).map(|id| tables.forwarded(id).packets).sum();
            let (expected_action, expected_counters, expected_forwarded) = match expected {
                Outcome::Pass => (Action::Pass, Vec::new(), 0),
                Outcome::Forward { .. } => (transmit, Vec::new(), 1),
                Outcome::Drop(counter) => (Action::Drop, Vec::from([counter]), 0),
                Outcome::TooBig { counter, .. } => {
                    let is_answered = counter == Counter::PacketTooBigSent;
                    (
                        if is_answered { transmit } else { Action::Drop },
                        Vec::from([counter]),
                        0,
                    )
                }
            };
            assert_eq!(
                (action, counters, forwarded),
                (expected_action, expected_counters, expected_forwarded),
                "{sentence}"
            );
            match expected {
                Outcome::Pass => assert_eq!(after, frame, "{sentence}"),
                Outcome::Forward { id, new_flow } => {
                    let traffic = tables.forwarded(id);
                    assert_eq!(
                        (traffic.bytes, traffic.new_flows),
                        (frame.len() as u64, u64::from(new_flow)),
                        "{sentence}"
                    );
                    assert_eq!(
                        after[..12],
                        tables.targets[usize::from(id)].addresses(),
                        "{sentence}"
                    );
                }
                Outcome::TooBig {
                    counter: Counter::PacketTooBigSent,
                    ..
                } => {
                    assert_eq!(after[..6], testing::frame::CLIENT_MAC, "{sentence}");
                    assert!(
                        after.len() < frame.len(),
                        "{sentence}: an answer amplifies nothing"
                    );
                    open(&after);
                }
                Outcome::Drop(_) | Outcome::TooBig { .. } => {}
            }
        }
    }

    #[test]
    fn what_the_driver_leaves_no_room_for_is_dropped_and_counted() {
        let mut tables = HostTables::fixture();
        let wide = crate::layout::NextHop {
            mtu: u16::MAX,
            ..tables::next_hop([2; 6])
        };
        let source = tables::TUNNEL_V4_SOURCE.octets();
        let forwarding = crate::layout::Forwarding::Ipip {
            source: crate::address::Address::v4(source),
        };
        tables.targets[usize::from(tables::TUNNEL_V4_TARGET)] = Target::new(
            crate::address::Address::v4([192, 0, 2, 105]),
            forwarding,
            Some(wide),
        );
        let mut frame = Frame::new(cases::CLIENT, tables::V4_IN_V4)
            .payload(&[0; ROOM - 54 - 19])
            .bytes();
        assert_eq!(
            outcome(&mut frame, &tables),
            (Action::Drop, Vec::from([Counter::DropNoHeadroom]))
        );
    }
}
