//! `lb-ctl run`.

use std::{
    io::{IsTerminal, stderr},
    path::Path,
};

use clap::ValueEnum;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use super::{exit::UsageError, runtime};
use crate::{adapters::config_file, daemon};

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: an object for each line.
    Json,
}

pub(super) fn run(
    path: &Path,
    socket: Option<&Path>,
    log_format: LogFormat,
    detach_on_exit: bool,
) -> anyhow::Result<()> {
    if socket.is_some() {
        return Err(UsageError(
            "`run` opens the socket that the configuration names (api.socket): leave --socket out".into(),
        )
        .into());
    }
    let config = config_file::read(path)?;
    let log = tracing_subscriber::fmt()
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .with_target(false)
        .with_env_filter(
            EnvFilter::builder()
                .with_default_directive(LevelFilter::INFO.into())
                .from_env_lossy(),
        );
    match log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    let runtime = runtime()?;
    let ended = runtime.block_on(daemon::run(
        path.to_owned(),
        config,
        daemon::Options { detach_on_exit },
    ));
    // Not waiting for threads: the system's resolver may take long to give up on a name. A pass over the records may end anywhere.
    runtime.shutdown_background();
    ended
}
