//! The reaper: a process that takes a run down when its owner dies without having done so, however it dies.
//!
//! The owner starts it before it makes anything else, and keeps the write end of a pipe that nobody else has. The end
//! of that pipe is the owner's death, unless a farewell came first. The processes of the lab inherit the write end only
//! between fork and exec, so that the pipe ends after the last of them has arrived in its namespace, where it is found.
//! The programs that build the lab hold it until they end: what they make after the owner's death is found too.

use std::fs::File;
use std::io::{self, PipeWriter, Read, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command};

use anyhow::{Context as _, Result, bail};

use crate::lifetime::manifest::Manifest;
use crate::lifetime::registry::{Registry, RunLock};
use crate::lifetime::run::Run;
use crate::lifetime::teardown::tear_down;
use crate::programs;

/// What the owner writes into the pipe when there is nothing left to reap.
const FAREWELL: &[u8] = b"farewell";

/// The owner's side of its reaper.
#[derive(Debug)]
pub(crate) struct Reaper {
    process: Child,
    pipe: PipeWriter,
}

impl Reaper {
    /// Starts the reaper of the run that `lock` holds.
    pub(crate) fn start(lock: &RunLock, run: &Run) -> Result<Self> {
        let (reader, pipe) = io::pipe().context("cannot create the pipe to the reaper")?;
        let log = lock.directory().join("reaper.log");
        let log = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let mut command = Command::new(programs::find("lab")?);
        command
            .arg("reap")
            .arg(lock.directory())
            .current_dir("/")
            .stdin(reader)
            // Only to hand the lock over: the reaper prints nothing. It must not have the owner's own output anyway,
            // or a reader of that would wait for the reaper's end.
            .stdout(lock.share()?)
            .stderr(log);
        // SAFETY: the closure runs between fork and exec, where only async-signal-safe functions are allowed; setsid(2)
        // is one, rustix makes the system call without a lock or an allocation, and converting its error allocates
        // nothing either.
        unsafe {
            command.pre_exec(|| {
                // Its own session: what a terminal sends to the owner's process group does not reach the reaper.
                rustix::process::setsid()?;
                Ok(())
            });
        }
        let process = command
            .spawn()
            .with_context(|| format!("cannot start the reaper {}", command.get_program().display()))?;
        run.set_pipe(
            pipe.try_clone()
                .context("cannot duplicate the pipe to the reaper")?,
        );
        Ok(Self { process, pipe })
    }

    /// Ends the reaper without having it reap.
    pub(crate) fn dismiss(self) {
        let Self {
            mut process,
            mut pipe,
        } = self;
        // Both fail only if somebody has killed the reaper, and then it is dismissed as well.
        let _ = pipe.write_all(FAREWELL);
        drop(pipe);
        let _ = process.wait();
    }
}

/// The main function of the reaper, `lab reap`: standard input is the pipe, standard output the run's lock.
pub fn reap(directory: PathBuf) -> Result<()> {
    ignore_signals();
    let lock = io::stdout()
        .as_fd()
        .try_clone_to_owned()
        .context("cannot take over the run's lock")?;
    if !File::from(lock.try_clone()?).metadata()?.is_dir() {
        bail!("`lab reap` is started by the lab itself, with the lock of a run as its standard output");
    }
    let lock = RunLock::inherited(directory, lock);
    if hears_farewell(&mut io::stdin().lock()).context("cannot read from the run's owner")?
        || Manifest::read(lock.directory())?.kept
    {
        return Ok(());
    }
    tear_down(&lock)?;
    Registry::tidy()
}

/// Listens until the owner says farewell (`true`), or has died and with it the last program that built for it.
fn hears_farewell(pipe: &mut impl Read) -> io::Result<bool> {
    let mut heard = Vec::new();
    let mut piece = [0; 64];
    while !heard.ends_with(FAREWELL) {
        match pipe.read(&mut piece) {
            Ok(0) => return Ok(false),
            Ok(length) => heard.extend_from_slice(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Signals that are meant for the owner often reach its reaper too, from `kill` by name or a service manager. The reaper
/// has to outlive the owner, whose end is its own.
fn ignore_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: SIG_IGN installs no handler, so there is no code that could run at a wrong moment, and the signals
        // are valid numbers that may be ignored.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_farewell_is_heard_behind_what_builders_have_said() {
        assert!(hears_farewell(&mut &b"farewell"[..]).unwrap());
        assert!(hears_farewell(&mut &b"noise\nfarewell"[..]).unwrap());
        assert!(!hears_farewell(&mut &b""[..]).unwrap());
        assert!(!hears_farewell(&mut &b"fare"[..]).unwrap());
    }
}
