//! Mamba (Gu and Dao 2023, arXiv:2312.00752) in the shape that candle-transformers computes.

use candle_core::{DType, Device, Tensor};
use candle_transformers::models::mamba::{Config, Model as Library, State};

use super::{Blueprint, Cache, LIBRARY, Model, only, only_activation, only_flag};
use crate::engine::config::Fields;
use crate::error::Result;

pub(super) fn read(fields: &Fields<'_>) -> Result<Blueprint> {
    let hidden_size = fields.required_size("hidden_size")?;
    let rank = hidden_size.div_ceil(16);
    only(fields, "state_size", fields.size("state_size")?.unwrap_or(16), 16)?;
    only(fields, "conv_kernel", fields.size("conv_kernel")?.unwrap_or(4), 4)?;
    only(fields, "expand", fields.size("expand")?.unwrap_or(2), 2)?;
    if fields.get("time_step_rank").is_some_and(|value| value.as_str() != Some("auto")) {
        only(fields, "time_step_rank", fields.required_size("time_step_rank")?, rank)?;
    }
    only_flag(fields, "use_bias", false, false)?;
    only_flag(fields, "use_conv_bias", true, true)?;
    only_flag(fields, "tie_word_embeddings", true, true)?;
    only_activation(fields, "hidden_act", "silu", "silu")?;
    only(fields, "layer_norm_epsilon", fields.positive("layer_norm_epsilon")?.unwrap_or(1e-5), 1e-5)?;
    let config = Config {
        d_model: hidden_size,
        n_layer: fields.required_size("num_hidden_layers")?,
        vocab_size: fields.required_size("vocab_size")?,
        pad_vocab_size_multiple: 1,
    };
    Ok(Blueprint {
        engine: LIBRARY,
        vocab_size: config.vocab_size,
        max_positions: None,
        layers: config.n_layer,
        experts: None,
        cache: Cache::default(),
        embedding: "backbone.embeddings.weight",
        renamed: &[("backbone.embedding.weight", "backbone.embeddings.weight")],
        only_f32: None,
        notes: vec!["prompts are read token by token".to_owned()],
        build: Box::new(move |tensors| {
            let (dtype, device) = (tensors.dtype(), tensors.device().clone());
            let model = Library::new(&config, tensors.pp("backbone"))?;
            let state = State::new(1, &config, dtype, &device)?;
            Ok(Box::new(Mamba { model, state, config: config.clone(), dtype, device }))
        }),
    })
}

struct Mamba {
    model: Library,
    state: State,
    config: Config,
    dtype: DType,
    device: Device,
}

impl Model for Mamba {
    fn begin(&mut self, rows: usize, _: usize) -> candle_core::Result<()> {
        self.state = State::new(rows, &self.config, self.dtype, &self.device)?;
        Ok(())
    }

    fn forward(&mut self, ids: &Tensor, _: usize) -> candle_core::Result<Tensor> {
        super::token_by_token(ids, |token| self.model.forward(token, &mut self.state))
    }
}
