//! How much of a service the peer has told, and what is here that it has not named.

use std::collections::BTreeSet;

use lb_common::{
    clock,
    layout::{ClientKey, FlowKey},
};

use super::mirror::Mirror;

/// How many flows and clients are deleted at a time.
const PIECE: usize = if cfg!(test) { 2 } else { 1_000 };

/// How many ticks ago is a moment ago: longer than it takes from the first packet that comes to a new master until the controller knows, and until
/// an owner that has been told of it has told it on.
pub(super) const MOMENT: u32 = 4;

/// How much of a service has been told.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// That it is there. What else is told means nothing yet.
    Name,
    /// Something that [means nothing](super::Inbox::forget) any more. It may be nobody's, or its owner's who is not the peer: then nothing follows.
    /// Or its owner has ceased to tell of it.
    Forgotten,
    /// Some of it.
    Part(Unnamed),
    /// All, and what has not been named is being deleted: [piece by piece](super::Inbox::go_on).
    AllBut(Unnamed),
    /// All, and nothing else is there.
    Everything,
    /// Only what begins with the peer, which is not its owner.
    Unowned,
}

/// What there was of a service when its owner began with it, as far as it has not been named since. It only ever becomes less: what is
/// kept is bounded by our own tables, whatever is told.
#[derive(Clone, Debug, Default)]
pub(super) struct Unnamed {
    pub(super) flows: BTreeSet<FlowKey>,
    pub(super) clients: BTreeSet<ClientKey>,
    /// Flows that had been used a moment ago when it was their turn: they may have begun here, and be on their way to the owner.
    spared: BTreeSet<FlowKey>,
    /// When the owner had told everything, in ticks.
    completed: u32,
}

impl Unnamed {
    pub(super) fn is_empty(&self) -> bool {
        self.flows.is_empty() && self.clients.is_empty() && self.spared.is_empty()
    }

    /// The owner names a flow.
    pub(super) fn name_flow(&mut self, key: &FlowKey) {
        self.flows.remove(key);
        self.spared.remove(key);
    }

    /// In how many ticks it goes on: a piece can be deleted, or nothing is left, which is still to be noticed.
    pub(super) fn due(&self, now: u32) -> u32 {
        let waits = self.flows.is_empty() && self.clients.is_empty() && !self.spared.is_empty();
        if waits {
            MOMENT.saturating_sub(clock::since(now, self.completed))
        } else {
            0
        }
    }

    /// Deletes some of it. Should the service have another id by now, the rest is somebody else's.
    ///
    /// What has been used a moment ago waits: the owner names it meanwhile, if it has begun here. What is used after that still is not over,
    /// whoever names it.
    pub(super) fn delete_piece<M: Mirror>(&mut self, service: u16, mirror: &mut M) -> Result<(), M::Error> {
        let mut room = PIECE;
        let now = mirror.now();
        while room > 0
            && let Some(key) = self.flows.pop_first()
        {
            room -= 1;
            if key.service() == service && !mirror.remove_unused_flow(&key, now.wrapping_sub(MOMENT))? {
                self.spared.insert(key);
            }
        }
        while room > 0
            && let Some(key) = self.clients.pop_first()
        {
            room -= 1;
            if key.service() == service {
                mirror.remove_client(&key)?;
            }
        }
        while room > 0
            && self.due(now) == 0
            && let Some(key) = self.spared.pop_first()
        {
            room -= 1;
            if key.service() == service {
                mirror.remove_unused_flow(&key, self.completed.wrapping_add(1))?;
            }
        }
        Ok(())
    }

    /// Deletes all of it but the flows that have been used a moment ago.
    pub(super) fn delete_unused<M: Mirror>(&self, service: u16, mirror: &mut M) -> Result<(), M::Error> {
        let since = mirror.now().wrapping_sub(MOMENT);
        let flows = self.flows.iter().chain(&self.spared);
        for key in flows.filter(|key| key.service() == service) {
            mirror.remove_unused_flow(key, since)?;
        }
        for key in self.clients.iter().filter(|key| key.service() == service) {
            mirror.remove_client(key)?;
        }
        Ok(())
    }
}

impl Told {
    /// What has not been named so far.
    pub(super) const fn unnamed(&mut self) -> Option<&mut Unnamed> {
        match self {
            Self::Part(unnamed) | Self::AllBut(unnamed) => Some(unnamed),
            Self::Name | Self::Forgotten | Self::Everything | Self::Unowned => None,
        }
    }

    /// All has been told, by now.
    pub(super) fn all_but(unnamed: Unnamed, now: u32) -> Self {
        if unnamed.is_empty() {
            return Self::Everything;
        }
        Self::AllBut(Unnamed {
            completed: now,
            ..unnamed
        })
    }
}
