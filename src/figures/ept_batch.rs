//! Energy per output token against batch size, a panel for each output length.

use super::lines::{self, Along};
pub use super::lines::{Series, draw};
use crate::analysis::Study;

/// What the figure shows; `None` where the study has fewer than two batch sizes.
pub fn series(study: &Study) -> Option<Series> {
    lines::series(study, Along::BatchSize)
}
