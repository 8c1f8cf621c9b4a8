//! The fields of `config.json`, with errors that name the file and the field.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Context, Error, Result};

/// Largest value of a size in `config.json`: keeps products of two sizes far from overflow.
const LARGEST_SIZE: u64 = 1 << 30;

/// Reads a JSON file that has to hold an object.
pub fn read_object(file: &Path) -> Result<Map<String, Value>> {
    let text = fs::read_to_string(file).input_context(|| format!("can't read `{}`", file.display()))?;
    let parsed = match serde_json::from_str(&text) {
        // Python writes numbers that JSON doesn't have
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
pub struct Fields<'a> {
    file: PathBuf,
    inside: String,
    map: &'a Map<String, Value>,
    hidden: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// The fields of an object that is in `file`.
    pub fn new(file: &Path, map: &'a Map<String, Value>) -> Self {
        Self { file: file.to_owned(), inside: String::new(), map, hidden: Vec::new() }
    }

    /// An error about a field.
    pub fn error(&self, field: &str, message: impl std::fmt::Display) -> Error {
        Error::input(format!("`{}{field}`: {message}", self.inside)).at(self.file.display())
    }

    fn wrong(&self, field: &str, value: &Value, expected: &str) -> Error {
        self.error(field, format!("`{value}` isn't {expected}"))
    }

    /// The value, where it is there and not `null`.
    pub fn get(&self, field: &str) -> Option<&'a Value> {
        self.spelled(field).filter(|value| !value.is_null())
    }

    /// The value as it is written, `null` included: some defaults apply only where a field is left out.
    pub fn spelled(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|_| !self.hidden.contains(&field))
    }

    /// The same object with some fields left out.
    pub fn without(&self, names: &[&'static str]) -> Self {
        let hidden = self.hidden.iter().chain(names).copied().collect();
        Self { hidden, ..self.clone() }
    }

    /// The first of several names that the file uses, else the first of all: one thing under names that changed.
    pub fn name_in_use(&self, names: &[&'static str]) -> &'static str {
        let used = names.iter().find(|name| self.get(name).is_some());
        used.or(names.first()).copied().unwrap_or_default()
    }

    /// A positive whole number.
    pub fn size(&self, field: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_u64() {
            Some(size @ 1..=LARGEST_SIZE) => Ok(Some(size as usize)),
            _ => Err(self.wrong(field, value, "a positive whole number of a sensible size")),
        }
    }

    /// The same, which has to be there.
    pub fn required_size(&self, field: &str) -> Result<usize> {
        self.size(field)?.ok_or_else(|| self.error(field, "is missing"))
    }

    /// A positive number.
    pub fn positive(&self, field: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if number > 0.0 && number.is_finite() => Ok(Some(number)),
            _ => Err(self.wrong(field, value, "a positive number")),
        }
    }

    /// The same, which has to be there.
    pub fn required_positive(&self, field: &str) -> Result<f64> {
        self.positive(field)?.ok_or_else(|| self.error(field, "is missing"))
    }

    /// A number that is 0 or more.
    pub fn not_negative(&self, field: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if number >= 0.0 && number.is_finite() => Ok(Some(number)),
            _ => Err(self.wrong(field, value, "a number that is 0 or more")),
        }
    }

    /// `true` or `false`.
    pub fn flag(&self, field: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(field, value, "`true` or `false`"))
    }

    /// A string.
    pub fn text(&self, field: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(field, value, "a string"))
    }

    /// An object.
    pub fn object(&self, field: &str) -> Result<Option<Fields<'a>>> {
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
    pub fn texts(&self, field: &str) -> Result<Option<Vec<&'a str>>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let list = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
        list.map(Some).ok_or_else(|| self.wrong(field, value, "a list of strings"))
    }

    /// A list of whole numbers.
    pub fn whole_list(&self, field: &str) -> Result<Option<Vec<u64>>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let list = value.as_array().and_then(|list| list.iter().map(Value::as_u64).collect::<Option<Vec<_>>>());
        list.map(Some).ok_or_else(|| self.wrong(field, value, "a list of whole numbers"))
    }

    /// A list of positive numbers.
    pub fn positive_list(&self, field: &str) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let positive = |number: &Value| number.as_f64().filter(|number| *number > 0.0 && number.is_finite());
        let list = value.as_array().and_then(|list| list.iter().map(positive).collect::<Option<Vec<_>>>());
        list.map(Some).ok_or_else(|| self.wrong(field, value, "a list of positive numbers"))
    }

    /// What says how the rotary embedding is stretched, in either spelling.
    pub fn rope(&self) -> Result<Option<Fields<'a>>> {
        match self.object("rope_scaling")? {
            Some(scaling) => Ok(Some(scaling)),
            None => self.object("rope_parameters"),
        }
    }

    /// Refuses weights that were quantised.
    pub fn refuse_quantised(&self) -> Result<()> {
        match self.get("quantization_config") {
            None => Ok(()),
            Some(_) => Err(self
                .error("quantization_config", "quantised safetensors aren't served")
                .hint("take the unquantised model (f32, f16 or bf16 safetensors), or a GGUF file of it")),
        }
    }

    /// One token id or a list of them.
    pub fn token_ids(&self, field: &str) -> Result<Option<Vec<u32>>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let one = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match value {
            Value::Array(list) => list.iter().map(one).collect(),
            single => one(single).map(|id| vec![id]),
        };
        ids.map(Some).ok_or_else(|| self.wrong(field, value, "a token id or a list of them"))
    }
}
