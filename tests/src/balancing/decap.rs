//! `lb-ctl decap` on a backend of a lab, as an operator runs it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::balancer::{Output, run};
use crate::hosts::lab::{Host, Lab};
use crate::programs;

/// The decapsulator on a backend, whether attached or not. Detached when this is dropped.
#[derive(Debug)]
pub struct Decap {
    host: Host,
    pins: PathBuf,
}

impl Decap {
    /// Attaches it to the backend's interface.
    pub fn start(lab: &Lab, host: &Host) -> Result<Self> {
        // Pins are not in a namespace, so they need a name that is unique on this machine.
        let pins = Path::new("/sys/fs/bpf/lb-ctl-decap").join(host.full_name());
        lab.on_teardown_remove(&pins)?;
        let decap = Self {
            host: host.clone(),
            pins,
        };
        let output = decap.run(&[])?;
        ensure!(output.code == Some(0), "lb-ctl decap failed: {output:?}");
        Ok(decap)
    }

    /// Attaches it on every backend.
    pub fn start_on_backends(lab: &Lab) -> Result<Vec<Self>> {
        lab.backends().iter().map(|host| Self::start(lab, host)).collect()
    }

    /// Runs `lb-ctl decap` for the backend's interface with more arguments, until it ends.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        run(&mut self.command(arguments)?)
    }

    /// The command that [`Decap::run`] runs.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.host.command(programs::find("lb-ctl")?)?;
        command
            .args(["decap", "--interface", "eth0", "--pin", self.host.full_name()])
            .args(arguments);
        Ok(command)
    }

    /// What `--status` says was counted under this name.
    pub fn counted(&self, counter: &str) -> Result<u64> {
        let output = self.run(&["--status"])?;
        ensure!(output.code == Some(0), "lb-ctl decap --status failed: {output:?}");
        let line = output
            .stdout
            .lines()
            .find_map(|line| line.split_once(&format!("  {counter}: ")))
            .with_context(|| format!("expected {counter} in {}", output.stdout))?;
        let (number, _) = line;
        Ok(number.trim().parse()?)
    }

    /// The directory with the pins.
    pub fn pins(&self) -> &Path {
        &self.pins
    }
}

impl Drop for Decap {
    fn drop(&mut self) {
        // If this fails, the pins go with the lab, and the program with its interface.
        let _ = self.run(&["--detach"]);
    }
}
