//! An emulated machine that runs one job and ends.

use std::{
    ffi::OsString,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::Initramfs;
use crate::command;

/// The emulator, and what it needs where it is not installed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Emulator {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) variables: Vec<(&'static str, OsString)>,
}

impl Emulator {
    /// A command that ends in the program, and what it needs besides.
    pub(crate) fn command(&self, mut command: Command) -> Command {
        command
            .args(&self.arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// How long a machine may take. The emulation is some ten times slower than the hardware, and all tests together take
/// more than a quarter of an hour beside other work.
const LIMIT: Duration = Duration::from_mins(30);

/// What the kernel says goes to the console, below errors nothing; a panic ends the machine.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1";

/// A machine that runs; it is gone when this is dropped.
pub(crate) struct Machine {
    qemu: Child,
    console: Receiver<io::Result<Vec<u8>>>,
    switched_on: Instant,
    /// How long it may take.
    limit: Duration,
}

impl Machine {
    /// Switches on a machine with this kernel image.
    pub(crate) fn boot(emulator: &Emulator, image: &Path, initramfs: Initramfs) -> Result<Self> {
        // The archive, packed and unpacked, besides what the kernel and the tests take.
        let memory = 512 + 3 * initramfs.size / (1 << 20);
        // `setpriv` has the emulator killed when this process dies, however that happens.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL"]).arg(&emulator.program);
        let mut qemu = emulator.command(qemu);
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"])
            .args(["-nodefaults", "-display", "none", "-no-reboot"])
            .arg("-m")
            .arg(memory.to_string())
            // Standard input is a file without a name; that is how the emulator can open it.
            .args(["-serial", "file:/dev/stdout", "-initrd", "/dev/stdin"])
            .arg("-kernel")
            .arg(image)
            .args(["-append", COMMAND_LINE])
            .stdin(Stdio::from(initramfs.file));
        Self::start(&mut qemu, LIMIT)
    }

    /// Starts an emulator that has the machine's console as its standard output.
    fn start(qemu: &mut Command, limit: Duration) -> Result<Self> {
        let mut qemu = qemu
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{}`", command::display(qemu)))?;
        let console = qemu
            .stdout
            .take()
            .context("the emulator's output is not connected")?;
        Ok(Self {
            qemu,
            console: lines(console),
            switched_on: Instant::now(),
            limit,
        })
    }

    /// Shows each line of the console until the machine ends or is made to, and says which of the two.
    pub(crate) fn watch(mut self, mut see: impl FnMut(&str)) -> Result<String> {
        loop {
            let left = self.limit.saturating_sub(self.switched_on.elapsed());
            match self.console.recv_timeout(left) {
                Ok(line) => see(&String::from_utf8_lossy(
                    &line.context("cannot read the machine's console")?,
                )),
                Err(RecvTimeoutError::Disconnected) => return Ok(describe(self.wait()?)),
                Err(RecvTimeoutError::Timeout) => {
                    return Ok(format!("the machine was switched off after {:?}", self.limit));
                }
            }
        }
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        self.qemu.wait().context("cannot wait for the emulator")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both do nothing to an emulator that has ended.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

fn describe(emulator: ExitStatus) -> String {
    if emulator.success() {
        "the machine ended".into()
    } else {
        format!("the emulator ended: {emulator}")
    }
}

/// The lines, read by a thread of their own so that waiting for one can have an end.
fn lines(console: ChildStdout) -> Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n') {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that is emulated by a shell script.
    fn start(script: &str, limit: Duration) -> Machine {
        Machine::start(Command::new("sh").args(["-c", script]), limit).unwrap()
    }

    #[test]
    fn a_machine_is_watched_until_it_ends() {
        let mut seen = Vec::new();
        let machine = start("echo one; printf two; exit 3", Duration::from_mins(1));
        let end = machine.watch(|line| seen.push(line.to_owned())).unwrap();
        assert_eq!(seen, ["one", "two"]);
        assert_eq!(end, "the emulator ended: exit status: 3");

        let machine = start("exit 0", Duration::from_mins(1));
        assert_eq!(machine.watch(|_| {}).unwrap(), "the machine ended");
    }

    #[test]
    fn a_machine_that_takes_too_long_is_switched_off() {
        let machine = start("exec sleep 600", Duration::from_millis(1));
        let process = Path::new("/proc").join(machine.qemu.id().to_string());
        assert!(process.exists());
        assert_eq!(
            machine.watch(|_| {}).unwrap(),
            "the machine was switched off after 1ms"
        );
        assert!(!process.exists());
    }
}
