//! `promtool`, which knows what Prometheus thinks of metrics: a file in the cache. Debian's package would install and start a whole
//! Prometheus, so it is only unpacked.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail};

use super::{apt, download};
use crate::{
    cache::{self, Cache, Lock},
    command,
};

/// The package that has it.
const PACKAGE: &str = "prometheus";

/// The directory in the cache.
const DIRECTORY: &str = "promtool";

/// Where it is, once downloaded.
fn in_cache(cache: &Cache) -> PathBuf {
    cache.path(DIRECTORY).join("promtool")
}

/// The one that there is: the user's own, or that of the cache.
pub(super) fn find(cache: &Cache) -> Option<PathBuf> {
    command::find_program("promtool")
        .or_else(|| Some(in_cache(cache)).filter(|file| command::is_executable(file)))
}

/// Downloads it.
pub(super) fn install(cache: &Cache, lock: &Lock) -> Result<()> {
    let program = in_cache(cache);
    let unpacked = download::unpacked(cache, lock, DIRECTORY, || {
        let offers = apt::offers([PACKAGE])?;
        if offers.is_empty() {
            bail!("apt offers no {PACKAGE}");
        }
        Ok(offers)
    })
    .with_context(|| {
        format!(
            "promtool could not be downloaded; the one of any release of Prometheus, put into PATH or at {}, would do",
            program.display()
        )
    })?;
    let directory = cache.path(DIRECTORY);
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    cache::rename(&unpacked.join("usr/bin/promtool"), &program)?;
    command::remove_directory(&unpacked)
}
