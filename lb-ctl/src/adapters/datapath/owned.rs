//! Maps by a descriptor of our own, for use on another thread than the program's.

use std::os::fd::AsFd;

use aya::maps::{Array, Map, MapData};

use super::{DatapathError, pod::Raw};

/// A map by a descriptor of our own.
pub(super) fn duplicate(data: &MapData) -> Result<MapData, DatapathError> {
    let descriptor = data
        .fd()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|source| DatapathError::Access {
            what: "duplicating a map's descriptor",
            source,
        })?;
    Ok(MapData::from_fd(descriptor)?)
}

/// An array by a descriptor of our own.
pub(super) fn array<V: Copy>(map: &Map) -> Result<Array<MapData, Raw<V>>, DatapathError>
where
    Raw<V>: aya::Pod,
{
    let Map::Array(data) = map else {
        return Err(DatapathError::Object { missing: "array" });
    };
    Ok(Array::try_from(Map::Array(duplicate(data)?))?)
}
