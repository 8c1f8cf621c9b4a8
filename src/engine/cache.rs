//! What a batch carries from one forward pass to the next: how its rows are padded, and the KV cache of each layer.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::attention::Positions;
use super::config::Config;
use super::cpu::attention::{Heads, PanelCache};
use super::linear::Kernels;
use super::rope::RopeTable;
use crate::error::{Error, Result};

/// A left-padded batch under way. All rows end at the same column; row r begins at column `starts[r]`.
pub(super) struct Sequences {
    /// First column of each row that isn't padding.
    pub starts: Vec<usize>,
    /// Rotations by position.
    pub rope: Arc<RopeTable>,
    /// Columns that the cache holds.
    pub length: usize,
    /// KV cache of each layer.
    pub layers: Vec<LayerCache>,
    /// Rotations and masks for the stock operations.
    pub positions: Option<Positions>,
}

/// Keys and values of one layer.
pub(super) enum LayerCache {
    /// For candle's operations.
    Stock(StockCache),
    /// For the kernels of the CPU.
    Cpu(PanelCache),
}

/// Keys and values, each `(b, kv, capacity, d)`.
pub(super) struct StockCache {
    keys: Tensor,
    values: Tensor,
}

/// On what, and in which type, a model runs.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The device.
    pub device: Device,
    /// Data type of weights and activations.
    pub dtype: DType,
    /// The kernels.
    pub kernels: Kernels,
}

impl Sequences {
    /// An empty batch for rows of up to `capacity` columns, padding included.
    pub fn new(
        config: &Config,
        place: &Place,
        rope: Arc<RopeTable>,
        starts: Vec<usize>,
        capacity: usize,
    ) -> Result<Self> {
        let layers = (0..config.layers).map(|_| LayerCache::new(config, place, starts.len(), capacity));
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let positions = match place.kernels {
            Kernels::Stock => Some(Positions::new(&rope, &starts, capacity, place)?),
            Kernels::Cpu => None,
        };
        Ok(Self { starts, rope, length: 0, layers, positions })
    }

    /// Row r of the batch becomes what row `rows[r]` was; a row may go on several times or not at all.
    ///
    /// Copies the part of each layer's cache that is in use, and nothing where all rows stay as they are.
    pub fn reorder(&mut self, rows: &[usize]) -> Result<()> {
        if rows.iter().copied().eq(0..self.starts.len()) {
            return Ok(());
        }
        let start = |row: &usize| self.starts.get(*row).copied();
        let Some(starts) = rows.iter().map(start).collect::<Option<Vec<usize>>>() else {
            return Err(Error::new("a batch can't go on with a row that it doesn't have"));
        };
        let index = match &self.positions {
            Some(positions) => Some(positions.index(rows)?),
            None => None,
        };
        for layer in &mut self.layers {
            match (layer, &index) {
                (LayerCache::Stock(cache), Some(index)) => cache.reorder(index, self.length)?,
                (LayerCache::Cpu(cache), _) => cache.reorder(rows, self.length)?,
                (LayerCache::Stock(_), None) => return Err(Error::new("the cache of a layer lacks its positions")),
            }
        }
        if starts != self.starts {
            if let (Some(positions), Some(index)) = (&mut self.positions, &index) {
                positions.reorder(index)?;
            }
            self.starts = starts;
        }
        Ok(())
    }
}

impl LayerCache {
    fn new(config: &Config, place: &Place, batch: usize, capacity: usize) -> Result<Self> {
        Ok(match place.kernels {
            Kernels::Cpu => LayerCache::Cpu(PanelCache::new(Heads::of(config), batch, capacity)?),
            Kernels::Stock => {
                let shape = (batch, config.kv_heads, capacity, config.head_dim);
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
    pub fn append(&mut self, keys: &Tensor, values: &Tensor, past: usize) -> Result<(Tensor, Tensor)> {
        self.keys.slice_set(keys, 2, past)?;
        self.values.slice_set(values, 2, past)?;
        let length = past + keys.dim(2)?;
        Ok((self.keys.narrow(2, 0, length)?, self.values.narrow(2, 0, length)?))
    }
}
