//! The last word about something, by whichever of two balancers it was said.
//!
//! Which word is the last one is told by *stamps*: the time at which it was said, in milliseconds of Unix time, but always more than
//! every stamp that the balancer had seen by then. So whatever follows on another word wins over it, whatever the clocks of the two
//! say; the clocks matter only between words of which neither balancer knew the other's, because the two were apart. Counting alone would
//! do for the first, and would have chance decide the second: who has said more would win, not who has spoken last.

/// No clock shows a later time, in milliseconds of Unix time: the end of the year 9999. A stamp beyond it is nobody's.
pub(super) const LATEST: u64 = 253_402_300_799_999;

/// When a word was said, and where: no two words have the same, but for those of a file that has not kept it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp {
    pub(super) time: u64,
    /// `node.name`.
    pub(super) node: String,
}

/// What was said last; `None` if that took back what had been said before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Register<T> {
    pub(super) stamp: Stamp,
    pub(super) order: Option<T>,
    /// Whether nobody is called so here any more, so that it does not count: it is kept because the other balancer may not know yet.
    pub(super) is_former: bool,
}

impl Stamp {
    /// The next one of the same node, for a second word of one command.
    pub(super) fn next(&self) -> Self {
        Self {
            time: self.time.saturating_add(1),
            node: self.node.clone(),
        }
    }
}

/// An order among orders, for words with the same stamp: both balancers must prefer the same one. Times are left out, which are not quite
/// the same on both.
pub(super) trait Rank {
    /// Its place.
    fn rank(&self) -> u64;
}

impl<T: Copy + Rank> Register<T> {
    pub(super) const fn of(order: Option<T>, stamp: Stamp) -> Self {
        Self {
            stamp,
            order,
            is_former: false,
        }
    }

    /// What counts.
    pub(super) fn order(&self) -> Option<T> {
        self.order.filter(|_| !self.is_former)
    }

    /// Whether it was said after another word, if there is one.
    pub(super) fn is_later_than(&self, other: Option<&Self>) -> bool {
        other.is_none_or(|other| self.stamp > other.stamp)
    }

    /// Takes in another word, and returns whether it counts for more.
    pub(super) fn join(known: &mut Option<Self>, other: Self) -> bool {
        let place = |it: &Self| it.order.as_ref().map_or(0, |order| order.rank() + 1);
        let counts = match known {
            None => true,
            Some(known) => (&known.stamp, place(known)) < (&other.stamp, place(&other)),
        };
        if counts {
            *known = Some(other);
        }
        counts
    }
}
