//! What two balancers tell each other, so that either can take over from the other without breaking a connection.
//!
//! The *owner* of a service, which its clients' packets reach, tells the other one what decides where they go: slots, records of
//! flows, where clients are at home. Names cross the wire, ids do not: each side has given out its own.
//!
//! Nothing is told as an event. The owner's [`Outbox`] knows *what* the peer has not heard of yet, and looks up how it is when there
//! is room to send: what changes ten times meanwhile is sent once, a peer that is slow costs no memory, and one that connects is
//! told everything by the same way. In this order, so that the peer can take over between any two batches that it has taken:
//!
//! - records before slots: one in a slot that is not tracked is not looked at, and one that is missing in a slot that is would be;
//! - the settling of a slot before the end of the records that it made superfluous.
//!
//! Hence flows are looked up before slots, and those that have ended are told after them; see [`Outbox::next_batch`]. What changes while
//! the peer is told of what there is goes first.
//!
//! Who does not own a service tells what begins there nevertheless (`unowned`): clients hear of a new master one after the other, and some before
//! it knows that it is one, or after it has ceased to be. That is added to what is known, whoever owns the service by then, and replaces nothing.
//!
//! Decisions of operators cross both ways, whoever owns what, and [which counts](crate::core::operator) follows from themselves.
//!
//! Time does not cross the wire either, ages do: the clocks of two hosts have nothing in common.

mod allowance;
mod apply_error;
mod batch;
mod by_service;
mod changes;
mod conversation;
mod inbox;
mod mirror;
mod outbox;
mod owned;
mod places;
mod slot_set;
mod told;
mod unowned;
mod wire;

#[cfg(test)]
mod simulation;

pub use allowance::Allowance;
pub use apply_error::ApplyError;
pub use changes::Changes;
pub use conversation::{Conversation, ConversationError, Heard, PATIENCE, Shape, brief};
pub use inbox::Inbox;
pub use mirror::{Added, Mirror};
pub use outbox::{Outbox, Source};
pub use places::Places;
pub use wire::{Flow, Greeting, Home, Item, LIMIT, Message, Run, VERSIONS, WayToClient, WireError};
