//! VRRP on the wire: the sockets of an instance, and the frames that tell neighbours of a takeover.

mod announcer;
mod channel;
mod socket_option;

pub use announcer::Announcer;
pub use channel::{Channel, Endpoint, Incoming, Sockets};

use std::io;

/// Why there is no VRRP on an interface.
#[derive(Debug, thiserror::Error)]
#[error("{what} on {interface} failed")]
pub struct VrrpError {
    what: &'static str,
    interface: String,
    source: io::Error,
}

impl VrrpError {
    fn of(what: &'static str, interface: &str) -> impl FnOnce(io::Error) -> Self {
        let interface = interface.to_owned();
        move |source| Self {
            what,
            interface,
            source,
        }
    }
}
