//! What keeps the datapath alive without a process: pins in the BPF file system.
//!
//! A node's pins are in `/sys/fs/bpf/lb-ctl/<node>/v<layout version>`: the maps under their names, and a link
//! `link-<interface>` for each interface that carries the program.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use lb_common::layout;
use rustix::fs::statfs;

use super::{Datapath, error::DatapathError, force_detach::force_detach};

const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";
const OURS: &str = "/sys/fs/bpf/lb-ctl";
/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
const LINK_PREFIX: &str = "link-";

/// The pins of one node.
#[derive(Clone, Debug)]
pub struct Pins {
    node: PathBuf,
    directory: PathBuf,
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
    let path = Path::new(OURS);
    let mut nodes: Vec<String> = entries(path)?
        .into_iter()
        .filter_map(|entry| name_of(&entry))
        .collect();
    nodes.sort_unstable();
    Ok(nodes)
}

impl Pins {
    /// The pins of `node`; creates nothing. A node's name has no characters that mean something in a path.
    pub fn of(node: &str) -> Self {
        let node = Path::new(OURS).join(node);
        let directory = node.join(format!("v{}", layout::VERSION));
        Self { node, directory }
    }

    /// Mounts the BPF file system where that has not been done, and creates the directory.
    pub fn create(&self) -> Result<(), DatapathError> {
        let mounted = statfs(BPF_FILE_SYSTEM)
            .map_err(|error| failed(BPF_FILE_SYSTEM, "looking for the BPF file system", error.into()))?;
        // The type of the magic number differs between architectures.
        #[allow(
            clippy::unnecessary_cast,
            reason = "the field's type differs between architectures"
        )]
        if mounted.f_type as i64 != BPF_FS_MAGIC {
            rustix::mount::mount(
                "bpf",
                BPF_FILE_SYSTEM,
                "bpf",
                rustix::mount::MountFlags::NOSUID
                    | rustix::mount::MountFlags::NODEV
                    | rustix::mount::MountFlags::NOEXEC,
                None,
            )
            .map_err(|error| failed(BPF_FILE_SYSTEM, "mounting the BPF file system", error.into()))?;
            tracing::info!(path = BPF_FILE_SYSTEM, "mounted the BPF file system");
        }
        fs::create_dir_all(&self.directory)
            .map_err(|error| failed(&self.directory, "creating the directory", error))
    }

    /// Pins the maps of `datapath`, in place of those of an earlier run.
    ///
    /// The new program has its maps by then, so the names may change hands one after the other.
    pub fn pin_maps(&self, datapath: &Datapath) -> Result<(), DatapathError> {
        for (name, map) in datapath.maps() {
            let path = self.directory.join(name);
            remove_file(&path)?;
            map.pin(&path).map_err(|error| DatapathError::Pin {
                path,
                source: Box::new(error),
            })?;
        }
        Ok(())
    }

    /// Where the link of an interface is pinned. Interface names have no slash.
    pub(super) fn link(&self, interface: &str) -> PathBuf {
        self.directory.join(format!("{LINK_PREFIX}{interface}"))
    }

    /// The interfaces that have a pinned link.
    pub fn interfaces(&self) -> Result<Vec<String>, DatapathError> {
        interfaces_in(&self.directory)
    }

    /// Detaches the program from an interface, if it is attached, and removes the link's pin.
    pub fn detach(&self, interface: &str) -> Result<(), DatapathError> {
        detach(&self.link(interface))
    }

    /// Removes all pins of the node, of this layout version and others, thereby detaching the program everywhere.
    pub fn remove(&self) -> Result<Removed, DatapathError> {
        let mut removed = Removed::default();
        for version in entries(&self.node)? {
            removed.interfaces.extend(interfaces_in(&version)?);
            // Links go first: without them no packet reaches a program whose maps are losing their names.
            let (links, maps): (Vec<PathBuf>, Vec<PathBuf>) =
                entries(&version)?.into_iter().partition(|path| is_link(path));
            removed.maps += maps.len();
            for path in &links {
                detach(path)?;
            }
            for path in &maps {
                remove_file(path)?;
            }
            remove_directory(&version)?;
        }
        self.remove_empty_directories();
        Ok(removed)
    }

    /// Removes the directories that [`Pins::create`] made, as far as nothing is in them.
    pub fn remove_empty_directories(&self) {
        for directory in [self.directory.as_path(), self.node.as_path(), Path::new(OURS)] {
            // Other versions, or other nodes, may well have pins there.
            let _ = fs::remove_dir(directory);
        }
    }
}

fn is_link(path: &Path) -> bool {
    name_of(path).is_some_and(|name| name.starts_with(LINK_PREFIX))
}

fn interfaces_in(directory: &Path) -> Result<Vec<String>, DatapathError> {
    let names = entries(directory)?.into_iter().filter_map(|path| name_of(&path));
    Ok(names
        .filter_map(|name| name.strip_prefix(LINK_PREFIX).map(ToOwned::to_owned))
        .collect())
}

fn name_of(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
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

fn detach(link: &Path) -> Result<(), DatapathError> {
    ignore_absence(force_detach(link)).map_err(|error| failed(link, "detaching the XDP program", error))?;
    remove_file(link)
}

fn remove_file(path: &Path) -> Result<(), DatapathError> {
    ignore_absence(fs::remove_file(path)).map_err(|error| failed(path, "removing the pin", error))
}

fn remove_directory(path: &Path) -> Result<(), DatapathError> {
    ignore_absence(fs::remove_dir(path)).map_err(|error| failed(path, "removing the directory", error))
}

fn ignore_absence(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn failed(path: impl Into<PathBuf>, what: &'static str, source: io::Error) -> DatapathError {
    DatapathError::FileSystem {
        path: path.into(),
        what,
        source,
    }
}
