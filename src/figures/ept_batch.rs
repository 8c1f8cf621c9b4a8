//! Energy per output token against batch size, a panel for each output length.

pub(crate) use super::lines::LinesData;
pub use super::lines::draw;
use super::lines::{self, Along};
use crate::analysis::Study;

/// `None` if the study has fewer than two batch sizes.
pub fn series(study: &Study) -> Option<LinesData> {
    lines::series(study, Along::BatchSize)
}
