//! What a table has of several services.

use std::collections::{BTreeMap, BTreeSet};

/// Keys by the service that they are of.
pub(super) fn by_service<K: Copy + Ord>(
    mut keys: Vec<K>,
    service: impl Fn(&K) -> u16,
) -> BTreeMap<u16, BTreeSet<K>> {
    // Sorted first: a set takes what is in order in one go.
    keys.sort_unstable_by_key(|key| (service(key), *key));
    let services = keys.chunk_by(|one, other| service(one) == service(other));
    let with_keys =
        services.filter_map(|keys| Some((service(keys.first()?), keys.iter().copied().collect())));
    with_keys.collect()
}
