//! What a batch carries from one forward pass to the next: how its rows are padded, and the KV cache of each layer.

use std::sync::Arc;

use candle_core::Tensor;

use super::alibi::AlibiTable;
use super::place::{Kernels, Place};
use super::positions::{Positions, TableInUse};
use crate::engine::config::Attention;
use crate::engine::cpu::attention::{Heads, PanelCache};
use crate::error::Result;

/// A left-padded batch under way. All rows end at the same column; row r begins at column `starts[r]`.
pub struct Sequences {
    /// First column of each row that isn't padding.
    pub starts: Vec<usize>,
    /// Columns that the cache holds.
    pub length: usize,
    /// Columns that it has room for.
    pub capacity: usize,
    /// Rotary embeddings in use.
    pub tables: Vec<TableInUse>,
    /// Linear biases.
    pub alibi: Option<Arc<AlibiTable>>,
    /// What each part of the model keeps.
    pub parts: Vec<PartState>,
    /// All token ids so far, each `(b, t)`, where the model may have to compute them anew.
    pub history: Vec<Tensor>,
}

/// What a part of a model keeps of a batch.
pub struct PartState {
    /// KV cache of each layer.
    pub layers: Vec<LayerCache>,
    /// Rotations and masks for the stock operations.
    pub positions: Option<Positions>,
}

/// Keys and values of one layer.
pub enum LayerCache {
    /// For candle's operations.
    Stock(StockCache),
    /// For the kernels of the CPU.
    Cpu(PanelCache),
}

/// Keys and values, each `(b, kv, capacity, d)`.
pub struct StockCache {
    keys: Tensor,
    values: Tensor,
}

impl PartState {
    /// An empty cache of `layers` layers for rows of up to `capacity` columns.
    pub fn new(
        attention: &Attention,
        place: &Place,
        layers: usize,
        starts: &[usize],
        capacity: usize,
        alibi: Option<&AlibiTable>,
    ) -> Result<Self> {
        let cache = |_| LayerCache::new(attention, place, starts.len(), capacity);
        let positions = match place.kernels {
            Kernels::Stock => Some(Positions::new(place, starts, capacity, alibi)?),
            Kernels::Cpu => None,
        };
        Ok(Self { layers: (0..layers).map(cache).collect::<Result<_>>()?, positions })
    }
}

impl LayerCache {
    fn new(attention: &Attention, place: &Place, batch: usize, capacity: usize) -> Result<Self> {
        Ok(match place.kernels {
            Kernels::Cpu => LayerCache::Cpu(PanelCache::new(Heads::of(attention), batch, capacity)?),
            Kernels::Stock => {
                let shape = (batch, attention.kv_heads, capacity, attention.head_dim);
                let zeros = || Tensor::zeros(shape, place.dtype, &place.device);
                LayerCache::Stock(StockCache { keys: zeros()?, values: zeros()? })
            }
        })
    }
}

impl StockCache {
    /// Stores keys and values `(b, kv, t, d)` from column `past` on, and gives back all up to there: views
    /// `(b, kv, past + t, d)` of the cache.
    pub fn append(&mut self, keys: &Tensor, values: &Tensor, past: usize) -> Result<(Tensor, Tensor)> {
        self.keys.slice_set(keys, 2, past)?;
        self.values.slice_set(values, 2, past)?;
        let length = past + keys.dim(2)?;
        Ok((self.keys.narrow(2, 0, length)?, self.values.narrow(2, 0, length)?))
    }
}
