//! `cargo xtask lint`: formatting, clippy, documentation.

use anyhow::{Result, bail};

use crate::{
    command,
    setup::{self, Scope},
};

const CLIPPY: &str = "clippy --workspace --all-targets -- -D warnings";

/// Stops at the first check that fails.
pub(crate) fn run() -> Result<()> {
    setup::run(Scope::Build)?;
    check("fmt --all --check", None)?;
    check(CLIPPY, None)?;
    refuse_warnings_of_the_bpf_programs()?;
    check("doc --workspace --no-deps", Some(("RUSTDOCFLAGS", "-Dwarnings")))?;
    println!("lint: clean");
    Ok(())
}

fn check(arguments: &str, variable: Option<(&str, &str)>) -> Result<()> {
    println!("lint: cargo {arguments}");
    command::run(command::cargo().args(arguments.split(' ')).envs(variable))
}

/// Clippy does not see code that is there for the BPF target only, but the compiler does. Its warnings come through
/// `lb-ctl`'s build script, whose output cargo repeats at every run; `-D warnings` does not apply to them.
fn refuse_warnings_of_the_bpf_programs() -> Result<()> {
    let output = command::output(command::cargo().args(CLIPPY.split(' ')))?;
    let output = String::from_utf8_lossy(&output.stderr);
    if output.lines().any(|line| line.starts_with("warning: lb-ctl@")) {
        bail!("the BPF programs compile with warnings, shown above");
    }
    Ok(())
}
