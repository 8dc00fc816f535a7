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

/// The verdict of both. `port_is_mute` says that no connection to the client port came about in time, though it was not
/// refused.
pub fn combine(page: &HealthPage, probe: Finding, port_is_mute: bool) -> Finding {
    match (page, probe.verdict) {
        (HealthPage::NotAvailable, Verdict::Healthy | Verdict::Saturated) => Finding::new(
            Verdict::Failed(Failure::Failing),
            format!("not ready: /healthz answered 503; {}", probe.detail),
        ),
        (HealthPage::Ok, Verdict::Failed(Failure::Unreachable)) if port_is_mute => Finding::new(
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
    const UNREACHABLE: Verdict = Verdict::Failed(Failure::Unreachable);

    #[test]
    fn all_combinations() {
        use HealthPage::{NotAvailable, Ok, Unknown};
        use Verdict::{Healthy, Quiescing, Saturated};
        let unknown = || Unknown("refused".to_owned());
        for (page, probe, mute, expected) in [
            (Ok, Healthy, false, Healthy),
            (Ok, Saturated, false, Saturated),
            (Ok, Quiescing, false, Quiescing),
            (Ok, FAILING, false, FAILING),
            (Ok, UNREACHABLE, false, UNREACHABLE),
            (Ok, UNREACHABLE, true, Saturated),
            (NotAvailable, Healthy, false, FAILING),
            (NotAvailable, Saturated, false, FAILING),
            (NotAvailable, Quiescing, false, Quiescing),
            (NotAvailable, FAILING, false, FAILING),
            (NotAvailable, UNREACHABLE, true, UNREACHABLE),
            (unknown(), Healthy, false, Healthy),
            (unknown(), Saturated, false, Saturated),
            (unknown(), Quiescing, false, Quiescing),
            (unknown(), UNREACHABLE, true, UNREACHABLE),
        ] {
            let found = combine(&page, Finding::new(probe, "words"), mute);
            assert_eq!(found.verdict, expected, "{page:?} {probe:?} {mute}");
            assert!(found.detail.contains("words"));
        }
    }

    #[test]
    fn a_page_that_cannot_be_read_is_mentioned() {
        let page = HealthPage::Unknown("connection refused".to_owned());
        let found = combine(&page, Finding::new(Verdict::Healthy, "GetInfo succeeded"), false);
        assert_eq!(found.detail, "GetInfo succeeded; /healthz: connection refused");
    }
}
