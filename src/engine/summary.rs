//! What a model is without loading it, and how much memory it takes to run.

use super::config::{Config, FeedForward};
use super::decoder::LARGEST_SCORES;
use super::weights::Weights;

/// Facts about a model that are known without loading it.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSummary {
    /// As `config.json` names it.
    pub architecture: String,
    /// Number of parameters.
    pub parameters: u64,
    /// Longest sequence, prompt and answer together; `usize::MAX` if there is no limit.
    pub max_positions: usize,
    /// Token ids are below this.
    pub vocab_size: usize,
    /// Layers that keep keys and values.
    pub layers: usize,
    /// Key and value heads of such a layer.
    pub(crate) kv_heads: usize,
    /// Width of a head.
    pub(crate) head_dim: usize,
    /// Query heads of a layer.
    pub(crate) heads: usize,
    /// Width of the residual stream.
    pub(crate) hidden_size: usize,
    /// Widest feed-forward that a token goes through.
    pub(crate) inner_size: usize,
    /// Data type that most of the weights are stored in.
    pub(crate) stored_dtype: String,
    /// Bytes of the weights on disk.
    pub(crate) stored_bytes: u64,
    /// The only data type that it can run in, if there is only one.
    pub only_dtype: Option<&'static str>,
    /// Weights stay in memory as they are stored: quantised.
    pub quantised: bool,
    /// Bytes that tables take in memory because they are dequantised, in addition to those of a quantised file.
    pub(crate) dequantised_bytes: u64,
}

/// Bytes that running a cell takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemoryNeed {
    pub(crate) weights: u64,
    /// Keys and values of all layers.
    pub(crate) kv_cache: u64,
    /// The largest set of activations that live at the same time, roughly.
    pub(crate) activations: u64,
}

impl MemoryNeed {
    pub(crate) fn total(self) -> u64 {
        self.weights.saturating_add(self.kv_cache).saturating_add(self.activations)
    }
}

impl ModelSummary {
    /// The summary of a model of the decoder.
    pub(super) fn of(config: &Config, weights: &Weights) -> Self {
        let inner = |feed_forward: &FeedForward| match *feed_forward {
            FeedForward::Gated { inner, .. } => 2 * inner,
            FeedForward::Plain { inner, .. } => inner,
            FeedForward::Experts(experts) => 2 * experts.inner * experts.per_token,
        };
        Self {
            parameters: weights.parameters(),
            stored_dtype: weights.stored_type(),
            stored_bytes: weights.stored_bytes(),
            quantised: weights.are_quantised(),
            dequantised_bytes: 4 * weights.layout().embedding.elements(),
            only_dtype: weights.are_quantised().then_some("f32"),
            architecture: config.architecture.clone(),
            max_positions: config.max_positions,
            vocab_size: config.vocab_size,
            layers: config.layers.len(),
            kv_heads: config.attention.kv_heads,
            head_dim: config.attention.head_dim,
            heads: config.attention.heads,
            hidden_size: config.hidden_size,
            inner_size: config.layers.iter().map(|layer| inner(&layer.feed_forward)).max().unwrap_or_default(),
        }
    }

    /// Whether its shapes say how much it reads and multiplies: those of a model that the decoder runs.
    pub(crate) fn has_workload(&self) -> bool {
        self.heads > 0
    }

    /// Bytes of the weights in memory.
    pub fn weight_bytes(&self, dtype: &str) -> u64 {
        match self.quantised {
            true => self.stored_bytes + self.dequantised_bytes,
            false => self.parameters * size_of_dtype(dtype),
        }
    }

    /// Bytes of the KV cache for `batch` sequences of `length` tokens.
    pub fn kv_bytes(&self, batch: usize, length: usize, dtype: &str) -> u64 {
        let per_token = (2 * self.layers * self.kv_heads * self.head_dim) as u64;
        (batch as u64).saturating_mul(length as u64).saturating_mul(per_token).saturating_mul(size_of_dtype(dtype))
    }

    /// Memory that it takes to generate up to `length` tokens from prompts of up to `prompt` tokens.
    ///
    /// Activations are those of the widest moment of prefill: attention scores in f32 and once more in the data type of
    /// the run, or gate, up and their product; in addition the residual stream, and the logits in f32 with a copy. The
    /// kernels for f32 on the CPU hold no scores.
    pub(crate) fn memory(&self, batch: usize, prompt: usize, length: usize, dtype: &str, on_gpu: bool) -> MemoryNeed {
        let size = size_of_dtype(dtype);
        let product = |factors: &[usize]| factors.iter().fold(1u64, |all, factor| all.saturating_mul(*factor as u64));
        let scores = match on_gpu || dtype != "f32" {
            // scores are computed in blocks of at most so many, or of one query for each head
            true => product(&[batch, self.heads, prompt, prompt])
                .min(LARGEST_SCORES.max(product(&[batch, self.heads, prompt])))
                .saturating_mul(3 * 4 + size),
            false => 0,
        };
        let projected = (self.heads + 2 * self.kv_heads) * self.head_dim;
        let wide = product(&[batch, prompt, 2 * self.inner_size + 2 * projected]).saturating_mul(size);
        let stream = product(&[batch, prompt, 4 * self.hidden_size]).saturating_mul(size);
        let logits = product(&[batch, self.vocab_size]).saturating_mul(3 * 4);
        MemoryNeed {
            weights: self.weight_bytes(dtype),
            kv_cache: self.kv_bytes(batch, length, dtype),
            activations: scores.max(wide).saturating_add(stream).saturating_add(logits),
        }
    }
}

fn size_of_dtype(dtype: &str) -> u64 {
    match dtype {
        "f16" | "bf16" => 2,
        _ => 4,
    }
}
