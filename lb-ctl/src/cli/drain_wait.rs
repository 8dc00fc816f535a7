//! Waiting for the last connection of a backend, and showing how far it is.

use std::{
    fmt::Write as _,
    io::{IsTerminal, Write, stdout},
    path::Path,
    time::{Duration, Instant},
};

use super::output::print;
use crate::{
    adapters::api::client::{self, ClientError},
    core::operator::{Admin, BackendDrain, DrainQuery, DrainStatus, End},
};

/// How often the daemon is asked.
const INTERVAL: Duration = Duration::from_secs(1);

/// How often a line is printed where lines stay, if less than the counts has changed.
const LINE_INTERVAL: Duration = Duration::from_secs(30);

/// How long a daemon may be away: it is being restarted, and goes on with the drain then.
const RESTART: Duration = Duration::from_mins(1);

/// Somebody has taken back what is waited for.
#[derive(Debug, thiserror::Error)]
#[error("{0} is enabled again: somebody has taken the decision back, so the wait is over")]
struct TakenBack(String);

/// Waits until no connection is left. The drain itself does not depend on it.
pub(super) async fn wait(
    socket: &Path,
    backend: &str,
    service: Option<&str>,
    json: bool,
) -> anyhow::Result<()> {
    let query = DrainQuery {
        backend: backend.to_owned(),
        service: service.map(str::to_owned),
    };
    let mut display = Display::new(json);
    let (mut heard, mut is_known) = (Instant::now(), false);
    loop {
        match client::drains(socket, &query).await {
            Ok(status) => {
                (heard, is_known) = (Instant::now(), true);
                if let Some(enabled) = status.backends.iter().find(|it| it.admin == Admin::Enabled) {
                    display.end()?;
                    return Err(TakenBack(format!("{}/{}", enabled.service, enabled.backend)).into());
                }
                let is_over = status.backends.iter().all(|it| it.end.is_some());
                display.show(&status, is_over)?;
                if is_over {
                    display.end()?;
                    let text = if json {
                        format!("{}\n", serde_json::to_string_pretty(&status)?)
                    } else {
                        status.backends.iter().map(ended).collect()
                    };
                    return print(&text);
                }
            }
            Err(ClientError::Usage { .. }) if is_known => {
                display.end()?;
                return print(&format!(
                    "{backend}: taken out of the configuration, and no connection leads there any more\n"
                ));
            }
            Err(error @ (ClientError::NoDaemon { .. } | ClientError::Broken { .. }))
                if heard.elapsed() < RESTART =>
            {
                display.note(&format!("{error}; waiting for it to come back"))?;
            }
            Err(error) => {
                display.end()?;
                return Err(error.into());
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Where progress is shown: one line that is rewritten on a terminal, lines when something changes elsewhere, nothing for programs.
struct Display {
    quiet: bool,
    rewrites: bool,
    /// Whether a line is there that is to be rewritten.
    open: bool,
    last: Option<(String, Instant)>,
}

impl Display {
    fn new(json: bool) -> Self {
        Self {
            quiet: json,
            rewrites: stdout().is_terminal(),
            open: false,
            last: None,
        }
    }

    fn show(&mut self, status: &DrainStatus, is_over: bool) -> anyhow::Result<()> {
        if is_over {
            return Ok(());
        }
        let text = status
            .backends
            .iter()
            .map(progress)
            .collect::<Vec<_>>()
            .join("; ");
        // Ages change all the time; only counts are worth a line of their own.
        let counts = status
            .backends
            .iter()
            .map(|it| format!("{} {} {}", it.left, it.unrecorded, it.half_open))
            .collect::<Vec<_>>()
            .join(";");
        self.line(&text, &counts)
    }

    fn note(&mut self, text: &str) -> anyhow::Result<()> {
        self.line(text, text)
    }

    fn line(&mut self, text: &str, counts: &str) -> anyhow::Result<()> {
        if self.quiet {
            return Ok(());
        }
        if self.rewrites {
            self.open = true;
            // To the begin of the line, and clear what is there.
            let shown: String = text.chars().take(width()).collect();
            return print(&format!("\r\x1b[2K{shown}"));
        }
        let is_new = self
            .last
            .as_ref()
            .is_none_or(|(last, at)| last != counts || at.elapsed() >= LINE_INTERVAL);
        if is_new {
            self.last = Some((counts.to_owned(), Instant::now()));
            return print(&format!("{text}\n"));
        }
        Ok(())
    }

    /// Leaves the line that was rewritten.
    fn end(&mut self) -> anyhow::Result<()> {
        if self.open {
            self.open = false;
            print("\n")?;
            stdout().flush()?;
        }
        Ok(())
    }
}

/// How many characters fit into a line of the terminal. One that has wrapped could not be rewritten.
fn width() -> usize {
    let columns = rustix::termios::tcgetwinsize(stdout()).map_or(0, |size| size.ws_col);
    match columns {
        0 | 1 => 79,
        columns => usize::from(columns) - 1,
    }
}

/// How far one backend is, in a line.
fn progress(drain: &BackendDrain) -> String {
    let BackendDrain {
        service,
        backend,
        left,
        closing,
        ..
    } = drain;
    let mut text = format!("{service}/{backend}: {left} connections seen since it began");
    // Writing to a string cannot fail.
    if let (Some(youngest), Some(oldest)) = (drain.youngest_seconds, drain.oldest_seconds) {
        let _ = write!(text, ", silent for {} to {}", age(youngest), age(oldest));
    } else if let Some(quiet) = drain.quiet_seconds {
        let _ = write!(
            text,
            ", no packet for {}{}",
            age(quiet),
            // Otherwise it is for the backend to say.
            if drain.own.is_some_and(|own| own.tell) {
                ""
            } else {
                " (certain after 11 m)"
            }
        );
    }
    if *closing > 0 {
        let _ = write!(text, ", {closing} ended");
    }
    if let Some(own) = &drain.own {
        let count = |count: Option<u64>| count.map_or_else(|| "?".to_owned(), |it| it.to_string());
        let _ = write!(
            text,
            "; the coordinator itself counts {} queries, {} sessions, {} connections",
            count(own.queries),
            count(own.sessions),
            count(own.connections)
        );
    }
    if let Some(left) = drain.deadline_seconds {
        let _ = write!(text, "; reset in {}", age(left));
    }
    text
}

/// How it ended for one backend.
fn ended(drain: &BackendDrain) -> String {
    let BackendDrain {
        service,
        backend,
        admin,
        end,
        ..
    } = drain;
    let why = match end {
        Some(End::Recorded) => "every connection of this service is recorded, and none is left there",
        Some(End::Settled) => "no connection leads there any more",
        Some(End::Counted) => "the coordinator itself counts none that matters",
        Some(End::Quiet) => {
            "none has sent a packet for 11 m; one without TCP keepalive might be left, and silent"
        }
        None => "it is not known why",
    };
    format!("{service}/{backend}: {admin}, no connection left: {why}\n")
}

/// Seconds as people say them.
fn age(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} m", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::operator::OwnCounts;

    #[test]
    fn progress_is_one_line_that_says_what_is_known() {
        let mut drain = BackendDrain {
            service: "impala".into(),
            backend: "impala1".into(),
            admin: Admin::Draining,
            left: 12,
            closing: 3,
            youngest_seconds: Some(0),
            oldest_seconds: Some(300),
            quiet_seconds: Some(0),
            ..BackendDrain::default()
        };
        assert_eq!(
            progress(&drain),
            "impala/impala1: 12 connections seen since it began, silent for 0 s to 5 m, 3 ended"
        );
        drain = BackendDrain {
            left: 0,
            closing: 0,
            youngest_seconds: None,
            oldest_seconds: None,
            quiet_seconds: Some(40),
            deadline_seconds: Some(90),
            own: Some(OwnCounts {
                connections: Some(2),
                sessions: None,
                queries: Some(1),
                seconds_ago: 1,
                tell: true,
            }),
            ..drain
        };
        assert_eq!(
            progress(&drain),
            "impala/impala1: 0 connections seen since it began, no packet for 40 s; the coordinator itself counts 1 queries, ? \
             sessions, 2 connections; reset in 90 s"
        );
        drain.end = Some(End::Quiet);
        assert!(ended(&drain).contains("keepalive"), "{}", ended(&drain));
    }
}
