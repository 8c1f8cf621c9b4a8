//! The configurations of DeepSeek-V2 and DeepSeek-V3. Defaults as in transformers.

use serde_json::Value;

use super::definition::{Definition, KvCache};
use super::fields::{only, only_activation, only_flag, split};
use super::latent_attention::{LatentAttention, Rotation, Sizes};
use super::routing::{Expertise, Groups, Scoring};
use crate::engine::config::rope::{self, Rope, RopeScaling, RopeStyle, Yarn};
use crate::error::Result;
use crate::json::Fields;

/// The code, as records name it.
const ENGINE: &str = "latent-attention";

/// Far above the width of any rotated key; keeps the list of its frequencies short.
const WIDEST_ROTATION: usize = 1 << 12;

/// DeepSeek-V2.
pub(super) fn read_2(fields: &Fields<'_>) -> Result<Definition> {
    only_activation(fields, "scoring_func", "softmax", "softmax")?;
    // transformers leaves it out of account, others don't
    only_flag(fields, "norm_topk_prob", false, false)?;
    only_flag(fields, "mlp_bias", false, false)?;
    let groups = match fields.text("topk_method")?.unwrap_or("greedy") {
        "greedy" => None,
        "group_limited_greedy" => Some((fields.required_size("n_group")?, fields.required_size("topk_group")?)),
        other => return Err(fields.error("topk_method", format!("`{other}` isn't supported"))),
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
    definition(fields, experts, 0, 2048, true)
}

/// DeepSeek-V3.
pub(super) fn read_3(fields: &Fields<'_>) -> Result<Definition> {
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
    let mut definition = definition(fields, experts, 3, 4096, interleaved)?;
    // modules that predict further tokens, which transformers doesn't load either
    definition.ignored = Some(format!("model.layers.{}.", definition.layers));
    Ok(definition)
}

fn definition(
    fields: &Fields<'_>,
    experts: Expertise,
    default_dense: u64,
    default_positions: usize,
    interleaved: bool,
) -> Result<Definition> {
    check_experts(fields, &experts)?;
    only_activation(fields, "hidden_act", "silu", "silu")?;
    only(fields, "moe_layer_freq", fields.size("moe_layer_freq")?.unwrap_or(1), 1)?;
    let positions = fields.size("max_position_embeddings")?.unwrap_or(default_positions);
    let (plain, rotated) =
        (fields.size("qk_nope_head_dim")?.unwrap_or(128), fields.size("qk_rope_head_dim")?.unwrap_or(64));
    split(fields, "qk_rope_head_dim", rotated, 2)?;
    if rotated > WIDEST_ROTATION {
        return Err(fields.error("qk_rope_head_dim", format!("more than {WIDEST_ROTATION} isn't supported")));
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
    Ok(Definition {
        engine: ENGINE,
        vocab_size: sizes.vocab_size,
        max_positions: Some(positions),
        layers: sizes.layers,
        experts: Some(experts.experts),
        // a latent and a rotated key for each token: together a key and a value of half their width
        cache: KvCache { layers: sizes.layers, heads: 1, head_dim: (sizes.latent + rotated).div_ceil(2) },
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

/// The rotation, and what YaRN multiplies queries and keys alike by.
fn rotation(fields: &Fields<'_>, width: usize, positions: usize, interleaved: bool) -> Result<(Rotation, f64)> {
    let parameters = rope::parameters(fields)?;
    let inside = match &parameters {
        Some(parameters) => parameters.positive("rope_theta")?,
        None => None,
    };
    let theta = inside.or(fields.positive("rope_theta")?).unwrap_or(10_000.0);
    let kind = match &parameters {
        Some(parameters) => parameters.text("rope_type")?.or(parameters.text("type")?).unwrap_or("default"),
        None => "default",
    };
    let (scaling, magnitude, stretch) = match (kind, parameters) {
        ("yarn", Some(parameters)) => {
            let (yarn, stretch) = yarn(&parameters, positions)?;
            (RopeScaling::Yarn(yarn), yarn.attention_factor, stretch)
        }
        ("default", _) => (RopeScaling::Default, 1.0, 1.0),
        (other, _) => {
            let message = format!("`{other}` isn't supported; `default` and `yarn` are");
            return Err(fields.error("rope_parameters.rope_type", message));
        }
    };
    let rope = Rope { theta, dims: width, style: RopeStyle::Halves, scaling };
    let frequencies = rope.exact_frequencies(rope.key(positions));
    Ok((Rotation { frequencies, magnitude, interleaved, positions }, stretch))
}

/// YaRN, and what DeepSeek multiplies queries and keys alike by on top of what YaRN does to the rotation.
fn yarn(parameters: &Fields<'_>, positions: usize) -> Result<(Yarn, f64)> {
    only_flag(parameters, "truncate", true, true)?;
    parameters.required_positive("factor")?;
    let original = parameters.positive("original_max_position_embeddings")?.unwrap_or(positions as f64);
    let yarn = Yarn::read(parameters, positions as f64, original)?;
    let scale = parameters.not_negative("mscale_all_dim")?.filter(|scale| *scale != 0.0);
    Ok((yarn, scale.map_or(1.0, |scale| Yarn::magnitude(yarn.factor, scale))))
}
