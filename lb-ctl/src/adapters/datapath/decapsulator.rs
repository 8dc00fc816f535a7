//! The decapsulator on a backend: loading, filling, attaching, counting, detaching.
//!
//! Link and maps are pinned in a directory of the interface's, so that it works without a process. Every run loads the
//! program and maps anew and puts them in the place of an earlier run's in one step.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, PerCpuArray},
    programs::{
        Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        xdp::XdpLink,
    },
};
use lb_common::decapsulate::{AddressKey, Counter, Network, Sources, map, role};

use super::{
    TestRunOutput,
    error::{DatapathError, os_error},
    pin_names::directory_of_node,
    pins::{detach_link, failed, mount_bpf_file_system, remove_file},
    pod::Raw,
    test_run,
};
use crate::{
    adapters::programs,
    core::{
        config::XdpModeChoice,
        interface::{Interface, Mode},
        tunnels::Tunnels,
    },
};

/// The name of the program in its object file.
const PROGRAM: &str = "decap";
const OURS: &str = "/sys/fs/bpf/lb-ctl-decap";
const MAPS: [&str; 3] = [map::TUNNEL_ADDRESSES, map::TUNNEL_SOURCES, map::TUNNEL_COUNTERS];

/// The loaded program with its maps. They live until this is dropped, unless they are attached.
pub struct Decapsulator {
    ebpf: Ebpf,
}

/// How the decapsulator came to an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// How the kernel runs it.
    pub mode: Mode,
    /// Whether it took the place of an earlier run's.
    pub replaced: bool,
}

impl Decapsulator {
    /// Creates the maps, loads the program and says which tunnels it opens. Attaches nothing.
    pub fn load(tunnels: &Tunnels) -> Result<Self, DatapathError> {
        let mut ebpf = EbpfLoader::new()
            .load(programs::DECAP)
            .map_err(DatapathError::load)?;
        xdp(&mut ebpf)?.load().map_err(DatapathError::verify)?;
        let mut this = Self { ebpf };
        this.write(tunnels)?;
        Ok(this)
    }

    fn write(&mut self, tunnels: &Tunnels) -> Result<(), DatapathError> {
        let mut sources = Array::<_, Raw<Sources>>::try_from(self.map_mut(map::TUNNEL_SOURCES)?)?;
        let networks = tunnels
            .sources
            .iter()
            .map(|network| Network::new(network.address().into(), network.length()));
        sources.set(0, Raw(Sources::new(networks)), 0)?;
        let mut addresses =
            HashMap::<_, Raw<AddressKey>, u32>::try_from(self.map_mut(map::TUNNEL_ADDRESSES)?)?;
        let endpoints = tunnels.endpoints.iter().map(|&address| (address, role::ENDPOINT));
        for (address, role) in endpoints.chain(tunnels.vips.iter().map(|&address| (address, role::VIP))) {
            let key = Raw(AddressKey(address.into()));
            // An address may have both roles.
            let others = addresses.get(&key, 0).unwrap_or_default();
            addresses.insert(key, role | others, 0)?;
        }
        Ok(())
    }

    /// Attaches the program to `interface` and pins it under `name`. Where an earlier run has left one, that is replaced:
    /// no packet meets an interface without a decapsulator.
    pub fn attach(
        &mut self,
        interface: &Interface,
        choice: XdpModeChoice,
        name: &str,
    ) -> Result<Attached, DatapathError> {
        mount_bpf_file_system()?;
        let pins = directory(name);
        fs::create_dir_all(&pins).map_err(|error| failed(&pins, "creating the directory", error))?;
        let attached = self
            .attach_link(interface, choice, &pins.join(LINK))
            .inspect_err(|_| remove_if_empty(&pins))?;
        for map in MAPS {
            let path = pins.join(map);
            remove_file(&path)?;
            let pinned = find(&self.ebpf, map)?.pin(&path);
            pinned.map_err(|error| DatapathError::Pin {
                path,
                source: Box::new(error),
            })?;
        }
        Ok(attached)
    }

    fn attach_link(
        &mut self,
        interface: &Interface,
        choice: XdpModeChoice,
        pin: &Path,
    ) -> Result<Attached, DatapathError> {
        let program = xdp(&mut self.ebpf)?;
        if let Some((mode, link)) = earlier_link(interface, pin)?
            && Mode::allowed_by(choice).contains(&mode)
        {
            let link = XdpLink::try_from(link).map_err(|error| unusable(pin, error))?;
            let id = program.attach_to_link(link)?;
            // The pin keeps the link; our own descriptor of it may go.
            drop(program.take_link(id)?);
            return Ok(Attached { mode, replaced: true });
        }
        // What is pinned here belongs to an interface that has gone, or is in a mode that is not wanted any more.
        detach_link(pin)?;
        let mut tried = Vec::new();
        for &mode in Mode::allowed_by(choice) {
            let flags = match mode {
                Mode::Native => XdpMode::Driver,
                Mode::Generic => XdpMode::Skb,
            };
            let error = match program.attach_to_if_index(interface.index, flags) {
                Ok(id) => {
                    let link =
                        FdLink::try_from(program.take_link(id)?).map_err(|error| unusable(pin, error))?;
                    link.pin(pin).map_err(|error| DatapathError::Pin {
                        path: pin.to_owned(),
                        source: Box::new(error),
                    })?;
                    return Ok(Attached {
                        mode,
                        replaced: false,
                    });
                }
                Err(error) => error,
            };
            let reason = os_error(&error);
            // The kernel answers EBUSY to a second link, EEXIST to another mode beside a program.
            if reason.is_some_and(|it| {
                matches!(
                    it.kind(),
                    io::ErrorKind::ResourceBusy | io::ErrorKind::AlreadyExists
                )
            }) {
                return Err(DatapathError::Occupied {
                    interface: interface.name.clone(),
                    program: interface.xdp.as_ref().and_then(|attached| attached.program),
                });
            }
            let reason = reason.map_or_else(|| error.to_string(), ToString::to_string);
            tried.push(format!("{mode}: {reason}"));
        }
        Err(DatapathError::Attach {
            interface: interface.name.clone(),
            tried,
        })
    }

    /// Runs the program once on a frame, without a network.
    pub fn test_run(&mut self, frame: &[u8]) -> Result<TestRunOutput, DatapathError> {
        test_run(xdp(&mut self.ebpf)?, frame)
    }

    /// What was counted under a counter, over all CPUs.
    pub fn counter(&self, counter: Counter) -> Result<u64, DatapathError> {
        let counters = PerCpuArray::<_, u64>::try_from(find(&self.ebpf, map::TUNNEL_COUNTERS)?)?;
        sum(&counters, counter)
    }

    fn map_mut(&mut self, name: &'static str) -> Result<&mut Map, DatapathError> {
        self.ebpf
            .map_mut(name)
            .ok_or(DatapathError::Object { missing: name })
    }
}

/// The name of the link's pin.
const LINK: &str = "link";

/// What the decapsulator that is attached to `interface` and pinned under `name` has counted; `None` when none is.
pub fn status(interface: &Interface, name: &str) -> Result<Option<Vec<(Counter, u64)>>, DatapathError> {
    let pins = directory(name);
    if earlier_link(interface, &pins.join(LINK))?.is_none() {
        return Ok(None);
    }
    let map = Map::PerCpuArray(MapData::from_pin(pins.join(map::TUNNEL_COUNTERS))?);
    let counters = PerCpuArray::<_, u64>::try_from(&map)?;
    let counted = Counter::ALL
        .iter()
        .map(|&counter| Ok((counter, sum(&counters, counter)?)));
    counted.collect::<Result<_, DatapathError>>().map(Some)
}

/// Detaches the decapsulator that is pinned under `name`, and removes its pins. `false` when there was none.
pub fn detach(name: &str) -> Result<bool, DatapathError> {
    let pins = directory(name);
    let was_there = pins
        .try_exists()
        .map_err(|error| failed(&pins, "looking for pins", error))?;
    detach_link(&pins.join(LINK))?;
    for map in MAPS {
        remove_file(&pins.join(map))?;
    }
    remove_if_empty(&pins);
    Ok(was_there)
}

fn directory(name: &str) -> PathBuf {
    Path::new(OURS).join(directory_of_node(name))
}

/// Removes a directory of pins and the one above, as far as nothing is in them.
fn remove_if_empty(pins: &Path) {
    // Another interface's pins may well be there.
    let _ = fs::remove_dir(pins);
    let _ = fs::remove_dir(OURS);
}

/// The link that an earlier run pinned, if it is what the interface carries, and in which mode.
fn earlier_link(interface: &Interface, pin: &Path) -> Result<Option<(Mode, FdLink)>, DatapathError> {
    let link = match PinnedLink::from_pin(pin) {
        Ok(pinned) => FdLink::from(pinned),
        Err(error) if os_error(&error).is_some_and(|error| error.kind() == io::ErrorKind::NotFound) => {
            return Ok(None);
        }
        Err(error) => return Err(unusable(pin, error)),
    };
    let program = link.info().map_err(|error| unusable(pin, error))?.program_id();
    let carried = interface
        .xdp
        .as_ref()
        .filter(|attached| attached.program == Some(program));
    Ok(carried
        .and_then(|attached| attached.mode)
        .map(|mode| (mode, link)))
}

fn unusable(pin: &Path, error: aya::programs::links::LinkError) -> DatapathError {
    DatapathError::Link {
        path: pin.to_owned(),
        source: Box::new(error),
    }
}

fn sum<T: std::borrow::Borrow<MapData>>(
    counters: &PerCpuArray<T, u64>,
    counter: Counter,
) -> Result<u64, DatapathError> {
    let per_cpu = counters.get(&(counter as u32), 0)?;
    Ok(per_cpu.iter().copied().fold(0, u64::wrapping_add))
}

fn find<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a Map, DatapathError> {
    ebpf.map(name).ok_or(DatapathError::Object { missing: name })
}

fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp, DatapathError> {
    let program = ebpf
        .program_mut(PROGRAM)
        .ok_or(DatapathError::Object { missing: PROGRAM })?;
    Ok(program.try_into()?)
}
