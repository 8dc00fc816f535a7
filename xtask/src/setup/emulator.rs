//! The emulator for machines with other kernels: the user's own, or Debian's packages of it, unpacked in the cache.
//!
//! Installed in the ordinary way they conflict with parts of a later version that somebody may have from elsewhere (`qemu-utils` of
//! Debian's backports), and come with much that nobody needs here.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{
    apt::{self, Offer},
    download,
};
use crate::{
    cache::{self, Cache, Lock},
    command,
    kernels::Emulator,
};

/// The program.
const PROGRAM: &str = "qemu-system-x86_64";

/// The packages that have it, what it loads while it runs, and what the machine's memory begins with.
const PACKAGES: [&str; 4] = [
    "qemu-system-x86",
    "qemu-system-common",
    "qemu-system-data",
    "seabios",
];

/// The directory in the cache.
const DIRECTORY: &str = "emulator";

/// The one that there is.
pub(super) fn find(cache: &Cache) -> Option<Emulator> {
    if let Some(program) = command::find_program(PROGRAM) {
        return Some(Emulator {
            program,
            ..Emulator::default()
        });
    }
    in_directory(&cache.path(DIRECTORY)).ok()
}

/// What is missing, in words.
pub(super) fn missing(cache: &Cache) -> Option<&'static str> {
    find(cache)
        .is_none()
        .then_some("qemu, which emulates machines with other kernels")
}

/// The one that is unpacked there.
fn in_directory(directory: &Path) -> Result<Emulator> {
    let program = directory.join("usr/bin").join(PROGRAM);
    if !command::is_executable(&program) {
        bail!("expected {} to be a program", program.display());
    }
    let libraries = download::library_directories(directory)?;
    let modules = libraries
        .iter()
        .map(|libraries| libraries.join("qemu"))
        .find(|modules| modules.is_dir())
        .with_context(|| format!("expected the emulator's modules in {}", directory.display()))?;
    let firmware = ["usr/share/qemu", "usr/share/seabios"].map(|name| directory.join(name));
    Ok(Emulator {
        program,
        arguments: firmware
            .into_iter()
            .flat_map(|directory| [OsString::from("-L"), directory.into()])
            .collect(),
        variables: vec![
            ("LD_LIBRARY_PATH", download::library_path(&libraries)?.into()),
            ("QEMU_MODULE_DIR", modules.into()),
        ],
    })
}

/// Downloads it.
pub(super) fn install(cache: &Cache, lock: &Lock) -> Result<()> {
    let unpacked = download::unpacked(cache, lock, DIRECTORY, select)
        .and_then(|unpacked| {
            // Some library may be missing that apt's lists do not have.
            let emulator = in_directory(&unpacked)?;
            lock.capture(emulator.command(Command::new(&emulator.program)).arg("--version"))?;
            Ok(unpacked)
        })
        .with_context(|| {
            format!(
                "the emulator could not be downloaded; a {PROGRAM} of version 7 or later in PATH would do"
            )
        })?;
    let directory: PathBuf = cache.path(DIRECTORY);
    command::remove_directory(&directory)?;
    cache::rename(&unpacked, &directory)
}

/// The packages, and the libraries that are not installed.
fn select() -> Result<Vec<Offer>> {
    let installed = apt::installed()?;
    let is_needed = |name: &str| name.starts_with("lib") && !installed.contains(name);
    let packages = apt::with_dependencies(&PACKAGES, is_needed, |names| {
        apt::offers(names.iter().map(String::as_str))
    })?;
    let offered = |name: &&str| packages.iter().any(|offer| offer.package == **name);
    match PACKAGES.iter().find(|name| !offered(name)) {
        Some(missing) => bail!("apt offers no {missing}"),
        None => Ok(packages),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_unpacked_is_used_if_it_is_complete() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let missing = in_directory(root).unwrap_err().to_string();
        assert!(missing.contains(PROGRAM), "{missing}");
        let libraries = root.join("usr/lib/x86_64-linux-gnu");
        fs::create_dir_all(libraries.join("qemu")).unwrap();
        fs::write(libraries.join("libfdt.so.1"), "").unwrap();
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        fs::copy("/bin/sh", root.join("usr/bin").join(PROGRAM)).unwrap();
        let emulator = in_directory(root).unwrap();
        assert_eq!(
            emulator.variables,
            [
                ("LD_LIBRARY_PATH", libraries.clone().into_os_string()),
                ("QEMU_MODULE_DIR", libraries.join("qemu").into_os_string()),
            ]
        );
        assert_eq!(
            emulator.arguments[1],
            root.join("usr/share/qemu").into_os_string()
        );
    }
}
