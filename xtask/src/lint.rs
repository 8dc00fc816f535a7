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

/// Packages whose build scripts compile BPF programs.
const PACKAGES_WITH_BPF_PROGRAMS: [&str; 2] = ["lb-ctl", "lab"];

/// Clippy does not see code that is there for the BPF target only, but the compiler does. Its warnings come through
/// build scripts, whose output cargo repeats at every run; `-D warnings` does not apply to them.
fn refuse_warnings_of_the_bpf_programs() -> Result<()> {
    let output = command::output(command::cargo().args(CLIPPY.split(' ')))?;
    let output = String::from_utf8_lossy(&output.stderr);
    let is_of_a_build_script = |line: &str| {
        line.strip_prefix("warning: ")
            .and_then(|rest| rest.split_once('@'))
            .is_some_and(|(package, _)| PACKAGES_WITH_BPF_PROGRAMS.contains(&package))
    };
    if output.lines().any(is_of_a_build_script) {
        bail!("the BPF programs compile with warnings, shown above");
    }
    Ok(())
}
