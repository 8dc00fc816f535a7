//! Which part a balancer has in a service that a pair shares.

use std::fmt;

/// The part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It decides where connections go, and tells the other one.
    Owner,
    /// It has become master a moment ago, and is the owner in a moment: the other one may still tell what has come there.
    Arriving,
    /// The other one decides, has told everything, and tells what changes.
    Following,
    /// The other one decides, and has told something: what it knows now is not, or not yet, known here.
    Behind,
    /// It owns nothing, and nobody has told it anything: where a packet of the service would go is its own decision.
    Alone,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Owner,
        Self::Arriving,
        Self::Following,
        Self::Behind,
        Self::Alone,
    ];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Arriving => "arriving",
            Self::Following => "following",
            Self::Behind => "behind",
            Self::Alone => "alone",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
