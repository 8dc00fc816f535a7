//! The connection between two balancers: TCP, encrypted and authenticated by a key that both have.

mod channel;
mod complaints;
mod exchange;
mod key_file;
mod link;

#[cfg(test)]
mod link_tests;
#[cfg(test)]
mod tests;

#[cfg(test)]
use channel::{ChannelError, Receiver, Sender, answer, open};
pub use exchange::{Connection, Event, Identity, LOOK, Subjects};
pub use key_file::{Key, KeyFileError};
pub use link::{Link, Ways};
