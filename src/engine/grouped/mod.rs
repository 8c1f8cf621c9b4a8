//! Architectures outside the decoder: their models can't pad, so that prompts of equal length run together, one group
//! after another. What candle-transformers computes as transformers does is its code, behind an adapter that reads
//! `config.json` and refuses what differs; three of our own, `state_space`, `latent_attention` and `rwkv`,
//! take what it lacks or computes otherwise. docs/architectures.md has the verdicts.

mod deepseek;
mod engine;
mod granite_hybrid;
mod latent_attention;
mod lfm2;
mod mamba;
mod recurrent_gemma;
mod routing;
mod rwkv;
mod source;
mod state_space;

use std::fmt::Display;
use std::path::Path;

use candle_core::Tensor;
use candle_nn::VarBuilder;
use serde_json::Value;

pub use self::engine::GroupedEngine;
pub(super) use self::engine::{inspect, load};
use super::config::{Fields, architecture, generation_eos, read_object};
use crate::error::Result;

/// Architectures that are served here, as `config.json` names them.
pub const SERVED: [&str; 9] = [
    "DeepseekV2ForCausalLM",
    "DeepseekV3ForCausalLM",
    "FalconMambaForCausalLM",
    "GraniteMoeHybridForCausalLM",
    "Lfm2ForCausalLM",
    "Mamba2ForCausalLM",
    "MambaForCausalLM",
    "RecurrentGemmaForCausalLM",
    "RwkvForCausalLM",
];

/// The code of candle-transformers, as records name it.
const LIBRARY: &str = "candle-transformers";

/// Largest number of positions for which the models may tabulate their rotations.
const MOST_POSITIONS: usize = 1 << 20;

/// A causal language model whose rows all have the same length.
trait Model {
    /// Forgets what came before. What comes next are `rows` sequences of up to `columns` tokens, prompt and answer.
    fn begin(&mut self, rows: usize, columns: usize) -> candle_core::Result<()>;

    /// Runs the tokens `(rows, t)` that follow `past` others of each row: logits `(rows, vocabulary)` after the last.
    fn forward(&mut self, ids: &Tensor, past: usize) -> candle_core::Result<Tensor>;
}

/// Makes a model from its tensors.
type Build = Box<dyn Fn(VarBuilder<'_>) -> candle_core::Result<Box<dyn Model>>>;

/// What an adapter has read from `config.json`.
struct Blueprint {
    /// Which code runs it.
    engine: &'static str,
    /// Token ids are below this.
    vocab_size: usize,
    /// Longest sequence; `None` where there is no limit.
    max_positions: Option<usize>,
    /// Decoder layers.
    layers: usize,
    /// Experts of a layer, where a token meets only some of them.
    experts: Option<usize>,
    /// Keys and values that are kept for each token.
    cache: Cache,
    /// Name of the embedding table.
    embedding: &'static str,
    /// Names that the code asks for, and what else they are called in files.
    renamed: &'static [(&'static str, &'static str)],
    /// Tensors whose names begin so aren't part of the model.
    ignored: Option<String>,
    /// Whether it decodes a single row alone.
    one_row: bool,
    /// Why it can't run in half precision, where it can't.
    only_f32: Option<&'static str>,
    /// What a reader has to know.
    notes: Vec<String>,
    /// Makes the model.
    build: Build,
}

/// Size of the KV cache; all zero where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Cache {
    /// Layers that keep keys and values.
    layers: usize,
    /// Key and value heads of such a layer.
    heads: usize,
    /// Width of a head.
    head_dim: usize,
}

/// A model that is served here.
pub(super) struct Card {
    architecture: String,
    eos_ids: Vec<u32>,
    blueprint: Blueprint,
}

impl Card {
    /// Reads `config.json` and `generation_config.json`; `None` where the architecture isn't one of [`SERVED`].
    ///
    /// # Errors
    /// A file that can't be read, or a field whose value isn't served; the message names file and field.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let file = folder.join("config.json");
        let json = read_object(&file)?;
        let fields = Fields::new(&file, &json);
        let Ok(architecture) = architecture(&fields) else { return Ok(None) };
        let blueprint = match architecture.as_str() {
            "DeepseekV2ForCausalLM" => deepseek::read_2(&fields)?,
            "DeepseekV3ForCausalLM" => deepseek::read_3(&fields)?,
            "FalconMambaForCausalLM" => mamba::read(&fields, true)?,
            "GraniteMoeHybridForCausalLM" => granite_hybrid::read(&fields)?,
            "Lfm2ForCausalLM" => lfm2::read(&fields)?,
            "Mamba2ForCausalLM" => mamba::read_2(&fields)?,
            "MambaForCausalLM" => mamba::read(&fields, false)?,
            "RecurrentGemmaForCausalLM" => recurrent_gemma::read(&fields)?,
            "RwkvForCausalLM" => rwkv::read(&fields)?,
            _ => return Ok(None),
        };
        fields.refuse_quantised()?;
        if blueprint.max_positions.is_some_and(|limit| limit > MOST_POSITIONS) {
            return Err(fields.error("max_position_embeddings", format!("more than {MOST_POSITIONS} aren't served")));
        }
        let eos_ids = match generation_eos(folder)? {
            Some(ids) => ids,
            None => fields.token_ids("eos_token_id")?.unwrap_or_default(),
        };
        Ok(Some(Self { architecture, eos_ids, blueprint }))
    }
}

/// Refuses a field that isn't what the code computes. A field that is left out has the default of transformers.
fn only<T: PartialEq + Display>(fields: &Fields<'_>, field: &str, value: T, served: T) -> Result<()> {
    match value == served {
        true => Ok(()),
        false => Err(fields.error(field, format!("`{value}` isn't served; `{served}` is"))),
    }
}

/// Refuses a flag that isn't what the code computes.
fn only_flag(fields: &Fields<'_>, field: &str, default: bool, served: bool) -> Result<()> {
    only(fields, field, fields.flag(field)?.unwrap_or(default), served)
}

/// Refuses another activation.
fn only_activation(fields: &Fields<'_>, field: &str, default: &str, served: &str) -> Result<()> {
    only(fields, field, fields.text(field)?.unwrap_or(default), served)
}

/// A size that has to be a multiple of another one; gives their quotient.
fn split(fields: &Fields<'_>, field: &str, size: usize, parts: usize) -> Result<usize> {
    match size.is_multiple_of(parts) {
        true => Ok(size / parts),
        false => Err(fields.error(field, format!("{parts} doesn't divide {size}"))),
    }
}

/// Base of a rotary embedding that isn't stretched, in the spellings of transformers 4 and 5.
fn plain_rope(fields: &Fields<'_>, default_theta: f64) -> Result<f64> {
    let rope = fields.rope()?;
    if let Some(rope) = &rope {
        let kind = rope.text("rope_type")?.or(rope.text("type")?).unwrap_or("default");
        only(rope, "rope_type", kind, "default")?;
    }
    let inside = match &rope {
        Some(rope) => rope.positive("rope_theta")?,
        None => None,
    };
    Ok(inside.or(fields.positive("rope_theta")?).unwrap_or(default_theta))
}

/// The kind of each layer, from a list of names.
fn layer_types<T>(
    fields: &Fields<'_>,
    layers: usize,
    default: &str,
    kind: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>> {
    let named = match fields.get("layer_types") {
        None => vec![default; layers.min(MOST_LAYERS)],
        Some(Value::Array(list)) => list.iter().map(|name| name.as_str().unwrap_or_default()).collect(),
        Some(other) => return Err(fields.error("layer_types", format!("`{other}` isn't a list"))),
    };
    if named.len() != layers {
        return Err(fields.error("layer_types", format!("names {} layers, not {layers}", named.len())));
    }
    let kind = |name: &str| kind(name).ok_or_else(|| fields.error("layer_types", format!("`{name}` isn't served")));
    named.into_iter().map(kind).collect()
}

/// Far above the layers of any model; keeps lists of layers short.
const MOST_LAYERS: usize = 1 << 12;
