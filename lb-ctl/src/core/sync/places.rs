//! What the peer's interfaces are called here.
//!
//! How answers get to a client is told by the place of an interface in the sender's `datapath.interfaces`. Where both have interfaces of the
//! same names, each is the one of that name, wherever it stands. Where they have not, nothing but the place is left to go by.

/// Our places of the peer's interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Places {
    /// The same.
    #[default]
    Same,
    /// By the peer's.
    ByName(Vec<u8>),
}

impl Places {
    /// By the names of both; `None` if these are not the same on both, in whatever order.
    pub fn by_name(theirs: &[String], ours: &[String]) -> Option<Self> {
        if theirs.len() != ours.len() || !ours.iter().all(|name| theirs.contains(name)) {
            return None;
        }
        let place = |name: &String| u8::try_from(ours.iter().position(|it| it == name)?).ok();
        theirs.iter().map(place).collect::<Option<_>>().map(Self::ByName)
    }

    /// Our place of one of the peer's interfaces, if there is any.
    pub(super) fn of(&self, theirs: u8) -> Option<u8> {
        match self {
            Self::Same => Some(theirs),
            Self::ByName(places) => places.get(usize::from(theirs)).copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn an_interface_is_the_one_of_its_name() {
        let ours = names(&["eth0", "eth1", "eth2"]);
        let places = Places::by_name(&names(&["eth2", "eth0", "eth1"]), &ours).unwrap();
        assert_eq!(
            [0, 1, 2, 3].map(|place| places.of(place)),
            [Some(2), Some(0), Some(1), None]
        );
    }

    #[test]
    fn other_names_tell_nothing() {
        let ours = names(&["eth0", "eth1"]);
        // None at all is what an older peer says.
        for theirs in [
            &["eth0"][..],
            &["eth0", "eth2"],
            &["eth1", "eth1"],
            &["eth0", "eth1", "eth2"],
            &[],
        ] {
            assert_eq!(Places::by_name(&names(theirs), &ours), None, "{theirs:?}");
        }
        assert_eq!(Places::default().of(7), Some(7));
    }
}
