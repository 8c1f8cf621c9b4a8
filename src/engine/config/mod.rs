//! What a model is, read from `config.json` and `generation_config.json`: the sizes and the variants that the decoder
//! is built from. A new architecture is one more function in [`families`] that fills in a [`Config`]; docs/architectures.md
//! has the recipe.

mod families;
mod fields;
mod names;
mod rope;

use std::path::Path;

use serde_json::{Map, Value};

use super::grouped;
use crate::error::{Error, Result};

pub(super) use fields::{Fields, read_object};
pub(super) use names::{FusedOrder, GateUpNames, Names, QkvNames};
pub(super) use rope::{Rope, RopeScaling, RopeStyle};

/// Everything that the decoder has to know about a model beside its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// As `config.json` names it.
    pub architecture: String,
    /// Token ids are below this.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Longest sequence, prompt and answer together.
    pub max_positions: usize,
    /// From token ids to the residual stream.
    pub embedding: Embedding,
    /// The norms of the residual stream.
    pub norm: Norm,
    /// How attention and feed-forward are joined with the residual stream.
    pub residual: Residual,
    /// What attention and feed-forward are multiplied by before they join the residual stream.
    pub residual_scale: f64,
    /// What all attention layers share.
    pub attention: Attention,
    /// Rotary embeddings that layers refer to by index.
    pub ropes: Vec<Rope>,
    /// Activation inside the feed-forward.
    pub activation: Activation,
    /// What differs from layer to layer.
    pub layers: Vec<LayerConfig>,
    /// From the residual stream to logits.
    pub output: Output,
    /// Token ids that end a sequence.
    pub eos_ids: Vec<u32>,
    /// Names and arrangement of the tensors.
    pub names: Names,
    /// The whole sequence is computed anew once it grows past this length, as transformers does where a Phi-3 model
    /// changes from its short to its long rotation.
    pub recompute_past: Option<usize>,
}

/// From token ids to the residual stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Embedding {
    /// Columns of the table; a projection leads to the hidden size where they differ.
    pub width: usize,
    /// What the rows are multiplied by.
    pub scale: f64,
    /// The scale is rounded to the data type of the run first, as in Gemma.
    pub round_scale: bool,
    /// A table of learned positions is added.
    pub positions: Option<LearnedPositions>,
    /// A norm follows, as in BLOOM.
    pub norm: bool,
}

/// A table with one row for each position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LearnedPositions {
    /// Rows of the table.
    pub rows: usize,
    /// The row of position 0.
    pub offset: usize,
}

/// A norm over the last dimension.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// Which.
    pub kind: NormKind,
    /// Added to the variance or the mean square.
    pub eps: f64,
    /// It has weights.
    pub weight: bool,
    /// The stored weights are added to 1, as in Gemma.
    pub one_plus: bool,
    /// It has a bias.
    pub bias: bool,
}

/// Which norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// RMSNorm (Zhang and Sennrich 2019).
    Rms,
    /// LayerNorm (Ba et al. 2016).
    Layer,
}

impl Norm {
    const fn rms(eps: f64) -> Self {
        Self { kind: NormKind::Rms, eps, weight: true, one_plus: false, bias: false }
    }

    const fn layer(eps: f64) -> Self {
        Self { kind: NormKind::Layer, eps, weight: true, one_plus: false, bias: true }
    }
}

/// How attention A and feed-forward F are joined with the residual stream x. Which norms there are, [`Names`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residual {
    /// x + A(norm x), then x + F(norm x).
    Sequential,
    /// y = norm x, y + A(y), then the same with F, as in some BLOOM models.
    FromNorm,
    /// x + A(norm x) + F(norm x).
    Parallel,
    /// norm(x + A(x)), then norm(x + F(x)).
    NormAfter,
}

/// What all attention layers share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Query, key and value projections have biases.
    pub qkv_bias: bool,
    /// The output projection has a bias.
    pub output_bias: bool,
    /// Queries, keys and values are clamped to ± this.
    pub clip: Option<f64>,
    /// Norms of queries and keys.
    pub qk_norm: Option<QkNorm>,
    /// Scores s become c · tanh(s / c).
    pub softcap: Option<f64>,
    /// A bias that falls with distance.
    pub alibi: Option<Alibi>,
}

/// Norms of queries and keys before the rotation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QkNorm {
    /// Which.
    pub norm: Norm,
    /// Over what.
    pub span: QkSpan,
}

/// What a norm of queries or keys runs over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkSpan {
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
pub enum Alibi {
    /// As in BLOOM: added to the scaled scores.
    Bloom,
    /// As in Falcon: rounded to bf16, then scaled like the scores.
    Falcon,
}

/// What differs from layer to layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerConfig {
    /// A query sees this many columns, its own included; all that came before where there is no window.
    pub window: Option<usize>,
    /// Index of the rotary embedding; none where positions don't enter here.
    pub rope: Option<usize>,
    /// What scores are multiplied by.
    pub scale: f64,
    /// The feed-forward.
    pub feed_forward: FeedForward,
}

/// The feed-forward of a layer.
#[derive(Debug, Clone, PartialEq)]
pub enum FeedForward {
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
pub struct Experts {
    /// Number of experts.
    pub count: usize,
    /// Experts that each token goes through.
    pub per_token: usize,
    /// Width inside an expert.
    pub inner: usize,
    /// The weights of the chosen experts are divided by their sum.
    pub normalise: bool,
    /// Width inside the expert that every token goes through, weighted by a sigmoid gate, where there is one.
    pub shared_inner: Option<usize>,
}

/// From the residual stream to logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Output {
    /// The output layer is the embedding table.
    pub tied: bool,
    /// It has a bias.
    pub bias: bool,
    /// What logits are multiplied by.
    pub scale: f64,
    /// Logits l become c · tanh(l / c).
    pub softcap: Option<f64>,
}

/// Activation inside the feed-forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
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
    /// Reads `config.json` and, where it is there, `generation_config.json` of a model folder, in the spellings of
    /// transformers 4 and 5.
    ///
    /// # Errors
    /// A file that can't be read, an architecture or a variant that isn't served, or a field with a wrong value; the
    /// message names the file and the field.
    pub fn read(folder: &Path) -> Result<Self> {
        let file = folder.join("config.json");
        let json = read_object(&file)?;
        let mut config = Self::from_json(&file, &json)?;
        if let Some(ids) = generation_eos(folder)? {
            config.eos_ids = ids;
        }
        Ok(config)
    }

    /// The same from the object that `config.json` holds.
    ///
    /// # Errors
    /// As for [`Config::read`].
    pub fn from_json(file: &Path, json: &Map<String, Value>) -> Result<Self> {
        let fields = Fields::new(file, json);
        fields.refuse_quantised()?;
        let architecture = architecture(&fields)?;
        let Some((_, read)) = families::SERVED.iter().find(|(name, _)| *name == architecture) else {
            return Err(not_served(&fields, &architecture));
        };
        let config = read(&fields)?;
        config.check(&fields)?;
        Ok(config)
    }

    /// The architectures that the decoder serves.
    pub fn served() -> impl Iterator<Item = &'static str> {
        families::SERVED.iter().map(|(name, _)| *name)
    }

    /// The windows of the layers, each once; `None` is one without.
    pub fn windows(&self) -> Vec<Option<usize>> {
        let mut windows: Vec<_> = self.layers.iter().map(|layer| layer.window).collect();
        windows.sort_unstable();
        windows.dedup();
        windows
    }

    fn check(&self, fields: &Fields) -> Result<()> {
        let Attention { heads, kv_heads, head_dim, .. } = self.attention;
        if !heads.is_multiple_of(kv_heads) {
            let message = format!("{kv_heads} doesn't divide `num_attention_heads` ({heads})");
            return Err(fields.error("num_key_value_heads", message));
        }
        if head_dim == 0 {
            let message = format!("`num_attention_heads` ({heads}) is more than `hidden_size` ({})", self.hidden_size);
            return Err(fields.error("head_dim", message));
        }
        if let Some(rope) = self.ropes.iter().find(|rope| rope.dims == 0 || !rope.dims.is_multiple_of(2)) {
            let message = format!("{} isn't a positive even number, which the rotary embedding needs", rope.dims);
            return Err(fields.error("head_dim", message));
        }
        for layer in &self.layers {
            if let FeedForward::Experts(experts) = layer.feed_forward
                && experts.per_token > experts.count
            {
                let message = format!("{} of {} experts", experts.per_token, experts.count);
                return Err(fields.error("num_experts_per_tok", message));
            }
        }
        Ok(())
    }
}

/// The architecture that `config.json` names.
pub(super) fn architecture(fields: &Fields) -> Result<String> {
    let first = fields.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
    first.map(str::to_owned).ok_or_else(|| {
        let message = format!("names no architecture; served are {}", served_list());
        fields.error("architectures", message)
    })
}

fn not_served(fields: &Fields, architecture: &str) -> Error {
    let message = format!("`{architecture}` isn't served; served are {}", served_list());
    fields.error("architectures", message)
}

fn served_list() -> String {
    let mut names: Vec<_> = Config::served().collect();
    names.sort_unstable();
    let listed = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    format!("{} and, in groups of equally long prompts, {}", listed(&names), listed(&grouped::SERVED))
}

/// End-of-sequence ids of `generation_config.json`, which win over those of `config.json`.
pub(super) fn generation_eos(folder: &Path) -> Result<Option<Vec<u32>>> {
    let file = folder.join("generation_config.json");
    if !file.exists() {
        return Ok(None);
    }
    let json = read_object(&file)?;
    Fields::new(&file, &json).token_ids("eos_token_id")
}

#[cfg(test)]
mod tests;
