//! What the log is told of what keeps the two from talking: each reason once, and not whatever strangers can make of it.

use std::time::Duration;

use tokio::time::Instant;

/// For how long nothing else is said of those who come, after something has been said.
const QUIET: Duration = Duration::from_secs(10);

/// Whose attempt it is that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempted {
    /// Ours to reach the peer, or to listen for it.
    ByUs,
    /// Somebody's who came. It may be anybody.
    ByAVisitor,
}

/// What has been said last.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    of_us: Option<String>,
    of_visitors: Option<(String, Instant)>,
}

impl Complaints {
    /// Whether this is to be said. Then it counts as said.
    pub(super) fn are_news(&mut self, attempted: Attempted, trouble: &str, now: Instant) -> bool {
        match attempted {
            Attempted::ByUs => {
                let is_news = self.of_us.as_deref() != Some(trouble);
                if is_news {
                    self.of_us = Some(trouble.to_owned());
                }
                is_news
            }
            Attempted::ByAVisitor => {
                let may_be_said =
                    |(said, at): &(String, Instant)| said != trouble && now.duration_since(*at) >= QUIET;
                let is_news = self.of_visitors.as_ref().is_none_or(may_be_said);
                if is_news {
                    self.of_visitors = Some((trouble.to_owned(), now));
                }
                is_news
            }
        }
    }

    /// The peer is there: what is wrong from now on is worth saying, though it has been said. Of strangers that is not true.
    pub(super) fn forget(&mut self) {
        self.of_us = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Attempted::{ByAVisitor, ByUs};

    #[test]
    fn each_reason_is_said_once_whatever_strangers_do_meanwhile() {
        let mut complaints = Complaints::default();
        let begin = Instant::now();
        let mut said = 0;
        for step in 0_u32..1000 {
            let now = begin + Duration::from_millis(10) * step;
            said += u32::from(complaints.are_news(ByUs, "connection refused", now));
            let rubbish = format!("expected a message of our version, found {step}");
            said += u32::from(complaints.are_news(ByAVisitor, &rubbish, now));
        }
        assert_eq!(said, 2);
        let later = begin + Duration::from_secs(20);
        assert!(complaints.are_news(ByAVisitor, "the wrong key", later));
        assert!(!complaints.are_news(ByAVisitor, "the wrong key", later + QUIET));
        assert!(!complaints.are_news(ByUs, "connection refused", later));
        assert!(complaints.are_news(ByUs, "no route", later));
        complaints.forget();
        assert!(complaints.are_news(ByUs, "no route", later));
    }
}
