//! Gemma 1 to 3 (text).

use super::super::fields::Fields;
use super::super::names::{LLAMA, Names};
use super::super::rope::{self, Rope, RopeDefaults, RopeScaling, RopeStyle};
use super::super::{Norm, QkNorm, QkSpan};
use super::{Config, DEFAULTS, Defaults, decoder, windows};
use crate::error::Result;

const GEMMA: Defaults = Defaults {
    positions: 8192,
    head_dim: Some(256),
    activation: "gelu_pytorch_tanh",
    tied: true,
    eos: &[1],
    ..DEFAULTS
};

/// Gemma: a scaled embedding, norms that add 1 to their weights.
pub fn gemma(fields: &Fields) -> Result<Config> {
    common(fields, &Defaults { kv_heads: Some(16), ..GEMMA })
}

/// Gemma 2: norms on both sides, soft caps, a window in every other layer.
pub fn gemma2(fields: &Fields) -> Result<Config> {
    let mut config = sandwich(fields, &Defaults { kv_heads: Some(4), activation_field: "hidden_activation", ..GEMMA })?;
    config.attention.softcap = cap(fields, "attn_logit_softcapping", Some(50.0))?;
    config.output.softcap = cap(fields, "final_logit_softcapping", Some(30.0))?;
    let window = windows::size(fields, Some(4096))?;
    windows::on_some_layers(&mut config, fields, window, |layer| layer.is_multiple_of(2))?;
    Ok(config)
}

/// Gemma 3: norms of queries and keys, and one rotary embedding for layers with a window, another for those without.
pub fn gemma3(fields: &Fields) -> Result<Config> {
    let defaults = Defaults {
        positions: 131_072,
        kv_heads: Some(4),
        theta: 1_000_000.0,
        activation_field: "hidden_activation",
        ..GEMMA
    };
    let nested = fields.object("rope_parameters")?.filter(|ropes| ropes.get("full_attention").is_some());
    let without_ropes = fields.without(&["rope_parameters", "rope_scaling"]);
    let mut config = sandwich(if nested.is_some() { &without_ropes } else { fields }, &defaults)?;
    config.attention.qk_norm = Some(QkNorm { norm: config.norm, span: QkSpan::SharedByHeads });
    // `attn_logit_softcapping` is a field of the class that its attention doesn't use.
    config.output.softcap = cap(fields, "final_logit_softcapping", None)?;

    let common = RopeDefaults {
        head_dim: config.attention.head_dim,
        max_positions: config.max_positions,
        theta: defaults.theta,
        share: 1.0,
        style: RopeStyle::Halves,
    };
    let local_theta = fields.positive("rope_local_base_freq")?.unwrap_or(10_000.0);
    let local = Rope {
        theta: local_theta,
        dims: config.attention.head_dim,
        style: RopeStyle::Halves,
        scaling: RopeScaling::Default,
    };
    config.ropes = match nested {
        None => vec![config.ropes.remove(0), local],
        Some(ropes) => {
            let read = |name: &str, theta: f64| {
                let beside = fields.without(&["rope_theta"]);
                rope::rope(&beside, ropes.object(name)?.as_ref(), RopeDefaults { theta, ..common })
            };
            vec![read("full_attention", defaults.theta)?, read("sliding_attention", local_theta)?]
        }
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
        return Err(fields.error("use_bidirectional_attention", "attention to later tokens isn't served"));
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

/// A soft cap; `null` is none.
fn cap(fields: &Fields, field: &str, default: Option<f64>) -> Result<Option<f64>> {
    match fields.spelled(field) {
        None => Ok(default),
        Some(_) => fields.positive(field),
    }
}
