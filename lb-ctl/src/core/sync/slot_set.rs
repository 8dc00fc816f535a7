//! Some of a service's slots.

/// A set of slots that are counted from the service's first, a bit each: a service has 65,537 of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SlotSet {
    words: Vec<u64>,
    /// How many there are.
    length: usize,
    /// No word before this one has any.
    first: usize,
}

impl SlotSet {
    /// All of so many slots.
    pub(super) fn full(slots: u32) -> Self {
        let mut set = Self::default();
        for slot in 0..slots {
            set.insert(slot);
        }
        set
    }

    pub(super) fn insert(&mut self, slot: u32) {
        let (place, bit) = ((slot / u64::BITS) as usize, 1 << (slot % u64::BITS));
        if place >= self.words.len() {
            self.words.resize(place + 1, 0);
        }
        if let Some(word) = self.words.get_mut(place)
            && *word & bit == 0
        {
            *word |= bit;
            self.length += 1;
            self.first = self.first.min(place);
        }
    }

    /// Takes the first one out.
    pub(super) fn pop_first(&mut self) -> Option<u32> {
        let words = self.words.get_mut(self.first..)?;
        let (place, word) = words.iter_mut().enumerate().find(|(_, word)| **word != 0)?;
        let bit = word.trailing_zeros();
        *word &= *word - 1;
        self.length -= 1;
        self.first += place;
        Some(u32::try_from(self.first).ok()? * u64::BITS + bit)
    }

    pub(super) const fn len(&self) -> usize {
        self.length
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.length == 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(steps in prop::collection::vec(prop::option::weighted(0.7, 0..500_u32), 0..400)) {
            let (mut set, mut model) = (SlotSet::default(), BTreeSet::new());
            for step in steps {
                if let Some(slot) = step {
                    set.insert(slot);
                    model.insert(slot);
                } else {
                    prop_assert_eq!(set.pop_first(), model.pop_first());
                }
                prop_assert_eq!((set.len(), set.is_empty()), (model.len(), model.is_empty()));
            }
        }
    }

    #[test]
    fn a_full_one_has_all() {
        let mut set = SlotSet::full(130);
        let popped: Vec<u32> = std::iter::from_fn(|| set.pop_first()).collect();
        assert_eq!(popped, (0..130).collect::<Vec<_>>());
    }
}
