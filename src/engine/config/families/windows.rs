//! Which layers see a sliding window.

use crate::engine::config::graph::Config;
use crate::error::Result;
use crate::json::Fields;

/// Gives all layers the window of `sliding_window`.
///
/// # Errors
/// A window that is no size.
pub(crate) fn on_all_layers(config: &mut Config, fields: &Fields, default: Option<usize>) -> Result<()> {
    let window = size(fields, default)?;
    config.layers.iter_mut().for_each(|layer| layer.window = window);
    Ok(())
}

/// Gives the window to the layers that `layer_types` calls `sliding_attention` or, if it is left out, to those that
/// `slides` names by index.
///
/// # Errors
/// A window that is no size, or a list of types that doesn't fit the layers.
pub(crate) fn on_some_layers(
    config: &mut Config,
    fields: &Fields,
    window: Option<usize>,
    slides: impl Fn(usize) -> bool,
) -> Result<()> {
    let slides = match fields.texts("layer_types")? {
        Some(types) => from_types(config, fields, &types)?,
        None => (0..config.layers.len()).map(slides).collect(),
    };
    for (layer, slides) in config.layers.iter_mut().zip(slides) {
        layer.window = window.filter(|_| slides);
    }
    Ok(())
}

/// `sliding_window`; `null` is none.
///
/// # Errors
/// A value that is no size.
pub(crate) fn size(fields: &Fields, default: Option<usize>) -> Result<Option<usize>> {
    match fields.spelled("sliding_window") {
        None => Ok(default),
        Some(_) => fields.size("sliding_window"),
    }
}

/// The window of families that have `use_sliding_window`: none unless it is true.
///
/// # Errors
/// A field with a wrong value.
pub(crate) fn switched_size(fields: &Fields, default: Option<usize>) -> Result<Option<usize>> {
    match fields.flag("use_sliding_window")?.unwrap_or(false) {
        true => size(fields, default),
        false => Ok(None),
    }
}

fn from_types(config: &Config, fields: &Fields, types: &[&str]) -> Result<Vec<bool>> {
    if types.len() != config.layers.len() {
        let message = format!("has {} entries, `num_hidden_layers` says {}", types.len(), config.layers.len());
        return Err(fields.error("layer_types", message));
    }
    let slides = |kind: &&str| match *kind {
        "sliding_attention" => Ok(true),
        "full_attention" => Ok(false),
        other => {
            let supported = "`full_attention` and `sliding_attention`";
            Err(fields.error("layer_types", format!("`{other}` isn't supported; supported are {supported}")))
        }
    };
    types.iter().map(slides).collect()
}
