//! `cargo xtask demo`: builds, and becomes the lab's demo.

use std::{convert::Infallible, ffi::OsString, os::unix::process::CommandExt};

use anyhow::{Context, Result};

use crate::{
    command,
    setup::{self, Scope},
};

/// Replaces this process by the demo, which therefore gets Ctrl-C and its exit code reaches the caller.
pub(crate) fn run(arguments: &[OsString]) -> Result<Infallible> {
    let ready = setup::run(Scope::Lab)?;
    command::run(command::cargo().args(["build", "--workspace"]))?;
    let lab = command::target_directory()?.join("debug/lab");
    let arguments = std::iter::once(OsString::from("demo")).chain(arguments.iter().cloned());
    let mut demo = command::as_root(&ready.variables_of_lab(), &lab, arguments)?;
    if command::user_id()? != 0 {
        println!("demo: {}", command::display(&demo));
    }
    Err(demo.exec()).with_context(|| format!("cannot start `{}`", command::display(&demo)))
}
