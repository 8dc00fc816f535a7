//! Our interfaces by their place in the configuration, which is what two balancers have in common: indices and MAC addresses are each
//! host's own.

use std::sync::{PoisonError, RwLock};

/// One of our interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index; `None` while it does not exist.
    pub index: Option<u32>,
    /// Its MAC address.
    pub mac: [u8; 6],
}

/// All of them, in the order of `datapath.interfaces`.
#[derive(Debug, Default)]
pub(super) struct Links(RwLock<Vec<Link>>);

impl Links {
    /// They are these now.
    pub(super) fn set(&self, links: Vec<Link>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = links;
    }

    /// Where the one with an index stands.
    pub(super) fn place(&self, index: u32) -> Option<u8> {
        let links = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let place = links.iter().position(|link| link.index == Some(index))?;
        u8::try_from(place).ok()
    }
}
