//! The part of HiveServer2's interface that clients use against Impala: which field of which request means what, and what
//! the coordinator's answer looks like on the wire. Field numbers are those of Hive's `TCLIService.thrift` and of Impala's
//! `ImpalaService.thrift`.

use super::coordinator::Coordinator;
use super::failure::Failure;
use super::handle::{Handle, Id};
use super::sessions::{ConnectionId, QueryState};
use super::statement::{Batch, ColumnType, ColumnValues};
use super::thrift_binary::{Message, Result, TMessageType, ThriftError};
use super::thrift_value::{FieldError, Struct, TType, Value};

/// `TStatusCode::SUCCESS_STATUS`
pub const SUCCESS_STATUS: i32 = 0;
/// `TStatusCode::ERROR_STATUS`
pub const ERROR_STATUS: i32 = 3;
/// `TProtocolVersion::HIVE_CLI_SERVICE_PROTOCOL_V6`: the first with results by column, and what Impala speaks.
pub const PROTOCOL_V6: i32 = 5;
/// `TFetchOrientation::FETCH_NEXT`
pub const FETCH_NEXT: i32 = 0;
/// `TGetInfoType::CLI_DBMS_NAME`
pub const CLI_DBMS_NAME: i32 = 17;

const CLI_SERVER_NAME: i32 = 13;
const CLI_DBMS_VER: i32 = 18;
/// `TOperationState`: no rows yet.
pub const RUNNING_STATE: i32 = 1;
const FINISHED_STATE: i32 = 2;
const ERROR_STATE: i32 = 5;
const EXECUTE_STATEMENT: i32 = 0;
const BOOLEAN_TYPE: i32 = 0;
const BIGINT_TYPE: i32 = 4;
const STRING_TYPE: i32 = 7;
/// `TApplicationExceptionType::UNKNOWN_METHOD`
const UNKNOWN_METHOD: i32 = 1;

/// The version that the stand-in claims to be.
pub const VERSION: &str = "impalad version 5.0.0-STAND-IN";

/// Answers one call, or says why the connection has to be closed.
pub fn answer(coordinator: &Coordinator, connection: ConnectionId, call: &Message) -> Result<Message> {
    if call.kind != TMessageType::Call {
        return Err(ThriftError::NotACall(call.kind));
    }
    let service = Service {
        coordinator,
        connection,
    };
    // Each method has one argument, `req`, except where nothing knows the method.
    let request = || call.body.structure(1, "req");
    let result = match call.method.as_str() {
        "GetInfo" => service.get_info(request()?)?,
        "OpenSession" => service.open_session(request()?)?,
        "CloseSession" => service.close_session(request()?)?,
        "ExecuteStatement" => service.execute_statement(request()?)?,
        "GetOperationStatus" => service.get_operation_status(request()?)?,
        "GetResultSetMetadata" => service.get_result_set_metadata(request()?)?,
        "FetchResults" => service.fetch_results(request()?)?,
        "CancelOperation" => service.cancel_operation(request()?)?,
        // Impala's own, which also tells how many rows a statement has changed. The stand-in's change none.
        "CloseOperation" | "CloseImpalaOperation" => service.close_operation(request()?)?,
        "GetLog" => service.get_log(request()?)?,
        method => {
            let exception = Struct::new()
                .with(1, format!("Invalid method name: '{method}'"))
                .with(2, UNKNOWN_METHOD);
            return Ok(reply(call, TMessageType::Exception, exception));
        }
    };
    // Field 0 of a reply is the method's result.
    Ok(reply(call, TMessageType::Reply, Struct::new().with(0, result)))
}

fn reply(call: &Message, kind: TMessageType, body: Struct) -> Message {
    Message {
        method: call.method.clone(),
        kind,
        sequence: call.sequence,
        body,
    }
}

/// A result that says nothing but how it went.
fn outcome(result: &Result<(), Failure>) -> Struct {
    let status = match result {
        Ok(()) => Struct::new().with(1, SUCCESS_STATUS),
        Err(failure) => Struct::new()
            .with(1, ERROR_STATUS)
            .with(3, failure.sql_state())
            .with(5, failure.message()),
    };
    Struct::new().with(1, status)
}

/// The result of a method: `success` adds its fields to a successful status.
fn result_of<T>(result: Result<T, Failure>, success: impl FnOnce(Struct, T) -> Struct) -> Struct {
    match result {
        Ok(value) => success(outcome(&Ok(())), value),
        Err(failure) => outcome(&Err(failure)),
    }
}

fn session_handle(request: &Struct) -> Result<Result<Handle, Failure>, FieldError> {
    Handle::from_thrift(request.structure(1, "sessionHandle")?.structure(1, "sessionId")?)
}

fn query_handle(request: &Struct) -> Result<Result<Handle, Failure>, FieldError> {
    Handle::from_thrift(
        request
            .structure(1, "operationHandle")?
            .structure(1, "operationId")?,
    )
}

/// The methods, for one connection.
struct Service<'a> {
    coordinator: &'a Coordinator,
    connection: ConnectionId,
}

impl Service<'_> {
    fn get_info(&self, request: &Struct) -> Result<Struct> {
        let session = session_handle(request)?;
        let known = match request.i32(2, "infoType")? {
            CLI_SERVER_NAME | CLI_DBMS_NAME => Ok("Impala"),
            CLI_DBMS_VER => Ok(VERSION),
            _ => Err(Failure::Unsupported("this type of GetInfo")),
        };
        let info = self
            .coordinator
            .check_not_shutting_down()
            .and(session)
            .and_then(|session| self.coordinator.check_session(self.connection, session))
            .and(known);
        // The field is required: it is there, and empty, in an error too.
        let value = info
            .as_ref()
            .map_or_else(|_| Struct::new(), |&info| Struct::new().with(1, info));
        Ok(outcome(&info.map(drop)).with(2, value))
    }

    fn open_session(&self, request: &Struct) -> Result<Struct> {
        let opened = if request.i32(1, "client_protocol")? < PROTOCOL_V6 {
            Err(Failure::Unsupported("HiveServer2 protocols before version 6"))
        } else {
            let new = Handle {
                id: Id::random()?,
                secret: Id::random()?,
            };
            self.coordinator.open_session(self.connection, new)
        };
        let answer = result_of(opened, |answer, session| {
            answer
                .with(3, Struct::new().with(1, session.to_thrift()))
                .with(4, empty_text_map())
        });
        Ok(answer.with(2, PROTOCOL_V6))
    }

    fn close_session(&self, request: &Struct) -> Result<Struct> {
        let session = session_handle(request)?;
        Ok(outcome(
            &session.and_then(|session| self.coordinator.close_session(session)),
        ))
    }

    fn execute_statement(&self, request: &Struct) -> Result<Struct> {
        let session = session_handle(request)?;
        let statement = request.text(2, "statement")?;
        let new = Id::random()?;
        let query = session.and_then(|session| {
            self.coordinator
                .execute(self.connection, session, new, &statement)
        });
        Ok(result_of(query, |answer, query| {
            let handle = Struct::new()
                .with(1, query.to_thrift())
                .with(2, EXECUTE_STATEMENT)
                .with(3, true);
            answer.with(2, handle)
        }))
    }

    fn get_operation_status(&self, request: &Struct) -> Result<Struct> {
        let state = query_handle(request)?.and_then(|query| self.coordinator.query_state(query));
        Ok(result_of(state, |answer, state| {
            let answer = answer.with(9, true);
            match state {
                QueryState::Running(_) => answer.with(2, RUNNING_STATE),
                QueryState::Finished => answer.with(2, FINISHED_STATE),
                // Impala has no state for it: a cancelled query is one that failed.
                QueryState::Cancelled => answer
                    .with(2, ERROR_STATE)
                    .with(3, Failure::Cancelled.sql_state())
                    .with(5, Failure::Cancelled.message()),
            }
        }))
    }

    fn get_result_set_metadata(&self, request: &Struct) -> Result<Struct> {
        let statement = query_handle(request)?.and_then(|query| self.coordinator.statement(query));
        Ok(result_of(statement, |answer, statement| {
            let columns = statement
                .columns()
                .into_iter()
                .zip(1..)
                .map(column_description)
                .collect::<Vec<_>>();
            answer.with(2, Struct::new().with(1, columns))
        }))
    }

    fn fetch_results(&self, request: &Struct) -> Result<Struct> {
        let query = query_handle(request)?;
        let orientation = request.i32(2, "orientation")?;
        let max_rows = request.i64(3, "maxRows")?;
        let batch = query.and_then(|query| {
            if orientation != FETCH_NEXT {
                return Err(Failure::Unsupported(
                    "fetching in another direction than FETCH_NEXT",
                ));
            }
            // No limit, or a senseless one, is the server's own.
            self.coordinator
                .fetch(query, u64::try_from(max_rows).unwrap_or(u64::MAX))
        });
        Ok(result_of(batch, |answer, batch| {
            answer.with(2, batch.more).with(3, row_set(batch))
        }))
    }

    fn cancel_operation(&self, request: &Struct) -> Result<Struct> {
        Ok(outcome(
            &query_handle(request)?.and_then(|query| self.coordinator.cancel(query)),
        ))
    }

    fn close_operation(&self, request: &Struct) -> Result<Struct> {
        Ok(outcome(
            &query_handle(request)?.and_then(|query| self.coordinator.close_query(query)),
        ))
    }

    fn get_log(&self, request: &Struct) -> Result<Struct> {
        let state = query_handle(request)?.and_then(|query| self.coordinator.query_state(query));
        Ok(result_of(state, |answer, _| answer).with(2, ""))
    }
}

fn empty_text_map() -> Value {
    Value::Map(TType::String, TType::String, Vec::new())
}

/// `TColumnDesc`
fn column_description(((name, kind), position): ((String, ColumnType), i32)) -> Struct {
    let kind = match kind {
        ColumnType::Boolean => BOOLEAN_TYPE,
        ColumnType::BigInt => BIGINT_TYPE,
        ColumnType::String => STRING_TYPE,
    };
    // TTypeDesc { types: [TTypeEntry { primitiveEntry: TPrimitiveTypeEntry { type } }] }
    let entry = Struct::new().with(1, Struct::new().with(1, kind));
    Struct::new()
        .with(1, name)
        .with(2, Struct::new().with(1, vec![entry]))
        .with(3, position)
}

/// `TRowSet`, by column.
fn row_set(batch: Batch) -> Struct {
    let columns = batch.columns.into_iter().map(column).collect::<Vec<_>>();
    Struct::new()
        .with(1, batch.first_row.cast_signed())
        .with(2, Vec::<Struct>::new())
        .with(3, columns)
}

/// `TColumn`: a union with one field for each type of column.
fn column(values: ColumnValues) -> Struct {
    // One bit for each row that is NULL; none is.
    let nulls = vec![0; values.len().div_ceil(8)];
    let (field, kind, items) = match values {
        ColumnValues::Boolean(values) => (1, TType::Bool, into_values(values)),
        ColumnValues::BigInt(values) => (5, TType::I64, into_values(values)),
        ColumnValues::String(values) => (7, TType::String, into_values(values)),
    };
    Struct::new().with(
        field,
        Struct::new().with(1, Value::List(kind, items)).with(2, nulls),
    )
}

fn into_values(values: Vec<impl Into<Value>>) -> Vec<Value> {
    values.into_iter().map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::impalad::coordinator::Mode;
    use proptest::prelude::*;

    const METHODS: [&str; 11] = [
        "GetInfo",
        "OpenSession",
        "CloseSession",
        "ExecuteStatement",
        "GetOperationStatus",
        "GetResultSetMetadata",
        "FetchResults",
        "CancelOperation",
        "CloseOperation",
        "CloseImpalaOperation",
        "GetLog",
    ];

    fn call(method: &str, request: Struct) -> Message {
        Message {
            method: method.to_owned(),
            kind: TMessageType::Call,
            sequence: 7,
            body: Struct::new().with(1, request),
        }
    }

    fn coordinator() -> Coordinator {
        Coordinator::new("c1".to_owned())
    }

    fn status(answer: &Message) -> (i32, String) {
        let result = answer.body.structure(0, "success").unwrap();
        let status = result.structure(1, "status").unwrap();
        let message = status.get(5).map(|_| status.text(5, "errorMessage").unwrap());
        (status.i32(1, "statusCode").unwrap(), message.unwrap_or_default())
    }

    fn zero_handle() -> Struct {
        Struct::new().with(1, Struct::new().with(1, vec![0; 16]).with(2, vec![0; 16]))
    }

    #[test]
    fn the_probe_is_answered_by_a_healthy_and_by_a_leaving_coordinator() {
        let coordinator = coordinator();
        let probe = call(
            "GetInfo",
            Struct::new().with(1, zero_handle()).with(2, CLI_DBMS_NAME),
        );
        let answer_now = || answer(&coordinator, ConnectionId(1), &probe).unwrap();
        let healthy = answer_now();
        assert_eq!((healthy.kind, healthy.sequence), (TMessageType::Reply, 7));
        let unknown = "Invalid session id: 0000000000000000:0000000000000000\n";
        assert_eq!(status(&healthy), (ERROR_STATUS, unknown.to_owned()));
        coordinator.set_mode(Mode::ShuttingDown);
        let (code, message) = status(&answer_now());
        assert_eq!(code, ERROR_STATUS);
        assert!(message.starts_with("Server is being shut down: "), "{message}");
    }

    #[test]
    fn methods_that_do_not_exist_are_answered_with_an_exception() {
        let answer = answer(&coordinator(), ConnectionId(1), &call("GetPizza", Struct::new())).unwrap();
        assert_eq!(answer.kind, TMessageType::Exception);
        assert_eq!(answer.body.i32(2, "type").unwrap(), UNKNOWN_METHOD);
    }

    #[test]
    fn a_request_without_its_fields_closes_the_connection() {
        for method in METHODS {
            let error = answer(&coordinator(), ConnectionId(1), &call(method, Struct::new())).unwrap_err();
            assert!(
                matches!(error, ThriftError::Field(FieldError { id: 1, .. })),
                "{method}: {error}"
            );
        }
        let reply = Message {
            kind: TMessageType::Reply,
            ..call("GetInfo", Struct::new())
        };
        assert!(answer(&coordinator(), ConnectionId(1), &reply).is_err());
    }

    #[test]
    fn handles_that_nobody_gave_out_are_invalid() {
        for method in METHODS.into_iter().filter(|&method| method != "OpenSession") {
            let request = Struct::new().with(1, zero_handle()).with(2, 0).with(3, 1_i64);
            let request = if method == "ExecuteStatement" {
                request.with(2, "select rows(1)")
            } else {
                request
            };
            let (code, message) =
                status(&answer(&coordinator(), ConnectionId(1), &call(method, request)).unwrap());
            assert_eq!(code, ERROR_STATUS);
            assert!(message.starts_with("Invalid session id") || message.starts_with("Invalid query handle"));
        }
    }

    proptest! {
        #[test]
        fn no_request_is_worse_than_an_error(
            method in prop::sample::select(&METHODS[..]),
            guid in prop::collection::vec(any::<u8>(), 0..20),
            number in any::<i32>(),
            text in ".{0,20}",
            swap in any::<bool>(),
        ) {
            let handle = Struct::new().with(1, Struct::new().with(1, guid).with(2, vec![0; 16]));
            let request = Struct::new().with(1, handle).with(3, i64::from(number));
            let request = if swap { request.with(2, number) } else { request.with(2, text) };
            if let Ok(answer) = answer(&coordinator(), ConnectionId(1), &call(method, request)) {
                prop_assert_eq!(status(&answer).0, ERROR_STATUS);
            }
        }
    }
}
