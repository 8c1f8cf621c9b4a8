//! Granite 4 without its Mamba layers and experts, which candle-transformers doesn't have.

use candle_core::Tensor;
use candle_transformers::models::granitemoehybrid::{
    GraniteMoeHybrid as Library, GraniteMoeHybridCache as Sequences, GraniteMoeHybridInternalConfig as Config,
    GraniteMoeHybridLayerType as LayerType,
};

use super::definition::{Definition, KvCache, LIBRARY, Model};
use super::fields::{layer_types, only, only_activation, only_flag, plain_rope, split};
use crate::error::Result;
use crate::json::Fields;

pub(super) fn read(fields: &Fields<'_>) -> Result<Definition> {
    let config = config(fields)?;
    let cache = KvCache {
        layers: config.num_hidden_layers,
        heads: config.num_key_value_heads,
        head_dim: config.hidden_size / config.num_attention_heads,
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
        one_row: false,
        only_f32: None,
        notes: Vec::new(),
        build: Box::new(move |tensors| {
            // first what checks the sizes against the files, then tables of these sizes
            let model = Library::load(tensors.clone(), &config)?;
            let fresh = Sequences::new(true, tensors.dtype(), &config, tensors.device())?;
            Ok(Box::new(GraniteHybrid { model, sequences: fresh.clone(), fresh }))
        }),
    })
}

fn config(fields: &Fields<'_>) -> Result<Config> {
    let experts = fields.get("num_local_experts").map_or(Some(8), serde_json::Value::as_u64).unwrap_or(8);
    only(fields, "num_local_experts", experts, 0)?;
    only_flag(fields, "attention_bias", false, false)?;
    only_flag(fields, "tie_word_embeddings", false, true)?;
    only_activation(fields, "hidden_act", "silu", "silu")?;
    only_activation(fields, "position_embedding_type", "none", "rope")?;
    let hidden_size = fields.required_size("hidden_size")?;
    let heads = fields.required_size("num_attention_heads")?;
    let kv_heads = fields.size("num_key_value_heads")?.unwrap_or(heads);
    split(fields, "num_key_value_heads", heads, kv_heads)?;
    let head_dim = split(fields, "num_attention_heads", hidden_size, heads)?;
    split(fields, "num_attention_heads", head_dim, 2)?;
    let layers = fields.required_size("num_hidden_layers")?;
    let kind = |name: &str| matches!(name, "attention" | "full_attention").then_some(LayerType::Attention);
    let factor = |field| -> Result<f32> { Ok(fields.positive(field)?.unwrap_or(1.0) as f32) };
    Ok(Config {
        hidden_size,
        intermediate_size: fields.required_size("intermediate_size")?,
        shared_intermediate_size: fields.size("shared_intermediate_size")?.unwrap_or(1024),
        vocab_size: fields.required_size("vocab_size")?,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: kv_heads,
        use_flash_attn: false,
        rms_norm_eps: fields.positive("rms_norm_eps")?.unwrap_or(1e-6),
        rope_theta: plain_rope(fields, 10_000.0)? as f32,
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling: None,
        max_position_embeddings: fields.size("max_position_embeddings")?.unwrap_or(2048),
        layer_types: layer_types(fields, layers, "mamba", kind)?,
        attention_multiplier: factor("attention_multiplier")?,
        embedding_multiplier: factor("embedding_multiplier")?,
        residual_multiplier: factor("residual_multiplier")?,
        logits_scaling: factor("logits_scaling")?,
    })
}

struct GraniteHybrid {
    model: Library,
    /// Without any sequence: the library has no way to forget one.
    fresh: Sequences,
    sequences: Sequences,
}

impl Model for GraniteHybrid {
    fn begin(&mut self, _: usize, _: usize) -> candle_core::Result<()> {
        self.sequences = self.fresh.clone();
        Ok(())
    }

    fn forward(&mut self, ids: &Tensor, past: usize) -> candle_core::Result<Tensor> {
        self.model.forward(ids, past, &mut self.sequences)
    }
}
