//! Where clients of affine services are at home.

use crate::address::Address;

/// Of how many clients something can be noted.
pub const AFFINITY_ROOM: u32 = 32_768;

/// Names a client of a service: the key of the table of affinity.
///
/// Aligned to 8 bytes for the same reason as [`ServiceKey`](super::ServiceKey).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C, align(8))]
pub struct ClientKey {
    /// The client's address.
    client: Address,
    /// The service's id.
    service: u16,
    reserved: [u16; 3],
}

impl ClientKey {
    /// The key of a client of a service.
    #[inline(always)]
    pub const fn new(client: Address, service: u16) -> Self {
        Self {
            client,
            service,
            reserved: [0; 3],
        }
    }

    /// The client's address.
    pub const fn client(&self) -> Address {
        self.client
    }

    /// The service's id.
    pub const fn service(&self) -> u16 {
        self.service
    }
}

/// What is noted of a client in a tracked slot of an affine service. [Best effort](crate::affinity).
///
/// Aligned like its key, and for the same reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Affinity {
    /// The target on which it is at home.
    pub target: u16,
    /// Always 0.
    pub reserved: u16,
    /// When a packet of it went there last, in [ticks](crate::clock::ticks).
    pub last_seen: u32,
}
