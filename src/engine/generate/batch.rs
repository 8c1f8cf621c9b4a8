//! Token lists of any lengths as one batch.

use candle_core::{Device, Tensor};

use crate::engine::interface::Prompt;
use crate::error::Result;

/// Fed to rows that have ended and to the left of short ones; masked, so that any token would do.
pub(crate) const PAD: u32 = 0;

/// Token lists side by side, ending at the same column.
pub(crate) struct LeftPadded {
    ids: Vec<u32>,
    /// First column of each row that isn't padding.
    pub(crate) starts: Vec<usize>,
    /// Number of columns.
    pub(crate) width: usize,
}

impl LeftPadded {
    /// Pads prompts to the longest.
    pub(crate) fn prompts(batch: &[Prompt]) -> Self {
        Self::new(batch.iter().map(|prompt| prompt.ids.as_slice()))
    }

    /// Pads to the longest.
    pub(super) fn new<'a>(rows: impl Iterator<Item = &'a [u32]> + Clone) -> Self {
        let width = rows.clone().map(<[u32]>::len).max().unwrap_or(0);
        let starts: Vec<usize> = rows.clone().map(|row| width - row.len()).collect();
        let padded = rows.zip(&starts).flat_map(|(row, start)| std::iter::repeat_n(&PAD, *start).chain(row).copied());
        Self { ids: padded.collect(), starts, width }
    }

    /// `(b, width)`.
    pub(super) fn ids(&self, device: &Device) -> Result<Tensor> {
        Ok(Tensor::from_slice(&self.ids, (self.starts.len(), self.width), device)?)
    }
}
