//! A sweep file from disk: parsed, then checked.

use std::path::Path;

use crate::error::{Context, Result};
use crate::sweep::spec::SweepSpec;
use crate::sweep::{validate, yaml};

impl SweepSpec {
    /// Reads and validates a sweep file.
    ///
    /// # Errors
    /// Unreadable file, bad YAML, unknown key, wrong type, or a value that contradicts another: with file, line,
    /// column, caret and what to do.
    pub fn read(file: &Path) -> Result<(Self, String)> {
        let text = std::fs::read_to_string(file)
            .input_context(|| format!("can't read the sweep file `{}`", file.display()))?;
        let spec = Self::parse(file, &text)?;
        Ok((spec, text))
    }

    /// Parses and validates the text of a sweep file.
    ///
    /// # Errors
    /// As [`SweepSpec::read`].
    pub fn parse(file: &Path, text: &str) -> Result<Self> {
        let source = yaml::Source { file, text };
        let spec: Self = source.parse()?;
        validate::check(&spec, &source)?;
        Ok(spec)
    }
}
