//! What is wrong with a configuration, and where: one line of text for each mistake.

use std::fmt;

/// The place in the configuration file where something was written.
///
/// The typed configuration keeps the origins of the values that the environment can contradict later (an
/// interface that does not exist, a backend that is not on the link), so that those errors too name line and
/// key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The line in the file, counted from 1.
    pub line: usize,
    /// The full path of the key, for example `service[impala].backend[impala1].address`.
    pub key: String,
}

impl Origin {
    /// An error about what was written here.
    pub fn error(&self, message: impl Into<String>) -> ConfigError {
        ConfigError::at(self.line, self.key.clone(), message)
    }
}

/// One mistake in a configuration; [`ConfigErrors`] adds the name of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}: {key}: {message}")]
pub struct ConfigError {
    line: usize,
    key: String,
    message: String,
}

impl ConfigError {
    /// An error at a line (counted from 1) about a key, as `message` says: what was expected, what was found,
    /// what to do.
    pub fn at(line: usize, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            line,
            key: key.into(),
            message: message.into(),
        }
    }

    /// The line in the file, counted from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// The full path of the key, for example `service[impala].port`.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What was expected, what was found, what to do.
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// All mistakes of one configuration file, in the order of its lines.
///
/// Prints as one line `FILE:LINE: KEY: MESSAGE` for each, without a newline after the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    file_name: String,
    errors: Vec<ConfigError>,
}

impl ConfigErrors {
    /// Gathers the errors of the file of that name and sorts them by line.
    pub fn new(file_name: impl Into<String>, mut errors: Vec<ConfigError>) -> Self {
        errors.sort_by(|one, other| (one.line, &one.key).cmp(&(other.line, &other.key)));
        Self {
            file_name: file_name.into(),
            errors,
        }
    }

    /// The errors, in the order of their lines.
    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{}:{error}", self.file_name)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
