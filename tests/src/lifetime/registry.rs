//! The directory of all runs on this machine, and the locks that tell which of them are alive.
//!
//! Every run has a directory below [`ROOT`]. Its owner and the owner's reaper share one lock on it, which the kernel
//! releases when both are gone: a run that can be locked is dead, whatever has become of its process ids.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context as _, Result};

/// Where the directories of the runs are.
pub(crate) const ROOT: &str = "/run/lb-lab";

/// The exclusive right to look through, and to add to, the runs on this machine.
///
/// Without it a run could be mistaken for a dead one between the creation of its directory and its lock.
#[derive(Debug)]
pub(crate) struct Registry {
    root: PathBuf,
    _lock: File,
}

impl Registry {
    /// Waits for the right.
    pub(crate) fn lock() -> Result<Self> {
        Self::lock_at(Path::new(ROOT))
    }

    fn lock_at(root: &Path) -> Result<Self> {
        loop {
            fs::create_dir_all(root).with_context(|| format!("cannot create {}", root.display()))?;
            let lock = match File::open(root) {
                Ok(lock) => lock,
                // Removed by the last holder in this moment.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).with_context(|| format!("cannot open {}", root.display())),
            };
            lock.lock()
                .with_context(|| format!("cannot lock {}", root.display()))?;
            if is_at(&lock, root)? {
                return Ok(Self {
                    root: root.to_owned(),
                    _lock: lock,
                });
            }
        }
    }

    /// Creates the directory of a new run, with a name that no other run has, and locks it.
    pub(crate) fn create_run(&self) -> Result<RunLock> {
        let directory = tempfile::Builder::new()
            .prefix(&format!("{}-", process::id()))
            .rand_bytes(4)
            .tempdir_in(&self.root)
            .with_context(|| format!("cannot create a directory in {}", self.root.display()))?
            .keep();
        RunLock::try_lock(&directory)?
            .with_context(|| format!("{} is locked by another process", directory.display()))
    }

    /// The directories of all runs, dead or alive.
    pub(crate) fn runs(&self) -> Result<Vec<PathBuf>> {
        let list = || {
            fs::read_dir(&self.root)?
                .map(|entry| Ok(entry?.path()))
                .collect::<io::Result<Vec<_>>>()
        };
        list().with_context(|| format!("cannot list {}", self.root.display()))
    }

    /// Removes the root directory if the last run is gone.
    pub(crate) fn tidy() -> Result<()> {
        Self::lock().map(drop)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Still under the lock. While there is a run this fails, as it should.
        let _ = fs::remove_dir(&self.root);
    }
}

/// The exclusive right to change or take down one run. Its owner and the owner's reaper hold it together.
///
/// It ends when it is dropped by either of them, or when both have died.
#[derive(Debug)]
pub(crate) struct RunLock {
    directory: PathBuf,
    lock: File,
}

impl RunLock {
    /// Locks a run; `None` if its owner or reaper is alive, or if the run has been taken down in the meantime.
    pub(crate) fn try_lock(directory: &Path) -> Result<Option<Self>> {
        let context = || format!("cannot lock {}", directory.display());
        let lock = match File::open(directory) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(context),
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error).with_context(context),
        }
        Ok(is_at(&lock, directory)?.then(|| Self {
            directory: directory.to_owned(),
            lock,
        }))
    }

    /// A descriptor that shares this lock, for the reaper.
    pub(crate) fn share(&self) -> Result<OwnedFd> {
        let shared = self
            .lock
            .try_clone()
            .context("cannot duplicate the descriptor of the run's lock")?;
        Ok(shared.into())
    }

    /// The lock behind a descriptor that came from [`RunLock::share`].
    pub(crate) fn inherited(directory: PathBuf, shared: OwnedFd) -> Self {
        Self {
            directory,
            lock: shared.into(),
        }
    }

    /// The run's directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // To close the file is not enough: a child that another thread has forked shares the lock until it executes
        // its program. Unlocking ends it for all. A failure leaves it to the end of this process.
        let _ = self.lock.unlock();
    }
}

/// The name of the run that has this directory.
pub(crate) fn run_id(directory: &Path) -> String {
    directory
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Whether an open file is (still) the one with this path.
fn is_at(file: &File, path: &Path) -> Result<bool> {
    let open = file
        .metadata()
        .with_context(|| format!("cannot examine {}", path.display()))?;
    match fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot examine {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_stays_locked_until_the_lock_is_dropped_and_not_longer() {
        let temporary = tempfile::tempdir().unwrap();
        let registry = Registry::lock_at(&temporary.path().join("runs")).unwrap();
        let lock = registry.create_run().unwrap();
        let directory = lock.directory().to_owned();
        assert_eq!(registry.runs().unwrap(), [directory.as_path()]);
        assert!(RunLock::try_lock(&directory).unwrap().is_none());
        // As a forked child has it.
        let shared = lock.share().unwrap();
        drop(lock);
        assert!(RunLock::try_lock(&directory).unwrap().is_some());
        drop(shared);
        fs::remove_dir(&directory).unwrap();
        assert!(RunLock::try_lock(&directory).unwrap().is_none());
    }

    #[test]
    fn the_root_directory_goes_with_the_last_run() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().join("runs");
        let lock = Registry::lock_at(&root).unwrap().create_run().unwrap();
        assert!(root.exists());
        fs::remove_dir(lock.directory()).unwrap();
        drop(Registry::lock_at(&root).unwrap());
        assert!(!root.exists());
    }
}
