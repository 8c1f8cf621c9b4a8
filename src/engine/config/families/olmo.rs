//! OLMo 1 to 3, and EXAONE 4, whose norms come after attention and feed-forward, too.

use super::base::{DEFAULTS, Defaults, decoder};
use super::gemma::ropes_by_type;
use super::windows;
use crate::engine::config::graph::{Config, Norm, QkNorm, QkSpan};
use crate::engine::config::names::{LLAMA, Names};
use crate::engine::config::rope::Rope;
use crate::error::Result;
use crate::json::Fields;

/// Norms behind attention and feed-forward in place of those before.
const NORMS_BEHIND: Names = Names {
    attention_norm: None,
    attended_norm: Some("post_attention_layernorm"),
    feed_forward_norm: None,
    fed_norm: Some("post_feedforward_layernorm"),
    ..LLAMA
};

/// OLMo: LayerNorm without parameters, clamped projections.
pub(crate) fn olmo(fields: &Fields) -> Result<Config> {
    let mut config = decoder(fields, &Defaults { eos: &[50_279], ..DEFAULTS })?;
    let bias = fields.flag("attention_bias")?.unwrap_or(false);
    config.attention_biases(bias, bias);
    config.attention.clip = fields.positive("clip_qkv")?;
    config.norm = Norm { weight: false, bias: false, ..Norm::layer(1e-5) };
    Ok(config)
}

/// OLMo 2: norms behind attention and feed-forward in place of those before, and norms of queries and keys.
pub(crate) fn olmo2(fields: &Fields) -> Result<Config> {
    let mut config = decoder(fields, &Defaults { eps: 1e-5, eos: &[50_279], ..DEFAULTS })?;
    let bias = fields.flag("attention_bias")?.unwrap_or(false);
    config.attention_biases(bias, bias);
    config.attention.qk_norm = Some(QkNorm { norm: config.norm, span: QkSpan::AllHeads });
    config.names = NORMS_BEHIND;
    Ok(config)
}

/// OLMo 3: OLMo 2 with a window in three of four layers, and a rotary embedding for those with a window, another for
/// those without.
pub(crate) fn olmo3(fields: &Fields) -> Result<Config> {
    const THETA: f64 = 500_000.0;
    let nested = fields.object("rope_parameters")?.filter(|ropes| ropes.get("full_attention").is_some());
    let without_ropes = fields.without(&["rope_parameters", "rope_scaling"]);
    let mut config = olmo2(if nested.is_some() { &without_ropes } else { fields })?;
    config.ropes = match nested {
        Some(ropes) => ropes_by_type(&config, fields, &ropes, [THETA, THETA])?,
        // Scaling is for layers that see everything.
        None => {
            let theta = fields.positive("rope_theta")?.unwrap_or(THETA);
            vec![Rope { theta, ..config.ropes.remove(0) }, Rope::plain(theta, config.attention.head_dim)]
        }
    };
    let window = windows::size(fields, Some(4096))?;
    windows::on_some_layers(&mut config, fields, window, |layer| !(layer + 1).is_multiple_of(4))?;
    for layer in &mut config.layers {
        layer.rope = Some(usize::from(layer.window.is_some()));
    }
    Ok(config)
}

/// EXAONE 4: norms of each query and key head; a window and rotation in three of four layers, or rotation in all where
/// there is no window.
pub(crate) fn exaone4(fields: &Fields) -> Result<Config> {
    let mut config = decoder(fields, &Defaults { eps: 1e-5, kv_heads: Some(32), ..DEFAULTS })?;
    config.attention.qk_norm = Some(QkNorm { norm: config.norm, span: QkSpan::SharedByHeads });
    config.names = NORMS_BEHIND;
    let window = windows::size(fields, Some(4096))?;
    // a number, or a string such as `LLLG` as long as the pattern; next to `layer_types` it has no effect
    let pattern = match fields.get("sliding_window_pattern") {
        _ if fields.get("layer_types").is_some() => 4,
        Some(serde_json::Value::String(kinds)) => kinds.len().max(1),
        Some(number) if number.as_u64() == Some(0) => usize::MAX,
        _ => fields.size("sliding_window_pattern")?.unwrap_or(4),
    };
    windows::on_some_layers(&mut config, fields, window, |layer| !(layer + 1).is_multiple_of(pattern))?;
    if window.is_some() {
        for layer in &mut config.layers {
            layer.rope = layer.window.map(|_| 0);
        }
    }
    Ok(config)
}
