//! Energy per output token against output length, a panel for each batch size.

use super::lines::{self, Along};
pub use super::lines::{LinesData, draw};
use crate::analysis::Study;

/// `None` if the study has fewer than two output lengths.
pub fn series(study: &Study) -> Option<LinesData> {
    lines::series(study, Along::OutputLength)
}
