//! LFM2 (Liquid AI): layers of gated short convolutions among layers of attention.

use candle_core::Tensor;
use candle_transformers::models::lfm2::{Cache as Sequences, Config, LayerType, Model as Library};

use super::definition::{Definition, KvCache, LIBRARY, Model};
use super::fields::{layer_types, only_flag, plain_rope, split};
use crate::error::Result;
use crate::json::Fields;

pub(super) fn read(fields: &Fields<'_>) -> Result<Definition> {
    let config = config(fields)?;
    let attention = |kind: &&LayerType| **kind == LayerType::FullAttention;
    let cache = KvCache {
        layers: config.layer_types.iter().filter(attention).count(),
        heads: config.num_key_value_heads,
        head_dim: config.head_dim(),
    };
    Ok(Definition {
        engine: LIBRARY,
        vocab_size: config.vocab_size,
        max_positions: Some(config.max_position_embeddings),
        layers: config.num_hidden_layers,
        experts: None,
        cache,
        embedding: "model.embed_tokens.weight",
        renamed: &[],
        ignored: None,
        // its convolution doesn't broadcast over rows while it decodes
        one_row: true,
        only_f32: None,
        notes: Vec::new(),
        build: Box::new(move |tensors| {
            // first what checks the sizes against the files, then tables of these sizes
            let model = Library::new(&config, tensors.clone())?;
            let sequences = Sequences::new(true, tensors.dtype(), &config, tensors.device())?;
            Ok(Box::new(Lfm2 { model, sequences }))
        }),
    })
}

fn config(fields: &Fields<'_>) -> Result<Config> {
    only_flag(fields, "conv_bias", false, false)?;
    let hidden_size = fields.required_size("hidden_size")?;
    let heads = fields.required_size("num_attention_heads")?;
    let kv_heads = fields.size("num_key_value_heads")?.unwrap_or(8);
    split(fields, "num_key_value_heads", heads, kv_heads)?;
    let head_dim = split(fields, "num_attention_heads", hidden_size, heads)?;
    split(fields, "num_attention_heads", head_dim, 2)?;
    let layers = fields.required_size("num_hidden_layers")?;
    let kind = |name: &str| match name {
        "full_attention" => Some(LayerType::FullAttention),
        "conv" => Some(LayerType::Conv),
        _ => None,
    };
    Ok(Config {
        vocab_size: fields.required_size("vocab_size")?,
        hidden_size,
        intermediate_size: feed_forward_size(fields)?,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: kv_heads,
        norm_eps: fields.positive("norm_eps")?.unwrap_or(1e-5),
        rope_theta: plain_rope(fields, 1_000_000.0)? as f32,
        max_position_embeddings: fields.size("max_position_embeddings")?.unwrap_or(128_000),
        conv_l_cache: fields.size("conv_L_cache")?.unwrap_or(3),
        conv_bias: false,
        layer_types: layer_types(fields, layers, "full_attention", kind)?,
        tie_embedding: match fields.flag("tie_embedding")? {
            Some(tied) => tied,
            None => fields.flag("tie_word_embeddings")?.unwrap_or(true),
        },
        bos_token_id: None,
        eos_token_id: None,
        use_flash_attn: false,
    })
}

/// Width inside the feed-forward: two thirds of the stated one, rounded up, unless it is to be taken as it is.
fn feed_forward_size(fields: &Fields<'_>) -> Result<usize> {
    let stated = match fields.size("block_ff_dim")? {
        Some(size) => size,
        None => fields.required_size("intermediate_size")?,
    };
    if !fields.flag("block_auto_adjust_ff_dim")?.unwrap_or(true) {
        return Ok(stated);
    }
    let multiplier = fields.positive("block_ffn_dim_multiplier")?.unwrap_or(1.0);
    let scaled = (multiplier * (2 * stated / 3) as f64) as usize;
    let multiple = fields.size("block_multiple_of")?.unwrap_or(256);
    scaled.checked_next_multiple_of(multiple).ok_or_else(|| fields.error("block_multiple_of", "is too large"))
}

struct Lfm2 {
    model: Library,
    sequences: Sequences,
}

impl Model for Lfm2 {
    fn begin(&mut self, _: usize, _: usize) -> candle_core::Result<()> {
        self.sequences.clear();
        Ok(())
    }

    fn forward(&mut self, ids: &Tensor, past: usize) -> candle_core::Result<Tensor> {
        self.model.forward(ids, past, &mut self.sequences)
    }
}
