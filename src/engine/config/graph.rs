//! A model's graph as data: the sizes and variants that the decoder is built from. Families fill it in; the decoder and
//! the layout of the tensors read it. Nothing here asks for an architecture's name.

use super::names::Names;
use super::rope::Rope;

/// Everything that the decoder has to know about a model, apart from its weights.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    /// As `config.json` names it.
    pub(crate) architecture: String,
    /// Token ids are below this.
    pub(crate) vocab_size: usize,
    /// Width of the residual stream.
    pub(crate) hidden_size: usize,
    /// Longest sequence, prompt and answer together.
    pub(crate) max_positions: usize,
    /// From token ids to the residual stream.
    pub(crate) embedding: Embedding,
    /// The norms of the residual stream.
    pub(crate) norm: Norm,
    /// How attention and feed-forward are joined with the residual stream.
    pub(crate) residual: Residual,
    /// The factor of attention and feed-forward before they join the residual stream.
    pub(crate) residual_scale: f64,
    /// The heads and variants of attention, the same in all layers.
    pub(crate) attention: Attention,
    /// Rotary embeddings that layers refer to by index.
    pub(crate) ropes: Vec<Rope>,
    /// Activation inside the feed-forward.
    pub(crate) activation: Activation,
    /// The settings that differ from layer to layer.
    pub(crate) layers: Vec<LayerConfig>,
    /// From the residual stream to logits.
    pub(crate) output: Output,
    /// Token ids that end a sequence.
    pub(crate) eos_ids: Vec<u32>,
    /// Names and arrangement of the tensors.
    pub(crate) names: Names,
    /// The whole sequence is recomputed once it grows past this length, as transformers does when a Phi-3 model
    /// switches from its short to its long rotation.
    pub(crate) recompute_past: Option<usize>,
}

/// From token ids to the residual stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Embedding {
    /// Columns of the table; if they differ from the hidden size, a projection leads there.
    pub(crate) width: usize,
    /// The factor of the rows.
    pub(crate) scale: f64,
    /// The scale is rounded to the data type of the run first, as in Gemma.
    pub(crate) round_scale: bool,
    /// A table of learned positions is added.
    pub(crate) positions: Option<LearnedPositions>,
    /// A norm follows, as in BLOOM.
    pub(crate) norm: bool,
}

/// A table with one row for each position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LearnedPositions {
    /// Rows of the table.
    pub(crate) rows: usize,
    /// The row of position 0.
    pub(crate) offset: usize,
}

/// A norm over the last dimension.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Norm {
    pub(crate) kind: NormKind,
    /// Added to the variance or the mean square.
    pub(crate) eps: f64,
    /// It has weights.
    pub(crate) weight: bool,
    /// The stored weights are added to 1, as in Gemma.
    pub(crate) one_plus: bool,
    /// It has a bias.
    pub(crate) bias: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NormKind {
    /// RMSNorm (Zhang and Sennrich 2019).
    Rms,
    /// LayerNorm (Ba et al. 2016).
    Layer,
}

impl Norm {
    pub(crate) const fn rms(eps: f64) -> Self {
        Self { kind: NormKind::Rms, eps, weight: true, one_plus: false, bias: false }
    }

    pub(crate) const fn layer(eps: f64) -> Self {
        Self { kind: NormKind::Layer, eps, weight: true, one_plus: false, bias: true }
    }
}

/// How attention A and feed-forward F are joined with the residual stream x. Which norms there are, [`Names`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Residual {
    /// x + A(norm x), then x + F(norm x).
    Sequential,
    /// y = norm x, y + A(y), then the same with F, as in some BLOOM models.
    FromNorm,
    /// x + A(norm x) + F(norm x).
    Parallel,
    /// norm(x + A(x)), then norm(x + F(x)).
    NormAfter,
}

/// The heads and variants of attention, the same in all layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Attention {
    pub(crate) heads: usize,
    /// Key and value heads; divides `heads`.
    pub(crate) kv_heads: usize,
    /// Width of one head.
    pub(crate) head_dim: usize,
    /// Query, key and value projections have biases.
    pub(crate) qkv_bias: bool,
    /// The output projection has a bias.
    pub(crate) output_bias: bool,
    /// Queries, keys and values are clamped to ± this.
    pub(crate) clip: Option<f64>,
    /// Norms of queries and keys.
    pub(crate) qk_norm: Option<QkNorm>,
    /// Scores s become c · tanh(s / c).
    pub(crate) softcap: Option<f64>,
    /// A bias that falls with distance.
    pub(crate) alibi: Option<Alibi>,
}

/// Norms of queries and keys before the rotation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct QkNorm {
    pub(crate) norm: Norm,
    pub(crate) span: QkSpan,
}

/// The values that a norm of queries or keys runs over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QkSpan {
    /// Each head; the heads share the weights `(d)`.
    SharedByHeads,
    /// Each head with its own weights: one tensor `(h, d)`.
    EachHead,
    /// The same as one tensor `norms.{i}.weight` `(d)` for each head.
    EachHeadApart,
    /// All heads together `(h · d)`.
    AllHeads,
}

/// Attention with linear biases (Press et al. 2022).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alibi {
    /// As in BLOOM: added to the scaled scores.
    Bloom,
    /// As in Falcon: rounded to bf16, then scaled like the scores.
    Falcon,
}

/// The settings that differ from layer to layer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LayerConfig {
    /// A query sees this many columns, its own included; without a window it sees everything before it.
    pub(crate) window: Option<usize>,
    /// Index of the rotary embedding; none for a layer without rotation.
    pub(crate) rope: Option<usize>,
    /// The factor of the scores.
    pub(crate) scale: f64,
    pub(crate) feed_forward: FeedForward,
}

/// The feed-forward of a layer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum FeedForward {
    /// down(act(gate x) · up x).
    Gated {
        /// Width inside.
        inner: usize,
        /// All three projections have biases.
        bias: bool,
    },
    /// down(act(up x)).
    Plain {
        /// Width inside.
        inner: usize,
        /// Both projections have biases.
        bias: bool,
    },
    /// A mixture of gated experts.
    Experts(Experts),
}

/// A mixture of gated experts (Shazeer et al. 2017).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Experts {
    pub(crate) count: usize,
    /// Experts that each token goes through.
    pub(crate) per_token: usize,
    /// Width inside an expert.
    pub(crate) inner: usize,
    /// The weights of the chosen experts are divided by their sum.
    pub(crate) normalise: bool,
    /// Width inside the expert that every token goes through, if there is one; a sigmoid gate weights it.
    pub(crate) shared_inner: Option<usize>,
}

/// From the residual stream to logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Output {
    /// The output layer is the embedding table.
    pub(crate) tied: bool,
    /// It has a bias.
    pub(crate) bias: bool,
    /// The factor of the logits.
    pub(crate) scale: f64,
    /// Logits l become c · tanh(l / c).
    pub(crate) softcap: Option<f64>,
}

/// Activation inside the feed-forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    /// x · sigmoid(x).
    Silu,
    /// x · Φ(x).
    Gelu,
    /// The same with Φ approximated by a hyperbolic tangent.
    GeluTanh,
    /// max(x, 0).
    Relu,
    /// max(x, 0)².
    ReluSquared,
}

impl Config {
    /// The windows of the layers, each once; `None` is one without.
    pub(crate) fn windows(&self) -> Vec<Option<usize>> {
        let mut windows: Vec<_> = self.layers.iter().map(|layer| layer.window).collect();
        windows.sort_unstable();
        windows.dedup();
        windows
    }
}
