//! A small HiveServer2 client: the health probe, and sessions that execute statements.
//!
//! It works on any connected [`TcpStream`], so a test can connect from where it likes and set its own timeouts.

use std::io::{BufReader, Write as _};
use std::net::TcpStream;

use crate::impalad::hs2::{CLI_DBMS_NAME, FETCH_NEXT, PROTOCOL_V6, SUCCESS_STATUS};
use crate::impalad::thrift_binary::{Limits, Message, MessageReader, TMessageType, ThriftError};
use crate::impalad::thrift_value::{FieldError, Struct, Value};

/// Rows to ask for at once.
const BATCH_ROWS: i64 = 1024;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection failed, or what came back is not HiveServer2.
    #[error(transparent)]
    Protocol(#[from] ThriftError),
    /// The server closed the connection where an answer was expected.
    #[error("expected the answer to {0}, found the end of the connection")]
    Closed(&'static str),
    /// The answer belongs to something else.
    #[error("expected the answer to {expected}, found {found}")]
    WrongAnswer {
        /// The method that was called.
        expected: &'static str,
        /// What the answer says it is.
        found: String,
    },
    /// The server refused.
    #[error("{method} failed with status {code}: {message}")]
    Refused {
        /// The method that was called.
        method: &'static str,
        /// `TStatusCode`
        code: i32,
        /// The server's message.
        message: String,
    },
    /// A statement that should return one string returned something else.
    #[error("expected one row with one string, found {0:?}")]
    Result(Vec<Value>),
}

impl From<std::io::Error> for ClientError {
    fn from(error: std::io::Error) -> Self {
        Self::Protocol(error.into())
    }
}

impl From<FieldError> for ClientError {
    fn from(error: FieldError) -> Self {
        Self::Protocol(error.into())
    }
}

/// Result of a call.
pub type Result<T, E = ClientError> = std::result::Result<T, E>;

/// What the probe was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeAnswer {
    /// `TStatusCode`
    pub status: i32,
    /// The error message: "Invalid session id…" from a healthy Impala, "Server is being shut down…" from one that leaves.
    pub message: String,
}

/// The health probe: `GetInfo` without a session. 85 bytes, the same for everybody.
pub fn probe_bytes() -> Result<Vec<u8>> {
    let identifier = Struct::new().with(1, vec![0; 16]).with(2, vec![0; 16]);
    let request = Struct::new()
        .with(1, Struct::new().with(1, identifier))
        .with(2, CLI_DBMS_NAME);
    Ok(call("GetInfo", request).encode()?)
}

/// Sends the health probe and reads the answer.
pub fn probe(stream: &TcpStream) -> Result<ProbeAnswer> {
    let mut connection = stream;
    connection.write_all(&probe_bytes()?)?;
    let (status, message, _) = read_answer(&mut reader(stream)?, "GetInfo")?;
    Ok(ProbeAnswer { status, message })
}

/// The name of the coordinator that serves this connection: a whole session, from `OpenSession` to `CloseSession`.
pub fn coordinator_name(stream: &TcpStream) -> Result<String> {
    let mut session = Session::open(stream)?;
    let name = session.coordinator()?;
    session.close()?;
    Ok(name)
}

/// The one string of a result that consists of nothing else.
pub fn only_string(mut columns: Vec<Vec<Value>>) -> Result<String> {
    match columns.pop().as_deref() {
        Some([Value::Binary(text)]) if columns.is_empty() => Ok(String::from_utf8_lossy(text).into_owned()),
        other => Err(ClientError::Result(other.unwrap_or_default().to_vec())),
    }
}

/// A session on one connection.
#[derive(Debug)]
pub struct Session<'a> {
    stream: &'a TcpStream,
    handle: Struct,
}

/// A query of a session.
#[derive(Debug)]
pub struct Query(Struct);

impl<'a> Session<'a> {
    /// `OpenSession`.
    pub fn open(stream: &'a TcpStream) -> Result<Self> {
        let request = Struct::new().with(1, PROTOCOL_V6);
        let answer = exchange(stream, "OpenSession", request)?;
        Ok(Self {
            stream,
            handle: answer.structure(3, "sessionHandle")?.clone(),
        })
    }

    /// The same session over another connection.
    pub fn over<'b>(&self, stream: &'b TcpStream) -> Session<'b> {
        Session {
            stream,
            handle: self.handle.clone(),
        }
    }

    /// `ExecuteStatement`, which returns before the query has finished.
    pub fn start(&mut self, sql: &str) -> Result<Query> {
        let request = Struct::new().with(1, self.handle.clone()).with(2, sql);
        let answer = exchange(self.stream, "ExecuteStatement", request)?;
        Ok(Query(answer.structure(2, "operationHandle")?.clone()))
    }

    /// `GetOperationStatus`: `TOperationState`.
    pub fn state(&mut self, query: &Query) -> Result<i32> {
        let answer = exchange(
            self.stream,
            "GetOperationStatus",
            Struct::new().with(1, query.0.clone()),
        )?;
        Ok(answer.i32(2, "operationState")?)
    }

    /// `FetchResults`: the next rows, by column, and whether there are more.
    pub fn fetch(&mut self, query: &Query) -> Result<(Vec<Vec<Value>>, bool)> {
        let request = Struct::new()
            .with(1, query.0.clone())
            .with(2, FETCH_NEXT)
            .with(3, BATCH_ROWS);
        let answer = exchange(self.stream, "FetchResults", request)?;
        let mut columns = Vec::new();
        for column in answer.structure(3, "results")?.list(3, "columns")? {
            columns.push(column_values(column)?);
        }
        Ok((columns, answer.get(2) == Some(&Value::Bool(true))))
    }

    /// `CancelOperation`.
    pub fn cancel(&mut self, query: &Query) -> Result<()> {
        exchange(
            self.stream,
            "CancelOperation",
            Struct::new().with(1, query.0.clone()),
        )
        .map(drop)
    }

    /// `CloseOperation`.
    pub fn close_query(&mut self, query: &Query) -> Result<()> {
        exchange(
            self.stream,
            "CloseOperation",
            Struct::new().with(1, query.0.clone()),
        )
        .map(drop)
    }

    /// The name of the coordinator on which the session lives.
    pub fn coordinator(&mut self) -> Result<String> {
        only_string(self.execute("select coordinator()")?)
    }

    /// Executes a statement and returns all of its result, by column.
    pub fn execute(&mut self, sql: &str) -> Result<Vec<Vec<Value>>> {
        let query = self.start(sql)?;
        let (mut result, mut more) = self.fetch(&query)?;
        while more {
            let columns;
            (columns, more) = self.fetch(&query)?;
            for (all, next) in result.iter_mut().zip(columns) {
                all.extend(next);
            }
        }
        self.close_query(&query)?;
        Ok(result)
    }

    /// `CloseSession`.
    pub fn close(self) -> Result<()> {
        exchange(self.stream, "CloseSession", Struct::new().with(1, self.handle)).map(drop)
    }
}

/// The values of a `TColumn`: a union, of which one field is set.
fn column_values(column: &Value) -> Result<Vec<Value>> {
    let Value::Struct(column) = column else {
        return Err(ClientError::Result(vec![column.clone()]));
    };
    let typed = (1..=8).find_map(|field| column.structure(field, "values by type").ok());
    Ok(typed.unwrap_or(column).list(1, "values")?.to_vec())
}

fn call(method: &str, request: Struct) -> Message {
    Message {
        method: method.to_owned(),
        kind: TMessageType::Call,
        // Answers come in the order of the calls, and only one is ever on its way.
        sequence: 0,
        body: Struct::new().with(1, request),
    }
}

fn reader(stream: &TcpStream) -> Result<MessageReader<BufReader<&TcpStream>>> {
    // The server sends nothing unasked, so nothing is lost in the buffer of a reader that lives for one answer.
    Ok(MessageReader::new(BufReader::new(stream), Limits::ANSWER)?)
}

/// One call whose answer is a success.
fn exchange(stream: &TcpStream, method: &'static str, request: Struct) -> Result<Struct> {
    call(method, request).write_to(stream)?;
    let (code, message, result) = read_answer(&mut reader(stream)?, method)?;
    if code == SUCCESS_STATUS {
        Ok(result)
    } else {
        Err(ClientError::Refused {
            method,
            code,
            message,
        })
    }
}

/// Reads an answer: status code, error message, result.
fn read_answer(
    reader: &mut MessageReader<BufReader<&TcpStream>>,
    method: &'static str,
) -> Result<(i32, String, Struct)> {
    let answer = reader.read()?.ok_or(ClientError::Closed(method))?;
    if answer.kind != TMessageType::Reply || answer.method != method {
        let found = format!("{:?} of {}", answer.kind, answer.method);
        return Err(ClientError::WrongAnswer {
            expected: method,
            found,
        });
    }
    let result = answer.body.structure(0, "success")?;
    let status = result.structure(1, "status")?;
    let message = if status.get(5).is_some() {
        status.text(5, "errorMessage")?
    } else {
        String::new()
    };
    Ok((status.i32(1, "statusCode")?, message, result.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_is_the_one_that_is_written_down() {
        let mut documented =
            b"\x80\x01\0\x01\0\0\0\x07GetInfo\0\0\0\0\x0c\0\x01\x0c\0\x01\x0c\0\x01".to_vec();
        for part in [1, 2] {
            documented.extend([0x0b, 0, part, 0, 0, 0, 16]);
            documented.extend([0; 16]);
        }
        documented.extend(b"\0\0\x08\0\x02\0\0\0\x11\0\0");
        assert_eq!(probe_bytes().unwrap(), documented);
        assert_eq!(documented.len(), 85);
    }
}
