//! What is done with every frame: the decision, carried out.

use crate::{
    counter::Counter,
    decision::{Tables, Verdict, decide},
    forward::direct_server_return,
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
pub fn process(packet: &mut (impl PacketBuffer + ?Sized), engine: &impl Engine) -> Action {
    match decide(packet, engine) {
        Verdict::Pass => Action::Pass,
        Verdict::Drop(counter) => drop(counter, engine),
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
