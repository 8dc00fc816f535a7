//! The probe of a port that wants SASL first, because of Kerberos or LDAP.
//!
//! Thrift's SASL messages are a status byte, the length of what follows (4 bytes, big-endian), and that. The probe starts a
//! negotiation with a mechanism that nobody has, and is refused. That shows that listener and workers are alive; it does
//! not show whether the coordinator is shutting down.

use super::super::outcome::{Failure, Verdict};
use super::{ANSWER_LIMIT, Finding, Progress};

/// The request: `START` (1) with the mechanism `LBPROBE`.
pub const REQUEST: [u8; 12] = *b"\x01\x00\x00\x00\x07LBPROBE";

/// `OK`, `BAD`, `ERROR` and `COMPLETE`: what a server can answer to a `START`.
const ANSWERS: std::ops::RangeInclusive<u8> = 2..=5;

/// Reads as much of an answer as there is.
pub fn read(bytes: &[u8]) -> Progress {
    let Some((&status, rest)) = bytes.split_first() else {
        return Progress::Incomplete;
    };
    if !ANSWERS.contains(&status) {
        return failing();
    }
    let Some((length, payload)) = rest.split_first_chunk() else {
        return Progress::Incomplete;
    };
    let length = u32::from_be_bytes(*length) as usize;
    if length > ANSWER_LIMIT {
        return failing();
    }
    let Some(payload) = payload.get(..length) else {
        return Progress::Incomplete;
    };
    let text = String::from_utf8_lossy(payload);
    Progress::Complete(Finding::new(
        Verdict::Healthy,
        format!("SASL answered status {status}: {text}"),
    ))
}

fn failing() -> Progress {
    Progress::Complete(Finding::new(
        Verdict::Failed(Failure::Failing),
        "expected the answer of a SASL server, found other bytes",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(status: u8, text: &str) -> Vec<u8> {
        let length = u32::try_from(text.len()).unwrap();
        [&[status][..], &length.to_be_bytes(), text.as_bytes()].concat()
    }

    #[test]
    fn a_refusal_shows_life() {
        let Progress::Complete(finding) = read(&answer(3, "Unsupported mechanism type LBPROBE")) else {
            panic!("incomplete")
        };
        assert_eq!(finding.verdict, Verdict::Healthy);
        assert_eq!(
            finding.detail,
            "SASL answered status 3: Unsupported mechanism type LBPROBE"
        );
    }

    #[test]
    fn what_no_sasl_server_says_fails() {
        for bytes in [&b"HTTP/1.1 400"[..], b"\x80\x01\0\x02", b"\x03\xff\xff\xff\xff"] {
            let Progress::Complete(finding) = read(bytes) else {
                panic!("incomplete: {bytes:?}")
            };
            assert_eq!(finding.verdict, Verdict::Failed(Failure::Failing), "{bytes:?}");
        }
    }

    #[test]
    fn every_truncation_is_incomplete() {
        let whole = answer(3, "Unsupported");
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end]), Progress::Incomplete, "{end}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..100), status in 2_u8..6, length in 0_u8..120) {
            read(&bytes);
            let likely = [&[status, 0, 0, 0, length][..], &bytes].concat();
            let complete = bytes.len() >= usize::from(length);
            prop_assert_eq!(read(&likely) != Progress::Incomplete, complete);
        }
    }
}
