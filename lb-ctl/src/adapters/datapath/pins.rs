//! What keeps the datapath alive without a process: pins in the BPF file system.
//!
//! A node's pins are in `/sys/fs/bpf/lb-ctl/<node>/v<layout version>`: the maps under their names in `maps`, and a link
//! `link-<interface>` for each interface that carries the program. The node's directory is also what a process locks
//! while it is that node's daemon.
//!
//! Maps change places together: they are pinned in `maps-new`, which then is renamed. Should the process be killed in
//! between, the next one reads in the new maps themselves, in `NODE`, whether they [await records](Datapath::set_awaits_records): if so,
//! or if not even that map is there, they do not count and are removed; if not, they take the place of the others.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use aya::maps::{Array, Map, MapData};
use lb_common::layout::{self, Node, map};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open, statfs},
    io::Errno,
    mount::{MountFlags, mount},
};

use super::{
    Datapath,
    error::DatapathError,
    force_detach::force_detach,
    pin_names::{
        directory_of_node, directory_of_version, interface_of_pin, is_version, node_of_directory,
        pin_of_interface, version_of,
    },
    pod::Raw,
};

const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";
const OURS: &str = "/sys/fs/bpf/lb-ctl";
/// The directory of the maps, below that of a layout version.
const MAPS: &str = "maps";
/// The directory of maps that are about to take their places.
const NEW_MAPS: &str = "maps-new";
/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// The pins of one node.
#[derive(Debug)]
pub struct Pins {
    name: String,
    node: PathBuf,
    directory: PathBuf,
    /// Held as long as this value lives. The kernel lets go of it with the process, however that ends.
    lock: Option<OwnedFd>,
}

/// What [`Pins::remove`] removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Interfaces from which the program was detached.
    pub interfaces: Vec<String>,
    /// How many maps lost their pin.
    pub maps: usize,
}

/// The nodes that have pins on this host.
pub fn nodes() -> Result<Vec<String>, DatapathError> {
    let mut nodes: Vec<String> = entries(Path::new(OURS))?
        .iter()
        .map(|path| node_of_directory(&name_of(path)))
        .collect();
    nodes.sort_unstable();
    Ok(nodes)
}

impl Pins {
    /// The pins of `node`; creates nothing. The name must be [one](crate::core::config::is_name).
    pub fn of(node: &str) -> Self {
        let path = Path::new(OURS).join(directory_of_node(node));
        let directory = path.join(directory_of_version(layout::VERSION));
        Self {
            name: node.to_owned(),
            node: path,
            directory,
            lock: None,
        }
    }

    /// Mounts the BPF file system where that has not been done, creates the directories, and makes this process the
    /// node's daemon, of which there can be one.
    pub fn create(&mut self) -> Result<(), DatapathError> {
        mount_bpf_file_system()?;
        fs::create_dir_all(&self.directory)
            .map_err(|error| failed(&self.directory, "creating the directory", error))?;
        self.lock()
    }

    /// Makes sure that no daemon runs for the node, and none starts while this value lives. Nothing to do without pins.
    pub fn lock(&mut self) -> Result<(), DatapathError> {
        let locked = open(
            &self.node,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .and_then(|directory| {
            flock(&directory, FlockOperation::NonBlockingLockExclusive).map(|()| directory)
        });
        match locked {
            Ok(directory) => self.lock = Some(directory),
            Err(Errno::NOENT) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(DatapathError::NodeBusy {
                    node: self.name.clone(),
                });
            }
            Err(error) => return Err(failed(&self.node, "locking the node's pins", error.into())),
        }
        Ok(())
    }

    /// Whether this process is the node's daemon.
    pub fn are_locked(&self) -> bool {
        self.lock.is_some()
    }

    /// Pins the maps of `datapath` beside those of an earlier run. They do not count yet: they [await
    /// records](Datapath::set_awaits_records), if only for this reason.
    pub fn pin_maps(&self, datapath: &mut Datapath) -> Result<(), DatapathError> {
        self.discard_new_maps()?;
        datapath.set_awaits_records(true)?;
        let directory = self.directory.join(NEW_MAPS);
        fs::create_dir(&directory).map_err(|error| failed(&directory, "creating the directory", error))?;
        for (name, map) in datapath.maps() {
            let path = directory.join(name);
            map.pin(&path).map_err(|error| DatapathError::Pin {
                path,
                source: Box::new(error),
            })?;
        }
        Ok(())
    }

    /// Puts the maps that [`Pins::pin_maps`] has pinned, and which await no records any more, in the place of those of an
    /// earlier run. Should this be interrupted, the next start finishes it.
    pub fn publish_maps(&self) -> Result<(), DatapathError> {
        let (new, maps) = (self.directory.join(NEW_MAPS), self.directory.join(MAPS));
        remove_directory(&maps)?;
        fs::rename(&new, &maps).map_err(|error| failed(&new, "renaming the directory of the new maps", error))
    }

    /// Takes back what [`Pins::pin_maps`] has done.
    pub fn discard_new_maps(&self) -> Result<(), DatapathError> {
        remove_directory(&self.directory.join(NEW_MAPS)).map(drop)
    }

    /// Where the maps of an earlier run are pinned, if there are such.
    pub(super) fn adoptable(&self) -> Result<Option<PathBuf>, DatapathError> {
        let (new, maps) = (self.directory.join(NEW_MAPS), self.directory.join(MAPS));
        if new.exists() {
            // An earlier run was ended while it was replacing the maps.
            if is_complete(&new)? {
                self.publish_maps()?;
            } else {
                self.discard_new_maps()?;
            }
        }
        Ok(maps.exists().then_some(maps))
    }

    /// The layout version of another version's pins of a link of this interface, if there is one.
    pub(super) fn other_version(&self, interface: &str) -> Result<Option<u32>, DatapathError> {
        let mut others = self
            .versions()?
            .into_iter()
            .filter(|path| *path != self.directory && path.join(pin_of_interface(interface)).exists());
        Ok(others.find_map(|path| version_of(&name_of(&path))))
    }

    /// Where the link of an interface is pinned.
    pub(super) fn link(&self, interface: &str) -> PathBuf {
        self.directory.join(pin_of_interface(interface))
    }

    /// The interfaces that have a pinned link, of this layout version or another.
    pub fn interfaces(&self) -> Result<Vec<String>, DatapathError> {
        let mut interfaces = Vec::new();
        for version in self.versions()? {
            interfaces.extend(
                entries(&version)?
                    .iter()
                    .filter_map(|path| interface_of_pin(&name_of(path))),
            );
        }
        Ok(interfaces)
    }

    /// Detaches the program from an interface, if it is attached, and removes the link's pin, of whatever layout version.
    pub fn detach(&self, interface: &str) -> Result<(), DatapathError> {
        for version in self.versions()? {
            detach_link(&version.join(pin_of_interface(interface)))?;
        }
        Ok(())
    }

    /// Removes all pins of the node, of this layout version and others, thereby detaching the program everywhere.
    pub fn remove(&self) -> Result<Removed, DatapathError> {
        let mut removed = Removed::default();
        for version in self.versions()? {
            let (links, maps): (Vec<PathBuf>, Vec<PathBuf>) = entries(&version)?
                .into_iter()
                .partition(|path| interface_of_pin(&name_of(path)).is_some());
            // Links go first: without them no packet reaches a program whose maps are losing their names.
            for link in &links {
                detach_link(link)?;
                removed.interfaces.extend(interface_of_pin(&name_of(link)));
            }
            for path in &maps {
                if path.is_dir() {
                    removed.maps += remove_directory(path)?;
                } else {
                    // Earlier versions had maps here.
                    remove_file(path)?;
                    removed.maps += 1;
                }
            }
        }
        self.remove_empty_directories();
        Ok(removed)
    }

    /// Removes the directories that [`Pins::create`] made, as far as nothing is in them.
    pub fn remove_empty_directories(&self) {
        let versions = self.versions().unwrap_or_default();
        for directory in versions
            .iter()
            .map(PathBuf::as_path)
            .chain([self.node.as_path(), Path::new(OURS)])
        {
            // Other versions, or other nodes, may well have pins there.
            let _ = fs::remove_dir(directory);
        }
    }

    /// The directories of all layout versions. Whatever else is in the node's directory is not ours.
    fn versions(&self) -> Result<Vec<PathBuf>, DatapathError> {
        Ok(entries(&self.node)?
            .into_iter()
            .filter(|path| is_version(&name_of(path)))
            .collect())
    }
}

/// Whether the maps pinned in a directory are all there and await no records: they have been pinned while they did.
fn is_complete(directory: &Path) -> Result<bool, DatapathError> {
    let node = directory.join(map::NODE);
    if !node.exists() {
        return Ok(false);
    }
    let nodes = Array::<_, Raw<Node>>::try_from(Map::Array(MapData::from_pin(node)?))?;
    Ok(nodes.get(&0, 0)?.0.awaits_records == 0)
}

/// Removes a directory of pins, which need not be there. Returns how many pins were in it.
fn remove_directory(directory: &Path) -> Result<usize, DatapathError> {
    let pins = entries(directory)?;
    for pin in &pins {
        remove_file(pin)?;
    }
    ignore_absence(fs::remove_dir(directory))
        .map_err(|error| failed(directory, "removing the directory", error))?;
    Ok(pins.len())
}

/// Mounts the BPF file system where that has not been done.
pub(super) fn mount_bpf_file_system() -> Result<(), DatapathError> {
    let mounted = statfs(BPF_FILE_SYSTEM)
        .map_err(|error| failed(BPF_FILE_SYSTEM, "looking for the BPF file system", error.into()))?;
    #[allow(
        clippy::unnecessary_cast,
        reason = "the field's type differs between architectures"
    )]
    if mounted.f_type as i64 != BPF_FS_MAGIC {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("bpf", BPF_FILE_SYSTEM, "bpf", flags, None).map_err(|error| match error {
            Errno::PERM | Errno::ACCESS => DatapathError::NotMounted {
                path: BPF_FILE_SYSTEM,
            },
            other => failed(BPF_FILE_SYSTEM, "mounting the BPF file system", other.into()),
        })?;
        tracing::info!(path = BPF_FILE_SYSTEM, "mounted the BPF file system");
    }
    Ok(())
}

/// The last part of a path; empty, which is no name, when it is not UTF-8.
fn name_of(path: &Path) -> String {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
        .to_owned()
}

/// The paths in a directory; none when it does not exist.
fn entries(directory: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    let reading = |error| failed(directory, "listing pins", error);
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(reading(error)),
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(reading)?.path())).collect(),
    }
}

/// Detaches what a pinned link attaches, and removes the pin. Neither need be there.
pub(super) fn detach_link(link: &Path) -> Result<(), DatapathError> {
    ignore_absence(force_detach(link)).map_err(|error| failed(link, "detaching the XDP program", error))?;
    remove_file(link)
}

/// Removes a pin. It need not be there.
pub(super) fn remove_file(path: &Path) -> Result<(), DatapathError> {
    ignore_absence(fs::remove_file(path)).map_err(|error| failed(path, "removing the pin", error))
}

fn ignore_absence(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The error about a path in the BPF file system.
pub(super) fn failed(path: impl Into<PathBuf>, what: &'static str, source: io::Error) -> DatapathError {
    match source.kind() {
        // bpffs belongs to root.
        io::ErrorKind::PermissionDenied => DatapathError::NotPermitted,
        _ => DatapathError::FileSystem {
            path: path.into(),
            what,
            source,
        },
    }
}
