//! The axes of a sweep.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};

/// The axes of the sweep.
#[derive(Debug, Clone, PartialEq, DeriveDeserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Axes {
    /// Sequences decoded together.
    pub(crate) batch_size: Axis,
    /// Output length: the most new tokens of a sequence.
    pub(crate) max_new_tokens: Axis,
    /// Largest number of cells that may be planned: a guard against typos.
    #[serde(default = "default_max_cells")]
    pub(crate) max_cells: usize,
}

pub(super) fn default_max_cells() -> usize {
    500
}

/// Axes of a single model.
#[derive(Debug, Clone, PartialEq, Default, DeriveDeserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModelAxes {
    /// In place of `sweep.batch_size`.
    pub(crate) batch_size: Option<Axis>,
    /// In place of `sweep.max_new_tokens`.
    pub(crate) max_new_tokens: Option<Axis>,
}

/// One number or a list of numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub(crate) struct Axis(pub(crate) Vec<usize>);

impl<'de> Deserialize<'de> for Axis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct AxisVisitor;
        impl<'de> Visitor<'de> for AxisVisitor {
            type Value = Axis;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number above 0 or a list of them")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> std::result::Result<Axis, E> {
                usize::try_from(value).map(|value| Axis(vec![value])).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Axis, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = items.next_element()? {
                    values.push(value);
                }
                Ok(Axis(values))
            }
        }
        deserializer.deserialize_any(AxisVisitor)
    }
}
