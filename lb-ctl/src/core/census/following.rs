//! What a pass over the records has to know of services that the other balancer owns or has owned.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    clock,
    layout::{Affinity, ClientKey},
};

/// Which services these are.
///
/// What the owner has told is over when it says so, whatever becomes of targets and slots here. And as long as it owned a service, it alone
/// knew when connections and clients were last heard of: for us nothing of that service is older than our ownership.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Following {
    /// The services that we follow, by id.
    pub services: BTreeSet<u16>,
    /// Their targets, by id.
    pub targets: BTreeSet<u16>,
    /// Since when, in ticks, we own services that we followed before.
    pub owned_since: BTreeMap<u16, u32>,
    /// Those of them whose records may contradict untracked slots, because not everything has been told. Their slots stand still.
    pub unproved: BTreeSet<u16>,
}

impl Following {
    /// When a connection or client of a service was last heard of, as far as we can know: the other balancer may have heard of it until
    /// we took over.
    pub(super) fn last_seen(&self, service: u16, known: u32, now: u32) -> u32 {
        match self.owned_since.get(&service) {
            Some(&since) if clock::since(now, since) < clock::since(now, known) => since,
            _ => known,
        }
    }
}

/// What is to be noted, when we take a service over, of a client of whom this is noted; `None` if it may stay as it is.
///
/// The owner tells where a client is at home when that changes, not each time that it is heard of. So whoever is noted at all was there
/// a moment ago, as far as we can know, and the kernel program, which forgets about clients that were not, must be told so.
pub fn taken_over(key: &ClientKey, noted: &Affinity, service: u16, now: u32) -> Option<Affinity> {
    let is_old = clock::since(now, noted.last_seen) > 0;
    (key.service() == service && is_old).then_some(Affinity {
        last_seen: now,
        ..*noted
    })
}
