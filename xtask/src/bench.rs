//! `cargo xtask bench`: builds with optimisation, and becomes the lab's bench.

use std::{convert::Infallible, env, ffi::OsString, io, os::unix::process::CommandExt, process::Command};

use anyhow::{Context, Result};

use crate::command;

/// Replaces this process by the bench, whose result is all that reaches standard output.
pub(crate) fn run(arguments: &[OsString]) -> Result<Infallible> {
    // A process of its own, because set-up and build tell on standard output what they do.
    let xtask = env::current_exe().context("cannot find out which program is running")?;
    command::run(
        Command::new(xtask)
            .args(["build", "--release"])
            .stdout(io::stderr()),
    )?;
    let lab = command::target_directory()?.join("release/lab");
    let arguments = std::iter::once(OsString::from("bench")).chain(arguments.iter().cloned());
    let mut bench = command::as_root(&[], &lab, arguments)?;
    Err(bench.exec()).with_context(|| format!("cannot start `{}`", command::display(&bench)))
}
