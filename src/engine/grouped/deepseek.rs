//! The configurations of DeepSeek-V2 and DeepSeek-V3. Defaults as in transformers.

use std::f64::consts::TAU;

use serde_json::Value;

use super::latent_attention::{LatentAttention, Rotation, Sizes};
use super::routing::{Expertise, Groups, Scoring};
use super::{Blueprint, Cache, only, only_activation, only_flag, split};
use crate::engine::config::Fields;
use crate::error::Result;

/// The code, as records name it.
const ENGINE: &str = "latent-attention";

/// Far above the width of any rotated key; keeps the list of its frequencies short.
const WIDEST_ROTATION: usize = 1 << 12;

/// DeepSeek-V2.
pub(super) fn read_2(fields: &Fields<'_>) -> Result<Blueprint> {
    only_activation(fields, "scoring_func", "softmax", "softmax")?;
    // transformers leaves it out of account, others don't
    only_flag(fields, "norm_topk_prob", false, false)?;
    only_flag(fields, "mlp_bias", false, false)?;
    let groups = match fields.text("topk_method")?.unwrap_or("greedy") {
        "greedy" => None,
        "group_limited_greedy" => Some((fields.required_size("n_group")?, fields.required_size("topk_group")?)),
        other => return Err(fields.error("topk_method", format!("`{other}` isn't served"))),
    };
    let experts = Expertise {
        experts: fields.size("n_routed_experts")?.unwrap_or(64),
        chosen: fields.required_size("num_experts_per_tok")?,
        inner: fields.size("moe_intermediate_size")?.unwrap_or(1407),
        shared: fields.size("n_shared_experts")?.unwrap_or(2),
        scoring: Scoring::Softmax,
        groups: groups.map(|(groups, chosen)| Groups { groups, chosen }),
        normalised: false,
        scale: fields.positive("routed_scaling_factor")?.unwrap_or(1.0) as f32,
    };
    blueprint(fields, experts, 0, 2048, true)
}

/// DeepSeek-V3.
pub(super) fn read_3(fields: &Fields<'_>) -> Result<Blueprint> {
    only_activation(fields, "scoring_func", "sigmoid", "sigmoid")?;
    only_activation(fields, "topk_method", "noaux_tc", "noaux_tc")?;
    let experts = Expertise {
        experts: fields.size("n_routed_experts")?.unwrap_or(256),
        chosen: fields.size("num_experts_per_tok")?.unwrap_or(8),
        inner: fields.size("moe_intermediate_size")?.unwrap_or(2048),
        shared: fields.size("n_shared_experts")?.unwrap_or(1),
        scoring: Scoring::Sigmoid,
        groups: Some(Groups {
            groups: fields.size("n_group")?.unwrap_or(8),
            chosen: fields.size("topk_group")?.unwrap_or(4),
        }),
        normalised: fields.flag("norm_topk_prob")?.unwrap_or(true),
        scale: fields.positive("routed_scaling_factor")?.unwrap_or(2.5) as f32,
    };
    let interleaved = fields.flag("rope_interleave")?.unwrap_or(true);
    let mut blueprint = blueprint(fields, experts, 3, 4096, interleaved)?;
    // modules that predict further tokens, which transformers doesn't load either
    blueprint.ignored = Some(format!("model.layers.{}.", blueprint.layers));
    Ok(blueprint)
}

fn blueprint(
    fields: &Fields<'_>,
    experts: Expertise,
    default_dense: u64,
    default_positions: usize,
    interleaved: bool,
) -> Result<Blueprint> {
    check_experts(fields, &experts)?;
    only_activation(fields, "hidden_act", "silu", "silu")?;
    only(fields, "moe_layer_freq", fields.size("moe_layer_freq")?.unwrap_or(1), 1)?;
    let positions = fields.size("max_position_embeddings")?.unwrap_or(default_positions);
    let (plain, rotated) =
        (fields.size("qk_nope_head_dim")?.unwrap_or(128), fields.size("qk_rope_head_dim")?.unwrap_or(64));
    split(fields, "qk_rope_head_dim", rotated, 2)?;
    if rotated > WIDEST_ROTATION {
        return Err(fields.error("qk_rope_head_dim", format!("more than {WIDEST_ROTATION} isn't served")));
    }
    let (rotation, stretch) = rotation(fields, rotated, positions, interleaved)?;
    let dense = fields.get("first_k_dense_replace").map_or(Some(default_dense), Value::as_u64);
    let sizes = Sizes {
        vocab_size: fields.required_size("vocab_size")?,
        hidden_size: fields.required_size("hidden_size")?,
        intermediate_size: fields.required_size("intermediate_size")?,
        layers: fields.required_size("num_hidden_layers")?,
        dense_layers: dense.ok_or_else(|| fields.error("first_k_dense_replace", "isn't a whole number"))? as usize,
        heads: fields.required_size("num_attention_heads")?,
        query_rank: match fields.spelled("q_lora_rank") {
            None => Some(1536),
            Some(_) => fields.size("q_lora_rank")?,
        },
        latent: fields.size("kv_lora_rank")?.unwrap_or(512),
        plain,
        rotated,
        value: fields.size("v_head_dim")?.unwrap_or(128),
        attention_bias: fields.flag("attention_bias")?.unwrap_or(false),
        norm_eps: fields.positive("rms_norm_eps")?.unwrap_or(1e-6),
        tied: fields.flag("tie_word_embeddings")?.unwrap_or(false),
        rotation,
        scale: stretch * stretch / ((plain + rotated) as f64).sqrt(),
        experts,
    };
    Ok(Blueprint {
        engine: ENGINE,
        vocab_size: sizes.vocab_size,
        max_positions: Some(positions),
        layers: sizes.layers,
        experts: Some(experts.experts),
        // a latent and a rotated key for each token: together a key and a value of half their width
        cache: Cache { layers: sizes.layers, heads: 1, head_dim: (sizes.latent + rotated).div_ceil(2) },
        embedding: "model.embed_tokens.weight",
        renamed: &[],
        ignored: None,
        one_row: false,
        only_f32: None,
        notes: vec!["experts are chosen on the host".to_owned()],
        build: Box::new(move |tensors| Ok(Box::new(LatentAttention::load(&sizes, tensors)?))),
    })
}

fn check_experts(fields: &Fields<'_>, experts: &Expertise) -> Result<()> {
    if let Some(groups) = experts.groups {
        split(fields, "n_group", experts.experts, groups.groups)?;
        if groups.chosen > groups.groups {
            let message = format!("{} of {} groups can't be chosen", groups.chosen, groups.groups);
            return Err(fields.error("topk_group", message));
        }
    }
    let reachable = experts.groups.map_or(experts.experts, |g| experts.experts / g.groups * g.chosen);
    match experts.chosen <= reachable {
        true => Ok(()),
        false => {
            let message = format!("{} of {reachable} experts can't be chosen", experts.chosen);
            Err(fields.error("num_experts_per_tok", message))
        }
    }
}

/// The rotation, and the factor that YaRN (Peng et al. 2023, arXiv:2309.00071) puts on queries and keys alike.
fn rotation(fields: &Fields<'_>, width: usize, positions: usize, interleaved: bool) -> Result<(Rotation, f64)> {
    let rope = fields.rope()?;
    let inside = match &rope {
        Some(rope) => rope.positive("rope_theta")?,
        None => None,
    };
    let theta = inside.or(fields.positive("rope_theta")?).unwrap_or(10_000.0);
    let plain: Vec<f64> = (0..width / 2).map(|pair| theta.powf(-2.0 * pair as f64 / width as f64)).collect();
    let kind = match &rope {
        Some(rope) => rope.text("rope_type")?.or(rope.text("type")?).unwrap_or("default"),
        None => "default",
    };
    match (kind, rope) {
        ("yarn", Some(rope)) => {
            let yarn = Yarn::read(&rope, positions)?;
            let frequencies = yarn.frequencies(&plain, theta);
            Ok((Rotation { frequencies, magnitude: yarn.magnitude, interleaved, positions }, yarn.stretch))
        }
        ("default", _) => Ok((Rotation { frequencies: plain, magnitude: 1.0, interleaved, positions }, 1.0)),
        (other, _) => {
            let message = format!("`{other}` isn't served; `default` and `yarn` are");
            Err(fields.error("rope_parameters.rope_type", message))
        }
    }
}

struct Yarn {
    factor: f64,
    beta_fast: f64,
    beta_slow: f64,
    original_positions: f64,
    /// Factor of sine and cosine.
    magnitude: f64,
    /// Factor of queries and keys.
    stretch: f64,
}

impl Yarn {
    fn read(rope: &Fields<'_>, positions: usize) -> Result<Self> {
        only_flag(rope, "truncate", true, true)?;
        let factor = rope.required_positive("factor")?;
        let magnitude = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        let (scale, scale_all) = (rope.positive("mscale")?, rope.positive("mscale_all_dim")?);
        let implied = match (scale, scale_all) {
            (Some(scale), Some(all)) => magnitude(scale) / magnitude(all),
            _ => magnitude(1.0),
        };
        Ok(Self {
            factor,
            beta_fast: rope.positive("beta_fast")?.unwrap_or(32.0),
            beta_slow: rope.positive("beta_slow")?.unwrap_or(1.0),
            original_positions: rope.positive("original_max_position_embeddings")?.unwrap_or(positions as f64),
            magnitude: rope.positive("attention_factor")?.unwrap_or(implied),
            stretch: scale_all.map_or(1.0, magnitude),
        })
    }

    /// Fast pairs are kept, slow ones divided by the factor, with a ramp between.
    fn frequencies(&self, plain: &[f64], theta: f64) -> Vec<f64> {
        let width = 2.0 * plain.len() as f64;
        let pair = |turns: f64| width * (self.original_positions / (turns * TAU)).ln() / (2.0 * theta.ln());
        let low = pair(self.beta_fast).floor().max(0.0);
        let high = pair(self.beta_slow).ceil().min(width - 1.0);
        let span = if high == low { 0.001 } else { high - low };
        let stretched = |(index, frequency): (usize, &f64)| {
            let slow = ((index as f64 - low) / span).clamp(0.0, 1.0);
            frequency * (1.0 - slow) + frequency / self.factor * slow
        };
        plain.iter().enumerate().map(stretched).collect()
    }
}
