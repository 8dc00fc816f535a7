//! Thrift's binary protocol, unframed.
//!
//! HiveServer2's generated code is tens of thousands of lines; the stand-in and its client need a dozen small structures.
//! So a message is read into a tree of [`Value`]s and written from one, and `hs2` names the fields. The encoding of single
//! values is that of the `thrift` crate. What it leaves to its callers is bounded here: a peer may send anything, and
//! neither a length field nor nesting may cost more memory than the bytes that really arrived.

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use thrift::TConfiguration;
pub use thrift::protocol::TMessageType;
use thrift::protocol::{
    TBinaryInputProtocol, TBinaryOutputProtocol, TFieldIdentifier, TInputProtocol as _, TListIdentifier,
    TMapIdentifier, TMessageIdentifier, TOutputProtocol as _, TStructIdentifier,
};

use super::thrift_value::{FieldError, Struct, TType, Value};

/// Structures and containers inside each other. The deepest answer here, a result's schema, has 9.
const MAX_DEPTH: usize = 16;

/// What went wrong while a message was read or taken apart. A server answers it by closing the connection.
#[derive(Debug, thiserror::Error)]
pub enum ThriftError {
    /// The bytes are not a Thrift message, or not all of one, or exceed a limit.
    #[error("expected a message in Thrift's binary protocol: {0}")]
    Encoding(#[from] thrift::Error),
    /// The connection failed.
    #[error(transparent)]
    Connection(#[from] io::Error),
    /// A type that HiveServer2 does not use.
    #[error("expected one of HiveServer2's types, found {0:?}")]
    Type(TType),
    /// More values, or more deeply nested ones, than [`Limits`] allows.
    #[error("message with more than {0}")]
    Limit(String),
    /// A structure is not what the method's definition says.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// Something else than a call, where only a call makes sense.
    #[error("expected a call, found a message of type {0:?}")]
    NotACall(TMessageType),
}

/// Result of reading Thrift.
pub type Result<T, E = ThriftError> = std::result::Result<T, E>;

/// One call, answer or exception.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The method's name.
    pub method: String,
    /// Call, reply or exception.
    pub kind: TMessageType,
    /// Chosen by the caller, repeated in the answer.
    pub sequence: i32,
    /// Arguments or result.
    pub body: Struct,
}

/// How large a message may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Encoded bytes.
    pub bytes: usize,
    /// Values: each takes a few dozen bytes of memory, but may take only one on the wire.
    pub values: usize,
}

impl Limits {
    /// For requests: a statement with its options.
    pub const REQUEST: Self = Self {
        bytes: 1 << 20,
        values: 1 << 12,
    };
    /// For answers: a batch of rows.
    pub const ANSWER: Self = Self {
        bytes: 1 << 26,
        values: 1 << 20,
    };
}

/// Reads messages from a connection.
pub struct MessageReader<R: BufRead> {
    protocol: TBinaryInputProtocol<io::Take<R>>,
    limits: Limits,
}

impl<R: BufRead> MessageReader<R> {
    /// A reader that refuses messages beyond `limits`.
    pub fn new(stream: R, limits: Limits) -> Result<Self> {
        let configuration = TConfiguration::builder()
            .max_string_size(Some(limits.bytes))
            .max_container_size(Some(limits.values))
            .build()?;
        // Strict: without the version number, four bytes of garbage would be taken for the length of a method's name.
        Ok(Self {
            protocol: TBinaryInputProtocol::with_config(stream.take(0), true, configuration),
            limits,
        })
    }

    /// The next message, or `None` when the peer closed the connection between two messages.
    pub fn read(&mut self) -> Result<Option<Message>> {
        if self.protocol.transport.get_mut().fill_buf()?.is_empty() {
            return Ok(None);
        }
        self.protocol.transport.set_limit(self.limits.bytes as u64);
        let header = self.protocol.read_message_begin()?;
        let mut values = self.limits.values;
        let body = self.read_struct(0, &mut values)?;
        self.protocol.read_message_end()?;
        Ok(Some(Message {
            method: header.name,
            kind: header.message_type,
            sequence: header.sequence_number,
            body,
        }))
    }

    fn read_struct(&mut self, depth: usize, values: &mut usize) -> Result<Struct> {
        let mut fields = BTreeMap::new();
        self.protocol.read_struct_begin()?;
        loop {
            let field = self.protocol.read_field_begin()?;
            let Some(id) = field.id.filter(|_| field.field_type != TType::Stop) else {
                break;
            };
            fields.insert(id, self.read_value(field.field_type, depth, values)?);
        }
        self.protocol.read_struct_end()?;
        Ok(Struct(fields))
    }

    fn read_value(&mut self, kind: TType, depth: usize, values: &mut usize) -> Result<Value> {
        if depth >= MAX_DEPTH {
            return Err(ThriftError::Limit(format!("{MAX_DEPTH} levels of nesting")));
        }
        *values = values
            .checked_sub(1)
            .ok_or_else(|| ThriftError::Limit(format!("{} values", self.limits.values)))?;
        Ok(match kind {
            TType::Bool => Value::Bool(self.protocol.read_bool()?),
            TType::I08 => Value::I8(self.protocol.read_i8()?),
            TType::I16 => Value::I16(self.protocol.read_i16()?),
            TType::I32 => Value::I32(self.protocol.read_i32()?),
            TType::I64 => Value::I64(self.protocol.read_i64()?),
            TType::Double => Value::Double(self.protocol.read_double()?),
            TType::String => Value::Binary(self.protocol.read_bytes()?),
            TType::Struct => Value::Struct(self.read_struct(depth + 1, values)?),
            TType::List | TType::Set => {
                // On the wire a set looks like a list.
                let list = self.protocol.read_list_begin()?;
                // No reservation: the vector grows with what arrives, not with what the length field promises.
                let mut items = Vec::new();
                for _ in 0..list.size {
                    items.push(self.read_value(list.element_type, depth + 1, values)?);
                }
                Value::List(list.element_type, items)
            }
            TType::Map => {
                let map = self.protocol.read_map_begin()?;
                // An empty map has the types 0, which is what `Stop` means elsewhere.
                let key_kind = map.key_type.unwrap_or(TType::Stop);
                let value_kind = map.value_type.unwrap_or(TType::Stop);
                let mut entries = Vec::new();
                for _ in 0..map.size {
                    let key = self.read_value(key_kind, depth + 1, values)?;
                    entries.push((key, self.read_value(value_kind, depth + 1, values)?));
                }
                Value::Map(key_kind, value_kind, entries)
            }
            TType::Stop | TType::Void | TType::Uuid | TType::Utf7 => return Err(ThriftError::Type(kind)),
        })
    }
}

impl Message {
    /// The message as it goes over the wire.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut protocol = TBinaryOutputProtocol::new(&mut bytes, true);
        protocol.write_message_begin(&TMessageIdentifier::new(
            self.method.as_str(),
            self.kind,
            self.sequence,
        ))?;
        write_struct(&mut protocol, &self.body)?;
        protocol.write_message_end()?;
        Ok(bytes)
    }

    /// Writes the message with one system call, as far as the kernel takes it.
    pub fn write_to(&self, mut stream: impl io::Write) -> Result<()> {
        stream.write_all(&self.encode()?)?;
        Ok(())
    }
}

type Output<'a> = TBinaryOutputProtocol<&'a mut Vec<u8>>;

fn write_struct(protocol: &mut Output<'_>, structure: &Struct) -> Result<()> {
    protocol.write_struct_begin(&TStructIdentifier::new(""))?;
    for (&id, value) in &structure.0 {
        protocol.write_field_begin(&TFieldIdentifier::new::<_, String, _>(None, value.kind(), id))?;
        write_value(protocol, value)?;
        protocol.write_field_end()?;
    }
    protocol.write_field_stop()?;
    protocol.write_struct_end()?;
    Ok(())
}

fn write_value(protocol: &mut Output<'_>, value: &Value) -> Result<()> {
    match value {
        Value::Bool(value) => protocol.write_bool(*value)?,
        Value::I8(value) => protocol.write_i8(*value)?,
        Value::I16(value) => protocol.write_i16(*value)?,
        Value::I32(value) => protocol.write_i32(*value)?,
        Value::I64(value) => protocol.write_i64(*value)?,
        Value::Double(value) => protocol.write_double(*value)?,
        Value::Binary(value) => protocol.write_bytes(value)?,
        Value::Struct(value) => write_struct(protocol, value)?,
        Value::List(kind, items) => {
            protocol.write_list_begin(&TListIdentifier::new(*kind, length(items.len())?))?;
            for item in items {
                write_value(protocol, item)?;
            }
        }
        Value::Map(key_kind, value_kind, entries) => {
            protocol.write_map_begin(&TMapIdentifier::new(
                *key_kind,
                *value_kind,
                length(entries.len())?,
            ))?;
            for (key, value) in entries {
                write_value(protocol, key)?;
                write_value(protocol, value)?;
            }
        }
    }
    Ok(())
}

fn length(items: usize) -> Result<i32> {
    i32::try_from(items).map_err(|_| ThriftError::Limit(format!("{} elements in a container", i32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use thrift::ProtocolErrorKind;

    fn read_all(bytes: &[u8]) -> Result<Vec<Message>> {
        let mut reader = MessageReader::new(bytes, Limits::REQUEST)?;
        let mut messages = Vec::new();
        while let Some(message) = reader.read()? {
            messages.push(message);
        }
        Ok(messages)
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::Bool),
            any::<i8>().prop_map(Value::I8),
            any::<i16>().prop_map(Value::I16),
            any::<i32>().prop_map(Value::I32),
            any::<i64>().prop_map(Value::I64),
            prop::num::f64::NORMAL.prop_map(Value::Double),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::Binary),
        ];
        leaf.prop_recursive(4, 64, 6, |inner| {
            let fields = prop::collection::btree_map(any::<i16>(), inner.clone(), 0..6)
                .prop_map(|fields| Value::Struct(Struct(fields)));
            // Elements of a list have one type: the same value several times is enough of one.
            let list =
                (inner.clone(), 1..5_usize).prop_map(|(item, n)| Value::List(item.kind(), vec![item; n]));
            let map = (inner.clone(), inner)
                .prop_map(|(key, value)| Value::Map(key.kind(), value.kind(), vec![(key, value)]));
            prop_oneof![fields, list, map]
        })
    }

    fn message() -> impl Strategy<Value = Message> {
        (
            "[A-Za-z]{0,20}",
            any::<i32>(),
            prop::collection::btree_map(any::<i16>(), value(), 0..5),
        )
            .prop_map(|(method, sequence, fields)| Message {
                method,
                kind: TMessageType::Call,
                sequence,
                body: Struct(fields),
            })
    }

    /// A call whose only field is what `bytes` say.
    fn call(bytes: &[u8]) -> Vec<u8> {
        [b"\x80\x01\0\x01\0\0\0\x01m\0\0\0\0".as_slice(), bytes].concat()
    }

    #[test]
    fn lengths_are_not_believed() {
        // A string, a list, a set and a map of 2 GiB, a negative length, and a method name of 2 GiB.
        for bytes in [
            call(b"\x0b\0\x01\x7f\xff\xff\xff"),
            call(b"\x0f\0\x01\x0c\x7f\xff\xff\xff"),
            call(b"\x0e\0\x01\x02\x7f\xff\xff\xff"),
            call(b"\x0d\0\x01\x0b\x0b\x7f\xff\xff\xff"),
            call(b"\x0b\0\x01\xff\xff\xff\xff"),
            b"\x80\x01\0\x01\x7f\xff\xff\xff".to_vec(),
        ] {
            let error = read_all(&bytes).unwrap_err();
            let ThriftError::Encoding(thrift::Error::Protocol(error)) = error else {
                panic!("{bytes:x?}: {error}")
            };
            assert!(
                matches!(
                    error.kind,
                    ProtocolErrorKind::SizeLimit | ProtocolErrorKind::NegativeSize
                ),
                "{bytes:x?}: {error}"
            );
        }
    }

    #[test]
    fn a_message_may_not_be_longer_than_its_limit() {
        let long = Message {
            method: "m".to_owned(),
            kind: TMessageType::Call,
            sequence: 0,
            body: Struct::new()
                .with(1, vec![b'x'; Limits::REQUEST.bytes / 2])
                .with(2, vec![b'y'; Limits::REQUEST.bytes / 2]),
        };
        assert!(read_all(&long.encode().unwrap()).is_err());
    }

    #[test]
    fn the_number_of_values_is_limited() {
        let many = Value::List(TType::Bool, vec![Value::Bool(true); Limits::REQUEST.values]);
        let message = |value| Message {
            method: "m".to_owned(),
            kind: TMessageType::Call,
            sequence: 0,
            body: Struct::new().with(1, value),
        };
        let error = read_all(&message(many).encode().unwrap()).unwrap_err();
        assert!(matches!(error, ThriftError::Limit(_)), "{error}");
    }

    #[test]
    fn nesting_is_limited() {
        for level in [b"\x0c\0\x01".as_slice(), b"\x0f\0\x01\x0f\0\0\0\x01".as_slice()] {
            let error = read_all(&call(&level.repeat(10_000))).unwrap_err();
            assert!(!matches!(error, ThriftError::Connection(_)), "{error}");
        }
    }

    #[test]
    fn the_first_bytes_of_other_protocols_are_refused() {
        for bytes in [
            b"GET / HTTP/1.1\r\n\r\n".as_slice(),
            b"\x01\0\0\0\x07LBPROBE",
            b"\x16\x03\x01\x02\0\x01",
        ] {
            assert!(
                matches!(read_all(bytes), Err(ThriftError::Encoding(_))),
                "{bytes:x?}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(messages in prop::collection::vec(message(), 0..3)) {
            let mut bytes = Vec::new();
            for message in &messages {
                message.write_to(&mut bytes).unwrap();
            }
            prop_assert_eq!(read_all(&bytes).unwrap(), messages);
        }

        #[test]
        fn a_message_cut_short_is_an_error(message in message(), cut in any::<prop::sample::Index>()) {
            let bytes = message.encode().unwrap();
            let cut = 1 + cut.index(bytes.len() - 1);
            prop_assert!(read_all(&bytes[..cut]).is_err());
        }

        #[test]
        fn garbage_is_never_worse_than_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_all(&bytes);
        }

        #[test]
        fn a_damaged_message_is_never_worse_than_an_error(
            message in message(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut bytes = message.encode().unwrap();
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let _ = read_all(&bytes);
        }
    }
}
