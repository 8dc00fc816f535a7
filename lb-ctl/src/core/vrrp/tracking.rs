//! How what is observed on the host lowers a priority, or forbids to be master.

use std::fmt;

use super::script::Script;

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
    Script(Script),
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
    /// All that is missing, in words.
    pub missing: Vec<String>,
}

impl Shortage {
    /// What is missing, of these. `trouble` says of each subject what is the matter, if anything; what is not known yet counts as
    /// there, lest a start hands over what it could keep.
    pub fn of<'a>(
        tracks: impl IntoIterator<Item = &'a Track>,
        trouble: impl Fn(&Subject) -> Option<String>,
    ) -> Self {
        let mut shortage = Self::default();
        for track in tracks {
            let Some(trouble) = trouble(&track.subject) else {
                continue;
            };
            match track.effect {
                Effect::Lower(by) => shortage.lowered = shortage.lowered.saturating_add(by),
                Effect::Fault if shortage.fault.is_none() => shortage.fault = Some(trouble.clone()),
                Effect::Fault => {}
            }
            shortage.missing.push(trouble);
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
            Self::Script(script) => write!(f, "{} fails", script.command),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::core::command::Command;

    fn track(subject: Subject, effect: Effect) -> Track {
        Track { subject, effect }
    }

    #[test]
    fn what_is_missing_adds_up() {
        let service = Subject::Service {
            name: "impala".into(),
            percent: 50,
        };
        let script = Script {
            command: Command {
                program: "/bin/false".into(),
                arguments: Vec::new(),
            },
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
        };
        let tracks = [
            track(Subject::Link("eth1".into()), Effect::Lower(100)),
            track(service.clone(), Effect::Lower(200)),
            track(Subject::Xdp, Effect::Fault),
            track(Subject::Script(script), Effect::Fault),
        ];
        let of = |missing: &[&Subject]| {
            let trouble = |subject: &Subject| missing.contains(&subject).then(|| subject.to_string());
            Shortage::of(&tracks, trouble)
        };
        assert_eq!(of(&[]), Shortage::default());
        assert_eq!(of(&[&service]).lowered, 200);
        let all: Vec<&Subject> = tracks.iter().map(|track| &track.subject).collect();
        let all = of(&all);
        assert_eq!(all.lowered, 255);
        assert_eq!(all.fault.as_deref(), Some("the XDP program is not attached"));
        assert_eq!(
            all.missing,
            [
                "the link of eth1 is down",
                "less than 50 % of the backends of service impala are healthy",
                "the XDP program is not attached",
                "/bin/false fails"
            ]
        );
    }

    #[test]
    fn a_share_is_reached_exactly() {
        assert!(is_share(1, 2, 50) && !is_share(1, 3, 34) && is_share(1, 3, 33));
        assert!(is_share(0, 0, 100), "a service without backends");
    }
}
