//! The configuration: from the text of a file to a [`Config`] that is complete and consistent, or to all its
//! mistakes.
//!
//! Three steps, none of which does any I/O:
//!
//! 1. `toml` parses the text; its first syntax error ends everything.
//! 2. `document`, with `check` and `health_policy`, reads what is written, each value by itself, and remembers
//!    where. `reader` refuses unknown keys there.
//! 3. `conflicts` looks at the values together, and `assemble` puts defaults where nothing is written.
//!
//! The second and third step report all mistakes, in the order of the lines. Whether the interface exists or
//! a backend is on the link is not known here; whoever finds out builds the same kind of error from an [`Origin`].

mod assemble;
mod check;
mod choice;
mod command;
mod conflicts;
mod defaults;
mod discovery;
mod document;
mod duration;
mod error;
mod fixed;
mod health_policy;
mod model;
mod pace;
mod peer;
mod prefix;
mod prime;
mod reader;
mod track;
mod value;
mod virtual_routers;
mod vrrp;

#[cfg(test)]
pub(crate) mod examples;
#[cfg(test)]
mod tests;

use toml::de::DeTable;

pub use check::{Check, CheckTls};
pub use choice::{
    Affinity, Balance, CheckKind, DiscoveryKind, Forward, NoBackend, OnDown, VrrpChecksum, XdpModeChoice,
};
pub use defaults::{API_SOCKET, HostDefaults, IPIP_SOURCE_IPV4, IPIP_SOURCE_IPV6};
pub use discovery::{Discovery, Seed};
pub use document::{MAX_SERVICES, MAX_WEIGHT};
pub use duration::{ConfigDuration, ConfigDurationError};
pub use error::{ConfigError, ConfigErrors, Origin};
pub use fixed::{NeedsRestart, affinity_refusal, needs_restart, refuse_fixed};
pub use health_policy::HealthPolicy;
pub use model::{Api, Backend, Config, DatapathConfig, Http, Interface, Node, Places, ProgramPlace, Service};
pub use peer::Peer;
pub use value::{bad_name, is_name, unusable};
pub use virtual_routers::{moving_with, once_given_away, same_routers, vrrp_groups};
pub use vrrp::Vrrp;

use document::Document;
use reader::LineIndex;

/// Reads a configuration from the text of a file. The file's name is only for messages.
pub fn parse(file_name: &str, text: &str, host: &HostDefaults) -> Result<Config, ConfigErrors> {
    let lines = LineIndex::new(text);
    let table = DeTable::parse(text)
        .map_err(|error| ConfigErrors::new(file_name, vec![syntax_error(&error, text, &lines)]))?;
    let mut errors = Vec::new();
    let document = reader::read_top_level(table.get_ref(), &lines, &mut errors, Document::read);
    conflicts::report(&document, host, &mut errors);
    match assemble::config(document, file_name, host) {
        Some(config) if errors.is_empty() => Ok(config),
        _ => Err(ConfigErrors::new(file_name, errors)),
    }
}

fn syntax_error(error: &toml::de::Error, text: &str, lines: &LineIndex) -> ConfigError {
    let span = error.span().unwrap_or(0..0);
    let place = match text.get(span.clone()) {
        Some(culprit) if !culprit.is_empty() => format!(" at {}", value::shown(culprit)),
        _ => String::new(),
    };
    let found = error.message().replace('\n', ", ");
    let message = format!("expected a valid TOML document, found: {found}{place}; correct the syntax");
    ConfigError::at(lines.line_of(span.start), "TOML", message)
}
