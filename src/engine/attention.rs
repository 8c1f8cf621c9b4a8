//! Causal attention of a left-padded batch over its KV cache, in candle's own operations.

use candle_core::{DType, Tensor};
use candle_nn::ops::softmax_last_dim;
use candle_nn::rotary_emb::rope;

use super::cache::{Place, StockCache};
use super::cpu::attention::Heads;
use super::rope::RopeTable;
use crate::error::Result;

/// Added to the scores of masked columns. Finite, so that a row of nothing but padding isn't NaN, and small enough that
/// two of them don't overflow.
const MASKED: f32 = f32::MIN / 4.0;

/// Rotations and masks of a batch by column.
pub(super) struct Positions {
    /// `(capacity, d / 2)`, or `(capacity, b, d / 2)` where rows are padded.
    cos: Tensor,
    /// As `cos`.
    sin: Tensor,
    /// `(b, 1, 1, capacity)`, where rows are padded.
    padding: Option<Tensor>,
}

/// Rotations and mask of one forward pass.
pub(super) struct Pass {
    past: usize,
    /// `(t, d / 2)`, or `(b, t, d / 2)` where rows are padded.
    cos: Tensor,
    /// As `cos`.
    sin: Tensor,
    /// Broadcasts to `(b, h, t, past + t)`.
    mask: Option<Tensor>,
}

impl Positions {
    /// Row r of the batch begins at column `starts[r]`, where its position is 0.
    pub fn new(table: &RopeTable, starts: &[usize], capacity: usize, place: &Place) -> Result<Self> {
        let (cos, sin) = table.to_device(capacity, place.dtype, &place.device)?;
        if starts.iter().all(|start| *start == 0) {
            return Ok(Self { cos, sin, padding: None });
        }
        let positions = (0..capacity).flat_map(|c| starts.iter().map(move |start| c.saturating_sub(*start) as u32));
        let positions = Tensor::from_vec(positions.collect(), capacity * starts.len(), &place.device)?;
        let by_column = |table: Tensor| -> Result<Tensor> {
            Ok(table.index_select(&positions, 0)?.reshape((capacity, starts.len(), ()))?)
        };
        let padding = starts.iter().flat_map(|start| (0..capacity).map(move |c| if c < *start { MASKED } else { 0.0 }));
        let padding = Tensor::from_vec(padding.collect(), (starts.len(), 1, 1, capacity), &place.device)?;
        Ok(Self { cos: by_column(cos)?, sin: by_column(sin)?, padding: Some(padding) })
    }

    /// Numbers of rows `(b)` on the device.
    pub fn index(&self, rows: &[usize]) -> Result<Tensor> {
        let rows: Vec<u32> = rows.iter().map(|row| *row as u32).collect();
        Ok(Tensor::new(rows.as_slice(), self.cos.device())?)
    }

    /// Row r becomes what row `rows[r]` was.
    pub fn reorder(&mut self, rows: &Tensor) -> Result<()> {
        if let Some(padding) = &mut self.padding {
            *padding = padding.index_select(rows, 0)?;
            self.cos = self.cos.index_select(rows, 1)?;
            self.sin = self.sin.index_select(rows, 1)?;
        }
        Ok(())
    }

    /// The part for `tokens` new columns after `past`.
    pub fn pass(&self, past: usize, tokens: usize) -> Result<Pass> {
        let part = |table: &Tensor| -> Result<Tensor> {
            let columns = table.narrow(0, past, tokens)?;
            match self.padding {
                Some(_) => Ok(columns.transpose(0, 1)?.contiguous()?),
                None => Ok(columns),
            }
        };
        Ok(Pass { past, cos: part(&self.cos)?, sin: part(&self.sin)?, mask: self.mask(past, tokens)? })
    }

    fn mask(&self, past: usize, tokens: usize) -> Result<Option<Tensor>> {
        let length = past + tokens;
        let padding = self.padding.as_ref().map(|padding| padding.narrow(3, 0, length)).transpose()?;
        if tokens == 1 {
            return Ok(padding);
        }
        let causal = (0..tokens).flat_map(|t| (0..length).map(move |c| if c > past + t { MASKED } else { 0.0 }));
        let causal = Tensor::from_vec(causal.collect(), (1, 1, tokens, length), self.cos.device())?;
        match padding {
            Some(padding) => Ok(Some(causal.broadcast_add(&padding)?)),
            None => Ok(Some(causal)),
        }
    }
}

/// Stores the new keys and values and attends: `qkv` `(b · t, (h + 2 kv) · d)` gives `(b · t, h · d)`.
///
/// Query heads that share a key head are rows of one product, so that keys and values are never repeated. Scores and
/// softmax are in f32.
pub(super) fn attend(qkv: &Tensor, heads: Heads, batch: usize, pass: &Pass, cache: &mut StockCache) -> Result<Tensor> {
    let Heads { queries: h, keys: kv, width: d } = heads;
    let rows = qkv.dim(0)?;
    let t = rows / batch;
    let by_head = qkv.reshape((batch, t, h + 2 * kv, d))?.transpose(1, 2)?;
    let part = |first, count| by_head.narrow(1, first, count)?.contiguous();
    let queries = (rope(&part(0, h)?, &pass.cos, &pass.sin)? * (1.0 / (d as f64).sqrt()))?;
    let keys = rope(&part(h, kv)?, &pass.cos, &pass.sin)?;
    let (keys, values) = cache.append(&keys, &part(h + kv, kv)?, pass.past)?;

    let queries = queries.reshape((batch, kv, h / kv * t, d))?;
    let scores = queries.matmul(&keys.transpose(2, 3)?)?.to_dtype(DType::F32)?;
    let scores = scores.reshape((batch, h, t, pass.past + t))?;
    let scores = match &pass.mask {
        Some(mask) => scores.broadcast_add(mask)?,
        None => scores,
    };
    let weights = softmax_last_dim(&scores)?.to_dtype(qkv.dtype())?;
    let attended = weights.reshape((batch, kv, h / kv * t, pass.past + t))?.matmul(&values)?;
    Ok(attended.reshape((batch, h, t, d))?.transpose(1, 2)?.reshape((rows, h * d))?)
}
