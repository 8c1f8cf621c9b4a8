//! Phi 1 to 4.

use super::base::{DEFAULTS, Defaults, decoder};
use super::windows;
use crate::engine::config::graph::{Config, FeedForward, Norm, QkNorm, QkSpan, Residual};
use crate::engine::config::names::{FusedOrder, GateUpNames, LLAMA, Names, QkvNames};
use crate::engine::config::rope::RopeScaling;
use crate::error::Result;
use crate::json::Fields;

/// Phi 1 to 2: LayerNorm, biases everywhere, parallel layers, a part of each head rotated.
pub(crate) fn phi(fields: &Fields) -> Result<Config> {
    let defaults =
        Defaults { eps_field: "layer_norm_eps", eps: 1e-5, rotated: 0.5, activation: "gelu_new", ..DEFAULTS };
    let mut config = decoder(fields, &defaults)?;
    config.attention_biases(true, true);
    config.norm = Norm::layer(config.norm.eps);
    config.residual = Residual::Parallel;
    config.output.bias = true;
    config.feed_forward(FeedForward::Plain { inner: fields.required_size("intermediate_size")?, bias: true });
    if fields.flag("qk_layernorm")?.unwrap_or(false) {
        config.attention.qk_norm = Some(QkNorm { norm: config.norm, span: QkSpan::SharedByHeads });
    }
    config.names = Names {
        final_norm: Some("final_layernorm"),
        feed_forward_norm: None,
        qk_norms: ["self_attn.q_layernorm", "self_attn.k_layernorm"],
        attention_output: "self_attn.dense",
        up: "mlp.fc1",
        down: "mlp.fc2",
        ..LLAMA
    };
    Ok(config)
}

/// Phi 3 to 4: fused projections, a sliding window, LongRoPE.
pub(crate) fn phi3(fields: &Fields) -> Result<Config> {
    let mut config = decoder(fields, &Defaults { positions: 4096, eps: 1e-5, eos: &[32_000], ..DEFAULTS })?;
    windows::on_all_layers(&mut config, fields, None)?;
    config.names = Names {
        qkv: QkvNames::Fused("self_attn.qkv_proj", FusedOrder::Blocks),
        gate_up: GateUpNames::Fused("mlp.gate_up_proj"),
        ..LLAMA
    };
    if let Some(rope) = config.ropes.first()
        && let RopeScaling::Long { original_positions, .. } = rope.scaling
    {
        config.recompute_past = Some(original_positions);
    }
    Ok(config)
}
