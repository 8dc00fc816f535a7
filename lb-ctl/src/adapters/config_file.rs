//! Reading the configuration file.

use std::{io, path::Path};

use crate::core::config::{self, Config, ConfigErrors, HostDefaults};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// The file cannot be read.
    #[error("the configuration {path} cannot be read: {source}")]
    Unreadable {
        /// The path of the file.
        path: String,
        /// The kernel's reason, or that it is no text.
        source: io::Error,
    },
    /// What it says is wrong.
    #[error(transparent)]
    Invalid(#[from] ConfigErrors),
}

/// Reads and validates a configuration file.
pub fn read(path: &Path) -> Result<Config, ConfigFileError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| ConfigFileError::Unreadable {
        path: name.clone(),
        source,
    })?;
    let host = HostDefaults {
        node_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
    };
    Ok(config::parse(&name, &text, &host)?)
}
