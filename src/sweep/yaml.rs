//! The one door to the YAML crate: parses a sweep file and says where in it something is wrong.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use crate::error::Error;

/// A text with its name, for errors that point into it.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The file as the user named it.
    pub file: &'a Path,
    /// Its text.
    pub text: &'a str,
}

/// One step from a node to a node inside it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step<'a> {
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
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_yaml::from_str(self.text).map_err(|error| self.explain(&error))
    }

    /// An error about the node at `path`, pointing at it where it can be found.
    pub fn error_at(&self, path: &[Step<'_>], message: impl fmt::Display) -> Error {
        // a path can name a key that the file leaves to its default: then the nearest node around it is shown
        let found = (0..=path.len()).rev().find_map(|length| self.locate(&path[..length]));
        self.point(found, &message.to_string())
    }

    fn explain(&self, error: &serde_yaml::Error) -> Error {
        let place = error.location().map(|location| (location.line(), location.column()));
        let full = error.to_string();
        let message = full.rsplit_once(" at line ").map_or(full.as_str(), |(message, _)| message);
        let (path, rest) = split_path(message);
        match unknown_name(rest) {
            Some(unknown) => {
                let inside = parent(path).map_or(String::new(), |parent| format!(" in `{parent}`"));
                let error = self.point(place, &format!("unknown {} `{}`{inside}", unknown.what, unknown.name));
                error.hint(unknown.hint())
            }
            None => self.point(place, message),
        }
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
    /// The parser reports positions only with errors, so this walks to the node and fails there on purpose.
    fn locate(&self, path: &[Step<'_>]) -> Option<(usize, usize)> {
        let deserializer = serde_yaml::Deserializer::from_str(self.text);
        let error = Walk { path }.deserialize(deserializer).err()?;
        if !error.to_string().contains(HERE) {
            return None;
        }
        error.location().map(|location| (location.line(), location.column()))
    }
}

/// The length of the word under the caret.
fn caret_width(line: &str, column: usize) -> usize {
    let word = line.chars().skip(column - 1).take_while(|c| !c.is_whitespace() && !matches!(c, ':' | ',' | ']' | '}'));
    word.count().max(1)
}

/// Splits `sweep.batch_size[0]: invalid type …` into path and message.
fn split_path(message: &str) -> (&str, &str) {
    match message.split_once(": ") {
        Some((path, rest)) if !path.contains(' ') && !path.is_empty() => (path, rest),
        _ => ("", message),
    }
}

/// `sweep.?` names an unknown key inside `sweep`.
fn parent(path: &str) -> Option<&str> {
    let parent = path.trim_end_matches('?').trim_end_matches('.');
    (!parent.is_empty()).then_some(parent)
}

struct UnknownName<'a> {
    what: &'static str,
    name: &'a str,
    known: Vec<&'a str>,
}

impl UnknownName<'_> {
    fn hint(&self) -> String {
        match closest(self.name, &self.known) {
            Some(known) => format!("did you mean `{known}`?"),
            None => format!("known here: {}", self.known.join(", ")),
        }
    }
}

/// Reads serde's sentence for an unknown field or variant.
fn unknown_name(message: &str) -> Option<UnknownName<'_>> {
    let (what, rest) = match message.strip_prefix("unknown field ") {
        Some(rest) => ("key", rest),
        None => ("value", message.strip_prefix("unknown variant ")?),
    };
    let mut quoted = rest.split('`').skip(1).step_by(2);
    Some(UnknownName { what, name: quoted.next()?, known: quoted.collect() })
}

/// The known name that a misspelt one most likely stands for.
pub fn closest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let scored = known.iter().map(|candidate| (strsim::damerau_levenshtein(name, candidate), *candidate));
    let (distance, candidate) = scored.min_by_key(|(distance, _)| *distance)?;
    (distance <= 2.max(candidate.len() / 3)).then_some(candidate)
}

const HERE: &str = "\u{1}here";

struct Walk<'p> {
    path: &'p [Step<'p>],
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HERE)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((step, rest)) = self.path.split_first() else { return Err(A::Error::custom(HERE)) };
        while let Some(key) = map.next_key::<KeyText>()? {
            match step {
                Step::Key(wanted) if key.0 == *wanted => return map.next_value_seed(Walk { path: rest }),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Some((step, rest)) = self.path.split_first() else { return Err(A::Error::custom(HERE)) };
        let Step::Item(index) = step else { return Ok(()) };
        for _ in 0..*index {
            if items.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
        }
        items.next_element_seed(Walk { path: rest }).map(|_| ())
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
