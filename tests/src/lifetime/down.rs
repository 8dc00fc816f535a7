//! Taking down labs that nobody looks after any more: kept ones on request, orphaned ones always.

use std::path::Path;

use anyhow::{Result, bail};
use rustix::process::geteuid;

use crate::lifetime::manifest::Manifest;
use crate::lifetime::registry::{ROOT, Registry, RunLock, run_id};
use crate::lifetime::teardown::{Removed, tear_down};

/// Which labs to take down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The kept lab, if there is exactly one.
    Only,
    /// The lab with this name.
    Run(String),
    /// All kept labs.
    All,
}

/// Takes down the selected labs, and returns for each its name and what was removed, or why something was not.
///
/// A lab that is still in use is never touched. Orphans, whose owner and reaper have both been killed, are taken down
/// with `Only` and `All` too.
pub fn down(selection: &Selection) -> Result<Vec<(String, Result<Removed>)>> {
    if !geteuid().is_root() {
        bail!("a lab belongs to root: run this as root");
    }
    let registry = Registry::lock()?;
    let mut chosen = Vec::new();
    match selection {
        Selection::Run(id) => {
            let known = registry.runs()?;
            let Some(directory) = known.into_iter().find(|directory| run_id(directory) == *id) else {
                bail!("there is no lab {id} in {ROOT}");
            };
            chosen.push(lock_unused(&directory)?);
        }
        Selection::Only | Selection::All => {
            let (kept, orphaned) = unused(&registry)?;
            if *selection == Selection::Only && kept.len() > 1 {
                let ids: Vec<_> = kept.iter().map(|lock| run_id(lock.directory())).collect();
                bail!(
                    "there are {} kept labs: name one of them, or take all down with `lab down --all`: {}",
                    kept.len(),
                    ids.join(", ")
                );
            }
            chosen.extend(kept.into_iter().chain(orphaned));
        }
    }
    Ok(chosen
        .iter()
        .map(|lock| (run_id(lock.directory()), tear_down(lock)))
        .collect())
}

/// Takes down the labs whose owner and reaper have both been killed. Whatever resists is reported and left for later:
/// it is in nobody's way, because names are not used again.
pub(crate) fn sweep(registry: &Registry) {
    let orphaned = match unused(registry) {
        Ok((_, orphaned)) => orphaned,
        Err(error) => return eprintln!("cannot look for labs that were left behind: {error:#}"),
    };
    for lock in orphaned {
        if let Err(error) = tear_down(&lock) {
            eprintln!(
                "cannot take down the orphaned lab {}: {error:#}",
                run_id(lock.directory())
            );
        }
    }
}

/// The labs that have no living owner or reaper: kept ones, and orphaned ones.
fn unused(registry: &Registry) -> Result<(Vec<RunLock>, Vec<RunLock>)> {
    let mut kept = Vec::new();
    let mut orphaned = Vec::new();
    for directory in registry.runs()? {
        if let Some(lock) = RunLock::try_lock(&directory)? {
            let is_kept = Manifest::read(&directory)?.kept;
            if is_kept { &mut kept } else { &mut orphaned }.push(lock);
        }
    }
    Ok((kept, orphaned))
}

fn lock_unused(directory: &Path) -> Result<RunLock> {
    if let Some(lock) = RunLock::try_lock(directory)? {
        return Ok(lock);
    }
    let owner = Manifest::read(directory)?
        .owner
        .unwrap_or_else(|| "an unknown process".to_owned());
    bail!(
        "lab {} is in use by {owner}: end that, and the lab goes with it",
        run_id(directory)
    )
}
