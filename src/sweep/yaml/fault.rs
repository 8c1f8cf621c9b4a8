//! Finds out which key or value of a YAML document doesn't fit a type, as data: serde reports it in types to a deserializer
//! of our own, so that nothing has to be read out of the wording of another library's messages.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_yaml::Value;

/// The first thing in a document that doesn't fit.
#[derive(Debug, PartialEq)]
pub(super) struct Fault {
    /// The node that it is in, as in `sweep.batch_size[1]`; empty for the document.
    pub(crate) path: String,
    pub(crate) cause: Cause,
}

#[derive(Debug, PartialEq)]
pub(super) enum Cause {
    UnknownKey(Unknown),
    UnknownValue(Unknown),
    Message(String),
}

/// A name that isn't known.
#[derive(Debug, PartialEq)]
pub(super) struct Unknown {
    pub(crate) name: String,
    pub(crate) known: &'static [&'static str],
}

/// The fault for which `document` isn't a `T`; `None` if it is one, or if this reading is less exact than the real one.
pub(super) fn find<T: DeserializeOwned>(document: &Value) -> Option<Fault> {
    T::deserialize(Node(document)).err().filter(|fault| fault.cause != Cause::Message(String::new()))
}

impl Fault {
    fn new(cause: Cause) -> Self {
        Self { path: String::new(), cause }
    }

    fn unclear() -> Self {
        Self::new(Cause::Message(String::new()))
    }

    /// The same fault, seen from the node around it.
    fn inside(self, step: &str) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        Self { path: format!("{step}{dot}{}", self.path), ..self }
    }
}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Cause::Message(message.to_string()))
    }

    fn unknown_field(name: &str, known: &'static [&'static str]) -> Self {
        Self::new(Cause::UnknownKey(Unknown { name: name.to_owned(), known }))
    }

    fn unknown_variant(name: &str, known: &'static [&'static str]) -> Self {
        Self::new(Cause::UnknownValue(Unknown { name: name.to_owned(), known }))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Fault {}

/// A node that reads itself as the YAML crate reads a document: any scalar can be text, and nothing can be an empty map or
/// list.
#[derive(Clone, Copy)]
struct Node<'a>(&'a Value);

impl Node<'_> {
    /// A scalar as text; `None` for a map or list.
    fn text(self) -> Option<String> {
        match self.0 {
            Value::Null => Some(String::new()),
            Value::Bool(value) => Some(value.to_string()),
            Value::Number(value) => Some(value.to_string()),
            Value::String(value) => Some(value.clone()),
            Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => None,
        }
    }
}

impl<'de> Deserializer<'de> for Node<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(value) => match (value.as_u64(), value.as_i64(), value.as_f64()) {
                (Some(value), ..) => visitor.visit_u64(value),
                (_, Some(value), _) => visitor.visit_i64(value),
                (.., Some(value)) => visitor.visit_f64(value),
                (None, None, None) => Err(Fault::unclear()),
            },
            Value::String(value) => visitor.visit_str(value),
            Value::Sequence(items) => visitor.visit_seq(Items { items: items.iter(), next: 0 }),
            Value::Mapping(entries) => visitor.visit_map(Entries { entries: entries.iter(), value: None }),
            Value::Tagged(_) => Err(Fault::unclear()),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let text = self.text().ok_or_else(Fault::unclear)?;
        let variant: StrDeserializer<'_, Fault> = text.as_str().into_deserializer();
        visitor.visit_enum(variant)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.text() {
            Some(text) => visitor.visit_string(text),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_string(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_string(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Null => visitor.visit_seq(Items { items: [].iter(), next: 0 }),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Null => visitor.visit_map(Entries { entries: std::iter::empty(), value: None }),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_map(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct
        ignored_any
    }
}

struct Items<'a> {
    items: std::slice::Iter<'a, Value>,
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let step = format!("[{}]", self.next);
        self.next += 1;
        seed.deserialize(Node(item)).map(Some).map_err(|fault| fault.inside(&step))
    }
}

struct Entries<'a, I> {
    entries: I,
    value: Option<(String, &'a Value)>,
}

impl<'de, 'a, I: Iterator<Item = (&'a Value, &'a Value)>> MapAccess<'de> for Entries<'a, I> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        self.value = Some((Node(key).text().unwrap_or_default(), value));
        seed.deserialize(Node(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let (key, value) = self.value.take().ok_or_else(Fault::unclear)?;
        seed.deserialize(Node(value)).map_err(|fault| fault.inside(&key))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Doc {
        #[serde(default)]
        models: Vec<Model>,
        kind: Option<Kind>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Model {
        label: String,
        sizes: Option<[u32; 2]>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        Fast,
        Slow,
    }

    fn fault(text: &str) -> Option<(String, Cause)> {
        let document = serde_yaml::from_str(text).unwrap();
        assert_eq!(find::<Doc>(&document).is_none(), serde_yaml::from_str::<Doc>(text).is_ok(), "{text}");
        find::<Doc>(&document).map(|fault| (fault.path, fault.cause))
    }

    #[test]
    fn a_document_that_fits_has_no_fault() {
        for text in ["{}", "kind: fast", "models:", "models: [{label: 1}]", "models: [{label: a, sizes: [1, 2]}]", ""] {
            assert_eq!(fault(text), None, "{text}");
        }
    }

    #[test]
    fn an_unknown_name_comes_with_those_that_are_known_where_it_is() {
        let unknown = |name: &str, known| Unknown { name: name.to_owned(), known };
        assert_eq!(
            fault("models: [{label: a}, {lable: b}]"),
            Some(("models[1]".to_owned(), Cause::UnknownKey(unknown("lable", &["label", "sizes"]))))
        );
        assert_eq!(
            fault("kind: quick"),
            Some(("kind".to_owned(), Cause::UnknownValue(unknown("quick", &["fast", "slow"]))))
        );
    }

    #[test]
    fn a_wrong_type_is_named_with_its_path() {
        let (path, cause) = fault("models: [{label: a, sizes: [1, x]}]").unwrap();
        assert_eq!(path, "models[0].sizes[1]");
        assert_eq!(cause, Cause::Message("invalid type: string \"x\", expected u32".to_owned()));
        let (path, cause) = fault("models: [{}]").unwrap();
        assert_eq!((path.as_str(), cause), ("models[0]", Cause::Message("missing field `label`".to_owned())));
    }
}
