//! The KV cache of the kernels: keys and values in the panels that products run over.

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::panels::WIDTH;
use super::values;
use crate::engine::heads::Heads;

/// The keys and values of one layer: for each row of the batch and each key head, keys in panels of 16 positions
/// `(capacity / 16, width, 16)`, then values in panels of 16 dimensions `(width / 16, capacity, 16)`.
pub(crate) struct PanelCache {
    /// All rows and heads in one, `(b · kv · head)` values.
    pub(super) tensor: Tensor,
    pub(super) shape: CacheShape,
}

/// Where the values of a cache lie.
#[derive(Clone, Copy)]
pub(super) struct CacheShape {
    pub(crate) heads: Heads,
    /// Positions that there is room for, a multiple of 16.
    pub(crate) capacity: usize,
}

impl CacheShape {
    /// Values of the keys of one head.
    fn keys(self) -> usize {
        self.capacity * self.heads.width
    }

    /// Values of one head, keys and values together.
    pub(crate) fn head(self) -> usize {
        self.keys() + self.capacity * self.heads.width.next_multiple_of(WIDTH)
    }

    /// Where the first number of a position's key lies; the others follow 16 apart.
    pub(crate) fn key_slot(self, position: usize) -> usize {
        (position / WIDTH) * self.heads.width * WIDTH + position % WIDTH
    }

    /// Where 16 numbers of a position's value lie.
    pub(crate) fn value_slot(self, panel: usize, position: usize) -> usize {
        self.keys() + (panel * self.capacity + position) * WIDTH
    }
}

impl PanelCache {
    /// An empty cache for `batch` rows of up to `length` positions.
    pub(crate) fn new(heads: Heads, batch: usize, length: usize) -> Result<Self> {
        let shape = CacheShape { heads, capacity: length.next_multiple_of(WIDTH) };
        let tensor = Tensor::zeros(batch * heads.keys * shape.head(), DType::F32, &Device::Cpu)?;
        Ok(Self { tensor, shape })
    }

    /// Row r becomes what row `rows[r]` was, up to column `length`; every row has to be one of the cache's.
    pub(crate) fn reorder(&mut self, rows: &[usize], length: usize) -> Result<()> {
        self.tensor = self.tensor.apply_op1_no_bwd(&Reorder { shape: self.shape, rows, length })?;
        Ok(())
    }
}

struct Reorder<'a> {
    shape: CacheShape,
    rows: &'a [usize],
    length: usize,
}

impl CustomOp1 for Reorder<'_> {
    fn name(&self) -> &'static str {
        "reorder-rows"
    }

    fn cpu_fwd(&self, cache: &CpuStorage, cache_at: &Layout) -> Result<(CpuStorage, Shape)> {
        let cache = values(cache, cache_at)?;
        let head = self.shape.head();
        let row = self.shape.heads.keys * head;
        let mut reordered = vec![0.0; self.rows.len() * row];
        reordered.par_chunks_mut(row).zip(self.rows).for_each(|(to, from)| {
            let from = &cache[from * row..][..row];
            to.chunks_mut(head).zip(from.chunks(head)).for_each(|(to, from)| self.copy(to, from));
        });
        let length = reordered.len();
        Ok((CpuStorage::F32(reordered), length.into()))
    }
}

impl Reorder<'_> {
    /// Copies what one key head holds of the columns in use.
    fn copy(&self, to: &mut [f32], from: &[f32]) {
        let (width, shape) = (self.shape.heads.width, self.shape);
        let keys = self.length.next_multiple_of(WIDTH) * width;
        to[..keys].copy_from_slice(&from[..keys]);
        for panel in 0..width.div_ceil(WIDTH) {
            let values = shape.value_slot(panel, 0)..shape.value_slot(panel, self.length);
            to[values.clone()].copy_from_slice(&from[values]);
        }
    }
}
