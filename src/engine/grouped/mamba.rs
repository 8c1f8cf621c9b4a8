//! The configurations of Mamba, FalconMamba and Mamba-2. Defaults as in transformers.

use super::definition::{Definition, KvCache};
use super::fields::{only, only_activation, split};
use super::state_space::{Kind, Sizes, StateSpace};
use crate::error::Result;
use crate::json::Fields;

/// The code, as records name it.
const ENGINE: &str = "state-space";

/// Mamba.
pub(super) fn read(fields: &Fields<'_>) -> Result<Definition> {
    channels(fields, None)
}

/// FalconMamba: Mamba with norms inside the mixer.
pub(super) fn read_falcon(fields: &Fields<'_>) -> Result<Definition> {
    channels(fields, Some(fields.positive("mixer_rms_eps")?.unwrap_or(1e-6)))
}

/// A time step for each channel; `norms` is the epsilon of norms inside the mixer.
fn channels(fields: &Fields<'_>, norms: Option<f64>) -> Result<Definition> {
    let (hidden_size, inner) = widths(fields)?;
    let rank = match fields.get("time_step_rank") {
        Some(value) if value.as_str() != Some("auto") => fields.required_size("time_step_rank")?,
        _ => hidden_size.div_ceil(16),
    };
    let state = fields.size("state_size")?.unwrap_or(16);
    definition(fields, Mixer { hidden_size, inner, state, kind: Kind::One { rank, norms } }, true)
}

/// Mamba-2: a time step for each head.
pub(super) fn read_2(fields: &Fields<'_>) -> Result<Definition> {
    let (hidden_size, inner) = widths(fields)?;
    let groups = fields.size("n_groups")?.unwrap_or(8);
    let width = fields.size("head_dim")?.unwrap_or(64);
    let heads = split(fields, "head_dim", inner, width)?;
    only(fields, "num_heads", fields.size("num_heads")?.unwrap_or(128), heads)?;
    split(fields, "n_groups", heads, groups)?;
    check_step_limit(fields)?;
    let state = fields.size("state_size")?.unwrap_or(128);
    definition(fields, Mixer { hidden_size, inner, state, kind: Kind::Two { heads, groups } }, false)
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
        false => Err(fields.error("time_step_limit", format!("from `{lowest}` to `{highest}` isn't supported"))),
    }
}

/// The widths of a mixer, whose defaults differ between the generations.
struct Mixer {
    hidden_size: usize,
    inner: usize,
    state: usize,
    kind: Kind,
}

/// The fields that all of them read alike; `tied` is the default of `tie_word_embeddings`.
fn definition(fields: &Fields<'_>, mixer: Mixer, tied: bool) -> Result<Definition> {
    let Mixer { hidden_size, inner, state, kind } = mixer;
    only_activation(fields, "hidden_act", "silu", "silu")?;
    let kernel = fields.size("conv_kernel")?.unwrap_or(4);
    if kernel < 2 {
        return Err(fields.error("conv_kernel", "a convolution of one token isn't supported"));
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
    Ok(Definition {
        engine: ENGINE,
        vocab_size: sizes.vocab_size,
        max_positions: None,
        layers: sizes.layers,
        experts: None,
        cache: KvCache::default(),
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
