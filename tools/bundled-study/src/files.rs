//! Writing text and JSON.

use std::fs;
use std::path::Path;

use ept_sweep::error::{Context, Result};
use serde::Serialize;

/// # Errors
/// The file can't be written.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).context(|| format!("can't write `{}`", path.display()))
}

/// Indented, with a newline at the end.
///
/// # Errors
/// The file can't be written, or the value isn't JSON.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context(|| format!("can't write `{}`", path.display()))?;
    write_text(path, &(text + "\n"))
}

/// One JSON object a line.
///
/// # Errors
/// As [`write_json`].
pub(crate) fn write_lines(path: &Path, rows: &[impl Serialize]) -> Result<()> {
    let mut text = String::new();
    for row in rows {
        text += &serde_json::to_string(row).context(|| format!("can't write `{}`", path.display()))?;
        text.push('\n');
    }
    write_text(path, &text)
}

/// Makes a folder with all above it.
///
/// # Errors
/// The disk refuses it.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).context(|| format!("can't create `{}`", path.display()))
}
