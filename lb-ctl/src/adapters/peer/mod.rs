//! The connection between two balancers: TCP, encrypted and authenticated by a key that both have.

mod channel;
mod key_file;

#[cfg(test)]
mod tests;

pub use channel::{ChannelError, Receiver, Sender, answer, open};
pub use key_file::{Key, KeyFileError};
