//! Services by their ids, of which records know nothing more.

use std::collections::BTreeMap;

use lb_common::layout::{Service, ServiceKey};

use super::{DatapathError, hash_table::HashTable};

/// All services that there are, by id.
pub(super) fn services_by_id(
    services: &HashTable<ServiceKey, Service>,
) -> Result<BTreeMap<u16, ServiceKey>, DatapathError> {
    let mut found = BTreeMap::new();
    services.for_each(|key, service| {
        // Not the entry that says that an address is a VIP at all.
        if key.is_service() {
            found.insert(service.id, key);
        }
        Ok(())
    })?;
    Ok(found)
}
