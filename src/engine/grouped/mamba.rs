//! The configurations of Mamba, FalconMamba and Mamba-2.

use super::state_space::{Kind, Sizes, StateSpace};
use super::{Blueprint, Cache, only, only_activation, split};
use crate::engine::config::Fields;
use crate::error::Result;

/// The code, as records name it.
const ENGINE: &str = "state-space";

/// Mamba, and FalconMamba with norms inside the mixer. Defaults as in transformers.
pub(super) fn read(fields: &Fields<'_>, is_falcon: bool) -> Result<Blueprint> {
    let (hidden_size, inner) = widths(fields)?;
    let rank = match fields.get("time_step_rank") {
        Some(value) if value.as_str() != Some("auto") => fields.required_size("time_step_rank")?,
        _ => hidden_size.div_ceil(16),
    };
    let norms = match is_falcon {
        true => Some(fields.positive("mixer_rms_eps")?.unwrap_or(1e-6)),
        false => None,
    };
    let state = fields.size("state_size")?.unwrap_or(16);
    blueprint(fields, hidden_size, inner, state, true, Kind::One { rank, norms })
}

/// Mamba-2.
pub(super) fn read_2(fields: &Fields<'_>) -> Result<Blueprint> {
    let (hidden_size, inner) = widths(fields)?;
    let groups = fields.size("n_groups")?.unwrap_or(8);
    let width = fields.size("head_dim")?.unwrap_or(64);
    let heads = split(fields, "head_dim", inner, width)?;
    only(fields, "num_heads", fields.size("num_heads")?.unwrap_or(128), heads)?;
    split(fields, "n_groups", heads, groups)?;
    check_step_limit(fields)?;
    let state = fields.size("state_size")?.unwrap_or(128);
    blueprint(fields, hidden_size, inner, state, false, Kind::Two { heads, groups })
}

fn widths(fields: &Fields<'_>) -> Result<(usize, usize)> {
    let hidden_size = fields.required_size("hidden_size")?;
    Ok((hidden_size, hidden_size * fields.size("expand")?.unwrap_or(2)))
}

/// transformers applies a limit of the time step to prompts and not to what follows.
fn check_step_limit(fields: &Fields<'_>) -> Result<()> {
    let limit = fields.get("time_step_limit").and_then(serde_json::Value::as_array);
    let Some([lowest, highest]) = limit.map(Vec::as_slice) else { return Ok(()) };
    match lowest.as_f64() == Some(0.0) && highest.as_f64().is_none() {
        true => Ok(()),
        false => Err(fields.error("time_step_limit", format!("from `{lowest}` to `{highest}` isn't served"))),
    }
}

fn blueprint(
    fields: &Fields<'_>,
    hidden_size: usize,
    inner: usize,
    state: usize,
    tied: bool,
    kind: Kind,
) -> Result<Blueprint> {
    only_activation(fields, "hidden_act", "silu", "silu")?;
    let kernel = fields.size("conv_kernel")?.unwrap_or(4);
    if kernel < 2 {
        return Err(fields.error("conv_kernel", "a convolution of one token isn't served"));
    }
    let sizes = Sizes {
        vocab_size: fields.required_size("vocab_size")?,
        hidden_size,
        layers: fields.required_size("num_hidden_layers")?,
        inner,
        state,
        kernel,
        norm_eps: fields.positive("layer_norm_epsilon")?.unwrap_or(1e-5),
        bias: fields.flag("use_bias")?.unwrap_or(false),
        conv_bias: fields.flag("use_conv_bias")?.unwrap_or(true),
        tied: fields.flag("tie_word_embeddings")?.unwrap_or(tied),
        kind,
    };
    Ok(Blueprint {
        engine: ENGINE,
        vocab_size: sizes.vocab_size,
        max_positions: None,
        layers: sizes.layers,
        experts: None,
        cache: Cache::default(),
        embedding: "backbone.embeddings.weight",
        // as the authors of Mamba store it
        renamed: &[("backbone.embeddings.weight", "backbone.embedding.weight")],
        ignored: None,
        one_row: false,
        only_f32: None,
        notes: vec!["states are f32, and the recurrence runs through a prompt token by token".to_owned()],
        build: Box::new(move |tensors| Ok(Box::new(StateSpace::load(&sizes, tensors)?))),
    })
}
