//! For how long a backup leaves a master of lower priority alone.

use std::time::Duration;

use super::Time;

/// How much the peer has told of the connections of a group's services. Of several services that counts which comes last here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Told {
    /// All, and it tells on: whoever takes over now breaks nothing.
    Everything,
    /// Nothing that could be relied on. It need not be the peer who is master: it is waited for, but not for ever.
    #[default]
    Nothing,
    /// It is about to tell everything.
    Part,
}

/// What a backup goes by that hears a master of lower priority.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Has no end: whoever is master stays so.
    pub(super) always: bool,
    /// For how long such a master is left alone anyway.
    pub(super) delay: Duration,
    /// Since when nothing has been told by the peer, and for how long it is given the time to.
    pub(super) untold: Option<(Time, Duration)>,
}

impl Patience {
    /// Whether a master that is worse since then is left alone now.
    pub(super) fn lasts(&self, worse_since: Time, now: Time) -> bool {
        // However long there has been no connection to the peer: whoever comes back hears a master first, and meets the peer after that.
        let is_awaited = |(untold_since, grace): (Time, Duration)| {
            now < worse_since.max(untold_since).saturating_add(grace)
        };
        self.always || now < worse_since.saturating_add(self.delay) || self.untold.is_some_and(is_awaited)
    }
}
