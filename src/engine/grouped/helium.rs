//! Helium (Kyutai): a gated pre-norm decoder with interleaved rotary embeddings.

use candle_core::Tensor;
use candle_transformers::models::helium::{Config, Model as Library};

use super::{Blueprint, Cache, LIBRARY, Model, only, only_activation, only_flag, plain_rope, split};
use crate::engine::config::Fields;
use crate::error::Result;

pub(super) fn read(fields: &Fields<'_>) -> Result<Blueprint> {
    // the library gives the output projection a bias, too
    only_flag(fields, "attention_bias", false, false)?;
    only_activation(fields, "hidden_act", "silu", "silu")?;
    let heads = fields.required_size("num_attention_heads")?;
    let kv_heads = fields.size("num_key_value_heads")?.unwrap_or(20);
    split(fields, "num_key_value_heads", heads, kv_heads)?;
    let head_dim = fields.size("head_dim")?.unwrap_or(128);
    split(fields, "head_dim", head_dim, 2)?;
    let hidden_size = fields.required_size("hidden_size")?;
    only(fields, "head_dim", head_dim.saturating_mul(heads), hidden_size)?;
    let config = Config {
        attention_bias: false,
        // unused by the library
        bos_token_id: 0,
        eos_token_id: 0,
        head_dim,
        hidden_act: candle_nn::Activation::Silu,
        hidden_size,
        intermediate_size: fields.required_size("intermediate_size")?,
        max_position_embeddings: fields.size("max_position_embeddings")?.unwrap_or(4096),
        mlp_bias: fields.flag("mlp_bias")?.unwrap_or(false),
        num_attention_heads: heads,
        num_hidden_layers: fields.required_size("num_hidden_layers")?,
        num_key_value_heads: kv_heads,
        rms_norm_eps: fields.positive("rms_norm_eps")?.unwrap_or(1e-8),
        rope_theta: plain_rope(fields, 100_000.0)?,
        tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(false),
        vocab_size: fields.required_size("vocab_size")?,
        use_flash_attn: false,
    };
    Ok(Blueprint {
        engine: LIBRARY,
        vocab_size: config.vocab_size,
        max_positions: Some(config.max_position_embeddings),
        layers: config.num_hidden_layers,
        experts: None,
        cache: Cache { layers: config.num_hidden_layers, heads: kv_heads, head_dim },
        embedding: "model.embed_tokens.weight",
        renamed: &[],
        ignored: None,
        one_row: false,
        only_f32: None,
        notes: Vec::new(),
        build: Box::new(move |tensors| Ok(Box::new(Helium(Library::new(&config, tensors)?)))),
    })
}

struct Helium(Library);

impl Model for Helium {
    fn begin(&mut self, _: usize, _: usize) -> candle_core::Result<()> {
        self.0.clear_kv_cache();
        Ok(())
    }

    fn forward(&mut self, ids: &Tensor, past: usize) -> candle_core::Result<Tensor> {
        self.0.forward(ids, past)?.squeeze(1)
    }
}
