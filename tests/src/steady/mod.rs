//! Clients whose connections are steady: many, long-lived, each exchanging data all the time with a server that says who
//! it is. Whatever breaks one of them is noticed and told precisely.
//!
//! [`start_servers`] puts a server on every backend, [`Steady::start`] the connections on a client. Both are processes
//! of the lab, the program `steady`: what happens to the one that runs a test does not disturb them.
//!
//! What the connections prove: as long as none is reported broken, each exchange was answered, byte for byte, by the very
//! server that answered the first. [`Steady::round`] waits until all have been through another whole exchange, so that
//! what was done before is covered, whatever the machine's speed.

pub mod client;
pub mod conversation;
mod handle;
pub mod ledger;
pub mod report;
pub mod server;

pub use handle::{Server, Steady, start_servers};
