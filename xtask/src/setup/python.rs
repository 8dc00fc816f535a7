//! The Python environment with impyla, the Impala client that demo and tests use.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    cache::{Cache, Lock},
    command,
};

/// What the environment has to hold, with exact versions.
const REQUIREMENTS: &str = "tests/impyla-requirements.txt";

fn directory(cache: &Cache) -> PathBuf {
    cache.path("python")
}

/// Written when the environment is complete: the interpreter and the requirements that it was made with.
fn stamp_file(cache: &Cache) -> PathBuf {
    directory(cache).join("lb-ctl-stamp")
}

/// The environment's interpreter.
pub(super) fn interpreter_of_environment(cache: &Cache) -> PathBuf {
    directory(cache).join("bin/python")
}

/// The interpreter that the environment is made with. Debian's own one is preferred: one that a version manager puts
/// first in `PATH` may depend on variables that root does not have.
fn interpreter() -> Option<PathBuf> {
    let debians = Path::new("/usr/bin/python3");
    if command::is_executable(debians) {
        Some(debians.into())
    } else {
        command::find_program("python3")
    }
}

/// What is missing, in words for the user.
pub(super) fn missing(cache: &Cache) -> Result<Option<String>> {
    let stamp = stamp()?;
    let complete = fs::read_to_string(stamp_file(cache)).is_ok_and(|written| written == stamp)
        && command::is_executable(&interpreter_of_environment(cache));
    Ok((!complete).then(|| format!("the Python packages of {REQUIREMENTS} (installed by pip)")))
}

fn stamp() -> Result<String> {
    let file = command::workspace().join(REQUIREMENTS);
    let requirements =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    // Resolved, because an upgrade of the system's Python takes the environment's packages out of its sight.
    let interpreter = interpreter()
        .and_then(|file| fs::canonicalize(file).ok())
        .unwrap_or_default();
    Ok(format!("{}\n{requirements}", interpreter.display()))
}

/// Whether the interpreter has what environments are made of.
pub(super) fn can_make_environments() -> bool {
    let Some(interpreter) = interpreter() else {
        return false;
    };
    let mut import = Command::new(interpreter);
    command::output(import.args(["-c", "import ensurepip, venv"])).is_ok_and(|output| output.status.success())
}

/// Makes the environment anew.
pub(super) fn install(cache: &Cache, lock: &Lock) -> Result<()> {
    let interpreter = interpreter().context("there is no python3")?;
    let directory = directory(cache);
    println!(
        "setup: installing the packages of {REQUIREMENTS} in {}",
        directory.display()
    );
    // Made in its final place, since an environment cannot be moved; until the stamp is there it does not count.
    command::remove_directory(&directory)?;
    lock.capture(Command::new(interpreter).args(["-m", "venv"]).arg(&directory))
        .context("the Python environment could not be made")?;
    let mut pip = Command::new(interpreter_of_environment(cache));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
    ])
    .args(["--retries", "1", "--timeout", "20", "--requirement"])
    .arg(command::workspace().join(REQUIREMENTS));
    // Somebody else's packages are not to count as installed here.
    pip.env_remove("PYTHONPATH").env_remove("PYTHONHOME");
    lock.capture(&mut pip)
        .context("the Python packages could not be installed")?;
    let stamp_file = stamp_file(cache);
    fs::write(&stamp_file, stamp()?).with_context(|| format!("cannot write {}", stamp_file.display()))
}
