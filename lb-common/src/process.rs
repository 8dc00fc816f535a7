//! What is done with every frame: the decision, carried out.

use crate::{
    counter::Counter,
    decision::{Tables, Verdict, decide},
    forward::{self, direct_server_return},
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

/// The tables of the decision, and what carrying it out needs besides.
pub trait Engine: Tables {
    /// The frames that it deals with.
    type Packet: PacketBuffer;

    /// Counts an exceptional packet.
    fn count(&self, counter: Counter);
    /// Counts a frame of `bytes` bytes, as it came in, that is forwarded to the target `id`.
    fn count_forwarded(&self, id: u16, bytes: usize, new_flow: bool);

    /// Makes of a frame an [RST back to its sender](forward::reset).
    ///
    /// A method so that an implementation can keep it out of the way of packets that are forwarded.
    #[inline(always)]
    fn reset(&self, packet: &mut Self::Packet) -> Option<()> {
        forward::reset(packet)
    }
}

/// Decides about a frame, counts it, and makes of it what is to be sent.
///
/// A frame that is dropped may have been changed.
#[inline(always)]
pub fn process<E: Engine>(packet: &mut E::Packet, engine: &E) -> Action {
    match decide(packet, engine) {
        Verdict::Pass => Action::Pass,
        Verdict::Drop(counter) => drop(counter, engine),
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
