//! The values of a GGUF file, and reading them in order.

use std::ops::Range;

use crate::error::{Error, Result};

/// Arrays of arrays are allowed by the format and used by nobody; this keeps them from exhausting the stack.
const DEEPEST_ARRAY: u32 = 4;

/// Value types, as the format numbers them.
const UINT8: u32 = 0;
const INT8: u32 = 1;
const UINT16: u32 = 2;
const INT16: u32 = 3;
const UINT32: u32 = 4;
const INT32: u32 = 5;
const FLOAT32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const UINT64: u32 = 10;
const INT64: u32 = 11;
const FLOAT64: u32 = 12;

/// A metadata value. Arrays stay in the file until they are asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// Of any unsigned width.
    Unsigned(u64),
    /// Of any signed width.
    Signed(i64),
    /// Of either width.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// UTF-8.
    Text(String),
    /// Elements of one type, where they lie in the file, and how many.
    Array { kind: u32, count: u64, bytes: Range<usize> },
}

impl Value {
    /// The kind of value, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Value::Unsigned(_) | Value::Signed(_) => "an integer",
            Value::Float(_) => "a number",
            Value::Bool(_) => "a boolean",
            Value::Text(_) => "a string",
            Value::Array { .. } => "an array",
        }
    }
}

/// Reads little-endian values in order, and never past the end.
pub(crate) struct Reader<'a> {
    file: &'a [u8],
    /// Where the next value begins.
    pub(crate) at: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the beginning of `file`.
    pub(crate) fn new(file: &'a [u8]) -> Self {
        Self { file, at: 0 }
    }

    fn left(&self) -> u64 {
        (self.file.len() - self.at) as u64
    }

    pub(crate) fn take(&mut self, len: u64) -> Result<&'a [u8]> {
        let end = usize::try_from(len).ok().and_then(|len| self.at.checked_add(len));
        match end.and_then(|end| Some((end, self.file.get(self.at..end)?))) {
            Some((end, bytes)) => {
                self.at = end;
                Ok(bytes)
            }
            None => Err(Error::input(format!("asks for {len} bytes where {} are left in the file", self.left()))
                .with_hint("download or copy the file again")),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N as u64)?);
        Ok(bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// How many of something follow, each of at least `least` bytes.
    pub(crate) fn count(&mut self, what: &str, least: u64) -> Result<u64> {
        let count = self.u64()?;
        match count.checked_mul(least).is_some_and(|bytes| bytes <= self.left()) {
            true => Ok(count),
            false => Err(Error::input(format!("announces {count} {what}, more than the file has room for"))
                .with_hint("download or copy the file again")),
        }
    }

    /// A length and as many bytes of UTF-8.
    pub(crate) fn text(&mut self) -> Result<String> {
        let len = self.u64()?;
        let bytes = self.take(len)?;
        let text = std::str::from_utf8(bytes).map_err(|_| Error::input("isn't UTF-8"))?;
        Ok(text.to_owned())
    }

    fn skip_text(&mut self) -> Result<()> {
        let len = self.u64()?;
        self.take(len).map(drop)
    }

    /// A value of the type with this number. Arrays are walked through and left where they are.
    pub(crate) fn value(&mut self, kind: u32) -> Result<Value> {
        Ok(match kind {
            UINT8 => Value::Unsigned(u8::from_le_bytes(self.array()?).into()),
            INT8 => Value::Signed(i8::from_le_bytes(self.array()?).into()),
            UINT16 => Value::Unsigned(u16::from_le_bytes(self.array()?).into()),
            INT16 => Value::Signed(i16::from_le_bytes(self.array()?).into()),
            UINT32 => Value::Unsigned(self.u32()?.into()),
            INT32 => Value::Signed(i32::from_le_bytes(self.array()?).into()),
            UINT64 => Value::Unsigned(self.u64()?),
            INT64 => Value::Signed(i64::from_le_bytes(self.array()?)),
            FLOAT32 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            FLOAT64 => Value::Float(f64::from_le_bytes(self.array()?)),
            BOOL => match self.array()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(Error::input(format!("{other} isn't a boolean, 0 or 1"))),
            },
            STRING => Value::Text(self.text()?),
            ARRAY => self.array_value(DEEPEST_ARRAY)?,
            other => return Err(Error::input(format!("has a value of unknown type {other}"))),
        })
    }

    fn array_value(&mut self, depth: u32) -> Result<Value> {
        let kind = self.u32()?;
        let count = self.u64()?;
        let start = self.at;
        match fixed_size(kind) {
            Some(size) => {
                let bytes = count.checked_mul(size);
                let bytes = bytes.ok_or_else(|| Error::input(format!("announces {count} elements")))?;
                self.take(bytes)?;
            }
            None if kind == STRING => (0..count).try_for_each(|_| self.skip_text())?,
            None if kind == ARRAY && depth > 0 => (0..count).try_for_each(|_| self.array_value(depth - 1).map(drop))?,
            None if kind == ARRAY => return Err(Error::input("has arrays inside arrays, too deep to be read")),
            None => return Err(Error::input(format!("has elements of unknown type {kind}"))),
        }
        Ok(Value::Array { kind, count, bytes: start..self.at })
    }
}

fn fixed_size(kind: u32) -> Option<u64> {
    match kind {
        UINT8 | INT8 | BOOL => Some(1),
        UINT16 | INT16 => Some(2),
        UINT32 | INT32 | FLOAT32 => Some(4),
        UINT64 | INT64 | FLOAT64 => Some(8),
        _ => None,
    }
}
