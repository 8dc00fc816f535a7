//! Debian's Rust packages as BPF toolchain, unpacked in the cache.
//!
//! Debian keeps a recent Rust for building its browsers, and with it the core library compiled for BPF. Installed in the
//! ordinary way the packages conflict with those of a user's own Rust, so they are only unpacked.

use std::{collections::HashSet, path::Path};

use anyhow::{Context, Result, bail};

use super::{
    apt::{self, Offer},
    download,
    toolchain::{self, LLVM, OLDEST_RUST, Toolchain},
};
use crate::{
    cache::{self, Cache, Lock},
    command,
};

/// The package that has the compiler.
pub(super) const COMPILER: &str = "rustc-web";

/// The package that has the core library for BPF.
pub(super) const BPF_CORE: &str = "libstd-rust-web-dev-bpf";

/// The directory that the packages are unpacked in. It gets this name when it is complete.
const DIRECTORY: &str = "debian-rust";

/// The unpacked toolchain, checked, if there is one.
pub(super) fn find(cache: &Cache) -> Option<Result<Toolchain>> {
    let directory = cache.path(DIRECTORY);
    directory.is_dir().then(|| check(&directory))
}

fn check(directory: &Path) -> Result<Toolchain> {
    let core = directory.join("usr/lib/rustlib/bpfel-unknown-none/lib");
    if !core.is_dir() {
        bail!(
            "Debian's packages in {} lack the core library for BPF",
            directory.display()
        );
    }
    let rustc = directory.join("usr/bin/rustc");
    Toolchain::check(
        "Debian's packages".into(),
        rustc,
        None,
        download::library_directories(directory)?,
        false,
    )
    .with_context(|| format!("Debian's packages in {}", directory.display()))
}

/// Downloads the packages and unpacks them.
pub(super) fn install(cache: &Cache, lock: &Lock) -> Result<()> {
    let unpacked = download::unpacked(cache, lock, DIRECTORY, select)?;
    check(&unpacked)?;
    command::remove_directory(&cache.path(DIRECTORY))?;
    cache::rename(&unpacked, &cache.path(DIRECTORY))
}

/// The packages that make the toolchain.
fn select() -> Result<Vec<Offer>> {
    let installed = apt::installed()?;
    let is_needed = |name: &str| has_to_be_unpacked(name, &installed);
    let packages = apt::with_dependencies(&[COMPILER, BPF_CORE], is_needed, |names| {
        apt::offers(names.iter().map(String::as_str))
    })?;
    check_selection(&packages)?;
    Ok(packages)
}

/// The toolchain's own parts are unpacked even where they are installed, so that it is in one place. Of the rest only the
/// libraries matter: a C compiler, which rustc needs to link, is seen to elsewhere.
fn has_to_be_unpacked(name: &str, installed: &HashSet<String>) -> bool {
    name.contains("rust") || llvm_of(name).is_some() || (name.starts_with("lib") && !installed.contains(name))
}

fn llvm_of(name: &str) -> Option<u32> {
    name.strip_prefix("libllvm")?.parse().ok()
}

/// Refuses what could not be used before it is downloaded.
fn check_selection(packages: &[Offer]) -> Result<()> {
    let find = |name: &str| packages.iter().find(|offer| offer.package == name);
    let (Some(compiler), Some(core)) = (find(COMPILER), find(BPF_CORE)) else {
        bail!("Debian's packages: apt does not offer {COMPILER} together with {BPF_CORE}");
    };
    if !toolchain::is_new_enough(&compiler.version) {
        bail!(
            "Debian's packages: apt offers {COMPILER} {}, too old by {OLDEST_RUST}",
            compiler.version
        );
    }
    if core.version != compiler.version {
        bail!(
            "Debian's packages: {BPF_CORE} {} does not fit {COMPILER} {}",
            core.version,
            compiler.version
        );
    }
    match packages.iter().find_map(|offer| llvm_of(&offer.package)) {
        Some(llvm) if LLVM.contains(&llvm) => Ok(()),
        Some(llvm) => bail!("Debian's packages: {COMPILER} uses LLVM {llvm}, too new for the linker"),
        None => bail!("Debian's packages: {COMPILER} depends on no libllvm package"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::apt::offer;

    fn archive() -> Vec<Offer> {
        vec![
            offer(
                COMPILER,
                "1.96.0-1",
                &["libc6", "libstd-rust-web-dev", "gcc", "libc-dev"],
            ),
            offer(BPF_CORE, "1.96.0-1", &[]),
            offer("libstd-rust-web-dev", "1.96.0-1", &["libstd-rust-web-1.96"]),
            offer("libstd-rust-web-1.96", "1.96.0-1", &["libc6", "libllvm22"]),
            offer("libllvm22", "1:22.1.8-1", &["libc6", "libz3-4", "libxml2"]),
            offer("libz3-4", "4.8-1", &["libc6"]),
            offer("libxml2", "2.9-1", &["libicu72"]),
            offer("libc6", "2.36-9", &["libgcc-s1"]),
            offer("gcc", "12", &[]),
        ]
    }

    fn selected(installed: &[&str]) -> Vec<String> {
        let installed = installed.iter().map(|&name| name.to_owned()).collect();
        let is_needed = |name: &str| has_to_be_unpacked(name, &installed);
        apt::with_dependencies(&[COMPILER, BPF_CORE], is_needed, |names| {
            Ok(archive()
                .into_iter()
                .filter(|offer| names.contains(&offer.package))
                .collect())
        })
        .unwrap()
        .into_iter()
        .map(|offer| offer.package)
        .collect()
    }

    #[test]
    fn the_toolchain_and_the_libraries_that_are_not_installed_are_unpacked() {
        let expected = [
            COMPILER,
            BPF_CORE,
            "libstd-rust-web-dev",
            "libstd-rust-web-1.96",
            "libllvm22",
            "libz3-4",
        ];
        assert_eq!(selected(&["libc6", "libxml2"]), expected);
    }

    #[test]
    fn an_installed_part_of_the_toolchain_is_unpacked_all_the_same() {
        assert!(selected(&["libc6", "libllvm22"]).contains(&"libllvm22".to_owned()));
    }

    #[test]
    fn a_selection_that_would_not_work_is_refused_with_the_reason() {
        let with = |change: &dyn Fn(&mut Vec<Offer>)| {
            let mut packages = archive();
            change(&mut packages);
            check_selection(&packages).unwrap_err().to_string()
        };
        assert!(check_selection(&archive()).is_ok());
        assert!(with(&|packages| drop(packages.remove(1))).contains("does not offer"));
        assert!(with(&|packages| packages[0].version = "1.85.0+dfsg3".into()).contains("too old"));
        assert!(with(&|packages| packages[1].version = "1.95.0-1".into()).contains("does not fit"));
        assert!(with(&|packages| packages[4].package = "libllvm23".into()).contains("LLVM 23"));
        assert!(check_selection(&[]).is_err());
    }
}
