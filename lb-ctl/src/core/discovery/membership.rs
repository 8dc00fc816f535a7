//! Who is a member of a service, as the pages of its seeds come in or fail to.
//!
//! The pages come from the statestore by way of each coordinator, and err on one side: a coordinator that has lost the
//! statestore, or has just been started, and all of them after a restart of the statestore, list fewer than there are. To add
//! somebody who is not there costs nothing, as its health is checked before it serves. To remove somebody who is there takes new
//! connections from a healthy coordinator. Hence:
//!
//! - One seed is enough to add a coordinator.
//! - To remove one it takes a majority of the seeds, at least two, that answer, none of which lists it, [`ROUNDS`] times in a row.
//! - Where that would remove more than half of all, it takes [`ROUNDS_OF_MASS_REMOVAL`].
//! - A seed that does not answer, or answers something else, says nothing. If none answers, nothing changes.
//! - A coordinator is quiescing if the newest process that any page knows of it is.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::page::{Coordinator, MOST_COORDINATORS};

/// How many pages in a row of each seed that answers must lack a member before it is removed.
const ROUNDS: u32 = 3;

/// The same where more than half of all members would be removed: longer than a restarted statestore needs to gather its cluster.
const ROUNDS_OF_MASS_REMOVAL: u32 = 30;

/// The members of a service, and what its seeds have said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    seeds: Vec<Asked>,
    /// By name.
    members: BTreeMap<String, Member>,
    /// Who is shutting down, and who says so.
    quiescing: BTreeMap<IpAddr, Announcement>,
    /// Coordinators that no address is known of at which the service could use them.
    without_address: BTreeSet<String>,
    /// More than half of the members are on no page.
    is_short: bool,
    /// The seeds list more coordinators than any cluster has.
    is_full: bool,
}

/// A seed, and what it has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The seed, as the configuration names it.
    pub seed: String,
    /// What it has said last: its page, or why there is none; `None` before it was asked.
    pub answer: Option<Result<Vec<Coordinator>, String>>,
    /// When that was.
    pub at: Duration,
    /// When it was last a page.
    pub last_page: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    address: IpAddr,
    /// By seed: how many of its pages in a row have lacked the member.
    missing: Vec<u32>,
}

/// What pages say of a coordinator that is shutting down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// When the process started that it is about, in its own words; empty if no page says so.
    pub process: String,
    /// When the last page that says so was read.
    pub read: Duration,
    /// Who says so, in a sentence that continues the coordinator's name.
    pub cause: String,
}

/// Something about a service's members that operators should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A seed answers, for the first time or again.
    Answers {
        /// The seed.
        seed: String,
        /// How many coordinators it lists.
        coordinators: usize,
    },
    /// A seed does not answer, or for another reason than before.
    Fails {
        /// The seed.
        seed: String,
        /// What there was instead of a page.
        cause: String,
    },
    /// There is another member.
    Added {
        /// Its name.
        name: String,
        /// Its address.
        address: IpAddr,
        /// Who lists it.
        cause: String,
    },
    /// There is a member less.
    Removed {
        /// Its name.
        name: String,
        /// Its address.
        address: IpAddr,
        /// Who does not list it.
        cause: String,
    },
    /// The same address is registered under another name.
    Renamed {
        /// Before.
        from: String,
        /// Now.
        to: String,
        /// Its address.
        address: IpAddr,
    },
    /// A coordinator is listed that the service cannot use.
    WithoutAddress {
        /// Its name.
        name: String,
    },
    /// A coordinator says that it is shutting down.
    Quiescing {
        /// Its address.
        address: IpAddr,
        /// Who says so.
        cause: String,
    },
    /// It serves again.
    NotQuiescing {
        /// Its address.
        address: IpAddr,
    },
    /// More than half of the members are on no page: that is not believed so soon.
    Short {
        /// How many are listed.
        listed: usize,
        /// How many there are.
        members: usize,
    },
    /// The pages list enough of them again.
    NotShort,
    /// The seeds together list more coordinators than any cluster has: not all are members.
    Full,
}

impl Membership {
    /// Nobody yet, from these seeds.
    pub fn new(seeds: impl IntoIterator<Item = String>) -> Self {
        let asked = |seed| Asked {
            seed,
            answer: None,
            at: Duration::ZERO,
            last_page: None,
        };
        Self {
            seeds: seeds.into_iter().map(asked).collect(),
            ..Self::default()
        }
    }

    /// The same members, from other seeds. What those have said that stay is kept.
    #[must_use]
    pub fn follow(&self, seeds: impl IntoIterator<Item = String>) -> Self {
        let mut next = Self {
            seeds: Self::new(seeds).seeds,
            ..self.clone()
        };
        let place = |seed: &str| self.seeds.iter().position(|before| before.seed == seed);
        let places: Vec<Option<usize>> = next.seeds.iter().map(|asked| place(&asked.seed)).collect();
        for (asked, before) in next.seeds.iter_mut().zip(&places) {
            if let Some(before) = before.and_then(|place| self.seeds.get(place)) {
                asked.clone_from(before);
            }
        }
        for member in next.members.values_mut() {
            let missing = |place: &Option<usize>| place.and_then(|place| member.missing.get(place).copied());
            member.missing = places.iter().map(|place| missing(place).unwrap_or(0)).collect();
        }
        next
    }

    /// Takes in a member of before: it stays one until the pages say otherwise. One whose name or address is known already is not
    /// taken.
    pub fn remember(&mut self, name: &str, address: IpAddr) {
        if !self.members.contains_key(name) && self.named(address).is_none() {
            self.insert(name, address);
        }
    }

    /// Takes in what a seed has answered, or why it has not. A seed that is not one of ours is ignored: it is from before a
    /// reload.
    pub fn observe(
        &mut self,
        seed: &str,
        answer: Result<Vec<Coordinator>, String>,
        now: Duration,
    ) -> Vec<Notice> {
        let mut notices = Vec::new();
        let Some(index) = self.seeds.iter().position(|asked| asked.seed == seed) else {
            return notices;
        };
        for (name, member) in &mut self.members {
            if let Some(missing) = member.missing.get_mut(index) {
                *missing = match &answer {
                    Ok(page) if !lists(page, name, member.address) => missing.saturating_add(1),
                    _ => 0,
                };
            }
        }
        if let Some(asked) = self.seeds.get_mut(index) {
            notices.extend(asked.take_in(answer, now));
        }
        if self.pages().next().is_some() {
            self.rename(&mut notices);
            self.remove(&mut notices);
            self.add(&mut notices);
            self.take_in_quiescing(&mut notices);
        }
        notices
    }

    /// The members, by name, with their addresses.
    pub fn members(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        self.members
            .iter()
            .map(|(name, member)| (name.as_str(), member.address))
    }

    /// The seeds.
    pub fn seeds(&self) -> &[Asked] {
        &self.seeds
    }

    /// Whether all seeds have been asked once.
    pub fn is_complete(&self) -> bool {
        self.seeds.iter().all(|asked| asked.answer.is_some())
    }

    /// The seeds whose last page lists the coordinator at this address.
    pub fn listed_by(&self, address: IpAddr) -> Vec<&str> {
        let name = self.named(address);
        let is_it = |it: &Coordinator| {
            it.addresses.contains(&address) || it.addresses.is_empty() && Some(it.name.as_str()) == name
        };
        let listing = self.pages().filter(|(_, page)| page.iter().any(is_it));
        listing.map(|(seed, _)| seed).collect()
    }

    /// Who says that the coordinator at this address is shutting down, if anybody does.
    pub fn quiescing(&self, address: IpAddr) -> Option<&Announcement> {
        self.quiescing.get(&address)
    }

    /// The seeds that answer, with their last pages.
    fn pages(&self) -> impl Iterator<Item = (&str, &[Coordinator])> {
        self.answering().map(|(asked, page)| (asked.seed.as_str(), page))
    }

    fn answering(&self) -> impl Iterator<Item = (&Asked, &[Coordinator])> {
        self.seeds.iter().filter_map(|asked| {
            let page = asked.answer.as_ref()?.as_ref().ok()?;
            Some((asked, page.as_slice()))
        })
    }

    /// Everybody who is on a page, by name; where pages differ, as the page has it that knows of the newest process.
    fn listed(&self) -> BTreeMap<&str, &Coordinator> {
        let rank = |it: &Coordinator| {
            (
                !it.addresses.is_empty(),
                it.started.clone(),
                Reverse(it.addresses.clone()),
            )
        };
        let mut listed: BTreeMap<&str, &Coordinator> = BTreeMap::new();
        for coordinator in self.pages().flat_map(|(_, page)| page) {
            let known = listed.entry(&coordinator.name).or_insert(coordinator);
            if rank(coordinator) > rank(known) {
                *known = coordinator;
            }
        }
        listed
    }

    fn is_listed(&self, name: &str, address: IpAddr) -> bool {
        self.pages().any(|(_, page)| lists(page, name, address))
    }

    fn named(&self, address: IpAddr) -> Option<&str> {
        let mut members = self.members.iter();
        let (name, _) = members.find(|(_, member)| member.address == address)?;
        Some(name)
    }

    fn insert(&mut self, name: &str, address: IpAddr) {
        let missing = vec![0; self.seeds.len()];
        self.members.insert(name.to_owned(), Member { address, missing });
    }

    /// A member that is on no page under its name, but at its address under another: it is the same machine.
    fn rename(&mut self, notices: &mut Vec<Notice>) {
        let renamed: Vec<(String, String, IpAddr)> = self
            .listed()
            .values()
            .filter(|it| !self.members.contains_key(&it.name))
            .filter_map(|it| {
                let address = *it.addresses.first()?;
                let from = self.named(address)?;
                let is_elsewhere = self
                    .pages()
                    .any(|(_, page)| page.iter().any(|it| it.name == from));
                (!is_elsewhere).then(|| (from.to_owned(), it.name.clone(), address))
            })
            .collect();
        for (from, to, address) in renamed {
            // Two names of one address: the first has taken it.
            if self.members.remove(&from).is_some() {
                self.insert(&to, address);
                notices.push(Notice::Renamed { from, to, address });
            }
        }
    }

    fn remove(&mut self, notices: &mut Vec<Notice>) {
        let answering: Vec<usize> = (0..)
            .zip(&self.seeds)
            .filter(|(_, asked)| matches!(asked.answer, Some(Ok(_))))
            .map(|(index, _)| index)
            .collect();
        let listed = self
            .members()
            .filter(|(name, address)| self.is_listed(name, *address))
            .count();
        let members = self.members.len();
        let is_short = listed * 2 < members;
        match (self.is_short, is_short) {
            (false, true) => notices.push(Notice::Short { listed, members }),
            (true, false) => notices.push(Notice::NotShort),
            _ => {}
        }
        self.is_short = is_short;
        if answering.len() < self.majority() {
            return;
        }
        let rounds = if is_short { ROUNDS_OF_MASS_REMOVAL } else { ROUNDS };
        let is_gone = |member: &Member| {
            let missing = |index: &usize| member.missing.get(*index).copied().unwrap_or(0);
            answering.iter().all(|index| missing(index) >= rounds)
        };
        let gone: Vec<(String, IpAddr)> = self
            .members
            .iter()
            .filter(|(name, member)| is_gone(member) && !self.is_listed(name, member.address))
            .map(|(name, member)| (name.clone(), member.address))
            .collect();
        let seeds: Vec<&str> = self.pages().map(|(seed, _)| seed).collect();
        let cause = format!("not listed {rounds} times in a row by {}", seeds.join(", "));
        for (name, address) in gone {
            self.members.remove(&name);
            self.quiescing.remove(&address);
            notices.push(Notice::Removed {
                name,
                address,
                cause: cause.clone(),
            });
        }
    }

    /// How many seeds must agree on a removal.
    fn majority(&self) -> usize {
        (self.seeds.len() / 2 + 1).max(2)
    }

    fn add(&mut self, notices: &mut Vec<Notice>) {
        let (mut new, mut without_address) = (BTreeMap::new(), BTreeSet::new());
        for (name, coordinator) in self.listed() {
            match coordinator.addresses.first() {
                _ if self.members.contains_key(name) => {}
                None => drop(without_address.insert(name.to_owned())),
                // Another name of a member that is listed under its own too.
                Some(address) if self.named(*address).is_some() => {}
                Some(address) => drop(new.insert(*address, name.to_owned())),
            }
        }
        let is_full = self.members.len() + new.len() > MOST_COORDINATORS;
        if is_full && !self.is_full {
            notices.push(Notice::Full);
        }
        self.is_full = is_full;
        let room = MOST_COORDINATORS.saturating_sub(self.members.len());
        for (address, name) in new.into_iter().take(room) {
            self.insert(&name, address);
            let cause = format!("listed by {}", self.listed_by(address).join(", "));
            notices.push(Notice::Added { name, address, cause });
        }
        for name in without_address.difference(&self.without_address) {
            notices.push(Notice::WithoutAddress { name: name.clone() });
        }
        self.without_address = without_address;
    }

    fn take_in_quiescing(&mut self, notices: &mut Vec<Notice>) {
        // By address: when the newest process started that a page knows, and who says that it is shutting down.
        let mut newest: BTreeMap<IpAddr, (&str, Vec<&Asked>)> = BTreeMap::new();
        for (asked, coordinator) in self
            .answering()
            .flat_map(|(asked, page)| page.iter().map(move |it| (asked, it)))
        {
            let known = self.members.get(&coordinator.name).map(|member| member.address);
            let own = coordinator.addresses.iter().copied();
            let addresses: Vec<IpAddr> = if coordinator.addresses.is_empty() {
                known.into_iter().collect()
            } else {
                own.collect()
            };
            for address in addresses {
                let (started, saying) = newest.entry(address).or_default();
                if coordinator.started.as_str() > *started {
                    *started = &coordinator.started;
                    saying.clear();
                }
                if coordinator.started == *started && coordinator.is_quiescing {
                    saying.push(asked);
                }
            }
        }
        let mut quiescing = self.quiescing.clone();
        let answering = self.pages().count();
        quiescing.retain(|address, _| {
            let counts = newest.contains_key(address)
                // Until it is removed.
                || self.named(*address).is_some()
                || answering < self.majority();
            if !counts {
                let address = *address;
                notices.push(Notice::NotQuiescing { address });
            }
            counts
        });
        for (address, (process, saying)) in newest {
            let Some(read) = saying.iter().map(|asked| asked.at).max() else {
                if quiescing.remove(&address).is_some() {
                    notices.push(Notice::NotQuiescing { address });
                }
                continue;
            };
            let seeds: Vec<&str> = saying.iter().map(|asked| asked.seed.as_str()).collect();
            let announcement = Announcement {
                process: process.to_owned(),
                read,
                cause: format!("is shutting down, as listed by {}", seeds.join(", ")),
            };
            let cause = announcement.cause.clone();
            if quiescing.insert(address, announcement).is_none() {
                notices.push(Notice::Quiescing { address, cause });
            }
        }
        self.quiescing = quiescing;
    }
}

impl Asked {
    fn take_in(&mut self, answer: Result<Vec<Coordinator>, String>, now: Duration) -> Option<Notice> {
        let seed = self.seed.clone();
        let notice = match (&self.answer, &answer) {
            (Some(Ok(_)), Ok(_)) => None,
            (_, Ok(page)) => Some(Notice::Answers {
                seed,
                coordinators: page.len(),
            }),
            (Some(Err(before)), Err(cause)) if before == cause => None,
            (_, Err(cause)) => Some(Notice::Fails {
                seed,
                cause: cause.clone(),
            }),
        };
        if answer.is_ok() {
            self.last_page = Some(now);
        }
        (self.at, self.answer) = (now, Some(answer));
        notice
    }
}

/// Whether a page lists a member. Where the name could not be resolved this time, its address is taken to be what it was.
fn lists(page: &[Coordinator], name: &str, address: IpAddr) -> bool {
    page.iter()
        .any(|it| it.name == name && (it.addresses.is_empty() || it.addresses.contains(&address)))
}

#[cfg(test)]
mod tests;
