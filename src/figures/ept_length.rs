//! Energy per output token against output length, a panel for each batch size.

use super::lines::{self, Along};
pub use super::lines::{Series, draw};
use crate::analysis::Study;

/// What the figure shows; `None` where the study has fewer than two output lengths.
pub fn series(study: &Study) -> Option<Series> {
    lines::series(study, Along::OutputLength)
}
