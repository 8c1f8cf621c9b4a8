//! Mamba-2 (Dao and Gu 2024, arXiv:2405.21060) with one group, in the shape that candle-transformers computes.

use candle_core::{DType, Device, Tensor};
use candle_transformers::models::mamba2::{Config, Model as Library, State};

use super::{Blueprint, Cache, LIBRARY, Model, only, only_activation, only_flag};
use crate::engine::config::Fields;
use crate::error::Result;

pub(super) fn read(fields: &Fields<'_>) -> Result<Blueprint> {
    only(fields, "n_groups", fields.size("n_groups")?.unwrap_or(8), 1)?;
    only(fields, "conv_kernel", fields.size("conv_kernel")?.unwrap_or(4), 4)?;
    only_flag(fields, "use_bias", false, false)?;
    only_flag(fields, "use_conv_bias", true, true)?;
    only_flag(fields, "tie_word_embeddings", false, true)?;
    only_activation(fields, "hidden_act", "silu", "silu")?;
    only(fields, "layer_norm_epsilon", fields.positive("layer_norm_epsilon")?.unwrap_or(1e-5), 1e-5)?;
    let config = Config {
        d_model: fields.required_size("hidden_size")?,
        n_layer: fields.required_size("num_hidden_layers")?,
        vocab_size: fields.required_size("vocab_size")?,
        d_state: fields.size("state_size")?.unwrap_or(128),
        expand: fields.size("expand")?.unwrap_or(2),
        headdim: fields.size("head_dim")?.unwrap_or(64),
        ngroups: 1,
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
        renamed: &[],
        only_f32: None,
        notes: vec!["prompts are read token by token".to_owned()],
        build: Box::new(move |tensors| {
            let (dtype, device) = (tensors.dtype(), tensors.device().clone());
            let model = Library::new(&config, tensors.pp("backbone"))?;
            let state = State::new(1, &config, dtype, &device)?;
            Ok(Box::new(Mamba2 { model, state, config: config.clone(), dtype, device }))
        }),
    })
}

struct Mamba2 {
    model: Library,
    state: State,
    config: Config,
    dtype: DType,
    device: Device,
}

impl Model for Mamba2 {
    fn begin(&mut self, rows: usize, _: usize) -> candle_core::Result<()> {
        self.state = State::new(rows, &self.config, self.dtype, &self.device)?;
        Ok(())
    }

    fn forward(&mut self, ids: &Tensor, _: usize) -> candle_core::Result<Tensor> {
        super::token_by_token(ids, |token| self.model.forward(token, &mut self.state))
    }
}
