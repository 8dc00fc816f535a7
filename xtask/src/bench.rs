//! `cargo xtask bench`: builds with optimisation, and becomes the lab's bench.

use std::{convert::Infallible, ffi::OsString, os::unix::process::CommandExt};

use anyhow::{Context, Result};

use crate::{
    command,
    setup::{self, Scope},
};

/// Replaces this process by the bench, whose standard output is nothing but its result.
pub(crate) fn run(arguments: &[OsString]) -> Result<Infallible> {
    setup::run(Scope::Build)?;
    command::run(command::cargo().args(["build", "--quiet", "--release", "--package", "lab"]))?;
    let lab = command::target_directory()?.join("release/lab");
    let arguments = std::iter::once(OsString::from("bench")).chain(arguments.iter().cloned());
    let mut bench = command::as_root(&[], &lab, arguments)?;
    Err(bench.exec()).with_context(|| format!("cannot start `{}`", command::display(&bench)))
}
