//! The Rust toolchain that compiles for BPF, and the description of it that `bpf-build` reads.
//!
//! The stable toolchain that builds everything else cannot do it: it has no core library for the BPF targets, and is not
//! allowed to compile one. Two kinds can: a rustup nightly with the component `rust-src`, and Debian's packages.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow, bail};

use super::{debian, download, linker, rustup};
use crate::{
    cache::{Cache, Lock},
    command,
};

/// The description's file name in the cache.
const DESCRIPTION: &str = "bpf-toolchain";

/// The versions of LLVM with which this works: older ones do not know the misaligned access that `bpf-build` asks
/// for, and for newer ones the linker cannot be built without LLVM's headers.
pub(super) const LLVM: std::ops::RangeInclusive<u32> = 22..=22;

/// The oldest Rust that compiles the workspace, as `rust-version` in the root Cargo.toml says.
pub(super) const OLDEST_RUST: &str = env!("CARGO_PKG_RUST_VERSION");

/// A toolchain that has shown that it works.
pub(super) struct Toolchain {
    /// Where it comes from, for the user.
    pub(super) origin: String,
    pub(super) rustc: PathBuf,
    /// The cargo that belongs to it, if it has one; the caller's cargo otherwise.
    pub(super) cargo: Option<PathBuf>,
    /// Where rustc, and the linker after it, find LLVM.
    pub(super) libraries: Vec<PathBuf>,
    /// Whether the core library has to be compiled from source.
    pub(super) build_core: bool,
    pub(super) version: Version,
}

/// What `rustc -vV` tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Version {
    /// For example `1.96.0`, or `1.97.0-nightly`.
    pub(super) release: String,
    /// The major version of LLVM.
    pub(super) llvm: u32,
}

impl Toolchain {
    /// Accepts a toolchain if its compiler runs and has the right versions.
    pub(super) fn check(
        origin: String,
        rustc: PathBuf,
        cargo: Option<PathBuf>,
        libraries: Vec<PathBuf>,
        build_core: bool,
    ) -> Result<Self> {
        let mut command = Command::new(&rustc);
        command
            .arg("-vV")
            .env("LD_LIBRARY_PATH", download::library_path(&libraries)?);
        let version = Version::parse(&command::capture(&mut command)?)?;
        version.check()?;
        Ok(Self {
            origin,
            rustc,
            cargo,
            libraries,
            build_core,
            version,
        })
    }

    /// The lines that `bpf-build` reads.
    fn description(&self, linker: &Path) -> Result<String> {
        let mut lines = vec![
            "# How lb-ctl's build script compiles the BPF programs. Written by `cargo xtask setup`."
                .to_owned(),
        ];
        if let Some(cargo) = &self.cargo {
            lines.push(format!("cargo={}", printable(cargo)?));
        }
        lines.push(format!("env.RUSTC={}", printable(&self.rustc)?));
        lines.push(format!(
            "env.LD_LIBRARY_PATH={}",
            download::library_path(&self.libraries)?
        ));
        // Lets a stable compiler and cargo use what only nightly ones offer; a nightly ignores it.
        lines.push("env.RUSTC_BOOTSTRAP=1".into());
        let directory = linker.parent().context("the linker's file is in a directory")?;
        lines.push(format!("path={}", printable(directory)?));
        if self.build_core {
            lines.push("arg=-Zbuild-std=core".into());
        }
        Ok(lines.join("\n") + "\n")
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "BPF toolchain: {}, rustc {}, LLVM {}",
            self.origin, self.version.release, self.version.llvm
        )
    }
}

impl Version {
    fn parse(text: &str) -> Result<Self> {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .with_context(|| format!("`rustc -vV` should have a line `{name}: …`, but said:\n{text}"))
        };
        let release = field("release")?.to_owned();
        let llvm = field("LLVM version")?;
        let llvm = llvm
            .split('.')
            .next()
            .and_then(|major| major.parse().ok())
            .with_context(|| format!("`rustc -vV` names an LLVM version that is no version: {llvm}"))?;
        Ok(Self { release, llvm })
    }

    fn check(&self) -> Result<()> {
        if !is_new_enough(&self.release) {
            bail!(
                "its rustc is {}, but {OLDEST_RUST} or newer is needed",
                self.release
            );
        }
        if !LLVM.contains(&self.llvm) {
            bail!(
                "it has LLVM {}, but bpf-linker {} works with {} to {}",
                self.llvm,
                linker::VERSION,
                LLVM.start(),
                LLVM.end()
            );
        }
        Ok(())
    }
}

/// Whether a Rust version is at least the workspace's.
pub(super) fn is_new_enough(version: &str) -> bool {
    let major_minor = |version: &str| {
        let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
        Some((numbers.next()?, numbers.next()?))
    };
    major_minor(version) >= major_minor(OLDEST_RUST)
}

/// The first toolchain that works, or why there is none.
pub(super) fn find(cache: &Cache) -> Result<Toolchain, Vec<String>> {
    let mut reasons = Vec::new();
    for found in rustup::find().into_iter().chain(debian::find(cache)) {
        match found {
            Ok(toolchain) => return Ok(toolchain),
            Err(error) => reasons.push(format!("{error:#}")),
        }
    }
    Err(reasons)
}

/// Installs Debian's packages or, where that fails, a nightly beside the user's own; `reasons` tell why what is there
/// does not do.
pub(super) fn install(cache: &Cache, lock: &Lock, mut reasons: Vec<String>) -> Result<Toolchain> {
    for reason in &reasons {
        println!("setup: not usable: {reason}");
    }
    let ways: [&dyn Fn() -> Result<()>; 2] = [&|| debian::install(cache, lock), &|| rustup::install(lock)];
    for install in ways {
        match install()
            .map_err(|error| vec![format!("{error:#}")])
            .and_then(|()| find(cache))
        {
            Ok(toolchain) => return Ok(toolchain),
            Err(more) => reasons.extend(more),
        }
    }
    Err(anyhow!(
        "there is no Rust toolchain that compiles for BPF, and none could be installed:{}\n\
         Either of these is enough:\n  \
         - {}\n  \
         - an apt source with {} {OLDEST_RUST} or newer and {} (Debian 12 has them in its security archive)",
        command::list(&reasons),
        rustup::INSTRUCTION,
        debian::COMPILER,
        debian::BPF_CORE,
    ))
}

/// Whether the description says what it should.
pub(super) fn is_described(cache: &Cache, toolchain: &Toolchain, linker: &Path) -> bool {
    let written = std::fs::read_to_string(cache.path(DESCRIPTION)).ok();
    written.is_some() && written == toolchain.description(linker).ok()
}

/// Writes the description.
pub(super) fn describe(cache: &Cache, toolchain: &Toolchain, linker: &Path) -> Result<()> {
    cache.write(DESCRIPTION, &toolchain.description(linker)?)
}

fn printable(path: &Path) -> Result<&str> {
    match path.to_str() {
        Some(text) if !text.contains('\n') => Ok(text),
        _ => bail!("{} cannot be written to a text file of lines", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIANS: &str = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\n\
        binary: rustc\nhost: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";

    fn version(release: &str, llvm: u32) -> Version {
        Version {
            release: release.into(),
            llvm,
        }
    }

    #[test]
    fn rustc_tells_its_versions() {
        assert_eq!(Version::parse(DEBIANS).unwrap(), version("1.96.0", 22));
        let error = Version::parse("rustc 1.96.0\nrelease: 1.96.0\n")
            .unwrap_err()
            .to_string();
        assert!(error.contains("`LLVM version: …`"), "{error}");
        assert!(Version::parse("release: 1.96.0\nLLVM version: next\n").is_err());
    }

    #[test]
    fn old_compilers_and_unknown_llvms_are_refused() {
        assert!(version(OLDEST_RUST, *LLVM.start()).check().is_ok());
        assert!(version("1.97.0-nightly", *LLVM.end()).check().is_ok());
        assert!(version("2.0.0", *LLVM.end()).check().is_ok());
        let error = version("1.85.1", 20).check().unwrap_err().to_string();
        assert!(error.contains("1.85.1") && error.contains(OLDEST_RUST), "{error}");
        assert!(
            version("1.99.0", LLVM.end() + 1)
                .check()
                .unwrap_err()
                .to_string()
                .contains("LLVM 23")
        );
    }

    #[test]
    fn the_description_has_one_setting_per_line() {
        let toolchain = Toolchain {
            origin: "test".into(),
            rustc: "/rust/bin/rustc".into(),
            cargo: Some("/rust/bin/cargo".into()),
            libraries: vec!["/rust/lib".into(), "/more/lib".into()],
            build_core: true,
            version: version("1.96.0", 22),
        };
        let text = toolchain
            .description(Path::new("/cache/linker/bpf-linker"))
            .unwrap();
        let lines: Vec<_> = text.lines().skip(1).collect();
        let expected = [
            "cargo=/rust/bin/cargo",
            "env.RUSTC=/rust/bin/rustc",
            "env.LD_LIBRARY_PATH=/rust/lib:/more/lib",
            "env.RUSTC_BOOTSTRAP=1",
            "path=/cache/linker",
            "arg=-Zbuild-std=core",
        ];
        assert_eq!(lines, expected);
        assert!(toolchain.description(Path::new("/a\nb/bpf-linker")).is_err());
    }
}
