//! GLM and GLM 4: half of each head rotated in neighbouring pairs, gate and up in one matrix.

use super::base::{DEFAULTS, Defaults, decoder};
use crate::engine::config::graph::Config;
use crate::engine::config::names::{GateUpNames, LLAMA, Names};
use crate::engine::config::rope::RopeStyle;
use crate::error::Result;
use crate::json::Fields;

/// GLM.
pub(crate) fn glm(fields: &Fields) -> Result<Config> {
    let defaults = Defaults {
        positions: 131_072,
        kv_heads: Some(2),
        head_dim: Some(128),
        eps: 1.5625e-7,
        rotated: 0.5,
        style: RopeStyle::Neighbours,
        eos: &[151_329, 151_336, 151_338],
        ..DEFAULTS
    };
    let mut config = decoder(fields, &defaults)?;
    config.attention_biases(fields.flag("attention_bias")?.unwrap_or(true), false);
    config.names = Names { gate_up: GateUpNames::Fused("mlp.gate_up_proj"), ..LLAMA };
    Ok(config)
}

/// GLM 4: further norms behind attention and feed-forward.
pub(crate) fn glm4(fields: &Fields) -> Result<Config> {
    let mut config = glm(fields)?;
    config.names.attended_norm = Some("post_self_attn_layernorm");
    config.names.fed_norm = Some("post_mlp_layernorm");
    Ok(config)
}
