//! Reading a `config.json` for code that computes one variant only: what differs is refused, so that nothing is
//! computed other than the model asks for. A field that is left out has the default of transformers.

use std::fmt::Display;

use serde_json::Value;

use crate::engine::config::rope;
use crate::error::Result;
use crate::json::Fields;

/// Far above the layers of any model; keeps lists of layers short.
pub(crate) const MOST_LAYERS: usize = 1 << 12;

/// Refuses a field that isn't what the code computes. A field that is left out has the default of transformers.
pub(crate) fn only<T: PartialEq + Display>(fields: &Fields<'_>, field: &str, value: T, supported: T) -> Result<()> {
    match value == supported {
        true => Ok(()),
        false => Err(fields.error(field, format!("`{value}` isn't supported; `{supported}` is"))),
    }
}

/// Refuses a flag that isn't what the code computes.
pub(crate) fn only_flag(fields: &Fields<'_>, field: &str, default: bool, supported: bool) -> Result<()> {
    only(fields, field, fields.flag(field)?.unwrap_or(default), supported)
}

/// Refuses another activation.
pub(crate) fn only_activation(fields: &Fields<'_>, field: &str, default: &str, supported: &str) -> Result<()> {
    only(fields, field, fields.text(field)?.unwrap_or(default), supported)
}

/// A size that has to be a multiple of another one; gives their quotient.
pub(crate) fn split(fields: &Fields<'_>, field: &str, size: usize, parts: usize) -> Result<usize> {
    match size.is_multiple_of(parts) {
        true => Ok(size / parts),
        false => Err(fields.error(field, format!("{parts} doesn't divide {size}"))),
    }
}

/// Base of a rotary embedding that isn't stretched, in the spellings of transformers 4 and 5.
pub(crate) fn plain_rope(fields: &Fields<'_>, default_theta: f64) -> Result<f64> {
    let rope = rope::parameters(fields)?;
    if let Some(rope) = &rope {
        let kind = rope.text("rope_type")?.or(rope.text("type")?).unwrap_or("default");
        only(rope, "rope_type", kind, "default")?;
    }
    let inside = match &rope {
        Some(rope) => rope.positive("rope_theta")?,
        None => None,
    };
    Ok(inside.or(fields.positive("rope_theta")?).unwrap_or(default_theta))
}

/// The kind of each layer, from a list of names.
pub(crate) fn layer_types<T>(
    fields: &Fields<'_>,
    layers: usize,
    default: &str,
    kind: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>> {
    let named = match fields.get("layer_types") {
        None => vec![default; layers.min(MOST_LAYERS)],
        Some(Value::Array(list)) => list.iter().map(|name| name.as_str().unwrap_or_default()).collect(),
        Some(other) => return Err(fields.error("layer_types", format!("`{other}` isn't a list"))),
    };
    if named.len() != layers {
        return Err(fields.error("layer_types", format!("names {} layers, not {layers}", named.len())));
    }
    let kind = |name: &str| kind(name).ok_or_else(|| fields.error("layer_types", format!("`{name}` isn't supported")));
    named.into_iter().map(kind).collect()
}
