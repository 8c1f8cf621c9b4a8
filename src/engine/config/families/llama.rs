//! Llama and the families that vary its graph a little.

use super::base::{DEFAULTS, Defaults, decoder};
use super::windows;
use crate::engine::config::graph::{Config, FeedForward, Norm, QkNorm, QkSpan, Residual};
use crate::engine::config::names::{LLAMA, Names};
use crate::engine::config::rope::RopeStyle;
use crate::error::Result;
use crate::json::Fields;

/// Llama 1 to 3, and what is saved as such.
pub(crate) fn llama(fields: &Fields) -> Result<Config> {
    with_biases(fields, &DEFAULTS)
}

/// Llama with the optional biases of attention and feed-forward.
fn with_biases(fields: &Fields, defaults: &Defaults) -> Result<Config> {
    let mut config = decoder(fields, defaults)?;
    let attention = fields.flag("attention_bias")?.unwrap_or(false);
    config.attention_biases(attention, attention);
    let bias = fields.flag("mlp_bias")?.unwrap_or(false);
    let inner = fields.required_size("intermediate_size")?;
    config.feed_forward(FeedForward::Gated { inner, bias });
    Ok(config)
}

/// Mistral: a sliding window in every layer.
pub(crate) fn mistral(fields: &Fields) -> Result<Config> {
    let mut config = decoder(fields, &Defaults { positions: 4096 * 32, kv_heads: Some(8), ..DEFAULTS })?;
    windows::on_all_layers(&mut config, fields, Some(4096))?;
    Ok(config)
}

/// Qwen 2 and 2.5: biases of queries, keys and values; a window from some layer on.
pub(crate) fn qwen2(fields: &Fields) -> Result<Config> {
    let mut config = decoder(fields, &Defaults { positions: 32_768, kv_heads: Some(32), eos: &[], ..DEFAULTS })?;
    config.attention_biases(true, false);
    qwen_windows(&mut config, fields)?;
    Ok(config)
}

/// Qwen 3: norms of queries and keys.
pub(crate) fn qwen3(fields: &Fields) -> Result<Config> {
    let defaults = Defaults { positions: 32_768, kv_heads: Some(32), head_dim: Some(128), eos: &[], ..DEFAULTS };
    let mut config = decoder(fields, &defaults)?;
    let bias = fields.flag("attention_bias")?.unwrap_or(false);
    config.attention_biases(bias, bias);
    config.attention.qk_norm = Some(QkNorm { norm: config.norm, span: QkSpan::SharedByHeads });
    qwen_windows(&mut config, fields)?;
    Ok(config)
}

fn qwen_windows(config: &mut Config, fields: &Fields) -> Result<()> {
    let window = windows::switched_size(fields, Some(4096))?;
    let from = match fields.get("max_window_layers").and_then(serde_json::Value::as_u64) {
        Some(0) => 0,
        _ => fields.size("max_window_layers")?.unwrap_or(28),
    };
    windows::on_some_layers(config, fields, window, |layer| layer >= from)
}

/// Granite 3: four multipliers.
pub(crate) fn granite(fields: &Fields) -> Result<Config> {
    let mut config = with_biases(fields, &DEFAULTS)?;
    config.embedding.scale = fields.positive("embedding_multiplier")?.unwrap_or(1.0);
    config.residual_scale = fields.positive("residual_multiplier")?.unwrap_or(1.0);
    config.attention_scale(fields.positive("attention_multiplier")?.unwrap_or(1.0));
    config.output.scale = 1.0 / fields.positive("logits_scaling")?.unwrap_or(1.0);
    Ok(config)
}

/// Arcee: a plain feed-forward with squared ReLU.
pub(crate) fn arcee(fields: &Fields) -> Result<Config> {
    let defaults = Defaults { positions: 4096, eps: 1e-5, activation: "relu2", eos: &[128_001], ..DEFAULTS };
    let mut config = with_biases(fields, &defaults)?;
    let bias = fields.flag("mlp_bias")?.unwrap_or(false);
    config.feed_forward(FeedForward::Plain { inner: fields.required_size("intermediate_size")?, bias });
    Ok(config)
}

/// SmolLM 3: some layers without rotation.
pub(crate) fn smollm3(fields: &Fields) -> Result<Config> {
    let defaults =
        Defaults { positions: 32_768, kv_heads: Some(4), theta: 2_000_000.0, tied: true, eos: &[128_001], ..DEFAULTS };
    let mut config = with_biases(fields, &defaults)?;
    let interval = fields.size("no_rope_layer_interval")?.unwrap_or(4);
    // in spite of its name, the list has a 1 for each layer with rotation
    let rotated: Vec<bool> = match fields.whole_list("no_rope_layers")? {
        Some(list) if list.len() == config.layers.len() => list.iter().map(|entry| *entry != 0).collect(),
        Some(list) => {
            let message = format!("has {} entries, `num_hidden_layers` says {}", list.len(), config.layers.len());
            return Err(fields.error("no_rope_layers", message));
        }
        None => (0..config.layers.len()).map(|layer| !(layer + 1).is_multiple_of(interval)).collect(),
    };
    let window = windows::switched_size(fields, None)?;
    windows::on_some_layers(&mut config, fields, window, |layer| !rotated[layer])?;
    for (layer, rotated) in config.layers.iter_mut().zip(rotated) {
        layer.rope = rotated.then_some(0);
    }
    Ok(config)
}

/// StableLM: LayerNorm, a part of each head rotated, optionally norms of each head and parallel layers.
pub(crate) fn stablelm(fields: &Fields) -> Result<Config> {
    let defaults = Defaults {
        positions: 4096,
        kv_heads: Some(32),
        eps_field: "layer_norm_eps",
        eps: 1e-5,
        rotated: 0.25,
        eos: &[0],
        ..DEFAULTS
    };
    let mut config = decoder(fields, &defaults)?;
    config.attention_biases(fields.flag("use_qkv_bias")?.unwrap_or(false), false);
    config.norm = Norm::layer(config.norm.eps);
    if fields.flag("qk_layernorm")?.unwrap_or(false) {
        let norm = Norm { bias: false, ..config.norm };
        config.attention.qk_norm = Some(QkNorm { norm, span: QkSpan::EachHeadApart });
    }
    config.names.qk_norms = ["self_attn.q_layernorm", "self_attn.k_layernorm"];
    if fields.flag("use_parallel_residual")?.unwrap_or(false) {
        config.residual = Residual::Parallel;
        config.names.feed_forward_norm = None;
    }
    Ok(config)
}

/// StarCoder 2: LayerNorm, biases everywhere, a plain feed-forward, a sliding window.
pub(crate) fn starcoder2(fields: &Fields) -> Result<Config> {
    let defaults = Defaults {
        positions: 4096,
        kv_heads: Some(2),
        eps_field: "norm_epsilon",
        eps: 1e-5,
        activation: "gelu_pytorch_tanh",
        tied: true,
        eos: &[50_256],
        ..DEFAULTS
    };
    let mut config = decoder(fields, &defaults)?;
    let bias = fields.flag("use_bias")?.unwrap_or(true);
    config.attention_biases(bias, bias);
    config.norm = Norm::layer(config.norm.eps);
    config.feed_forward(FeedForward::Plain { inner: fields.required_size("intermediate_size")?, bias });
    config.names = Names { up: "mlp.c_fc", down: "mlp.c_proj", ..LLAMA };
    windows::on_all_layers(&mut config, fields, None)?;
    Ok(config)
}

/// Seed-OSS: the output projection of attention has its own switch for a bias.
pub(crate) fn seed_oss(fields: &Fields) -> Result<Config> {
    let defaults = Defaults { positions: 524_288, kv_heads: Some(8), head_dim: Some(128), ..DEFAULTS };
    let mut config = with_biases(fields, &defaults)?;
    let qkv = fields.flag("attention_bias")?.unwrap_or(true);
    config.attention_biases(qkv, fields.flag("attention_out_bias")?.unwrap_or(false));
    Ok(config)
}

/// ERNIE 4.5: rotation of neighbouring pairs, one switch for all biases.
pub(crate) fn ernie4_5(fields: &Fields) -> Result<Config> {
    let defaults = Defaults {
        positions: 131_072,
        eps: 1e-5,
        theta: 500_000.0,
        style: RopeStyle::Neighbours,
        kv_heads: Some(2),
        head_dim: Some(128),
        tied: true,
        ..DEFAULTS
    };
    let mut config = decoder(fields, &defaults)?;
    let bias = fields.flag("use_bias")?.unwrap_or(false);
    config.attention_biases(bias, bias);
    config.feed_forward(FeedForward::Gated { inner: fields.required_size("intermediate_size")?, bias });
    Ok(config)
}

/// Helium: rotation of neighbouring pairs.
pub(crate) fn helium(fields: &Fields) -> Result<Config> {
    let defaults = Defaults {
        positions: 4096,
        eps: 1e-8,
        theta: 100_000.0,
        style: RopeStyle::Neighbours,
        kv_heads: Some(20),
        head_dim: Some(128),
        ..DEFAULTS
    };
    let mut config = with_biases(fields, &defaults)?;
    config.attention_biases(fields.flag("attention_bias")?.unwrap_or(false), false);
    Ok(config)
}

/// Ministral: Mistral with a window in some layers.
pub(crate) fn ministral(fields: &Fields) -> Result<Config> {
    let mut config = decoder(fields, &Defaults { positions: 131_072, kv_heads: Some(8), ..DEFAULTS })?;
    let window = windows::size(fields, Some(4096))?;
    windows::on_some_layers(&mut config, fields, window, |_| true)?;
    Ok(config)
}

/// Code World Model: Llama 3 with a window in three of four layers.
pub(crate) fn cwm(fields: &Fields) -> Result<Config> {
    let defaults = Defaults {
        positions: 131_072,
        eps: 1e-5,
        theta: 1_000_000.0,
        kv_heads: Some(8),
        head_dim: Some(128),
        eos: &[128_001, 128_008, 128_009],
        ..DEFAULTS
    };
    let mut config = with_biases(fields, &defaults)?;
    config.attention_biases(false, false);
    let window = windows::size(fields, Some(8192))?;
    windows::on_some_layers(&mut config, fields, window, |layer| !layer.is_multiple_of(4))?;
    Ok(config)
}

/// Nemotron: LayerNorm that adds 1 to its weights, a plain feed-forward with squared ReLU, half of each head rotated.
pub(crate) fn nemotron(fields: &Fields) -> Result<Config> {
    let defaults = Defaults {
        positions: 4096,
        eps_field: "norm_eps",
        eps: 1e-5,
        rotated: 0.5,
        activation: "relu2",
        eos: &[3],
        ..DEFAULTS
    };
    let mut config = with_biases(fields, &defaults)?;
    config.norm = Norm { one_plus: true, ..Norm::layer(config.norm.eps) };
    let bias = fields.flag("mlp_bias")?.unwrap_or(false);
    config.feed_forward(FeedForward::Plain { inner: fields.required_size("intermediate_size")?, bias });
    Ok(config)
}
