//! The axes.

use std::collections::HashSet;

use super::file::{File, LARGEST};
use crate::error::Result;
use crate::sweep::axis::Axis;
use crate::sweep::model::ModelSpec;
use crate::sweep::yaml::Step::{self, Item, Key};

pub(super) fn axes(file: &File<'_>) -> Result<()> {
    axis(file, &file.spec.sweep.batch_size, &[Key("sweep"), Key("batch_size")])?;
    axis(file, &file.spec.sweep.max_new_tokens, &[Key("sweep"), Key("max_new_tokens")])
}

/// The axes of a single model.
pub(super) fn own_axes(file: &File<'_>, index: usize, model: &ModelSpec) -> Result<()> {
    let Some(own) = &model.sweep else { return Ok(()) };
    for (key, values) in [("batch_size", &own.batch_size), ("max_new_tokens", &own.max_new_tokens)] {
        if let Some(values) = values {
            axis(file, values, &[Key("models"), Item(index), Key("sweep"), Key(key)])?;
        }
    }
    Ok(())
}

fn axis(file: &File<'_>, axis: &Axis, path: &[Step<'_>]) -> Result<()> {
    if axis.0.is_empty() {
        return Err(file.fail(path, "empty axis", "give at least one value, such as `[1, 8]`"));
    }
    if let Some(large) = axis.0.iter().find(|value| **value > LARGEST) {
        let hint = format!("values go up to {LARGEST}");
        return Err(file.fail(path, format!("`{large}` on an axis"), hint));
    }
    if axis.0.contains(&0) {
        return Err(file.fail(path, "0 on an axis", "values start at 1"));
    }
    let distinct: HashSet<_> = axis.0.iter().collect();
    if distinct.len() < axis.0.len() {
        return Err(file.fail(
            path,
            "an axis has the same value twice",
            "each value makes cells of its own: once is enough",
        ));
    }
    Ok(())
}
