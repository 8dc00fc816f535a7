//! What an error means for the exit code, and how it is printed.

use std::process::ExitCode;

use crate::{
    adapters::{api::client::ClientError, config_file::ConfigFileError},
    core::{cause::chain, config::ConfigErrors},
    daemon::HostError,
};

/// The usage was wrong in a way that clap cannot see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UsageError(pub(super) String);

/// 1 failed, 2 wrong usage or configuration, 3 no daemon.
pub(super) fn code(error: &anyhow::Error) -> ExitCode {
    let usage = is_configuration(error) || error.is::<UsageError>() || error.is::<ConfigFileError>();
    match error.downcast_ref() {
        Some(ClientError::NoDaemon { .. }) => ExitCode::from(3),
        Some(ClientError::Usage { .. }) => ExitCode::from(2),
        _ if usage => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}

/// The text for standard error. Errors of a configuration stand alone, each on its line, as editors and scripts expect.
pub(super) fn message(error: &anyhow::Error) -> String {
    if is_configuration(error) {
        error.to_string()
    } else {
        format!("lb-ctl: {}", chain(error.as_ref()))
    }
}

fn is_configuration(error: &anyhow::Error) -> bool {
    error.is::<ConfigErrors>()
        || matches!(error.downcast_ref(), Some(HostError::Mismatch(_)))
        || matches!(error.downcast_ref(), Some(ConfigFileError::Invalid(_)))
        || matches!(error.downcast_ref(), Some(ClientError::Configuration(_)))
}
