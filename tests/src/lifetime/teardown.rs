//! Taking a run down, from nothing but its manifest: the same code serves the owner, the reaper and `lab down`.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};

use crate::hosts::iproute;
use crate::hosts::namespace::path_of;
use crate::lifetime::manifest::Manifest;
use crate::lifetime::registry::RunLock;

/// How long killed processes get to disappear. Only one that is stuck in the kernel takes noticeably long.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// What was found and removed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Killed processes, as "name (process id)".
    pub processes: Vec<String>,
    /// Network namespaces.
    pub namespaces: Vec<String>,
    /// Files and directories outside of the run's own directory.
    pub paths: Vec<PathBuf>,
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths: Vec<_> = self.paths.iter().map(|path| path.display().to_string()).collect();
        let lists = [
            ("processes", &self.processes),
            ("namespaces", &self.namespaces),
            ("paths", &paths),
        ];
        for (what, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            writeln!(f, "  {:<11} {}", format!("{what}:"), list.join(", "))?;
        }
        Ok(())
    }
}

/// Takes down the run that `lock` holds, and at last its directory.
///
/// It goes on after a failure, so that one stubborn thing does not leave everything else behind; the run's directory
/// then stays for another attempt.
pub(crate) fn tear_down(lock: &RunLock) -> Result<Removed> {
    let manifest = Manifest::read(lock.directory())?;
    let mut removed = Removed::default();
    let mut failures = Vec::new();

    if let Err(error) = kill_members(&manifest.namespaces, &mut removed.processes) {
        failures.push(error);
    }
    for path in manifest.paths {
        match remove(&path) {
            Ok(true) => removed.paths.push(path),
            Ok(false) => {}
            Err(error) => failures.push(error),
        }
    }
    match delete_namespaces(&manifest.namespaces) {
        Ok(deleted) => removed.namespaces = deleted,
        Err(error) => failures.push(error),
    }
    if failures.is_empty()
        && let Err(error) = remove(lock.directory())
    {
        failures.push(error);
    }
    let mut failures = failures.into_iter();
    match failures.next() {
        None => Ok(removed),
        Some(first) => Err(failures.fold(first, |all, next| anyhow!("{all:#}; {next:#}"))),
    }
}

/// Deletes those of the namespaces that exist.
///
/// The kernel takes their interfaces apart in the background. Nobody has to wait for that: names of namespaces are
/// never used again, and all interfaces were made inside.
fn delete_namespaces(names: &[String]) -> Result<Vec<String>> {
    let existing: Vec<_> = names
        .iter()
        .filter(|name| path_of(name).exists())
        .cloned()
        .collect();
    if !existing.is_empty() {
        let lines: Vec<_> = existing.iter().map(|name| format!("netns del {name}")).collect();
        iproute::batch(None, &lines, Stdio::null())?;
    }
    Ok(existing)
}

/// The directory above the pins of each balancer, which `lb-ctl` makes when it is not there.
const PINS_OF_ALL_BALANCERS: &str = "/sys/fs/bpf/lb-ctl";

/// Removes a file, or a directory with everything below it. Returns whether it was there.
fn remove(path: &Path) -> Result<bool> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Ok(()) => {
            if path.parent() == Some(Path::new(PINS_OF_ALL_BALANCERS)) {
                // Balancers share it; the last one takes it away, for the others it is not empty.
                let _ = fs::remove_dir(PINS_OF_ALL_BALANCERS);
            }
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
    }
}

/// Kills all processes in the namespaces, also those which started others meanwhile, and waits for their end.
fn kill_members(namespaces: &[String], killed: &mut Vec<String>) -> Result<()> {
    let deadline = Instant::now() + KILL_DEADLINE;
    let namespaces: HashSet<_> = namespaces
        .iter()
        .filter_map(|name| identity(&path_of(name)))
        .collect();
    if namespaces.is_empty() {
        return Ok(());
    }
    loop {
        let members = members(&namespaces)?;
        if members.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let names: Vec<_> = members.into_iter().map(|member| member.name).collect();
            bail!(
                "killed, but still there after {KILL_DEADLINE:?}: {}",
                names.join(", ")
            );
        }
        for member in &members {
            // Fails only if the process has ended by itself, which is as good.
            let _ = pidfd_send_signal(&member.pidfd, Signal::KILL);
        }
        for member in members {
            await_end(&member.pidfd, deadline)?;
            if !killed.contains(&member.name) {
                killed.push(member.name);
            }
        }
    }
}

/// A process in one of the run's namespaces.
struct Member {
    name: String,
    /// A handle instead of the number, which could belong to another process by the time it is used.
    pidfd: OwnedFd,
}

/// All processes in the namespaces, except this one.
fn members(namespaces: &HashSet<NamespaceIdentity>) -> Result<Vec<Member>> {
    let mut members = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot list /proc")? {
        let entry = entry.context("cannot list /proc")?;
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = number.and_then(Pid::from_raw).filter(|&pid| pid != getpid()) else {
            continue;
        };
        let is_member = || identity(&entry.path().join("ns/net")).is_some_and(|id| namespaces.contains(&id));
        if !is_member() {
            continue;
        }
        // From here on the process may end at any time. The second look makes sure that the handle is for the
        // process that was found, not for a new one with the same number.
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if is_member() {
            members.push(Member {
                name: format!("{} ({pid})", name.trim_end(), pid = pid.as_raw_nonzero()),
                pidfd,
            });
        }
    }
    Ok(members)
}

/// Waits until the process has ended or the deadline has passed.
fn await_end(pidfd: &OwnedFd, deadline: Instant) -> Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).context("the deadline is too far away")?;
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for the end of a process"),
        }
    }
}

/// Device and inode, which identify a namespace whatever path leads to it.
type NamespaceIdentity = (u64, u64);

/// The namespace behind a path; `None` if there is none, as for a process that has ended.
fn identity(path: &Path) -> Option<NamespaceIdentity> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removing_what_is_not_there_is_no_failure() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pins");
        assert!(!remove(&path).unwrap());
        fs::create_dir_all(path.join("below")).unwrap();
        fs::write(path.join("below/file"), "").unwrap();
        assert!(remove(&path).unwrap());
        assert!(!path.exists());
    }
}
