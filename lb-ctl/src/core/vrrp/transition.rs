//! The states of an instance, and why it goes from one to another.

use std::{fmt, net::IpAddr, time::Duration};

/// The state of an instance, or of several that move together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// It has not begun, or has ended.
    Init,
    /// Somebody else holds the addresses, or will if nobody better is there.
    Backup,
    /// It holds the addresses.
    Master,
    /// It must not hold them, whoever else does.
    Fault,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Init, Self::Backup, Self::Master, Self::Fault];
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Init => "init",
            Self::Backup => "backup",
            Self::Master => "master",
            Self::Fault => "fault",
        })
    }
}

/// A change of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The state before.
    pub from: State,
    /// The state since.
    pub to: State,
    /// When it was.
    pub at: Duration,
    /// Why it was.
    pub cause: Cause,
}

/// Why a state changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It begins.
    Started,
    /// Its priority is the one of the addresses' owner, who waits for nobody.
    Owner,
    /// No advertisement has come for too long.
    Silence {
        /// Who was master before, if anybody was heard.
        master: Option<IpAddr>,
    },
    /// The master has said that it leaves.
    Left {
        /// Who it was.
        master: IpAddr,
    },
    /// The master's priority is lower than ours.
    Preemption {
        /// Who it was.
        master: IpAddr,
        /// Its priority.
        priority: u8,
    },
    /// Another master has a higher priority, or the same and a higher address.
    Better {
        /// Who it is.
        master: IpAddr,
        /// Its priority.
        priority: u8,
    },
    /// An operator wants somebody else to be master.
    HandedOver,
    /// Something that it cannot do without is missing.
    Fault(String),
    /// Nothing is missing any more.
    Recovered,
    /// It ends.
    Stopped,
}

impl Cause {
    /// A short name of the cause, for counters.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Owner => "owner",
            Self::Silence { .. } => "silence",
            Self::Left { .. } => "left",
            Self::Preemption { .. } => "preemption",
            Self::Better { .. } => "better",
            Self::HandedOver => "handed_over",
            Self::Fault(_) => "fault",
            Self::Recovered => "recovered",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started => f.write_str("started"),
            Self::Owner => f.write_str("priority 255 waits for nobody"),
            Self::Silence { master: None } => f.write_str("nobody advertises"),
            Self::Silence { master: Some(master) } => write!(f, "{master} advertises no more"),
            Self::Left { master } => write!(f, "{master} has left"),
            Self::Preemption { master, priority } => {
                write!(f, "{master} has the lower priority {priority}")
            }
            Self::Better { master, priority } => write!(f, "{master} advertises priority {priority}"),
            Self::HandedOver => f.write_str("handed over by an operator"),
            Self::Fault(what) => f.write_str(what),
            Self::Recovered => f.write_str("nothing is missing any more"),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}
