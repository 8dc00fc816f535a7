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
    Ok(parse(&path.display().to_string(), &text(path)?)?)
}

/// Reads a configuration file, whatever it says.
pub fn text(path: &Path) -> Result<String, ConfigFileError> {
    std::fs::read_to_string(path).map_err(|source| ConfigFileError::Unreadable {
        path: path.display().to_string(),
        source,
    })
}

/// Validates the text of a configuration file. The file's name is only for messages.
pub fn parse(name: &str, text: &str) -> Result<Config, ConfigErrors> {
    let host = HostDefaults {
        node_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
    };
    config::parse(name, text, &host)
}
