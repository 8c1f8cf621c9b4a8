//! What the families share: Llama's graph with the defaults of a family, and the fields that nearly all of them have.

use crate::engine::config::architecture;
use crate::engine::config::graph::{
    Activation, Attention, Config, Embedding, FeedForward, LayerConfig, Norm, Output, Residual,
};
use crate::engine::config::names::LLAMA;
use crate::engine::config::rope::{self, RopeDefaults, RopeStyle};
use crate::error::Result;
use crate::json::Fields;

/// No model has more layers or experts: a larger number is damage, and would only fill memory.
const MOST_LAYERS: usize = 4096;
pub(crate) const MOST_EXPERTS: usize = 4096;

/// Longest sequence if the rotary embedding sets no limit.
const OPEN_ENDED: usize = 1 << 20;

/// A family's values for what `config.json` leaves out.
pub(crate) struct Defaults {
    /// Longest sequence.
    pub(crate) positions: usize,
    /// Field of the norm's epsilon.
    pub(crate) eps_field: &'static str,
    /// Epsilon of the norms.
    pub(crate) eps: f64,
    /// Base of the rotary embedding.
    pub(crate) theta: f64,
    /// Share of a head that is rotated.
    pub(crate) rotated: f64,
    /// Which dimensions are rotated together.
    pub(crate) style: RopeStyle,
    /// Key and value heads if `num_key_value_heads` is left out; as many as query heads for `None`.
    pub(crate) kv_heads: Option<usize>,
    /// Width of a head if `head_dim` is left out; the hidden size over the heads for `None`.
    pub(crate) head_dim: Option<usize>,
    /// Field of the activation.
    pub(crate) activation_field: &'static str,
    pub(crate) activation: &'static str,
    /// The output layer is the embedding table.
    pub(crate) tied: bool,
    /// Tokens that end a sequence.
    pub(crate) eos: &'static [u32],
}

pub(crate) const DEFAULTS: Defaults = Defaults {
    positions: 2048,
    eps_field: "rms_norm_eps",
    eps: 1e-6,
    theta: 10_000.0,
    rotated: 1.0,
    style: RopeStyle::Halves,
    kv_heads: None,
    head_dim: None,
    activation_field: "hidden_act",
    activation: "silu",
    tied: false,
    eos: &[2],
};

/// The part that most families share: Llama's graph, with pre-norm RMSNorm, rotary embedding and a gated feed-forward.
pub(crate) fn decoder(fields: &Fields, defaults: &Defaults) -> Result<Config> {
    let hidden_size = fields.required_size("hidden_size")?;
    let heads = fields.required_size("num_attention_heads")?;
    let kv_heads = match (fields.spelled("num_key_value_heads"), defaults.kv_heads) {
        (None, Some(kv_heads)) => kv_heads,
        _ => fields.size("num_key_value_heads")?.unwrap_or(heads),
    };
    let head_dim = match (fields.spelled("head_dim"), defaults.head_dim) {
        (None, Some(width)) => width,
        _ => fields.size("head_dim")?.unwrap_or(hidden_size / heads),
    };
    let max_positions = fields.size("max_position_embeddings")?.unwrap_or(defaults.positions);
    let rope =
        RopeDefaults { head_dim, max_positions, theta: defaults.theta, share: defaults.rotated, style: defaults.style };
    let rope = rope::read(fields, rope)?;
    let inner = fields.required_size("intermediate_size")?;
    let layer = LayerConfig {
        window: None,
        rope: Some(0),
        scale: default_scale(head_dim),
        feed_forward: FeedForward::Gated { inner, bias: false },
    };
    Ok(Config {
        architecture: architecture::named(fields).unwrap_or_default().to_owned(),
        vocab_size: fields.required_size("vocab_size")?,
        hidden_size,
        max_positions: if rope.is_open_ended() { OPEN_ENDED } else { max_positions },
        embedding: plain_embedding(hidden_size),
        norm: Norm::rms(fields.positive(defaults.eps_field)?.unwrap_or(defaults.eps)),
        residual: Residual::Sequential,
        residual_scale: 1.0,
        attention: Attention {
            heads,
            kv_heads,
            head_dim,
            qkv_bias: false,
            output_bias: false,
            clip: None,
            qk_norm: None,
            softcap: None,
            alibi: None,
        },
        ropes: vec![rope],
        activation: activation(fields, defaults.activation_field, defaults.activation)?,
        layers: vec![layer; layers(fields, "num_hidden_layers")?],
        output: plain_output(fields, defaults.tied)?,
        eos_ids: eos_ids(fields, defaults.eos)?,
        names: LLAMA,
        recompute_past: None,
    })
}

/// The factor of the scores, unless a family has its own.
pub(crate) fn default_scale(head_dim: usize) -> f64 {
    1.0 / (head_dim as f64).sqrt()
}

pub(crate) fn plain_embedding(width: usize) -> Embedding {
    Embedding { width, scale: 1.0, round_scale: false, positions: None, norm: false }
}

pub(crate) fn plain_output(fields: &Fields, tied: bool) -> Result<Output> {
    let tied = fields.flag("tie_word_embeddings")?.unwrap_or(tied);
    Ok(Output { tied, bias: false, scale: 1.0, softcap: None })
}

/// Number of layers.
pub(crate) fn layers(fields: &Fields, field: &str) -> Result<usize> {
    at_most(fields, field, MOST_LAYERS)
}

pub(crate) fn at_most(fields: &Fields, field: &str, most: usize) -> Result<usize> {
    match fields.required_size(field)? {
        size if size <= most => Ok(size),
        size => Err(fields.error(field, format!("{size} is more than the {most} that are supported"))),
    }
}

pub(crate) fn eos_ids(fields: &Fields, default: &[u32]) -> Result<Vec<u32>> {
    match fields.spelled("eos_token_id") {
        None => Ok(default.to_vec()),
        Some(_) => Ok(fields.token_ids("eos_token_id")?.unwrap_or_default()),
    }
}

pub(crate) fn activation(fields: &Fields, field: &str, default: &str) -> Result<Activation> {
    match fields.text(field)?.unwrap_or(default) {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_python_tanh" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        "relu2" => Ok(Activation::ReluSquared),
        other => {
            let supported = "`silu`, `gelu`, `gelu_new`, `gelu_pytorch_tanh`, `gelu_fast`, `relu` and `relu2`";
            Err(fields.error(field, format!("`{other}` isn't supported; supported are {supported}")))
        }
    }
}

impl Config {
    /// Sets the biases of the projections of attention.
    pub(crate) fn attention_biases(&mut self, qkv: bool, output: bool) {
        self.attention.qkv_bias = qkv;
        self.attention.output_bias = output;
    }

    /// Sets every layer's feed-forward.
    pub(crate) fn feed_forward(&mut self, feed_forward: FeedForward) {
        for layer in &mut self.layers {
            layer.feed_forward = feed_forward.clone();
        }
    }

    /// Sets what the scores of every layer are multiplied by.
    pub(crate) fn attention_scale(&mut self, scale: f64) {
        for layer in &mut self.layers {
            layer.scale = scale;
        }
    }
}
