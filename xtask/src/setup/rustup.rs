//! BPF toolchains of rustup: nightlies that have the core library's source.

use std::{
    cmp::Reverse,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::toolchain::Toolchain;
use crate::{cache::Lock, command};

/// The nightly that is installed where nothing else is to be had. A dated one stands beside the user's own, which may
/// be newer or older than what the workspace compiles with. Its LLVM is one that the linker can be built for.
const NIGHTLY: &str = "nightly-2026-05-20";

/// What a user can do by hand.
pub(super) const INSTRUCTION: &str =
    "rustup toolchain install nightly-2026-05-20 --profile minimal --component rust-src";

/// All nightlies with `rust-src`, checked; no rustup is run for that, which keeps it quick.
pub(super) fn find() -> Vec<Result<Toolchain>> {
    let Some(home) = home() else { return Vec::new() };
    let Ok(entries) = fs::read_dir(home.join("toolchains")) else {
        return Vec::new();
    };
    let names = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    in_order_of_preference(names)
        .into_iter()
        .map(|name| (home.join("toolchains").join(&name), name))
        .filter(|(directory, _)| has_source(directory))
        .map(|(directory, name)| check(&directory, &name))
        .collect()
}

fn home() -> Option<PathBuf> {
    env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(env::home_dir()?.join(".rustup")))
}

/// The undated nightly first, which is the one that a user works with; then the newest.
fn in_order_of_preference(names: Vec<String>) -> Vec<String> {
    let mut nightlies: Vec<_> = names
        .into_iter()
        .filter(|name| name.starts_with("nightly"))
        .collect();
    let is_dated = |name: &str| {
        name.strip_prefix("nightly-")
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    nightlies.sort_by_key(|name| (is_dated(name), Reverse(name.clone())));
    nightlies
}

fn has_source(toolchain: &Path) -> bool {
    toolchain
        .join("lib/rustlib/src/rust/library/core/Cargo.toml")
        .is_file()
}

fn check(directory: &Path, name: &str) -> Result<Toolchain> {
    let program = |name: &str| directory.join("bin").join(name);
    Toolchain::check(
        format!("rustup's {name}"),
        program("rustc"),
        // A toolchain that somebody has linked may lack a cargo.
        Some(program("cargo")).filter(|cargo| command::is_executable(cargo)),
        vec![directory.join("lib")],
        true,
    )
    .with_context(|| format!("rustup's toolchain {name}"))
}

/// Installs the dated nightly.
pub(super) fn install(lock: &Lock) -> Result<()> {
    if command::find_program("rustup").is_none() {
        bail!("{NIGHTLY}: there is no rustup to install it with (https://rustup.rs)");
    }
    println!("setup: installing the toolchain {NIGHTLY} beside your own: {INSTRUCTION}");
    let mut words = INSTRUCTION.split(' ');
    let mut install = Command::new(words.next().unwrap_or("rustup"));
    install.args(words).arg("--no-self-update");
    install
        .env("RUSTUP_MAX_RETRIES", "1")
        .env("RUSTUP_TERM_COLOR", "never")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUST_BACKTRACE");
    lock.capture(&mut install)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_own_nightly_comes_first_and_then_the_newest() {
        let names = [
            "stable-x86_64-unknown-linux-gnu",
            "nightly-2026-01-02-x86_64-unknown-linux-gnu",
            "nightly-2026-05-20-x86_64-unknown-linux-gnu",
            "nightly-x86_64-unknown-linux-gnu",
            "1.95.0-x86_64-unknown-linux-gnu",
        ];
        let expected = [
            "nightly-x86_64-unknown-linux-gnu",
            "nightly-2026-05-20-x86_64-unknown-linux-gnu",
            "nightly-2026-01-02-x86_64-unknown-linux-gnu",
        ];
        assert_eq!(in_order_of_preference(names.map(String::from).into()), expected);
    }

    #[test]
    fn the_instruction_names_the_nightly() {
        assert!(INSTRUCTION.contains(NIGHTLY));
    }
}
