//! `cargo xtask build`: everything, BPF programs included.

use anyhow::Result;

use crate::{
    command,
    setup::{self, Scope},
};

/// Builds the workspace and says where the product is.
pub(crate) fn run(release: bool) -> Result<()> {
    setup::run(Scope::Build)?;
    let mut build = command::cargo();
    build.args(["build", "--workspace"]);
    if release {
        build.arg("--release");
    }
    command::run(&mut build)?;
    let profile = if release { "release" } else { "debug" };
    println!(
        "built: {}",
        command::target_directory()?
            .join(profile)
            .join("lb-ctl")
            .display()
    );
    Ok(())
}
