//! The directory that holds everything set-up installs, so that nothing of the user's is touched.

use std::{
    env,
    fs::{self, File},
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::command;

/// `$XDG_CACHE_HOME/lb-ctl`, or `~/.cache/lb-ctl`.
///
/// `bpf-build` looks for the description of the BPF toolchain in the same place.
pub(crate) struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// Finds the directory, without creating it.
    pub(crate) fn locate() -> Result<Self> {
        // A relative path is to be ignored, says the XDG specification.
        let base = match env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
        {
            Some(base) => base,
            None => env::home_dir()
                .context("neither XDG_CACHE_HOME nor HOME is set")?
                .join(".cache"),
        };
        let cache = Self {
            directory: base.join("lb-ctl"),
        };
        cache.refuse_another_users_home()?;
        Ok(cache)
    }

    /// `sudo cargo xtask` with the caller's HOME would leave files there that the caller cannot change.
    fn refuse_another_users_home(&self) -> Result<()> {
        if env::var_os("SUDO_UID").is_none() || command::user_id()? != 0 {
            return Ok(());
        }
        let owner = self
            .directory
            .ancestors()
            .find_map(|directory| fs::metadata(directory).ok())
            .map_or(0, |m| m.uid());
        if owner != 0 {
            bail!(
                "{} belongs to user {owner}, but sudo made us root: run `cargo xtask` without sudo, it calls sudo \
                 where root is needed",
                self.directory.display()
            );
        }
        Ok(())
    }

    /// A path inside the cache.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.join(name)
    }

    /// Creates the directory and waits until no other set-up works in it.
    pub(crate) fn lock(&self) -> Result<Lock> {
        fs::create_dir_all(&self.directory)
            .with_context(|| format!("cannot create {}", self.directory.display()))?;
        let path = self.path("lock");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        if file.try_lock().is_err() {
            println!(
                "setup: another set-up is at work in {}, waiting for it",
                self.directory.display()
            );
            file.lock()
                .with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Ok(Lock { file })
    }

    /// Writes a file so that readers see either the old or the new one. An equal file is left alone: its time of
    /// change tells cargo whether to rebuild.
    pub(crate) fn write(&self, name: &str, content: &str) -> Result<()> {
        let path = self.path(name);
        match fs::read_to_string(&path) {
            Ok(old) if old == content => return Ok(()),
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
            _ => {}
        }
        let partial = self.path(format!("{name}.partial"));
        fs::write(&partial, content).with_context(|| format!("cannot write {}", partial.display()))?;
        rename(&partial, &path)
    }
}

/// Moves something that is complete to where it is looked for.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))
}

/// The paths of what is in a directory.
pub(crate) fn read_directory(directory: &Path) -> Result<Vec<PathBuf>> {
    let cannot_read = || format!("cannot read {}", directory.display());
    fs::read_dir(directory)
        .with_context(cannot_read)?
        .map(|entry| Ok(entry.with_context(cannot_read)?.path()))
        .collect()
}

/// The right to change the cache.
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// Runs a command that changes the cache, and returns what it wrote to stdout.
    ///
    /// The command has the (empty) lock file as its standard input. So it cannot ask questions, and if this process is
    /// killed, the lock is held until the command has ended as well: the next set-up never meets a writer.
    pub(crate) fn capture(&self, command: &mut Command) -> Result<String> {
        let file = self
            .file
            .try_clone()
            .context("cannot duplicate the lock's file descriptor")?;
        command::capture(command.stdin(Stdio::from(file)))
    }
}
