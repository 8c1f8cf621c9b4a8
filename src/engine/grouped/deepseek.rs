//! DeepSeek-V2 (arXiv:2405.04434) whose experts aren't chosen by groups, such as DeepSeek-V2-Lite.

use candle_core::Tensor;
use candle_transformers::models::deepseek2::{DeepSeekV2 as Library, DeepSeekV2Config as Config};
use serde_json::{Value, json};

use super::{Blueprint, Cache, LIBRARY, Model, deserialised, only, only_activation, only_flag, split};
use crate::engine::config::Fields;
use crate::error::Result;

pub(super) fn read(fields: &Fields<'_>) -> Result<Blueprint> {
    check_variant(fields)?;
    let layers = fields.required_size("num_hidden_layers")?;
    let heads = fields.required_size("num_attention_heads")?;
    let experts = fields.required_size("n_routed_experts")?;
    let (latent, rotated) = (fields.size("qk_nope_head_dim")?.unwrap_or(128), rotated_width(fields)?);
    let values = fields.size("v_head_dim")?.unwrap_or(128);
    let vocab_size = fields.required_size("vocab_size")?;
    let positions = fields.size("max_position_embeddings")?.unwrap_or(2048);
    let chosen = fields.required_size("num_experts_per_tok")?;
    if chosen > experts {
        return Err(fields.error("num_experts_per_tok", format!("{chosen} of {experts} experts can't be chosen")));
    }
    let config: Config = deserialised(json!({
        "vocab_size": vocab_size,
        "hidden_size": fields.required_size("hidden_size")?,
        "intermediate_size": fields.required_size("intermediate_size")?,
        "moe_intermediate_size": fields.required_size("moe_intermediate_size")?,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "n_shared_experts": fields.size("n_shared_experts")?.unwrap_or(2),
        "n_routed_experts": experts,
        "routed_scaling_factor": fields.positive("routed_scaling_factor")?.unwrap_or(1.0),
        "num_experts_per_tok": chosen,
        "first_k_dense_replace": fields.get("first_k_dense_replace").and_then(Value::as_u64).unwrap_or(0),
        "max_position_embeddings": positions,
        "rms_norm_eps": fields.positive("rms_norm_eps")?.unwrap_or(1e-6),
        "tie_word_embeddings": fields.flag("tie_word_embeddings")?.unwrap_or(false),
        "rope_theta": theta(fields)?,
        "rope_scaling": yarn(fields)?,
        "attention_bias": fields.flag("attention_bias")?.unwrap_or(false),
        "q_lora_rank": query_rank(fields)?,
        "qk_rope_head_dim": rotated,
        "kv_lora_rank": fields.size("kv_lora_rank")?.unwrap_or(512),
        "v_head_dim": values,
        "qk_nope_head_dim": latent,
        "n_group": 1,
        "topk_group": 1,
    }))?;
    Ok(Blueprint {
        engine: LIBRARY,
        vocab_size,
        max_positions: Some(positions),
        layers,
        experts: Some(experts),
        // keys and values are kept in full: a key and a value of a head are two of their mean width
        cache: Cache { layers, heads, head_dim: (latent + rotated + values).div_ceil(2) },
        embedding: "model.embed_tokens.weight",
        renamed: &[],
        only_f32: None,
        notes: vec!["keys and values are kept in full, not as their compressed latents".to_owned()],
        build: Box::new(move |tensors| Ok(Box::new(DeepSeek(Library::new(&config, tensors)?)))),
    })
}

/// Refuses what the library computes otherwise than transformers.
fn check_variant(fields: &Fields<'_>) -> Result<()> {
    let groups = fields.size("n_group")?.unwrap_or(1);
    match fields.text("topk_method")?.unwrap_or("greedy") {
        "greedy" => {}
        // the library ranks experts where groups have to be ranked
        "group_limited_greedy" => only(fields, "n_group", groups, 1)?,
        other => only(fields, "topk_method", other, "greedy")?,
    }
    only_activation(fields, "scoring_func", "softmax", "softmax")?;
    only_activation(fields, "hidden_act", "silu", "silu")?;
    only_flag(fields, "norm_topk_prob", false, false)?;
    only_flag(fields, "mlp_bias", false, false)?;
    only(fields, "moe_layer_freq", fields.size("moe_layer_freq")?.unwrap_or(1), 1)?;
    // the norms of the latents have this epsilon in transformers, whatever the config says
    only(fields, "rms_norm_eps", fields.positive("rms_norm_eps")?.unwrap_or(1e-6), 1e-6)
}

fn rotated_width(fields: &Fields<'_>) -> Result<usize> {
    let width = fields.size("qk_rope_head_dim")?.unwrap_or(64);
    split(fields, "qk_rope_head_dim", width, 2)?;
    Ok(width)
}

/// Rank of the query's latent; `null` for queries without one.
fn query_rank(fields: &Fields<'_>) -> Result<Option<usize>> {
    match fields.spelled("q_lora_rank") {
        None => Ok(Some(1536)),
        Some(_) => fields.size("q_lora_rank"),
    }
}

fn theta(fields: &Fields<'_>) -> Result<f64> {
    let inside = match fields.rope()? {
        Some(rope) => rope.positive("rope_theta")?,
        None => None,
    };
    Ok(inside.or(fields.positive("rope_theta")?).unwrap_or(10_000.0))
}

/// YaRN (Peng et al. 2023) as the library spells it, where the config asks for it.
fn yarn(fields: &Fields<'_>) -> Result<Option<Value>> {
    let Some(rope) = fields.rope()? else { return Ok(None) };
    match rope.text("rope_type")?.or(rope.text("type")?).unwrap_or("default") {
        "default" => return Ok(None),
        other => only(&rope, "rope_type", other, "yarn")?,
    }
    only_flag(&rope, "truncate", true, true)?;
    if rope.get("attention_factor").is_some() {
        return Err(rope.error("attention_factor", "isn't served"));
    }
    let positions = fields.size("max_position_embeddings")?.unwrap_or(2048);
    let (scale, scale_all) = match (rope.positive("mscale")?, rope.positive("mscale_all_dim")?) {
        (Some(scale), Some(scale_all)) => (scale, scale_all),
        (None, Some(_)) => return Err(rope.error("mscale", "is missing beside `mscale_all_dim`")),
        // alone it changes nothing
        (_, None) => (1.0, 0.0),
    };
    Ok(Some(json!({
        "type": "yarn",
        "factor": rope.required_positive("factor")?,
        "original_max_position_embeddings": rope.size("original_max_position_embeddings")?.unwrap_or(positions),
        "beta_fast": rope.positive("beta_fast")?.unwrap_or(32.0),
        "beta_slow": rope.positive("beta_slow")?.unwrap_or(1.0),
        "mscale": scale,
        "mscale_all_dim": scale_all,
    })))
}

struct DeepSeek(Library);

impl Model for DeepSeek {
    fn begin(&mut self, _: usize, _: usize) -> candle_core::Result<()> {
        self.0.clear_kv_cache();
        Ok(())
    }

    fn forward(&mut self, ids: &Tensor, past: usize) -> candle_core::Result<Tensor> {
        self.0.forward(ids, past)
    }
}
