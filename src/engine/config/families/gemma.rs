//! Gemma 1 to 3 (text).

use super::base::{DEFAULTS, Defaults, decoder};
use super::windows;
use crate::engine::config::graph::{Activation, Config, Norm, QkNorm, QkSpan};
use crate::engine::config::names::{LLAMA, Names};
use crate::engine::config::rope::{self, Rope, RopeDefaults, RopeStyle};
use crate::error::Result;
use crate::json::Fields;

const GEMMA: Defaults = Defaults {
    positions: 8192,
    head_dim: Some(256),
    activation: "gelu_pytorch_tanh",
    tied: true,
    eos: &[1],
    ..DEFAULTS
};

/// Gemma: a scaled embedding, norms that add 1 to their weights.
pub(crate) fn gemma(fields: &Fields) -> Result<Config> {
    let mut config = common(fields, &Defaults { kv_heads: Some(16), ..GEMMA })?;
    if config.activation == Activation::Gelu {
        // an old value of the official releases, which meant the approximation
        config.activation = Activation::GeluTanh;
    }
    Ok(config)
}

/// Gemma 2: norms on both sides, soft caps, a window in every other layer.
pub(crate) fn gemma2(fields: &Fields) -> Result<Config> {
    let mut config = sandwich(fields, &Defaults { kv_heads: Some(4), activation_field: "hidden_activation", ..GEMMA })?;
    config.attention.softcap = cap(fields, "attn_logit_softcapping", Some(50.0))?;
    config.output.softcap = cap(fields, "final_logit_softcapping", Some(30.0))?;
    let window = windows::size(fields, Some(4096))?;
    windows::on_some_layers(&mut config, fields, window, |layer| layer.is_multiple_of(2))?;
    Ok(config)
}

/// Gemma 3: norms of queries and keys, and one rotary embedding for layers with a window, another for those without.
pub(crate) fn gemma3(fields: &Fields) -> Result<Config> {
    let defaults = Defaults {
        positions: 131_072,
        kv_heads: Some(4),
        theta: 1_000_000.0,
        activation_field: "hidden_activation",
        ..GEMMA
    };
    let local_theta = fields.positive("rope_local_base_freq")?.unwrap_or(10_000.0);
    let nested = fields.object("rope_parameters")?.filter(|ropes| ropes.get("full_attention").is_some());
    let without_ropes = fields.without(&["rope_parameters", "rope_scaling"]);
    let mut config = sandwich(if nested.is_some() { &without_ropes } else { fields }, &defaults)?;
    config.attention.qk_norm = Some(QkNorm { norm: config.norm, span: QkSpan::SharedByHeads });
    // `attn_logit_softcapping` is a field of transformers' class that its attention doesn't use
    config.output.softcap = cap(fields, "final_logit_softcapping", None)?;

    config.ropes = match nested {
        Some(ropes) => ropes_by_type(&config, fields, &ropes, [defaults.theta, local_theta])?,
        None => vec![config.ropes.remove(0), Rope::plain(local_theta, config.attention.head_dim)],
    };
    let pattern = match fields.size("sliding_window_pattern")? {
        Some(pattern) => pattern,
        None => fields.size("_sliding_window_pattern")?.unwrap_or(6),
    };
    let window = windows::size(fields, Some(4096))?;
    windows::on_some_layers(&mut config, fields, window, |layer| !(layer + 1).is_multiple_of(pattern))?;
    for layer in &mut config.layers {
        layer.rope = Some(usize::from(layer.window.is_some()));
    }
    Ok(config)
}

fn common(fields: &Fields, defaults: &Defaults) -> Result<Config> {
    if fields.flag("use_bidirectional_attention")?.unwrap_or(false) {
        return Err(fields.error("use_bidirectional_attention", "attention to later tokens isn't supported"));
    }
    let mut config = decoder(fields, defaults)?;
    let bias = fields.flag("attention_bias")?.unwrap_or(false);
    config.attention_biases(bias, bias);
    config.norm = Norm { one_plus: true, ..config.norm };
    config.embedding.scale = (config.hidden_size as f64).sqrt();
    config.embedding.round_scale = true;
    Ok(config)
}

fn sandwich(fields: &Fields, defaults: &Defaults) -> Result<Config> {
    let mut config = common(fields, defaults)?;
    config.attention_scale(1.0 / fields.positive("query_pre_attn_scalar")?.unwrap_or(256.0).sqrt());
    config.names = Names {
        attended_norm: Some("post_attention_layernorm"),
        feed_forward_norm: Some("pre_feedforward_layernorm"),
        fed_norm: Some("post_feedforward_layernorm"),
        ..LLAMA
    };
    Ok(config)
}

/// The rotary embeddings of layers without and with a window, as transformers 5 writes them side by side.
pub(super) fn ropes_by_type(config: &Config, fields: &Fields, ropes: &Fields, thetas: [f64; 2]) -> Result<Vec<Rope>> {
    let read = |name: &str, theta: f64| {
        let defaults = RopeDefaults {
            head_dim: config.attention.head_dim,
            max_positions: config.max_positions,
            theta,
            share: 1.0,
            style: RopeStyle::Halves,
        };
        rope::rope(&fields.without(&["rope_theta"]), ropes.object(name)?.as_ref(), defaults)
    };
    Ok(vec![read("full_attention", thetas[0])?, read("sliding_attention", thetas[1])?])
}

/// A soft cap; `null` is none.
fn cap(fields: &Fields, field: &str, default: Option<f64>) -> Result<Option<f64>> {
    match fields.spelled(field) {
        None => Ok(default),
        Some(_) => fields.positive(field),
    }
}
