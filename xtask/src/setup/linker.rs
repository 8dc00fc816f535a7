//! `bpf-linker`, which turns what rustc leaves into one BPF object.
//!
//! Always our own one: it loads LLVM out of the toolchain that it is used with and works with that LLVM's major
//! version only, which a `bpf-linker` that the user has installed does not tell.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::{
    cache::{self, Cache, Lock},
    command,
};

/// The last version that loads LLVM out of a Rust toolchain; later ones need LLVM's development files.
pub(super) const VERSION: &str = "0.10.3";

fn file(cache: &Cache, llvm: u32) -> PathBuf {
    cache.path(format!("bpf-linker/{VERSION}-llvm{llvm}/bpf-linker"))
}

/// The linker for toolchains with this LLVM, if it is there.
pub(super) fn find(cache: &Cache, llvm: u32) -> Option<PathBuf> {
    Some(file(cache, llvm)).filter(|file| command::is_executable(file))
}

/// Builds the linker for toolchains with this LLVM.
pub(super) fn install(cache: &Cache, lock: &Lock, llvm: u32) -> Result<PathBuf> {
    println!("setup: building bpf-linker {VERSION} for LLVM {llvm} (about a minute)");
    let partial = cache.path("bpf-linker.partial");
    let mut install = cargo_install();
    install
        .args([
            "install",
            "bpf-linker",
            "--version",
            VERSION,
            "--locked",
            "--quiet",
            "--no-default-features",
        ])
        .args(["--features", &format!("rust-llvm-{llvm},llvm-{llvm}")])
        // Kept until the build is through, so that an interrupted one does not begin anew.
        .arg("--target-dir")
        .arg(partial.join("target"))
        .arg("--root")
        .arg(partial.join("root"))
        .arg("--force");
    lock.capture(&mut install)
        .context("bpf-linker could not be built")?;

    let file = file(cache, llvm);
    let directory = file.parent().context("the linker's file is in a directory")?;
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    cache::rename(&partial.join("root/bin/bpf-linker"), &file)?;
    command::remove_directory(&partial)?;
    Ok(file)
}

/// Cargo outside the workspace, whose configuration is not meant for a foreign crate.
fn cargo_install() -> Command {
    let mut command = command::cargo();
    command.current_dir("/").stderr(Stdio::piped());
    // A network that is not there is to be noticed at once.
    command
        .env("CARGO_NET_RETRY", "1")
        .env("CARGO_HTTP_TIMEOUT", "20");
    for variable in [
        "CARGO_BUILD_TARGET",
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_TARGET_DIR",
    ] {
        command.env_remove(variable);
    }
    command
}
