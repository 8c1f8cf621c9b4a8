//! Typed reading of a GGUF file's metadata, with errors that name the file and the key.

use super::file::GgufFile;
use super::value::{Reader, Value};
use crate::error::{Error, Result};

impl GgufFile {
    pub(crate) fn error(&self, key: &str, message: String) -> Error {
        Error::input(format!("`{key}`: {message}")).at(self.path().display())
    }

    fn wrong(&self, key: &str, value: &Value, expected: &str) -> Error {
        self.error(key, format!("is {}, not {expected}", value.kind()))
    }

    pub(crate) fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.error(key, "is missing".to_owned()))
    }

    pub(crate) fn optional_text(&self, key: &str) -> Result<Option<String>> {
        match self.metadata(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.wrong(key, other, "a string")),
        }
    }

    pub(crate) fn text(&self, key: &str) -> Result<String> {
        self.required(key, self.optional_text(key)?)
    }

    pub(crate) fn optional_flag(&self, key: &str) -> Result<Option<bool>> {
        match self.metadata(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.wrong(key, other, "a boolean")),
        }
    }

    /// A whole number from 0. An array, which has a size for each layer, is one if all are equal.
    pub(crate) fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        match self.metadata(key) {
            None => Ok(None),
            Some(Value::Array { .. }) => {
                let values = self.integers(key)?.unwrap_or_default();
                match values.first() {
                    Some(first) if values.iter().all(|value| value == first) => self.as_size(key, *first).map(Some),
                    _ => Err(self.error(key, "layers of different sizes aren't supported".to_owned())),
                }
            }
            Some(Value::Unsigned(value)) => match usize::try_from(*value) {
                Ok(size) => Ok(Some(size)),
                Err(_) => Err(self.error(key, format!("{value} is too large"))),
            },
            Some(Value::Signed(value)) => self.as_size(key, *value).map(Some),
            Some(other) => Err(self.wrong(key, other, "a whole number")),
        }
    }

    pub(crate) fn optional_integer(&self, key: &str) -> Result<Option<i64>> {
        match self.metadata(key) {
            None => Ok(None),
            Some(Value::Unsigned(value)) => match i64::try_from(*value) {
                Ok(value) => Ok(Some(value)),
                Err(_) => Err(self.error(key, format!("{value} is too large"))),
            },
            Some(Value::Signed(value)) => Ok(Some(*value)),
            Some(other) => Err(self.wrong(key, other, "a whole number")),
        }
    }

    fn as_size(&self, key: &str, value: i64) -> Result<usize> {
        usize::try_from(value).map_err(|_| self.error(key, format!("{value} isn't a size")))
    }

    pub(crate) fn size(&self, key: &str) -> Result<usize> {
        self.required(key, self.optional_size(key)?)
    }

    pub(crate) fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        match self.metadata(key) {
            None => Ok(None),
            Some(Value::Float(value)) if value.is_finite() => Ok(Some(*value)),
            Some(Value::Float(_)) => Err(self.error(key, "isn't finite".to_owned())),
            Some(Value::Unsigned(value)) => Ok(Some(*value as f64)),
            Some(Value::Signed(value)) => Ok(Some(*value as f64)),
            Some(other) => Err(self.wrong(key, other, "a number")),
        }
    }

    /// An array of integers or booleans.
    pub(crate) fn integers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        self.elements(key, "an array of integers", |value| match value {
            Value::Unsigned(value) => i64::try_from(value).ok(),
            Value::Signed(value) => Some(value),
            Value::Bool(flag) => Some(flag.into()),
            _ => None,
        })
    }

    /// An array of strings.
    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<String>>> {
        self.elements(key, "an array of strings", |value| match value {
            Value::Text(text) => Some(text),
            _ => None,
        })
    }

    fn elements<T>(&self, key: &str, expected: &str, read: impl Fn(Value) -> Option<T>) -> Result<Option<Vec<T>>> {
        let (kind, count, bytes) = match self.metadata(key) {
            None => return Ok(None),
            Some(Value::Array { kind, count, bytes }) => (*kind, *count, bytes.clone()),
            Some(other) => return Err(self.wrong(key, other, expected)),
        };
        let mut reader = Reader::new(self.bytes(bytes).unwrap_or_default());
        let mut elements = Vec::new();
        for index in 0..count {
            let place = |error: Error| error.at(format!("{}: `{key}`, element {index}", self.path().display()));
            let value = reader.value(kind).map_err(place)?;
            elements.push(read(value).ok_or_else(|| self.error(key, format!("isn't {expected}")))?);
        }
        Ok(Some(elements))
    }

    /// A token id below `count`. `u32::MAX` and −1 mean that there is none.
    pub(crate) fn token_id(&self, key: &str, count: usize) -> Result<Option<u32>> {
        match self.optional_integer(key)? {
            None | Some(-1) => Ok(None),
            Some(id) if id == i64::from(u32::MAX) => Ok(None),
            Some(id) => match u32::try_from(id).ok().filter(|id| (*id as usize) < count) {
                Some(id) => Ok(Some(id)),
                None => Err(self.error(key, format!("{id} is no token's id"))),
            },
        }
    }
}
