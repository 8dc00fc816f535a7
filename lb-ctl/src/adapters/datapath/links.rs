//! Our interfaces by their place in the configuration, which a balancer can tell another one: indices and MAC addresses are each
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

    /// The index and the MAC address of the one at a place. Where that has none, index 0: the interface that a packet came in on; with the
    /// MAC address of the first one, since we do not know which that will be.
    pub(super) fn way_out(&self, place: Option<u8>) -> (u32, [u8; 6]) {
        let links = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let link = place.and_then(|place| links.get(usize::from(place)));
        match link {
            Some(Link {
                index: Some(index),
                mac,
            }) => (*index, *mac),
            other => (0, other.or(links.first()).map_or([0; 6], |link| link.mac)),
        }
    }
}
