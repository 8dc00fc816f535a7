//! Which port of the VIP stands for a client towards a backend.

use super::return_key;
use crate::{
    address::Address,
    hash,
    layout::{Return, Service, ServiceKey, Target},
    process::Engine,
};

/// How many ports are tried besides the preferred one.
const ATTEMPTS: u32 = 8;
/// The first port that is tried when the preferred one is taken: below are those of well-known services.
const FIRST: u32 = 1024;
/// How many ports there are from [`FIRST`] on.
const COUNT: u32 = 65_536 - FIRST;

/// Finds a port of the VIP by which `way_back` can be found, and opens that. Returns 0 if there is none.
///
/// The preferred port is what most connections get. Where another connection has it towards the same backend, a few others are tried
/// that follow from the flow's hash. For the last of them a connection that is only half open gives way: a flood of SYNs must not
/// use up the ports. Whoever loses one so is refused once it continues, since the way back is not its own any more.
#[inline(always)]
pub(super) fn allocate(
    preferred: u16,
    vip: Address,
    service: &Service,
    target: &Target,
    way_back: &Return,
    engine: &impl Engine,
) -> u16 {
    let mut hash = hash::flow(service.hash_seed, way_back.client, way_back.client_port);
    let mut port = preferred;
    for attempt in 0..=ATTEMPTS {
        if claim(port, attempt == ATTEMPTS, vip, target, way_back, engine) {
            return port;
        }
        hash = hash::mix(hash.wrapping_add(1));
        port = candidate(hash);
    }
    0
}

/// The port that a hash stands for.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "below 65,536 by its making")]
const fn candidate(hash: u64) -> u16 {
    (FIRST + hash::slot(hash, COUNT)) as u16
}

/// Takes a port, if it is free or already this flow's; by force, also if it is another's that is half open. `false` if not.
#[inline(always)]
fn claim(
    port: u16,
    by_force: bool,
    vip: Address,
    target: &Target,
    way_back: &Return,
    engine: &impl Engine,
) -> bool {
    // An answer to a port with a service would be taken for a packet of a client.
    if port == 0 || engine.service(&ServiceKey::tcp(vip, port)).is_some() {
        return false;
    }
    let key = return_key(target, vip, port);
    if let Some(other) = engine.way_back(&key)
        && !is_same_flow(other, way_back)
    {
        return false;
    }
    let replaces = match engine.half_open_way_back(&key) {
        Some(other) if !by_force && !is_same_flow(other, way_back) => return false,
        earlier => earlier.is_some(),
    };
    engine.open_way_back(&key, way_back, replaces)
}

/// Whether two ways back lead to the same connection of the same client.
#[inline(always)]
pub(super) fn is_same_flow(one: &Return, other: &Return) -> bool {
    let (mine, theirs) = (one.client.words(), other.client.words());
    let address =
        (mine[0] ^ theirs[0]) | (mine[1] ^ theirs[1]) | (mine[2] ^ theirs[2]) | (mine[3] ^ theirs[3]);
    let rest = (one.client_port ^ other.client_port) | (one.service ^ other.service);
    // One comparison: the verifier follows every branch of a loop.
    address | u32::from(rest) == 0
}
