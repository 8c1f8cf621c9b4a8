//! The one door to the YAML crate: parses a sweep file and says where in it something is wrong.
//!
//! Positions are those that the crate reports with an error; `fault` finds out what is wrong there.

mod fault;

use std::cell::Cell;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use self::fault::{Cause, Unknown};
use crate::error::Error;

/// A text with its name, for errors that point into it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    /// The file as the user named it.
    pub(crate) file: &'a Path,
    /// Its text.
    pub(crate) text: &'a str,
}

/// One step from a node to a node inside it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Step<'a> {
    /// The value of a key.
    Key(&'a str),
    /// An item of a list.
    Item(usize),
}

impl Source<'_> {
    /// Parses the text.
    ///
    /// # Errors
    /// Bad YAML, an unknown key or a wrong type: with file, line, column, caret and, for a misspelt name, the right one.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_yaml::from_str(self.text).map_err(|error| self.explain::<T>(&error))
    }

    /// An error about the node at `path`, pointing at it where it can be found.
    pub(crate) fn error_at(&self, path: &[Step<'_>], message: impl fmt::Display) -> Error {
        // a path can name a key that the file leaves to its default: then the nearest node around it is shown
        let found = (0..=path.len()).rev().find_map(|length| self.locate(&path[..length]));
        self.point(found, &message.to_string())
    }

    fn explain<T: DeserializeOwned>(&self, error: &serde_yaml::Error) -> Error {
        let place = error.location().map(|location| (location.line(), location.column()));
        // a text that isn't YAML at all has no contents to find a fault in
        let fault = serde_yaml::from_str(self.text).ok().and_then(|document| fault::find::<T>(&document));
        let Some(fault) = fault else { return self.point(place, &without_place(error)) };
        let path = fault.path;
        match fault.cause {
            Cause::UnknownKey(unknown) => self.unknown(place, "key", &path, &unknown),
            Cause::UnknownValue(unknown) => self.unknown(place, "value", &path, &unknown),
            Cause::Message(message) if path.is_empty() => self.point(place, &message),
            Cause::Message(message) => self.point(place, &format!("{path}: {message}")),
        }
    }

    fn unknown(&self, place: Option<(usize, usize)>, what: &str, path: &str, unknown: &Unknown) -> Error {
        let inside = if path.is_empty() { String::new() } else { format!(" in `{path}`") };
        let error = self.point(place, &format!("unknown {what} `{}`{inside}", unknown.name));
        error.with_hint(match closest(&unknown.name, unknown.known) {
            Some(known) => format!("did you mean `{known}`?"),
            None => format!("known here: {}", unknown.known.join(", ")),
        })
    }

    /// `file:line:column: message`, then the line itself with a caret.
    fn point(&self, place: Option<(usize, usize)>, message: &str) -> Error {
        let file = self.file.display();
        let Some((line, column)) = place else { return Error::input(format!("{file}: {message}")) };
        let mut text = format!("{file}:{line}:{column}: {message}");
        if let Some(source) = self.text.lines().nth(line - 1) {
            let width = caret_width(source, column);
            let number = line.to_string();
            let gutter = " ".repeat(number.len());
            let indent = " ".repeat(column - 1);
            text.push_str(&format!("\n  {number} | {source}\n  {gutter} | {indent}{}", "^".repeat(width)));
        }
        Error::input(text)
    }

    /// Line and column of the node at `path`.
    ///
    /// The crate reports positions only with errors, so this walks to the node and fails there on purpose.
    fn locate(&self, path: &[Step<'_>]) -> Option<(usize, usize)> {
        let arrived = Cell::new(false);
        let deserializer = serde_yaml::Deserializer::from_str(self.text);
        let error = Walk { path, arrived: &arrived }.deserialize(deserializer).err().filter(|_| arrived.get())?;
        error.location().map(|location| (location.line(), location.column()))
    }
}

/// The crate's message without the place, which the line of the error begins with.
fn without_place(error: &serde_yaml::Error) -> String {
    let message = error.to_string();
    match error.location() {
        Some(place) => message.replacen(&format!(" at line {} column {}", place.line(), place.column()), "", 1),
        None => message,
    }
}

/// The length of the word under the caret.
fn caret_width(line: &str, column: usize) -> usize {
    let word = line.chars().skip(column - 1).take_while(|c| !c.is_whitespace() && !matches!(c, ':' | ',' | ']' | '}'));
    word.count().max(1)
}

/// The known name that a misspelt one most likely stands for.
pub(crate) fn closest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let scored = known.iter().map(|candidate| (strsim::damerau_levenshtein(name, candidate), *candidate));
    let (distance, candidate) = scored.min_by_key(|(distance, _)| *distance)?;
    (distance <= 2.max(candidate.len() / 3)).then_some(candidate)
}

/// Goes down a path, and fails at its end with `arrived` set.
struct Walk<'p> {
    path: &'p [Step<'p>],
    arrived: &'p Cell<bool>,
}

impl<'p> Walk<'p> {
    /// The next step, or the failure at the end of the path.
    fn step<E: serde::de::Error>(self) -> Result<(Step<'p>, Walk<'p>), E> {
        match self.path.split_first() {
            Some((step, path)) => Ok((*step, Walk { path, ..self })),
            None => {
                self.arrived.set(true);
                Err(E::custom("arrived"))
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    /// serde asks for this when it meets a scalar: the end of the path, or too early.
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.arrived.set(self.path.is_empty());
        f.write_str("a node at the path")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (step, rest) = self.step()?;
        while let Some(key) = map.next_key::<KeyText>()? {
            match step {
                Step::Key(wanted) if key.0 == wanted => return map.next_value_seed(rest),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let (Step::Item(index), rest) = self.step()? else { return Ok(()) };
        for _ in 0..index {
            if items.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
        }
        items.next_element_seed(rest).map(|_| ())
    }
}

/// A key of any scalar type, as text.
struct KeyText(String);

impl<'de> Deserialize<'de> for KeyText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_yaml::Value::deserialize(deserializer)?;
        Ok(KeyText(value.as_str().map_or_else(|| format!("{value:?}"), str::to_owned)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Doc {
        sweep: Inner,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Inner {
        batch_size: Vec<u32>,
    }

    fn error(text: &str) -> String {
        Source { file: Path::new("kd.yaml"), text }.parse::<Doc>().expect_err("must not parse").to_string()
    }

    #[test]
    fn a_misspelt_key_is_pointed_at_and_the_right_one_named() {
        let error = error("sweep:\n  batch_sizes: [1, 8]\n");
        assert_eq!(
            error,
            "kd.yaml:2:3: unknown key `batch_sizes` in `sweep`\n  2 |   batch_sizes: [1, 8]\n    |   ^^^^^^^^^^^\nhint: did you mean `batch_size`?"
        );
    }

    #[test]
    fn a_wrong_type_is_pointed_at_in_its_list() {
        let error = error("sweep:\n  batch_size: [1, many]\n");
        assert!(error.starts_with("kd.yaml:2:19: sweep.batch_size[1]: invalid type"), "{error}");
    }

    #[test]
    fn the_place_of_any_node_can_be_found() {
        let text = "models:\n  - label: a\n  - label: b\n    role: student\n";
        let source = Source { file: Path::new("kd.yaml"), text };
        assert_eq!(source.locate(&[Step::Key("models"), Step::Item(1), Step::Key("label")]), Some((3, 12)));
        assert_eq!(source.locate(&[Step::Key("models"), Step::Item(1), Step::Key("teacher")]), None);
    }
}
