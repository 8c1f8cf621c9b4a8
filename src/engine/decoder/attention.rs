//! Causal attention of a left-padded batch over its KV cache.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use candle_nn::ops::softmax_last_dim;
use candle_nn::rotary_emb::{rope, rope_i};

use super::cache::{LayerCache, StockCache};
use super::linear::Linear;
use super::norm::Normalise;
use super::place::Place;
use super::positions::{Pass, TableInUse};
use crate::engine::config::{Config, RopeStyle};
use crate::engine::cpu::attention::{Query, Scores};
use crate::engine::heads::Heads;
use crate::engine::layout::{LayerSpec, NormSpec};
use crate::engine::position_encoding::AlibiTable;
use crate::engine::weights::Weights;
use crate::error::{Error, Result};

/// Data that all layers of one forward pass share.
pub(crate) struct Step<'a> {
    /// First column of each row that isn't padding.
    pub(crate) starts: &'a [usize],
    /// Columns in the cache.
    pub(crate) past: usize,
    /// Rotary embeddings.
    pub(crate) tables: &'a [TableInUse],
    /// Linear biases.
    pub(crate) alibi: Option<&'a AlibiTable>,
    /// For the stock operations.
    pub(crate) pass: Option<Pass<'a>>,
}

/// The attention of a layer.
pub(crate) struct AttentionLayer {
    heads: Heads,
    scores: Scores,
    /// Index of the layer's rotary embedding.
    rope: Option<usize>,
    style: RopeStyle,
    /// Index of the layer's window among those of the model.
    window: usize,
    /// Queries, keys and values in one product.
    qkv: Linear,
    qk_norm: Option<[HeadNorm; 2]>,
    clip: Option<f64>,
    output: Linear,
}

struct HeadNorm {
    norm: Normalise,
    /// How wide a row of the norm is.
    width: usize,
}

impl AttentionLayer {
    /// Loads the attention of layer `index`.
    pub(super) fn load(
        config: &Config,
        spec: &LayerSpec,
        index: usize,
        weights: &Weights,
        place: &Place,
    ) -> Result<Self> {
        let layer = &config.layers[index];
        let norm = |spec: &NormSpec| -> Result<HeadNorm> {
            Ok(HeadNorm { norm: Normalise::load(weights, spec, place)?, width: spec.width })
        };
        let qk_norm = match &spec.qk_norm {
            Some([query, key]) => Some([norm(query)?, norm(key)?]),
            None => None,
        };
        Ok(Self {
            heads: Heads::of(&config.attention),
            scores: Scores {
                scale: layer.scale as f32,
                softcap: config.attention.softcap.map(|cap| cap as f32),
                window: layer.window,
            },
            rope: layer.rope,
            style: layer.rope.map_or(RopeStyle::Halves, |rope| config.ropes[rope].style),
            window: config.windows().iter().position(|window| *window == layer.window).unwrap_or_default(),
            qkv: Linear::load_qkv(weights, &spec.qkv, &config.attention, place)?,
            qk_norm,
            clip: config.attention.clip,
            output: Linear::load(weights, &[&spec.attention_output], place)?,
        })
    }

    /// `(b · t, hidden)` to the same.
    pub(crate) fn forward(&self, x: &Tensor, step: &Step<'_>, cache: &mut LayerCache) -> Result<Tensor> {
        let qkv = self.clipped(self.normalised(self.qkv.forward(x)?)?)?;
        let attended = match (cache, &step.pass) {
            (LayerCache::Stock(cache), Some(pass)) => self.attend(&qkv, step, pass, cache)?,
            (LayerCache::Cpu(cache), _) => {
                let table = self.rope.and_then(|rope| step.tables.get(rope)).map(|(_, table)| Arc::as_ref(table));
                let query =
                    Query { scores: self.scores, rope: table, alibi: step.alibi, past: step.past, starts: step.starts };
                cache.attend(&qkv, query)?
            }
            (LayerCache::Stock(_), None) => return Err(Error::new("the cache of a layer lacks its positions")),
        };
        self.output.forward(&attended)
    }

    fn normalised(&self, qkv: Tensor) -> Result<Tensor> {
        let Some([query, key]) = &self.qk_norm else { return Ok(qkv) };
        let (h, kv, d) = (self.heads.queries, self.heads.keys, self.heads.width);
        let part = |first: usize, heads: usize| qkv.narrow(1, first * d, heads * d)?.contiguous();
        let norm = |norm: &HeadNorm, x: Tensor| -> Result<Tensor> {
            Ok(norm.norm.forward(&x.reshape(((), norm.width))?)?.reshape(x.shape())?)
        };
        let (queries, keys) = (norm(query, part(0, h)?)?, norm(key, part(h, kv)?)?);
        Ok(Tensor::cat(&[queries, keys, part(h + kv, kv)?], 1)?)
    }

    fn clipped(&self, qkv: Tensor) -> Result<Tensor> {
        match self.clip {
            Some(limit) => Ok(qkv.clamp(-limit, limit)?),
            None => Ok(qkv),
        }
    }

    /// Stores the new keys and values and attends, in candle's own operations: `qkv` `(b · t, (h + 2 kv) · d)` gives
    /// `(b · t, h · d)`.
    ///
    /// Query heads that share a key head are rows of one product, so that keys and values are never repeated. Scores
    /// and softmax are in f32. A long prompt's queries go in blocks, each over the columns up to its end, so that the
    /// scores of all of them never lie in memory at once.
    fn attend(&self, qkv: &Tensor, step: &Step<'_>, pass: &Pass<'_>, cache: &mut StockCache) -> Result<Tensor> {
        let Heads { queries: h, keys: kv, width: d } = self.heads;
        let rows = qkv.dim(0)?;
        let batch = step.starts.len();
        let t = rows / batch;
        let by_head = qkv.reshape((batch, t, h + 2 * kv, d))?.transpose(1, 2)?;
        let part = |first, count| by_head.narrow(1, first, count)?.contiguous();
        let queries = self.rotated(part(0, h)?, pass)?;
        let keys = self.rotated(part(h, kv)?, pass)?;
        let (keys, values) = cache.append(&keys, &part(h + kv, kv)?, step.past)?;

        let block = |first: usize| -> Result<Tensor> {
            let count = pass.block.min(t - first);
            let end = step.past + first + count;
            let queries = queries.narrow(2, first, count)?.contiguous()?;
            let (keys, values) = (keys.narrow(2, 0, end)?, values.narrow(2, 0, end)?);
            self.attend_block(&queries, &keys, &values, pass, first)
        };
        let attended = match (0..t).step_by(pass.block).map(block).collect::<Result<Vec<_>>>()?.as_slice() {
            [whole] => whole.clone(),
            blocks => Tensor::cat(blocks, 2)?,
        };
        Ok(attended.transpose(1, 2)?.reshape((rows, h * d))?)
    }

    /// Attends for the query tokens `(b, h, n, d)` from `first` on to the columns up to theirs: `(b, h, n, d)`.
    fn attend_block(
        &self,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        pass: &Pass<'_>,
        first: usize,
    ) -> Result<Tensor> {
        let (batch, h, count, d) = queries.dims4()?;
        let (kv, length) = (self.heads.keys, keys.dim(2)?);
        // query heads that share a key head are neighbours, so their rows form one matrix
        let grouped = queries.reshape((batch, kv, h / kv * count, d))?;
        // in f32 as in transformers: in half precision the softmax of a long row would lose its small weights
        let scores = grouped.matmul(&keys.transpose(2, 3)?)?.to_dtype(DType::F32)?;
        let scores = (scores.reshape((batch, h, count, length))? * f64::from(self.scores.scale))?;
        let scores = match self.scores.softcap {
            Some(cap) => soft_cap(&scores, f64::from(cap))?,
            None => scores,
        };
        let scores = match &pass.alibi {
            Some(alibi) => scores.broadcast_add(&alibi.narrow(3, 0, length)?)?,
            None => scores,
        };
        let scores = match pass.mask(self.window, first, count)? {
            Some(mask) => scores.broadcast_add(&mask)?,
            None => scores,
        };
        let weights = softmax_last_dim(&scores)?.to_dtype(queries.dtype())?;
        let attended = weights.reshape((batch, kv, h / kv * count, length))?.matmul(values)?;
        Ok(attended.reshape((batch, h, count, d))?)
    }

    /// Rotates the first dimensions of each head: `(b, heads, t, d)`.
    fn rotated(&self, heads: Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let Some([cos, sin]) = self.rope.and_then(|rope| pass.rotations.get(rope)) else { return Ok(heads) };
        let rotate = match self.style {
            RopeStyle::Halves => rope,
            RopeStyle::Neighbours => rope_i,
        };
        let (dims, width) = (2 * cos.dim(candle_core::D::Minus1)?, self.heads.width);
        if dims == width {
            return Ok(rotate(&heads, cos, sin)?);
        }
        let rotated = rotate(&heads.narrow(3, 0, dims)?.contiguous()?, cos, sin)?;
        let rest = heads.narrow(3, dims, width - dims)?.contiguous()?;
        // joined along the last dimension, parts that lie apart would come out transposed
        Ok(Tensor::cat(&[rotated, rest], 3)?.contiguous()?)
    }
}

/// c · tanh(x / c).
pub(crate) fn soft_cap(x: &Tensor, cap: f64) -> Result<Tensor> {
    Ok(((x / cap)?.tanh()? * cap)?)
}
