//! The ways back of translated connections.

use aya::maps::{HashMap, MapError};
use lb_common::layout::{FlowKey, FlowRecord, Return, ReturnKey, map};

use super::{Datapath, DatapathError, find, pod::Raw, present};

impl Datapath {
    /// The way back of an established connection. Its key is
    /// [`return_key`](lb_common::translation::return_key) of the connection's record.
    pub fn way_back(&self, key: ReturnKey) -> Result<Option<Return>, DatapathError> {
        let returns = HashMap::<_, Raw<ReturnKey>, Raw<Return>>::try_from(find(&self.ebpf, map::RETURNS)?)?;
        present(returns.get(&Raw(key), 0))
    }

    /// The way back of a half-open connection.
    pub fn half_open_way_back(&self, key: ReturnKey) -> Result<Option<Return>, DatapathError> {
        let returns =
            HashMap::<_, Raw<ReturnKey>, Raw<Return>>::try_from(find(&self.ebpf, map::HALF_OPEN_RETURNS)?)?;
        present(returns.get(&Raw(key), 0))
    }

    /// The ways back of all established connections, as they are while this goes through them. Packets may change the table
    /// meanwhile: one that is added or removed may be missed, or seen twice.
    pub fn ways_back(&self) -> Result<Vec<(ReturnKey, Return)>, DatapathError> {
        let returns = HashMap::<_, Raw<ReturnKey>, Raw<Return>>::try_from(find(&self.ebpf, map::RETURNS)?)?;
        returns
            .iter()
            .map(|entry| {
                let (Raw(key), Raw(way_back)) = entry?;
                Ok((key, way_back))
            })
            .collect()
    }

    /// Writes the record of an established connection, which needs a way back if its service translates.
    pub fn write_flow_record(&mut self, key: FlowKey, record: FlowRecord) -> Result<(), DatapathError> {
        let mut flows = HashMap::<_, Raw<FlowKey>, Raw<FlowRecord>>::try_from(self.map_mut(map::FLOWS)?)?;
        Ok(flows.insert(Raw(key), Raw(record), 0)?)
    }

    /// Writes the way back of an established connection.
    pub fn write_way_back(&mut self, key: ReturnKey, way_back: Return) -> Result<(), DatapathError> {
        let mut returns = HashMap::<_, Raw<ReturnKey>, Raw<Return>>::try_from(self.map_mut(map::RETURNS)?)?;
        Ok(returns.insert(Raw(key), Raw(way_back), 0)?)
    }

    /// Removes the way back of a connection that is over, together with its record. It may be gone already.
    pub fn remove_way_back(&mut self, key: ReturnKey) -> Result<(), DatapathError> {
        let mut returns = HashMap::<_, Raw<ReturnKey>, Raw<Return>>::try_from(self.map_mut(map::RETURNS)?)?;
        match returns.remove(&Raw(key)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
