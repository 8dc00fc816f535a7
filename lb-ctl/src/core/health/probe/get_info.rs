//! The HiveServer2 probe: `GetInfo` for a session that does not exist.
//!
//! It opens no session, so that there is nothing to clean up. A coordinator that is well says that the session is
//! invalid; one that is shutting down says so instead, because it asks that first. The protocol is Thrift's binary one,
//! strict and without frames, as Impala speaks it on its port 21050.
//!
//! A reply: `80 01 00` and the message type, the method's name, the sequence number, then a struct whose field 0 is a
//! `TGetInfoResp`. Its field 1 is a `TStatus`: 1 status code, 5 error message. Fields may come in any order, and unknown
//! ones are skipped. Field numbers are those of Hive's `TCLIService.thrift`.

use super::super::outcome::{Failure, Verdict};
use super::{ANSWER_LIMIT, Finding, Progress};

/// The request: a call of `GetInfo` with a session handle of zeros and the information type `CLI_DBMS_NAME`.
pub const REQUEST: [u8; 85] = {
    let mut bytes = [0; 85];
    let mut at = 0;
    // Version 1, message type 1 (call), the method's name with its length, sequence number 1.
    at = copy(
        &mut bytes,
        at,
        b"\x80\x01\x00\x01\x00\x00\x00\x07GetInfo\x00\x00\x00\x01",
    );
    // Field 1: struct TGetInfoReq. Its field 1: struct TSessionHandle. Its field 1: struct THandleIdentifier.
    at = copy(&mut bytes, at, b"\x0c\x00\x01\x0c\x00\x01\x0c\x00\x01");
    // Its fields 1 and 2: 16 bytes each, all zero.
    at = copy(&mut bytes, at, b"\x0b\x00\x01\x00\x00\x00\x10") + 16;
    at = copy(&mut bytes, at, b"\x0b\x00\x02\x00\x00\x00\x10") + 16;
    // The ends of both structs; field 2 of the request: infoType, 17; the ends of the request and of the arguments.
    let end = copy(&mut bytes, at, b"\x00\x00\x08\x00\x02\x00\x00\x00\x11\x00\x00");
    assert!(end == bytes.len());
    bytes
};

const fn copy(to: &mut [u8; 85], at: usize, from: &[u8]) -> usize {
    let mut index = 0;
    while index < from.len() {
        to[at + index] = from[index];
        index += 1;
    }
    at + from.len()
}

/// Version 1 of the strict binary protocol, in the upper half of a message's first word.
const VERSION: u32 = 0x8001;
const REPLY: u8 = 2;
const EXCEPTION: u8 = 3;

/// `TStatusCode`
const SUCCESS_STATUS: i32 = 0;
const SUCCESS_WITH_INFO_STATUS: i32 = 1;
const INVALID_HANDLE_STATUS: i32 = 4;

/// Nesting that no answer has; a limit, since every level takes stack.
const MAX_DEPTH: u8 = 16;

/// Reads as much of an answer as there is.
pub fn read(bytes: &[u8]) -> Progress {
    let mut reader = Reader { bytes, at: 0 };
    match reader.message() {
        Ok(answer) => Progress::Complete(judge(&answer)),
        Err(Stop::Incomplete) if bytes.len() < ANSWER_LIMIT => Progress::Incomplete,
        Err(Stop::Incomplete) => failing(&format!("an answer of more than {ANSWER_LIMIT} bytes")),
        Err(Stop::Malformed(what)) => failing(what),
    }
}

fn failing(what: &str) -> Progress {
    let detail = format!("expected a Thrift reply to GetInfo, found {what}");
    Progress::Complete(Finding::new(Verdict::Failed(Failure::Failing), detail))
}

fn judge(answer: &Answer) -> Finding {
    match answer {
        Answer::Status {
            code: SUCCESS_STATUS | SUCCESS_WITH_INFO_STATUS,
            ..
        } => Finding::new(Verdict::Healthy, "GetInfo succeeded"),
        Answer::Status {
            code: INVALID_HANDLE_STATUS,
            message,
        } => Finding::new(Verdict::Healthy, format!("GetInfo answered: {message}")),
        Answer::Status { code, message } => {
            let lower = message.to_ascii_lowercase();
            let verdict = if lower.contains("being shut down") {
                Verdict::Quiescing
            } else if lower.contains("invalid session") {
                Verdict::Healthy
            } else {
                Verdict::Failed(Failure::Failing)
            };
            Finding::new(verdict, format!("GetInfo answered status {code}: {message}"))
        }
        Answer::Exception { message } => Finding::new(
            Verdict::Failed(Failure::Failing),
            format!("GetInfo answered with an exception: {message}"),
        ),
    }
}

/// A complete reply.
#[derive(Debug)]
enum Answer {
    Status { code: i32, message: String },
    Exception { message: String },
}

/// Why reading has ended.
#[derive(Debug)]
enum Stop {
    Incomplete,
    Malformed(&'static str),
}

type Result<T> = std::result::Result<T, Stop>;

/// The types of fields.
mod kind {
    pub(super) const STOP: u8 = 0;
    pub(super) const BOOL: u8 = 2;
    pub(super) const BYTE: u8 = 3;
    pub(super) const DOUBLE: u8 = 4;
    pub(super) const I16: u8 = 6;
    pub(super) const I32: u8 = 8;
    pub(super) const I64: u8 = 10;
    pub(super) const STRING: u8 = 11;
    pub(super) const STRUCT: u8 = 12;
    pub(super) const MAP: u8 = 13;
    pub(super) const SET: u8 = 14;
    pub(super) const LIST: u8 = 15;
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn message(&mut self) -> Result<Answer> {
        let [high, low, _, kind] = self.array()?;
        if u32::from_be_bytes([0, 0, high, low]) != VERSION {
            return Err(Stop::Malformed("bytes that are not Thrift's binary protocol"));
        }
        if self.string()? != b"GetInfo" {
            return Err(Stop::Malformed("a reply to another method"));
        }
        // The sequence number. There is only one request on the connection.
        self.array::<4>()?;
        match kind {
            REPLY => self.reply(),
            EXCEPTION => self.exception(),
            _ => Err(Stop::Malformed(
                "a message that is neither a reply nor an exception",
            )),
        }
    }

    /// The struct of a reply; its field 0 is what the method returns.
    fn reply(&mut self) -> Result<Answer> {
        let mut status = None;
        while let Some((kind, id)) = self.field()? {
            if (kind, id) == (kind::STRUCT, 0) {
                status = self.response()?.or(status);
            } else {
                self.skip(kind, 0)?;
            }
        }
        status.ok_or(Stop::Malformed("a reply without a status"))
    }

    /// `TGetInfoResp`
    fn response(&mut self) -> Result<Option<Answer>> {
        let mut status = None;
        while let Some((kind, id)) = self.field()? {
            if (kind, id) == (kind::STRUCT, 1) {
                status = self.status()?.or(status);
            } else {
                self.skip(kind, 0)?;
            }
        }
        Ok(status)
    }

    /// `TStatus`
    fn status(&mut self) -> Result<Option<Answer>> {
        let mut code = None;
        let mut message = String::new();
        while let Some((kind, id)) = self.field()? {
            match (kind, id) {
                (kind::I32, 1) => code = Some(i32::from_be_bytes(self.array()?)),
                (kind::STRING, 5) => message = self.text()?,
                _ => self.skip(kind, 0)?,
            }
        }
        Ok(code.map(|code| Answer::Status { code, message }))
    }

    /// `TApplicationException`
    fn exception(&mut self) -> Result<Answer> {
        let mut message = String::new();
        while let Some((kind, id)) = self.field()? {
            match (kind, id) {
                (kind::STRING, 1) => message = self.text()?,
                _ => self.skip(kind, 0)?,
            }
        }
        Ok(Answer::Exception { message })
    }

    /// Type and number of the next field; `None` at the end of a struct.
    fn field(&mut self) -> Result<Option<(u8, i16)>> {
        let [kind] = self.array()?;
        if kind == kind::STOP {
            return Ok(None);
        }
        Ok(Some((kind, i16::from_be_bytes(self.array()?))))
    }

    fn skip(&mut self, kind: u8, depth: u8) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Stop::Malformed("values that are nested too deep"));
        }
        match kind {
            kind::BOOL | kind::BYTE => self.take(1).map(drop),
            kind::I16 => self.take(2).map(drop),
            kind::I32 => self.take(4).map(drop),
            kind::I64 | kind::DOUBLE => self.take(8).map(drop),
            kind::STRING => self.string().map(drop),
            kind::STRUCT => {
                while let Some((kind, _)) = self.field()? {
                    self.skip(kind, depth + 1)?;
                }
                Ok(())
            }
            kind::LIST | kind::SET => {
                let [element] = self.array()?;
                // Every element takes at least a byte, so the end of the bytes ends the loop whatever the count says.
                for _ in 0..self.length()? {
                    self.skip(element, depth + 1)?;
                }
                Ok(())
            }
            kind::MAP => {
                let [key, value] = self.array()?;
                for _ in 0..self.length()? {
                    self.skip(key, depth + 1)?;
                    self.skip(value, depth + 1)?;
                }
                Ok(())
            }
            _ => Err(Stop::Malformed("a field of an unknown type")),
        }
    }

    fn text(&mut self) -> Result<String> {
        self.string()
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    fn string(&mut self) -> Result<&'a [u8]> {
        let length = self.length()?;
        self.take(length)
    }

    /// A length or count, which is never negative and never more than an answer may have bytes.
    fn length(&mut self) -> Result<usize> {
        usize::try_from(i32::from_be_bytes(self.array()?))
            .ok()
            .filter(|length| *length <= ANSWER_LIMIT)
            .ok_or(Stop::Malformed("a length that no answer has"))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| Stop::Incomplete)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest.get(..length).ok_or(Stop::Incomplete)?;
        self.at += length;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn string(text: &str) -> Vec<u8> {
        let length = u32::try_from(text.len()).unwrap();
        [&length.to_be_bytes()[..], text.as_bytes()].concat()
    }

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[0x80, 1, 0, kind][..], &string("GetInfo"), &[0; 4], body].concat()
    }

    /// A reply as Impala writes it: the status, and an info value that is required.
    fn reply(code: i32, text: &str) -> Vec<u8> {
        let status = [
            &[8, 0, 1][..],
            &code.to_be_bytes(),
            &[11, 0, 3],
            &string("HY000"),
            &[11, 0, 5],
            &string(text),
            &[0],
        ]
        .concat();
        message(
            REPLY,
            &[&[12, 0, 0, 12, 0, 1][..], &status, &[12, 0, 2, 0, 0, 0]].concat(),
        )
    }

    fn verdict(bytes: &[u8]) -> Verdict {
        match read(bytes) {
            Progress::Complete(finding) => finding.verdict,
            Progress::Incomplete => panic!("incomplete: {bytes:?}"),
        }
    }

    const FAILING: Verdict = Verdict::Failed(Failure::Failing);

    #[test]
    fn the_request_is_the_known_one() {
        let hex = REQUEST.map(|byte| format!("{byte:02x}")).concat();
        let zeros = "00".repeat(16);
        assert_eq!(
            hex,
            format!(
                "8001000100000007476574496e666f000000010c00010c00010c00010b000100000010{zeros}0b000200000010{zeros}\
                 0000080002000000110000"
            )
        );
    }

    #[test]
    fn what_coordinators_say_is_understood() {
        let invalid = "Invalid session id: 0000000000000000:0000000000000000\n";
        assert_eq!(verdict(&reply(3, invalid)), Verdict::Healthy);
        assert_eq!(verdict(&reply(4, "")), Verdict::Healthy);
        assert_eq!(verdict(&reply(0, "")), Verdict::Healthy);
        assert_eq!(verdict(&reply(1, "")), Verdict::Healthy);
        let leaving = "Server is being shut down: queries registered on coordinator: 3.\n";
        assert_eq!(verdict(&reply(3, leaving)), Verdict::Quiescing);
        assert_eq!(verdict(&reply(3, "out of memory")), FAILING);
        assert_eq!(verdict(&reply(2, "")), FAILING);
    }

    #[test]
    fn a_server_that_does_not_know_the_method_fails() {
        let exception = [
            &[11, 0, 1][..],
            &string("Invalid method name: 'GetInfo'"),
            &[8, 0, 2, 0, 0, 0, 1, 0],
        ]
        .concat();
        let Progress::Complete(finding) = read(&message(EXCEPTION, &exception)) else {
            panic!("incomplete")
        };
        assert_eq!(finding.verdict, FAILING);
        assert!(
            finding.detail.contains("Invalid method name"),
            "{}",
            finding.detail
        );
    }

    #[test]
    fn other_protocols_are_recognised_early() {
        for bytes in [
            &b"HTTP/1.1"[..],
            b"SSH-2.0-",
            b"\x03\0\0\0\x16Unsupported",
            b"\x15\x03\x03\0\x02",
        ] {
            assert_eq!(verdict(bytes), FAILING);
        }
    }

    #[test]
    fn unknown_fields_are_skipped() {
        let status = [
            &[8, 0, 1, 0, 0, 0, 3][..],
            &[11, 0, 5],
            &string("Invalid session"),
            &[0],
        ]
        .concat();
        let strange = [
            &[2, 0, 9, 1][..],                                       // bool
            &[13, 0, 10, 11, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1], // map of one string to one integer
            &[15, 0, 11, 12, 0, 0, 0, 2, 0, 0],                      // list of two empty structs
            &[4, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0],                     // double
        ]
        .concat();
        let body = [
            &strange[..],
            &[12, 0, 0],
            &strange,
            &[12, 0, 1],
            &status,
            &strange,
            &[0],
            &strange,
            &[0],
        ]
        .concat();
        assert_eq!(verdict(&message(REPLY, &body)), Verdict::Healthy);
    }

    #[test]
    fn nesting_and_lengths_are_bounded() {
        let deep = [12, 0, 1].repeat(5_000);
        assert_eq!(verdict(&message(REPLY, &deep)), FAILING);
        let lists = [15]
            .repeat(100)
            .iter()
            .flat_map(|&it| [it, 0, 0, 0, 1])
            .collect::<Vec<_>>();
        assert_eq!(
            verdict(&message(REPLY, &[&[15, 0, 7][..], &lists].concat())),
            FAILING
        );
        for length in [-1, i32::MAX] {
            assert_eq!(
                verdict(&message(
                    REPLY,
                    &[&[11, 0, 7][..], &length.to_be_bytes()].concat()
                )),
                FAILING
            );
        }
        let endless = message(REPLY, &[2, 0, 1, 1].repeat(ANSWER_LIMIT));
        assert_eq!(read(&endless[..ANSWER_LIMIT - 1]), Progress::Incomplete);
        assert_eq!(verdict(&endless[..ANSWER_LIMIT]), FAILING);
    }

    #[test]
    fn every_truncation_is_incomplete() {
        for text in ["", "Invalid session id"] {
            let whole = reply(3, text);
            for end in 0..whole.len() {
                assert_eq!(read(&whole[..end]), Progress::Incomplete, "{end}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            read(&bytes);
            read(&message(REPLY, &bytes));
            read(&message(EXCEPTION, &bytes));
        }

        #[test]
        fn any_damage_is_survived(
            code in 0..6,
            text in ".{0,40}",
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = reply(code, &text);
            for (place, value) in damage {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            read(&bytes);
        }

        #[test]
        fn more_bytes_never_change_a_finding(bytes in prop::collection::vec(any::<u8>(), 0..60), more: u8) {
            for bytes in [bytes.clone(), message(REPLY, &bytes), reply(3, "Invalid session")] {
                if let Progress::Complete(finding) = read(&bytes) {
                    prop_assert_eq!(read(&[&bytes[..], &[more]].concat()), Progress::Complete(finding));
                }
            }
        }

        #[test]
        fn any_message_is_carried_through(text in "[a-z ]{0,60}") {
            let Progress::Complete(finding) = read(&reply(3, &text)) else {
                return Err(TestCaseError::fail("incomplete"));
            };
            prop_assert_eq!(finding.detail, format!("GetInfo answered status 3: {text}"));
        }
    }
}
