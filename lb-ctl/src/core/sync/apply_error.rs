//! Why something that the owner tells cannot be taken in.

use crate::core::config::MAX_SERVICES;

/// Why an item cannot be taken in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError<E> {
    /// It refers to a service that has not been introduced.
    #[error("expected the peer to speak of services that it has introduced, found number {0}")]
    Service(u16),
    /// It refers to a backend that has not been introduced as one of that service.
    #[error(
        "expected the peer to speak of backends that it has introduced, of the same service, found number {0}"
    )]
    Backend(u16),
    /// It introduces more services than a balancer can have.
    #[error("expected a peer with at most {MAX_SERVICES} services, found one that introduces more")]
    Services,
    /// It introduces a backend with the id that is nobody's.
    #[error("expected the peer to introduce backends under a number above 0, found 0")]
    Nobody,
    /// It introduces a backend that cannot be called so.
    #[error("in what the peer says of a backend: {0}")]
    Name(String),
    /// It speaks of slots that there are not.
    #[error("expected slots below {slots}, found {last}")]
    Slots {
        /// How many there are.
        slots: u32,
        /// The last one that it speaks of.
        last: u64,
    },
    /// It speaks of slots again of which it has spoken in the same batch.
    #[error(
        "expected each slot of a service at most once in a batch, in their order, found number {first} where {untold} or more may follow"
    )]
    Repeated {
        /// The first one that it speaks of.
        first: u32,
        /// The first one of which it has not spoken.
        untold: u64,
    },
    /// It could not be written.
    #[error(transparent)]
    Mirror(#[from] E),
}
