//! A lab leaves nothing behind, however its owner ends.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lab::{Lab, Namespace, Process, Removed, Selection, wait_until};
use rustix::process::{Pid, Signal, kill_process, kill_process_group, set_parent_process_death_signal};
use tempfile::TempDir;

const TIMEOUT: Duration = Duration::from_secs(10);

/// All that a run can leave behind.
struct Traces {
    id: String,
    /// A process in the lab.
    process: u32,
    /// What the lab was asked to remove.
    path: PathBuf,
}

impl Traces {
    fn directory(&self) -> PathBuf {
        Path::new("/run/lb-lab").join(&self.id)
    }

    fn namespaces(&self) -> Result<Vec<String>> {
        let prefix = format!("lb-{}-", self.id);
        let entries = match fs::read_dir("/run/netns") {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        Ok(names
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .filter(|name| name.starts_with(&prefix))
            .collect())
    }

    /// Makes sure that everything is there, without which its absence later would prove nothing.
    fn expect_all(&self) -> Result<()> {
        ensure!(self.directory().exists(), "no directory");
        ensure!(
            self.namespaces()?.len() == 4,
            "namespaces: {:?}",
            self.namespaces()?
        );
        ensure!(is_alive(self.process), "no process {}", self.process);
        ensure!(self.path.exists(), "no {}", self.path.display());
        Ok(())
    }

    fn expect_none(&self) -> Result<()> {
        ensure!(
            self.namespaces()?.is_empty(),
            "namespaces: {:?}",
            self.namespaces()?
        );
        ensure!(!is_alive(self.process), "process {}", self.process);
        ensure!(!self.path.exists(), "{}", self.path.display());
        ensure!(!self.directory().exists(), "{}", self.directory().display());
        Ok(())
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        // After a failed assertion a kept lab may still be there. Others end by themselves, and are refused here.
        let _ = lab::down(&Selection::Run(self.id.clone()));
    }
}

/// Whether a process runs; one that is only still listed for its parent does not.
fn is_alive(pid: u32) -> bool {
    fs::metadata(format!("/proc/{pid}/ns/net")).is_ok()
}

/// A lab in this process, with a process in it and a directory to remove.
fn lab_with_traces(parent: &TempDir) -> Result<(Lab, Process, Traces)> {
    let lab = Lab::builder().start()?;
    let path = parent.path().join("pins");
    lab.on_teardown_remove(&path)?;
    fs::create_dir_all(path.join("below"))?;
    let process = sleep(&lab.backends()[0])?;
    let traces = Traces {
        id: lab.id().to_owned(),
        process: process.id(),
        path,
    };
    traces.expect_all()?;
    Ok((lab, process, traces))
}

fn sleep(host: &Namespace) -> Result<Process> {
    host.spawn("sleep", host.command("sleep")?.arg("1000"))
}

/// A process that owns a lab, `lab up`, and its reaper.
struct Owner {
    process: Child,
    reaper: u32,
    traces: Traces,
}

impl Owner {
    fn start(parent: &TempDir, options: &[&str]) -> Result<Self> {
        let path = parent.path().join("pins");
        fs::create_dir_all(path.join("below"))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        command
            .args(["up", "--run", "backend1=exec sleep 1000", "--remove"])
            .arg(&path)
            .args(options)
            .stdout(Stdio::piped())
            .process_group(0);
        // SAFETY: the closure runs between fork and exec, where only async-signal-safe functions are allowed. It makes
        // one system call, prctl(2), without a lock or an allocation, and neither does the conversion of its error.
        unsafe {
            command.pre_exec(|| {
                // Nobody else would end the owner if this test were killed, as it is in a process group of its own.
                set_parent_process_death_signal(Some(Signal::TERM))?;
                Ok(())
            });
        }
        let mut process = command.spawn()?;
        let stdout = process.stdout.take().context("standard output is a pipe")?;
        let mut owner = Self {
            process,
            reaper: 0,
            traces: Traces {
                id: String::new(),
                process: 0,
                path,
            },
        };
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["process", pid, ..] => owner.traces.process = pid.parse()?,
                ["lab", id, "is", "up;", ..] => {
                    id.clone_into(&mut owner.traces.id);
                    break;
                }
                _ => {}
            }
        }
        owner.traces.expect_all()?;
        Ok(owner)
    }

    fn start_with_reaper(parent: &TempDir) -> Result<Self> {
        let mut owner = Self::start(parent, &[])?;
        let id = owner.process.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
        let is_reaper = |pid: &&str| {
            fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("\0reap\0"))
        };
        owner.reaper = children
            .split_whitespace()
            .find(is_reaper)
            .context("there is a reaper")?
            .parse()?;
        Ok(owner)
    }

    fn signal_group(&mut self, signal: Signal) -> Result<()> {
        kill_process_group(pid(self.process.id())?, signal)?;
        Ok(())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // After a failed assertion the owner may still be there, and its reaper does the rest.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn pid(number: u32) -> Result<Pid> {
    i32::try_from(number)
        .ok()
        .and_then(Pid::from_raw)
        .context("a process id")
}

#[test]
fn drop_removes_everything() -> Result<()> {
    let parent = tempfile::tempdir()?;
    let (lab, process, traces) = lab_with_traces(&parent)?;
    drop(process);
    drop(lab);
    traces.expect_none()
}

#[test]
fn drop_ends_processes_that_are_still_in_use() -> Result<()> {
    let parent = tempfile::tempdir()?;
    let (lab, mut process, traces) = lab_with_traces(&parent)?;
    // Also one that the lab did not start itself.
    let mut foreign = lab.clients()[0].command("sleep")?.arg("1000").spawn()?;
    drop(lab);
    traces.expect_none()?;
    assert!(!process.wait(TIMEOUT)?.success());
    assert!(!foreign.wait()?.success());
    Ok(())
}

#[test]
fn a_panic_removes_everything() -> Result<()> {
    let parent = tempfile::tempdir()?;
    let mut seen = None;
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        let (_lab, _process, traces) = lab_with_traces(&parent).unwrap();
        seen = Some(traces);
        panic!("a failed assertion");
    }));
    assert_eq!(
        result.unwrap_err().downcast_ref::<&str>(),
        Some(&"a failed assertion")
    );
    seen.context("the lab was up")?.expect_none()
}

#[test]
fn the_reaper_removes_everything_after_a_sigkill_to_the_owners_group() -> Result<()> {
    let parent = tempfile::tempdir()?;
    let mut owner = Owner::start(&parent, &[])?;
    owner.signal_group(Signal::KILL)?;
    wait_until("the reaper to finish", TIMEOUT, || owner.traces.expect_none())
}

#[test]
fn ctrl_c_removes_everything_before_the_owner_ends() -> Result<()> {
    let parent = tempfile::tempdir()?;
    let mut owner = Owner::start(&parent, &[])?;
    owner.signal_group(Signal::INT)?;
    assert!(owner.process.wait()?.success());
    owner.traces.expect_none()
}

#[test]
fn the_reaper_outlives_polite_signals() -> Result<()> {
    let parent = tempfile::tempdir()?;
    let mut owner = Owner::start_with_reaper(&parent)?;
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        kill_process(pid(owner.reaper)?, signal)?;
    }
    owner.signal_group(Signal::KILL)?;
    wait_until("the reaper to finish", TIMEOUT, || owner.traces.expect_none())
}

#[test]
fn the_next_start_removes_what_a_killed_owner_and_a_killed_reaper_left() -> Result<()> {
    let parent = tempfile::tempdir()?;
    let mut owner = Owner::start_with_reaper(&parent)?;
    kill_process(pid(owner.reaper)?, Signal::KILL)?;
    owner.signal_group(Signal::KILL)?;
    owner.process.wait()?;
    wait_until("the reaper's end", TIMEOUT, || !is_alive(owner.reaper))?;
    let _lab = Lab::builder().start()?;
    owner.traces.expect_none()
}

#[test]
fn a_lab_in_use_is_not_taken_down() -> Result<()> {
    let lab = Lab::builder().start()?;
    let error = lab::down(&Selection::Run(lab.id().to_owned()))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("is in use by") && error.contains(&std::process::id().to_string()),
        "{error}"
    );
    assert!(lab.clients()[0].enter(|| ()).is_ok());
    Ok(())
}

#[test]
fn a_kept_lab_outlives_its_owner_until_it_is_taken_down() -> Result<()> {
    let parent = tempfile::tempdir()?;
    let mut owner = Owner::start(&parent, &["--keep"])?;
    assert!(owner.process.wait()?.success());
    // The start of another lab does not take it for an orphan.
    drop(Lab::builder().start()?);
    owner.traces.expect_all()?;

    let down = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["down", &owner.traces.id])
        .output()?;
    let printed = String::from_utf8(down.stdout)?;
    assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
    owner.traces.expect_none()?;
    let expected = [
        format!("lab {} is down", owner.traces.id),
        format!("sleep ({})", owner.traces.process),
        format!("lb-{}-balancer1", owner.traces.id),
        owner.traces.path.display().to_string(),
    ];
    for part in expected {
        assert!(printed.contains(&part), "expected {part:?} in {printed:?}");
    }

    let again = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["down", &owner.traces.id])
        .output()?;
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8(again.stderr)?.contains("there is no lab"));
    Ok(())
}

#[test]
fn a_kept_lab_can_be_taken_down_while_its_owner_is_alive() -> Result<()> {
    let parent = tempfile::tempdir()?;
    let (mut lab, process, traces) = lab_with_traces(&parent)?;
    lab.keep()?;
    drop(process);
    traces.expect_all()?;
    let [(id, removed)] = &mut lab::down(&Selection::Run(traces.id.clone()))?[..] else {
        panic!("expected one lab")
    };
    assert_eq!(*id, traces.id);
    let Removed {
        processes,
        namespaces,
        paths,
    } = removed.as_ref().unwrap();
    assert_eq!(*processes, [format!("sleep ({})", traces.process)]);
    assert_eq!(namespaces.len(), 4);
    assert_eq!(*paths, [traces.path.as_path()]);
    traces.expect_none()?;
    drop(lab);
    traces.expect_none()
}
