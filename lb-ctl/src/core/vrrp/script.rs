//! Programs of the operator's that end with 0 while all is well.

use std::time::Duration;

use crate::core::command::Command;

/// Such a program, and how many of its ends it takes to believe it. Two that are alike are one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Script {
    /// The program.
    pub command: Command,
    /// From the begin of one run to the begin of the next.
    pub interval: Duration,
    /// How long a run may take.
    pub timeout: Duration,
    /// How many runs in a row must succeed until all is well again; at least 1.
    pub rise: u32,
    /// How many runs in a row must fail until it is not; at least 1.
    pub fall: u32,
}

/// What the ends of a script's runs have come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// `None` before it is known.
    is_well: Option<bool>,
    /// How many runs in a row have contradicted that, or failed if nothing is known.
    contradictions: u32,
}

impl Standing {
    /// Takes in whether a run has succeeded. The first success is believed at once: until then it counts as well anyway.
    pub fn take_in(&mut self, script: &Script, succeeded: bool) {
        if self.is_well == Some(succeeded) {
            self.contradictions = 0;
            return;
        }
        self.contradictions = self.contradictions.saturating_add(1);
        let needed = match (self.is_well, succeeded) {
            (None, true) => 1,
            (Some(_), true) => script.rise,
            (_, false) => script.fall,
        };
        if self.contradictions >= needed {
            *self = Self {
                is_well: Some(succeeded),
                contradictions: 0,
            };
        }
    }

    /// Whether all is well; `None` before that is known.
    pub fn is_well(&self) -> Option<bool> {
        self.is_well
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a series of ends comes to, one after another: `+` is a success, `-` a failure.
    fn course(rise: u32, fall: u32, ends: &str) -> String {
        let script = Script {
            command: Command {
                program: "/bin/true".into(),
                arguments: Vec::new(),
            },
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            rise,
            fall,
        };
        let mut standing = Standing::default();
        let mut word = |end: char| {
            standing.take_in(&script, end == '+');
            match standing.is_well() {
                None => '?',
                Some(true) => '+',
                Some(false) => '-',
            }
        };
        ends.chars().map(&mut word).collect()
    }

    #[test]
    fn it_takes_several_ends_in_a_row_to_believe_a_change() {
        assert_eq!(course(2, 3, "+--+---+-++-"), "++++++----++");
        assert_eq!(course(1, 1, "+-+-"), "+-+-");
    }

    #[test]
    fn nothing_is_known_before_a_success_or_enough_failures() {
        assert_eq!(course(2, 3, "--+"), "??+");
        assert_eq!(course(2, 3, "---+"), "??--");
        assert_eq!(course(5, 1, "-"), "-");
    }
}
