//! Getting a program with its maps: new ones, those of an earlier run, or new ones with what is in those.

use std::{path::Path, sync::Arc};

use aya::{
    EbpfLoader,
    maps::{Map, MapData},
};
use lb_common::layout::map;

use super::{
    Datapath, DatapathError, Pins, Sizes, find,
    listening::Listening,
    live_table::LiveTable,
    shape::{self, Shape},
    slots::SlotTable,
    xdp,
};
use crate::adapters::programs;

/// A program that is ready to be attached.
pub enum Loaded {
    /// Its tables are new and empty.
    New(Datapath),
    /// Its tables are those of an earlier run, in which live connections may be.
    Adopted(Datapath),
    /// Its tables are new: of other sizes, or more than an earlier version had. They hold what those of an earlier run did when they were copied, and [wait for
    /// records](Datapath::set_awaits_records) that have been written since.
    Migrated {
        /// The program with the new tables.
        datapath: Datapath,
        /// The program with the earlier run's tables, for [`Datapath::catch_up_with`], or to go back to.
        old: Box<Datapath>,
    },
}

impl Datapath {
    /// Creates the maps and loads the program. Attaches nothing.
    pub fn load(sizes: Sizes) -> Result<Self, DatapathError> {
        Self::load_with(sizes, None)
    }

    /// Loads the program with the maps of an earlier run, if there are such, and else with new ones. Attaches nothing, and
    /// changes nothing in the maps of the earlier run.
    pub fn load_or_adopt(sizes: Sizes, pins: &Pins) -> Result<Loaded, DatapathError> {
        let Some(directory) = pins.adoptable()? else {
            return Self::load(sizes).map(Loaded::New);
        };
        let found = shape::examine(&directory)?;
        let old = Self::load_with(found.sizes, Some(&directory))?;
        if found.sizes == sizes && found.is_complete {
            return Ok(Loaded::Adopted(old));
        }
        let mut datapath = Self::load(sizes)?;
        datapath.copy_from(&old)?;
        Ok(Loaded::Migrated {
            datapath,
            old: Box::new(old),
        })
    }

    fn load_with(sizes: Sizes, pinned: Option<&Path>) -> Result<Self, DatapathError> {
        let shapes = shape::expected(sizes)?;
        let mut loader = EbpfLoader::new();
        // The program looks into none of the kernel's own structures. The loader has read their description already, which is large; this
        // has it drop that before it does anything else.
        loader.btf(None);
        for name in shapes.keys() {
            if let Some(entries) = sizes.entries(name) {
                loader.map_max_entries(name, entries);
            }
            if let Some(pin) = pinned.map(|directory| directory.join(name))
                // It is made anew, unpinned and empty.
                && (pin.exists() || !shape::may_lack(name))
            {
                // aya opens what is pinned there.
                loader.map_pin_path(name, pin);
            }
        }
        let mut ebpf = loader.load(programs::BALANCER).map_err(DatapathError::load)?;
        xdp(&mut ebpf)?.load().map_err(DatapathError::verify)?;
        let mut take = |name| ebpf.take_map(name).ok_or(DatapathError::Object { missing: name });
        let (news, lost) = (take(map::NEWS)?, take(map::NEWS_LOST)?);
        let slots = Arc::new(SlotTable::of(find(&ebpf, map::SLOTS)?, sizes.slots)?);
        let live = Arc::new(LiveTable::of(find(&ebpf, map::LIVE)?, sizes.targets)?);
        let names = match pinned {
            Some(directory) => MapData::from_pin(directory.join(map::TARGET_NAMES))?,
            None => MapData::create(Shape::of_names(sizes).definition(), map::TARGET_NAMES, None)?,
        };
        Ok(Self {
            slots,
            live,
            names: Map::Array(names),
            awaits_records: false,
            listening: Arc::new(Listening::of(news, &lost)?),
            listens: false,
            links: Arc::default(),
            ebpf,
        })
    }
}
