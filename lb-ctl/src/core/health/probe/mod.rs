//! What checks send and how the answers are read: bytes in, findings out.
//!
//! Whoever answers may be broken, hostile, or another program altogether. Every reader here takes any bytes, reads no
//! further than its limit, and says what is wrong instead of guessing.

pub mod coordinator;
pub mod get_info;
pub mod metrics;
pub mod sasl;

use super::outcome::Verdict;

/// What a HiveServer2 wants before it listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// Nothing: requests follow at once.
    None,
    /// A SASL negotiation, because of Kerberos or LDAP.
    Sasl,
}

/// What a probe has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it says about the backend.
    pub verdict: Verdict,
    /// The same for people.
    pub detail: String,
}

impl Finding {
    /// A finding.
    pub fn new(verdict: Verdict, detail: impl Into<String>) -> Self {
        Self {
            verdict,
            detail: detail.into(),
        }
    }
}

/// How far an answer has come, of which bytes are still arriving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It may become an answer, with more bytes.
    Incomplete,
    /// It is one, or never will be.
    Complete(Finding),
}

/// The most bytes of an answer that are looked at. A true one has some hundred.
pub const ANSWER_LIMIT: usize = 16 * 1024;
