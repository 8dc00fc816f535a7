//! What can go wrong with netlink.

use std::{io, net::IpAddr};

/// Why the kernel's network configuration could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No netlink socket.
    #[error("the kernel's network configuration cannot be reached over netlink")]
    Connect(#[source] io::Error),
    /// A request failed.
    #[error("{what} failed")]
    Request {
        /// What was asked.
        what: String,
        /// The kernel's answer.
        source: Box<rtnetlink::Error>,
    },
    /// An interface was gone right after it had been added.
    #[error(
        "expected the interface {name}, which has just been added, found none: somebody has removed or changed it"
    )]
    Vanished {
        /// Its name.
        name: String,
    },
    /// There is no way to an address.
    #[error("the kernel has no route to {address}")]
    NoRoute {
        /// The address.
        address: IpAddr,
    },
}

impl NetlinkError {
    pub(super) fn request(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        let what = what.into();
        move |source| Self::Request {
            what,
            source: Box::new(source),
        }
    }
}

/// The error number in the kernel's answer.
pub(super) fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io().raw_os_error(),
        _ => None,
    }
}
