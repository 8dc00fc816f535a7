//! Which services are ours: those of whose VIPs VRRP has made us master, a moment later.
//!
//! *A moment later*, because VRRP moves an address at once, and its clients take notice one by one: until the last of them has heard the
//! announcement, connections begin that only the former owner sees. It tells of them until we say that we are the owner. So a service
//! whose VIP has come to us *arrives* first: packets are forwarded by what we have been told, and what is told on is taken in as far as we
//! do not know better ourselves. When it has arrived we take it over, and say so. Of a former owner to whom there is no connection nothing
//! more is waited for.
//!
//! For the same reason a former owner tells on of a service that is not its own any more, until the peer says that it is its own. What begins
//! with somebody who is not the owner is [told](super::sync) all the time, so nothing is lost should it go back before it has arrived.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lb_common::layout::ServiceKey;

/// How long a service arrives, from the moment on at which the last of its addresses has been announced: far longer than the announcement
/// takes to its hearers, and what they have sent before to us by way of the peer. As long as that its slots stand still.
pub const ARRIVAL: Duration = Duration::from_millis(500);

/// How long it arrives at most: the kernel may be too busy to put the address on an interface.
pub const LONGEST_ARRIVAL: Duration = Duration::from_secs(3);

/// How often is looked whether something has arrived, and how much of the time between two looks counts. Who had no time to look had none to take in
/// what was told either.
pub const STEP: Duration = Duration::from_millis(100);

/// After how long a takeover is tried again that could not be carried out.
const RETRY: Duration = Duration::from_secs(5);

/// Who is master of a service's VIP. `T` tells one time from another at which we have become that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Master<T> {
    /// Nobody could be but us: no VRRP instance carries it.
    Uncontested,
    /// We are.
    Us {
        /// Since when.
        term: T,
        /// Whether all addresses of its instance have been announced.
        is_announced: bool,
    },
    /// Somebody else is, or nobody.
    Other,
}

/// What is our own.
#[derive(Clone, Debug)]
pub struct Ownership<T> {
    /// The services that are ours, and since which time that we have become master of their VIPs; `None` of those that VRRP does not carry.
    owned: BTreeMap<ServiceKey, Option<T>>,
    /// Those that are to be ours in a moment.
    arriving: BTreeMap<ServiceKey, Arrival<T>>,
    /// Those that the peer is told about: ours, and those that were until the peer says that they are its own. Packets come through here
    /// as long as nobody has told their senders otherwise.
    telling: BTreeSet<ServiceKey>,
    /// The services that may be the peer's.
    of_peer: BTreeSet<ServiceKey>,
    /// Whether there is a connection to the peer.
    is_connected: bool,
}

#[derive(Clone, Copy, Debug)]
struct Arrival<T> {
    term: T,
    /// When it was looked at last.
    looked: Duration,
    age: Duration,
    /// How much of that since it was announced; `None` if it was not.
    announced: Option<Duration>,
}

impl<T> Arrival<T> {
    const fn begin(term: T, now: Duration) -> Self {
        Self {
            term,
            looked: now,
            age: Duration::ZERO,
            announced: None,
        }
    }

    /// Looks at it. Returns whether it has arrived.
    fn look(&mut self, is_announced: bool, now: Duration) -> bool {
        let passed = now.saturating_sub(self.looked).min(STEP);
        self.looked = now;
        self.age += passed;
        self.announced = match self.announced {
            Some(age) => Some(age + passed),
            None => is_announced.then_some(Duration::ZERO),
        };
        self.age >= LONGEST_ARRIVAL || self.announced >= Some(ARRIVAL)
    }
}

/// What follows from a look at who is master of what, to be done in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Services that arrive from now on.
    pub arriving: Vec<ServiceKey>,
    /// Services that are ours from now on.
    pub taken: Vec<Taken>,
    /// Services that were ours when we looked last: the peer's word counts from now on.
    pub lost: Vec<ServiceKey>,
    /// Services with which the peer has to begin anew, should they be its own: what it has told of them was not taken in, or not as it was told.
    pub asked: Vec<ServiceKey>,
}

/// A service that is ours from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Which one.
    pub key: ServiceKey,
    /// Whether it has arrived before; otherwise its packets come to us since a moment ago.
    pub has_arrived: bool,
    /// Whether it was ours when we looked last, but somebody else has been master of its VIP in between.
    pub was_lost: bool,
}

impl<T> Default for Ownership<T> {
    fn default() -> Self {
        Self {
            owned: BTreeMap::new(),
            arriving: BTreeMap::new(),
            telling: BTreeSet::new(),
            of_peer: BTreeSet::new(),
            is_connected: false,
        }
    }
}

impl<T: Copy + PartialEq> Ownership<T> {
    /// Takes in who is master of all our services. `is_told` says whether the peer tells of a service as its owner.
    pub fn look(
        &mut self,
        masters: impl IntoIterator<Item = (ServiceKey, Master<T>)>,
        is_told: impl Fn(&ServiceKey) -> bool,
        now: Duration,
    ) -> Turn {
        let (mut turn, mut others) = (Turn::default(), BTreeSet::new());
        let owned = std::mem::take(&mut self.owned);
        let arriving = std::mem::take(&mut self.arriving);
        for (key, master) in masters {
            let (term, is_announced) = match master {
                Master::Uncontested => (None, true),
                Master::Us { term, is_announced } => (Some(term), is_announced),
                Master::Other => {
                    others.insert(key);
                    continue;
                }
            };
            let before = owned.get(&key);
            let mut has_arrived = false;
            // Whoever we hand it over to may not have said yet that it is its own.
            let is_told = self.is_connected && (is_told(&key) || self.tells(&key));
            if let (None, Some(term), true) = (before, term, is_told) {
                let known = arriving.get(&key).filter(|arrival| arrival.term == term);
                turn.arriving.extend(known.is_none().then_some(key));
                let mut arrival = known.copied().unwrap_or_else(|| Arrival::begin(term, now));
                has_arrived = arrival.look(is_announced, now);
                if !has_arrived {
                    self.arriving.insert(key, arrival);
                    others.insert(key);
                    continue;
                }
            }
            if before != Some(&term) {
                turn.taken.push(Taken {
                    key,
                    has_arrived,
                    was_lost: before.is_some(),
                });
            }
            self.owned.insert(key, term);
        }
        for key in &others {
            let was_ours = owned.contains_key(key);
            turn.lost.extend(was_ours.then_some(*key));
            if self.arriving.contains_key(key) {
                continue;
            }
            // Of what was told while it arrived, not all was taken in.
            let has_turned_back = arriving.contains_key(key);
            let is_new = !self.of_peer.contains(key);
            turn.asked.extend((is_new || has_turned_back).then_some(*key));
        }
        self.telling
            .retain(|key| self.owned.contains_key(key) || others.contains(key));
        self.telling.extend(self.owned.keys());
        self.of_peer = others;
        turn
    }

    /// When to look again though nothing happens.
    pub fn due(&self) -> Option<Duration> {
        let looked = self.arriving.values().map(|arrival| arrival.looked);
        Some(looked.min()? + STEP)
    }

    /// A service could not be taken over. It is tried again with the next look, which is [due](Self::due) after a while; until then it arrives.
    pub fn not_taken(&mut self, key: &ServiceKey, now: Duration) {
        if let Some(Some(term)) = self.owned.remove(key) {
            let arrival = Arrival {
                age: LONGEST_ARRIVAL,
                ..Arrival::begin(term, now + RETRY)
            };
            self.arriving.insert(*key, arrival);
            self.of_peer.insert(*key);
        }
        self.telling.remove(key);
    }

    /// There is a connection to the peer, on which nothing has been told yet.
    pub fn connected(&mut self) {
        self.is_connected = true;
        self.telling = self.owned.keys().copied().collect();
    }

    /// There is no connection to the peer any more.
    pub fn disconnected(&mut self) {
        self.is_connected = false;
        self.telling.clear();
    }

    /// The peer says that a service is its own. Returns whether it was told about it until now; it is not any more. `None` if it is ours,
    /// whatever the peer says.
    pub fn introduced(&mut self, key: &ServiceKey) -> Option<bool> {
        (!self.owns(key)).then(|| self.telling.remove(key))
    }

    /// The peer is told no more about services that are not among these.
    pub fn disown_all_but(&mut self, stays: &BTreeSet<ServiceKey>) {
        self.telling.retain(|key| stays.contains(key));
        self.of_peer.retain(|key| stays.contains(key));
    }

    /// Whether a service may be the peer's.
    pub fn leaves(&self, key: &ServiceKey) -> bool {
        self.of_peer.contains(key)
    }

    /// Whether a service is ours.
    pub fn owns(&self, key: &ServiceKey) -> bool {
        self.owned.contains_key(key)
    }

    /// Whether the peer is told about a service.
    pub fn tells(&self, key: &ServiceKey) -> bool {
        self.telling.contains(key)
    }

    /// How many services that are not ours any more the peer is told about.
    pub fn handed_over(&self) -> usize {
        self.telling.iter().filter(|key| !self.owns(key)).count()
    }

    /// How many services are about to become ours, or the peer's.
    pub fn moving(&self) -> usize {
        self.arriving.len() + self.handed_over()
    }

    /// Whether a service arrives.
    pub fn arrives(&self, key: &ServiceKey) -> bool {
        self.arriving.contains_key(key)
    }

    /// The services that arrive.
    pub fn arriving(&self) -> impl Iterator<Item = ServiceKey> {
        self.arriving.keys().copied()
    }
}

#[cfg(test)]
mod tests;
