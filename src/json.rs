//! JSON files that hold an object, such as `config.json` of a model: reading them, and their fields with errors that
//! name the file and the field. What a field means is its reader's business.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Context, Error, Result};

/// The largest size that is believed: keeps products of two sizes far from overflow.
const LARGEST_SIZE: u64 = 1 << 30;

/// Reads a JSON file that has to hold an object.
pub(crate) fn read_object(file: &Path) -> Result<Map<String, Value>> {
    let text = fs::read_to_string(file).input_context(|| format!("can't read `{}`", file.display()))?;
    let parsed = match serde_json::from_str(&text) {
        // Python writes infinities and NaN, which JSON doesn't have
        Err(error) if error.is_syntax() => serde_json::from_str(&without_infinities(&text)),
        parsed => parsed,
    };
    match parsed.input_context(|| file.display())? {
        Value::Object(map) => Ok(map),
        _ => Err(Error::input("isn't a JSON object").at(file.display())),
    }
}

/// The text with `Infinity`, `-Infinity` and `NaN` outside of strings as `null`.
fn without_infinities(text: &str) -> String {
    let mut replaced = String::with_capacity(text.len());
    let (mut rest, mut in_string) = (text, false);
    while let Some(next) = rest.chars().next() {
        let number = ["-Infinity", "Infinity", "NaN"].into_iter().find(|number| !in_string && rest.starts_with(number));
        let taken = match (number, next) {
            (Some(number), _) => {
                replaced.push_str("null");
                number.len()
            }
            (None, '\\') if in_string => {
                let escaped = rest.chars().take(2).map(char::len_utf8).sum();
                replaced.push_str(&rest[..escaped]);
                escaped
            }
            (None, _) => {
                in_string ^= next == '"';
                replaced.push(next);
                next.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    replaced
}

/// The fields of a JSON object, with errors that name the file and the field. `null` reads as absent.
#[derive(Clone)]
pub(crate) struct Fields<'a> {
    file: PathBuf,
    inside: String,
    map: &'a Map<String, Value>,
    hidden: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// The fields of the object that `file` holds.
    pub(crate) fn new(file: &Path, map: &'a Map<String, Value>) -> Self {
        Self { file: file.to_owned(), inside: String::new(), map, hidden: Vec::new() }
    }

    /// An error about a field.
    pub(crate) fn error(&self, field: &str, message: impl std::fmt::Display) -> Error {
        Error::input(format!("`{}{field}`: {message}", self.inside)).at(self.file.display())
    }

    fn wrong(&self, field: &str, value: &Value, expected: &str) -> Error {
        self.error(field, format!("`{value}` isn't {expected}"))
    }

    /// The value, if it is there and not `null`.
    pub(crate) fn get(&self, field: &str) -> Option<&'a Value> {
        self.spelled(field).filter(|value| !value.is_null())
    }

    /// The value as it is written, `null` included: some defaults apply only if a field is left out.
    pub(crate) fn spelled(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|_| !self.hidden.contains(&field))
    }

    /// All fields with their values, in the order of the file.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let shown = self.map.iter().map(|(field, value)| (field.as_str(), value));
        shown.filter(|(field, _)| !self.hidden.contains(field))
    }

    /// The same object with some fields left out.
    pub(crate) fn without(&self, names: &[&'static str]) -> Self {
        let hidden = self.hidden.iter().chain(names).copied().collect();
        Self { hidden, ..self.clone() }
    }

    /// The first of several names that the file uses, else the first of all: one thing under names that changed.
    pub(crate) fn name_in_use(&self, names: &[&'static str]) -> &'static str {
        let used = names.iter().find(|name| self.get(name).is_some());
        used.or(names.first()).copied().unwrap_or_default()
    }

    /// A positive whole number.
    pub(crate) fn size(&self, field: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_u64() {
            Some(size @ 1..=LARGEST_SIZE) => Ok(Some(size as usize)),
            _ => Err(self.wrong(field, value, "a positive whole number of a sensible size")),
        }
    }

    /// The same, which has to be there.
    pub(crate) fn required_size(&self, field: &str) -> Result<usize> {
        self.size(field)?.ok_or_else(|| self.error(field, "is missing"))
    }

    /// A positive number.
    pub(crate) fn positive(&self, field: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if number > 0.0 && number.is_finite() => Ok(Some(number)),
            _ => Err(self.wrong(field, value, "a positive number")),
        }
    }

    /// The same, which has to be there.
    pub(crate) fn required_positive(&self, field: &str) -> Result<f64> {
        self.positive(field)?.ok_or_else(|| self.error(field, "is missing"))
    }

    /// A number.
    pub(crate) fn number(&self, field: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.wrong(field, value, "a number"))
    }

    /// A number that is 0 or more.
    pub(crate) fn not_negative(&self, field: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if number >= 0.0 && number.is_finite() => Ok(Some(number)),
            _ => Err(self.wrong(field, value, "a number that is 0 or more")),
        }
    }

    /// `true` or `false`.
    pub(crate) fn flag(&self, field: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(field, value, "`true` or `false`"))
    }

    /// A string.
    pub(crate) fn text(&self, field: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(field, value, "a string"))
    }

    /// An object.
    pub(crate) fn object(&self, field: &str) -> Result<Option<Fields<'a>>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let map = value.as_object().ok_or_else(|| self.wrong(field, value, "an object"))?;
        Ok(Some(Fields {
            file: self.file.clone(),
            inside: format!("{}{field}.", self.inside),
            map,
            hidden: Vec::new(),
        }))
    }

    /// A list of strings.
    pub(crate) fn texts(&self, field: &str) -> Result<Option<Vec<&'a str>>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let list = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
        list.map(Some).ok_or_else(|| self.wrong(field, value, "a list of strings"))
    }

    /// A list of whole numbers.
    pub(crate) fn whole_list(&self, field: &str) -> Result<Option<Vec<u64>>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let list = value.as_array().and_then(|list| list.iter().map(Value::as_u64).collect::<Option<Vec<_>>>());
        list.map(Some).ok_or_else(|| self.wrong(field, value, "a list of whole numbers"))
    }

    /// A list of positive numbers.
    pub(crate) fn positive_list(&self, field: &str) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let positive = |number: &Value| number.as_f64().filter(|number| *number > 0.0 && number.is_finite());
        let list = value.as_array().and_then(|list| list.iter().map(positive).collect::<Option<Vec<_>>>());
        list.map(Some).ok_or_else(|| self.wrong(field, value, "a list of positive numbers"))
    }

    /// One token id or a list of them.
    pub(crate) fn token_ids(&self, field: &str) -> Result<Option<Vec<u32>>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let one = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match value {
            Value::Array(list) => list.iter().map(one).collect(),
            single => one(single).map(|id| vec![id]),
        };
        ids.map(Some).ok_or_else(|| self.wrong(field, value, "a token id or a list of them"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_only_python_writes_read_as_nothing() {
        let folder = std::env::temp_dir().join(format!("ept-infinite-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("config.json");
        fs::write(&file, r#"{"a": [0.0, Infinity], "b": -Infinity, "c": "NaN \" Infinity", "d": NaN}"#).unwrap();
        let object = read_object(&file).unwrap();
        fs::write(&file, r#"{"a": Infinite}"#).unwrap();
        let wrong = read_object(&file);
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(
            serde_json::to_string(&object).unwrap(),
            r#"{"a":[0.0,null],"b":null,"c":"NaN \" Infinity","d":null}"#
        );
        assert!(wrong.is_err());
    }
}
