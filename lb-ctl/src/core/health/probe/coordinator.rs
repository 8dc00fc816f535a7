//! The check of type `impala`: what the web page and the probe of one coordinator say together.
//!
//! Clients meet the port, not the page, so the probe decides. The page adds two things that the probe cannot know: that a
//! coordinator whose port answers is not ready, and that one whose port is mute is alive.

use super::super::outcome::{Failure, Verdict};
use super::Finding;

/// What `GET /healthz` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthPage {
    /// 200: its services are started, and the statestore knows it.
    Ok,
    /// 503: they are not, or it does not.
    NotAvailable,
    /// Anything else, or nothing: the words say what. Web pages may be switched off or need a password.
    Unknown(String),
}

/// The verdict of both.
pub fn combine(page: &HealthPage, probe: Finding) -> Finding {
    match (page, probe.verdict) {
        (HealthPage::NotAvailable, Verdict::Healthy | Verdict::Saturated) => Finding::new(
            Verdict::Failed(Failure::Failing),
            format!("not ready: /healthz answered 503; {}", probe.detail),
        ),
        (HealthPage::Ok, Verdict::Failed(Failure::Silent)) => Finding::new(
            Verdict::Saturated,
            format!("/healthz answered 200, but the client port: {}", probe.detail),
        ),
        (HealthPage::Unknown(what), Verdict::Healthy) => {
            Finding::new(Verdict::Healthy, format!("{}; /healthz: {what}", probe.detail))
        }
        // A shutdown among them: it is certain whatever the page says, which goes on saying 200.
        _ => probe,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILING: Verdict = Verdict::Failed(Failure::Failing);
    const SILENT: Verdict = Verdict::Failed(Failure::Silent);
    const UNREACHABLE: Verdict = Verdict::Failed(Failure::Unreachable);

    #[test]
    fn all_combinations() {
        use HealthPage::{NotAvailable, Ok, Unknown};
        use Verdict::{Healthy, Quiescing, Saturated};
        let unknown = || Unknown("refused".to_owned());
        for (page, probe, expected) in [
            (Ok, Healthy, Healthy),
            (Ok, Saturated, Saturated),
            (Ok, Quiescing, Quiescing),
            (Ok, FAILING, FAILING),
            (Ok, UNREACHABLE, UNREACHABLE),
            (Ok, SILENT, Saturated),
            (NotAvailable, Healthy, FAILING),
            (NotAvailable, Saturated, FAILING),
            (NotAvailable, Quiescing, Quiescing),
            (NotAvailable, FAILING, FAILING),
            (NotAvailable, SILENT, SILENT),
            (unknown(), Healthy, Healthy),
            (unknown(), Saturated, Saturated),
            (unknown(), Quiescing, Quiescing),
            (unknown(), SILENT, SILENT),
        ] {
            let found = combine(&page, Finding::new(probe, "words"));
            assert_eq!(found.verdict, expected, "{page:?} {probe:?}");
            assert!(found.detail.contains("words"));
        }
    }

    #[test]
    fn a_page_that_cannot_be_read_is_mentioned() {
        let page = HealthPage::Unknown("connection refused".to_owned());
        let found = combine(&page, Finding::new(Verdict::Healthy, "GetInfo succeeded"));
        assert_eq!(found.detail, "GetInfo succeeded; /healthz: connection refused");
    }
}
