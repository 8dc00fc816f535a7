//! Handles of sessions and queries.

use std::fmt;

use super::failure::Failure;
use super::thrift_value::{FieldError, Struct};

/// The public part of a handle: names a session or a query.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id([u8; 16]);

/// What a client shows to use a session or a query. A query's secret is that of its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handle {
    /// The public part.
    pub id: Id,
    /// The secret part: who does not know it is told that the session or query does not exist.
    pub secret: Id,
}

impl Id {
    /// An id that no other coordinator, and no earlier process of this one, has given out.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 16];
        let mut rest = bytes.as_mut_slice();
        while !rest.is_empty() {
            let filled = rustix::rand::getrandom(&mut *rest, rustix::rand::GetRandomFlags::empty())?;
            rest = &mut rest[filled..];
        }
        Ok(Self(bytes))
    }
}

/// Impala writes ids as two hexadecimal numbers, which it keeps in the byte order of x86.
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = u128::from_le_bytes(self.0);
        let (low, high) = (number & u128::from(u64::MAX), number >> 64);
        write!(f, "{low:016x}:{high:016x}")
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Handle {
    /// Reads a `THandleIdentifier`. The outer error means that it is not one at all.
    pub fn from_thrift(identifier: &Struct) -> Result<Result<Self, Failure>, FieldError> {
        let (guid, secret) = (identifier.binary(1, "guid")?, identifier.binary(2, "secret")?);
        Ok(match (guid.try_into(), secret.try_into()) {
            (Ok(id), Ok(key)) => Ok(Self {
                id: Id(id),
                secret: Id(key),
            }),
            _ => Err(Failure::MalformedHandle {
                guid: guid.len(),
                secret: secret.len(),
            }),
        })
    }

    /// The same as a `THandleIdentifier`.
    pub fn to_thrift(self) -> Struct {
        Struct::new()
            .with(1, self.id.0.to_vec())
            .with(2, self.secret.0.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_written_as_impala_writes_them() {
        assert_eq!(Id([0; 16]).to_string(), "0000000000000000:0000000000000000");
        let counted: [u8; 16] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        assert_eq!(Id(counted).to_string(), "0706050403020100:0f0e0d0c0b0a0908");
    }

    #[test]
    fn ids_differ() {
        assert_ne!(Id::random().unwrap(), Id::random().unwrap());
    }

    #[test]
    fn a_handle_of_the_wrong_size_is_told_apart_from_one_that_is_missing() {
        let short = Struct::new().with(1, vec![0; 3]).with(2, vec![0; 16]);
        assert_eq!(
            Handle::from_thrift(&short).unwrap(),
            Err(Failure::MalformedHandle { guid: 3, secret: 16 })
        );
        assert!(Handle::from_thrift(&Struct::new().with(1, vec![0; 16])).is_err());
    }
}
