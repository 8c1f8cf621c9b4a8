//! What a batch carries from one forward pass to the next: how its rows are padded, and the KV cache of each layer.

use std::sync::Arc;

use candle_core::Tensor;

use super::place::{Kernels, Place};
use super::positions::{Positions, TableInUse, row_index};
use crate::engine::config::Attention;
use crate::engine::cpu::panel_cache::PanelCache;
use crate::engine::heads::Heads;
use crate::engine::position_encoding::AlibiTable;
use crate::error::{Error, Result};

/// A left-padded batch under way. All rows end at the same column; row r begins at column `starts[r]`.
pub(crate) struct Sequences {
    /// First column of each row that isn't padding.
    pub(crate) starts: Vec<usize>,
    /// Columns that the cache holds.
    pub(crate) length: usize,
    /// Columns that it has room for.
    pub(crate) capacity: usize,
    /// Rotary embeddings in use.
    pub(crate) tables: Vec<TableInUse>,
    /// Linear biases.
    pub(crate) alibi: Option<Arc<AlibiTable>>,
    /// The caches of each part of the model.
    pub(crate) parts: Vec<PartState>,
    /// All token ids so far, each `(b, t)`, for a model that may have to recompute them.
    pub(crate) history: Vec<Tensor>,
}

/// The caches of a part of a model.
pub(crate) struct PartState {
    /// KV cache of each layer.
    pub(crate) layers: Vec<LayerCache>,
    /// Rotations and masks for the stock operations.
    pub(crate) positions: Option<Positions>,
}

/// Keys and values of one layer.
pub(crate) enum LayerCache {
    /// For candle's operations.
    Stock(StockCache),
    /// For the kernels of the CPU.
    Cpu(PanelCache),
}

/// Keys and values, each `(b, kv, capacity, d)`.
pub(crate) struct StockCache {
    keys: Tensor,
    values: Tensor,
}

impl Sequences {
    /// Row r of the batch becomes what row `rows[r]` was; a row may go on several times or not at all.
    ///
    /// Copies the part of each layer's cache that is in use, and nothing if all rows stay as they are.
    pub(crate) fn reorder(&mut self, rows: &[usize]) -> Result<()> {
        if rows.iter().copied().eq(0..self.starts.len()) {
            return Ok(());
        }
        let start = |row: &usize| self.starts.get(*row).copied();
        let Some(starts) = rows.iter().map(start).collect::<Option<Vec<usize>>>() else {
            return Err(Error::new("a batch can't go on with a row that it doesn't have"));
        };
        let moved = starts != self.starts;
        for part in &mut self.parts {
            part.reorder(rows, self.length, moved)?;
        }
        if let [first, ..] = self.history.as_slice() {
            let index = row_index(rows, first.device())?;
            self.history = vec![Tensor::cat(&self.history, 1)?.index_select(&index, 0)?];
        }
        self.starts = starts;
        Ok(())
    }
}

/// The columns of a batch that begins.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    /// First column of each row that isn't padding.
    pub(crate) starts: &'a [usize],
    /// Columns that there has to be room for.
    pub(crate) capacity: usize,
    /// Linear biases, if the model has them.
    pub(crate) alibi: Option<&'a AlibiTable>,
}

impl PartState {
    /// An empty cache of `layers` layers.
    pub(crate) fn new(attention: &Attention, place: &Place, layers: usize, columns: Columns<'_>) -> Result<Self> {
        let Columns { starts, capacity, alibi } = columns;
        let cache = |_| LayerCache::new(attention, place, starts.len(), capacity);
        let positions = match place.kernels {
            Kernels::Stock | Kernels::Gpu => Some(Positions::new(place, starts, capacity, alibi)?),
            Kernels::Cpu => None,
        };
        Ok(Self { layers: (0..layers).map(cache).collect::<Result<_>>()?, positions })
    }

    /// Row r becomes what row `rows[r]` was, up to column `length`; `moved` if rows then begin at other columns.
    fn reorder(&mut self, rows: &[usize], length: usize, moved: bool) -> Result<()> {
        let index = self.positions.as_ref().map(|positions| positions.index(rows)).transpose()?;
        for layer in &mut self.layers {
            match (layer, &index) {
                (LayerCache::Stock(cache), Some(index)) => cache.reorder(index, length)?,
                (LayerCache::Cpu(cache), _) => cache.reorder(rows, length)?,
                (LayerCache::Stock(_), None) => return Err(Error::new("the cache of a layer lacks its positions")),
            }
        }
        match (&mut self.positions, &index) {
            (Some(positions), Some(index)) if moved => positions.reorder(rows, index),
            _ => Ok(()),
        }
    }
}

impl LayerCache {
    fn new(attention: &Attention, place: &Place, batch: usize, capacity: usize) -> Result<Self> {
        Ok(match place.kernels {
            Kernels::Cpu => LayerCache::Cpu(PanelCache::new(Heads::of(attention), batch, capacity)?),
            Kernels::Stock | Kernels::Gpu => {
                let shape = (batch, attention.kv_heads, capacity, attention.head_dim);
                let zeros = || Tensor::zeros(shape, place.dtype, &place.device);
                LayerCache::Stock(StockCache { keys: zeros()?, values: zeros()? })
            }
        })
    }
}

impl StockCache {
    /// Row r becomes what row `rows[r]` was, up to column `length`.
    fn reorder(&mut self, rows: &Tensor, length: usize) -> Result<()> {
        for cache in [&mut self.keys, &mut self.values] {
            let used = cache.narrow(2, 0, length)?.contiguous()?.index_select(rows, 0)?;
            // the same memory is used again unless the number of rows changes, as when a prompt's row becomes its beams
            if rows.dim(0)? != cache.dim(0)? {
                let (_, heads, capacity, width) = cache.dims4()?;
                *cache = Tensor::zeros((rows.dim(0)?, heads, capacity, width), cache.dtype(), cache.device())?;
            }
            cache.slice_set(&used, 2, 0)?;
        }
        Ok(())
    }

    /// Stores keys and values `(b, kv, t, d)` from column `past` on, and gives back all up to there: views
    /// `(b, kv, past + t, d)` of the cache.
    pub(crate) fn append(&mut self, keys: &Tensor, values: &Tensor, past: usize) -> Result<(Tensor, Tensor)> {
        self.keys.slice_set(keys, 2, past)?;
        self.values.slice_set(values, 2, past)?;
        let length = past + keys.dim(2)?;
        Ok((self.keys.narrow(2, 0, length)?, self.values.narrow(2, 0, length)?))
    }
}
