//! What is done with every frame: the decision, carried out.

use crate::{
    counter::Counter,
    decision::{Tables, Verdict, decide},
    forward::{
        self, direct_server_return,
        ipip::{self, Obstacle},
    },
    icmp_error,
    layout::{Service, Target, forward as mode},
    packet::{Packet as _, PacketBuffer},
    translation::{self, Passage, WaysBack},
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
pub trait Engine: Tables + WaysBack {
    /// The frames that it deals with.
    type Frame: PacketBuffer;

    /// Counts an exceptional packet.
    fn count(&self, counter: Counter);
    /// Counts a frame of `bytes` bytes, as it came in, that is forwarded to the target `id`.
    fn count_forwarded(&self, id: u16, bytes: usize, new_flow: bool);

    /// Makes of a frame an [RST back to its sender](forward::reset).
    #[inline(always)]
    fn reset(&self, packet: &mut Self::Frame) -> Option<()> {
        forward::reset(packet)
    }

    /// Makes of a frame the [answer that it is too big](forward::packet_too_big).
    #[inline(always)]
    fn packet_too_big(&self, packet: &mut Self::Frame, limit: u16) -> Option<()> {
        forward::packet_too_big(packet, limit)
    }

    /// Forwards an [ICMP error](icmp_error::forward) about a flow.
    #[inline(always)]
    fn forward_icmp_error(&self, packet: &mut Self::Frame) -> Action
    where
        Self: Sized,
    {
        icmp_error::forward(packet, self)
    }

    /// Forwards an [ICMP error](translation::forward_error) about a translated connection.
    #[inline(always)]
    fn translate_icmp_error(&self, packet: &mut Self::Frame) -> Action
    where
        Self: Sized,
    {
        translation::forward_error(packet, self)
    }

    /// Forwards a client's packet to a service that [translates](translation::translate).
    #[inline(always)]
    fn translate(
        &self,
        packet: &mut Self::Frame,
        service: &Service,
        passage: Passage,
        bytes: usize,
    ) -> Option<Action>
    where
        Self: Sized,
    {
        translation::translate(packet, service, passage, bytes, self)
    }

    /// [Admits](translation::admit) a packet of which something is to be remembered.
    #[inline(always)]
    fn admit(&self, packet: &Self::Frame, service: &Service) -> Passage
    where
        Self: Sized,
    {
        translation::admit(packet, service, self)
    }

    /// [Places](translation::place) a new connection.
    #[inline(always)]
    fn place(&self, packet: &Self::Frame, service: &Service) -> u16
    where
        Self: Sized,
    {
        translation::place(packet, service, self)
    }

    /// [Records](translation::record) a connection that is established.
    #[inline(always)]
    fn record(&self, packet: &Self::Frame, service: &Service, passage: Passage)
    where
        Self: Sized,
    {
        translation::record(packet, service, passage, self);
    }

    /// [Establishes](translation::establish) a half-open connection.
    #[inline(always)]
    fn establish(&self, packet: &Self::Frame, service: &Service) -> Passage
    where
        Self: Sized,
    {
        translation::establish(packet, service, self)
    }

    /// [Opens](translation::open) a way for a SYN.
    #[inline(always)]
    fn open(&self, packet: &Self::Frame, service: &Service, placed: u16) -> Passage
    where
        Self: Sized,
    {
        translation::open(packet, service, placed, self)
    }

    /// Forwards a backend's answer to a [translated connection](translation::to_client).
    #[inline(always)]
    fn translate_to_client(&self, packet: &mut Self::Frame) -> Action
    where
        Self: Sized,
    {
        translation::to_client(packet, self)
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
        Verdict::Icmp => match engine.forward_icmp_error(packet) {
            Action::Pass => engine.translate_icmp_error(packet),
            action => action,
        },
        Verdict::Reset { sent, dropped } => reset(packet, sent, dropped, engine),
        Verdict::Forward {
            id,
            target,
            flow,
            new_flow,
        } => {
            let bytes = packet.length();
            match readdress(packet, target, flow) {
                Ok(()) => {
                    engine.count_forwarded(id, bytes, new_flow);
                    Action::Transmit {
                        egress: target.egress(),
                    }
                }
                Err(Obstacle::TooBig) => {
                    if engine.packet_too_big(packet, ipip::inner_mtu(target)).is_none() {
                        return drop(Counter::DropPacketTooBig, engine);
                    }
                    engine.count(Counter::PacketTooBigSent);
                    Action::Transmit { egress: 0 }
                }
                Err(obstacle) => drop(obstacle.counter(), engine),
            }
        }
        Verdict::TranslateToBackend { service } => translation::to_backend(packet, service, engine),
        Verdict::TranslateToClient => engine.translate_to_client(packet),
    }
}

/// Tells the sender of a frame by an RST that nobody takes it, or drops it where that is not to be [answered](forward::reset).
#[inline(always)]
pub(crate) fn reset<E: Engine>(packet: &mut E::Frame, sent: Counter, dropped: Counter, engine: &E) -> Action {
    if engine.reset(packet).is_none() {
        return drop(dropped, engine);
    }
    engine.count(sent);
    Action::Transmit { egress: 0 }
}

/// Makes of a frame what is sent to a target.
#[inline(always)]
pub(crate) fn readdress(packet: &mut impl PacketBuffer, target: &Target, flow: u64) -> Result<(), Obstacle> {
    match target.forward() {
        mode::IPIP => ipip::wrap(packet, target, flow),
        _ => direct_server_return(packet, target).ok_or(Obstacle::Truncated),
    }
}

/// Drops a frame and says why.
#[inline(always)]
pub(crate) fn drop(counter: Counter, engine: &impl Engine) -> Action {
    engine.count(counter);
    Action::Drop
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;
    use crate::layout::{Forwarding, NextHop};
    use crate::packet::ROOM;
    use crate::testing::{
        self, Case, Frame, HostTables, Outcome,
        cases::CLIENT,
        frame::{BALANCER_MAC, CLIENT_MAC},
        opened::open,
        tables::{TARGETS, TUNNEL_V4_BACKEND, TUNNEL_V4_SOURCE, TUNNEL_V4_TARGET, V4_IN_V4, next_hop},
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
            (Action::Transmit { egress: 0 }, [], &[id]) => {
                let traffic = tables.forwarded(id);
                assert_eq!(traffic.bytes, case.frame.len() as u64, "{}", case.sentence);
                let target = &tables.targets[usize::from(id)];
                assert_eq!(frame[..12], target.addresses(), "{}", case.sentence);
                Outcome::Forward {
                    id,
                    new_flow: traffic.new_flows == 1,
                }
            }
            (Action::Transmit { egress: 0 }, [Counter::PacketTooBigSent], []) => {
                assert_eq!((&frame[..6], &frame[6..12]), (&CLIENT_MAC[..], &BALANCER_MAC[..]));
                assert!(frame.len() < case.frame.len(), "an answer amplifies nothing");
                open(&frame);
                Outcome::TooBig
            }
            (Action::Transmit { egress: 0 | 1 }, [Counter::IcmpErrorForwarded], []) => {
                let id = (1..TARGETS).find(|&id| tables.targets[usize::from(id)].addresses() == frame[..12]);
                match id.map(|id| (id, tables.targets[usize::from(id)].forward())) {
                    Some((id, mode::IPIP)) => {
                        let opened = open(&frame);
                        assert!(case.frame.ends_with(&opened.content), "{}", case.sentence);
                        Outcome::ForwardError { id }
                    }
                    Some((id, mode::DSR)) => {
                        assert_eq!(frame[12..], case.frame[12..], "{}", case.sentence);
                        Outcome::ForwardError { id }
                    }
                    // To a backend that translates, or back to a client.
                    _ => {
                        assert_ne!(frame[12..], case.frame[12..], "{}", case.sentence);
                        Outcome::TranslateError
                    }
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
            // Not a matter of the frame alone: they have tests of their own.
            .filter(|counter| !matches!(counter, Counter::DropNoHeadroom | Counter::DropRecordsAwaited))
        {
            assert!(
                cases.iter().any(|case| case.outcome == Outcome::Drop(counter)),
                "no case shows {}",
                counter.name()
            );
        }
    }

    #[test]
    fn what_the_driver_leaves_no_room_for_is_dropped_and_counted() {
        let mut tables = HostTables::fixture();
        let wide = NextHop {
            mtu: u16::MAX,
            ..next_hop([2; 6])
        };
        let source = Address::v4(TUNNEL_V4_SOURCE.octets());
        let backend = Address::v4(TUNNEL_V4_BACKEND.octets());
        tables.targets[usize::from(TUNNEL_V4_TARGET)] =
            Target::new(backend, Forwarding::Ipip { source }, Some(wide));
        let mut frame = Frame::new(CLIENT, V4_IN_V4).payload(&[0; ROOM - 54 - 19]).bytes();
        assert_eq!(process(&mut frame, &tables), Action::Drop);
        assert_eq!(tables.counted(Counter::DropNoHeadroom), 1);
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
