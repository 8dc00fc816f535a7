//! One run of a lab: its name, its directory, and what is written down about it.

use std::fs;
use std::io::PipeWriter;
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};

use crate::lifetime::manifest::{self, Entry};
use crate::lifetime::registry::{RunLock, run_id};

/// Shared by everything that belongs to the run.
#[derive(Debug)]
pub(crate) struct Run {
    id: String,
    directory: PathBuf,
    kept: AtomicBool,
    /// The pipe to the reaper, once there is one.
    pipe: OnceLock<PipeWriter>,
}

impl Run {
    /// Writes down a new run's owner and makes the directories that it needs.
    pub(crate) fn begin(lock: &RunLock) -> Result<Self> {
        let run = Self {
            id: run_id(lock.directory()),
            directory: lock.directory().to_owned(),
            kept: false.into(),
            pipe: OnceLock::new(),
        };
        let command = std::env::args().next().unwrap_or_default();
        run.record(&[Entry::Owner {
            pid: process::id(),
            command,
        }])?;
        let logs = run.logs();
        fs::create_dir(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        Ok(run)
    }

    /// Has the run's builders hold the pipe to its reaper.
    pub(crate) fn set_pipe(&self, pipe: PipeWriter) {
        // There is one reaper, so this happens once.
        let _ = self.pipe.set(pipe);
    }

    /// What a program that builds something for the run gets as its standard output: the pipe to the reaper. So if the
    /// owner is killed meanwhile, the reaper waits for the builder's end, and finds all that it has made.
    pub(crate) fn witness(&self) -> Result<Stdio> {
        match self.pipe.get() {
            Some(pipe) => Ok(pipe
                .try_clone()
                .context("cannot duplicate the pipe to the reaper")?
                .into()),
            None => Ok(Stdio::null()),
        }
    }

    /// The run's name, which no other run on this machine has at the same time.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The run's directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the output of the run's processes goes.
    pub(crate) fn logs(&self) -> PathBuf {
        self.directory.join("logs")
    }

    /// Adds to the manifest.
    pub(crate) fn record(&self, entries: &[Entry]) -> Result<()> {
        manifest::append(&self.directory, entries)
    }

    /// Has a file or directory removed when the run is taken down.
    pub(crate) fn record_path(&self, path: &Path) -> Result<()> {
        // It is removed recursively by root, so a path that is not what it seems must not get into the manifest.
        let plain = path
            .components()
            .skip(1)
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        if !path.is_absolute() || !plain || path.components().count() < 3 {
            bail!(
                "the lab is to remove {} with everything below it: expected an absolute path without `..`, \
                 at least two levels deep",
                path.display()
            );
        }
        self.record(&[Entry::Path(path.to_owned())])
    }

    /// Whether the run is to outlive its owner.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }

    /// Lets the run outlive its owner.
    pub(crate) fn keep(&self) -> Result<()> {
        self.record(&[Entry::Kept])?;
        self.kept.store(true, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_not_plainly_somebodys_own_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let run = Run {
            id: "x".to_owned(),
            directory: directory.path().to_owned(),
            kept: AtomicBool::new(false),
            pipe: OnceLock::new(),
        };
        for path in ["/", "/sys", "relative/path", "/sys/fs/bpf/../../etc"] {
            let error = run.record_path(Path::new(path)).unwrap_err().to_string();
            assert!(
                error.contains(path) && error.contains("expected an absolute path"),
                "{error}"
            );
        }
        run.record_path(Path::new("/sys/fs/bpf/lb-ctl/node1")).unwrap();
    }
}
