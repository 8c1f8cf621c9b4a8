//! Token embeddings, and learned positions with them.

use candle_core::DType;

use super::driver::{Driver, Grid, NULL, Params, Pointer, suffix};
use crate::error::Result;

const THREADS: usize = 256;

/// Learned positions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Positions {
    /// `(rows, width)`.
    pub(crate) table: Pointer,
    /// The row of position 0.
    pub(crate) offset: usize,
}

/// Token ids to rows of the residual stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Embed {
    /// Token ids `(b, t)`, u32.
    pub(crate) ids: Pointer,
    /// `(vocabulary, width)`.
    pub(crate) table: Pointer,
    pub(crate) vocabulary: usize,
    pub(crate) width: usize,
    /// The factor of the rows, rounded as the family does.
    pub(crate) scale: f32,
    pub(crate) positions: Option<Positions>,
    /// First column of each row `(b)`.
    pub(crate) starts: Pointer,
    /// Columns in the cache: one number.
    pub(crate) length: Pointer,
    /// `(b · t, width)`.
    pub(crate) x: Pointer,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct EmbedParams {
    ids: Pointer,
    table: Pointer,
    positions: Pointer,
    starts: Pointer,
    length: Pointer,
    x: Pointer,
    tokens: i32,
    width: i32,
    vocabulary: i32,
    offset: i32,
    scale: f32,
}

// SAFETY: the fields are those of `EmbedParams` in embed.cu.
unsafe impl Params for EmbedParams {}
const _: () = assert!(size_of::<EmbedParams>() == 72);

/// Embeds `batch` rows of `tokens` tokens.
///
/// # Errors
/// A failure of the device.
pub(crate) fn run(driver: &Driver, dtype: DType, batch: usize, tokens: usize, embed: &Embed) -> Result<()> {
    let params = EmbedParams {
        ids: embed.ids,
        table: embed.table,
        positions: embed.positions.map_or(NULL, |positions| positions.table),
        starts: embed.starts,
        length: embed.length,
        x: embed.x,
        tokens: tokens as i32,
        width: embed.width as i32,
        vocabulary: embed.vocabulary as i32,
        offset: embed.positions.map_or(0, |positions| positions.offset) as i32,
        scale: embed.scale,
    };
    let vectors = (embed.width * dtype.size_in_bytes()).div_ceil(16);
    let threads = vectors.next_multiple_of(32).min(2 * THREADS);
    let grid = Grid { blocks: ((batch * tokens) as u32, 1, 1), threads: threads as u32, shared: 0 };
    driver.launch(&format!("embed_{}", suffix(dtype)?), grid, &params)
}
