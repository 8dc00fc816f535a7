//! Whether the balancer itself is well, as `/healthz` says: what an operator must mend, and what they should know.
//!
//! Backends have a health of their own. One that is down is no reason to take traffic away from a balancer, since the other one of
//! a pair sees the same.

use std::fmt;

use super::{
    failures::{Failure, Work},
    interfaces::Interfaces,
};

/// What is wrong with the balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// What keeps it from its work, a sentence each.
    pub problems: Vec<String>,
    /// What does not yet.
    pub warnings: Vec<String>,
}

/// What the condition follows from.
#[derive(Clone, Copy, Debug)]
pub struct Signs<'a> {
    /// The interfaces.
    pub interfaces: &'a Interfaces,
    /// What of the controller's work has failed not long ago.
    pub failures: &'a [Failure<'a>],
    /// Whether the last reload was refused or failed.
    pub reload_failed: bool,
    /// Whether new connections do without records where they can.
    pub records_short: bool,
    /// The names of services in which nobody gets new connections.
    pub unserved: &'a [&'a str],
    /// The names of services in which the guard against mass removal is active.
    pub guarded: &'a [&'a str],
    /// The names of VRRP instances that are at fault, and why.
    pub faulty: &'a [(&'a str, &'a str)],
    /// What gives no sign of life any more, in words.
    pub hanging: Option<&'a str>,
}

impl Condition {
    /// The condition with these signs.
    pub fn of(signs: &Signs<'_>) -> Self {
        let mut condition = Self::default();
        for (name, interface) in signs.interfaces.all() {
            let problem = match interface {
                None => "does not exist: nothing is forwarded there",
                Some(interface) if interface.xdp.is_none() => {
                    "carries no XDP program: nothing that comes in there is forwarded; restart lb-ctl"
                }
                Some(interface) if !interface.up => "is down",
                Some(_) => continue,
            };
            condition.problems.push(format!("interface {name} {problem}"));
        }
        condition.problems.extend(signs.hanging.map(ToOwned::to_owned));
        for Failure {
            work,
            cause,
            persists,
        } in signs.failures
        {
            // Whoever is on the pages, those that were backends before are served on, by another balancer no better. That those who can
            // be backends are not followed is this one's own trouble.
            if *persists && *work != Work::Pages {
                let problem = format!("the controller keeps failing to {work}: {cause}");
                condition.problems.push(problem);
            } else {
                let warning = format!("the controller has failed to {work}: {cause}");
                condition.warnings.push(warning);
            }
        }
        let mut warn = |applies: bool, warning: String| {
            if applies {
                condition.warnings.push(warning);
            }
        };
        warn(
            signs.reload_failed,
            "the configuration file is not followed: the last reload was refused or failed".into(),
        );
        warn(
            signs.records_short,
            "records of connections are running short: raise datapath.max_flows".into(),
        );
        for service in signs.unserved {
            warn(
                true,
                format!("service {service} has no backend for new connections"),
            );
        }
        for service in signs.guarded {
            warn(
                true,
                format!("in service {service} the guard against mass removal is active"),
            );
        }
        // Whoever asks in order to put another balancer in charge has been forestalled.
        for (instance, cause) in signs.faulty {
            warn(true, format!("VRRP instance {instance} is at fault: {cause}"));
        }
        condition
    }

    /// Whether the balancer does its work.
    pub fn is_healthy(&self) -> bool {
        self.problems.is_empty()
    }
}

/// The body of an answer to `/healthz`.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_healthy() {
            writeln!(f, "ok")?;
        }
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::interface::{Interface, testing::interface};

    fn signs(interfaces: &Interfaces) -> Signs<'_> {
        Signs {
            interfaces,
            failures: &[],
            reload_failed: false,
            records_short: false,
            unserved: &[],
            guarded: &[],
            faulty: &[],
            hanging: None,
        }
    }

    #[test]
    fn a_thread_that_hangs_is_a_problem() {
        let interfaces = Interfaces::new([interface(1)]).unwrap();
        let condition = Condition::of(&Signs {
            hanging: Some("the VRRP thread hangs: nobody advertises"),
            ..signs(&interfaces)
        });
        assert!(!condition.is_healthy());
        assert_eq!(
            condition.to_string(),
            "the VRRP thread hangs: nobody advertises\n"
        );
    }

    #[test]
    fn a_balancer_without_trouble_is_ok() {
        let interfaces = Interfaces::new([interface(1), interface(2)]).unwrap();
        let condition = Condition::of(&signs(&interfaces));
        assert!(condition.is_healthy());
        assert_eq!(condition.to_string(), "ok\n");
    }

    #[test]
    fn every_interface_must_exist_be_up_and_carry_the_program() {
        let bare = Interface {
            xdp: None,
            up: false,
            ..interface(2)
        };
        let down = Interface {
            up: false,
            ..interface(3)
        };
        let mut interfaces = Interfaces::new([interface(1), bare, down]).unwrap();
        interfaces.take_in("eth1", None);
        let condition = Condition::of(&signs(&interfaces));
        assert!(!condition.is_healthy());
        assert_eq!(
            condition.to_string(),
            "interface eth1 does not exist: nothing is forwarded there\n\
             interface eth2 carries no XDP program: nothing that comes in there is forwarded; restart lb-ctl\n\
             interface eth3 is down\n"
        );
    }

    #[test]
    fn work_that_keeps_failing_is_a_problem_and_the_state_of_backends_is_not() {
        let interfaces = Interfaces::new([interface(1)]).unwrap();
        let well = Signs {
            reload_failed: true,
            records_short: true,
            unserved: &["impala"],
            guarded: &["hms"],
            faulty: &[("pair", "the link of eth1 is down")],
            ..signs(&interfaces)
        };
        let condition = Condition::of(&well);
        assert!(condition.is_healthy());
        assert_eq!(condition.warnings.len(), 5);
        assert_eq!(
            condition.warnings[4],
            "VRRP instance pair is at fault: the link of eth1 is down"
        );
        assert!(
            condition
                .to_string()
                .starts_with("ok\nwarning: the configuration file")
        );
        let with = |work, persists| {
            let cause = "no memory";
            let failure = Failure {
                work,
                cause,
                persists,
            };
            Condition::of(&Signs {
                failures: &[failure],
                ..well
            })
        };
        let lasting = with(Work::Records, true);
        assert!(!lasting.is_healthy());
        assert!(
            lasting.to_string().starts_with(
                "the controller keeps failing to pass over the records of connections: no memory\nwarning: "
            ),
            "{lasting}"
        );
        assert!(!with(Work::Members, true).is_healthy());
        for (work, persists) in [(Work::Records, false), (Work::Pages, true)] {
            let condition = with(work, persists);
            assert!(condition.is_healthy());
            let said = format!("ok\nwarning: the controller has failed to {work}: no memory\n");
            assert!(condition.to_string().starts_with(&said), "{condition}");
        }
    }
}
