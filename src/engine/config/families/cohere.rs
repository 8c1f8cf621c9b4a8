//! Command R and Command R7B: LayerNorm without bias, parallel layers, rotation of neighbouring pairs, scaled logits.

use super::base::{DEFAULTS, Defaults, decoder};
use super::windows;
use crate::engine::config::graph::{Config, Norm, QkNorm, QkSpan, Residual};
use crate::engine::config::rope::RopeStyle;
use crate::error::Result;
use crate::json::Fields;

const COHERE: Defaults = Defaults {
    positions: 8192,
    eps_field: "layer_norm_eps",
    eps: 1e-5,
    theta: 500_000.0,
    style: RopeStyle::Neighbours,
    tied: true,
    eos: &[255_001],
    ..DEFAULTS
};

/// Command R.
pub(crate) fn cohere(fields: &Fields) -> Result<Config> {
    let mut config = common(fields, &COHERE)?;
    if fields.flag("use_qk_norm")?.unwrap_or(false) {
        config.attention.qk_norm = Some(QkNorm { norm: config.norm, span: QkSpan::EachHead });
    }
    Ok(config)
}

/// Command R7B: windows, and no rotation in the layers without one.
pub(crate) fn cohere2(fields: &Fields) -> Result<Config> {
    let mut config = common(fields, &Defaults { theta: 10_000.0, ..COHERE })?;
    let pattern = match fields.size("sliding_window_pattern")? {
        Some(pattern) => pattern,
        None => fields.size("_sliding_window_pattern")?.unwrap_or(4),
    };
    let window = windows::size(fields, Some(4096))?;
    windows::on_some_layers(&mut config, fields, window, |layer| !(layer + 1).is_multiple_of(pattern))?;
    for layer in &mut config.layers {
        layer.rope = layer.window.map(|_| 0);
    }
    Ok(config)
}

fn common(fields: &Fields, defaults: &Defaults) -> Result<Config> {
    let mut config = decoder(fields, defaults)?;
    let bias = fields.flag("attention_bias")?.unwrap_or(false);
    config.attention_biases(bias, bias);
    config.norm = Norm { bias: false, ..Norm::layer(config.norm.eps) };
    config.residual = Residual::Parallel;
    config.output.scale = fields.positive("logit_scale")?.unwrap_or(0.0625);
    config.names.feed_forward_norm = None;
    Ok(config)
}
