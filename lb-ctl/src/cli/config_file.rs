//! Reading the configuration file.

use std::path::Path;

use super::exit::UsageError;
use crate::core::config::{self, Config, HostDefaults};

/// Reads and validates a configuration file.
pub(super) fn read(path: &Path) -> anyhow::Result<Config> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        UsageError(format!(
            "the configuration {} cannot be read: {error}",
            path.display()
        ))
    })?;
    let host = HostDefaults {
        node_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
    };
    Ok(config::parse(&path.display().to_string(), &text, &host)?)
}
