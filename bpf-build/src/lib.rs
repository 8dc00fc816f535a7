//! Compiles the BPF programs, so that a plain `cargo build` has them and they are never stale.
//!
//! For build scripts: each package names the programs that it contains, and finds them in its `OUT_DIR`.
//!
//! The toolchain that builds those packages cannot compile for BPF. `cargo xtask setup` finds or installs one that can,
//! and describes it in a file of lines `key=value` (see `xtask/src/setup/toolchain.rs`), from which this crate runs it.
#![allow(clippy::print_stdout, reason = "a build script talks to cargo on stdout")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

const BUILD: &str =
    "build --quiet --locked --package lb-ebpf --profile bpf --target bpfel-unknown-none --target-dir";

/// How the programs are compiled. `--btf`: without type information the kernel cannot say in its verifier log what it is
/// about. `v3`: 32-bit arithmetic and jumps, which every kernel since 5.1 knows. Misaligned access: IP headers
/// start 2 bytes off a word boundary, and without it each field would be put together from bytes; where a kernel
/// cannot do it (CPUs that cannot), its verifier says so.
const COMPILER_FLAGS: &str = r#"target.bpfel-unknown-none.rustflags=["-Clink-arg=--btf","-Ctarget-cpu=v3","-Ctarget-feature=+allows-misaligned-mem-access"]"#;

/// The compiler warns that it may rename this feature some day; the build would fail then, which is notice enough.
const EXPECTED_WARNING: &str = "allows-misaligned-mem-access";

const RUN_SETUP: &str =
    "the BPF programs need a toolchain that is not set up yet: run `cargo xtask setup` once (see README.md)";

/// The whole of a build script: compiles these programs of `lb-ebpf` into `OUT_DIR`, each to an object of its name.
pub fn compile(programs: &[&str]) -> ExitCode {
    run(programs).unwrap_or_else(|message| {
        // Cargo fails the build with this one line. With an exit code it would show all that this script printed.
        println!("cargo::error={message}");
        ExitCode::SUCCESS
    })
}

fn run(programs: &[&str]) -> Result<ExitCode, String> {
    let package = variable("CARGO_MANIFEST_DIR")?;
    let workspace = package
        .parent()
        .ok_or("the package is not inside of a workspace")?;
    for source in ["lb-ebpf", "lb-common", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    for name in ["LB_BPF_TOOLCHAIN", "XDG_CACHE_HOME", "HOME"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let description = description_file().ok_or(RUN_SETUP)?;
    println!("cargo::rerun-if-changed={}", description.display());
    let description = fs::read_to_string(description).map_err(|_| RUN_SETUP)?;

    let out = variable("OUT_DIR")?;
    // From <target>/<profile>/build/<package>/out; all profiles share the one directory.
    let target = out
        .ancestors()
        .nth(4)
        .ok_or("OUT_DIR is not inside of a target directory")?
        .join("bpf");
    let mut cargo = inner_cargo(&description)?;
    cargo
        .current_dir(workspace)
        .args(BUILD.split(' '))
        .arg(&target)
        .args(["--config", COMPILER_FLAGS])
        .args(programs.iter().flat_map(|program| ["--bin", program]));
    let output = cargo
        .output()
        .map_err(|error| format!("cannot start {cargo:?}: {error}"))?;
    let diagnostics = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        eprintln!("{diagnostics}");
        return Ok(ExitCode::FAILURE);
    }
    let unexpected = |paragraph: &&str| !paragraph.contains(EXPECTED_WARNING) && !paragraph.trim().is_empty();
    for line in diagnostics.split("\n\n").filter(unexpected).flat_map(str::lines) {
        println!("cargo::warning={line}");
    }
    for program in programs {
        let object = target.join("bpfel-unknown-none/bpf").join(program);
        fs::copy(&object, out.join(program))
            .map_err(|error| format!("cannot copy {}: {error}", object.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn variable(name: &str) -> Result<PathBuf, String> {
    env::var_os(name)
        .map(PathBuf::from)
        .ok_or_else(|| format!("cargo should have set {name}"))
}

/// Where `cargo xtask setup` writes its description.
fn description_file() -> Option<PathBuf> {
    if let Some(file) = env::var_os("LB_BPF_TOOLCHAIN") {
        return Some(file.into());
    }
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let cache = cache.or_else(|| Some(env::home_dir()?.join(".cache")))?;
    Some(cache.join("lb-ctl/bpf-toolchain"))
}

/// A cargo in a clean environment, with what the description adds to it.
fn inner_cargo(description: &str) -> Result<Command, String> {
    let settings: Vec<_> = description
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    let values = |wanted| {
        settings
            .iter()
            .filter(move |(key, _)| *key == wanted)
            .map(|(_, value)| value)
    };

    let mut files = ["cargo", "env.RUSTC", "path"].into_iter().flat_map(values);
    if files.any(|file| !Path::new(file).exists()) {
        return Err(RUN_SETUP.into());
    }
    let mut cargo = match values("cargo").next() {
        Some(cargo) => Command::new(cargo),
        None => Command::new(variable("CARGO")?),
    };
    for (name, _) in env::vars_os().filter(|(name, _)| is_of_the_outer_build(&name.to_string_lossy())) {
        cargo.env_remove(name);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(values("path").map(PathBuf::from).chain(env::split_paths(&path)))
        .map_err(|error| format!("the description's `path` cannot be in PATH: {error}"))?;
    let variables = settings
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix("env.")?, value)));
    cargo.env("PATH", path).envs(variables).args(values("arg"));
    Ok(cargo)
}

/// Whether a variable tells the outer cargo, or is told by it, how to build: compiler, wrapper (clippy is one), flags,
/// target. The user's settings for network and registries are kept, and so is the job server.
fn is_of_the_outer_build(name: &str) -> bool {
    let kept = ["HOME", "MAKEFLAGS", "NET", "HTTP", "REGISTR", "TERM"];
    let is_kept = |rest: &str| kept.iter().any(|kept| rest.starts_with(kept));
    let is_cargos = name == "CARGO" || name.strip_prefix("CARGO_").is_some_and(|rest| !is_kept(rest));
    is_cargos || (name.starts_with("RUST") && name != "RUSTUP_HOME") || name == "LD_LIBRARY_PATH"
}
