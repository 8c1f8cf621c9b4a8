//! RecurrentGemma (Griffin, De et al. 2024, arXiv:2402.19427) for sequences within its attention window.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::recurrent_gemma::{Config, Model as Library, TemporalBlockType};
use serde_json::Value;

use super::definition::{Definition, KvCache, LIBRARY, Model};
use super::fields::{MOST_LAYERS, only, only_activation, only_flag, plain_rope, split};
use super::source::adjusted;
use crate::engine::config::rope;
use crate::error::Result;
use crate::json::Fields;

const EMBEDDING: &str = "model.embed_tokens.weight";
const FINAL_NORM: &str = "model.final_norm.weight";

pub(super) fn read(fields: &Fields<'_>) -> Result<Definition> {
    let config = config(fields)?;
    let attention = |index: &usize| {
        let kinds = &config.block_types;
        matches!(kinds[index % kinds.len()], TemporalBlockType::Attention)
    };
    let cache = KvCache {
        layers: (0..config.num_hidden_layers.min(MOST_LAYERS)).filter(attention).count(),
        heads: config.num_key_value_heads,
        head_dim: config.head_dim,
    };
    let window = config.attention_window_size;
    Ok(Definition {
        engine: LIBRARY,
        vocab_size: config.vocab_size,
        max_positions: Some(window),
        layers: config.num_hidden_layers,
        experts: None,
        cache,
        embedding: EMBEDDING,
        renamed: &[],
        ignored: None,
        one_row: false,
        only_f32: Some("its rotations are tabulated in the run's data type"),
        notes: vec![format!("sequences are limited to the attention window of {window} tokens")],
        build: Box::new(move |tensors| {
            let fresh = Library::new(&config, rescaled(tensors, config.hidden_size)?.pp("model"))?;
            Ok(Box::new(RecurrentGemma { sequences: fresh.clone(), fresh }))
        }),
    })
}

fn config(fields: &Fields<'_>) -> Result<Config> {
    let hidden_size = fields.required_size("hidden_size")?;
    let heads = fields.required_size("num_attention_heads")?;
    let window = fields.size("attention_window_size")?.unwrap_or(2048);
    let lru_width = fields.size("lru_width")?.unwrap_or(hidden_size);
    split(fields, "lru_width", lru_width, heads)?;
    only_activation(fields, "hidden_activation", "gelu_pytorch_tanh", "gelu_pytorch_tanh")?;
    only_flag(fields, "tie_word_embeddings", true, true)?;
    let rotated = match rope::parameters(fields)? {
        Some(rope) => rope.positive("partial_rotary_factor")?,
        None => None,
    };
    let rotated = rotated.or(fields.positive("partial_rotary_factor")?).unwrap_or(0.5);
    only(fields, "partial_rotary_factor", rotated, 0.5)?;
    Ok(Config {
        num_hidden_layers: fields.required_size("num_hidden_layers")?,
        vocab_size: fields.required_size("vocab_size")?,
        hidden_size,
        intermediate_size: fields.required_size("intermediate_size")?,
        num_attention_heads: heads,
        num_key_value_heads: fields.size("num_key_value_heads")?.unwrap_or(heads),
        head_dim: split(fields, "num_attention_heads", hidden_size, heads)?,
        lru_width: Some(lru_width),
        attention_window_size: window,
        conv1d_width: fields.size("conv1d_width")?.unwrap_or(4),
        logits_soft_cap: fields.positive("logits_soft_cap")?.unwrap_or(30.0),
        hidden_activation: candle_nn::Activation::GeluPytorchTanh,
        partial_rotary_factor: rotated,
        rms_norm_eps: fields.positive("rms_norm_eps")?.unwrap_or(1e-6),
        rope_theta: plain_rope(fields, 10_000.0)?,
        block_types: block_types(fields)?,
        attention_bias: fields.flag("attention_bias")?.unwrap_or(false),
        max_seq_len: window,
    })
}

/// The kinds of layers, repeated as often as there are layers. Older checkpoints have them as `_block_types`.
fn block_types(fields: &Fields<'_>) -> Result<Vec<TemporalBlockType>> {
    let (field, value) = match fields.get("block_types") {
        Some(value) => ("block_types", Some(value)),
        None => ("_block_types", fields.get("_block_types")),
    };
    let default = [Value::from("recurrent"), Value::from("recurrent"), Value::from("attention")];
    let named = value.and_then(Value::as_array).map_or(default.as_slice(), Vec::as_slice);
    let kind = |name: &Value| match name.as_str() {
        Some("recurrent") => Ok(TemporalBlockType::Recurrent),
        Some("attention") => Ok(TemporalBlockType::Attention),
        _ => Err(fields.error(field, format!("`{name}` isn't supported; `recurrent` and `attention` are"))),
    };
    if named.is_empty() {
        return Err(fields.error(field, "is empty"));
    }
    named.iter().map(kind).collect()
}

/// transformers multiplies embeddings by √hidden rounded to bf16, the library by √hidden. The table takes up the ratio,
/// and the last norm takes it back before the same table computes the logits.
fn rescaled(tensors: VarBuilder<'_>, hidden_size: usize) -> candle_core::Result<VarBuilder<'_>> {
    let exact = (hidden_size as f64).sqrt();
    let rounded = Tensor::new(exact as f32, &Device::Cpu)?.to_dtype(DType::BF16)?.to_dtype(DType::F32)?;
    let ratio = f64::from(rounded.to_scalar::<f32>()?) / exact;
    Ok(adjusted(tensors, move |name, tensor| match name {
        EMBEDDING => tensor * ratio,
        // the norm multiplies by 1 + weight
        FINAL_NORM => tensor.affine(1.0 / ratio, 1.0 / ratio - 1.0),
        _ => Ok(tensor),
    }))
}

struct RecurrentGemma {
    /// Without any sequence: the library has no way to forget one.
    fresh: Library,
    sequences: Library,
}

impl Model for RecurrentGemma {
    fn begin(&mut self, _: usize, _: usize) -> candle_core::Result<()> {
        self.sequences = self.fresh.clone();
        Ok(())
    }

    fn forward(&mut self, ids: &Tensor, past: usize) -> candle_core::Result<Tensor> {
        self.sequences.forward(ids, past)?.squeeze(1)
    }
}
