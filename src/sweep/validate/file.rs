//! A parsed sweep file together with its text, so that findings point into it.

use std::fmt::Display;

use crate::error::Error;
use crate::sweep::spec::SweepSpec;
use crate::sweep::yaml::{Source, Step};

/// No sequence, batch or prompt list is larger than this: larger values are probably a typo.
pub(super) const LARGEST: usize = 1 << 20;

/// What is checked.
pub(super) struct File<'a> {
    pub(crate) spec: &'a SweepSpec,
    pub(crate) source: &'a Source<'a>,
}

impl File<'_> {
    /// A finding about the node at `path`.
    pub(crate) fn fail(&self, path: &[Step<'_>], message: impl Display, hint: impl Into<String>) -> Error {
        self.source.error_at(path, message).with_hint(hint)
    }
}
