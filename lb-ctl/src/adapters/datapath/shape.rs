//! What the maps must look like, and whether those of an earlier run do.
//!
//! aya opens a pinned map without a look at it. A program with another idea of its values would read them wrongly, so they are
//! compared here.

use std::{collections::BTreeMap, path::Path};

use aya::maps::MapInfo;
use aya_obj::{Object, generated::bpf_map_type};
use lb_common::layout::{TargetName, map};

use super::{DatapathError, Sizes};
use crate::adapters::programs;

/// The kernel adds it to some types of map by itself (`BPF_F_RDONLY_PROG`, linux/bpf.h).
const READ_ONLY_FOR_PROGRAMS: u32 = 1 << 7;

/// What can be compared of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    kind: u32,
    key_size: u32,
    value_size: u32,
    flags: u32,
    entries: u32,
}

impl Shape {
    /// The map of targets' names, which the object file does not have.
    pub(super) fn of_names(sizes: Sizes) -> Self {
        Self {
            kind: bpf_map_type::BPF_MAP_TYPE_ARRAY as u32,
            key_size: 4,
            // 88 bytes.
            value_size: u32::try_from(size_of::<TargetName>()).unwrap_or(u32::MAX),
            flags: 0,
            entries: sizes.targets,
        }
    }

    /// The definition from which aya makes such a map.
    pub(super) fn definition(self) -> aya_obj::Map {
        aya_obj::Map::new_from_params(
            self.kind,
            self.key_size,
            self.value_size,
            self.entries,
            self.flags,
        )
    }

    fn of_pinned(path: &Path) -> Result<Self, DatapathError> {
        let info = MapInfo::from_pin(path)?;
        Ok(Self {
            kind: info.map_type()? as u32,
            key_size: info.key_size(),
            value_size: info.value_size(),
            flags: info.map_flags() & !READ_ONLY_FOR_PROGRAMS,
            entries: info.max_entries(),
        })
    }

    /// What another map has otherwise, its number of entries aside.
    fn difference(&self, other: &Self) -> Option<String> {
        let mut parts = [
            ("type", self.kind, other.kind),
            ("key size", self.key_size, other.key_size),
            ("value size", self.value_size, other.value_size),
            ("flags", self.flags, other.flags),
        ]
        .into_iter();
        let (what, expected, found) = parts.find(|(_, expected, found)| expected != found)?;
        Some(format!("{what} {expected}, found {found}"))
    }
}

impl Sizes {
    /// The number of entries of a map whose size is configured.
    pub(super) fn entries(self, name: &str) -> Option<u32> {
        match name {
            map::SERVICES => Some(self.services),
            map::SLOTS => Some(self.slots),
            map::TARGETS | map::LIVE | map::TRAFFIC | map::TARGET_NAMES => Some(self.targets),
            map::FLOWS | map::RETURNS => Some(self.flows),
            map::HALF_OPEN | map::HALF_OPEN_RETURNS | map::SETTLED_FLOWS => Some(self.half_open),
            _ => None,
        }
    }
}

/// Whether maps of an earlier version, which otherwise are like ours, may lack this one: what belongs into it follows from the
/// others.
pub(super) fn may_lack(name: &str) -> bool {
    name == map::LIVE
}

/// Whether a map is one of those that are pinned. What is in the others is for the process alone that has loaded the program.
fn is_kept(name: &str) -> bool {
    !matches!(name, map::NEWS | map::NEWS_LOST)
}

/// What is pinned in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pinned {
    /// How many entries the maps have.
    pub(super) sizes: Sizes,
    /// Whether they are all there: none is missing that an earlier version [may lack](may_lack).
    pub(super) is_complete: bool,
}

/// The maps pinned in a directory, which must be there and of the right shape.
pub(super) fn examine(directory: &Path) -> Result<Pinned, DatapathError> {
    let found = |name: &str| {
        let path = directory.join(name);
        if path.exists() {
            Shape::of_pinned(&path)
        } else {
            Err(DatapathError::Incomplete { path })
        }
    };
    let entries = |name| found(name).map(|shape| shape.entries);
    let sizes = Sizes {
        services: entries(map::SERVICES)?,
        slots: entries(map::SLOTS)?,
        targets: entries(map::TARGETS)?,
        flows: entries(map::FLOWS)?,
        half_open: entries(map::HALF_OPEN)?,
    };
    let mut is_complete = true;
    for (name, expected) in expected(sizes)? {
        let found = match found(&name) {
            Err(DatapathError::Incomplete { .. }) if may_lack(&name) => {
                is_complete = false;
                continue;
            }
            found => found?,
        };
        let entries = (expected.entries != found.entries)
            .then(|| format!("room for {} entries, found {}", expected.entries, found.entries));
        if let Some(difference) = expected.difference(&found).or(entries) {
            return Err(DatapathError::Layout {
                path: directory.join(name),
                difference,
            });
        }
    }
    Ok(Pinned { sizes, is_complete })
}

/// All maps that are pinned, as this version makes them.
pub(super) fn expected(sizes: Sizes) -> Result<BTreeMap<String, Shape>, DatapathError> {
    let object = Object::parse(programs::BALANCER).map_err(|error| DatapathError::load(error.into()))?;
    let mut shapes: BTreeMap<String, Shape> = object
        .maps
        .into_iter()
        .filter(|(name, _)| is_kept(name))
        .map(|(name, definition)| {
            let shape = Shape {
                kind: definition.map_type(),
                key_size: definition.key_size(),
                value_size: definition.value_size(),
                flags: definition.map_flags() & !READ_ONLY_FOR_PROGRAMS,
                entries: sizes.entries(&name).unwrap_or(definition.max_entries()),
            };
            (name, shape)
        })
        .collect();
    shapes.insert(map::TARGET_NAMES.to_owned(), Shape::of_names(sizes));
    Ok(shapes)
}
