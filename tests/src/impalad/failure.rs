//! The errors that a coordinator reports to its clients, in Impala's words.

use super::handle::Id;

/// SQLSTATE for everything that has no better one.
const GENERAL_ERROR: &str = "HY000";
/// SQLSTATE of a feature that the server does not have.
const NOT_IMPLEMENTED: &str = "HYC00";

/// Why a request was answered with `ERROR_STATUS`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No such session here: never opened, closed, expired, opened on another coordinator, or before a restart.
    #[error("Invalid session id: {0}")]
    InvalidSession(Id),
    /// No such query here.
    #[error("Invalid query handle: {0}")]
    InvalidQuery(Id),
    /// A handle consists of two parts of 16 bytes.
    #[error(
        "Malformed THandleIdentifier (guid size: {guid}, expected 16, secret size: {secret}, expected 16)"
    )]
    MalformedHandle {
        /// Bytes in the handle's public part.
        guid: usize,
        /// Bytes in its secret part.
        secret: usize,
    },
    /// The coordinator takes no new sessions and statements.
    #[error("Server is being shut down: queries registered on coordinator: {queries}.")]
    ShuttingDown {
        /// Queries that are not closed yet.
        queries: usize,
    },
    /// The query was cancelled.
    #[error("Cancelled")]
    Cancelled,
    /// Not one of the statements of `statement`.
    #[error(
        "AnalysisException: this is a stand-in for Impala. It executes select coordinator(), select sleep(MILLISECONDS) and \
         select rows(N); found: {0}"
    )]
    UnknownStatement(String),
    /// Part of HiveServer2 that the stand-in does without.
    #[error("Unsupported operation: {0}")]
    Unsupported(&'static str),
}

impl Failure {
    /// The error message as a client gets it: Impala ends each with a newline.
    pub fn message(&self) -> String {
        format!("{self}\n")
    }

    /// The SQLSTATE that goes with it.
    pub fn sql_state(&self) -> &'static str {
        match self {
            Self::Unsupported(_) => NOT_IMPLEMENTED,
            _ => GENERAL_ERROR,
        }
    }
}
