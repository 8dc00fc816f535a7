//! The programs of this repository that the lab runs.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The program with this name that was built together with the running one.
pub fn find(name: &str) -> Result<PathBuf> {
    let running = env::current_exe().context("cannot find out which program is running")?;
    let program = beside(&running).join(name);
    if !program.is_file() {
        bail!(
            "the lab needs the program `{name}` beside {}, expected at {}: build it with \
             `cargo build --workspace`, or run `cargo xtask test`",
            running.display(),
            program.display()
        );
    }
    Ok(program)
}

/// The Python interpreter whose environment has impyla: `LB_LAB_PYTHON`, or where `cargo xtask setup` makes it.
pub fn python() -> Result<PathBuf> {
    let in_cache = || {
        let home = PathBuf::from(env::var_os("HOME").unwrap_or_default());
        home.join(".cache/lb-ctl/python/bin/python")
    };
    let python = env::var_os("LB_LAB_PYTHON").map_or_else(in_cache, PathBuf::from);
    if !python.exists() {
        bail!(
            "no Python with impyla at {}: run `cargo xtask test`, which installs it",
            python.display()
        );
    }
    Ok(python)
}

/// The program that judges metrics: `LB_LAB_PROMTOOL`, or where `cargo xtask setup` puts it.
pub fn promtool() -> Result<PathBuf> {
    let in_cache = || {
        let home = PathBuf::from(env::var_os("HOME").unwrap_or_default());
        home.join(".cache/lb-ctl/promtool/promtool")
    };
    let promtool = env::var_os("LB_LAB_PROMTOOL").map_or_else(in_cache, PathBuf::from);
    if !promtool.is_file() {
        bail!(
            "no promtool at {}: run `cargo xtask test`, which downloads it",
            promtool.display()
        );
    }
    Ok(promtool)
}

/// Where cargo puts programs when it puts `running` where it is; tests and examples are one level down.
fn beside(running: &Path) -> PathBuf {
    let directory = running.parent().unwrap_or(Path::new("/"));
    let is_below = directory
        .file_name()
        .is_some_and(|name| name == "deps" || name == "examples");
    let directory = if is_below {
        directory.parent().unwrap_or(directory)
    } else {
        directory
    };
    directory.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_from_wherever_cargo_puts_things() {
        assert_eq!(
            beside(Path::new("/target/debug/demo")),
            Path::new("/target/debug")
        );
        assert_eq!(
            beside(Path::new("/target/debug/deps/test-1")),
            Path::new("/target/debug")
        );
        assert_eq!(
            beside(Path::new("/target/debug/examples/e")),
            Path::new("/target/debug")
        );
    }
}
