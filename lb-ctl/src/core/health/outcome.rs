//! What one check of one backend found.

use std::time::Duration;

use crate::core::{status::CheckStatus, time::milliseconds};

/// The most characters of a detail: one line of a terminal, or of a log.
const DETAIL_LENGTH: usize = 200;

/// What a check says about a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It does its work.
    Healthy,
    /// It accepts connections but does not answer in time: alive, and should get no new flows.
    Saturated,
    /// It says that it is shutting down: it finishes what it has begun and refuses what is new.
    Quiescing,
    /// It does not do its work.
    Failed(Failure),
}

/// In which way a backend does not do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// Its host refuses the connection: nobody could be served there.
    Unreachable,
    /// No answer at all, not even a refusal: its host is gone, or the network between is. From here the two look alike.
    Silent,
    /// It accepts a connection but answers wrongly, or breaks off. The check may be mistaken about what that means, so the
    /// guard against mass removal may keep such a backend in use.
    Failing,
    /// It says that it is the inactive one of a pair. It is well and must not serve.
    Standby,
}

/// How busy a coordinator is, by its own figures. What it does not tell is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Client connections that have a service thread, on all client ports.
    pub connections: Option<u64>,
    /// Client connections that wait for a service thread, on all client ports.
    pub waiting_connections: Option<u64>,
    /// Queries that are not closed.
    pub queries: Option<u64>,
    /// Query fragments that run on this host.
    pub fragments: Option<u64>,
    /// HiveServer2 sessions that are open.
    pub sessions: Option<u64>,
    /// Queries that admission control keeps waiting, in all pools.
    pub queued_queries: Option<u64>,
}

/// The result of one check of one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What it says about the backend.
    pub verdict: Verdict,
    /// From its begin to its end.
    pub latency: Duration,
    /// What was found, for people: one short line.
    pub detail: String,
    /// How busy the backend is, if the check asked and was told.
    pub load: Option<Load>,
    /// When the backend's process started, in its own words, if the check asked and was told. Only good for comparing:
    /// another value means another process.
    pub process_start_time: Option<String>,
}

impl Outcome {
    /// An outcome without figures. The detail may contain what a server has sent: it becomes one short line here.
    pub fn new(verdict: Verdict, latency: Duration, detail: &str) -> Self {
        Self {
            verdict,
            latency,
            detail: one_line(detail),
            load: None,
            process_start_time: None,
        }
    }
}

impl From<&Outcome> for CheckStatus {
    fn from(outcome: &Outcome) -> Self {
        Self {
            ok: outcome.verdict == Verdict::Healthy,
            latency_ms: milliseconds(outcome.latency),
            seconds_ago: 0,
            detail: outcome.detail.clone(),
        }
    }
}

/// A text as one line that does no harm to a terminal: runs of white space and control characters become one space, and
/// what is too long is cut off.
fn one_line(text: &str) -> String {
    let words = text
        .split(|char: char| char.is_whitespace() || char.is_control())
        .filter(|word| !word.is_empty());
    let mut line = String::new();
    let mut length = 0;
    for word in words {
        let separator = usize::from(length > 0);
        let room = DETAIL_LENGTH.saturating_sub(length + separator);
        if room == 0 {
            line.push('…');
            break;
        }
        if separator == 1 {
            line.push(' ');
        }
        line.extend(word.chars().take(room));
        let characters = word.chars().count();
        length += separator + characters;
        if characters > room {
            line.push('…');
            break;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn details_become_one_line() {
        let outcome = Outcome::new(Verdict::Healthy, Duration::ZERO, " two\r\n\tlines \u{1b}[31m\0 ");
        assert_eq!(outcome.detail, "two lines [31m");
        let outcome = Outcome::new(Verdict::Healthy, Duration::ZERO, &"é".repeat(201));
        assert_eq!(outcome.detail, format!("{}…", "é".repeat(200)));
    }

    #[test]
    fn only_healthy_is_ok() {
        for (verdict, ok) in [
            (Verdict::Healthy, true),
            (Verdict::Saturated, false),
            (Verdict::Quiescing, false),
            (Verdict::Failed(Failure::Standby), false),
        ] {
            let status = CheckStatus::from(&Outcome::new(verdict, Duration::from_micros(2_700), "words"));
            let expected = CheckStatus {
                ok,
                latency_ms: 2,
                seconds_ago: 0,
                detail: "words".to_owned(),
            };
            assert_eq!(status, expected);
        }
    }

    proptest! {
        #[test]
        fn every_detail_is_short_and_printable(text in "(?s).{0,400}") {
            let line = one_line(&text);
            prop_assert!(line.chars().count() <= DETAIL_LENGTH + 1);
            prop_assert!(!line.contains(char::is_control));
        }
    }
}
