//! GPTBigCode (StarCoder 1, SantaCoder) with multi-query attention.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use candle_transformers::models::bigcode::{Config, GPTBigCode as Library};

use super::{Blueprint, Cache, LIBRARY, Model, only, only_activation, only_flag, split};
use crate::engine::config::Fields;
use crate::error::Result;

const POSITIONS: &str = "transformer.wpe.weight";

pub(super) fn read(fields: &Fields<'_>) -> Result<Blueprint> {
    only_flag(fields, "multi_query", true, true)?;
    only_flag(fields, "scale_attn_weights", true, true)?;
    only_flag(fields, "add_cross_attention", false, false)?;
    only_flag(fields, "tie_word_embeddings", true, true)?;
    only_activation(fields, "activation_function", "gelu_pytorch_tanh", "gelu_pytorch_tanh")?;
    let sizes = Sizes {
        vocab_size: fields.required_size("vocab_size")?,
        hidden_size: fields.required_size("n_embd")?,
        layers: fields.required_size("n_layer")?,
        heads: fields.required_size("n_head")?,
        inner: fields.size("n_inner")?,
        epsilon: fields.positive("layer_norm_epsilon")?.unwrap_or(1e-5),
    };
    let head_dim = split(fields, "n_head", sizes.hidden_size, sizes.heads)?;
    let positions = fields.size("n_positions")?.unwrap_or(1024);
    only(fields, "n_positions", positions.min(super::MOST_POSITIONS), positions)?;
    Ok(Blueprint {
        engine: LIBRARY,
        vocab_size: sizes.vocab_size,
        max_positions: Some(positions),
        layers: sizes.layers,
        experts: None,
        cache: Cache { layers: sizes.layers, heads: 1, head_dim },
        embedding: "transformer.wte.weight",
        renamed: &[],
        ignored: None,
        one_row: false,
        only_f32: Some("candle-transformers computes its attention in f32 alone"),
        notes: Vec::new(),
        build: Box::new(move |tensors| Ok(Box::new(GptBigCode::new(sizes, positions, tensors)?))),
    })
}

#[derive(Clone, Copy)]
struct Sizes {
    vocab_size: usize,
    hidden_size: usize,
    layers: usize,
    heads: usize,
    inner: Option<usize>,
    epsilon: f64,
}

impl Sizes {
    fn config(self, positions: usize) -> Config {
        Config {
            vocab_size: self.vocab_size,
            max_position_embeddings: positions,
            num_hidden_layers: self.layers,
            hidden_size: self.hidden_size,
            layer_norm_epsilon: self.epsilon,
            n_inner: self.inner,
            num_attention_heads: self.heads,
            multi_query: true,
            use_cache: true,
        }
    }
}

/// The library has no way to forget a sequence, and makes a mask of positions × positions. Putting its parts together
/// anew, over the same tensors and for as many positions as are needed, answers both and copies nothing.
struct GptBigCode {
    sizes: Sizes,
    tensors: Kept,
    device: Device,
    model: Library,
}

impl GptBigCode {
    fn new(sizes: Sizes, positions: usize, tensors: VarBuilder<'_>) -> candle_core::Result<Self> {
        let device = tensors.device().clone();
        tensors.get((positions, sizes.hidden_size), POSITIONS)?;
        let kept = Kept::default();
        let keeping = Keeping { tensors, kept: kept.clone() };
        let keeping = VarBuilder::from_backend(Box::new(keeping), DType::F32, device.clone());
        let model = Library::load(keeping, sizes.config(1))?;
        Ok(Self { sizes, tensors: kept, device, model })
    }
}

impl Model for GptBigCode {
    fn begin(&mut self, _: usize, columns: usize) -> candle_core::Result<()> {
        let tensors = VarBuilder::from_backend(Box::new(self.tensors.clone()), DType::F32, self.device.clone());
        self.model = Library::load(tensors, self.sizes.config(columns))?;
        Ok(())
    }

    fn forward(&mut self, ids: &Tensor, past: usize) -> candle_core::Result<Tensor> {
        self.model.forward(ids, past)
    }
}

/// The tensors of a loaded model, by name.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<HashMap<String, Tensor>>>);

impl Kept {
    fn insert(&self, name: &str, tensor: Tensor) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), tensor);
    }

    /// The tensor, or as many of its first rows as are asked for.
    fn find(&self, name: &str, rows: Option<usize>) -> candle_core::Result<Tensor> {
        let tensors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (tensors.get(name), rows) {
            (None, _) => candle_core::bail!("tensor `{name}` wasn't loaded"),
            (Some(tensor), Some(rows)) => tensor.narrow(0, 0, rows),
            (Some(tensor), None) => Ok(tensor.clone()),
        }
    }
}

impl SimpleBackend for Kept {
    fn get(&self, s: Shape, name: &str, _: Init, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        self.find(name, s.dims().first().copied())
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        self.find(name, None)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.find(name, None).is_ok()
    }
}

/// Loads tensors and keeps them.
struct Keeping<'a> {
    tensors: VarBuilder<'a>,
    kept: Kept,
}

impl SimpleBackend for Keeping<'_> {
    fn get(&self, s: Shape, name: &str, h: Init, dtype: DType, dev: &Device) -> candle_core::Result<Tensor> {
        if !self.kept.contains_tensor(name) {
            let tensor = match name {
                POSITIONS => self.tensors.get_unchecked_dtype(name, dtype)?,
                _ => self.tensors.get_with_hints_dtype(s.clone(), name, h, dtype)?,
            };
            self.kept.insert(name, tensor);
        }
        self.kept.get(s, name, h, dtype, dev)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, _: &Device) -> candle_core::Result<Tensor> {
        self.tensors.get_unchecked_dtype(name, dtype)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.tensors.contains_tensor(name)
    }
}
