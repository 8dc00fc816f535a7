//! What is done with every frame: the decision, carried out.

use crate::{
    counter::Counter,
    decision::{Tables, Verdict, decide},
    forward::{self, direct_server_return},
    icmp_error,
    packet::{Packet as _, PacketBuffer},
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

impl Action {
    /// The action in one word, as functions of the kernel program return it.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        match self {
            Self::Pass => 0,
            Self::Drop => 1,
            Self::Transmit { egress } => 2 | (egress as u64) << 32,
        }
    }

    /// The inverse of [`Action::to_bits`].
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "cut out of the word")]
    pub const fn from_bits(bits: u64) -> Self {
        match bits as u32 {
            0 => Self::Pass,
            1 => Self::Drop,
            _ => Self::Transmit {
                egress: (bits >> 32) as u32,
            },
        }
    }
}

/// The tables of the decision, and what carrying it out needs besides.
///
/// The provided methods are ways that are long or rare. They are methods so that an implementation can keep them out of the way of
/// other packets.
pub trait Engine: Tables {
    /// The frames that it deals with.
    type Frame: PacketBuffer;

    /// Counts an exceptional packet.
    fn count(&self, counter: Counter);
    /// Counts a frame of `bytes` bytes, as it came in, that is forwarded to the target `id`.
    fn count_forwarded(&self, id: u16, bytes: usize, new_flow: bool);

    /// Makes of a frame an [RST back to its sender](forward::reset).
    ///
    #[inline(always)]
    fn reset(&self, packet: &mut Self::Frame) -> Option<()> {
        forward::reset(packet)
    }

    /// Forwards an [ICMP error](icmp_error::forward) about a flow.
    #[inline(always)]
    fn forward_icmp_error(&self, packet: &mut Self::Frame) -> Action
    where
        Self: Sized,
    {
        icmp_error::forward(packet, self)
    }
}

/// Decides about a frame, counts it, and makes of it what is to be sent.
///
/// A frame that is dropped may have been changed.
#[inline(always)]
pub fn process<E: Engine>(packet: &mut E::Frame, engine: &E) -> Action {
    match decide(packet, engine) {
        Verdict::Pass => Action::Pass,
        Verdict::Drop(counter) => drop(counter, engine),
        Verdict::Icmp => engine.forward_icmp_error(packet),
        Verdict::Reset { sent, dropped } => {
            if engine.reset(packet).is_none() {
                return drop(dropped, engine);
            }
            engine.count(sent);
            Action::Transmit { egress: 0 }
        }
        Verdict::Forward {
            id,
            target,
            flow: _,
            new_flow,
        } => {
            let bytes = packet.length();
            if direct_server_return(packet, target).is_none() {
                return drop(Counter::DropTruncated, engine);
            }
            engine.count_forwarded(id, bytes, new_flow);
            Action::Transmit {
                egress: target.egress(),
            }
        }
    }
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
    use crate::testing::{
        self, Case, HostTables, Outcome,
        frame::{BALANCER_MAC, CLIENT_MAC},
        tables::TARGETS,
    };
    use std::vec::Vec;

    /// What happened to a frame, as the counts of fresh tables tell it.
    fn outcome(case: &Case) -> Outcome {
        let tables = HostTables::fixture();
        let mut frame = case.frame.clone();
        let action = process(&mut frame, &tables);
        let reasons: Vec<Counter> = Counter::ALL
            .iter()
            .copied()
            .filter(|&counter| tables.counted(counter) > 0)
            .collect();
        let forwarded: Vec<u16> = (0..TARGETS)
            .filter(|&id| tables.forwarded(id).packets > 0)
            .collect();
        match (action, reasons.as_slice(), forwarded.as_slice()) {
            (Action::Pass, [], []) => {
                assert_eq!(frame, case.frame, "{}", case.sentence);
                Outcome::Pass
            }
            (Action::Drop, &[counter], []) => Outcome::Drop(counter),
            (Action::Transmit { egress: 0 }, [], &[id]) => Outcome::Forward {
                id,
                new_flow: tables.forwarded(id).new_flows == 1,
            },
            (Action::Transmit { egress: 0 }, [Counter::IcmpErrorForwarded], []) => {
                assert_eq!(frame[12..], case.frame[12..], "{}", case.sentence);
                let id = (1..TARGETS).find(|&id| tables.targets[usize::from(id)].addresses() == frame[..12]);
                Outcome::ForwardError {
                    id: id.expect("it goes to a target"),
                }
            }
            (Action::Transmit { egress: 0 }, &[counter], []) => {
                assert_eq!((&frame[..6], &frame[6..12]), (&CLIENT_MAC[..], &BALANCER_MAC[..]));
                Outcome::Reset(counter)
            }
            found => panic!("{}: {found:?}", case.sentence),
        }
    }

    #[test]
    fn every_case_meets_its_fate() {
        for case in testing::cases() {
            assert_eq!(outcome(&case), case.outcome, "{}", case.sentence);
        }
    }

    #[test]
    fn every_counter_has_a_case() {
        let cases = testing::cases();
        for &counter in Counter::ALL
            .iter()
            .filter(|counter| counter.name().starts_with("drop_"))
        {
            assert!(
                cases.iter().any(|case| case.outcome == Outcome::Drop(counter)),
                "no case shows {}",
                counter.name()
            );
        }
    }

    #[test]
    fn an_action_survives_packing() {
        for action in [
            Action::Pass,
            Action::Drop,
            Action::Transmit { egress: 0 },
            Action::Transmit { egress: u32::MAX },
        ] {
            assert_eq!(Action::from_bits(action.to_bits()), action);
        }
    }
}
