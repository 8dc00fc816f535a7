//! `lb-ctl drain`, `undrain`, `disable`, `enable` and `weight`.

use std::path::Path;

use clap::Args;

use super::{drain_wait, output::print, runtime};
use crate::{
    adapters::api::client,
    core::{
        config::ConfigDuration,
        operator::{Action, Admin, Command, Decided, DecidedBackend},
        time::milliseconds,
    },
};

/// Whom a command is about.
#[derive(Debug, Args)]
pub(super) struct Subject {
    /// The backend's name.
    backend: String,
    /// Only in this service. Otherwise in every one in which the backend stands, those included that a reload adds later.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

/// Whether to wait for the last connection.
#[derive(Debug, Args)]
pub(super) struct Wait {
    /// Wait until no connection is left. Interrupting the command ends the wait, nothing else.
    #[arg(long)]
    wait: bool,
}

/// Whether to do it at any price.
#[derive(Debug, Args)]
pub(super) struct Force {
    /// Also if no backend is left for new connections to a service.
    #[arg(long)]
    force: bool,
}

/// `lb-ctl drain`
#[derive(Debug, Args)]
pub(super) struct Drain {
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    wait: Wait,
    /// After this time (250ms, 90s, 15m, 6h) the connections that are left are reset, as by `disable`. The daemon sees to it,
    /// whether this command runs or not, also after a restart. An earlier deadline stays unless another one is given.
    #[arg(long, value_name = "D")]
    deadline: Option<ConfigDuration>,
    /// Clients that have been there within the `affinity_timeout` of their service may still open connections. Without affinity it
    /// makes no difference.
    #[arg(long)]
    soft: bool,
    #[command(flatten)]
    force: Force,
}

/// `lb-ctl disable`
#[derive(Debug, Args)]
pub(super) struct Disable {
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    force: Force,
}

/// `lb-ctl weight`
#[derive(Debug, Args)]
pub(super) struct Weight {
    #[command(flatten)]
    subject: Subject,
    /// From 0, which gives it no new connections, to 1000; or `config` for the weight of the configuration.
    #[arg(value_name = "N", value_parser = weight)]
    share: WeightArgument,
    #[command(flatten)]
    force: Force,
}

/// A weight, or that of the configuration.
#[derive(Clone, Copy, Debug)]
struct WeightArgument(Option<u32>);

fn weight(text: &str) -> Result<WeightArgument, String> {
    if text == "config" {
        return Ok(WeightArgument(None));
    }
    let weight = text
        .parse()
        .map_err(|_| "expected a whole number from 0 to 1000, or `config`")?;
    Ok(WeightArgument(Some(weight)))
}

pub(super) fn drain(socket: &Path, arguments: &Drain) -> anyhow::Result<()> {
    let deadline_ms = arguments.deadline.map(|deadline| milliseconds(deadline.into()));
    let action = Action::Drain {
        deadline_ms,
        soft: arguments.soft,
    };
    operate(
        socket,
        &arguments.subject,
        action,
        arguments.force.force,
        arguments.wait.wait,
    )
}

pub(super) fn disable(socket: &Path, arguments: &Disable) -> anyhow::Result<()> {
    let Disable { subject, wait, force } = arguments;
    operate(socket, subject, Action::Disable, force.force, wait.wait)
}

pub(super) fn undrain(socket: &Path, subject: &Subject) -> anyhow::Result<()> {
    operate(socket, subject, Action::Undrain, false, false)
}

pub(super) fn enable(socket: &Path, subject: &Subject) -> anyhow::Result<()> {
    operate(socket, subject, Action::Enable, false, false)
}

pub(super) fn set_weight(socket: &Path, arguments: &Weight) -> anyhow::Result<()> {
    let Weight {
        subject,
        share: WeightArgument(weight),
        force,
    } = arguments;
    operate(socket, subject, Action::Weight(*weight), force.force, false)
}

fn operate(socket: &Path, subject: &Subject, action: Action, force: bool, wait: bool) -> anyhow::Result<()> {
    let Subject {
        backend,
        service,
        json,
    } = subject;
    let command = Command {
        backend: backend.clone(),
        service: service.clone(),
        action,
        force,
    };
    runtime()?.block_on(async {
        let decided = client::operate(socket, &command).await?;
        if wait {
            // For programs there is one answer: how it ended.
            if !json {
                print(&render(&command, &decided))?;
            }
            complain(&decided);
            drain_wait::wait(socket, backend, service.as_deref(), *json).await?;
        } else if *json {
            print(&format!("{}\n", serde_json::to_string_pretty(&decided)?))?;
        } else {
            print(&render(&command, &decided))?;
        }
        match decided.not_kept {
            None => Ok(()),
            Some(reason) => Err(NotKept(reason).into()),
        }
    })
}

/// The decision is in force until the daemon ends.
#[derive(Debug, thiserror::Error)]
#[error(
    "the decision is in force, but could not be kept: a restart of the daemon would forget it: {0}; the daemon tries again every \
     few seconds, and `lb-ctl status` shows whether it has succeeded"
)]
struct NotKept(String);

/// Says at once what otherwise would be said at the end of a long wait.
fn complain(decided: &Decided) {
    if let Some(reason) = &decided.not_kept {
        eprintln!("lb-ctl: {}", NotKept(reason.clone()));
    }
}

/// What holds now, for people: a line for each backend.
fn render(command: &Command, decided: &Decided) -> String {
    if decided.backends.is_empty() {
        return format!(
            "{}: nothing is decided any more; it is not configured either\n",
            command.backend
        );
    }
    decided.backends.iter().map(line).collect()
}

fn line(decided: &DecidedBackend) -> String {
    let DecidedBackend {
        service,
        backend,
        admin,
        weight,
        configured_weight,
        slots,
        deadline_seconds,
        soft,
    } = decided;
    let none = if *soft {
        "new connections only from clients that are at home there"
    } else {
        "no new connections"
    };
    let connections = match (admin, deadline_seconds) {
        (Admin::Enabled, _) if *slots > 0 => format!(", new connections to {slots} slots"),
        (Admin::Enabled, _) => ", no new connections: `lb-ctl status` says why".to_owned(),
        (Admin::Draining, None) => format!(", {none}, existing ones stay"),
        (Admin::Draining, Some(left)) => {
            format!(", {none}, existing ones stay for {left} s and are reset then")
        }
        (Admin::Disabled, _) => ", no new connections, existing ones are reset".to_owned(),
    };
    let weight = if weight == configured_weight {
        format!("weight {weight}")
    } else {
        format!("weight {weight} (configured: {configured_weight})")
    };
    format!("{service}/{backend}: {admin}, {weight}{connections}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_is_said_for_each_backend() {
        let backend = |admin, weight, deadline_seconds| DecidedBackend {
            service: "impala".into(),
            backend: "impala1".into(),
            admin,
            weight,
            configured_weight: 1,
            slots: if admin == Admin::Enabled { 7 } else { 0 },
            soft: false,
            deadline_seconds,
        };
        let command = Command {
            backend: "impala1".into(),
            service: None,
            action: Action::Undrain,
            force: false,
        };
        let shown = |backends| {
            let not_kept = None;
            render(&command, &Decided { backends, not_kept })
        };
        assert_eq!(
            shown(vec![
                backend(Admin::Enabled, 5, None),
                backend(Admin::Draining, 1, Some(90)),
                backend(Admin::Disabled, 1, None),
            ]),
            "impala/impala1: enabled, weight 5 (configured: 1), new connections to 7 slots\n\
             impala/impala1: draining, weight 1, no new connections, existing ones stay for 90 s and are reset then\n\
             impala/impala1: disabled, weight 1, no new connections, existing ones are reset\n"
        );
        assert!(shown(Vec::new()).contains("not configured"));
    }
}
