//! Energy per output token against batch size, a panel for each output length.

use super::lines::{self, Along};
pub use super::lines::{LinesData, draw};
use crate::analysis::Study;

/// `None` if the study has fewer than two batch sizes.
pub fn series(study: &Study) -> Option<LinesData> {
    lines::series(study, Along::BatchSize)
}
