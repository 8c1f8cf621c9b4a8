//! Mixtures of experts.

use super::base::{DEFAULTS, Defaults, MOST_EXPERTS, at_most, decoder};
use super::windows;
use crate::engine::config::graph::{Config, Experts, FeedForward, QkNorm, QkSpan};
use crate::engine::config::names::{ExpertNames, LLAMA, Names};
use crate::error::Result;
use crate::json::Fields;

/// Mixtral: Mistral with experts in every layer.
pub(crate) fn mixtral(fields: &Fields) -> Result<Config> {
    let defaults = Defaults { positions: 4096 * 32, kv_heads: Some(8), eps: 1e-5, theta: 1_000_000.0, ..DEFAULTS };
    let mut config = decoder(fields, &defaults)?;
    config.feed_forward(FeedForward::Experts(Experts {
        count: count(fields, 8)?,
        per_token: fields.size("num_experts_per_tok")?.unwrap_or(2),
        inner: fields.required_size("intermediate_size")?,
        normalise: true,
        shared_inner: None,
    }));
    config.names =
        Names { experts: ExpertNames { folders: &["block_sparse_moe", "mlp"], parts: ["w1", "w3", "w2"] }, ..LLAMA };
    windows::on_all_layers(&mut config, fields, None)?;
    Ok(config)
}

/// Qwen 1.5 and 2 MoE: an expert that every token goes through, and some layers without experts.
pub(crate) fn qwen2_moe(fields: &Fields) -> Result<Config> {
    let mut config = decoder(fields, &Defaults { positions: 32_768, kv_heads: Some(16), eos: &[], ..DEFAULTS })?;
    config.attention_biases(fields.flag("qkv_bias")?.unwrap_or(true), false);
    let experts = Experts {
        count: count(fields, 60)?,
        per_token: fields.size("num_experts_per_tok")?.unwrap_or(4),
        inner: fields.size("moe_intermediate_size")?.unwrap_or(1408),
        normalise: fields.flag("norm_topk_prob")?.unwrap_or(false),
        shared_inner: Some(fields.size("shared_expert_intermediate_size")?.unwrap_or(5632)),
    };
    on_sparse_layers(&mut config, fields, experts)?;
    let window = windows::switched_size(fields, Some(4096))?;
    let from = fields.size("max_window_layers")?.unwrap_or(28);
    windows::on_some_layers(&mut config, fields, window, |layer| layer.is_multiple_of(2) && layer < from)?;
    Ok(config)
}

/// Qwen 3 MoE: norms of queries and keys, and some layers without experts.
pub(crate) fn qwen3_moe(fields: &Fields) -> Result<Config> {
    let defaults = Defaults { positions: 32_768, kv_heads: Some(4), eos: &[], ..DEFAULTS };
    let mut config = decoder(fields, &defaults)?;
    let bias = fields.flag("attention_bias")?.unwrap_or(false);
    config.attention_biases(bias, bias);
    config.attention.qk_norm = Some(QkNorm { norm: config.norm, span: QkSpan::SharedByHeads });
    let experts = Experts {
        count: count(fields, 128)?,
        per_token: fields.size("num_experts_per_tok")?.unwrap_or(8),
        inner: fields.size("moe_intermediate_size")?.unwrap_or(768),
        normalise: fields.flag("norm_topk_prob")?.unwrap_or(false),
        shared_inner: None,
    };
    on_sparse_layers(&mut config, fields, experts)?;
    let window = windows::switched_size(fields, Some(4096))?;
    config.layers.iter_mut().for_each(|layer| layer.window = window);
    Ok(config)
}

/// OLMoE: norms of queries and keys over all heads, clamped projections.
pub(crate) fn olmoe(fields: &Fields) -> Result<Config> {
    let mut config = decoder(fields, &Defaults { positions: 4096, eps: 1e-5, eos: &[50_279], ..DEFAULTS })?;
    let bias = fields.flag("attention_bias")?.unwrap_or(false);
    config.attention_biases(bias, bias);
    config.attention.qk_norm = Some(QkNorm { norm: config.norm, span: QkSpan::AllHeads });
    config.attention.clip = fields.positive("clip_qkv")?;
    config.feed_forward(FeedForward::Experts(Experts {
        count: count(fields, 64)?,
        per_token: fields.size("num_experts_per_tok")?.unwrap_or(8),
        inner: fields.required_size("intermediate_size")?,
        normalise: fields.flag("norm_topk_prob")?.unwrap_or(false),
        shared_inner: None,
    }));
    Ok(config)
}

/// Number of experts, under either of its names.
fn count(fields: &Fields, default: usize) -> Result<usize> {
    for field in ["num_local_experts", "num_experts"] {
        if fields.get(field).is_some() {
            return at_most(fields, field, MOST_EXPERTS);
        }
    }
    Ok(default)
}

/// Experts in the layers that `decoder_sparse_step` and `mlp_only_layers` leave them.
fn on_sparse_layers(config: &mut Config, fields: &Fields, experts: Experts) -> Result<()> {
    let step = fields.size("decoder_sparse_step")?.unwrap_or(1);
    let dense = fields.whole_list("mlp_only_layers")?.unwrap_or_default();
    for (index, layer) in config.layers.iter_mut().enumerate() {
        if (index + 1).is_multiple_of(step) && !dense.contains(&(index as u64)) {
            layer.feed_forward = FeedForward::Experts(experts);
        }
    }
    Ok(())
}
