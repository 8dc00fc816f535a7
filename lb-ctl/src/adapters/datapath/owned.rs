//! Maps by a descriptor of our own, for use on another thread than the program's.

use std::os::fd::AsFd;

use aya::maps::{Array, Map, MapData, MapError};

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

/// An entry by id; `None` beyond the end.
pub(super) fn entry<V: Copy>(array: &Array<MapData, Raw<V>>, id: u16) -> Result<Option<V>, DatapathError>
where
    Raw<V>: aya::Pod,
{
    match array.get(&u32::from(id), 0) {
        Ok(Raw(value)) => Ok(Some(value)),
        Err(MapError::OutOfBounds { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
