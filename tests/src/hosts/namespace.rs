//! One network namespace of the lab, and the ways to do something in it.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::hosts::iproute;
use crate::hosts::process::Process;
use crate::lifetime::manifest::Entry;
use crate::lifetime::run::Run;

/// A network namespace that exists as long as its lab.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    full_name: String,
    run: Arc<Run>,
}

impl Namespace {
    /// Creates a namespace for each name, all at once.
    pub(crate) fn create_all(run: &Arc<Run>, names: &[&str]) -> Result<Vec<Self>> {
        let namespaces: Vec<_> = names
            .iter()
            .map(|&name| Self {
                name: name.to_owned(),
                full_name: format!("lb-{}-{name}", run.id()),
                run: Arc::clone(run),
            })
            .collect();
        let entries: Vec<_> = namespaces
            .iter()
            .map(|n| Entry::Namespace(n.full_name.clone()))
            .collect();
        run.record(&entries)?;
        let commands: Vec<_> = namespaces
            .iter()
            .map(|n| format!("netns add {}", n.full_name))
            .collect();
        iproute::batch(None, &commands, run.witness()?)?;
        Ok(namespaces)
    }

    /// Runs `ip` commands in the namespace, with one process.
    pub(crate) fn ip_batch(&self, commands: &[String]) -> Result<()> {
        iproute::batch(Some(&self.full_name), commands, self.run.witness()?)
    }

    /// The name within the lab, such as `backend1`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name that `ip netns` knows, such as `lb-4711-x3Yz-backend1`.
    pub fn full_name(&self) -> &str {
        &self.full_name
    }

    pub(crate) fn shared_run(&self) -> &Arc<Run> {
        &self.run
    }

    /// A command that will run in this namespace.
    ///
    /// Unlike `ip netns exec` this changes the network namespace only: `/sys` stays as it is, bpffs included, and
    /// therefore `/sys/class/net` shows the interfaces of the root namespace.
    pub fn command(&self, program: impl AsRef<Path>) -> Result<Command> {
        let mut command = Command::new(program.as_ref());
        self.move_on_exec(&mut command)?;
        Ok(command)
    }

    /// Has the command enter this namespace before it starts its program.
    pub(crate) fn move_on_exec(&self, command: &mut Command) -> Result<()> {
        let namespace = self.open()?;
        // SAFETY: the closure runs between fork and exec, where only async-signal-safe functions are allowed. It makes
        // one system call, setns(2), on a descriptor that it owns and that was opened beforehand; rustix takes no
        // lock and allocates nothing for it, and neither does the conversion of its error.
        unsafe {
            command.pre_exec(move || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(())
            });
        }
        Ok(())
    }

    /// Starts a command in this namespace as a process of the lab, whose output is kept and which ends with the lab.
    ///
    /// `name` is for messages and for the name of the log file.
    pub fn spawn(&self, name: &str, command: &mut Command) -> Result<Process> {
        Process::spawn(self, name, command)
    }

    /// Runs a program in this namespace and returns what it prints; an error if it does not succeed.
    pub fn run(&self, command: &[&str]) -> Result<String> {
        let [program, arguments @ ..] = command else {
            bail!("there is no program in an empty command")
        };
        let shown = || format!("`{}` on {}", command.join(" "), self.name);
        let output = self
            .command(program)?
            .args(arguments)
            .output()
            .with_context(|| format!("cannot run {}", shown()))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("{} failed ({}): {}", shown(), output.status, stderr.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs the closure on a thread of its own that is in this namespace, and returns what it returns.
    ///
    /// Sockets that it makes belong to the namespace for good and can be used anywhere afterwards. A thread that the
    /// closure starts is in the namespace too and should end before the lab, which it would keep half alive.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let namespace = self.open()?;
        let moved = thread::scope(|scope| {
            let thread = scope.spawn(move || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok::<_, rustix::io::Errno>(work())
            });
            thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        });
        moved.with_context(|| format!("cannot enter the namespace of {}", self.name))
    }

    fn open(&self) -> Result<File> {
        let path = path_of(&self.full_name);
        File::open(&path).with_context(|| {
            format!(
                "cannot open the namespace of {} at {}, has the lab been taken down?",
                self.name,
                path.display()
            )
        })
    }
}

/// Where `ip netns` keeps the namespace with this full name.
pub(crate) fn path_of(full_name: &str) -> PathBuf {
    Path::new("/run/netns").join(full_name)
}
