//! Which addresses belong on which interfaces, and what is to be done for that.
//!
//! What is wanted is said as a whole and the latest word counts, so that nothing depends on the order in which instances take and
//! release, and a change that has failed is simply found again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU8,
};

use super::VirtualInterface;

/// An address on an interface, or on a virtual router's own one over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The interface's index: its name may become another's.
    pub interface: u32,
    /// The virtual router whose own interface carries the address; `None` if the interface itself does.
    pub virtual_router: Option<NonZeroU8>,
    /// The address.
    pub address: IpAddr,
}

impl Place {
    /// The virtual interface that carries the address, if one does.
    pub fn virtual_interface(&self) -> Option<VirtualInterface> {
        self.virtual_router.map(|vrid| VirtualInterface {
            parent: self.interface,
            vrid,
            is_ipv4: self.address.is_ipv4(),
        })
    }
}

/// An address that is on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Present {
    /// Where it is.
    pub place: Place,
    /// Whether it has our mark: others are left alone.
    pub ours: bool,
}

/// What belongs where, with the name of the instance that it belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    wanted: BTreeMap<Place, String>,
    /// What is to be taken off. It stays here until it is gone.
    unwanted: BTreeMap<Place, String>,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Duties {
    /// What is to be put on, and for whom.
    pub add: Vec<(Place, String)>,
    /// What is to be taken off, and whose it was.
    pub remove: Vec<(Place, String)>,
    /// What is where it belongs already.
    pub there: BTreeSet<Place>,
}

impl Holdings {
    /// Exactly this belongs there from now on. What belonged there until now is to be taken off from where it was put.
    pub fn want(&mut self, wanted: BTreeMap<Place, String>) {
        let before = std::mem::replace(&mut self.wanted, wanted);
        self.unwanted.extend(before);
        self.unwanted.retain(|place, _| !self.wanted.contains_key(place));
    }

    /// This does not belong there, unless it is wanted: an earlier run may have left it.
    pub fn clear(&mut self, place: Place, name: &str) {
        if !self.wanted.contains_key(&place) {
            self.unwanted.insert(place, name.to_owned());
        }
    }

    /// It has been taken off. Whoever puts it there again is somebody else.
    pub fn gone(&mut self, place: Place) {
        self.unwanted.remove(&place);
    }

    /// What is to be done if this is what there is.
    pub fn duties(&mut self, present: &[Present]) -> Duties {
        self.unwanted
            .retain(|place, _| present.iter().any(|it| it.ours && it.place == *place));
        let mut duties = Duties {
            remove: self
                .unwanted
                .iter()
                .map(|(place, name)| (*place, name.clone()))
                .collect(),
            ..Duties::default()
        };
        for (place, name) in &self.wanted {
            if present.iter().any(|it| it.serves(*place)) {
                duties.there.insert(*place);
            } else {
                duties.add.push((*place, name.clone()));
            }
        }
        duties
    }
}

impl Present {
    /// Whether there is no need for the address at this place: it is there, or somewhere else where the operator has put it. A
    /// link-local one elsewhere is another one, and elsewhere an address has not the MAC address of its virtual router.
    fn serves(&self, place: Place) -> bool {
        let is_link_local = matches!(place.address, IpAddr::V6(address) if address.is_unicast_link_local());
        let counts_elsewhere = !self.ours && !is_link_local && place.virtual_router.is_none();
        self.place == place || (self.place.address == place.address && counts_elsewhere)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place(interface: u32, host: u8) -> Place {
        Place {
            interface,
            virtual_router: None,
            address: IpAddr::from([192, 0, 2, host]),
        }
    }

    fn wanted(places: &[Place]) -> BTreeMap<Place, String> {
        places.iter().map(|place| (*place, "vi".to_owned())).collect()
    }

    fn present(places: &[(Place, bool)]) -> Vec<Present> {
        let present = |&(place, ours): &(Place, bool)| Present { place, ours };
        places.iter().map(present).collect()
    }

    fn places(duties: &[(Place, String)]) -> Vec<Place> {
        duties.iter().map(|(place, _)| *place).collect()
    }

    #[test]
    fn what_is_released_is_taken_off_from_where_it_was_put_until_it_is_gone() {
        let mut holdings = Holdings::default();
        holdings.want(wanted(&[place(1, 10), place(1, 11)]));
        // The interface was deleted, and has come back with another index.
        holdings.want(wanted(&[place(2, 10)]));
        let there = present(&[(place(1, 10), true), (place(1, 11), true), (place(3, 11), true)]);
        for _ in 0..2 {
            let duties = holdings.duties(&there);
            assert_eq!(places(&duties.remove), [place(1, 10), place(1, 11)]);
            assert_eq!(places(&duties.add), [place(2, 10)]);
        }
        let duties = holdings.duties(&[]);
        assert_eq!(places(&duties.remove), []);
        // It is forgotten: whoever puts it there now is somebody else.
        assert_eq!(places(&holdings.duties(&there).remove), []);
        holdings.want(BTreeMap::new());
        holdings.gone(place(2, 10));
        let theirs = present(&[(place(2, 10), true)]);
        assert_eq!(holdings.duties(&theirs), Duties::default());
    }

    #[test]
    fn what_an_operator_has_put_somewhere_is_neither_added_nor_taken_off() {
        let mut holdings = Holdings::default();
        holdings.want(wanted(&[place(1, 10)]));
        let theirs = present(&[(place(2, 10), false)]);
        let duties = holdings.duties(&theirs);
        assert_eq!((duties.add.len(), duties.there.len()), (0, 1));
        holdings.want(BTreeMap::new());
        assert_eq!(holdings.duties(&theirs), Duties::default());
        // With our mark it counts where it belongs only.
        holdings.want(wanted(&[place(1, 10)]));
        let elsewhere = present(&[(place(2, 10), true)]);
        assert_eq!(places(&holdings.duties(&elsewhere).add), [place(1, 10)]);
    }

    #[test]
    fn an_address_that_belongs_on_the_virtual_interface_goes_from_the_interface_itself() {
        let itself = place(1, 10);
        let own = Place {
            virtual_router: NonZeroU8::new(51),
            ..itself
        };
        let mut holdings = Holdings::default();
        holdings.want(wanted(&[own]));
        // An earlier run, without a virtual MAC address, was killed as master.
        holdings.clear(itself, "vi");
        let duties = holdings.duties(&present(&[(itself, true)]));
        assert_eq!(
            (places(&duties.add), places(&duties.remove)),
            (vec![own], vec![itself])
        );
        // An operator's stays, and does not do.
        let duties = holdings.duties(&present(&[(itself, false)]));
        assert_eq!((places(&duties.add), places(&duties.remove)), (vec![own], vec![]));
        let virtual_interface = own.virtual_interface().unwrap();
        assert_eq!((virtual_interface.parent, virtual_interface.is_ipv4), (1, true));
    }

    #[test]
    fn the_link_local_address_of_another_link_is_another_one() {
        let mut holdings = Holdings::default();
        let at = |interface| Place {
            interface,
            virtual_router: None,
            address: "fe80::10".parse().unwrap(),
        };
        holdings.want(wanted(&[at(1)]));
        let elsewhere = present(&[(at(2), false)]);
        assert_eq!(places(&holdings.duties(&elsewhere).add), [at(1)]);
    }

    #[test]
    fn what_an_earlier_run_has_left_goes_unless_it_is_wanted() {
        let mut holdings = Holdings::default();
        holdings.want(wanted(&[place(1, 10)]));
        holdings.clear(place(1, 10), "vi");
        holdings.clear(place(1, 11), "vi");
        let left = present(&[(place(1, 10), true), (place(1, 11), true)]);
        let duties = holdings.duties(&left);
        assert_eq!(places(&duties.remove), [place(1, 11)]);
        assert_eq!(duties.there, BTreeSet::from([place(1, 10)]));
    }

    proptest! {
        /// Whatever is said in whatever order, and whichever changes fail: once all succeed, there is what was wanted last, and nothing
        /// that was ever wanted besides.
        #[test]
        fn the_latest_word_counts(
            words in prop::collection::vec(
                (prop::collection::btree_set((1_u32..3, 0_u8..4), 0..5), prop::collection::vec(any::<bool>(), 16)),
                1..12,
            ),
            theirs in prop::collection::btree_set((1_u32..4, 0_u8..4), 0..3),
        ) {
            let theirs: Vec<Place> = theirs.iter().map(|&(interface, host)| place(interface, host)).collect();
            let mut ours = BTreeSet::new();
            let mut holdings = Holdings::default();
            let mut work = |holdings: &mut Holdings, succeeds: &mut dyn FnMut() -> bool| {
                let present: Vec<Present> = theirs
                    .iter()
                    .map(|place| Present { place: *place, ours: false })
                    .chain(ours.iter().map(|place| Present { place: *place, ours: true }))
                    .collect();
                let duties = holdings.duties(&present);
                for (place, _) in duties.add {
                    assert!(!theirs.contains(&place));
                    if succeeds() {
                        assert!(ours.insert(place), "it is there already");
                    }
                }
                for (place, _) in duties.remove {
                    if succeeds() {
                        assert!(ours.remove(&place), "it is not there");
                        holdings.gone(place);
                    }
                }
                ours.clone()
            };
            let mut last = BTreeSet::new();
            for (word, outcomes) in &words {
                last = word.iter().map(|&(interface, host)| place(interface, host)).collect();
                holdings.want(last.iter().map(|place| (*place, String::new())).collect());
                let mut outcomes = outcomes.iter();
                work(&mut holdings, &mut || outcomes.next().copied().unwrap_or(true));
            }
            let ours = work(&mut holdings, &mut || true);
            let expected: BTreeSet<Place> = last
                .into_iter()
                .filter(|place| theirs.iter().all(|it| it.address != place.address))
                .collect();
            prop_assert_eq!(ours, expected);
        }
    }
}
