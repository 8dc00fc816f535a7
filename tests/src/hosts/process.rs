//! A process that runs in the lab: its output, its end, and what happened if it ended too early.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::hosts::namespace::Namespace;
use crate::lifetime::run::Run;
use crate::wait::poll;

/// How many of the last lines of output an error message shows.
const TAIL_LINES: usize = 20;

/// A process of the lab. Dropping it kills it, unless its lab is [kept](crate::Lab::keep).
#[derive(Debug)]
pub struct Process {
    /// "name on host", for messages.
    title: String,
    child: Child,
    log: PathBuf,
    run: Arc<Run>,
}

impl Process {
    pub(crate) fn spawn(namespace: &Namespace, name: &str, command: &mut Command) -> Result<Self> {
        let run = Arc::clone(namespace.shared_run());
        let title = format!("{name} on {}", namespace.name());
        let (log, file) = create_log(&run.logs(), &format!("{}-{name}", namespace.name()))?;
        namespace.move_on_exec(command)?;
        let child = command
            .stdin(Stdio::null())
            // One file that the process writes by itself, not a pipe: it goes on without the owner of a kept lab.
            .stdout(
                file.try_clone()
                    .context("cannot duplicate the descriptor of a log file")?,
            )
            .stderr(file)
            // Its own group: Ctrl-C is for the owner, which then ends its processes in good order, and the children of
            // this process can be killed together with it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {title} ({})", command.get_program().display()))?;
        Ok(Self {
            title,
            child,
            log,
            run,
        })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The file with everything that the process has printed, standard output and standard error together.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Everything that the process has printed so far.
    pub fn output(&self) -> Result<String> {
        let bytes = fs::read(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Waits until the process has printed a line that contains `text`, at any time since its start; returns the line.
    /// An error at once if the process has ended without it.
    pub fn wait_for_line(&mut self, text: &str, timeout: Duration) -> Result<String> {
        let found = poll(timeout, || {
            // In this order: what a process printed before its end is in the file when its end is seen.
            let ended = self.exit_status().transpose();
            let line = self
                .output()
                .map(|output| complete_line(&output, text).map(str::to_owned))
                .transpose();
            line.or_else(|| match ended? {
                Ok(status) => Some(Err(anyhow!("it has ended ({status})"))),
                Err(error) => Some(Err(error)),
            })
        });
        found
            .unwrap_or_else(|| Err(anyhow!("it has not within {timeout:?}")))
            .with_context(|| format!("expected {self} to print {text:?}"))
            .map_err(|error| self.with_tail(&error))
    }

    /// How the process ended, or `None` while it runs.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("cannot wait for {}", self.title))
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        match poll(timeout, || self.exit_status().transpose()) {
            Some(status) => status,
            None => Err(self.with_tail(&anyhow!(
                "expected {self} to end, it still runs after {timeout:?}"
            ))),
        }
    }

    /// Sends a signal to the process.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.exit_status()? {
            return Err(self.with_tail(&anyhow!("cannot signal {self}: it has ended ({status})")));
        }
        // Its number cannot belong to another process: it has not been waited for.
        kill_process(self.pid()?, signal).with_context(|| format!("cannot signal {}", self.title))
    }

    /// Asks the process to end with SIGTERM and waits for that. If it does not end in time, it is killed, together
    /// with its children, and that is an error. A process that has ended already yields its status.
    pub fn terminate(&mut self, timeout: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.exit_status()? {
            return Ok(status);
        }
        self.signal(Signal::TERM)?;
        if let Some(status) = poll(timeout, || self.exit_status().transpose()) {
            return status;
        }
        self.kill()?;
        Err(self.with_tail(&anyhow!(
            "{self} did not end within {timeout:?} of SIGTERM and was killed"
        )))
    }

    /// Kills the process with SIGKILL, together with those of its children that are still in its process group.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.exit_status()? {
            return Ok(status);
        }
        // The group exists and is ours: its leader has not been waited for.
        kill_process_group(self.pid()?, Signal::KILL)
            .with_context(|| format!("cannot kill {}", self.title))?;
        self.child
            .wait()
            .with_context(|| format!("cannot wait for {}", self.title))
    }

    fn pid(&self) -> Result<Pid> {
        let raw = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        raw.with_context(|| format!("{} has the impossible process id {}", self.title, self.child.id()))
    }

    /// The error with the end of the process's output below it.
    fn with_tail(&self, error: &anyhow::Error) -> anyhow::Error {
        match self.output() {
            Ok(output) if output.trim().is_empty() => anyhow!("{error:#}; it printed nothing"),
            Ok(output) => anyhow!("{error:#}; the end of its output:\n{}", tail(&output)),
            Err(unreadable) => anyhow!("{error:#}; its output is lost: {unreadable:#}"),
        }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.title, self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.run.is_kept()
            && let Err(error) = self.kill()
        {
            eprintln!("{error:#}");
        }
    }
}

/// Creates a log file that no other process writes to; a process that is started again gets another one.
fn create_log(directory: &Path, name: &str) -> Result<(PathBuf, File)> {
    for attempt in 1..=10_000 {
        let suffix = if attempt == 1 {
            String::new()
        } else {
            format!("-{attempt}")
        };
        let path = directory.join(format!("{name}{suffix}.log"));
        match File::options().append(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot create {}", path.display())),
        }
    }
    bail!("there are too many logs of {name} in {}", directory.display())
}

/// The first line that contains `text` and has been printed to its end.
fn complete_line<'a>(output: &'a str, text: &str) -> Option<&'a str> {
    let mut lines = output
        .split_inclusive('\n')
        .filter_map(|line| line.strip_suffix('\n'));
    lines.find(|line| line.contains(text))
}

/// The last lines, indented.
pub(crate) fn tail(output: &str) -> String {
    let lines: Vec<_> = output.lines().collect();
    let shown = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    shown
        .iter()
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_complete_line_counts() {
        assert_eq!(complete_line("starting\nready on 2105", "ready"), None);
        assert_eq!(
            complete_line("starting\nready on 21050\n", "ready"),
            Some("ready on 21050")
        );
    }

    #[test]
    fn the_tail_has_the_last_lines() {
        let output = (1..=30)
            .map(|n| format!("line {n}"))
            .collect::<Vec<_>>()
            .join("\n");
        let tail = tail(&output);
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.starts_with("    line 11\n") && tail.ends_with("    line 30"));
    }

    #[test]
    fn a_process_that_is_started_again_gets_a_new_log() {
        let directory = tempfile::tempdir().unwrap();
        let names: Vec<_> = (0..3)
            .map(|_| {
                create_log(directory.path(), "lb-ctl")
                    .unwrap()
                    .0
                    .file_name()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        assert_eq!(names, ["lb-ctl.log", "lb-ctl-2.log", "lb-ctl-3.log"]);
    }
}
