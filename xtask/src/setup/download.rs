//! Packages from Debian's archive that are unpacked in the cache and never installed.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow, bail};

use super::apt::{self, Offer};
use crate::{
    cache::{self, Cache, Lock},
    command,
};

/// Downloads packages and unpacks them all in one new directory, which the caller checks and moves to where it belongs.
///
/// `select` chooses the packages by apt's lists; it is asked again when these had to be renewed.
pub(super) fn unpacked(
    cache: &Cache,
    lock: &Lock,
    name: &str,
    select: impl Fn() -> Result<Vec<Offer>>,
) -> Result<PathBuf> {
    if !apt::is_there() {
        bail!("Debian's packages: this system has no apt");
    }
    let after_update = || {
        // Some foreign source may be out of order without any harm to these packages.
        let updated = apt::update(lock);
        select().map_err(|error| updated.err().unwrap_or(error))
    };
    let packages = match select() {
        Ok(packages) => packages,
        // A fresh container has no lists, an old machine has old ones.
        Err(_) => after_update()?,
    };
    // Kept until everything is unpacked: apt-get goes on with an interrupted download.
    let downloads = cache.path(format!("{name}.packages"));
    let packages = match download(lock, &downloads, &packages) {
        Ok(()) => packages,
        Err(error) => {
            // Archives delete a version soon after its successor has come.
            let newer = after_update()?;
            if newer == packages {
                return Err(error);
            }
            download(lock, &downloads, &newer)?;
            newer
        }
    };
    let directory = cache.path(format!("{name}.partial"));
    unpack(lock, &downloads, &packages, &directory)?;
    command::remove_directory(&downloads)?;
    Ok(directory)
}

fn download(lock: &Lock, directory: &Path, packages: &[Offer]) -> Result<()> {
    let size = packages.iter().map(|offer| offer.size).sum::<u64>() / 1_000_000;
    let names: Vec<_> = packages.iter().map(|offer| offer.package.as_str()).collect();
    println!(
        "setup: downloading {size} MB of Debian packages: {}",
        names.join(" ")
    );
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let mut download = Command::new("apt-get");
    download
        .current_dir(directory)
        .args(apt::FAIL_FAST)
        // The user for downloads cannot look into somebody's home; signatures are checked all the same.
        .args(["-o", "APT::Sandbox::User=root", "-qq", "download"])
        .args(
            packages
                .iter()
                .map(|offer| format!("{}={}", offer.package, offer.version)),
        );
    lock.capture(&mut download)
        .context("Debian's packages could not be downloaded")?;
    Ok(())
}

fn unpack(lock: &Lock, downloads: &Path, packages: &[Offer], directory: &Path) -> Result<()> {
    println!("setup: unpacking them in {}", directory.display());
    command::remove_directory(directory)?;
    let files = cache::read_directory(downloads)?;
    for package in packages {
        let prefix = file_prefix(package);
        let is_the_package = |file: &&PathBuf| {
            file.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
        };
        let file = files
            .iter()
            .find(is_the_package)
            .with_context(|| format!("apt-get should have downloaded a file {prefix}…"))?;
        lock.capture(Command::new("dpkg").arg("-x").arg(file).arg(directory))?;
    }
    Ok(())
}

/// How the name of the package's file begins; the architecture follows.
fn file_prefix(offer: &Offer) -> String {
    format!("{}_{}_", offer.package, offer.version.replace(':', "%3a"))
}

/// Every directory with shared libraries: on Debian they are in `usr/lib/<architecture>` or, for some, `lib/<architecture>`.
pub(super) fn library_directories(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = BTreeSet::new();
    for parent in ["usr/lib", "lib"]
        .map(|name| directory.join(name))
        .iter()
        .filter(|parent| parent.is_dir())
    {
        for entry in cache::read_directory(parent)? {
            if entry.is_dir()
                && cache::read_directory(&entry)?
                    .iter()
                    .any(|file| is_shared_library(file))
            {
                found.insert(entry);
            }
        }
    }
    Ok(found.into_iter().collect())
}

fn is_shared_library(file: &Path) -> bool {
    file.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.contains(".so"))
}

/// What the loader of programs wants to know of such directories.
pub(super) fn library_path(libraries: &[PathBuf]) -> Result<String> {
    let joined = env::join_paths(libraries).context("a library directory has a colon in its name")?;
    joined
        .into_string()
        .map_err(|path| anyhow!("{} is not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_encode_the_epoch() {
        let offer = Offer {
            package: "libllvm22".into(),
            version: "1:22.1.8-1".into(),
            size: 1,
            depends: Vec::new(),
        };
        assert_eq!(file_prefix(&offer), "libllvm22_1%3a22.1.8-1_");
    }
}
