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
    /// A virtual interface is not over the interface over which it was put.
    #[error(
        "expected an interface that can carry virtual ones, found one on which {name} did not stay where it was put: perhaps it is a macvlan \
         itself; leave out virtual_mac"
    )]
    NoParent {
        /// The virtual interface's name.
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
