//! Energy per output token against output length, a panel for each batch size.

pub(crate) use super::lines::LinesData;
pub use super::lines::draw;
use super::lines::{self, Along};
use crate::analysis::Study;

/// `None` if the study has fewer than two output lengths.
pub fn series(study: &Study) -> Option<LinesData> {
    lines::series(study, Along::OutputLength)
}
