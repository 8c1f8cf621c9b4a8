//! Values that the sweep file leaves to the program: `auto`, and the seed of what has to be the same each time.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::{self, Deserialize, Deserializer, IntoDeserializer, Visitor};

/// A value, or `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Auto<T> {
    /// The program chooses.
    #[serde(serialize_with = "serialize_auto")]
    Auto,
    /// The user chose.
    Value(T),
}

impl<T: Copy> Auto<T> {
    /// The user's value, or the program's choice.
    pub(crate) fn or(self, choice: T) -> T {
        match self {
            Auto::Auto => choice,
            Auto::Value(value) => value,
        }
    }
}

fn serialize_auto<S: serde::Serializer>(serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str("auto")
}

/// The seed of prompts and of sampled tokens, unless the sweep file names another: the content of a study has to be the
/// same each time. The order of trials has another default.
pub(super) fn default_seed() -> u64 {
    42
}

/// A type that `auto` can stand for.
trait Choice {
    const EXPECTED: &'static str;
}

impl Choice for u32 {
    const EXPECTED: &'static str = "a whole number or `auto`";
}

impl Choice for u64 {
    const EXPECTED: &'static str = "a whole number or `auto`";
}

impl Choice for f64 {
    const EXPECTED: &'static str = "a number or `auto`";
}

impl Choice for bool {
    const EXPECTED: &'static str = "`true`, `false` or `auto`";
}

impl<'de, T: Deserialize<'de> + Choice> Deserialize<'de> for Auto<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct AutoVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + Choice> Visitor<'de> for AutoVisitor<T> {
            type Value = Auto<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::EXPECTED)
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> std::result::Result<Auto<T>, E> {
                T::deserialize(value.into_deserializer()).map(Auto::Value)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Auto<T>, E> {
                match text {
                    "auto" => Ok(Auto::Auto),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> std::result::Result<Auto<T>, E> {
                T::deserialize(value.into_deserializer()).map(Auto::Value)
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> std::result::Result<Auto<T>, E> {
                T::deserialize(value.into_deserializer()).map(Auto::Value)
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> std::result::Result<Auto<T>, E> {
                T::deserialize(value.into_deserializer()).map(Auto::Value)
            }
        }
        deserializer.deserialize_any(AutoVisitor(PhantomData))
    }
}
