//! Thrift's values: what a message consists of, apart from how it is written.

use std::collections::BTreeMap;

pub use thrift::protocol::TType;

/// A structure lacks a field, or has it with another type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected field {id} ({name}) of type {expected}, found {found}")]
pub struct FieldError {
    /// Number of the field.
    pub id: i16,
    /// Its name in HiveServer2's interface definition.
    pub name: &'static str,
    /// The type it should have.
    pub expected: &'static str,
    /// What was there.
    pub found: String,
}

/// One Thrift value.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the variants are named after Thrift's types")]
pub enum Value {
    Bool(bool),
    I8(i8),
    I16(i16),
    I32(i32),
    I64(i64),
    Double(f64),
    /// Thrift does not tell strings from bytes.
    Binary(Vec<u8>),
    Struct(Struct),
    /// A list or a set; sets are written as lists, HiveServer2 has none.
    List(TType, Vec<Value>),
    Map(TType, TType, Vec<(Value, Value)>),
}

/// A structure: fields by number.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Struct(pub(super) BTreeMap<i16, Value>);

impl Struct {
    /// A structure without fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same structure with one more field.
    #[must_use]
    pub fn with(mut self, id: i16, value: impl Into<Value>) -> Self {
        self.0.insert(id, value.into());
        self
    }

    /// A field, if it is there.
    pub fn get(&self, id: i16) -> Option<&Value> {
        self.0.get(&id)
    }

    /// A required field that is a structure.
    pub fn structure(&self, id: i16, name: &'static str) -> Result<&Struct, FieldError> {
        match self.get(id) {
            Some(Value::Struct(value)) => Ok(value),
            other => Err(unexpected(id, name, "struct", other)),
        }
    }

    /// A required field that is a string of bytes.
    pub fn binary(&self, id: i16, name: &'static str) -> Result<&[u8], FieldError> {
        match self.get(id) {
            Some(Value::Binary(value)) => Ok(value),
            other => Err(unexpected(id, name, "string", other)),
        }
    }

    /// A required field that is a string of text; bytes that are not UTF-8 are replaced.
    pub fn text(&self, id: i16, name: &'static str) -> Result<String, FieldError> {
        Ok(String::from_utf8_lossy(self.binary(id, name)?).into_owned())
    }

    /// A required field that is an integer of 32 bits, or an enumeration.
    pub fn i32(&self, id: i16, name: &'static str) -> Result<i32, FieldError> {
        match self.get(id) {
            Some(Value::I32(value)) => Ok(*value),
            other => Err(unexpected(id, name, "i32", other)),
        }
    }

    /// A required field that is an integer of 64 bits.
    pub fn i64(&self, id: i16, name: &'static str) -> Result<i64, FieldError> {
        match self.get(id) {
            Some(Value::I64(value)) => Ok(*value),
            other => Err(unexpected(id, name, "i64", other)),
        }
    }

    /// A required field that is a list.
    pub fn list(&self, id: i16, name: &'static str) -> Result<&[Value], FieldError> {
        match self.get(id) {
            Some(Value::List(_, items)) => Ok(items),
            other => Err(unexpected(id, name, "list", other)),
        }
    }
}

fn unexpected(id: i16, name: &'static str, expected: &'static str, found: Option<&Value>) -> FieldError {
    let found = found.map_or_else(|| "nothing".to_owned(), |value| format!("{:?}", value.kind()));
    FieldError {
        id,
        name,
        expected,
        found,
    }
}

impl Value {
    /// The type on the wire.
    pub fn kind(&self) -> TType {
        match self {
            Self::Bool(_) => TType::Bool,
            Self::I8(_) => TType::I08,
            Self::I16(_) => TType::I16,
            Self::I32(_) => TType::I32,
            Self::I64(_) => TType::I64,
            Self::Double(_) => TType::Double,
            Self::Binary(_) => TType::String,
            Self::Struct(_) => TType::Struct,
            Self::List(..) => TType::List,
            Self::Map(..) => TType::Map,
        }
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i16> for Value {
    fn from(value: i16) -> Self {
        Self::I16(value)
    }
}

impl From<i32> for Value {
    fn from(value: i32) -> Self {
        Self::I32(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::I64(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Binary(value.as_bytes().to_vec())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Binary(value.into_bytes())
    }
}

impl From<Vec<u8>> for Value {
    fn from(value: Vec<u8>) -> Self {
        Self::Binary(value)
    }
}

impl From<Struct> for Value {
    fn from(value: Struct) -> Self {
        Self::Struct(value)
    }
}

impl From<Vec<Struct>> for Value {
    fn from(items: Vec<Struct>) -> Self {
        Self::List(TType::Struct, items.into_iter().map(Self::Struct).collect())
    }
}
