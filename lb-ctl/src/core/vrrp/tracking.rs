//! How what is observed on the host lowers a priority, or forbids to be master.

use std::fmt;

/// Something that an instance depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Track {
    /// What it is.
    pub subject: Subject,
    /// What follows while it is missing.
    pub effect: Effect,
}

/// What is observed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The link of an interface.
    Link(String),
    /// Our program on all interfaces that it belongs on.
    Xdp,
    /// The backends of a service.
    Service {
        /// The service.
        name: String,
        /// How many of a hundred must be healthy.
        percent: u8,
    },
    /// A program of the operator's, which ends with 0 while all is well.
    Script(String),
}

/// What follows while something is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The priority is lower by so much.
    Lower(u8),
    /// The instance is at fault.
    Fault,
}

/// What is missing now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shortage {
    /// By how much the priority is lowered in all.
    pub lowered: u8,
    /// The first thing that it cannot do without and is missing, in words.
    pub fault: Option<String>,
}

impl Shortage {
    /// What is missing, of these. `is_well` says of each subject whether it is there; what is not known yet counts as there,
    /// lest a start hands over what it could keep.
    pub fn of<'a>(
        tracks: impl IntoIterator<Item = &'a Track>,
        is_well: impl Fn(&Subject) -> Option<bool>,
    ) -> Self {
        let mut shortage = Self::default();
        for track in tracks {
            if is_well(&track.subject) != Some(false) {
                continue;
            }
            match track.effect {
                Effect::Lower(by) => shortage.lowered = shortage.lowered.saturating_add(by),
                Effect::Fault if shortage.fault.is_none() => shortage.fault = Some(track.subject.to_string()),
                Effect::Fault => {}
            }
        }
        shortage
    }
}

/// Whether so many of so many are at least this share. None of none is no shortage.
pub fn is_share(healthy: usize, all: usize, percent: u8) -> bool {
    healthy.saturating_mul(100) >= all.saturating_mul(percent.into())
}

/// What is the matter when it is missing.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(interface) => write!(f, "the link of {interface} is down"),
            Self::Xdp => f.write_str("the XDP program is not attached"),
            Self::Service { name, percent } => {
                write!(
                    f,
                    "less than {percent} % of the backends of service {name} are healthy"
                )
            }
            Self::Script(command) => write!(f, "{command} fails"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(subject: Subject, effect: Effect) -> Track {
        Track { subject, effect }
    }

    #[test]
    fn what_is_missing_adds_up_and_what_is_unknown_does_not() {
        let service = Subject::Service {
            name: "impala".into(),
            percent: 50,
        };
        let tracks = [
            track(Subject::Link("eth1".into()), Effect::Lower(100)),
            track(service.clone(), Effect::Lower(200)),
            track(Subject::Xdp, Effect::Fault),
            track(Subject::Script("/bin/false".into()), Effect::Fault),
        ];
        let of = |missing: &[&Subject], unknown: &[&Subject]| {
            Shortage::of(&tracks, |subject| {
                (!unknown.contains(&subject)).then(|| !missing.contains(&subject))
            })
        };
        assert_eq!(of(&[], &[]), Shortage::default());
        assert_eq!(of(&[&service], &[]).lowered, 200);
        assert_eq!(of(&[&service], &[&service]), Shortage::default());
        let all: Vec<&Subject> = tracks.iter().map(|track| &track.subject).collect();
        let all = of(&all, &[]);
        assert_eq!(all.lowered, 255);
        assert_eq!(all.fault.as_deref(), Some("the XDP program is not attached"));
    }

    #[test]
    fn a_share_is_reached_exactly() {
        assert!(is_share(1, 2, 50) && !is_share(1, 3, 34) && is_share(1, 3, 33));
        assert!(is_share(0, 0, 100), "a service without backends");
    }
}
