//! `cargo xtask setup`: finds what is missing, and installs that.
//!
//! A survey looks at what is there (files, and two or three programs that answer at once); only what it finds missing
//! is installed. So a second run changes nothing, an interrupted run is taken up by the next one, and something
//! that disappeared later is noticed.

mod apt;
mod bpffs;
mod debian;
mod download;
mod emulator;
mod kernels;
mod linker;
mod packages;
mod promtool;
mod python;
mod rustup;
mod toolchain;

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use toolchain::{LLVM, Toolchain};

use crate::{
    cache::{Cache, Lock},
    command,
    kernels::{Emulator, Kernel},
};

/// How much has to be set up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope<'a> {
    /// What compiling needs. No step of it needs root, except where there is no C compiler.
    Build,
    /// Also what demo and tests need.
    Lab,
    /// Also what tests on other kernels need.
    Kernels(&'a [Kernel]),
}

impl<'a> Scope<'a> {
    const fn kernels(self) -> &'a [Kernel] {
        match self {
            Self::Build | Self::Lab => &[],
            Self::Kernels(kernels) => kernels,
        }
    }
}

/// What a complete set-up offers to the other tasks.
pub(crate) struct Ready {
    /// The interpreter of the Python environment that has the Impala client. There in scope `Lab` only.
    pub(crate) python: PathBuf,
    /// The program that judges metrics, in scope `Lab` only.
    pub(crate) promtool: PathBuf,
    /// The kernels of scope `Kernels`, each with its image.
    pub(crate) kernels: Vec<(Kernel, PathBuf)>,
    /// The shell for machines with those kernels.
    pub(crate) busybox: PathBuf,
    /// What emulates those machines, in scope `Kernels` only.
    pub(crate) emulator: Emulator,
}

impl Ready {
    fn find(cache: &Cache, scope: Scope<'_>) -> Self {
        let image = |&kernel: &Kernel| Some((kernel, kernels::image(cache, kernel)?));
        Self {
            python: python::interpreter_of_environment(cache),
            promtool: promtool::find(cache).unwrap_or_default(),
            kernels: scope.kernels().iter().filter_map(image).collect(),
            busybox: kernels::busybox(cache),
            emulator: emulator::find(cache).unwrap_or_default(),
        }
    }
}

/// Makes sure that everything in `scope` is there.
pub(crate) fn run(scope: Scope<'_>) -> Result<Ready> {
    let cache = Cache::locate()?;
    if let Some(done) = complete(&cache, scope)? {
        println!("setup: complete ({done})");
        return Ok(Ready::find(&cache, scope));
    }

    let lock = cache.lock()?;
    // Another set-up may have done the work while we waited for the lock.
    let survey = Survey::take(&cache, scope)?;
    provide(&cache, &lock, scope, survey).map_err(|error| with_what_is_missing(&cache, scope, &error))?;
    let Some(done) = complete(&cache, scope)? else {
        let error = anyhow!("set-up did everything it could");
        return Err(with_what_is_missing(&cache, scope, &error));
    };
    println!("setup: complete ({done})");
    Ok(Ready::find(&cache, scope))
}

/// What is there and what is not.
struct Survey {
    /// Those that are missing.
    packages: Vec<&'static packages::Package>,
    /// Or why those that are there cannot be used.
    toolchain: Result<Toolchain, Vec<String>>,
    linker: Option<PathBuf>,
    /// What is missing of the Python environment.
    python: Option<String>,
    /// Whether there is promtool, or no need of it.
    promtool: bool,
    /// Whether it is mounted.
    bpffs: bool,
    /// Those without an image.
    kernels: Vec<Kernel>,
    /// Whether there is the shell for machines with other kernels, or no need of it.
    busybox: bool,
    /// What is missing of what emulates these.
    emulator: Option<&'static str>,
}

impl Survey {
    fn take(cache: &Cache, scope: Scope<'_>) -> Result<Self> {
        let lab = scope >= Scope::Lab;
        let toolchain = toolchain::find(cache);
        let linker = match &toolchain {
            Ok(toolchain) => linker::find(cache, toolchain.version.llvm),
            // Which one will be needed is not known yet.
            Err(_) => LLVM.into_iter().find_map(|llvm| linker::find(cache, llvm)),
        };
        let python = if lab { python::missing(cache)? } else { None };
        Ok(Self {
            packages: packages::missing(scope, python.is_some()),
            toolchain,
            linker,
            python,
            promtool: !lab || promtool::find(cache).is_some(),
            bpffs: !lab || bpffs::is_mounted()?,
            kernels: kernels::missing(cache, scope.kernels()),
            busybox: scope.kernels().is_empty() || kernels::busybox(cache).is_file(),
            emulator: if scope.kernels().is_empty() {
                None
            } else {
                emulator::missing(cache)
            },
        })
    }

    /// What is missing, in words for the user.
    fn missing(&self) -> Vec<String> {
        let mut missing: Vec<String> = self.packages.iter().map(ToString::to_string).collect();
        if self.toolchain.is_err() {
            missing.push("a Rust toolchain that compiles for BPF".into());
        }
        if self.linker.is_none() {
            missing.push(format!(
                "bpf-linker {} (built by `cargo install`)",
                linker::VERSION
            ));
        }
        missing.extend(self.python.clone());
        if !self.promtool {
            missing.push("promtool, which judges metrics".into());
        }
        if !self.bpffs {
            missing.push(format!("the BPF file system, mounted on {}", bpffs::MOUNT_POINT));
        }
        missing.extend(
            self.kernels
                .iter()
                .map(|kernel| format!("Linux {}", kernel.series())),
        );
        if !self.busybox {
            missing.push("a shell for machines with other kernels".into());
        }
        missing.extend(self.emulator.map(str::to_owned));
        missing
    }
}

/// One line about what is there, if nothing is missing.
fn complete(cache: &Cache, scope: Scope<'_>) -> Result<Option<String>> {
    let survey = Survey::take(cache, scope)?;
    let nothing_missing = survey.missing().is_empty();
    let (Ok(toolchain), Some(linker), true) = (survey.toolchain, survey.linker, nothing_missing) else {
        return Ok(None);
    };
    if !toolchain::is_described(cache, &toolchain, &linker) {
        return Ok(None);
    }
    Ok(Some(toolchain.to_string()))
}

/// Installs what the survey found missing, cheap and local things last: what needs the network should fail first.
fn provide(cache: &Cache, lock: &Lock, scope: Scope<'_>, survey: Survey) -> Result<()> {
    for missing in survey.missing() {
        println!("setup: missing: {missing}");
    }
    if !survey.packages.is_empty() {
        packages::install(lock, &survey.packages)?;
    }
    let toolchain = match survey.toolchain {
        Ok(toolchain) => toolchain,
        Err(reasons) => toolchain::install(cache, lock, reasons)?,
    };
    let linker = match linker::find(cache, toolchain.version.llvm) {
        Some(linker) => linker,
        None => linker::install(cache, lock, toolchain.version.llvm)?,
    };
    toolchain::describe(cache, &toolchain, &linker)?;
    if !(survey.kernels.is_empty() && survey.busybox) {
        kernels::install(cache, lock, &survey.kernels)?;
    }
    if survey.emulator.is_some() {
        emulator::install(cache, lock)?;
    }
    if scope >= Scope::Lab {
        if survey.python.is_some() {
            python::install(cache, lock)?;
        }
        if !survey.promtool {
            promtool::install(cache, lock)?;
        }
        if !survey.bpffs {
            bpffs::mount()?;
        }
    }
    Ok(())
}

/// The error, followed by everything that is still missing: a user without network learns in one go what to fetch.
fn with_what_is_missing(cache: &Cache, scope: Scope<'_>, error: &anyhow::Error) -> anyhow::Error {
    let missing = match Survey::take(cache, scope) {
        Ok(survey) => survey.missing(),
        Err(_) => Vec::new(),
    };
    let missing = match missing.as_slice() {
        [] => String::new(),
        missing => format!("\nStill missing:{}", command::list(missing)),
    };
    anyhow!(
        "{error:#}{missing}\nRun `cargo xtask setup` again when that is mended; it goes on where it stopped."
    )
}
